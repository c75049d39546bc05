//! What a log's entries say of how the log goes on ("did:webvh DID Method Parameters").

use std::{collections::HashSet, sync::Arc};

use serde_json::{Map, Value};

use super::proof::key_of;
use crate::keys::Curve;

/// The one version of the method that is known, with the one hash and the one cryptosuite that it permits.
pub(super) const METHOD: &str = "did:webvh:1.0";
/// The most keys, hashes, witnesses or watchers that an entry may name; the specification has no bound, and whoever writes a log
/// is a stranger.
const MOST: usize = 100;

/// What is wrong with an entry's parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParameterFault {
    /// One that version 1.0 does not have.
    #[error("{0:?} is none that version 1.0 of the method has")]
    Unknown(String),
    /// One has a value of another form than the specification gives it, or is missing where it has to be.
    #[error("{0:?} is absent, or not what it may be")]
    Value(&'static str),
    /// It stands in an entry where it must not.
    #[error("{0:?} may stand in the first entry only")]
    FirstOnly(&'static str),
    /// Under pre-rotation each entry has to name its keys, and the hashes of the next ones.
    #[error("{0:?} is absent, which pre-rotation demands")]
    PreRotation(&'static str),
    /// Under pre-rotation a key has to be one whose hash the entry before has.
    #[error("the key {0:?} is none that the entry before has committed to")]
    NotCommitted(String),
}

use ParameterFault::{FirstOnly, NotCommitted, PreRotation, Unknown, Value as Wrong};

/// The parameters that go for a log, after its entries so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Parameters {
    pub update_keys: Vec<String>,
    pub next_key_hashes: Vec<String>,
    pub witness: Option<Arc<Witness>>,
    pub portable: bool,
    pub deactivated: bool,
}

/// Who has to approve an entry, and how many of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Witness {
    pub threshold: usize,
    /// Multikeys, each once.
    pub keys: Vec<String>,
}

impl Parameters {
    /// The parameters from the first entry on, and the SCID it names.
    pub fn first(entry: &Map<String, Value>) -> Result<(Self, &str), ParameterFault> {
        let scid = entry.get("scid").and_then(Value::as_str).ok_or(Wrong("scid"))?;
        for name in ["method", "updateKeys"] {
            entry.get(name).ok_or(Wrong(name))?;
        }
        let portable = flag(entry, "portable")?.unwrap_or_default();
        let mut parameters = Self { portable, ..Self::default() };
        parameters.take(entry)?;
        Ok((parameters, scid))
    }

    /// The parameters from a later entry on.
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
        parameters.take(entry)?;
        if self.is_pre_rotated() {
            for name in ["updateKeys", "nextKeyHashes"] {
                entry.get(name).ok_or(PreRotation(name))?;
            }
            // All the keys, not only those that are new.
            let uncommitted = |key: &&String| !self.next_key_hashes.contains(&super::hash(key));
            if let Some(key) = parameters.update_keys.iter().find(uncommitted) {
                return Err(NotCommitted(key.chars().take(100).collect()));
            }
        }
        Ok(parameters)
    }

    /// Whether the next entry may only have keys that are committed to.
    pub fn is_pre_rotated(&self) -> bool {
        !self.next_key_hashes.is_empty()
    }

    /// Takes over what an entry says. `null` stands for a default in logs of early implementations.
    fn take(&mut self, entry: &Map<String, Value>) -> Result<(), ParameterFault> {
        for (name, value) in entry {
            match name.as_str() {
                "method" if value == METHOD => {}
                "method" => return Err(Wrong("method")),
                "updateKeys" => self.update_keys = strings(value).ok_or(Wrong("updateKeys"))?,
                "nextKeyHashes" => self.next_key_hashes = strings(value).ok_or(Wrong("nextKeyHashes"))?,
                "witness" => self.witness = witness(value).ok_or(Wrong("witness"))?,
                "deactivated" => self.deactivated = flag(entry, "deactivated")?.unwrap_or_default(),
                "ttl" if value.is_null() || value.as_u64().is_some_and(|ttl| ttl <= 1 << 31) => {}
                "ttl" => return Err(Wrong("ttl")),
                "watchers" => drop(strings(value).ok_or(Wrong("watchers"))?),
                "scid" | "portable" => {}
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
        Some(value) => value.as_bool().map(Some).ok_or(Wrong(name)),
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(items) if items.len() <= MOST => {
            items.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        }
        _ => None,
    }
}

/// "The `witness` Parameter". What is not well-formed is none, and not no witnesses.
fn witness(value: &Value) -> Option<Option<Arc<Witness>>> {
    if value.is_null() || value.as_object()?.is_empty() {
        return Some(None);
    }
    let ids = value.get("witnesses")?.as_array().filter(|ids| ids.len() <= MOST)?.iter();
    let keys: Vec<String> = ids.map(|witness| witness_key(witness.get("id")?.as_str()?)).collect::<Option<_>>()?;
    let threshold = usize::try_from(value.get("threshold")?.as_u64()?).ok()?;
    let distinct = keys.iter().collect::<HashSet<_>>().len() == keys.len();
    (distinct && (1..=keys.len()).contains(&threshold)).then(|| Some(Arc::new(Witness { threshold, keys })))
}

/// The multikey of a witness, whose did:key has to be one that the cryptosuite can be used with.
fn witness_key(id: &str) -> Option<String> {
    let multikey = id.strip_prefix("did:key:")?;
    (key_of(multikey)?.curve() == Curve::Ed25519).then(|| multikey.to_owned())
}
