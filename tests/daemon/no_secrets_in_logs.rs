//! What was said, PINs and keys stand in no log, however talkative, and in no answer that is not for their owner.

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
const HOOK: &str = "the-secret-of-this-hook-0123456789abcdef";
/// A private key of X25519.
const PRIVATE: &str = "77076d0a7318a57d3c16c17251b26645df4c6a6a2c0e0d4d6f6b4e2b4a1b2c3d";

/// A secret in the forms in which it might slip out.
fn forms(secret: &[u8]) -> Vec<String> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let numbers: Vec<String> = secret.iter().map(u8::to_string).collect();
    let text = std::str::from_utf8(secret).map(str::to_owned).ok();
    [hex.to_uppercase(), hex, numbers.join(", "), BASE64.encode(secret)].into_iter().chain(text).collect()
}

/// Everything that must not be there.
fn secrets(private: &[u8]) -> Vec<String> {
    let all = [BODY, PIN, SO_PIN, WRONG_PIN, HOOK].map(str::as_bytes);
    all.into_iter().chain([private]).flat_map(forms).collect()
}

#[track_caller]
fn silent(secrets: &[String], place: &str, text: &str) {
    assert!(!text.is_empty(), "{place} is empty");
    for secret in secrets {
        let found = text.lines().find(|line| line.contains(secret.as_str()));
        assert!(found.is_none(), "{place} has {secret}: {}", found.unwrap_or_default());
    }
}

/// Starts it with as much in its log, and in those of its keepers, as there is.
fn start_talkative(agent: &mut Daemon) {
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
    write_with_mode(&alice.home, "hook.secret", &format!("{HOOK}\n"), 0o600);
    let private = imported(&mut alice);
    let secrets = secrets(&private);
    start_talkative(&mut alice);
    start_talkative(&mut bob);
    for agent in [&alice, &bob] {
        agent.wait_until_token_ready();
    }

    // A conversation, a message that its protocol refuses, one for nobody, and answers to them.
    bob.json(&["send", "--to", &alice.did, BODY, "--within", "30"]);
    bob.json(&["ping", &alice.did]);
    let refused = json!({ "content": 5, "lang": BODY }).to_string();
    let chat = "https://didcomm.org/basicmessage/2.0/message";
    bob.json(&["send", "--to", &alice.did, "--type", chat, &refused, "--within", "30"]);
    alice.wait_until("it came", |alice| alice.unread_texts().contains(&BODY.to_owned()));
    alice.json(&["send", "--to", &bob.did, BODY, "--within", "30"]);
    bob.wait_until("it was answered", |bob| bob.unread_texts().contains(&BODY.to_owned()));
    // This one has no endpoint: did:peer:0 with the key of RFC 7748 section 6.1.
    bob.json(&["send", "--to", "did:peer:0z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc", BODY]);
    bob.wait_until("it was tried in vain", |bob| bob.log().contains("not sent yet"));

    // What strangers are answered.
    let plain = json!({ "id": "1", "type": chat, "to": [alice.did], "body": { "content": BODY } }).to_string();
    let jwe = json!({ "protected": BODY, "recipients": [], "iv": BODY, "ciphertext": BODY, "tag": BODY }).to_string();
    let answers = [plain.as_bytes(), jwe.as_bytes(), BODY.as_bytes()].map(|body| alice.post(body));
    answers.iter().for_each(|answer| silent(&secrets, "an answer to a stranger", answer));

    // What the application is answered to what is wrong, and what does not have a message in it.
    let alice_api = ApiClient::new(&alice);
    let wrong = [
        json!({ "from": "did:example:none", "to": bob.did, "type": chat, "body": { "content": BODY } }),
        json!({ "from": alice.did, "to": bob.did, "type": chat, "body": BODY }),
        json!({ "from": alice.did, "to": bob.did, "type": chat, "body": { "content": BODY }, "headers": BODY }),
    ];
    for body in wrong {
        let answer = alice_api.post("/v1/messages", &body);
        assert_eq!(answer.status / 100, 4, "{}", answer.body);
        silent(&secrets, "an error of the API", &answer.body);
    }
    for path in ["/v1/status", "/v1/dids", "/v1/connections"] {
        silent(&secrets, path, &alice_api.get(path).body);
    }
    silent(&secrets, "the figures", &alice.get_ops("/metrics"));

    // Its configuration is read again, and its PIN is refused.
    alice.signal(Signal::HUP);
    alice.wait_until("it was read again", |alice| alice.log().contains("configuration reloaded"));
    alice.stop();
    alice.home.write("user.pin", WRONG_PIN);
    start_talkative(&mut alice);
    let locked = "claviger_token_state{token=\"soft\",state=\"locked\"}";
    alice.wait_until("its PIN is refused", |alice| alice.metric(locked) == 1.0);
    alice.stop();

    // They do talk, and of this conversation.
    for (log, words) in [(alice.log(), ["DEBUG", "message not accepted"]), (bob.log(), ["DEBUG", "not sent yet"])] {
        assert!(words.iter().all(|word| log.contains(word)), "{log}");
        silent(&secrets, "the log", &log);
    }
    for agent in [&alice, &bob] {
        let state = agent.home.path().join("state");
        silent(&secrets, "the audit", &fs::read_to_string(state.join("audit.jsonl")).unwrap());
        let guard =
            fs::read_dir(state.join("pin-guard")).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
        silent(&secrets, "the guard of the PIN", &String::from_utf8_lossy(&guard.flatten().collect::<Vec<u8>>()));
    }
}

/// Gives Alice a DID whose key agreement key is known to the test; returns its private half.
fn imported(alice: &mut Daemon) -> Vec<u8> {
    let private: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&PRIVATE[2 * at..2 * at + 2], 16).unwrap()).collect();
    let scalar: [u8; 32] = private.clone().try_into().unwrap();
    let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(scalar));
    let jwk = json!({ "kty": "OKP", "crv": "X25519", "x": BASE64.encode(public), "d": BASE64.encode(&private) });
    alice.home.write("key.jwk", &jwk.to_string());
    let imported = alice.home.run("key import --jwk key.jwk").done().to_owned();
    let known = imported.split_whitespace().next().unwrap();
    fs::remove_file(alice.home.path().join("key.jwk")).unwrap();
    fs::remove_dir_all(alice.home.path().join("state/documents")).unwrap();
    let port = alice.port;
    alice.did = alice.home.did(&format!("--method peer:2 --agreement {known} --service http://127.0.0.1:{port}"));
    private
}
