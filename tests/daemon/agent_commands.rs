//! What `send`, `ping` and `inbox` print for a person and for a program, and when `inbox --follow` ends.

use serde_json::Value;

use crate::{daemon::Daemon, peer::Peer};

/// `inbox --follow --limit N` ends after N messages, also if N is the number that `inbox` shows by default.
#[test]
fn following_the_inbox_ends_at_each_limit() {
    let Some(daemon) = Daemon::running("") else { return };
    let peer = Peer::new("peer");
    for number in 0..101 {
        assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, &number.to_string())), 202);
    }
    daemon.wait_until("all messages are opened", |daemon| {
        daemon.json(&["inbox", "--limit", "1000"])["messages"].as_array().unwrap().len() == 101
    });
    let default = daemon.json(&["inbox"]);
    assert_eq!(default["messages"].as_array().unwrap().len(), 100);
    let follow = |limit: &str| {
        let mut command = daemon.home.command("timeout");
        command.args(["60", "claviger", "--json", "inbox", "--follow", "--limit", limit]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "--limit {limit}: {}", output.status);
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    for limit in [1, 2, 99, 100, 101] {
        assert_eq!(follow(&limit.to_string()), limit);
    }
    assert_eq!(daemon.run(&["inbox", "--follow", "--limit", "0"]).error(2), "bad-arguments");
    // More than the agent returns, or acknowledges, at once.
    let all = daemon.json(&["inbox", "--limit", "100000", "--acknowledge"]);
    assert_eq!(all["messages"].as_array().unwrap().len(), 101);
    assert_eq!(daemon.unread_texts(), [""; 0]);
}

/// For a person, `send` prints the id of the message, and `ping` says that the peer answered. JSON is for `--json`.
#[test]
fn send_and_ping_print_json_for_programs_only() {
    let (Some(alice), Some(bob)) = (Daemon::running(""), Daemon::running("")) else { return };
    for more in [&[][..], &["--within", "30"]] {
        let words = [&["send", "--to", &bob.did, "--id", "of-the-caller", "hello"], more].concat();
        let output = alice.home.run_args(&words, "");
        assert_eq!(output.success(), "of-the-caller\n");
        let document = alice.json(&words);
        assert_eq!(document["id"], "of-the-caller");
        assert_eq!(document["state"].is_string(), !more.is_empty(), "{document}");
    }
    let output = alice.home.run_args(&["send", "--to", &bob.did, "hello"], "");
    let id = output.success().trim().to_owned();
    assert!(!id.is_empty() && !id.contains(['{', ' ', '\n']), "{id}");
    alice.wait_until("the message is sent", |alice| alice.outbox_message(&id)["state"] == "sent");

    let output = alice.home.run_args(&["ping", &bob.did], "");
    assert!(output.success().contains(" answered after ") && output.success().ends_with(" ms.\n"), "{output:?}");
    assert_eq!(serde_json::from_str::<Value>(output.stdout()).ok(), None);
    assert!(alice.json(&["ping", &bob.did])["milliseconds"].is_u64());
}
