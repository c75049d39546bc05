//! did:webvh: logs of other implementations, and logs that each violate one rule.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use crate::webvh_logs::{Log, hash, key, multikey, proof, proof_for};
use async_trait::async_trait;
use claviger::did::{
    CacheLimits, CachedResolver, Document, Fetch, FetchError, FetchResponse, Relationship, ResolveError, Resolver,
    WebError, WebvhError, WebvhResolver,
    webvh::{EntryFault, ParameterFault, ProofFault},
};
use serde_json::{Value, json};

/// The files of a server, and the requests for them.
#[derive(Clone, Default)]
struct Files {
    files: HashMap<String, Vec<u8>>,
    requests: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Fetch for Files {
    async fn fetch(&self, url: &str, _: &str, limit: usize) -> Result<FetchResponse, FetchError> {
        self.requests.lock().unwrap().push(url.to_owned());
        match self.files.get(url) {
            None => Ok(FetchResponse { status: 404, body: Vec::new() }),
            Some(body) => {
                assert!(body.len() <= limit);
                Ok(FetchResponse { status: 200, body: body.clone() })
            }
        }
    }
}

/// Resolves a DID whose log is at the root of example.com, optionally with witness proofs.
async fn resolve(did: &str, log: &str, witnesses: Option<&str>) -> Result<Arc<Document>, ResolveError> {
    let mut files = Files::default();
    files.files.insert("https://example.com/.well-known/did.jsonl".to_owned(), log.into());
    if let Some(witnesses) = witnesses {
        files.files.insert("https://example.com/.well-known/did-witness.json".to_owned(), witnesses.into());
    }
    WebvhResolver::new(files).resolve(did).await
}

fn webvh_error(outcome: Result<Arc<Document>, ResolveError>) -> WebvhError {
    match outcome {
        Err(ResolveError::Webvh { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

async fn fault(log: &Log) -> (usize, EntryFault) {
    let did = format!("did:webvh:{}:example.com", log.scid);
    match webvh_error(resolve(&did, &log.text(), None).await) {
        WebvhError::Entry { number, fault } => (number, fault),
        other => panic!("{other}"),
    }
}

/// A log with one entry, signed by key 1.
fn plain() -> Log {
    Log::new("example.com", &key(1), |_| {})
}

/// A log whose first entry commits to key 2.
fn pre_rotated() -> Log {
    Log::new("example.com", &key(1), |it| it["parameters"]["nextKeyHashes"] = json!([hash(&multikey(&key(2)))]))
}

fn last_state(log: &str) -> Value {
    serde_json::from_str::<Value>(log.lines().last().unwrap()).unwrap()["state"].clone()
}

#[tokio::test]
async fn logs_of_other_implementations_are_verified() {
    macro_rules! vector {
        ($name:literal) => {
            ($name, include_str!(concat!("../vectors/did/webvh/", $name, ".jsonl")))
        };
    }
    for (name, log) in [
        vector!("basic-create"),
        vector!("multi-update"),
        vector!("key-rotation"),
        vector!("multiple-update-keys"),
        vector!("pre-rotation-consume"),
        vector!("services"),
    ] {
        let state = last_state(log);
        let document = resolve(state["id"].as_str().unwrap(), log, None).await;
        assert_eq!(document.unwrap_or_else(|error| panic!("{name}: {error}")).as_value(), &state, "{name}");
    }
    let (_, log) = vector!("deactivate");
    let state = last_state(log);
    let error = webvh_error(resolve(state["id"].as_str().unwrap(), log, None).await);
    assert_eq!(error, WebvhError::Deactivated);
}

/// The DID resolves at its new location, and by its former name where its log is still served ("Read (Resolve)": one entry
/// has the requested DID as `id`). The document is the newest one.
#[tokio::test]
async fn a_portable_did_resolves_by_each_of_its_names() {
    let log = include_str!("../vectors/did/webvh/portable-move.jsonl");
    let state = last_state(log);
    let did = state["id"].as_str().unwrap();
    let files = |url: &str| Files { files: HashMap::from([(url.to_owned(), log.into())]), ..Files::default() };
    let url = claviger::did::webvh::url(did).unwrap();
    assert_ne!(url, "https://example.com/.well-known/did.jsonl");
    let first: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    let former = first["state"]["id"].as_str().unwrap();
    let moved = WebvhResolver::new(files(&url)).resolve(did).await.unwrap();
    let by_former_name = CachedResolver::new(WebvhResolver::new(files("https://example.com/.well-known/did.jsonl")))
        .resolve(former)
        .await
        .unwrap();
    for document in [&moved, &by_former_name] {
        assert_eq!((document.id(), document.as_value()), (did, &state));
        assert!(document.is_about(did) && document.is_about(former) && !document.is_about("did:web:example.com"));
    }
    // A key is found under each name.
    let method = &moved.all_methods()[0];
    let fragment = method.id.split_once('#').unwrap().1;
    for relationship in Relationship::ALL.into_iter().filter(|it| moved.methods(*it).any(|it| it.id == method.id)) {
        for name in [did, former] {
            assert_eq!(moved.method(&format!("{name}#{fragment}"), relationship).map(|it| &it.id), Some(&method.id));
        }
    }
    // A name that the document only claims is not one of its names.
    let claims = Log::new("example.com", &key(1), |it| it["state"]["alsoKnownAs"] = json!(["did:web:example.com"]));
    let document = resolve(&claims.did(), &claims.text(), None).await.unwrap();
    assert!(!document.is_about("did:web:example.com"));
}

/// A log of version 0.5 is read by the rules of that version, and may be continued under version 1.0, but not the other way
/// round ("did:webvh DID Method Parameters", `method`).
#[tokio::test]
async fn a_log_of_version_0_5_is_continued_under_1_0() {
    let older = |change: fn(&mut Value)| {
        Log::new("example.com", &key(1), |it| {
            it["parameters"]["method"] = "did:webvh:0.5".into();
            change(it);
        })
    };
    let upgraded = |log: Log| log.and(&key(1), |it| it["parameters"] = json!({ "method": "did:webvh:1.0" }));
    let with_older_purpose = {
        let mut log = older(|_| {});
        let mut entry = log.entries[0].clone();
        entry.as_object_mut().unwrap().remove("proof");
        entry["proof"] = json!([proof_for(&entry, &key(1), "authentication")]);
        log.entries[0] = entry;
        log
    };
    for log in [
        older(|_| {}),
        // Version 0.5 writes `null` for what is not active.
        older(|it| it["parameters"]["nextKeyHashes"] = Value::Null).and(&key(1), |_| {}),
        // As didwebvh-ts writes it.
        older(|it| {
            it["parameters"]["nextKeyHashes"] = json!([]);
            it["parameters"]["witness"] = json!({ "witnesses": [], "threshold": 0 });
        })
        .and(&key(1), |_| {}),
        upgraded(older(|_| {})).and(&key(1), |it| it["parameters"]["watchers"] = json!([])),
        with_older_purpose,
    ] {
        let document = resolve(&log.did(), &log.text(), None).await.unwrap();
        assert_eq!(document.as_value(), &log.entries.last().unwrap()["state"]);
    }
    use EntryFault::{Parameters, Proof};
    let back = upgraded(older(|_| {})).and(&key(1), |it| it["parameters"] = json!({ "method": "did:webvh:0.5" }));
    let watched = older(|it| it["parameters"]["watchers"] = json!([]));
    let mut newer = plain();
    let mut entry = newer.entries[0].clone();
    entry.as_object_mut().unwrap().remove("proof");
    entry["proof"] = json!([proof_for(&entry, &key(1), "authentication")]);
    newer.entries[0] = entry;
    for (log, expected) in [
        (back, (3, Parameters(ParameterFault::Value("method")))),
        (watched, (1, Parameters(ParameterFault::Unknown("watchers".to_owned())))),
        (newer, (1, Proof(ProofFault::Member("proofPurpose")))),
        (
            older(|it| it["parameters"]["witness"] = witness(json!(1), &[11])),
            (1, Parameters(ParameterFault::Value("witness"))),
        ),
    ] {
        assert_eq!(fault(&log).await, expected);
    }
}

/// In version 0.5, witnesses have weights, and approve the entries after the one that names them, except for the first.
#[tokio::test]
async fn witnesses_of_version_0_5_have_weights() {
    let weighted = |threshold: u64, weights: &[(u8, u64)]| {
        let of = |(seed, weight): &(u8, u64)| json!({ "id": format!("did:key:{}", multikey(&key(*seed))), "weight": weight });
        json!({ "threshold": threshold, "witnesses": weights.iter().map(of).collect::<Vec<_>>() })
    };
    let older = Log::new("example.com", &key(1), |it| it["parameters"]["method"] = "did:webvh:0.5".into());
    let log = older
        .clone()
        .and(&key(1), |it| it["parameters"]["witness"] = weighted(3, &[(11, 1), (12, 2), (13, 2)]))
        .and(&key(1), |_| {})
        .and(&key(1), |it| it["parameters"] = json!({ "method": "did:webvh:1.0", "witness": {} }))
        .and(&key(1), |_| {});
    let approve = |number: usize, seeds: &[u8]| {
        let version = json!({ "versionId": log.version(number) });
        let proofs: Vec<_> = seeds.iter().map(|seed| proof(&version, &key(*seed))).collect();
        json!([{ "versionId": version["versionId"], "proof": proofs }])
    };
    let check = async |file: Value| resolve(&log.did(), &log.text(), Some(&file.to_string())).await;
    check(approve(4, &[12, 13])).await.unwrap();
    check(approve(4, &[11, 12])).await.unwrap();
    for (file, number, approvals) in
        [(json!([]), 3, 0), (approve(4, &[12]), 3, 2), (approve(3, &[11, 13]), 4, 0), (approve(2, &[11, 12]), 3, 0)]
    {
        let error = webvh_error(check(file).await);
        assert_eq!(error, WebvhError::Witnesses { number, approvals, threshold: 3 });
    }
    for wrong in [weighted(6, &[(11, 5)]), weighted(1, &[]), witness(json!(1), &[11]), weighted(1, &[(11, u64::MAX)])] {
        let log = older.clone().and(&key(1), |it| it["parameters"]["witness"] = wrong.clone());
        assert_eq!(fault(&log).await, (2, EntryFault::Parameters(ParameterFault::Value("witness"))), "{wrong}");
    }
}

/// The controller says how long the document may be cached. The operator says how often it may be fetched at most.
#[tokio::test]
async fn the_time_to_live_is_heeded() {
    let fetches = async |ttl: Value, limits: CacheLimits| {
        let log = Log::new("example.com", &key(1), |it| it["parameters"]["ttl"] = ttl);
        let mut files = Files::default();
        files.files.insert("https://example.com/.well-known/did.jsonl".to_owned(), log.text().into());
        let resolver = CachedResolver::with_limits(WebvhResolver::new(files.clone()), limits);
        for _ in 0..3 {
            resolver.resolve(&log.did()).await.unwrap();
            tokio::time::sleep(limits.refetch_interval).await;
        }
        files.requests.lock().unwrap().len()
    };
    let often = CacheLimits { refetch_interval: Duration::from_millis(1), ..CacheLimits::default() };
    assert_eq!(fetches(json!(0), often).await, 3);
    for longer in [json!(3600), json!(60), Value::Null] {
        assert_eq!(fetches(longer, often).await, 1);
    }
    let seldom = CacheLimits { refetch_interval: Duration::from_secs(1), ..often };
    let log = Log::new("example.com", &key(1), |it| it["parameters"]["ttl"] = json!(0));
    let mut files = Files::default();
    files.files.insert("https://example.com/.well-known/did.jsonl".to_owned(), log.text().into());
    let resolver = CachedResolver::with_limits(WebvhResolver::new(files.clone()), seldom);
    for _ in 0..20 {
        resolver.resolve(&log.did()).await.unwrap();
    }
    assert!(files.requests.lock().unwrap().len() < 10, "a stranger's ttl must not cause a fetch for each message");
}

#[tokio::test]
async fn witness_proofs_of_other_implementations_are_verified() {
    let log = include_str!("../vectors/did/webvh/witness-threshold.jsonl");
    let proofs = include_str!("../vectors/did/webvh/witness-threshold.witness.json");
    let state = last_state(log);
    let did = state["id"].as_str().unwrap();
    assert_eq!(resolve(did, log, Some(proofs)).await.unwrap().as_value(), &state);
    let error = webvh_error(resolve(did, log, None).await);
    assert!(matches!(error, WebvhError::Witnesses { number: 1, approvals: 0, .. }), "{error}");
    assert_eq!(webvh_error(resolve(did, log, Some("{}")).await), WebvhError::WitnessFile);
}

/// The previous witnesses must approve an entry that names new ones ("Witness Lists"). Implementations differ: of those
/// in the test suite, didwebvh-java accepts the new witnesses; didwebvh-py and didwebvh-rs do not.
#[tokio::test]
async fn new_witnesses_cannot_approve_their_own_entry() {
    let log = include_str!("../vectors/did/webvh/witness-update.jsonl");
    let proofs = include_str!("../vectors/did/webvh/witness-update.witness.json");
    let state = last_state(log);
    let error = webvh_error(resolve(state["id"].as_str().unwrap(), log, Some(proofs)).await);
    assert_eq!(error, WebvhError::Witnesses { number: 2, approvals: 1, threshold: 2 });
}

#[tokio::test]
async fn every_valid_log_is_accepted() {
    let two = Log::new("example.com", &key(1), |it| {
        it["parameters"]["updateKeys"] = json!([multikey(&key(1)), multikey(&key(2))]);
        it["parameters"]["ttl"] = json!(300);
        it["parameters"]["watchers"] = json!(["https://watcher.example"]);
        it["state"]["{SCID}"] = json!([1.5e300, "{SCID}"]);
    });
    for log in [
        plain(),
        two.clone(),
        // The previous keys sign this entry. The keys that it names sign the next one.
        plain().and(&key(1), |it| it["parameters"]["updateKeys"] = json!([multikey(&key(2))])).and(&key(2), |_| {}),
        two.and(&key(2), |it| it["versionTime"] = "2024-01-01T00:00:00.001+00:00".into()),
        // With pre-rotation, an entry is signed by its own keys. An empty list ends pre-rotation.
        pre_rotated()
            .and(&key(2), |it| it["parameters"] = json!({ "updateKeys": [multikey(&key(2))], "nextKeyHashes": [] }))
            .and(&key(2), |it| it["parameters"]["updateKeys"] = json!([multikey(&key(3))]))
            .and(&key(3), |_| {}),
        // Early implementations write `null` for the default.
        plain().and(&key(1), |it| it["parameters"] = json!({ "nextKeyHashes": null, "witness": null, "ttl": null })),
        // A single proof, not in a list.
        plain().but(1, |it| it["proof"] = it["proof"][0].clone()),
        // The clock of the controller may be some minutes ahead.
        plain().and(&key(1), |it| {
            let ahead = SystemTime::now() + Duration::from_secs(240);
            it["versionTime"] = humantime(ahead).into();
        }),
    ] {
        let document = resolve(&log.did(), &log.text(), None).await.unwrap();
        assert_eq!(document.as_value(), &log.entries.last().unwrap()["state"]);
        // The last line needs no line feed.
        resolve(&log.did(), log.text().trim_end(), None).await.unwrap();
    }
}

fn humantime(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[tokio::test]
async fn every_invalid_log_is_refused() {
    use EntryFault::{Future, Id, Json, Member, Moved, Order, Parameters, Proof, Scid, Time, Version};
    use ParameterFault::{FirstOnly, NotCommitted, PreRotation, Unknown, Value as Wrong};
    let scid = "QmRRaLXwc6BjBuBPosSupJwEQ8w9f3znP7yfbpGfwcnLr6";
    let other = format!("did:webvh:{scid}:example.com");
    let two = || multikey(&key(2));
    let next = |parameters: Value| plain().and(&key(1), |it| it["parameters"] = parameters);
    let first = |name: &str, value: Value| Log::new("example.com", &key(1), |it| it["parameters"][name] = value);
    let cases = vec![
        // The entry was changed after it was signed.
        ("a document changed", plain().but(1, |it| it["state"]["x"] = 1.into()), 1, Proof(ProofFault::Signature)),
        (
            "a time changed",
            plain().but(1, |it| it["versionTime"] = "2024-01-02T00:00:00Z".into()),
            1,
            Proof(ProofFault::Signature),
        ),
        (
            "no proof",
            plain().but(1, |it| drop(it.as_object_mut().unwrap().remove("proof"))),
            1,
            Proof(ProofFault::Missing),
        ),
        ("an empty list of proofs", plain().but(1, |it| it["proof"] = json!([])), 1, Proof(ProofFault::Missing)),
        ("a proof in words", plain().but(1, |it| it["proof"] = json!(["yes"])), 1, Proof(ProofFault::Missing)),
        (
            "eleven proofs",
            plain().but(1, |it| it["proof"] = Value::Array(vec![it["proof"][0].clone(); 11])),
            1,
            Proof(ProofFault::TooMany),
        ),
        (
            "another cryptosuite",
            plain().but(1, |it| it["proof"][0]["cryptosuite"] = "eddsa-rdfc-2022".into()),
            1,
            Proof(ProofFault::Member("cryptosuite")),
        ),
        (
            "no cryptosuite",
            plain().but(1, |it| drop(it["proof"][0].as_object_mut().unwrap().remove("cryptosuite"))),
            1,
            Proof(ProofFault::Member("cryptosuite")),
        ),
        (
            "another purpose",
            plain().but(1, |it| it["proof"][0]["proofPurpose"] = "authentication".into()),
            1,
            Proof(ProofFault::Member("proofPurpose")),
        ),
        (
            "another type",
            plain().but(1, |it| it["proof"][0]["type"] = "Ed25519Signature2020".into()),
            1,
            Proof(ProofFault::Member("type")),
        ),
        (
            "a context",
            plain().but(1, |it| it["proof"][0]["@context"] = json!([])),
            1,
            Proof(ProofFault::Member("@context")),
        ),
        (
            "a proof's time changed",
            plain().but(1, |it| it["proof"][0]["created"] = "2025-01-01T00:00:00Z".into()),
            1,
            Proof(ProofFault::Signature),
        ),
        (
            "a short signature",
            plain().but(1, |it| it["proof"][0]["proofValue"] = "z2".into()),
            1,
            Proof(ProofFault::Member("proofValue")),
        ),
        (
            "a signature that is no base58",
            plain().but(1, |it| it["proof"][0]["proofValue"] = "u0".into()),
            1,
            Proof(ProofFault::Member("proofValue")),
        ),
        // The key that signs.
        (
            "a first entry by another",
            Log::new("example.com", &key(1), |it| it["parameters"]["updateKeys"] = json!([two()])),
            1,
            Proof(ProofFault::Key),
        ),
        ("an entry by another", plain().and(&key(2), |_| {}), 2, Proof(ProofFault::Key)),
        (
            "an entry by the key that it names",
            plain().and(&key(2), |it| it["parameters"]["updateKeys"] = json!([two()])),
            2,
            Proof(ProofFault::Key),
        ),
        ("a former key", next(json!({ "updateKeys": [two()] })).and(&key(1), |_| {}), 3, Proof(ProofFault::Key)),
        ("no keys any more", next(json!({ "updateKeys": [] })).and(&key(1), |_| {}), 3, Proof(ProofFault::Key)),
        (
            "one right proof and one wrong",
            plain().but(1, |it| {
                let mut unsigned = it.clone();
                unsigned.as_object_mut().unwrap().remove("proof");
                it["proof"].as_array_mut().unwrap().push(proof(&unsigned, &key(2)));
            }),
            1,
            Proof(ProofFault::Key),
        ),
        // The negative vector "did-key-body-fragment-mismatch" of the test suite.
        (
            "another's name for the key",
            plain().but(1, |it| {
                it["proof"][0]["verificationMethod"] = format!("did:key:{}#{}", two(), multikey(&key(1))).into();
            }),
            1,
            Proof(ProofFault::Member("verificationMethod")),
        ),
        (
            "a key by another's DID",
            plain().but(1, |it| it["proof"][0]["verificationMethod"] = "did:web:a#b".into()),
            1,
            Proof(ProofFault::Member("verificationMethod")),
        ),
        // The chain of hashes.
        (
            "a lost entry",
            {
                let mut log = plain().and(&key(1), |_| {}).and(&key(1), |_| {});
                log.entries.remove(1);
                log
            },
            2,
            Version,
        ),
        (
            "an entry twice",
            {
                let mut log = plain().and(&key(1), |_| {});
                log.entries.push(log.entries[1].clone());
                log
            },
            3,
            Order,
        ),
        (
            "the first is missing",
            {
                let mut log = plain().and(&key(1), |_| {});
                log.entries.remove(0);
                log
            },
            1,
            Parameters(Wrong("scid")),
        ),
        (
            "another log's entry",
            {
                let mut log = plain();
                let stranger = Log::new("example.com", &key(1), |it| it["state"]["x"] = 1.into()).and(&key(1), |_| {});
                log.entries.push(stranger.entries[1].clone());
                log
            },
            2,
            Version,
        ),
        (
            "another number",
            resigned(plain(), |it| it["versionId"] = it["versionId"].as_str().unwrap().replacen('1', "01", 1).into()),
            1,
            Version,
        ),
        (
            "two dashes",
            resigned(plain(), |it| it["versionId"] = it["versionId"].as_str().unwrap().replacen('-', "--", 1).into()),
            1,
            Version,
        ),
        ("no hash", resigned(plain(), |it| it["versionId"] = "1".into()), 1, Version),
        ("another document under the same hash", resigned(plain(), |it| it["state"]["x"] = 1.into()), 1, Version),
        // The SCID.
        ("another SCID than its own", with_scid(scid), 1, Scid),
        (
            "a document with another SCID",
            Log::new("example.com", &key(1), |it| it["state"]["id"] = other.clone().into()),
            1,
            Id,
        ),
        (
            "no SCID",
            Log::new("example.com", &key(1), |it| drop(it["parameters"].as_object_mut().unwrap().remove("scid"))),
            1,
            Parameters(Wrong("scid")),
        ),
        ("a SCID later", next(json!({ "scid": scid })), 2, Parameters(FirstOnly("scid"))),
        // Time.
        ("no zone", Log::new("example.com", &key(1), |it| it["versionTime"] = "2024-01-01T00:00:00".into()), 1, Time),
        (
            "another zone",
            Log::new("example.com", &key(1), |it| it["versionTime"] = "2024-01-01T00:00:00+01:00".into()),
            1,
            Time,
        ),
        ("the same time", plain().and(&key(1), |it| it["versionTime"] = "2024-01-01T00:00:00Z".into()), 2, Order),
        ("an earlier time", plain().and(&key(1), |it| it["versionTime"] = "2023-12-31T00:00:00Z".into()), 2, Order),
        (
            "a time to come",
            plain()
                .and(&key(1), |it| it["versionTime"] = humantime(SystemTime::now() + Duration::from_secs(400)).into()),
            2,
            Future,
        ),
        // The `id` of the document.
        ("another's id", plain().and(&key(1), |it| it["state"]["id"] = other.clone().into()), 2, Id),
        ("an id of another method", plain().and(&key(1), |it| it["state"]["id"] = "did:web:example.com".into()), 2, Id),
        (
            "an id with a query",
            plain()
                .and(&key(1), |it| it["state"]["id"] = format!("{}:a?b", it["state"]["id"].as_str().unwrap()).into()),
            2,
            Id,
        ),
        ("no id", plain().and(&key(1), |it| it["state"] = json!({})), 2, Member("state")),
        ("a move of one that is not portable", moved(plain(), true), 2, Moved),
        ("a move that does not say from where", moved(first("portable", true.into()), false), 2, Moved),
        (
            "a move after it was given up",
            moved(first("portable", true.into()).and(&key(1), |it| it["parameters"]["portable"] = false.into()), true),
            3,
            Moved,
        ),
        // Parameters.
        ("a method of tomorrow", first("method", "did:webvh:99.0".into()), 1, Parameters(Wrong("method"))),
        ("a candidate", first("method", "did:webvh:1.0-rc1".into()), 1, Parameters(Wrong("method"))),
        ("an older method", next(json!({ "method": "did:webvh:0.5" })), 2, Parameters(Wrong("method"))),
        (
            "no method",
            Log::new("example.com", &key(1), |it| drop(it["parameters"].as_object_mut().unwrap().remove("method"))),
            1,
            Parameters(Wrong("method")),
        ),
        (
            "no keys",
            Log::new("example.com", &key(1), |it| drop(it["parameters"].as_object_mut().unwrap().remove("updateKeys"))),
            1,
            Parameters(Wrong("updateKeys")),
        ),
        ("keys that are none", next(json!({ "updateKeys": [1] })), 2, Parameters(Wrong("updateKeys"))),
        ("portable later", next(json!({ "portable": true })), 2, Parameters(FirstOnly("portable"))),
        ("a lifetime in words", next(json!({ "ttl": "3600" })), 2, Parameters(Wrong("ttl"))),
        ("deactivated in words", next(json!({ "deactivated": "true" })), 2, Parameters(Wrong("deactivated"))),
        (
            "one that nobody knows",
            next(json!({ "prerotation": true })),
            2,
            Parameters(Unknown("prerotation".to_owned())),
        ),
        ("no parameters", plain().and(&key(1), |it| it["parameters"] = "none".into()), 2, Member("parameters")),
        // Pre-rotation: "pre-rotation-omit-updatekeys" of the test suite, and more.
        (
            "keys are left out",
            pre_rotated().and(&key(1), |it| it["parameters"]["nextKeyHashes"] = json!([])),
            2,
            Parameters(PreRotation("updateKeys")),
        ),
        (
            "hashes are left out",
            pre_rotated().and(&key(2), |it| it["parameters"]["updateKeys"] = json!([two()])),
            2,
            Parameters(PreRotation("nextKeyHashes")),
        ),
        (
            "a key without its hash",
            pre_rotated().and(&key(3), |it| {
                it["parameters"] = json!({ "updateKeys": [multikey(&key(3))], "nextKeyHashes": [] });
            }),
            2,
            Parameters(NotCommitted(multikey(&key(3)))),
        ),
        (
            "the former key beside the next",
            pre_rotated().and(&key(2), |it| {
                it["parameters"] = json!({ "updateKeys": [two(), multikey(&key(1))], "nextKeyHashes": [] });
            }),
            2,
            Parameters(NotCommitted(multikey(&key(1)))),
        ),
        (
            "the former key signs",
            pre_rotated().and(&key(1), |it| {
                it["parameters"] = json!({ "updateKeys": [two()], "nextKeyHashes": [] });
            }),
            2,
            Proof(ProofFault::Key),
        ),
        // Invalid witnesses: "zero-witness-threshold" and "duplicate-witness-ids" of the test suite, and more.
        ("no threshold", first("witness", witness(json!(null), &[2])), 1, Parameters(Wrong("witness"))),
        ("a threshold of none", first("witness", witness(json!(0), &[2])), 1, Parameters(Wrong("witness"))),
        ("a threshold of half", first("witness", witness(json!(0.5), &[2])), 1, Parameters(Wrong("witness"))),
        ("a threshold over all", first("witness", witness(json!(2), &[2])), 1, Parameters(Wrong("witness"))),
        ("a witness twice", first("witness", witness(json!(2), &[2, 2])), 1, Parameters(Wrong("witness"))),
        ("no witnesses", first("witness", witness(json!(1), &[])), 1, Parameters(Wrong("witness"))),
        (
            "a witness with another key",
            first(
                "witness",
                json!({
                    "threshold": 1, "witnesses": [{ "id": "did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc" }],
                }),
            ),
            1,
            Parameters(Wrong("witness")),
        ),
        // Entries after the deactivation.
        ("more after the end", next(json!({ "deactivated": true })).and(&key(1), |_| {}), 3, EntryFault::Deactivated),
        (
            "back after the end",
            next(json!({ "deactivated": true })).and(&key(1), |it| it["parameters"]["deactivated"] = false.into()),
            3,
            EntryFault::Deactivated,
        ),
        (
            "words",
            {
                let mut log = plain();
                log.entries.insert(0, "entry".into());
                log
            },
            1,
            Json,
        ),
        (
            "no time",
            plain().but(1, |it| drop(it.as_object_mut().unwrap().remove("versionTime"))),
            1,
            Member("versionTime"),
        ),
        (
            "no version",
            plain().but(1, |it| drop(it.as_object_mut().unwrap().remove("versionId"))),
            1,
            Member("versionId"),
        ),
        // An invalid entry in the middle invalidates the log.
        (
            "a fault before the last",
            plain().and(&key(1), |_| {}).and(&key(1), |_| {}).but(2, |it| it["state"]["x"] = 1.into()),
            2,
            Proof(ProofFault::Signature),
        ),
    ];
    for (name, log, number, expected) in cases {
        assert_eq!(fault(&log).await, (number, expected), "{name}");
    }
}

/// The log with its first entry changed and signed again. The hash of the entry is not updated.
fn resigned(mut log: Log, change: impl FnOnce(&mut Value)) -> Log {
    let mut entry = log.entries[0].clone();
    entry.as_object_mut().unwrap().remove("proof");
    change(&mut entry);
    entry["proof"] = json!([proof(&entry, &key(1))]);
    log.entries[0] = entry;
    log
}

/// A log whose entries all have this SCID, which is not the hash of the first entry. All other hashes are right.
fn with_scid(scid: &str) -> Log {
    let unsigned = |it: &mut Value| *it = serde_json::from_str(&it.to_string().replace("{SCID}", scid)).unwrap();
    let mut log = Log::new("example.com", &key(1), unsigned);
    let mut entry = log.entries[0].clone();
    entry.as_object_mut().unwrap().remove("proof");
    entry["versionId"] = scid.into();
    entry["versionId"] = format!("1-{}", hash(&claviger::crypto::canonical_json(&entry))).into();
    entry["proof"] = json!([proof(&entry, &key(1))]);
    log.scid = scid.to_owned();
    log.entries[0] = entry;
    log
}

fn moved(log: Log, says_from_where: bool) -> Log {
    let former = log.did();
    log.and(&key(1), |it| {
        it["state"]["id"] = format!("{former}:moved").into();
        if says_from_where {
            it["state"]["alsoKnownAs"] = json!([former]);
        }
    })
}

fn witness(threshold: Value, seeds: &[u8]) -> Value {
    let ids = seeds.iter().map(|seed| json!({ "id": format!("did:key:{}", multikey(&key(*seed))) }));
    json!({ "threshold": threshold, "witnesses": ids.collect::<Vec<_>>() })
}

#[tokio::test]
async fn a_log_of_another_did_is_refused() {
    let (log, stranger) = (plain(), Log::new("example.com", &key(3), |_| {}));
    let error = webvh_error(resolve(&stranger.did(), &log.text(), None).await);
    assert_eq!(error, WebvhError::Entry { number: 1, fault: EntryFault::Scid });
    let files = Files {
        files: HashMap::from([("https://example.com/other/did.jsonl".to_owned(), log.text().into())]),
        ..Files::default()
    };
    let other = format!("{}:other", log.did());
    assert_eq!(webvh_error(WebvhResolver::new(files).resolve(&other).await), WebvhError::WrongDid(log.did()));
    for nothing in ["", "\n"] {
        assert_eq!(webvh_error(resolve(&log.did(), nothing, None).await), WebvhError::Empty);
    }
    let ended = plain().and(&key(1), |it| it["parameters"] = json!({ "deactivated": true, "updateKeys": [] }));
    assert_eq!(webvh_error(resolve(&ended.did(), &ended.text(), None).await), WebvhError::Deactivated);
    let broken = Log::new("example.com", &key(1), |it| it["state"]["verificationMethod"] = 1.into());
    let error = resolve(&broken.did(), &broken.text(), None).await.unwrap_err();
    assert!(matches!(error, ResolveError::Document { .. }), "{error}");
}

#[tokio::test]
async fn required_witness_approvals_are_checked() {
    let log = Log::new("example.com", &key(1), |it| it["parameters"]["witness"] = witness(json!(2), &[11, 12, 13]))
        .and(&key(1), |it| it["parameters"]["witness"] = witness(json!(1), &[14]))
        .and(&key(1), |it| it["parameters"]["witness"] = json!({}))
        .and(&key(1), |_| {});
    let approve = |number: usize, seeds: &[u8]| {
        let version = json!({ "versionId": log.version(number) });
        let proofs: Vec<_> = seeds.iter().map(|seed| proof(&version, &key(*seed))).collect();
        json!({ "versionId": version["versionId"], "proof": proofs })
    };
    let check = async |file: Value| resolve(&log.did(), &log.text(), Some(&file.to_string())).await;
    let missing = |number, approvals, threshold| WebvhError::Witnesses { number, approvals, threshold };
    // The previous witnesses must approve the second entry, the new one the third, and nobody the fourth. Approving an
    // entry approves all entries before it.
    check(json!([approve(2, &[11, 13]), approve(3, &[14])])).await.unwrap();
    check(json!([approve(1, &[12]), approve(2, &[11, 13, 12]), approve(4, &[14])])).await.unwrap();
    for (file, error) in [
        (json!([]), missing(1, 0, 2)),
        (json!([approve(1, &[11, 12]), approve(3, &[14])]), missing(2, 0, 2)),
        (json!([approve(2, &[11]), approve(3, &[14])]), missing(1, 1, 2)),
        (json!([approve(2, &[11, 11]), approve(3, &[14])]), missing(1, 1, 2)),
        (json!([approve(2, &[11, 14]), approve(3, &[14])]), missing(1, 1, 2)),
        (json!([approve(2, &[11, 12]), approve(2, &[14])]), missing(3, 0, 1)),
        (json!([{ "versionId": "9-Qm", "proof": [] }, approve(2, &[11, 12])]), missing(3, 0, 1)),
    ] {
        assert_eq!(webvh_error(check(file).await), error);
    }
    // A proof for another version does not count, nor a proof by a key that is no witness.
    let mut other = approve(1, &[11, 12]);
    other["versionId"] = log.version(3).into();
    assert_eq!(webvh_error(check(json!([other, approve(3, &[14])])).await), missing(1, 0, 2));
    let mut claimed = approve(2, &[11, 1]);
    claimed["proof"][1]["verificationMethod"] = approve(2, &[12])["proof"][0]["verificationMethod"].clone();
    assert_eq!(webvh_error(check(json!([claimed, approve(3, &[14])])).await), missing(1, 1, 2));
    for file in [json!({}), json!([1]), json!([{ "versionId": log.version(1) }])] {
        assert_eq!(webvh_error(check(file).await), WebvhError::WitnessFile);
    }
}

/// URLs of logs, and DIDs without one, including the negative vectors of the test suite for locations.
#[tokio::test]
async fn log_urls_and_invalid_locations() {
    let scid = "QmRRaLXwc6BjBuBPosSupJwEQ8w9f3znP7yfbpGfwcnLr6";
    let url = |rest: &str| claviger::did::webvh::url(&format!("did:webvh:{rest}"));
    for (location, at) in [
        ("example.com", "https://example.com/.well-known/did.jsonl"),
        ("issuer.example.com", "https://issuer.example.com/.well-known/did.jsonl"),
        ("example.com:dids:issuer", "https://example.com/dids/issuer/did.jsonl"),
        ("example.com%3A3000:dids:issuer", "https://example.com:3000/dids/issuer/did.jsonl"),
        ("example.com%3a3000", "https://example.com:3000/.well-known/did.jsonl"),
        ("xn--jp-cd2fp15c.xn--fsq.jp:%E7%94%A8", "https://xn--jp-cd2fp15c.xn--fsq.jp/%E7%94%A8/did.jsonl"),
        // The example of the specification, with the percent-encodings that the syntax of DIDs demands.
        (
            "jp%E7%B4%8D%E8%B1%86.%E4%BE%8B.jp:%E7%94%A8%E6%88%B7",
            "https://xn--jp-cd2fp15c.xn--fsq.jp/%E7%94%A8%E6%88%B7/did.jsonl",
        ),
        ("b%c3%bccher.example%3a1:%e7%94%a8", "https://xn--bcher-kva.example:1/%E7%94%A8/did.jsonl"),
        // Not in normalization form C, a capital letter, and a letter that is not mapped.
        ("bu%CC%88cher.example", "https://xn--bcher-kva.example/.well-known/did.jsonl"),
        ("B%C3%9Ccher.example", "https://xn--bcher-kva.example/.well-known/did.jsonl"),
        ("stra%C3%9Fe.example", "https://xn--strae-oqa.example/.well-known/did.jsonl"),
        // Decoded once, and encoded again where RFC 3986 demands it.
        ("%65xample.com:%7Ea%2Bb%25:c", "https://example.com/~a%2Bb%25/c/did.jsonl"),
    ] {
        assert_eq!(url(&format!("{scid}:{location}")).as_deref(), Ok(at));
    }
    for location in [
        "127%2E0%2E0%2E1",
        "127.0.0.1",
        "127.0.0.1%3a80",
        "0x7f.1",
        "%5B%3A%3A1%5D",
        "a%23.example",
        "",
        // Digits and dots of full width, which are mapped to 127.0.0.1.
        "%EF%BC%91%EF%BC%92%EF%BC%97%EF%BC%8E0%E3%80%820.1",
        // Not UTF-8, decoded twice, a joiner that IDNA does not allow there, right-to-left beside left-to-right.
        "b%fccher.example",
        "example%252Ecom",
        "a%E2%80%8Db.example",
        "a%D7%90.example",
        "xn--%C3%BC.example",
    ] {
        assert_eq!(url(&format!("{scid}:{location}")), Err(WebvhError::Location(WebError::Host)), "{location}");
    }
    for location in [
        "example.com:..:a",
        "example.com:%2e%2e:a",
        "example.com:a%2F..",
        "example.com:a%00",
        "example.com::a",
        "example.com:%20a",
        "example.com:a%E3%80%80",
    ] {
        assert_eq!(url(&format!("{scid}:{location}")), Err(WebvhError::Location(WebError::Path)), "{location}");
    }
    assert_eq!(url(&format!("{scid}:example.com%3A99999")), Err(WebvhError::Location(WebError::Port)));
    for scid in ["", "Qm", &scid[1..], &scid.replace('R', "0"), &format!("{scid}1"), "{SCID}"] {
        assert_eq!(url(&format!("{scid}:example.com")), Err(WebvhError::Scid));
    }
    assert_eq!(url(scid), Err(WebvhError::Scid));
    // An invalid location leads to no request.
    let files = Files::default();
    let resolver = WebvhResolver::new(files.clone());
    for did in [format!("did:webvh:{scid}:127.0.0.1"), "did:webvh:example.com".to_owned()] {
        assert!(matches!(resolver.resolve(&did).await, Err(ResolveError::Webvh { .. })));
    }
    assert!(matches!(resolver.resolve("did:web:example.com").await, Err(ResolveError::UnsupportedMethod(_))));
    assert!(matches!(resolver.resolve("did:webvh:").await, Err(ResolveError::NotADid(_))));
    assert!(files.requests.lock().unwrap().is_empty());
    let nobody = resolver.resolve(&plain().did()).await;
    assert!(matches!(nobody, Err(ResolveError::NotFound(_))));
    assert_eq!(*files.requests.lock().unwrap(), ["https://example.com/.well-known/did.jsonl"]);
}

/// A log is read before anything is known about its author, so its size is limited.
#[tokio::test]
async fn the_size_of_a_log_is_limited() {
    let many = |count: u8, name: &str| {
        let keys: Vec<String> = (0..count).map(|seed| hash(&multikey(&key(seed)))).collect();
        Log::new("example.com", &key(1), |it| it["parameters"][name] = json!(keys))
    };
    resolve(&many(100, "nextKeyHashes").did(), &many(100, "nextKeyHashes").text(), None).await.unwrap();
    let too_many = EntryFault::Parameters(ParameterFault::Value("nextKeyHashes"));
    assert_eq!(fault(&many(101, "nextKeyHashes")).await, (1, too_many));
    let seeds: Vec<u8> = (0..101).collect();
    let witnessed = Log::new("example.com", &key(1), |it| it["parameters"]["witness"] = witness(json!(1), &seeds));
    assert_eq!(fault(&witnessed).await, (1, EntryFault::Parameters(ParameterFault::Value("witness"))));
    let long = plain().and(&key(1), |it| it["state"]["long"] = "x".repeat(128 * 1024).into());
    assert_eq!(fault(&long).await, (2, EntryFault::TooLong));
}
