//! Bodies, PINs and private keys are in no log at any level, and in no response that is not for their owner.

use std::fs;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use rustix::process::Signal;
use serde_json::json;

use crate::{
    api_client::ApiClient,
    daemon::{Daemon, free_port, write_with_mode},
    home::{PIN, SO_PIN},
};

const BODY: &str = "the-body-of-this-message-7391";
const WRONG_PIN: &str = "wr0ng-p1n-6620";
const WEBHOOK_SECRET: &str = "the-secret-of-this-hook-0123456789abcdef";
/// A private key of X25519.
const PRIVATE: &str = "77076d0a7318a57d3c16c17251b26645df4c6a6a2c0e0d4d6f6b4e2b4a1b2c3d";

/// The encodings in which a secret might be logged.
fn encodings(secret: &[u8]) -> Vec<String> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let numbers: Vec<String> = secret.iter().map(u8::to_string).collect();
    let text = std::str::from_utf8(secret).map(str::to_owned).ok();
    [hex.to_uppercase(), hex, numbers.join(", "), BASE64.encode(secret)].into_iter().chain(text).collect()
}

/// The encodings of everything that must not be found.
fn all_secrets(private: &[u8]) -> Vec<String> {
    let all = [BODY, PIN, SO_PIN, WRONG_PIN, WEBHOOK_SECRET].map(str::as_bytes);
    all.into_iter().chain([private]).flat_map(encodings).collect()
}

/// Asserts that a text is not empty, and has none of the secrets.
#[track_caller]
fn assert_no_secret(secrets: &[String], place: &str, text: &str) {
    assert!(!text.is_empty(), "{place} is empty");
    for secret in secrets {
        let found = text.lines().find(|line| line.contains(secret.as_str()));
        assert!(found.is_none(), "{place} contains {secret}: {}", found.unwrap_or_default());
    }
}

/// Starts the daemon at the highest log level, which its keepers use too.
fn start_verbose(agent: &mut Daemon) {
    let mut command = agent.home.command("/bin/sh");
    command.args(["-c", "exec claviger -vvv serve", "sh"]);
    agent.start_with(command);
}

#[test]
fn logs_and_responses_contain_no_body_pin_or_key() {
    let more = format!(
        "[api.webhook]\nurl = \"http://127.0.0.1:{}/hook\"\nsecret_file = \"hook.secret\"\n\
         types = [\"https://example.org/none/1.0/none\"]\n",
        free_port()
    );
    let (Some(mut alice), Some(mut bob)) = (Daemon::new(&more), Daemon::new("")) else { return };
    write_with_mode(&alice.home, "hook.secret", &format!("{WEBHOOK_SECRET}\n"), 0o600);
    let private = import_key(&mut alice);
    let secrets = all_secrets(&private);
    start_verbose(&mut alice);
    start_verbose(&mut bob);
    for agent in [&alice, &bob] {
        agent.wait_until_token_ready();
    }

    // Messages both ways, a message that its protocol refuses, and one that cannot be sent.
    bob.json(&["send", "--to", &alice.did, BODY, "--within", "30"]);
    bob.json(&["ping", &alice.did]);
    let refused = json!({ "content": 5, "lang": BODY }).to_string();
    let chat = "https://didcomm.org/basicmessage/2.0/message";
    bob.json(&["send", "--to", &alice.did, "--type", chat, &refused, "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts().contains(&BODY.to_owned()));
    alice.json(&["send", "--to", &bob.did, BODY, "--within", "30"]);
    bob.wait_until("the answer arrived", |bob| bob.unread_texts().contains(&BODY.to_owned()));
    // A did:peer:0 has no endpoint. Its key is that of RFC 7748 section 6.1.
    bob.json(&["send", "--to", "did:peer:0z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc", "--hold", BODY]);
    bob.wait_until("the agent tried to send", |bob| bob.log().contains("not sent yet"));

    // Responses to strangers.
    let plain = json!({ "id": "1", "type": chat, "to": [alice.did], "body": { "content": BODY } }).to_string();
    let jwe = json!({ "protected": BODY, "recipients": [], "iv": BODY, "ciphertext": BODY, "tag": BODY }).to_string();
    let responses = [plain.as_bytes(), jwe.as_bytes(), BODY.as_bytes()].map(|body| alice.post(body));
    responses.iter().for_each(|response| assert_no_secret(&secrets, "a response to a stranger", response));

    // The API's errors, and its responses without messages.
    let alice_api = ApiClient::new(&alice);
    let invalid = [
        json!({ "from": "did:example:none", "to": bob.did, "type": chat, "body": { "content": BODY } }),
        json!({ "from": alice.did, "to": bob.did, "type": chat, "body": BODY }),
        json!({ "from": alice.did, "to": bob.did, "type": chat, "body": { "content": BODY }, "headers": BODY }),
    ];
    for body in invalid {
        let response = alice_api.post("/v1/messages", &body);
        assert_eq!(response.status / 100, 4, "{}", response.body);
        assert_no_secret(&secrets, "an error of the API", &response.body);
    }
    for path in ["/v1/status", "/v1/dids", "/v1/connections"] {
        assert_no_secret(&secrets, path, &alice_api.get(path).body);
    }
    assert_no_secret(&secrets, "the metrics", &alice.get_ops("/metrics"));

    // A reload, and a refused PIN.
    alice.signal(Signal::HUP);
    alice.wait_until("the configuration was reloaded", |alice| alice.log().contains("configuration reloaded"));
    alice.stop();
    alice.home.write("user.pin", WRONG_PIN);
    start_verbose(&mut alice);
    let locked = "claviger_token_state{token=\"soft\",state=\"locked\"}";
    alice.wait_until("the PIN is refused", |alice| alice.metric(locked) == 1.0);
    alice.stop();

    // The logs do have debug lines of this conversation.
    for (log, words) in [(alice.log(), ["DEBUG", "message not accepted"]), (bob.log(), ["DEBUG", "not sent yet"])] {
        assert!(words.iter().all(|word| log.contains(word)), "{log}");
        assert_no_secret(&secrets, "the log", &log);
    }
    for agent in [&alice, &bob] {
        let state = agent.home.path().join("state");
        assert_no_secret(&secrets, "the audit log", &fs::read_to_string(state.join("audit.jsonl")).unwrap());
        let guard =
            fs::read_dir(state.join("pin-guard")).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
        assert_no_secret(
            &secrets,
            "the record of PIN attempts",
            &String::from_utf8_lossy(&guard.flatten().collect::<Vec<u8>>()),
        );
    }
}

/// Gives Alice a DID whose key agreement key is imported. Returns the private key.
fn import_key(alice: &mut Daemon) -> Vec<u8> {
    let private: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&PRIVATE[2 * at..2 * at + 2], 16).unwrap()).collect();
    let scalar: [u8; 32] = private.clone().try_into().unwrap();
    let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(scalar));
    let jwk = json!({ "kty": "OKP", "crv": "X25519", "x": BASE64.encode(public), "d": BASE64.encode(&private) });
    alice.home.write("key.jwk", &jwk.to_string());
    let imported = alice.home.run("key import --jwk key.jwk").success().to_owned();
    let known = imported.split_whitespace().next().unwrap();
    fs::remove_file(alice.home.path().join("key.jwk")).unwrap();
    fs::remove_dir_all(alice.home.path().join("state/documents")).unwrap();
    let port = alice.port;
    alice.did =
        alice.home.create_did(&format!("--method peer:2 --agreement {known} --service http://127.0.0.1:{port}"));
    private
}
