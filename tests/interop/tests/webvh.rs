//! Logs of did:webvh: `didwebvh-rs` accepts ours, and we accept those of `didwebvh-rs`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use claviger::{
    did::{
        Document, Relationship, Resolver, Service, WebvhResolver,
        webvh::{EntryDraft, KeyChanges, OwnLog},
    },
    keys::{Curve, PublicKey},
};
use claviger_testkit::PrivateKey;
use didwebvh_rs::{Multibase, did_key::generate_did_key, prelude::*};
use logs::{Has, signed};
use serde_json::{Value, json};

#[path = "common/logs.rs"]
mod logs;

fn document(did: &str, agreement: &PublicKey) -> Value {
    Document::builder()
        .method("key-1", agreement, &[Relationship::KeyAgreement])
        .service(Service::didcomm("https://example.com/\u{20ac}?\"\\", []))
        .draft(did)
}

#[tokio::test]
async fn didwebvh_rs_accepts_our_logs() {
    let [update, next, last] = [0; 3].map(|_| PrivateKey::generate(Curve::Ed25519));
    let agreements = [0; 2].map(|_| PrivateKey::generate(Curve::X25519).public().clone());
    let then = SystemTime::now() - Duration::from_secs(3600);
    let draft = EntryDraft::first("example.com%3A8443:a:b", update.public(), |did| document(did, &agreements[0]), then);
    let mut log = OwnLog::read(signed(draft, &update) + "\n").unwrap();
    let did = log.document().id().to_owned();
    let changed = Document::from_value(document(&did, &agreements[1])).unwrap();
    let keys = KeyChanges { update_key: Some(next.public()), next_key: Some(last.public()) };
    log = log.with_entry(&signed(log.draft_next(&changed, keys, then), &update)).unwrap();
    // Pre-rotation: the committed key signs, and ends pre-rotation.
    let keys = KeyChanges { update_key: Some(last.public()), next_key: None };
    log = log.with_entry(&signed(log.draft_next(&changed, keys, then), &last)).unwrap();
    log = log.with_entry(&signed(log.draft_next(&changed, KeyChanges::default(), then), &last)).unwrap();
    for entries in 1..=4 {
        let text: String = log.text().lines().take(entries).map(|line| format!("{line}\n")).collect();
        let mut peer = DIDWebVHState::default();
        let (entry, about) = peer.resolve_log_owned(&did, &text, None).await.unwrap();
        assert_eq!(entry.get_state(), &log.states().nth(entries - 1).unwrap());
        assert_eq!(about.version_id.split('-').next(), Some(entries.to_string().as_str()));
    }
    // The control: a log with one changed character is refused.
    let tampered = log.text().replacen("key-1", "key-2", 1);
    assert!(DIDWebVHState::default().resolve_log_owned(&did, &tampered, None).await.is_err());
}

#[tokio::test]
async fn we_accept_the_logs_of_didwebvh_rs() {
    let keys: Vec<_> = (0..3).map(|_| generate_did_key(KeyType::Ed25519).unwrap().1).collect();
    let multikey = |place: usize| keys[place].get_public_keymultibase().unwrap();
    let parameters = Parameters {
        update_keys: Some(Arc::new(vec![Multibase::new(multikey(0))])),
        portable: Some(true),
        ..Parameters::default()
    };
    let config = CreateDIDConfig::builder()
        .address("https://example.com:8443/a/b/")
        .authorization_key(keys[0].clone())
        .did_document(
            json!({ "@context": ["https://www.w3.org/ns/did/v1"], "id": "{DID}", "alsoKnownAs": ["x:\u{1f600}"] }),
        )
        .parameters(parameters)
        .build()
        .unwrap();
    let created = create_did(config).await.unwrap();
    let first = serde_json::to_string(created.log_entry()).unwrap();
    let did = created.did().to_owned();
    let mut state = DIDWebVHState::default();
    state.resolve_log(&did, &first, None).await.unwrap();
    // `didwebvh-rs` writes whole seconds, and does not ensure that each time is later than the previous one.
    tokio::time::sleep(Duration::from_secs(1)).await;
    state.rotate_keys(vec![Multibase::new(multikey(1))], &keys[0]).await.unwrap();
    let mut changed = state.log_entries()[1].get_state().clone();
    changed["alsoKnownAs"] = json!(["x:changed"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    state.update_document(changed, &keys[1]).await.unwrap();
    let lines: Vec<_> = state.log_entries().iter().map(|it| serde_json::to_string(&it.log_entry).unwrap()).collect();
    for (entries, name) in [(1, "x:\u{1f600}"), (2, "x:\u{1f600}"), (3, "x:changed")] {
        let document = WebvhResolver::new(Has(lines[..entries].join("\n"))).resolve(&did).await.unwrap();
        assert_eq!(document.also_known_as(), [name]);
    }
    let tampered = lines.join("\n").replace("x:changed", "x:chanced");
    assert!(WebvhResolver::new(Has(tampered)).resolve(&did).await.is_err());
}
