//! A run in which nothing is wrong prints no warning and no error: a warning that comes every day is not read on the day
//! when it matters.

use std::os::unix::process::CommandExt;

use rustix::process::Signal;
use serde_json::json;

use crate::{
    daemon::Daemon,
    home::{CommandOutput, Home, plaintext, warnings},
    mediation::{desktop_behind, exchange_messages},
    test_mediator::{CURRENT, Mediator},
};

/// Asserts that a command succeeded without a warning, and returns stdout.
#[track_caller]
fn quiet(output: &CommandOutput) -> String {
    let stdout = output.success().trim().to_owned();
    assert_eq!(warnings(output.stderr()), [""; 0]);
    stdout
}

#[track_caller]
fn assert_quiet(daemon: &Daemon) {
    assert_eq!(warnings(&daemon.log()), [""; 0], "{}", daemon.log());
}

/// Starts the daemon as its own group of processes, as a shell does, at the level of log that it has without `-v`.
fn start_as_group(daemon: &mut Daemon) {
    let mut command = daemon.home.command("/bin/sh");
    // The script does not use the appended arguments `serve -v`.
    command.args(["-c", "exec claviger serve", "sh"]).process_group(0);
    daemon.start_with(command);
    daemon.wait_until_token_ready();
}

/// The commands of a day, between two agents that run: nothing warns, on either side.
#[test]
fn two_healthy_agents_warn_of_nothing() {
    let (Some(mut alice), Some(mut bob)) = (Daemon::new(""), Daemon::new("")) else { return };
    for daemon in [&mut alice, &mut bob] {
        daemon.start();
    }
    let run = |daemon: &Daemon, words: &[&str]| {
        let mut output = daemon.home.run_args(words, "");
        // SoftHSM writes to the token's file at each login, and a process that reads it at that moment finds no token.
        daemon.wait_until("the token is found", |daemon| {
            let is_there = output.status() != 3;
            if !is_there {
                output = daemon.home.run_args(words, "");
            }
            is_there
        });
        quiet(&output)
    };
    let invitation = run(&alice, &["invite", "--goal", "lunch"]);
    run(&bob, &["accept", &invitation, "--label", "Alice"]);
    run(&bob, &["ping", &alice.did]);
    run(&bob, &["send", "--to", &alice.did, "At noon?", "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["At noon?"]);
    run(&alice, &["inbox", "--acknowledge"]);
    run(&alice, &["connections"]);
    run(&alice, &["status"]);
    run(&alice, &["key", "list"]);
    run(&alice, &["backup", "backup"]);
    // A DID that is made while the agent runs: its keepers are replaced.
    run(&alice, &["did", "create", "--method", "peer:2", "--service", &format!("http://127.0.0.1:{}", alice.port)]);
    alice.signal(Signal::HUP);
    alice.wait_until("the configuration was reloaded", |alice| alice.log().contains("configuration reloaded"));
    // A DID that is changed, one that is replaced, and a relationship that ends.
    let host = format!("localhost:{}", bob.port);
    let service = format!("http://127.0.0.1:{}", bob.port);
    let made = ["did", "create", "--method", "webvh", "--host", &host, "--service", &service];
    let webvh = run(&bob, &made);
    run(&bob, &["did", "update", &webvh, "--service", &format!("{service}/new")]);
    let rotated = run(&alice, &["did", "rotate", &alice.did]);
    bob.wait_until("Bob knows the new DID", |bob| {
        let known = bob.json(&["connections"]);
        known["connections"].as_array().unwrap().iter().any(|it| it["previous"][0] == alice.did)
    });
    // An agent is stopped, killed, and started again with its messages.
    for number in 0..2 {
        if number == 0 {
            bob.stop()
        } else {
            bob.kill()
        }
        bob.start();
        run(&alice, &["ping", &bob.did]);
    }
    run(&alice, &["connections", "--end", &bob.did, "--from", &rotated]);
    alice.wait_until("the end is sent", |alice| alice.metric("claviger_waiting{queue=\"outbox\"}") == 0.0);
    for daemon in [&mut alice, &mut bob] {
        daemon.stop();
        assert_quiet(daemon);
    }
}

#[test]
fn a_healthy_agent_behind_a_mediator_warns_of_nothing() {
    let mediator = Mediator::new(CURRENT);
    let (Some(mut desktop), Some(mut alice)) = (desktop_behind(&mediator, ""), Daemon::running("")) else { return };
    exchange_messages(&alice, &desktop);
    desktop.stop();
    alice.json(&["send", "--to", &desktop.did, "In the meantime", "--within", "30"]);
    desktop.start();
    desktop.wait_until("the message arrived", |desktop| {
        desktop.unread_texts().iter().any(|text| text == "In the meantime")
    });
    for daemon in [&mut desktop, &mut alice] {
        daemon.stop();
        assert_quiet(daemon);
    }
}

/// A shell sends Ctrl-C to the agent, its supervisor and its keepers together, and systemd does the same with SIGTERM.
#[test]
fn an_end_of_all_processes_together_is_quiet() {
    let Some(mut daemon) = Daemon::new("") else { return };
    for signal in [Signal::INT, Signal::TERM] {
        start_as_group(&mut daemon);
        daemon.json(&["ping", &daemon.did]);
        daemon.signal_group(signal);
        assert!(daemon.wait().success());
    }
    assert_quiet(&daemon);
    // The messages of the start are there, and they are the log's.
    assert!(daemon.log().contains("Peers are served on"), "{}", daemon.log());
}

/// A command that has used a token ends without a word about its keeper, however the two processes end.
#[test]
fn pack_and_unpack_are_quiet() {
    let Some(home) = Home::with_token() else { return };
    let did = home.create_did("--method peer:2");
    let message = plaintext(None, Some(&did), "hello");
    for _ in 0..10 {
        let packed = quiet(&home.run_with_stdin(&format!("pack --from {did} --to {did}"), &message));
        quiet(&home.run_with_stdin("unpack", &packed));
        let output = home.run_with_stdin("--json unpack", &packed);
        assert_eq!((output.json()["message"]["body"].clone(), output.stderr()), (json!({"text": "hello"}), ""));
    }
}
