//! A daemon without a listening port for peers, behind a mediator (docs/conformance.md, 100 to 104).

use std::time::Duration;

use serde_json::Value;

use crate::{
    daemon::{Daemon, free_port},
    home::{Home, plaintext, softhsm_module},
    test_mediator::{CURRENT, Mediator, MediatorOptions},
};

/// A running agent without a port. Its DID has no service.
pub fn desktop(more: &str) -> Option<Daemon> {
    let (home, ops) = (Home::with_token()?, free_port());
    let listen = format!("[net]\nallow_private = [\"127.0.0.0/8\"]\n[ops]\nlisten = \"127.0.0.1:{ops}\"\n");
    home.configure(&softhsm_module()?, &format!("{listen}{more}"));
    home.run("did create --method peer:2").success();
    let mut desktop = Daemon::from_home(home, "", 0, ops);
    desktop.start();
    Some(desktop)
}

/// `init --no-port`, `serve`, `mediator use`; then messages go both ways, and the agent serves no port for peers.
#[test]
fn an_agent_without_a_port_is_set_up_behind_a_mediator() {
    if softhsm_module().is_none() {
        return;
    }
    let (mediator, home, ops) = (Mediator::new(CURRENT), Home::new(), free_port());
    let made = home.run("--json init --no-port").json();
    assert!(made["next"][1].as_str().unwrap().ends_with("mediator use DID"), "{made}");
    let file = home.path().join("claviger.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("127.0.0.1:8081", &format!("127.0.0.1:{ops}"));
    std::fs::write(&file, text.replace("#allow_private = []", "allow_private = [\"127.0.0.0/8\"]")).unwrap();
    let mut desktop = Daemon::from_home(home, "", 0, ops);
    desktop.start();
    let used = use_mediator(&desktop, &mediator);
    // The first DID is for the mediator only. The one for all other peers is made by `mediator use`.
    assert_eq!(used["mediator"]["ours"], made["did"]);
    desktop.did = used["did"].as_str().unwrap().to_owned();
    assert!(used["mediator"]["registered"] == serde_json::json!([desktop.did]) && made["did"] != used["did"]);
    let Some(alice) = Daemon::running("") else { return };
    exchange_messages(&alice, &desktop);
    assert!(!desktop.log().contains("Peers are served on"), "{}", desktop.log());
    assert!(alice.log().contains("Peers are served on"), "{}", alice.log());
}

/// A running agent without a port that uses this mediator.
pub fn desktop_behind(mediator: &Mediator, more: &str) -> Option<Daemon> {
    let mut desktop = desktop(more)?;
    desktop.did = use_mediator(&desktop, mediator)["did"].as_str().unwrap().to_owned();
    Some(desktop)
}

/// Runs `claviger mediator use`, and returns its output.
#[track_caller]
pub fn use_mediator(desktop: &Daemon, mediator: &Mediator) -> Value {
    desktop.json(&["mediator", "use", &mediator.did])
}

/// The first entry of `claviger mediator list`.
pub fn mediator_state(desktop: &Daemon) -> Value {
    desktop.json(&["mediator", "list"])["mediators"][0].clone()
}

/// Alice sends through the mediator, the desktop answers directly, and Alice pings the desktop.
pub fn exchange_messages(alice: &Daemon, desktop: &Daemon) {
    alice.json(&["send", "--to", &desktop.did, "At noon?", "--within", "30"]);
    desktop.wait_until("the message arrived", |desktop| desktop.unread_texts() == ["At noon?"]);
    assert_eq!(desktop.delivery("At noon?")["sender"], Value::from(alice.did.as_str()));
    desktop.json(&["send", "--to", &alice.did, "At one.", "--within", "30"]);
    alice.wait_until("the answer arrived", |alice| alice.unread_texts() == ["At one."]);
    // The ping goes through the mediator.
    let pinged = alice.json(&["ping", &desktop.did]);
    assert_eq!(pinged["did"], Value::from(desktop.did.as_str()));
}

#[test]
fn live_mode_delivers_over_a_websocket() {
    let mediator = Mediator::new(CURRENT);
    // With such a pause between polls, only live mode can deliver within the time of a test.
    let Some(desktop) = desktop_behind(&mediator, "[mediation]\npoll_seconds = 3600\n") else { return };
    let Some(alice) = Daemon::running("") else { return };
    desktop.wait_until("live mode is on", |desktop| mediator_state(desktop)["state"] == "live");
    let state = mediator_state(&desktop);
    assert_eq!((&state["coordinate_mediation"], &state["message_pickup"]), (&"3.0".into(), &"4.0".into()));
    assert_eq!(mediator.registered(), [desktop.did.as_str()]);
    exchange_messages(&alice, &desktop);
    // An invitation leads to the mediator too.
    let Some(carol) = Daemon::running("") else { return };
    let invitation = desktop.json(&["invite"]);
    carol.json(&["accept", invitation["url"].as_str().unwrap()]);
    desktop.wait_until("Carol is known", |desktop| {
        let known = desktop.json(&["connections"]);
        let mut known = known["connections"].as_array().unwrap().iter();
        known.any(|it| it["theirs"] == carol.did && it["invitation"] == invitation["id"])
    });
    desktop.wait_until("all messages are acknowledged", |_| mediator.waiting() == 0);
}

#[test]
fn messages_are_polled_without_a_websocket() {
    let older = MediatorOptions {
        coordination: "2.0",
        pickup: "messagepickup/3.0",
        socket: false,
        live: false,
        discloses: false,
        ..CURRENT
    };
    let mediator = Mediator::new(older);
    let Some(desktop) = desktop_behind(&mediator, "[mediation]\npoll_seconds = 1\n") else { return };
    let Some(alice) = Daemon::running("") else { return };
    desktop.wait_until("the agent polls", |desktop| mediator_state(desktop)["state"] == "polling");
    let state = mediator_state(&desktop);
    assert_eq!((&state["coordinate_mediation"], &state["message_pickup"]), (&"2.0".into(), &"3.0".into()));
    exchange_messages(&alice, &desktop);
    desktop.wait_until("all messages are acknowledged", |_| mediator.waiting() == 0);
}

/// messagepickup 3.0 does not say how live messages are delivered. Some mediators send the bare message, and some have
/// a WebSocket without live mode.
#[test]
fn messagepickup_3_works_in_each_interpretation() {
    let Some(alice) = Daemon::running("") else { return };
    for (live, raw, state) in [(true, true, "live"), (true, false, "live"), (false, false, "polling")] {
        let mediator = Mediator::new(MediatorOptions { pickup: "messagepickup/3.0", live, raw, ..CURRENT });
        let Some(desktop) = desktop_behind(&mediator, "[mediation]\npoll_seconds = 1\n") else { return };
        desktop.wait_until("the mediator is connected", |desktop| mediator_state(desktop)["state"] == state);
        alice.json(&["send", "--to", &desktop.did, "At noon?", "--within", "30"]);
        desktop.wait_until("the message arrived", |desktop| desktop.unread_texts() == ["At noon?"]);
        desktop.wait_until("the message is acknowledged", |_| mediator.waiting() == 0);
    }
}

/// Connections are cut, the mediator refuses connections, and the agent is killed: each message arrives once.
#[test]
fn cut_connections_lose_no_message() {
    let mediator = Mediator::new(CURRENT);
    let Some(mut desktop) = desktop_behind(&mediator, "") else { return };
    let Some(alice) = Daemon::running("") else { return };
    let sent: Vec<String> = (0..60).map(|number| format!("number {number:02}")).collect();
    for (number, text) in sent.iter().enumerate() {
        alice.json(&["send", "--to", &desktop.did, text]);
        match number % 20 {
            3 | 9 | 14 => mediator.cut(),
            5 => mediator.set_closed(true),
            8 => mediator.set_closed(false),
            11 => desktop.kill(),
            13 => desktop.start(),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    mediator.cut();
    desktop.wait_until("all messages arrived", |desktop| desktop.unread_texts().len() >= sent.len());
    desktop.wait_until("all messages are acknowledged", |_| mediator.waiting() == 0);
    let mut texts = desktop.unread_texts();
    texts.sort();
    assert_eq!(texts, sent);
    println!("{} messages were delivered {} times", sent.len(), mediator.delivered());
}

/// A message that the store has no room for is not acknowledged. The mediator delivers it again when there is room.
#[test]
fn only_stored_messages_are_acknowledged() {
    let mediator = Mediator::new(CURRENT);
    let Some(mut desktop) = desktop_behind(&mediator, "[store]\nmax_waiting_bytes = 5000\n") else { return };
    let Some(alice) = Daemon::running("") else { return };
    let long = "x".repeat(20_000);
    alice.json(&["send", "--to", &desktop.did, &long, "--within", "30"]);
    desktop.wait_until("the store is full", |desktop| {
        let state = mediator_state(desktop);
        state["state"] == "away" && state["problem"].as_str().unwrap().contains("5000")
    });
    assert_eq!((mediator.waiting(), desktop.unread_texts().len()), (1, 0));
    desktop.stop();
    let configuration = std::fs::read_to_string(desktop.home.path().join("claviger.toml")).unwrap();
    desktop.home.write("claviger.toml", &configuration.replace("max_waiting_bytes = 5000", ""));
    desktop.start();
    desktop.wait_until("the message arrived", |desktop| desktop.unread_texts() == [long.as_str()]);
    desktop.wait_until("the message is acknowledged", |_| mediator.waiting() == 0);
}

/// Messages of all senders wait in one queue of the mediator. A sender over its quota gets problem reports, and the
/// messages behind its own are delivered.
#[test]
fn a_sender_over_its_quota_does_not_block_others() {
    let mediator = Mediator::new(CURRENT);
    let Some(desktop) = desktop_behind(&mediator, "[store]\nmax_unread_from = 2\n") else { return };
    let (Some(alice), Some(bob)) = (Daemon::running(""), Daemon::running("")) else { return };
    let sent = |number: usize| alice.json(&["send", "--to", &desktop.did, &number.to_string(), "--within", "30"]);
    (0..2).for_each(|number| drop(sent(number)));
    desktop.wait_until("two messages arrived", |desktop| desktop.unread_texts().len() == 2);
    (2..14).for_each(|number| drop(sent(number)));
    bob.json(&["send", "--to", &desktop.did, "At noon?", "--within", "30"]);
    desktop.wait_until("the other sender's message arrived", |desktop| {
        desktop.unread_texts().contains(&"At noon?".to_owned())
    });
    desktop.wait_until("all messages are acknowledged", |_| mediator.waiting() == 0);
    desktop.wait_until_all_opened();
    assert_eq!(desktop.unread_texts().len(), 3);
    alice.wait_until("Alice gets problem reports", |alice| {
        let unread = alice.unread();
        unread.iter().filter(|it| it["message"]["body"]["code"] == "e.m.me.res.storage").count() == 12
    });
}

/// A document in `did.documents` may belong to a DID of ours whose token is missing. Messages for that DID stay with
/// the mediator. A message for an unknown DID is acknowledged, which removes it.
#[test]
fn a_message_for_a_did_without_its_token_stays_with_the_mediator() {
    let mediator = Mediator::new(MediatorOptions { socket: false, ..CURRENT });
    let settings = "[mediation]\npoll_seconds = 1\n[did]\ndocuments = [\"documents.json\"]\n";
    let Some(elsewhere) = Home::with_token() else { return };
    elsewhere.configure(&softhsm_module().unwrap(), "");
    let [without_token, nobody] = ["", ""].map(|_| elsewhere.run("--json did create --method peer:2").json());
    let Some(mut desktop) = desktop("") else { return };
    desktop.stop();
    desktop.home.write("documents.json", &without_token["document"].to_string());
    let file = desktop.home.path().join("claviger.toml");
    let configuration = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{configuration}{settings}")).unwrap();
    desktop.start();
    let ours = use_mediator(&desktop, &mediator)["mediator"]["ours"].as_str().unwrap().to_owned();
    // Both are packed before either is queued: the agent asks for messages once a second.
    let packed = [&nobody, &without_token].map(|did| {
        let message = plaintext(None, did["did"].as_str(), "At noon?");
        elsewhere.run_with_stdin(&format!("pack --to {}", did["did"].as_str().unwrap()), &message).success().to_owned()
    });
    packed.into_iter().for_each(|packed| mediator.enqueue(&ours, packed));
    desktop.wait_until("the message for nobody is acknowledged", |_| mediator.waiting() == 1);
    // The other message was delivered again, and is still not acknowledged.
    let before = mediator.delivered();
    desktop.wait_until("the message is delivered again", |_| mediator.delivered() > before + 1);
    assert_eq!(mediator.waiting(), 1);
}

/// New and rotated DIDs are registered with the mediator, and retired ones are removed, without a command.
#[test]
fn our_dids_are_registered_with_the_mediator() {
    let mediator = Mediator::new(CURRENT);
    let Some(desktop) = desktop_behind(&mediator, "") else { return };
    let Some(alice) = Daemon::running("") else { return };
    // A second `mediator use` makes no other DID.
    assert_eq!(use_mediator(&desktop, &mediator)["did"], desktop.did.as_str());
    let other = desktop.json(&["did", "create", "--method", "peer:4", "--service", &mediator.did]);
    let (long, short) = (other["did"].as_str().unwrap(), other["short"].as_str().unwrap());
    desktop.wait_until("the new DID is registered", |_| mediator.registered().len() == 3);
    assert!([long, short].iter().all(|did| mediator.registered().iter().any(|it| it == did)));
    alice.json(&["send", "--to", long, "to the other", "--within", "30"]);
    desktop.wait_until("the message arrived", |desktop| desktop.unread_texts() == ["to the other"]);
    // A rotation without overlap.
    let moved = desktop.json(&["did", "rotate", &desktop.did, "--overlap", "0"]);
    let to = moved["to"].as_str().unwrap();
    desktop.wait_until("the new DID is registered", |_| mediator.registered().iter().any(|it| it == to));
    desktop.wait_until("the old DID is not registered", |desktop| {
        mediator.registered().iter().all(|it| *it != desktop.did)
    });
    let left = desktop.json(&["mediator", "leave", &mediator.did]);
    assert_eq!(left["registered"].as_array().unwrap().len(), 3);
    assert!(mediator.registered().is_empty());
    assert_eq!(desktop.json(&["mediator", "list"])["mediators"], Value::Array(Vec::new()));
}

#[test]
fn failed_mediator_commands_return_their_codes() {
    let Some(desktop) = desktop("") else { return };
    let Some(alice) = Daemon::running("") else { return };
    let denying = Mediator::new(MediatorOptions { grants: false, ..CURRENT });
    assert_eq!(desktop.run(&["mediator", "use", &denying.did]).error(1), "mediator-denied");
    // Alice is not a mediator.
    assert_eq!(desktop.run(&["mediator", "use", &alice.did]).error(1), "mediator-unusable");
    let away = Mediator::new(CURRENT);
    away.set_closed(true);
    assert_eq!(desktop.run(&["mediator", "use", &away.did]).error(1), "mediator-away");
    assert_eq!(
        desktop.run(&["mediator", "use", "did:key:z6MkpTHR8VNsBxYAAWHut2Geadd9jSwuBV8xRoAnwWsdvktH"]).error(1),
        "mediator-unusable"
    );
    assert_eq!(desktop.run(&["mediator", "use", "mediator.example"]).error(2), "bad-did");
    assert_eq!(desktop.run(&["mediator", "leave", &away.did]).error(1), "not-found");
    assert_eq!(desktop.json(&["mediator", "list"])["mediators"], Value::Array(Vec::new()));
    // A mediator that does not answer can be left with --force.
    away.set_closed(false);
    use_mediator(&desktop, &away);
    away.set_closed(true);
    assert_eq!(desktop.run(&["mediator", "leave", &away.did]).error(1), "mediator-away");
    desktop.json(&["mediator", "leave", &away.did, "--force"]);
    assert_eq!(desktop.json(&["mediator", "list"])["mediators"], Value::Array(Vec::new()));
}
