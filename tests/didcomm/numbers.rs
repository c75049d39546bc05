//! Numbers in messages keep all their digits, wherever they are, in each form in which a message exists (feature
//! `exact-numbers`).

use std::sync::LazyLock;

use claviger::{
    did::{self, Document, Relationship, Resolver, peer},
    didcomm::{Identities, Message, UnpackOptions},
    keys::Curve,
};
use claviger_testkit::SoftToken;
use proptest::{collection, prelude::*};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::support::identities;

static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// Alice, who writes to herself.
struct World {
    runtime: Runtime,
    alice: Document,
    me: Identities,
    resolver: Box<dyn Resolver>,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let token = SoftToken::new("alice");
        let keys = [
            (Relationship::KeyAgreement, token.make(Curve::X25519)),
            (Relationship::Authentication, token.make(Curve::Ed25519)),
        ];
        let alice = peer::create_2(&keys, &[]).unwrap();
        let me = runtime.block_on(identities(&token, [alice.clone()]));
        Self { runtime, alice, me, resolver: Box::new(did::local()) }
    }

    /// Packs a message, signed and encrypted, and unpacks it.
    fn send(&self, message: &Message) -> Message {
        let did = self.alice.id();
        self.runtime.block_on(async {
            let packing = message.encrypt_to(did).from(did).sign_by(did);
            let (packed, _) = packing.pack(&*self.resolver, &self.me).await.unwrap();
            Message::unpack(&packed, &*self.resolver, &self.me, &UnpackOptions::default()).await.unwrap().0
        })
    }
}

#[derive(Deserialize)]
struct Stored {
    message: Message,
}

/// Any number of JSON (RFC 8259 section 6).
fn numbers() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "-?(0|[1-9][0-9]{0,60})(\\.[0-9]{1,60})?([eE][+-]?[0-9]{1,5})?",
        1 => any::<u64>().prop_map(|number| number.to_string()),
        1 => any::<i64>().prop_map(|number| number.to_string()),
        1 => any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(|number| format!("{number:?}")),
        1 => any::<u128>().prop_map(|number| number.to_string()),
        1 => prop::sample::select(vec![
            "0", "-0", "0.0", "-0.0", "1e400", "-1e400", "1E5", "1e-400", "1.50", "18446744073709551616",
            "-9223372036854775809", "9007199254740993", "123456789012345678901",
        ]).prop_map(str::to_owned),
    ]
}

/// The number as it is written: the letter of an exponent in lower case, and its sign always present.
fn written(number: &str) -> String {
    match number.split_once(['e', 'E']) {
        Some((digits, exponent)) if exponent.starts_with(['+', '-']) => format!("{digits}e{exponent}"),
        Some((digits, exponent)) => format!("{digits}e+{exponent}"),
        None => number.to_owned(),
    }
}

/// A message with these numbers in its body, in headers, and in its attachments.
fn message(numbers: &[String], write: fn(&str) -> String) -> String {
    let numbers: Vec<String> = numbers.iter().map(|number| write(number)).collect();
    let (array, first) = (numbers.join(","), &numbers[0]);
    let (from, to) = (WORLD.alice.id(), WORLD.alice.id());
    format!(
        r#"{{"id":"1","typ":"application/didcomm-plain+json","type":"https://example.org/a/1.0/b","body":{{"deep":[[{{"n":[{array}]}}]],"n":{first}}},"from":"{from}","to":["{to}"],"attachments":[{{"id":"1","data":{{"json":[{array}],"more":{first}}},"more":{first}}}],"x-number":{first},"x-numbers":{{"a":[{array}]}}}}"#
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn numbers_keep_their_digits(numbers in collection::vec(numbers(), 1..6)) {
        let text = message(&numbers, str::to_owned);
        let expected = message(&numbers, written);
        let read = Message::from_json(&text).unwrap();
        prop_assert_eq!(&read.to_json(), &expected);
        // As a part of something else that is stored.
        let stored = serde_json::to_vec(&json!({ "message": read })).unwrap();
        prop_assert_eq!(&serde_json::from_slice::<Stored>(&stored).unwrap().message, &read);
        // As a value. `serde_json` reads an integer -0 in a value as 0.
        if !numbers.contains(&"-0".to_owned()) {
            let value: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&serde_json::from_value::<Message>(value).unwrap(), &read);
        }
        prop_assert_eq!(&WORLD.send(&read).to_json(), &expected);
    }
}
