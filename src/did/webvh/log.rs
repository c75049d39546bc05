//! Verifies a log, entry by entry ("Read (Resolve)").

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::{
    error::{EntryFault, ProofFault, WebvhError},
    hash::hash,
    location::Location,
    method_version::MethodVersion,
    parameters::{Parameters, Version},
    proof::Proof,
    witness,
};
use crate::{
    crypto::{canonical_json, document_hash},
    did::{canonical::is_same_did, url::is_did},
    json::parse_for_hash,
};

/// How far the clock of a controller may be ahead of this machine's clock, by the specification.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// The longest accepted entry, in bytes: room for the longest document and for the other members. A parsed entry takes
/// many times as much memory.
const MAX_ENTRY_BYTES: usize = 128 * 1024;
/// The most JSON values of an entry: room for those of the largest document.
const MAX_ENTRY_VALUES: usize = 10_000;
/// The most proofs of an entry. An entry needs only one.
const MAX_PROOFS: usize = 10;

/// The verified part of a log.
pub(super) struct Log<'a> {
    scid: &'a str,
    now: SystemTime,
    pub parameters: Parameters,
    pub versions: Vec<Version>,
    /// The `versionTime` of the newest entry.
    pub time: SystemTime,
    /// Every name that the DID has had, newest last. Neighbours differ.
    ids: Vec<String>,
    state: Value,
}

impl<'a> Log<'a> {
    pub fn new(scid: &'a str, now: SystemTime) -> Self {
        let (parameters, time) = (Parameters::default(), SystemTime::UNIX_EPOCH);
        Self { scid, now, parameters, versions: Vec::new(), time, ids: Vec::new(), state: Value::Null }
    }

    /// Verifies and adds the next entry.
    pub fn add(&mut self, line: &[u8]) -> Result<(), WebvhError> {
        let number = self.versions.len() + 1;
        self.add_entry(line).map_err(|fault| WebvhError::Entry { number, fault })
    }

    fn add_entry(&mut self, line: &[u8]) -> Result<(), EntryFault> {
        if self.parameters.deactivated {
            return Err(EntryFault::Deactivated);
        }
        if line.len() > MAX_ENTRY_BYTES {
            return Err(EntryFault::TooLong);
        }
        let Ok(Value::Object(mut entry)) = parse_for_hash(line, MAX_ENTRY_VALUES) else {
            return Err(EntryFault::Json);
        };
        let proofs = proofs(entry.shift_remove("proof"))?;
        let version = text(&entry, "versionId")?.to_owned();
        let time = self.time(text(&entry, "versionTime")?)?;
        let parameters = self.parameters(&entry)?;
        // Without pre-rotation, the keys of the previous entry may sign (section "Authorized Keys").
        let is_first = self.versions.is_empty();
        let signed_by_own_keys = is_first || self.parameters.is_pre_rotated();
        let keys = if signed_by_own_keys { &parameters.update_keys } else { &self.parameters.update_keys };
        let entry = Value::Object(entry);
        verify(&entry, &proofs, keys, parameters.method)?;
        self.check_hashes(entry.clone(), &version)?;
        let state = entry["state"].clone();
        let id = self.id(&state)?;
        let (method, at_once) = (parameters.method, is_first || parameters.method >= MethodVersion::V1_0);
        let witness = match &self.parameters.witness {
            None if at_once => parameters.witness.clone(),
            before => before.clone(),
        };
        if self.ids.last() != Some(&id) {
            self.ids.push(id);
        }
        self.versions.push(Version { id: version, method, witness });
        (self.parameters, self.time, self.state) = (parameters, time, state);
        Ok(())
    }

    fn time(&self, text: &str) -> Result<SystemTime, EntryFault> {
        let utc = text.strip_suffix("+00:00").map(|text| format!("{text}Z"));
        let time = humantime::parse_rfc3339(utc.as_deref().unwrap_or(text)).map_err(|_| EntryFault::Time)?;
        if !self.versions.is_empty() && time <= self.time {
            return Err(EntryFault::Order);
        }
        if time > self.now + MAX_CLOCK_SKEW {
            return Err(EntryFault::Future);
        }
        Ok(time)
    }

    fn parameters(&self, entry: &Map<String, Value>) -> Result<Parameters, EntryFault> {
        let own = entry.get("parameters").and_then(Value::as_object).ok_or(EntryFault::Member("parameters"))?;
        if !self.versions.is_empty() {
            return self.parameters.next(own).map_err(EntryFault::Parameters);
        }
        let (parameters, scid) = Parameters::first(own).map_err(EntryFault::Parameters)?;
        if scid != self.scid {
            return Err(EntryFault::Scid);
        }
        Ok(parameters)
    }

    /// Checks the entry hash ("Entry Hash Generation and Verification"), and for the first entry the SCID ("SCID
    /// Generation and Verification").
    fn check_hashes(&self, mut entry: Value, version: &str) -> Result<(), EntryFault> {
        entry["versionId"] = self.versions.last().map_or(self.scid, |version| &version.id).into();
        if version != format!("{}-{}", self.versions.len() + 1, hash(&canonical_json(&entry))) {
            return Err(EntryFault::Version);
        }
        if self.versions.is_empty() {
            // The SCID is replaced everywhere in the text, also in names, so the canonical order of members may change.
            let text = entry.to_string().replace(self.scid, "{SCID}");
            let entry: Value = serde_json::from_str(&text).map_err(|_| EntryFault::Scid)?;
            if hash(&canonical_json(&entry)) != self.scid {
                return Err(EntryFault::Scid);
            }
        }
        Ok(())
    }

    /// Checks the `id` of the document, and returns it. The `id` must contain the SCID. Only a portable DID may change
    /// its `id` ("DID Portability").
    fn id(&self, state: &Value) -> Result<String, EntryFault> {
        let id = state.get("id").and_then(Value::as_str).ok_or(EntryFault::Member("state"))?;
        if !is_did(id) || !Location::of(id).is_ok_and(|location| location.scid == self.scid) {
            return Err(EntryFault::Id);
        }
        if let Some(former) = self.ids.last().filter(|former| !is_same_did(former, id)) {
            let known = state.get("alsoKnownAs").and_then(Value::as_array);
            let is_former = |name: &Value| name.as_str().is_some_and(|name| is_same_did(name, former));
            let names_former = known.is_some_and(|known| known.iter().any(is_former));
            if !(self.parameters.portable && names_former) {
                return Err(EntryFault::Moved);
            }
        }
        Ok(id.to_owned())
    }

    /// Whether an entry needs the approval of witnesses.
    pub fn is_witnessed(&self) -> bool {
        self.versions.iter().any(|version| version.witness.is_some())
    }

    /// Checks that the proofs in a did-witness.json approve each entry that needs approval.
    pub fn check_witnesses(&self, file: &[u8]) -> Result<(), WebvhError> {
        witness::check_approvals(&self.versions, file)
    }

    /// The names that the DID had before its newest one.
    pub fn former_ids(&self) -> Vec<String> {
        self.ids.split_last().map_or(Vec::new(), |(_, former)| former.to_vec())
    }

    /// The newest document, if the log belongs to `did`, which may be an earlier name, and the DID is not deactivated.
    pub fn state(self, did: &str) -> Result<Value, WebvhError> {
        match self.ids.last() {
            None => Err(WebvhError::Empty),
            Some(id) if !self.ids.iter().any(|id| is_same_did(id, did)) => Err(WebvhError::WrongDid(id.clone())),
            Some(_) if self.parameters.deactivated => Err(WebvhError::Deactivated),
            Some(_) => Ok(self.state),
        }
    }
}

fn text<'a>(entry: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, EntryFault> {
    entry.get(name).and_then(Value::as_str).ok_or(EntryFault::Member(name))
}

/// The proofs of an entry: a list, or a single one.
fn proofs(proof: Option<Value>) -> Result<Vec<Value>, EntryFault> {
    match proof {
        Some(Value::Array(proofs)) if proofs.is_empty() => Err(EntryFault::Proof(ProofFault::Missing)),
        Some(Value::Array(proofs)) if proofs.len() > MAX_PROOFS => Err(EntryFault::Proof(ProofFault::TooMany)),
        Some(Value::Array(proofs)) => Ok(proofs),
        Some(proof @ Value::Object(_)) => Ok(vec![proof]),
        _ => Err(EntryFault::Proof(ProofFault::Missing)),
    }
}

/// Checks that every proof of an entry is valid and by one of `keys`, the keys that may change the DID.
fn verify(entry: &Value, proofs: &[Value], keys: &[String], method: MethodVersion) -> Result<(), EntryFault> {
    let hash = document_hash(entry);
    for proof in proofs {
        let proof = Proof::read(proof, method).map_err(EntryFault::Proof)?;
        if !keys.contains(&proof.multikey) {
            return Err(EntryFault::Proof(ProofFault::Key));
        }
        proof.verify(&hash).map_err(EntryFault::Proof)?;
    }
    Ok(())
}
