//! Messages whose fault shows only when they are opened: they are accepted with 202, then refused; the
//! application never sees them, and the daemon goes on.

use claviger::{didcomm::FORWARD, keys::PublicKey};
use serde_json::{Value, json};

use crate::{
    daemon::Daemon,
    peer::{AGREE, Peer, SIGN},
    support::forge::{Jwe, b64, jws, jws_header},
};

/// A daemon, Alice, who is honest, and Mallory.
struct Attack {
    daemon: Daemon,
    alice: Peer,
    mallory: Peer,
    /// The number of sent messages that the daemon must refuse.
    sent: usize,
}

impl Attack {
    fn new() -> Option<Self> {
        let daemon = Daemon::running("")?;
        Some(Self { daemon, alice: Peer::new("alice"), mallory: Peer::new("mallory"), sent: 0 })
    }

    fn recipient_keys(&self) -> Vec<(String, PublicKey)> {
        self.daemon.agreement_keys()
    }

    /// A plaintext of Alice, to be made invalid.
    fn plaintext(&self) -> Value {
        self.alice.plaintext(&self.daemon.did, "no")
    }

    /// Sends a message that the daemon must accept with 202 and refuse later.
    #[track_caller]
    fn assert_accepted(&mut self, what: &str, packed: impl ToString) {
        assert_eq!(self.daemon.post_status(packed), 202, "{what}");
        self.sent += 1;
    }

    /// Asserts that each of the earlier messages was refused, and that only these contents reached the application.
    #[track_caller]
    fn assert_delivered(self, contents: &[&str]) {
        self.daemon.wait_until_all_opened();
        let refused = self.daemon.log().matches("message refused").count();
        assert_eq!(self.daemon.post_status(self.alice.pack_text(&self.daemon.did, "lunch?")), 202);
        let all = [contents, &["lunch?"]].concat();
        self.daemon
            .wait_until("the honest message arrived", |daemon| daemon.unread_texts().contains(&"lunch?".to_owned()));
        assert_eq!(self.daemon.unread_texts(), all);
        assert_eq!(refused, self.sent, "{}", self.daemon.log());
        assert!(!self.daemon.log().contains("panicked"), "{}", self.daemon.log());
    }
}

#[test]
fn a_sender_cannot_use_the_name_of_another() {
    let Some(mut attack) = Attack::new() else { return };
    let (to, text) = (attack.recipient_keys(), attack.plaintext().to_string());
    let (alice, mallory) = (Peer::new("a"), Peer::new("m"));
    // Mallory's key and kid with Alice's DID in `from`; Alice's kid with Mallory's key.
    attack.assert_accepted("from is not skid's DID", mallory.authcrypt(&to).seal(&text));
    let kid = alice.kid(AGREE[0]);
    let jwe = Jwe::authcrypt_as(&mallory.person, &kid, &mallory.person.agree[0], &to);
    attack.assert_accepted("another's skid", jwe.seal(&text));
    let mut absent = attack.plaintext();
    absent.as_object_mut().unwrap().shift_remove("from");
    attack.assert_accepted("no from", attack.alice.authcrypt(&to).seal(absent.to_string()));
    for from in [format!("{}#key-1", attack.alice.did()), attack.alice.did().to_uppercase(), String::new()] {
        let mut text = attack.plaintext();
        text["from"] = from.into();
        attack.assert_accepted("from is similar to her DID", attack.alice.authcrypt(&to).seal(text.to_string()));
    }
    for others in [json!([mallory.did()]), json!([]), json!([format!("{}#key-1", attack.daemon.did)])] {
        let mut text = attack.plaintext();
        text["to"] = others;
        attack.assert_accepted("to is not us", attack.alice.authcrypt(&to).seal(text.to_string()));
        attack.assert_accepted("to is not us, anonymous", Jwe::anoncrypt(&to).seal(text.to_string()));
    }
    attack.assert_delivered(&[]);
}

#[test]
fn a_key_is_valid_only_for_its_purpose_and_owner() {
    let Some(mut attack) = Attack::new() else { return };
    let (to, text) = (attack.recipient_keys(), attack.plaintext().to_string());
    let alice = &attack.alice;
    let mut messages = Vec::new();
    for skid in [alice.kid(SIGN[0]), alice.kid("key-9"), format!("{}#", alice.did())] {
        messages.push((
            "a skid that is no agreement key",
            Jwe::authcrypt_as(&alice.person, &skid, &alice.person.agree[0], &to).seal(&text),
        ));
    }
    messages.push((
        "a skid on another curve",
        Jwe::authcrypt_as(&alice.person, &alice.kid(AGREE[1]), &alice.person.agree[0], &to).seal(&text),
    ));
    // Signed by a key agreement key, under a key id of Mallory, by Mallory, under no key id, and with invalid headers.
    let key = &alice.person.sign[0];
    let header = jws_header(key.curve());
    let p256 = &alice.person.agree[1];
    let signed = [
        (
            "signed by an agreement key",
            jws(&alice.person, p256, &jws_header(p256.curve()), &json!({"kid": alice.kid(AGREE[1])}), &text),
        ),
        (
            "signed under Mallory's kid",
            jws(&alice.person, key, &header, &json!({"kid": attack.mallory.kid(SIGN[0])}), &text),
        ),
        ("signed by Mallory", attack.mallory.signed(&text)),
        ("signed under no kid", jws(&alice.person, key, &header, &json!({}), &text)),
        ("alg none", jws(&alice.person, key, &json!({"alg": "none"}), &json!({"kid": alice.kid(SIGN[0])}), &text)),
        (
            "crit",
            jws(
                &alice.person,
                key,
                &json!({"alg": "EdDSA", "crit": ["b64"], "b64": false}),
                &json!({"kid": alice.kid(SIGN[0])}),
                &text,
            ),
        ),
    ];
    for (what, inner) in signed {
        messages.push((what, Jwe::anoncrypt(&to).seal(inner.to_string())));
        messages.push((what, alice.authcrypt(&to).seal(inner.to_string())));
    }
    // Mallory sends what Alice signed: for the daemon, as if it were her own; for another recipient; without
    // a recipient.
    messages.push(("another's signature", attack.mallory.authcrypt(&to).seal(alice.signed(&text).to_string())));
    let mut elsewhere = attack.plaintext();
    elsewhere["to"] = json!([attack.mallory.did()]);
    messages.push(("signed for another", Jwe::anoncrypt(&to).seal(alice.signed(&elsewhere.to_string()).to_string())));
    elsewhere.as_object_mut().unwrap().shift_remove("to");
    messages.push(("signed for nobody", Jwe::anoncrypt(&to).seal(alice.signed(&elsewhere.to_string()).to_string())));
    for (what, packed) in messages {
        attack.assert_accepted(what, packed);
    }
    // For comparison, a valid one: the sender is the signer.
    let mut text = attack.plaintext();
    text["body"]["content"] = "signed".into();
    let packed = attack.alice.authcrypt(&to).seal(attack.alice.signed(&text.to_string()).to_string());
    assert_eq!(attack.daemon.post_status(packed), 202);
    attack.assert_delivered(&["signed"]);
}

#[test]
fn broken_ciphertext_and_malformed_plaintext_are_refused() {
    let Some(mut attack) = Attack::new() else { return };
    let (to, text) = (attack.recipient_keys(), attack.plaintext().to_string());
    for pointer in ["/recipients/0/encrypted_key", "/tag", "/ciphertext", "/iv"] {
        let mut packed = attack.alice.authcrypt(&to).seal(&text);
        let value = packed.pointer_mut(pointer).unwrap();
        let first = if value.as_str().unwrap().starts_with('A') { "B" } else { "A" };
        *value = format!("{first}{}", &value.as_str().unwrap()[1..]).into();
        attack.assert_accepted(pointer, packed);
    }
    let twice = format!(r#"{{"from":"did:example:x",{}"#, &text[1..]);
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let bomb = text.replacen(r#""body":{"#, &format!(r#""body":{{"x":{deep},"#), 1);
    let mut without_id = attack.plaintext();
    without_id.as_object_mut().unwrap().shift_remove("id");
    for inner in ["", "[]", "no message", "\u{0}", "{}", &twice, &bomb, &without_id.to_string()] {
        attack.assert_accepted("no message", attack.alice.authcrypt(&to).seal(inner));
    }
    attack.assert_delivered(&[]);
}

#[test]
fn unsupported_nesting_and_forwards_are_refused() {
    let Some(mut attack) = Attack::new() else { return };
    let (to, text) = (attack.recipient_keys(), attack.plaintext().to_string());
    let (did, did2) = (attack.daemon.did.clone(), attack.mallory.did().to_owned());
    let auth = |inner: &str| attack.alice.authcrypt(&to).seal(inner).to_string();
    let anon = |inner: &str| Jwe::anoncrypt(&to).seal(inner).to_string();
    let forward = |next: &str, inner: &[&str]| {
        let attachments: Vec<Value> = inner.iter().map(|it| json!({"data": {"base64": b64(it)}})).collect();
        let text = json!({
            "id": crate::peer::seconds().to_string(), "type": FORWARD, "to": [did],
            "body": {"next": next}, "attachments": attachments,
        });
        anon(&text.to_string())
    };
    let bad = [
        auth(&auth(&text)),
        auth(&anon(&text)),
        anon(&anon(&text)),
        anon(&auth(&auth(&text))),
        anon(&attack.alice.signed(&attack.alice.signed(&text).to_string()).to_string()),
        forward(&did, &[&forward(&did, &[&auth(&text)])]),
        forward(&did, &[&auth(&text), &auth(&text)]),
        forward(&did, &[]),
        forward(&did, &[&attack.plaintext().to_string()]),
    ];
    let mut fine = attack.plaintext();
    fine["body"]["content"] = "forwarded".into();
    let fine = forward(&did, &[&auth(&fine.to_string())]);
    let elsewhere = forward(&did2, &[&auth(&text)]);
    for (number, packed) in bad.into_iter().enumerate() {
        attack.assert_accepted(&format!("bad {number}"), packed);
    }
    assert_eq!(attack.daemon.post_status(fine), 202);
    // The agent is no mediator: it does not forward to another DID.
    assert_eq!(attack.daemon.post_status(elsewhere), 202);
    attack.assert_delivered(&["forwarded"]);
}
