//! The local resolver, the cache, and the stores of long forms.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use claviger::{
    did::{
        CacheLimits, CachedResolver, Document, DocumentError, LoadError, LocalResolver, Relationship, ResolveError,
        Resolver, key, local,
        peer::{LongFormFolder, LongForms, Peer4, create_4},
        read_documents,
    },
    keys::PublicKey,
};
use serde_json::json;

fn document(did: &str) -> Document {
    Document::from_value(json!({ "id": did })).unwrap()
}

fn peer4(name: &str) -> Peer4 {
    let key = PublicKey::from_multikey("z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc").unwrap();
    create_4(&Document::builder().method(name, &key, &[Relationship::KeyAgreement]).input()).unwrap()
}

/// A resolver that counts its calls and returns a given result.
struct Scripted {
    calls: AtomicUsize,
    says: fn(&str) -> Result<Document, ResolveError>,
}

#[async_trait]
impl Resolver for Scripted {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
        (self.says)(did).map(Arc::new)
    }
}

fn scripted(says: fn(&str) -> Result<Document, ResolveError>, limits: CacheLimits) -> CachedResolver<Scripted> {
    CachedResolver::with_limits(Scripted { calls: AtomicUsize::new(0), says }, limits)
}

fn calls(cached: &CachedResolver<Scripted>) -> usize {
    cached.inner().calls.load(Ordering::SeqCst)
}

#[tokio::test]
async fn only_given_documents_are_found() {
    let resolver = LocalResolver::new().with_documents([document("did:example:a")]);
    assert_eq!(resolver.resolve("did:example:a").await.unwrap().id(), "did:example:a");
    assert!(matches!(resolver.resolve("did:example:b").await, Err(ResolveError::UnsupportedMethod(_))));
    for not in ["did:example:a#key-1", "did:example", "", "did:example:a "] {
        assert!(matches!(resolver.resolve(not).await, Err(ResolveError::NotADid(_))), "{not}");
    }
}

/// Otherwise a poisoned document could replace the keys that such a DID contains.
#[tokio::test]
async fn a_given_document_never_replaces_a_self_contained_did() {
    let did = "did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc";
    let resolver = LocalResolver::new().with_documents([document(did)]);
    let key = PublicKey::from_multikey(&did[8..]).unwrap();
    assert_eq!(*resolver.resolve(did).await.unwrap(), key::create(&key));
    let broken = "did:key:z6LS";
    let resolver = LocalResolver::new().with_documents([document(broken)]);
    assert!(matches!(resolver.resolve(broken).await, Err(ResolveError::Key { .. })));
}

#[tokio::test]
async fn a_document_of_another_did_is_refused() {
    let cached = scripted(|_| Ok(document("did:example:mallory")), CacheLimits::default());
    for _ in 0..2 {
        let error = cached.resolve("did:example:alice").await.unwrap_err();
        assert!(matches!(error, ResolveError::Document { source: DocumentError::WrongId { .. }, .. }), "{error}");
    }
    assert_eq!(calls(&cached), 1);
    assert!(document("did:example:a").require_id("did:example:b").is_err());
}

#[tokio::test]
async fn documents_are_cached_until_they_expire() {
    let limits = CacheLimits { ttl: Duration::from_secs(2), ..CacheLimits::default() };
    let cached = scripted(|did| Ok(document(did)), limits);
    let many = (0..20).map(|_| cached.resolve("did:example:a"));
    let first = Arc::as_ptr(&cached.resolve("did:example:a").await.unwrap());
    for one in many {
        assert_eq!(Arc::as_ptr(&one.await.unwrap()), first);
    }
    assert_eq!(calls(&cached), 1);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    cached.resolve("did:example:a").await.unwrap();
    assert_eq!(calls(&cached), 2);
    cached.forget("did:example:a");
    cached.resolve("did:example:a").await.unwrap();
    assert_eq!(calls(&cached), 3);
}

#[tokio::test]
async fn concurrent_calls_lead_to_one_resolution() {
    let cached = Arc::new(scripted(|did| Ok(document(did)), CacheLimits::default()));
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let cached = cached.clone();
            tokio::spawn(async move { cached.resolve("did:example:a").await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(calls(&cached), 1);
}

/// Two spellings of one DID have one document, whichever spelling it has.
#[tokio::test]
async fn percent_encodings_are_compared_without_case() {
    let (small, capital) = ("did:web:a.example%3a8080:%c3%bc", "did:web:a.example%3A8080:%C3%BC");
    for id in [small, capital] {
        let given = LocalResolver::new().with_documents([document(id)]);
        assert_eq!(given.resolve(small).await.unwrap().id(), id);
        assert_eq!(given.resolve(capital).await.unwrap().id(), id);
        assert!(document(id).is_about(small) && document(id).is_about(capital));
    }
    let cached = scripted(|_| Ok(document("did:web:a.example%3a8080:%c3%bc")), CacheLimits::default());
    for did in [small, capital, small] {
        assert_eq!(cached.resolve(did).await.unwrap().id(), small);
    }
    assert_eq!(calls(&cached), 1);
    cached.forget(small);
    cached.resolve(capital).await.unwrap();
    assert_eq!(calls(&cached), 2);
    let key = json!({ "kty": "OKP", "crv": "X25519", "x": "9GXjPGGvmRq9F6Ng5dQQ_s31mfhxrcNZxRGONrmH30k" });
    let method =
        json!({ "id": format!("{small}#1"), "type": "JsonWebKey2020", "controller": small, "publicKeyJwk": key });
    let mixed = Document::from_value(json!({ "id": capital, "keyAgreement": [method] })).unwrap();
    for did in [small, capital] {
        assert!(mixed.method(&format!("{did}#1"), Relationship::KeyAgreement).is_some());
        assert!(mixed.method(&format!("{did}#2"), Relationship::KeyAgreement).is_none());
    }
}

/// A call that is cancelled, for example at a deadline, does not leave the others waiting.
#[tokio::test]
async fn a_cancelled_call_does_not_block_others() {
    let cached = scripted(|did| Ok(document(did)), CacheLimits::default());
    let gave_up = tokio::time::timeout(Duration::from_millis(1), cached.resolve("did:example:a")).await;
    assert!(gave_up.is_err());
    assert!(cached.resolve("did:example:a").await.is_ok());
}

#[tokio::test]
async fn failures_are_cached_for_a_shorter_time() {
    let limits = CacheLimits { negative_ttl: Duration::from_secs(2), ..CacheLimits::default() };
    let cached = scripted(|did| Err(ResolveError::not_found(did)), limits);
    for _ in 0..3 {
        assert!(matches!(cached.resolve("did:example:a").await, Err(ResolveError::NotFound(_))));
    }
    assert_eq!(calls(&cached), 1);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert!(cached.resolve("did:example:a").await.is_err());
    assert_eq!(calls(&cached), 2);
    // A text that is not a DID is neither resolved nor cached.
    assert!(matches!(cached.resolve("nonsense").await, Err(ResolveError::NotADid(_))));
    assert_eq!(calls(&cached), 2);
}

#[tokio::test]
async fn the_cache_is_bounded() {
    let cached = scripted(|did| Ok(document(did)), CacheLimits { bytes: 8192, ..CacheLimits::default() });
    let dids: Vec<_> = (0..50).map(|n| format!("did:example:{n}")).collect();
    for did in dids.iter().chain(&dids) {
        cached.resolve(did).await.unwrap();
    }
    assert!(calls(&cached) > 60, "fifty do not fit: {}", calls(&cached));
}

/// A stranger can make any number of DIDs that contain their documents.
#[tokio::test]
async fn contained_documents_have_a_bound_of_their_own_and_displace_no_fetched_one() {
    let cached = scripted(|did| Ok(document(did)), CacheLimits { contained_bytes: 16_384, ..CacheLimits::default() });
    cached.resolve("did:example:a").await.unwrap();
    let dids: Vec<_> = (0..50).map(|n| format!("did:peer:2.{n}")).collect();
    for did in dids.iter().chain(&dids) {
        cached.resolve(did).await.unwrap();
    }
    let made = calls(&cached);
    assert!(made > 61, "fifty do not fit: {made}");
    for did in [&dids[49], "did:example:a"] {
        cached.resolve(did).await.unwrap();
    }
    assert_eq!(calls(&cached), made, "the last one and the fetched one are kept");
}

#[tokio::test]
async fn a_short_form_resolves_once_its_long_form_was_seen() {
    let (resolver, peer) = (local(), peer4("key-1"));
    for _ in 0..2 {
        assert!(matches!(resolver.resolve(peer.short.id()).await, Err(ResolveError::LongFormUnknown(_))));
    }
    resolver.resolve(peer.long.id()).await.unwrap();
    assert_eq!(*resolver.resolve(peer.short.id()).await.unwrap(), peer.short);
}

#[tokio::test]
async fn both_forms_of_a_given_document_resolve() {
    let (one, two) = (peer4("one"), peer4("two"));
    let resolver = LocalResolver::new().with_documents([one.long.clone(), two.short.clone()]);
    assert!(resolver.resolve(one.short.id()).await.is_ok());
    assert!(resolver.resolve(two.short.id()).await.is_ok());
    assert!(resolver.resolve(two.long.id()).await.is_ok());
}

#[tokio::test]
async fn long_forms_are_stored_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Arc::new(LongFormFolder::open(folder.path().join("long"), 2).unwrap());
    let (one, two, three) = (peer4("one"), peer4("two"), peer4("three"));
    let first = open();
    let resolver = LocalResolver::new().with_long_forms(first.clone());
    for peer in [&one, &two, &three] {
        resolver.resolve(peer.long.id()).await.unwrap();
        assert!(resolver.resolve(peer.short.id()).await.is_ok());
    }
    // Resolving alone keeps nothing on the disk: the long form may come from an envelope that does not open.
    let files = || fs::read_dir(folder.path().join("long")).unwrap().count();
    assert_eq!(files(), 0);
    first.keep(one.long.id());
    first.keep(two.long.id());
    first.keep(one.short.id());
    assert_eq!(files(), 2);
    let again = LocalResolver::new().with_long_forms(open());
    assert_eq!(*again.resolve(one.short.id()).await.unwrap(), one.short);
    assert!(again.resolve(two.short.id()).await.is_ok());
    assert!(matches!(again.resolve(three.short.id()).await, Err(ResolveError::LongFormUnknown(_))));

    // The oldest makes room.
    let path = |peer: &Peer4| folder.path().join("long").join(peer.short.id().strip_prefix("did:peer:").unwrap());
    fs::File::options().append(true).open(path(&two)).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    open().keep(three.long.id());
    assert_eq!((files(), path(&two).exists()), (2, false));
    assert!(open().recall(three.short.id()).is_some() && open().recall(one.short.id()).is_some());

    // A damaged file is ignored, and written again when the long form is kept again.
    let file = path(&one);
    fs::write(&file, two.long.id()).unwrap();
    let third = open();
    assert_eq!(third.recall(one.short.id()), None);
    third.keep(one.long.id());
    assert_eq!(fs::read_to_string(&file).unwrap(), one.long.id());
    assert_eq!(third.recall("did:peer:4z/../../etc/passwd"), None);
}

/// The hash of a long form from the store is checked again.
#[tokio::test]
async fn a_wrong_long_form_from_the_store_is_refused() {
    struct Liar(String);
    impl LongForms for Liar {
        fn remember(&self, _: &str) {}
        fn recall(&self, _: &str) -> Option<String> {
            Some(self.0.clone())
        }
    }
    let (one, two) = (peer4("one"), peer4("two"));
    let resolver = LocalResolver::new().with_long_forms(Arc::new(Liar(two.long.id().to_owned())));
    assert!(matches!(resolver.resolve(one.short.id()).await, Err(ResolveError::Peer { .. })));
}

#[test]
fn documents_are_read_from_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, content: &str| fs::write(folder.path().join(name), content).unwrap();
    put("b.json", r#"{"id":"did:example:b"}"#);
    put("a.json", r#"{ "id" : "did:example:a" }"#);
    put("a-again.json", r#"{"id":"did:example:a"}"#);
    put("readme.txt", "not read");
    let read = || read_documents(folder.path());
    let ids: Vec<_> = read().unwrap().iter().map(|(_, document)| document.id().to_owned()).collect();
    assert_eq!(ids, ["did:example:a", "did:example:b"]);
    assert_eq!(read_documents(&folder.path().join("b.json")).unwrap().len(), 1);

    put("c.json", r#"{"id":"did:example:a","x":1}"#);
    assert!(matches!(read(), Err(LoadError::Conflict { path, .. }) if path.ends_with("c.json")));
    put("c.json", "{");
    let error = read().unwrap_err();
    assert!(error.to_string().contains("c.json"), "{error}");
    assert!(matches!(read_documents(&folder.path().join("none")), Err(LoadError::Read { .. })));
}
