//! Messages whose marks are lost: strangers' marks are dropped if there are too many, and a restore loses those that came after
//! the backup. A copy of such a message opens no return route.

use claviger::{agent::protocol::trust_ping::PING, didcomm::Message};
use serde_json::json;

use crate::{
    daemon::Daemon,
    peer::{Peer, seconds},
    return_routes::{asking, get_nothing_back, gets_all},
    support::forge::Jwe,
};

const FEW_MARKS: &str = "[store]\nmax_marks_of_strangers = 5\n";

/// Sends more messages of a stranger than there is room for marks.
fn flood(daemon: &Daemon, created: Option<u64>) {
    let mallory = Peer::new("mallory");
    for _ in 0..12 {
        let mut ping = mallory.message(&daemon.did, "").finalize();
        (ping.type_, ping.body) = (PING.to_owned(), json!({"response_requested": false}));
        ping.created_time = created.or(ping.created_time);
        assert_eq!(daemon.post_status(mallory.pack(&ping)), 202);
    }
}

/// Waits until later messages have a later `created_time`.
fn wait_for_next_second(daemon: &Daemon) {
    let now = seconds();
    daemon.wait_until("a second has passed", |_| seconds() > now);
}

/// The envelope in a new anoncrypt, which anyone can make.
fn wrapped(daemon: &Daemon, packed: &str) -> String {
    Jwe::anoncrypt(&daemon.agreement_keys()[..1]).seal(packed).to_string()
}

#[test]
fn a_copy_opens_no_return_route_after_its_mark_was_dropped() {
    let Some(daemon) = Daemon::running(FEW_MARKS) else { return };
    let (alice, bob, carol) = (Peer::new("alice"), Peer::new("bob"), Peer::new("carol"));
    let changed = |peer: &Peer, change: fn(&mut Message)| {
        let mut message = serde_json::from_str(&asking(peer, &daemon, "hello")).unwrap();
        change(&mut message);
        peer.pack(&message)
    };
    let of_alice = changed(&alice, |_| ());
    let of_bob = changed(&bob, |message| message.created_time = None);
    let of_carol = changed(&carol, |message| message.created_time = Some(seconds() + 10_000));
    for packed in [&of_alice, &of_bob, &of_carol] {
        assert_eq!(daemon.post_status(packed), 202);
    }
    daemon.wait_until("the messages arrived", |daemon| daemon.unread_texts().len() == 3);
    // She is no stranger any more.
    daemon.send_text(alice.did(), "welcome").unwrap();
    wait_for_next_second(&daemon);
    flood(&daemon, None);
    daemon.wait_until_all_opened();
    get_nothing_back(&daemon, &alice, &[wrapped(&daemon, &of_alice)]);
    assert_eq!(daemon.unread_texts().len(), 3, "her message is delivered once");
    get_nothing_back(&daemon, &bob, &[wrapped(&daemon, &of_bob)]);
    get_nothing_back(&daemon, &carol, &[wrapped(&daemon, &of_carol)]);
    wait_for_next_second(&daemon);
    gets_all(&daemon, &alice, 3);
}

/// The clocks of strangers may be ahead, and the clock of one makes no message of another too old.
#[test]
fn messages_of_the_near_future_lock_nobody_out() {
    let Some(daemon) = Daemon::running(FEW_MARKS) else { return };
    flood(&daemon, Some(seconds() + 280));
    assert_eq!(daemon.post_status(Peer::new("honest").pack_text(&daemon.did, "hello")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["hello"]);
    // Those for which there was no room wait for their time.
    let ahead = Peer::new("ahead");
    let mut message = ahead.message(&daemon.did, "a little ahead").finalize();
    message.created_time = Some(seconds() + 4);
    assert_eq!(daemon.post_status(ahead.pack(&message)), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["hello", "a little ahead"]);
}

#[test]
fn a_copy_opens_no_return_route_after_a_restore() {
    let Some(mut daemon) = Daemon::running("") else { return };
    let alice = Peer::new("alice");
    let folder = daemon.home.path().join("copy");
    let folder = folder.to_str().unwrap().to_owned();
    daemon.json(&["backup", &folder]);
    let packed = alice.pack(&serde_json::from_str(&asking(&alice, &daemon, "hello")).unwrap());
    assert_eq!(daemon.post_status(&packed), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["hello"]);
    daemon.stop();
    daemon.json(&["restore", &folder]);
    daemon.start();
    get_nothing_back(&daemon, &alice, &[packed.clone(), wrapped(&daemon, &packed)]);
    assert_eq!(daemon.unread_texts(), ["hello"]);
}
