//! Queues that someone fills (threats.md "queue flooding"): what waits has a measure, and an address has one of its own.

use std::{fs, io::Write};

use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    application::Application,
    daemon::{Daemon, PATIENCE},
    peer::Peer,
    socket::{Ws, closed_within, from},
};

const MEASURE: usize = 200_000;

/// With the token away nothing is opened, so that what comes fills the store up to what it may hold.
#[test]
fn what_waits_has_a_measure() {
    let Some(mut daemon) = Daemon::new(&format!("[store]\nmax_waiting_bytes = {MEASURE}\n")) else { return };
    let (tokens, away) = (daemon.home.path().join("tokens"), daemon.home.path().join("away"));
    fs::rename(&tokens, &away).unwrap();
    fs::create_dir(&tokens).unwrap();
    daemon.start_without_token();
    let (flooding, honest) = (Peer::new("flooding"), Peer::new("honest"));
    let mut packed = Vec::new();
    let refused = loop {
        let one = flooding.says(&daemon.did, &format!("{} {}", packed.len(), "x".repeat(10_000)));
        let answer = daemon.post(one.as_bytes());
        if !answer.starts_with("HTTP/1.1 202") {
            break answer;
        }
        packed.push(one);
    };
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: "), "{refused}");
    let kept: usize = packed.iter().map(String::len).sum();
    assert!(kept <= MEASURE && kept + packed[0].len() > MEASURE - 100, "{kept} bytes");
    // What is there already is not refused when it comes again: its sender is told at last that it was taken.
    assert_eq!(daemon.status(&packed[0]), 202);
    let mut socket = Ws::open(daemon.port);
    socket.send(&flooding.says(&daemon.did, &"x".repeat(10_000))).unwrap();
    assert_eq!(socket.closes(), Some(CloseCode::Again));
    assert!(daemon.ask("/live").starts_with("HTTP/1.1 200"));
    fs::remove_dir(&tokens).unwrap();
    fs::rename(&away, &tokens).unwrap();
    daemon.until("all were opened", |daemon| daemon.texts().len() == packed.len());
    assert_eq!(daemon.status(honest.says(&daemon.did, "lunch?")), 202);
    daemon.until("it came", |daemon| daemon.texts().contains(&"lunch?".to_owned()));
}

/// The status of what is posted from an address, and whether it is said when to come again.
fn post_from(address: [u8; 4], daemon: &Daemon, packed: &str) -> (u16, bool) {
    let mut stream = from(address, daemon.port).unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/didcomm-encrypted+json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{packed}",
        packed.len()
    );
    // One that is refused may be closed before it is read.
    let _ = stream.write_all(head.as_bytes());
    let answer = String::from_utf8(closed_within(&mut stream, PATIENCE).expect("an answer")).unwrap();
    (answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0), answer.contains("retry-after: "))
}

/// A sender is not known before its message is opened, which costs the token's time: so it is its address that has a measure.
#[test]
fn an_address_brings_so_many_a_second() {
    let net = "[net]\nallow_private = [\"127.0.0.0/8\"]\n";
    let Some(mut daemon) = Daemon::configured("rate_per_address = 5", net) else { return };
    daemon.start();
    let (flooding, honest) = (Peer::new("flooding"), Peer::new("honest"));
    let packed: Vec<String> = (0..30).map(|number| flooding.says(&daemon.did, &number.to_string())).collect();
    let answers: Vec<_> = packed.iter().map(|one| post_from([127, 0, 0, 2], &daemon, one)).collect();
    let count = |wanted: (u16, bool)| answers.iter().filter(|answer| **answer == wanted).count();
    let (taken, refused) = (count((202, false)), count((429, true)));
    assert!(taken >= 5 && refused >= 5 && taken + refused == 30, "{answers:?}");
    assert_eq!(post_from([127, 0, 0, 3], &daemon, &honest.says(&daemon.did, "lunch?")), (202, false));
    let mut socket = Ws::over(from([127, 0, 0, 4], daemon.port).unwrap(), daemon.port);
    let _ = packed.iter().try_for_each(|one| socket.send(one));
    assert_eq!(socket.closes(), Some(CloseCode::Again));
    daemon.until("lunch", |daemon| daemon.texts().contains(&"lunch?".to_owned()));
    daemon.settles();
    // What was refused was not kept: the flood is no more than what was taken.
    assert!(daemon.texts().len() <= taken + 1 + 30);
    let status = Application::of(&daemon).get("/v1/status").json(200);
    assert_eq!(status["waiting"]["envelopes"], json!(0), "{status}");
}
