//! A token that the configuration names, and that the running agent does not serve: it was started before.

use serde_json::{Value, json};

use crate::{api_client::ApiClient, daemon::Daemon, token_states::add_token};

/// The keys of a token.
fn keys(daemon: &Daemon, token: &str) -> Vec<Value> {
    let keys = daemon.json(&["key", "list", "--token", token]);
    keys.as_array().unwrap().clone()
}

/// A rotation to such a token is refused before anything is changed, with the way to go on, which works.
#[test]
fn no_did_rotates_to_a_token_that_the_agent_does_not_serve() {
    let Some(mut daemon) = Daemon::new("") else { return };
    // A token that is absent: it might hold any key, so the agent cannot refuse a DID by itself.
    add_token(&daemon, "gone");
    daemon.start();
    add_token(&daemon, "spare");
    daemon.home.run("token init spare --so-pin-source file:so.pin").success();
    let service = format!("http://127.0.0.1:{}", daemon.port);
    let made = daemon.run(&["did", "rotate", &daemon.did, "--token", "spare"]);
    assert_eq!(made.error(1), "token-not-served");
    assert!(made.stderr().contains("restart it") && made.stderr().contains("Nothing was changed"), "{}", made.stderr());
    assert!(keys(&daemon, "spare").is_empty(), "a key was made");

    let created = daemon.home.run(&format!("did create --method peer:2 --service {service} --token spare"));
    let next = created.success().trim().to_owned();
    assert!(created.stderr().contains("the running agent has not seen"), "{}", created.stderr());
    let refused = daemon.run(&["did", "rotate", &daemon.did, "--to", &next]);
    assert_eq!(refused.error(1), "token-not-served");
    assert!(refused.stderr().contains(&format!("claviger did rotate {} --to", daemon.did)), "{}", refused.stderr());
    // The agent itself refuses it too, whatever the command checks.
    let prior = rotation_request(&daemon, &next);
    let answer = ApiClient::new(&daemon).post("/v1/dids/rotate", &prior);
    assert_eq!((answer.status, answer.error(409)), (409, "token-not-served".to_owned()), "{}", answer.body);

    daemon.stop();
    daemon.start();
    let ready = "claviger_token_state{token=\"spare\",state=\"ready\"}";
    daemon.wait_until("the agent serves the token", |daemon| daemon.metric(ready) == 1.0);
    // A keeper that looks for the absent token may keep SoftHSM from reading the other tokens for a moment.
    daemon.wait_until("the DID rotates", |daemon| {
        daemon.run(&["did", "rotate", &daemon.did, "--to", &next]).status() == 0
    });
}

/// The request of `did rotate`. Its proof need not be right: the keys are checked first.
fn rotation_request(daemon: &Daemon, to: &str) -> Value {
    json!({ "from": daemon.did, "to": to, "from_prior": "e30.e30.e30", "overlap_days": 1 })
}
