//! What a running agent says about its tokens: each has a state, since when, why, and what to do.

use std::{fs, time::Duration};

use crate::{
    api_client::ApiClient,
    daemon::{Daemon, free_port},
    home::{PIN, softhsm_module},
    peer::Peer,
};

/// Adds a `[[token]]` with this name, which is also the label. Its PIN is in `NAME.pin`.
pub fn add_token(daemon: &Daemon, name: &str) {
    let file = daemon.home.path().join("claviger.toml");
    let text = fs::read_to_string(&file).unwrap();
    let module = softhsm_module().unwrap();
    let uri = format!("pkcs11:token={name}?module-path={}&pin-source=file:{name}.pin", module.display());
    let table = format!("[[token]]\nname = \"{name}\"\nuri = \"{uri}\"\n");
    fs::write(&file, text.replacen("[http]", &format!("{table}[http]"), 1)).unwrap();
    daemon.home.write(&format!("{name}.pin"), PIN);
}

#[test]
fn each_token_has_its_state_reason_and_remedy() {
    let Some(mut daemon) = Daemon::new("") else { return };
    add_token(&daemon, "spare");
    daemon.home.run("token init spare --so-pin-source file:so.pin").success();
    daemon.home.write("spare.pin", "wrong-pin");
    daemon.start();
    let locked = "claviger_token_state{token=\"spare\",state=\"locked\"}";
    daemon.wait_until("the PIN of the other token is refused", |daemon| daemon.metric(locked) == 1.0);

    let status = ApiClient::new(&daemon).get("/v1/tokens/status").json(200);
    let (soft, spare) = (&status["tokens"][0], &status["tokens"][1]);
    assert_eq!((&soft["name"], &soft["state"]), (&"soft".into(), &"ready".into()), "{status}");
    assert!(soft["code"].is_null() && soft["reason"].is_null() && soft["action"].is_null(), "{status}");
    assert_eq!((&spare["name"], &spare["state"]), (&"spare".into(), &"locked".into()), "{status}");
    assert_eq!(spare["code"], "pin-refused");
    assert!(spare["reason"].as_str().unwrap().contains("refused its PIN"), "{status}");
    assert!(spare["action"].as_str().unwrap().contains("pin-source"), "{status}");
    assert!(status["waits_for"].is_null(), "{status}");
    let now = i64::try_from(crate::peer::seconds()).unwrap() * 1000;
    for token in [soft, spare] {
        assert!((now - 120_000..=now + 2000).contains(&token["since"].as_i64().unwrap()), "{status}");
    }
    assert_eq!(daemon.metric("claviger_token_problem{token=\"spare\",code=\"pin-refused\"}"), 1.0);
    let since = daemon.metric("claviger_token_since_seconds{token=\"spare\"}");
    assert_eq!(since, spare["since"].as_f64().unwrap() / 1000.0);

    let shown = daemon.home.run("status").success().to_owned();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].ends_with(": 1 of 2 tokens are ready"), "{shown}");
    assert!(lines[1].starts_with("token \"soft\" has been ready for "), "{shown}");
    assert!(lines[2].starts_with("token \"spare\" has been locked for "), "{shown}");
    assert!(lines[2].contains("the token \"spare\" refused its PIN"), "{shown}");
    assert!(lines[3].starts_with("  what to do: "), "{shown}");
    assert!(!shown.contains("messages wait"), "{shown}");
    let ready = daemon.get_ops("/ready/token");
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("spare: the token \"spare\" refused"), "{ready}");

    // A corrected PIN ends the problem, everywhere.
    daemon.home.write("spare.pin", PIN);
    let ready = "claviger_token_state{token=\"spare\",state=\"ready\"}";
    daemon.wait_until("the token is ready", |daemon| daemon.metric(ready) == 1.0);
    assert!(!daemon.get_ops("/metrics").contains("claviger_token_problem{"));
    assert!(daemon.home.run("status").success().contains(": 2 of 2 tokens are ready"));
}

/// No message comes, and nothing is sent. The token goes away: health checks, metrics and `status` say so within seconds.
#[test]
fn an_idle_agent_notices_a_missing_token() {
    let Some(daemon) = Daemon::running("") else { return };
    assert!(daemon.home.run("status").success().contains(": 1 of 1 token is ready"));
    daemon.disconnect_token();
    let soon = Duration::from_secs(40);
    daemon.wait_until_within(soon, "the missing token is noticed", |daemon| !daemon.is_token_ready());
    let away = "claviger_token_state{token=\"soft\",state=\"away\"}";
    daemon.wait_until("the metrics say so", |daemon| daemon.metric(away) == 1.0);
    let shown = daemon.home.run("status").success().to_owned();
    assert!(shown.contains(": 0 of 1 token is ready") && shown.contains("token \"soft\" has been away for"), "{shown}");
    assert!(shown.contains("received messages wait: no ready token"), "{shown}");
    // Whatever the number of its keepers and of the messages that wait: the log has the begin and the end of the outage.
    let peer = Peer::with_endpoint("away", &format!("http://127.0.0.1:{}", free_port()));
    let waiting = daemon.send_text(peer.did(), "waits").unwrap();
    daemon.wait_until("the message waits for the token", |daemon| {
        daemon.outbox_message(&waiting)["waits_for"] == "token"
    });
    let before = daemon.keepers();
    daemon.wait_until("another keeper has taken over", |daemon| {
        daemon.keepers().first().is_some_and(|keeper| !before.contains(keeper))
    });
    daemon.reconnect_token();
    daemon.wait_until_token_ready();
    daemon.wait_until("the log has the end", |daemon| daemon.log().contains("token back in service"));
    let log = daemon.log();
    let lines = |text: &str| log.matches(text).count();
    let reasons: Vec<&str> = log.split("token out of service").skip(1).filter_map(|rest| rest.lines().next()).collect();
    assert!(!reasons.is_empty() && reasons.windows(2).all(|two| two[0] != two[1]), "one for each reason\n{log}");
    assert_eq!((lines("token back in service"), lines("message waits for a token")), (1, 1), "{log}");
}

/// A token that was locked by a person is noticed in the same way.
#[test]
fn an_idle_agent_notices_a_locked_token() {
    let Some(daemon) = Daemon::running("") else { return };
    daemon.home.run("token lock soft").success();
    let soon = Duration::from_secs(40);
    daemon.wait_until_within(soon, "the lock is noticed", |daemon| !daemon.is_token_ready());
    let locked = "claviger_token_state{token=\"soft\",state=\"locked\"}";
    daemon.wait_until("the metrics say so", |daemon| daemon.metric(locked) == 1.0);
    daemon.home.run("token unlock soft").success();
    daemon.wait_until_token_ready();
}
