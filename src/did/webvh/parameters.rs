//! The parameters of a log ("did:webvh DID Method Parameters").

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::{
    error::ParameterFault::{self, FirstOnly, NotCommitted, PreRotation, Unknown, Value as Invalid},
    hash::hash,
    method_version::MethodVersion,
    proof::key_of,
};
use crate::keys::Curve;

/// The most keys, hashes, witnesses or watchers in an entry. The specification has no limit, but strangers write logs.
const MAX_LIST_LENGTH: usize = 100;

/// The parameters of a log after its entries so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Parameters {
    pub method: MethodVersion,
    /// The keys that may sign the next entry, as multikeys. With pre-rotation, the committed keys sign instead.
    pub update_keys: Vec<String>,
    /// The hashes of the keys to which the last entry has committed. Empty without pre-rotation.
    pub next_key_hashes: Vec<String>,
    pub witness: Option<Arc<Witness>>,
    pub portable: bool,
    pub deactivated: bool,
    /// How long the document may be cached, if an entry says so.
    pub ttl: Option<Duration>,
}

/// The witnesses of an entry, and how many of them must approve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Witness {
    /// The sum of the weights that must approve.
    pub threshold: u64,
    /// Distinct multikeys, each with its weight, which is 1 since version 1.0.
    pub keys: Vec<(String, u64)>,
}

/// A verified version of a DID.
#[derive(Debug, Clone)]
pub(super) struct Version {
    /// The `versionId`.
    pub id: String,
    /// The version of the method.
    pub method: MethodVersion,
    /// The witnesses that must approve the version.
    pub witness: Option<Arc<Witness>>,
}

impl Parameters {
    /// The parameters of the first entry, and its SCID.
    pub fn first(entry: &Map<String, Value>) -> Result<(Self, &str), ParameterFault> {
        let scid = entry.get("scid").and_then(Value::as_str).ok_or(Invalid("scid"))?;
        for name in ["method", "updateKeys"] {
            entry.get(name).ok_or(Invalid(name))?;
        }
        let portable = flag(entry, "portable")?.unwrap_or_default();
        let mut parameters = Self { portable, ..Self::default() };
        parameters.apply(entry)?;
        Ok((parameters, scid))
    }

    /// The parameters after a later entry.
    pub fn next(&self, entry: &Map<String, Value>) -> Result<Self, ParameterFault> {
        if entry.contains_key("scid") {
            return Err(FirstOnly("scid"));
        }
        let mut parameters = self.clone();
        match flag(entry, "portable")? {
            Some(true) => return Err(FirstOnly("portable")),
            Some(false) => parameters.portable = false,
            None => {}
        }
        parameters.apply(entry)?;
        if self.is_pre_rotated() {
            for name in ["updateKeys", "nextKeyHashes"] {
                entry.get(name).ok_or(PreRotation(name))?;
            }
            // This applies to all keys, not only to new ones.
            let uncommitted = |key: &&String| !self.next_key_hashes.contains(&hash(key));
            if let Some(key) = parameters.update_keys.iter().find(uncommitted) {
                return Err(NotCommitted(key.chars().take(100).collect()));
            }
        }
        Ok(parameters)
    }

    /// Whether the next entry may name only keys to which an earlier entry has committed.
    pub fn is_pre_rotated(&self) -> bool {
        !self.next_key_hashes.is_empty()
    }

    /// Applies the parameters of an entry. Early implementations write `null` for the default. The version of the method
    /// may rise, and holds for the entry that names it.
    fn apply(&mut self, entry: &Map<String, Value>) -> Result<(), ParameterFault> {
        if let Some(method) = entry.get("method") {
            let method = method.as_str().and_then(MethodVersion::parse);
            self.method = method.filter(|method| *method >= self.method).ok_or(Invalid("method"))?;
        }
        for (name, value) in entry {
            match name.as_str() {
                "method" | "scid" | "portable" => {}
                "updateKeys" => self.update_keys = strings(value).ok_or(Invalid("updateKeys"))?,
                "nextKeyHashes" => self.next_key_hashes = strings(value).ok_or(Invalid("nextKeyHashes"))?,
                "witness" => self.witness = witness(value, self.method).ok_or(Invalid("witness"))?,
                "deactivated" => self.deactivated = flag(entry, "deactivated")?.unwrap_or_default(),
                "ttl" => self.ttl = ttl(value).ok_or(Invalid("ttl"))?,
                "watchers" if self.method >= MethodVersion::V1_0 => {
                    strings(value).ok_or(Invalid("watchers"))?;
                }
                other => return Err(Unknown(other.chars().take(100).collect())),
            }
        }
        Ok(())
    }
}

fn flag(entry: &Map<String, Value>, name: &'static str) -> Result<Option<bool>, ParameterFault> {
    match entry.get(name) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(false)),
        Some(value) => value.as_bool().map(Some).ok_or(Invalid(name)),
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(items) if items.len() <= MAX_LIST_LENGTH => {
            items.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        }
        _ => None,
    }
}

/// Parses the parameter `ttl`, a number of seconds. `None` if it is malformed; `Some(None)` for the default.
fn ttl(value: &Value) -> Option<Option<Duration>> {
    match value {
        Value::Null => Some(None),
        value => value.as_u64().filter(|ttl| *ttl <= 1 << 31).map(|ttl| Some(Duration::from_secs(ttl))),
    }
}

/// Parses the parameter `witness`. `None` if it is malformed; `Some(None)` if there are no witnesses.
fn witness(value: &Value, method: MethodVersion) -> Option<Option<Arc<Witness>>> {
    if value.is_null() || value.as_object()?.is_empty() {
        return Some(None);
    }
    let weight = |witness: &Value| match method {
        MethodVersion::V0_5 => witness.get("weight")?.as_u64().filter(|weight| *weight <= u64::from(u32::MAX)),
        MethodVersion::V1_0 => Some(1),
    };
    let read = |witness: &Value| Some((witness_key(witness.get("id")?.as_str()?)?, weight(witness)?));
    let witnesses = value.get("witnesses")?.as_array().filter(|witnesses| witnesses.len() <= MAX_LIST_LENGTH)?;
    // didwebvh-ts writes an empty list and the threshold 0 into logs of version 0.5.
    if method == MethodVersion::V0_5 && witnesses.is_empty() && value.get("threshold")?.as_u64()? == 0 {
        return Some(None);
    }
    let keys: Vec<(String, u64)> = witnesses.iter().map(read).collect::<Option<_>>()?;
    let threshold = value.get("threshold")?.as_u64()?;
    let distinct = keys.iter().map(|(key, _)| key).collect::<HashSet<_>>().len() == keys.len();
    let all = keys.iter().map(|(_, weight)| weight).sum();
    (distinct && (1..=all).contains(&threshold)).then(|| Some(Arc::new(Witness { threshold, keys })))
}

/// The multikey of a witness. Its did:key must be an Ed25519 key, which the cryptosuite needs.
fn witness_key(id: &str) -> Option<String> {
    let multikey = id.strip_prefix("did:key:")?;
    (key_of(multikey)?.curve() == Curve::Ed25519).then(|| multikey.to_owned())
}
