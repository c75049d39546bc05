//! Logs of our own ("Create (Register)", "Update (Rotate)"): begun, continued, and verified before they are kept.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::{Log, Place, WebvhError, hash, lines, parameters::METHOD, proof::key_of};
use crate::{
    crypto::canonical_json,
    did::{Document, ResolveError, resolver::shortened},
    keys::PublicKey,
};

/// What stands for the SCID until the first entry is whole.
const PLACEHOLDER: &str = "{SCID}";

/// The log of a `did:webvh` of ours, verified.
#[derive(Debug, Clone)]
pub struct OwnLog {
    text: String,
    document: Document,
    update_keys: Vec<PublicKey>,
    committed: Vec<String>,
    version: String,
    begun: SystemTime,
    changed: SystemTime,
}

/// What an entry says of the keys that may change the DID.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewKeys<'a> {
    /// The one that signs what follows. Under pre-rotation it is one that the entry before has committed to, and signs this
    /// entry already.
    pub update: Option<&'a PublicKey>,
    /// The one that has to be next: with it pre-rotation begins or goes on, without it ends.
    pub next: Option<&'a PublicKey>,
}

/// An entry that wants a signature.
#[derive(Debug, Clone)]
pub struct Draft(Value);

impl OwnLog {
    /// Reads a log, and verifies it as a peer would.
    ///
    /// # Errors
    /// If it is not valid, or its newest document is none.
    pub fn read(text: String) -> Result<Self, ResolveError> {
        let last = lines(text.as_bytes()).last().and_then(|line| serde_json::from_slice::<Value>(line).ok());
        let did = last.as_ref().and_then(|entry| entry["state"]["id"].as_str()).unwrap_or_default();
        let wrong = |source| ResolveError::Webvh { did: shortened(did), source };
        let mut log = Log::new(Place::of(did).map_err(wrong)?.scid, SystemTime::now());
        let mut begun = None;
        for line in lines(text.as_bytes()) {
            log.add(line).map_err(wrong)?;
            begun.get_or_insert(log.time);
        }
        let update_keys = log.parameters.update_keys.iter().filter_map(|key| key_of(key)).collect();
        let (Some(begun), Some((version, _))) = (begun, log.versions.last().cloned()) else {
            return Err(wrong(WebvhError::Empty));
        };
        let (changed, committed) = (log.time, log.parameters.next_key_hashes.clone());
        let state = log.state(did).map_err(wrong)?;
        let document = Document::from_value(state).and_then(|document| document.of(did));
        let document = document.map_err(|source| ResolveError::document(did, source))?;
        Ok(Self { text, document, update_keys, committed, version, begun, changed })
    }

    /// The newest document.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// What a server answers with: one entry a line.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The keys of which one signs the next entry, but under pre-rotation.
    pub fn update_keys(&self) -> &[PublicKey] {
        &self.update_keys
    }

    /// Whether the next entry has to name a key that is committed to, and is signed by it.
    pub fn is_pre_rotated(&self) -> bool {
        !self.committed.is_empty()
    }

    /// Whether this key may be the next one.
    pub fn has_committed_to(&self, key: &PublicKey) -> bool {
        self.committed.contains(&hash(&key.to_multikey()))
    }

    /// The newest version's id.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// When the DID was made.
    pub fn begun(&self) -> SystemTime {
        self.begun
    }

    /// Every version's document, the oldest first.
    pub fn states(&self) -> impl Iterator<Item = Value> {
        let entries = lines(self.text.as_bytes()).filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        entries.map(|mut entry| entry["state"].take())
    }

    /// The next entry: this document from now on, and perhaps other keys that sign what follows.
    pub fn next(&self, document: &Document, keys: NewKeys<'_>, now: SystemTime) -> Draft {
        let mut parameters = Map::new();
        if let Some(key) = keys.update {
            parameters.insert("updateKeys".to_owned(), json!([key.to_multikey()]));
        }
        // While there is a commitment, each entry has to say what the next one is.
        if keys.next.is_some() || self.is_pre_rotated() {
            let hashes: Vec<String> = keys.next.iter().map(|key| hash(&key.to_multikey())).collect();
            parameters.insert("nextKeyHashes".to_owned(), json!(hashes));
        }
        // Each is later than the one before it, also for those who read whole seconds.
        let time = now.max(self.changed + Duration::from_secs(1));
        let number = 1 + lines(self.text.as_bytes()).count();
        Draft(hashed(
            json!({
                "versionId": self.version,
                "versionTime": written(time),
                "parameters": parameters,
                "state": document.as_value(),
            }),
            number,
        ))
    }

    /// The log with one entry more: a draft's line, as [`Draft::proved`] makes it.
    ///
    /// # Errors
    /// If it is not valid then.
    pub fn with(&self, line: &str) -> Result<Self, ResolveError> {
        Self::read(format!("{}{line}\n", self.text))
    }
}

impl Draft {
    /// The first entry of a DID at a place, as `example.com%3A8443:a:b`, that this key may change. `document` makes the
    /// document of a DID whose SCID is not known yet.
    pub fn first(place: &str, update_key: &PublicKey, document: impl FnOnce(&str) -> Value, now: SystemTime) -> Self {
        let entry = json!({
            "versionId": PLACEHOLDER,
            "versionTime": written(now),
            "parameters": {
                "scid": PLACEHOLDER,
                "method": METHOD,
                "updateKeys": [update_key.to_multikey()],
                "portable": false,
            },
            "state": document(&format!("did:webvh:{PLACEHOLDER}:{place}")),
        });
        let scid = hash(&canonical_json(&entry));
        let entry = serde_json::from_str(&entry.to_string().replace(PLACEHOLDER, &scid));
        Self(hashed(entry.expect("base58 within strings leaves it JSON"), 1))
    }

    /// The entry as JSON, without its proof: what is to be signed.
    pub fn entry(&self) -> String {
        self.0.to_string()
    }

    /// The entry's line with its proof: what it says beside its value, as JSON, and the signature.
    ///
    /// # Errors
    /// If the proof is no JSON object.
    pub fn proved(mut self, proof: &str, signature: &[u8]) -> Result<String, serde_json::Error> {
        let mut proof: Map<String, Value> = serde_json::from_str(proof)?;
        proof.insert("proofValue".to_owned(), format!("z{}", bs58::encode(signature).into_string()).into());
        self.0["proof"] = json!([proof]);
        Ok(self.0.to_string())
    }
}

/// An entry whose versionId is that of the one before, or the SCID, with its own ("Entry Hash Generation and Verification").
fn hashed(mut entry: Value, number: usize) -> Value {
    entry["versionId"] = format!("{number}-{}", hash(&canonical_json(&entry))).into();
    entry
}

/// Whole seconds, which every implementation reads.
fn written(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
