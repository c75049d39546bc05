//! A daemon behind mediators that behave like those of other projects (docs/protocols.md, "Mediators").

use serde_json::Value;

use crate::{
    daemon::{Daemon, TIMEOUT},
    mediation::{desktop, desktop_behind, exchange_messages, mediator_state, use_mediator},
    peer::Peer,
    test_mediator::{ADORSYS, AFFINIDI, CURRENT, IDENTUS, Mediator, MediatorOptions, Quirk, ROOTS_ID},
};

const POLL_FAST: &str = "[mediation]\npoll_seconds = 1\n";
/// Within the time of a test, only live delivery brings messages then.
const POLL_NEVER: &str = "[mediation]\npoll_seconds = 3600\n";

/// The DID of ours that the mediator knows.
fn known_did(desktop: &Daemon) -> String {
    mediator_state(desktop)["ours"].as_str().unwrap().to_owned()
}

#[track_caller]
fn wait_for_state(desktop: &Daemon, state: &str) {
    desktop.wait_until(state, |desktop| mediator_state(desktop)["state"] == state);
}

/// A live delivery is encrypted to the DID of ours that the message is for, and not to the one that the mediator knows.
#[test]
fn a_live_delivery_may_be_encrypted_to_the_recipient_of_the_message() {
    let mediator = Mediator::new(IDENTUS);
    let Some(desktop) = desktop_behind(&mediator, POLL_NEVER) else { return };
    let Some(alice) = Daemon::running("") else { return };
    wait_for_state(&desktop, "live");
    let state = mediator_state(&desktop);
    assert_eq!((&state["coordinate_mediation"], &state["message_pickup"]), (&"2.0".into(), &"3.0".into()));
    exchange_messages(&alice, &desktop);
    desktop.wait_until("all messages are acknowledged", |_| mediator.waiting() == 0);
    // The delivery itself is no message to the application.
    assert_eq!(desktop.unread_texts(), ["At noon?"]);
}

/// Forty messages of 150 KB in one delivery, of which an acknowledgement deletes one.
#[test]
fn all_waiting_messages_may_come_in_one_delivery() {
    let mediator = Mediator::new(IDENTUS);
    let Some(mut desktop) = desktop_behind(&mediator, POLL_NEVER) else { return };
    let ours = known_did(&desktop);
    desktop.stop();
    let (bob, filler) = (Peer::new("bob"), "x".repeat(150_000));
    let texts: Vec<String> = (0..40).map(|number| format!("{number:02} {filler}")).collect();
    texts.iter().for_each(|text| mediator.enqueue(&ours, bob.pack_text(&desktop.did, text)));
    desktop.start();
    desktop.wait_until("all messages are acknowledged", |_| mediator.waiting() == 0);
    desktop.wait_until_all_opened();
    let mut unread = desktop.unread_texts();
    unread.sort();
    assert!(unread == texts, "{} of {} messages", unread.len(), texts.len());
    wait_for_state(&desktop, "live");
    assert_eq!(mediator_state(&desktop)["problem"], Value::Null);
}

/// A delivery that is too large leaves the mediator usable for new messages, and the state says so.
#[test]
fn live_delivery_goes_on_if_the_queue_is_too_large_for_one_delivery() {
    let mediator = Mediator::new(IDENTUS);
    let settings = "[agent]\nmax_message_bytes = 20_000\n[mediation]\npoll_seconds = 3600\nmax_delivery_bytes = 1\n";
    let Some(mut desktop) = desktop_behind(&mediator, settings) else { return };
    let Some(alice) = Daemon::running("") else { return };
    let ours = known_did(&desktop);
    desktop.stop();
    let (bob, filler) = (Peer::new("bob"), "x".repeat(5000));
    (0..20).for_each(|_| mediator.enqueue(&ours, bob.pack_text(&desktop.did, &filler)));
    desktop.start();
    desktop.wait_until("the state says what does not come", |desktop| {
        let state = mediator_state(desktop);
        state["state"] == "live" && state["problem"].as_str().is_some_and(|text| text.contains("max_delivery_bytes"))
    });
    alice.json(&["send", "--to", &desktop.did, "At noon?", "--within", "30"]);
    desktop.wait_until("the message arrived", |desktop| desktop.unread_texts() == ["At noon?"]);
}

/// Answers name no request or themselves, and a base64 attachment of a forward is delivered as a text in `json`.
#[test]
fn answers_need_not_name_their_requests() {
    let mediator = Mediator::new(ADORSYS);
    let Some(desktop) = desktop_behind(&mediator, POLL_FAST) else { return };
    let Some(alice) = Daemon::running("") else { return };
    wait_for_state(&desktop, "polling");
    let (ours, bob) = (known_did(&desktop), Peer::new("bob"));
    let texts: Vec<String> = (0..35).map(|number| format!("number {number:02}")).collect();
    texts.iter().for_each(|text| mediator.enqueue(&ours, bob.pack_text(&desktop.did, text)));
    desktop.wait_until("all messages are acknowledged", |_| mediator.waiting() == 0);
    desktop.wait_until_all_opened();
    let mut unread = desktop.unread_texts();
    unread.sort();
    assert_eq!(unread, texts);
    assert_eq!(mediator_state(&desktop)["state"], "polling");
    alice.json(&["ping", &desktop.did]);
}

/// A mediate-request is denied if mediation was granted before. A second `mediator use` finds that the grant holds.
#[test]
fn a_repeated_request_may_be_denied() {
    for options in [ADORSYS, ROOTS_ID] {
        let mediator = Mediator::new(options);
        let Some(desktop) = desktop_behind(&mediator, POLL_FAST) else { return };
        let again = use_mediator(&desktop, &mediator);
        assert_eq!(again["did"], desktop.did.as_str());
        let routing = &again["mediator"]["routing_dids"];
        desktop.json(&["mediator", "leave", &mediator.did]);
        let denied = desktop.run(&["mediator", "use", &mediator.did]);
        assert_eq!(denied.error(1), "mediator-denied");
        assert!(denied.stderr().contains("try another DID of ours"), "{}", denied.stderr());
        // Another DID of ours gets a grant.
        let other = desktop.home.create_did("--method peer:2");
        desktop.json(&["mediator", "use", &mediator.did, "--from", &other]);
        assert_eq!(mediator_state(&desktop)["routing_dids"], *routing);
    }
}

/// A mediator sends messages as they are and forgets them, while the agent waits whether a status without a `thid` is the
/// answer to its request. No message is lost when that wait ends.
#[test]
fn a_message_that_is_read_when_a_wait_ends_is_not_lost() {
    let mediator = Mediator::new(MediatorOptions { raw: true, quirks: &[Quirk::UnnamedStatus], ..CURRENT });
    let Some(desktop) = desktop_behind(&mediator, POLL_NEVER) else { return };
    let (ours, bob) = (known_did(&desktop), Peer::new("bob"));
    let mut texts = Vec::new();
    for round in 0..4 {
        let more: Vec<String> = (0..400).map(|number| format!("{round} {number:03}")).collect();
        let packed = more.iter().map(|text| bob.pack_text(&ours, text)).collect();
        texts.extend(more);
        mediator.cut_and_send_raw(&ours, packed);
        // Before the next cut, which would lose what is under way. The metric costs less than reading all messages again and
        // again.
        desktop.wait_until_within(3 * TIMEOUT, "all messages arrived", |desktop| {
            desktop.metric("claviger_waiting{queue=\"application\"}") >= texts.len() as f64
        });
        // A WebSocket that is cut twice before that is not used for a while.
        wait_for_state(&desktop, "live");
    }
    let mut unread = desktop.unread_texts();
    unread.sort();
    assert!(unread == texts);
}

/// The grant comes from another DID of the mediator, with `from_prior` and without `from`. The mediator is known by that
/// DID also after a restart.
#[test]
fn a_mediator_may_answer_from_another_did() {
    let mediator = Mediator::new(ROOTS_ID);
    let Some(mut desktop) = desktop_behind(&mediator, POLL_FAST) else { return };
    let Some(alice) = Daemon::running("") else { return };
    wait_for_state(&desktop, "polling");
    exchange_messages(&alice, &desktop);
    desktop.stop();
    desktop.start();
    alice.json(&["send", "--to", &desktop.did, "At one?", "--within", "30"]);
    desktop.wait_until("the message arrived", |desktop| desktop.unread_texts().contains(&"At one?".to_owned()));
    desktop.wait_until("all messages are acknowledged", |_| mediator.waiting() == 0);
    let state = mediator_state(&desktop);
    assert_eq!((&state["state"], &state["did"]), (&"polling".into(), &mediator.did.as_str().into()));
    assert!(!desktop.log().contains("message not accepted"), "{}", desktop.log());
    desktop.json(&["mediator", "leave", &mediator.did]);
}

#[test]
fn a_mediator_that_wants_a_login_is_refused_with_its_words() {
    for options in [AFFINIDI, MediatorOptions { socket: false, ..AFFINIDI }] {
        let (mediator, Some(desktop)) = (Mediator::new(options), desktop("")) else { return };
        let refused = desktop.run(&["mediator", "use", &mediator.did]);
        assert_eq!(refused.error(1), "mediator-denied");
        for part in ["status 401: Missing credentials", "a login of its own"] {
            assert!(refused.stderr().contains(part), "{}", refused.stderr());
        }
    }
}

/// A mediator that refuses live mode, says `live_delivery: false`, or delivers nothing live, is polled, and the state is not
/// `live`.
#[test]
fn a_mediator_that_does_not_deliver_live_is_polled() {
    let Some(alice) = Daemon::running("") else { return };
    let quirks: [&[Quirk]; 3] = [&[Quirk::OwnProblemType], &[Quirk::SaysNotLive], &[Quirk::NeverLive]];
    for (quirks, live) in quirks.into_iter().zip([false, true, true]) {
        let mediator = Mediator::new(MediatorOptions { quirks, live, ..CURRENT });
        let Some(desktop) = desktop_behind(&mediator, POLL_FAST) else { return };
        let mut sent = 0;
        desktop.wait_until("the mediator is polled", |desktop| {
            if desktop.unread_texts().len() == sent {
                alice.json(&["send", "--to", &desktop.did, "At noon?", "--within", "30"]);
                sent += 1;
            }
            mediator_state(desktop)["state"] == "polling"
        });
        desktop.wait_until("all messages are acknowledged", |_| mediator.waiting() == 0);
    }
}

#[test]
fn a_mediator_that_registers_no_did_is_not_live() {
    let mediator = Mediator::new(MediatorOptions { quirks: &[Quirk::RefusesDids], ..CURRENT });
    let Some(desktop) = desktop("") else { return };
    desktop.json(&["mediator", "use", &mediator.did, "--no-did"]);
    desktop.json(&["did", "create", "--method", "peer:2", "--service", &mediator.did]);
    desktop.wait_until("the state has the mediator's reason", |desktop| {
        let state = mediator_state(desktop);
        state["state"] == "away" && state["problem"].as_str().unwrap().contains("0 of our 1 DIDs: client_error")
    });
}

/// A mediator that has lost its database grants mediation again.
#[test]
fn mediation_is_asked_for_again_if_the_mediator_has_forgotten_it() {
    let mediator = Mediator::new(IDENTUS);
    let Some(desktop) = desktop_behind(&mediator, POLL_NEVER) else { return };
    let Some(alice) = Daemon::running("") else { return };
    mediator.forget();
    desktop.wait_until("our DID is registered again", |desktop| mediator.registered() == [desktop.did.as_str()]);
    wait_for_state(&desktop, "live");
    exchange_messages(&alice, &desktop);
}

/// A WebSocket that opens and is then of no use is replaced by HTTP.
#[test]
fn http_is_used_if_the_websocket_is_of_no_use() {
    let mediator = Mediator::new(MediatorOptions { quirks: &[Quirk::ClosesSocket], ..CURRENT });
    let Some(desktop) = desktop_behind(&mediator, POLL_FAST) else { return };
    let Some(alice) = Daemon::running("") else { return };
    wait_for_state(&desktop, "polling");
    exchange_messages(&alice, &desktop);
    desktop.wait_until("all messages are acknowledged", |_| mediator.waiting() == 0);
}
