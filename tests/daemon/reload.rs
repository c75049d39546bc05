//! SIGHUP reloads the configuration: which settings apply at once, which need a restart, and that an invalid file
//! changes nothing. Settings that are refused at start.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    api_client::ApiClient,
    daemon::{Daemon, free_port, write_with_mode},
    home::{Home, softhsm_module},
    webhook::{SECRET, WebhookServer, verify},
};

/// Replaces a text in claviger.toml, by a new file like an editor does, and sends SIGHUP.
pub fn change_and_reload(agent: &Daemon, from: &str, to: &str) {
    let path = agent.home.path().join("claviger.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path.with_extension("new"), text.replace(from, to)).unwrap();
    fs::rename(path.with_extension("new"), &path).unwrap();
    agent.signal(Signal::HUP);
}

/// Waits for a log line with these words, after the first `before` bytes of the log.
#[track_caller]
pub fn wait_for_log_line(agent: &Daemon, before: usize, words: &[&str]) {
    let is_logged =
        |agent: &Daemon| agent.log()[before..].lines().any(|line| words.iter().all(|word| line.contains(word)));
    agent.wait_until(&format!("a log line has {words:?}"), is_logged);
}

/// Starts the daemon without -v, so that the configuration sets the log level.
fn start_without_verbose(agent: &mut Daemon) {
    let mut command = agent.home.command("/bin/sh");
    // The script does not use the appended arguments `serve -v`.
    command.args(["-c", "exec claviger serve", "sh"]);
    agent.start_with(command);
}

#[test]
fn reloadable_settings_apply_and_others_are_reported() {
    let more = "log_level = \"error\"\n[agent]\nworkers = 8\n";
    let Some(mut agent) = Daemon::new(more) else { return };
    start_without_verbose(&mut agent);
    for _ in 0..5 {
        assert!(agent.post(b"{}").starts_with("HTTP/1.1 400"));
    }
    assert!(!agent.log().contains("message not accepted"), "{}", agent.log());

    change_and_reload(&agent, "log_level = \"error\"", "log_level = \"debug\"");
    agent.wait_until("debug lines are logged", |agent| {
        agent.post(b"{}");
        agent.log().contains("message not accepted")
    });

    let before = agent.log().len();
    change_and_reload(&agent, "[http]\n", "[http]\nrate_per_address = 1\nheader_seconds = 20\n");
    wait_for_log_line(
        &agent,
        before,
        &["INFO", "configuration reloaded", "http.header_seconds", "http.rate_per_address"],
    );
    agent.wait_until("a message is one too many", |agent| agent.post(b"{}").starts_with("HTTP/1.1 429"));

    let before = agent.log().len();
    change_and_reload(&agent, "workers = 8", "workers = 9");
    wait_for_log_line(&agent, before, &["WARN", "need a restart", "agent.workers"]);
    change_and_reload(&agent, "workers = 9", "workers = 8");
    wait_for_log_line(&agent, before, &["nothing has changed"]);
}

#[test]
fn an_invalid_file_changes_nothing_and_its_line_is_reported() {
    let Some(mut agent) = Daemon::new("[agent]\nworkers = 8\n") else { return };
    agent.start();
    let line = |word: &str| {
        let text = fs::read_to_string(agent.home.path().join("claviger.toml")).unwrap();
        format!("claviger.toml line {}:", 1 + text.lines().position(|line| line.contains(word)).unwrap())
    };
    // One that `serve` would refuse at the next start.
    let before = agent.log().len();
    change_and_reload(&agent, "[[token]]\n", "[[token]]\nsesions = 2\n");
    wait_for_log_line(&agent, before, &["ERROR", "configuration not reloaded", &line("sesions"), "unknown setting"]);
    change_and_reload(&agent, "sesions = 2\n", "");
    let broken = [
        ("[http]\n", "[http]\nconections = 1\n", "conections", "did you mean \"connections\"?"),
        ("conections = 1", "connections = \"few\"", "few", "http.connections"),
        ("connections = \"few\"", "connections = 0 0", "0 0", "expected newline"),
    ];
    for (from, to, word, message) in broken {
        let before = agent.log().len();
        change_and_reload(&agent, from, to);
        wait_for_log_line(&agent, before, &["ERROR", "configuration not reloaded", &line(word), message]);
        // The value is not logged, as it may be a secret.
        assert!(!agent.log().contains("0 0"));
        assert!(agent.post(b"{}").starts_with("HTTP/1.1 400"));
    }
    let before = agent.log().len();
    change_and_reload(&agent, "connections = 0 0", "connections = 0");
    wait_for_log_line(&agent, before, &["configuration reloaded", "http.connections"]);
    // No connection is accepted any more.
    assert_eq!(agent.post(b"{}"), "");
}

/// Messages are posted to the new URL, signed with the new secret. An invalid URL changes nothing.
#[test]
fn the_webhook_url_and_secret_are_reloaded() {
    let (old, port) = (free_port(), free_port());
    let more = format!("[api.webhook]\nurl = \"http://127.0.0.1:{old}/old\"\nsecret_file = \"hook.secret\"\n");
    let (Some(mut agent), Some(bob)) = (Daemon::new(&more), Daemon::running("")) else { return };
    write_with_mode(&agent.home, "hook.secret", "the-old-secret-of-this-hook-0123456789\n", 0o600);
    agent.start();
    bob.json(&["send", "--to", &agent.did, "where to?", "--within", "30"]);
    agent.wait_until("the webhook is reported as failing", |agent| {
        agent.log().contains("webhook did not accept a message")
    });

    let before = agent.log().len();
    change_and_reload(&agent, &format!("http://127.0.0.1:{old}/old"), "http://app.example.org/");
    wait_for_log_line(&agent, before, &["configuration not reloaded", "in clear text"]);

    let hook = WebhookServer::listen(port, &[]);
    write_with_mode(&agent.home, "hook.secret", &format!("{SECRET}\n"), 0o600);
    change_and_reload(&agent, "http://app.example.org/", &format!("http://127.0.0.1:{port}/new"));
    wait_for_log_line(&agent, before, &["configuration reloaded", "api.webhook"]);
    agent.wait_until("a message is posted there", |_| !hook.requests().is_empty());
    let request = &hook.requests()[0];
    assert!(request.head.starts_with("post /new http/1.1\r\n"), "{}", request.head);
    verify(request);
}

/// The DIDs are read again without a wait for the keys of a token that was away already.
#[test]
fn reading_the_dids_again_does_not_wait_for_an_absent_token() {
    let Some(mut alice) = Daemon::new("") else { return };
    alice.disconnect_token();
    alice.start_without_token();
    let begun = Instant::now();
    let dids = ApiClient::new(&alice).request("POST", "/v1/dids/reload", "", "");
    assert_eq!(dids.status, 200, "{}", dids.body);
    // With the wait it takes ten seconds.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[test]
fn settings_that_make_no_sense_as_0_are_refused_by_name() {
    let (Some(module), Some(home)) = (softhsm_module(), Home::with_token()) else { return };
    let refused = [
        ("agent", "max_message_bytes"),
        ("agent", "max_fetches"),
        ("agent", "max_attempts"),
        ("agent", "open_attempts"),
        ("agent", "refused_attempts"),
        ("agent", "send_for_days"),
        ("http", "body_seconds"),
        ("keeper", "hang_seconds"),
        ("keeper", "renew_seconds"),
        ("net", "did_refetches_per_minute"),
        ("mediation", "poll_seconds"),
        ("outbox", "messages_per_peer"),
        ("store", "max_unresolved"),
        ("store", "waiting_days"),
        ("api", "max_page_bytes"),
    ];
    for (table, name) in refused {
        home.configure(&module, &format!("[{table}]\n{name} = 0\n"));
        let output = home.run("--json serve --check");
        assert_eq!(output.error(2), "bad-config", "{name}");
        assert!(output.stderr().contains(&format!("{name} in [{table}] is 0")), "{}", output.stderr());
    }
    // These have a meaning.
    let unlimited = "[agent]\nwait_for_stranger_minutes = 0\n[http]\nrate_per_address = 0\n[store]\nunread_days = 0\n";
    home.configure(&module, unlimited);
    home.create_did("--method peer:2 --service http://127.0.0.1:1/");
    home.run("--json serve --check").success();
}

/// `serve --check` beside the running agent: its sockets are no fault, and everything else is checked.
#[test]
fn the_configuration_is_checked_while_the_agent_runs() {
    let Some(agent) = Daemon::running("") else { return };
    let checked = agent.home.run("--json serve --check").json();
    assert_eq!(checked["running"], env!("CARGO_PKG_VERSION"));
    assert_eq!(checked["listens"], serde_json::json!([format!("127.0.0.1:{}", agent.port)]));
    let path = agent.home.path().join("claviger.toml");
    let text = fs::read_to_string(&path).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = text.replace(&agent.port.to_string(), &taken.local_addr().unwrap().port().to_string());
    fs::write(&path, other).unwrap();
    let output = agent.home.run("--json serve --check");
    assert_eq!(output.error(1), "io");
    assert!(output.stderr().contains("another program may have the port"), "{}", output.stderr());
    fs::write(&path, format!("{text}\n[http]\nconnections = \"many\"\n")).unwrap();
    assert_eq!(agent.home.run("--json serve --check").error(2), "bad-config");
}
