//! Mediators that mean harm, and strangers who fill the queue of an honest one.

use std::time::{Duration, Instant};

use claviger::did::peer::short_form;

use crate::{
    daemon::Daemon,
    mediation::{desktop_behind, mediator_state},
    peer::{AGREE, Peer},
    support::forge::Jwe,
    test_mediator::{CURRENT, Mediator, MediatorOptions, Quirk},
};

/// A message to the agent from a did:peer:4 whose document nobody has.
fn unresolvable(desktop: &Daemon, number: usize) -> String {
    let stranger = Peer::with_long_form(&format!("stranger {number}"), None);
    let (short, key) = (short_form(stranger.did()).unwrap(), &stranger.person.agree[0]);
    let skid = format!("{short}#{}", AGREE[0]);
    let mut plaintext = stranger.plaintext(&desktop.did, "let me in");
    plaintext["from"] = short.into();
    Jwe::authcrypt_as(&stranger.person, &skid, key, &desktop.agreement_keys()).seal(plaintext.to_string()).to_string()
}

/// Messages whose sender's document nobody has take a small room. Those without room stay with the mediator, and the
/// messages behind them are delivered. Nothing of them is lost: they are let in once there is room.
#[test]
fn senders_without_a_document_do_not_block_the_queue() {
    for socket in [false, true] {
        let mediator = Mediator::new(MediatorOptions { socket, ..CURRENT });
        let settings = "[mediation]\npoll_seconds = 1\n[store]\nmax_unresolved = 5\n";
        let Some(mut desktop) = desktop_behind(&mediator, settings) else { return };
        let ours = mediator_state(&desktop)["ours"].as_str().unwrap().to_owned();
        desktop.stop();
        for number in 0..30 {
            mediator.enqueue(&ours, unresolvable(&desktop, number));
        }
        let bob = Peer::new("bob");
        let texts: Vec<String> = (0..15).map(|number| format!("number {number:02}")).collect();
        texts.iter().for_each(|text| mediator.enqueue(&ours, bob.pack_text(&desktop.did, text)));
        desktop.start();
        desktop.wait_until("the honest messages arrived", |desktop| desktop.unread_texts().len() == texts.len());
        desktop.wait_until("the others stay with the mediator", |_| mediator.waiting() == 25);
        desktop.wait_until("the state says so", |desktop| {
            let state = mediator_state(desktop);
            let is_told = state["problem"].as_str().is_some_and(|text| text.starts_with("25 messages wait"));
            is_told && ["live", "polling"].contains(&state["state"].as_str().unwrap())
        });
        desktop
            .wait_until("five of them are here", |desktop| desktop.metric("claviger_waiting{queue=\"inbox\"}") == 5.0);
        // With more room the rest comes.
        desktop.stop();
        let configuration = std::fs::read_to_string(desktop.home.path().join("claviger.toml")).unwrap();
        desktop.home.write("claviger.toml", &configuration.replace("max_unresolved = 5", "max_unresolved = 50"));
        desktop.start();
        desktop.wait_until("the rest is accepted", |_| mediator.waiting() == 0);
    }
}

/// Messages that are never deleted, have a new id each time, and are promised for ever: each is handled once, new ones
/// are still found, and the agent does not ask without a pause.
#[test]
fn a_mediator_that_repeats_itself_is_not_asked_without_a_pause() {
    for socket in [false, true] {
        let quirks = &[Quirk::NeverDeletes, Quirk::NewIds, Quirk::CountsNeverFall];
        let mediator = Mediator::new(MediatorOptions { socket, live: false, quirks, ..CURRENT });
        let Some(desktop) = desktop_behind(&mediator, "[mediation]\npoll_seconds = 2\n") else { return };
        let ours = mediator_state(&desktop)["ours"].as_str().unwrap().to_owned();
        let bob = Peer::new("bob");
        for (number, text) in ["one", "two", "three"].into_iter().enumerate() {
            mediator.enqueue(&ours, bob.pack_text(&desktop.did, text));
            desktop.wait_until("the message arrived", |desktop| desktop.unread_texts().len() == number + 1);
        }
        desktop.wait_until("the mediator is polled", |desktop| mediator_state(desktop)["state"] == "polling");
        let (mut before, mut since) = (0, Instant::now());
        desktop.wait_until("the agent pauses", |_| {
            if mediator.delivered() != before {
                (before, since) = (mediator.delivered(), Instant::now());
            }
            since.elapsed() > Duration::from_millis(900)
        });
        assert_eq!(desktop.unread_texts(), ["one", "two", "three"]);
    }
}

/// A mediator that delivers the same message for ever is left for a while, each time for longer.
#[test]
fn a_mediator_that_delivers_for_ever_is_left_for_a_while() {
    let mediator = Mediator::new(MediatorOptions { quirks: &[Quirk::EndlessLive, Quirk::NeverDeletes], ..CURRENT });
    let Some(desktop) = desktop_behind(&mediator, "") else { return };
    let ours = mediator_state(&desktop)["ours"].as_str().unwrap().to_owned();
    mediator.enqueue(&ours, Peer::new("bob").pack_text(&desktop.did, "At noon?"));
    desktop.wait_until("the state has the reason", |desktop| {
        let state = mediator_state(desktop);
        state["state"] == "away" && state["problem"].as_str().unwrap().contains("nothing new")
    });
    assert_eq!(desktop.unread_texts(), ["At noon?"]);
}

/// Messages for others are dropped, and do not delay those behind them.
#[test]
fn messages_for_others_are_dropped() {
    let mediator = Mediator::new(MediatorOptions { socket: false, ..CURRENT });
    let Some(desktop) = desktop_behind(&mediator, "[mediation]\npoll_seconds = 1\n") else { return };
    let ours = mediator_state(&desktop)["ours"].as_str().unwrap().to_owned();
    let (bob, carol) = (Peer::new("bob"), Peer::new("carol"));
    for number in 0..45 {
        let text = format!("number {number}");
        mediator.enqueue(&ours, bob.pack_text(carol.did(), &text));
        mediator.enqueue(&ours, format!("{{\"no\": \"message {number}\"}}"));
    }
    mediator.enqueue(&ours, bob.pack_text(&desktop.did, "At noon?"));
    desktop.wait_until("the message arrived", |desktop| desktop.unread_texts() == ["At noon?"]);
    desktop.wait_until("all messages are acknowledged", |_| mediator.waiting() == 0);
}

/// A mediator cannot find out whether a DID that it does not serve is ours: a delivery to that DID is not acknowledged.
#[test]
fn a_delivery_to_another_did_of_ours_is_not_acknowledged() {
    let mediator = Mediator::new(CURRENT);
    let Some(desktop) = desktop_behind(&mediator, "[mediation]\npoll_seconds = 3600\n") else { return };
    desktop.wait_until("live mode is on", |desktop| mediator_state(desktop)["state"] == "live");
    let ours = mediator_state(&desktop)["ours"].as_str().unwrap().to_owned();
    let other = desktop.json(&["did", "create", "--method", "peer:2"])["did"].as_str().unwrap().to_owned();
    let bob = Peer::new("bob");
    let probe = mediator.deliver_live(&ours, &other, bob.pack_text(&desktop.did, "to find out"));
    let usual = mediator.deliver_live(&ours, &desktop.did, bob.pack_text(&desktop.did, "as usual"));
    desktop.wait_until("the usual delivery is acknowledged", |_| mediator.is_acknowledged(&usual));
    desktop.wait_until("its message arrived", |desktop| desktop.unread_texts() == ["as usual"]);
    assert!(!mediator.is_acknowledged(&probe));
}

/// Hundreds of copies of one message do not delay the message behind them.
#[test]
fn copies_of_a_message_do_not_delay_others() {
    let mediator = Mediator::new(MediatorOptions { socket: false, ..CURRENT });
    let Some(mut desktop) = desktop_behind(&mediator, "[mediation]\npoll_seconds = 3600\n") else { return };
    let ours = mediator_state(&desktop)["ours"].as_str().unwrap().to_owned();
    desktop.stop();
    let (mallory, bob) = (Peer::new("mallory"), Peer::new("bob"));
    let copy = mallory.pack_text(&desktop.did, "again and again");
    (0..150).for_each(|_| mediator.enqueue(&ours, copy.clone()));
    mediator.enqueue(&ours, bob.pack_text(&desktop.did, "At noon?"));
    desktop.start();
    desktop.wait_until("both messages arrived", |desktop| {
        let unread = desktop.unread_texts();
        unread.len() == 2 && unread.contains(&"At noon?".to_owned())
    });
    desktop.wait_until("all messages are acknowledged", |_| mediator.waiting() == 0);
}
