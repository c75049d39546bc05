//! OpenTelemetry spans, as a collector receives them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
};

use crate::daemon::Daemon;

/// The head of each request, in lower case, and all bodies, concatenated.
#[derive(Default)]
struct CollectedSpans {
    heads: Vec<String>,
    spans: Vec<u8>,
}

/// Starts a collector that accepts everything, until the process of the tests ends.
fn start_collector() -> (u16, Arc<Mutex<CollectedSpans>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, collected) = (listener.local_addr().unwrap().port(), Arc::<Mutex<CollectedSpans>>::default());
    let kept = collected.clone();
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
    (port, collected)
}

#[test]
fn spans_reach_the_collector_without_content() {
    let (port, collected) = start_collector();
    let more = format!("otlp = \"http://127.0.0.1:{port}/v1/traces\"\n");
    let (Some(alice), Some(bob)) = (Daemon::running(&more), Daemon::running("")) else { return };
    bob.json(&["send", "--to", &alice.did, "the-body-of-this-message-7391", "--within", "30"]);
    bob.json(&["ping", &alice.did]);
    let has = |word: &str| collected.lock().unwrap().spans.windows(word.len()).any(|here| here == word.as_bytes());
    for word in ["claviger", "handle", "tries", "send", "token", "unwrap", "wrap", "result", "done"] {
        alice.wait_until(&format!("a span has {word}"), |_| has(word));
    }
    for word in ["the-body-of-this-message-7391", "did:peer", crate::home::PIN, env!("CARGO_MANIFEST_DIR")] {
        assert!(!has(word), "{word}");
    }
    let collected = collected.lock().unwrap();
    for head in &collected.heads {
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
    }
    // The context of the spans is not in the log.
    assert!(alice.log().lines().all(|line| !line.contains("tries=0}")), "{}", alice.log());
}

/// Without a collector, messages are not delayed, and the failure is logged once.
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
        alice.wait_until("the message arrived", |alice| alice.unread_texts().iter().any(|it| it == text));
    }
    alice.wait_until("the missing collector is reported", |alice| alice.log().contains("spans not exported"));
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(alice.log().matches("spans not exported").count(), 1, "{}", alice.log());
}
