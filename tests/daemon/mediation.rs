//! A daemon without any listening port, behind a mediator. conformance.md, 100 to 104.

use std::time::Duration;

use serde_json::Value;

use crate::{
    daemon::{Daemon, free_port},
    home::{Home, plaintext, softhsm},
    test_mediator::{CURRENT, Mediator, MediatorOptions},
};

/// An agent that nobody can connect to; its DID has no service.
fn desktop(more: &str) -> Option<Daemon> {
    let (home, ops) = (Home::with_token()?, free_port());
    let listen = format!("[net]\nallow_private = [\"127.0.0.0/8\"]\n[ops]\nlisten = \"127.0.0.1:{ops}\"\n");
    home.configure(&softhsm()?, &format!("{listen}{more}"));
    home.run("did create --method peer:2").done();
    let mut desktop = Daemon::from_home(home, "", 0, ops);
    desktop.start();
    Some(desktop)
}

/// From nothing, as a person would: no port is opened, and the newcomer is asked in.
#[test]
fn an_agent_without_a_port_is_set_up_behind_a_mediator() {
    if softhsm().is_none() {
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
    let used = used(&desktop, &mediator);
    // The first DID is the mediator's to know, and the other for everybody else.
    assert_eq!(used["mediator"]["ours"], made["did"]);
    desktop.did = used["did"].as_str().unwrap().to_owned();
    assert!(used["mediator"]["registered"] == serde_json::json!([desktop.did]) && made["did"] != used["did"]);
    let Some(alice) = Daemon::running("") else { return };
    talk(&alice, &desktop);
    assert!(!desktop.log().contains("Peers are served on"), "{}", desktop.log());
    assert!(alice.log().contains("Peers are served on"), "{}", alice.log());
}

/// The same, behind a mediator.
fn behind(mediator: &Mediator, more: &str) -> Option<Daemon> {
    let mut desktop = desktop(more)?;
    desktop.did = used(&desktop, mediator)["did"].as_str().unwrap().to_owned();
    Some(desktop)
}

/// What `claviger mediator use` says.
#[track_caller]
fn used(desktop: &Daemon, mediator: &Mediator) -> Value {
    desktop.json(&["mediator", "use", &mediator.did])
}

fn state(desktop: &Daemon) -> Value {
    desktop.json(&["mediator", "list"])["mediators"][0].clone()
}

/// An answer of the other way too: it goes straight to the one who can be connected to.
fn talk(alice: &Daemon, desktop: &Daemon) {
    alice.json(&["send", "--to", &desktop.did, "At noon?", "--within", "30"]);
    desktop.wait_until("the message came", |desktop| desktop.unread_texts() == ["At noon?"]);
    assert_eq!(desktop.delivery("At noon?")["sender"], Value::from(alice.did.as_str()));
    desktop.json(&["send", "--to", &alice.did, "At one.", "--within", "30"]);
    alice.wait_until("the answer came", |alice| alice.unread_texts() == ["At one."]);
    // Behind the mediator, whose answers come by it.
    let pinged = alice.json(&["ping", &desktop.did]);
    assert_eq!(pinged["did"], Value::from(desktop.did.as_str()));
}

#[test]
fn live_mode_delivers_over_a_websocket() {
    let mediator = Mediator::new(CURRENT);
    // Asked so seldom, a message that is asked for would not come in the time of a test.
    let Some(desktop) = behind(&mediator, "[mediation]\npoll_seconds = 3600\n") else { return };
    let Some(alice) = Daemon::running("") else { return };
    desktop.wait_until("it is live", |desktop| state(desktop)["state"] == "live");
    let state = state(&desktop);
    assert_eq!((&state["coordinate_mediation"], &state["message_pickup"]), (&"3.0".into(), &"4.0".into()));
    assert_eq!(mediator.registered(), [desktop.did.as_str()]);
    talk(&alice, &desktop);
    // An invitation leads there too.
    let Some(carol) = Daemon::running("") else { return };
    let invitation = desktop.json(&["invite"]);
    carol.json(&["accept", invitation["url"].as_str().unwrap()]);
    desktop.wait_until("Carol is known", |desktop| {
        let known = desktop.json(&["connections"]);
        let mut known = known["connections"].as_array().unwrap().iter();
        known.any(|it| it["theirs"] == carol.did && it["invitation"] == invitation["id"])
    });
    desktop.wait_until("all was acknowledged", |_| mediator.waiting() == 0);
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
    let Some(desktop) = behind(&mediator, "[mediation]\npoll_seconds = 1\n") else { return };
    let Some(alice) = Daemon::running("") else { return };
    desktop.wait_until("it is asked", |desktop| state(desktop)["state"] == "polling");
    let state = state(&desktop);
    assert_eq!((&state["coordinate_mediation"], &state["message_pickup"]), (&"2.0".into(), &"3.0".into()));
    talk(&alice, &desktop);
    desktop.wait_until("all was acknowledged", |_| mediator.waiting() == 0);
}

/// Some deliver what comes as it is, others not at all though they have a WebSocket: 3.0 does not say how.
#[test]
fn messagepickup_3_works_in_each_interpretation() {
    let Some(alice) = Daemon::running("") else { return };
    for (live, raw, named) in [(true, true, "live"), (true, false, "live"), (false, false, "polling")] {
        let mediator = Mediator::new(MediatorOptions { pickup: "messagepickup/3.0", live, raw, ..CURRENT });
        let Some(desktop) = behind(&mediator, "[mediation]\npoll_seconds = 1\n") else { return };
        desktop.wait_until("it is reached", |desktop| state(desktop)["state"] == named);
        alice.json(&["send", "--to", &desktop.did, "At noon?", "--within", "30"]);
        desktop.wait_until("the message came", |desktop| desktop.unread_texts() == ["At noon?"]);
        desktop.wait_until("it was acknowledged", |_| mediator.waiting() == 0);
    }
}

/// Cut off at every moment, its mediator away, itself killed: each message comes, and once.
#[test]
fn cut_connections_lose_no_message() {
    let mediator = Mediator::new(CURRENT);
    let Some(mut desktop) = behind(&mediator, "") else { return };
    let Some(alice) = Daemon::running("") else { return };
    let sent: Vec<String> = (0..60).map(|number| format!("number {number:02}")).collect();
    for (number, text) in sent.iter().enumerate() {
        alice.json(&["send", "--to", &desktop.did, text]);
        match number % 20 {
            3 | 9 | 14 => mediator.cut(),
            5 => mediator.close(true),
            8 => mediator.close(false),
            11 => desktop.kill(),
            13 => desktop.start(),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    mediator.cut();
    desktop.wait_until("all came", |desktop| desktop.unread_texts().len() >= sent.len());
    desktop.wait_until("all was acknowledged", |_| mediator.waiting() == 0);
    let mut texts = desktop.unread_texts();
    texts.sort();
    assert_eq!(texts, sent);
    println!("{} messages were delivered {} times", sent.len(), mediator.delivered());
}

/// What cannot be kept is not acknowledged: it stays with the mediator, and comes when there is room.
#[test]
fn only_stored_messages_are_acknowledged() {
    let mediator = Mediator::new(CURRENT);
    let Some(mut desktop) = behind(&mediator, "[store]\nmax_waiting_bytes = 5000\n") else { return };
    let Some(alice) = Daemon::running("") else { return };
    let long = "x".repeat(20_000);
    alice.json(&["send", "--to", &desktop.did, &long, "--within", "30"]);
    desktop.wait_until("there is no room", |desktop| {
        let state = state(desktop);
        state["state"] == "away" && state["problem"].as_str().unwrap().contains("5000")
    });
    assert_eq!((mediator.waiting(), desktop.unread_texts().len()), (1, 0));
    desktop.stop();
    let configuration = std::fs::read_to_string(desktop.home.path().join("claviger.toml")).unwrap();
    desktop.home.write("claviger.toml", &configuration.replace("max_waiting_bytes = 5000", ""));
    desktop.start();
    desktop.wait_until("it came", |desktop| desktop.unread_texts() == [long.as_str()]);
    desktop.wait_until("it was acknowledged", |_| mediator.waiting() == 0);
}

/// What waits with a mediator waits in one line: one who has left too much is told so, and those behind it have their turn.
#[test]
fn a_sender_over_its_quota_does_not_block_others() {
    let mediator = Mediator::new(CURRENT);
    let Some(desktop) = behind(&mediator, "[store]\nmax_unread_from = 2\n") else { return };
    let (Some(alice), Some(bob)) = (Daemon::running(""), Daemon::running("")) else { return };
    let sent = |number: usize| alice.json(&["send", "--to", &desktop.did, &number.to_string(), "--within", "30"]);
    (0..2).for_each(|number| drop(sent(number)));
    desktop.wait_until("two came", |desktop| desktop.unread_texts().len() == 2);
    (2..14).for_each(|number| drop(sent(number)));
    bob.json(&["send", "--to", &desktop.did, "At noon?", "--within", "30"]);
    desktop.wait_until("the other's came", |desktop| desktop.unread_texts().contains(&"At noon?".to_owned()));
    desktop.wait_until("all was acknowledged", |_| mediator.waiting() == 0);
    desktop.wait_until_all_opened();
    assert_eq!(desktop.unread_texts().len(), 3);
    alice.wait_until("she is told", |alice| {
        let told = alice.unread();
        told.iter().filter(|it| it["message"]["body"]["code"] == "e.m.me.res.storage").count() == 12
    });
}

/// A document at hand may be of a DID of ours whose token has not come: what is for it stays. What is for nobody does not.
#[test]
fn a_message_for_a_did_without_its_token_stays_with_the_mediator() {
    let mediator = Mediator::new(MediatorOptions { socket: false, ..CURRENT });
    let at_hand = "[mediation]\npoll_seconds = 1\n[did]\ndocuments = [\"at-hand.json\"]\n";
    let Some(elsewhere) = Home::with_token() else { return };
    elsewhere.configure(&softhsm().unwrap(), "");
    let [perhaps, nobody] = ["", ""].map(|_| elsewhere.run("--json did create --method peer:2").json());
    let Some(mut desktop) = desktop("") else { return };
    desktop.stop();
    desktop.home.write("at-hand.json", &perhaps["document"].to_string());
    let file = desktop.home.path().join("claviger.toml");
    let configuration = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{configuration}{at_hand}")).unwrap();
    desktop.start();
    let ours = used(&desktop, &mediator)["mediator"]["ours"].as_str().unwrap().to_owned();
    // Both are packed before either is held: the agent asks for messages once a second.
    let packed = [&nobody, &perhaps].map(|did| {
        let message = plaintext(None, did["did"].as_str(), "At noon?");
        elsewhere.feed(&format!("pack --to {}", did["did"].as_str().unwrap()), &message).done().to_owned()
    });
    packed.into_iter().for_each(|packed| mediator.hold(&ours, packed));
    assert_eq!(mediator.waiting(), 2);
    desktop.wait_until("what is for nobody is let go of", |_| mediator.waiting() == 1);
    // It was looked at again since, and is still there.
    let before = mediator.delivered();
    desktop.wait_until("it is delivered again", |_| mediator.delivered() > before + 1);
    assert_eq!(mediator.waiting(), 1);
}

/// A DID that is made later, or moves, is told the mediator by itself; and one that it is to take nothing for any more.
#[test]
fn our_dids_are_registered_with_the_mediator() {
    let mediator = Mediator::new(CURRENT);
    let Some(desktop) = behind(&mediator, "") else { return };
    let Some(alice) = Daemon::running("") else { return };
    // Asked again, it makes no other DID.
    assert_eq!(used(&desktop, &mediator)["did"], desktop.did.as_str());
    let other = desktop.json(&["did", "create", "--method", "peer:4", "--service", &mediator.did]);
    let (long, short) = (other["did"].as_str().unwrap(), other["short"].as_str().unwrap());
    desktop.wait_until("it is registered", |_| mediator.registered().len() == 3);
    assert!([long, short].iter().all(|did| mediator.registered().iter().any(|it| it == did)));
    alice.json(&["send", "--to", long, "to the other", "--within", "30"]);
    desktop.wait_until("it came", |desktop| desktop.unread_texts() == ["to the other"]);
    // It moves, and is read no more at once.
    let moved = desktop.json(&["did", "rotate", &desktop.did, "--overlap", "0"]);
    let to = moved["to"].as_str().unwrap();
    desktop.wait_until("the new one is registered", |_| mediator.registered().iter().any(|it| it == to));
    desktop.wait_until("the old one is not", |desktop| mediator.registered().iter().all(|it| *it != desktop.did));
    // The mediator is left.
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
    // Someone who is no mediator.
    assert_eq!(desktop.run(&["mediator", "use", &alice.did]).error(1), "mediator-unusable");
    let away = Mediator::new(CURRENT);
    away.close(true);
    assert_eq!(desktop.run(&["mediator", "use", &away.did]).error(1), "mediator-away");
    assert_eq!(
        desktop.run(&["mediator", "use", "did:key:z6MkpTHR8VNsBxYAAWHut2Geadd9jSwuBV8xRoAnwWsdvktH"]).error(1),
        "mediator-unusable"
    );
    assert_eq!(desktop.run(&["mediator", "use", "mediator.example"]).error(2), "bad-did");
    assert_eq!(desktop.run(&["mediator", "leave", &away.did]).error(1), "not-found");
    assert_eq!(desktop.json(&["mediator", "list"])["mediators"], Value::Array(Vec::new()));
    // One that has gone for good is left all the same.
    away.close(false);
    used(&desktop, &away);
    away.close(true);
    assert_eq!(desktop.run(&["mediator", "leave", &away.did]).error(1), "mediator-away");
    desktop.json(&["mediator", "leave", &away.did, "--force"]);
    assert_eq!(desktop.json(&["mediator", "list"])["mediators"], Value::Array(Vec::new()));
}
