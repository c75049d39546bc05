//! Spans for OpenTelemetry, as a collector gets them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
};

use crate::daemon::Daemon;

/// What came: each request's first line and header, and all bodies behind each other.
#[derive(Default)]
struct Came {
    heads: Vec<String>,
    spans: Vec<u8>,
}

/// A collector that takes everything; it ends with the test's process.
fn collector() -> (u16, Arc<Mutex<Came>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, came) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Came>>::default());
    let kept = came.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            loop {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap_or(0) > 0 {}
                let head = head.to_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let Some(length) = length else { break };
                let mut body = vec![0; length.trim().parse().unwrap()];
                reader.read_exact(&mut body).unwrap();
                let mut kept = kept.lock().unwrap();
                kept.heads.push(head);
                kept.spans.extend(body);
                let _ = reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            }
        }
    });
    (port, came)
}

#[test]
fn spans_reach_the_collector_without_content() {
    let (port, came) = collector();
    let more = format!("otlp = \"http://127.0.0.1:{port}/v1/traces\"\n");
    let (Some(alice), Some(bob)) = (Daemon::running(&more), Daemon::running("")) else { return };
    bob.json(&["send", "--to", &alice.did, "the-body-of-this-message-7391", "--within", "30"]);
    bob.json(&["ping", &alice.did]);
    let has = |word: &str| came.lock().unwrap().spans.windows(word.len()).any(|here| here == word.as_bytes());
    for word in ["claviger", "handle", "envelope", "send", "token", "unwrap", "wrap", "result", "done"] {
        alice.wait_until(&format!("a span has {word}"), |_| has(word));
    }
    for word in ["the-body-of-this-message-7391", "did:peer", crate::home::PIN, env!("CARGO_MANIFEST_DIR")] {
        assert!(!has(word), "{word}");
    }
    let came = came.lock().unwrap();
    for head in &came.heads {
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
    }
    // The log is as without them.
    assert!(alice.log().lines().all(|line| !line.contains("envelope=1 tries=0}")), "{}", alice.log());
}

/// A collector that is not there holds up nothing, and is told of once.
#[test]
fn an_absent_collector_delays_nothing_and_is_reported_once() {
    let port = crate::daemon::free_port();
    let (Some(alice), Some(bob)) =
        (Daemon::running(&format!("otlp = \"http://127.0.0.1:{port}/v1/traces\"\n")), Daemon::running(""))
    else {
        return;
    };
    for text in ["1", "2", "3"] {
        bob.json(&["send", "--to", &alice.did, text, "--within", "30"]);
        alice.wait_until("it came", |alice| alice.unread_texts().iter().any(|it| it == text));
    }
    alice.wait_until("it is said", |alice| alice.log().contains("spans not exported"));
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(alice.log().matches("spans not exported").count(), 1, "{}", alice.log());
}
