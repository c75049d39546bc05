//! Logs of our own DIDs ("Create (Register)", "Update (Rotate)"). Every new entry is verified before it is added.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::{
    error::WebvhError, hash::hash, lines::lines, location::Location, log::Log, method_version::METHOD, proof::key_of,
};
use crate::{
    crypto::canonical_json,
    did::{document::Document, resolve_error::ResolveError, shorten::shortened},
    keys::PublicKey,
};

/// The placeholder for the SCID, until the first entry is complete.
const PLACEHOLDER: &str = "{SCID}";

/// The verified log of one of our `did:webvh`.
#[derive(Debug, Clone)]
pub struct OwnLog {
    text: String,
    document: Document,
    update_keys: Vec<PublicKey>,
    next_key_hashes: Vec<String>,
    version: String,
    created: SystemTime,
    updated: SystemTime,
}

/// Changes to the keys that may change the DID.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyChanges<'a> {
    /// The key that signs the following entries. With pre-rotation, the previous entry must have committed to this key,
    /// and the key signs this entry too.
    pub update_key: Option<&'a PublicKey>,
    /// The key to commit to as the next one. `Some` begins or continues pre-rotation, `None` ends it.
    pub next_key: Option<&'a PublicKey>,
}

/// An entry without a signature.
#[derive(Debug, Clone)]
pub struct EntryDraft(Value);

impl OwnLog {
    /// Reads a log, and verifies it as a peer would.
    ///
    /// # Errors
    /// If the log or its newest document is invalid.
    pub fn read(text: String) -> Result<Self, ResolveError> {
        let last = lines(text.as_bytes()).last().and_then(|line| serde_json::from_slice::<Value>(line).ok());
        let did = last.as_ref().and_then(|entry| entry["state"]["id"].as_str()).unwrap_or_default();
        let wrong = |source| ResolveError::Webvh { did: shortened(did), source };
        let mut log = Log::new(Location::of(did).map_err(wrong)?.scid, SystemTime::now());
        let mut created = None;
        for line in lines(text.as_bytes()) {
            log.add(line).map_err(wrong)?;
            created.get_or_insert(log.time);
        }
        let update_keys = log.parameters.update_keys.iter().filter_map(|key| key_of(key)).collect();
        let (Some(created), Some(version)) = (created, log.versions.last().map(|version| version.id.clone())) else {
            return Err(wrong(WebvhError::Empty));
        };
        let (updated, next_key_hashes) = (log.time, log.parameters.next_key_hashes.clone());
        let state = log.state(did).map_err(wrong)?;
        let document = Document::from_value(state).and_then(|document| document.require_id(did));
        let document = document.map_err(|source| ResolveError::document(did, source))?;
        Ok(Self { text, document, update_keys, next_key_hashes, version, created, updated })
    }

    /// The newest document.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// The log as a server has to serve it: one entry per line.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The keys that may sign the next entry. With pre-rotation, a committed key signs instead.
    pub fn update_keys(&self) -> &[PublicKey] {
        &self.update_keys
    }

    /// Whether the next entry must name a committed key and be signed by it.
    pub fn is_pre_rotated(&self) -> bool {
        !self.next_key_hashes.is_empty()
    }

    /// Whether the log has committed to this key as the next one.
    pub fn has_committed_to(&self, key: &PublicKey) -> bool {
        self.next_key_hashes.contains(&hash(&key.to_multikey()))
    }

    /// The id of the newest version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// When the DID was created.
    pub fn created(&self) -> SystemTime {
        self.created
    }

    /// The documents of all versions, oldest first.
    pub fn states(&self) -> impl Iterator<Item = Value> {
        let entries = lines(self.text.as_bytes()).filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        entries.map(|mut entry| entry["state"].take())
    }

    /// Drafts the next entry with this document, and with changes to the keys if `keys` has any.
    pub fn draft_next(&self, document: &Document, keys: KeyChanges<'_>, now: SystemTime) -> EntryDraft {
        let mut parameters = Map::new();
        if let Some(key) = keys.update_key {
            parameters.insert("updateKeys".to_owned(), json!([key.to_multikey()]));
        }
        // While the log is pre-rotated, each entry has to commit to the next keys, or end the pre-rotation with
        // an empty list.
        if keys.next_key.is_some() || self.is_pre_rotated() {
            let hashes: Vec<String> = keys.next_key.iter().map(|key| hash(&key.to_multikey())).collect();
            parameters.insert("nextKeyHashes".to_owned(), json!(hashes));
        }
        // The time must be later than that of the previous entry, even when it is written in whole seconds.
        let time = now.max(self.updated + Duration::from_secs(1));
        let number = 1 + lines(self.text.as_bytes()).count();
        EntryDraft(with_version_id(
            json!({
                "versionId": self.version,
                "versionTime": rfc3339(time),
                "parameters": parameters,
                "state": document.as_value(),
            }),
            number,
        ))
    }

    /// Adds the line of an entry, which [`EntryDraft::with_proof`] returns, and verifies the log again.
    ///
    /// # Errors
    /// If the new log is invalid.
    pub fn with_entry(&self, line: &str) -> Result<Self, ResolveError> {
        Self::read(format!("{}{line}\n", self.text))
    }
}

impl EntryDraft {
    /// Drafts the first entry of a new DID. `location` is the host and path in the DID, such as
    /// `example.com%3A8443:a:b`. `update_key` is the key that may change the DID. `document` gets the DID with a
    /// placeholder for the SCID, and returns the DID document.
    pub fn first(
        location: &str,
        update_key: &PublicKey,
        document: impl FnOnce(&str) -> Value,
        now: SystemTime,
    ) -> Self {
        let entry = json!({
            "versionId": PLACEHOLDER,
            "versionTime": rfc3339(now),
            "parameters": {
                "scid": PLACEHOLDER,
                "method": METHOD,
                "updateKeys": [update_key.to_multikey()],
                "portable": false,
            },
            "state": document(&format!("did:webvh:{PLACEHOLDER}:{location}")),
        });
        let scid = hash(&canonical_json(&entry));
        let entry = serde_json::from_str(&entry.to_string().replace(PLACEHOLDER, &scid));
        Self(with_version_id(entry.expect("base58 within strings leaves it JSON"), 1))
    }

    /// The entry as JSON without a proof: the bytes to sign.
    pub fn entry(&self) -> String {
        self.0.to_string()
    }

    /// The line of the entry with its proof. `proof` is the proof without `proofValue`, as JSON.
    ///
    /// # Errors
    /// If `proof` is not a JSON object.
    pub fn with_proof(mut self, proof: &str, signature: &[u8]) -> Result<String, serde_json::Error> {
        let mut proof: Map<String, Value> = serde_json::from_str(proof)?;
        proof.insert("proofValue".to_owned(), format!("z{}", bs58::encode(signature).into_string()).into());
        self.0["proof"] = json!([proof]);
        Ok(self.0.to_string())
    }
}

/// Replaces the `versionId` of the previous entry, or the SCID, by the `versionId` of this entry ("Entry Hash
/// Generation and Verification").
fn with_version_id(mut entry: Value, number: usize) -> Value {
    entry["versionId"] = format!("{number}-{}", hash(&canonical_json(&entry))).into();
    entry
}

/// A time in whole seconds, which every implementation can parse.
fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
