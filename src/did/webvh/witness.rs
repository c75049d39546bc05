//! Checks the approval of witnesses ("DID Witnesses").

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::{
    error::WebvhError,
    parameters::{Version, Witness},
    proof::Proof,
};
use crate::{crypto::document_hash, json::parse_for_hash};

/// The most JSON values of a file with proofs. A proof has eight.
const MAX_FILE_VALUES: usize = 20_000;

/// Checks that the proofs in a did-witness.json approve each version that needs approval.
///
/// A witness that approves a version also approves all versions before it. A proof does not count if its key is not a
/// witness's, if it is invalid, or if its version is not in the log.
pub(super) fn check_approvals(versions: &[Version], file: &[u8]) -> Result<(), WebvhError> {
    let newest = newest_approvals(versions, file)?;
    for (index, version) in versions.iter().enumerate() {
        let Some(witness) = &version.witness else { continue };
        let Witness { threshold, keys } = &**witness;
        let approves = |key: &String| newest.get(key).is_some_and(|newest| *newest >= index);
        let approvals = keys.iter().filter(|(key, _)| approves(key)).map(|(_, weight)| weight).sum();
        if approvals < *threshold {
            return Err(WebvhError::Witnesses { number: index + 1, approvals, threshold: *threshold });
        }
    }
    Ok(())
}

/// The index of the newest version that each witness has approved, by multikey.
fn newest_approvals(versions: &[Version], file: &[u8]) -> Result<HashMap<String, usize>, WebvhError> {
    let indices: HashMap<&str, usize> =
        versions.iter().enumerate().map(|(index, version)| (version.id.as_str(), index)).collect();
    let witnesses = versions.iter().filter_map(|version| version.witness.as_ref());
    let known: HashSet<&String> = witnesses.flat_map(|witness| witness.keys.iter().map(|(key, _)| key)).collect();
    let Ok(Value::Array(entries)) = parse_for_hash(file, MAX_FILE_VALUES) else {
        return Err(WebvhError::WitnessFile);
    };
    let mut newest = HashMap::new();
    for entry in &entries {
        let version = entry.get("versionId").and_then(Value::as_str).ok_or(WebvhError::WitnessFile)?;
        let Some(index) = indices.get(version) else { continue };
        // A witness signs the id of the version, which is a hash over all entries up to it.
        let hash = document_hash(&json!({ "versionId": version }));
        let proofs = entry.get("proof").and_then(Value::as_array).ok_or(WebvhError::WitnessFile)?;
        let method = versions[*index].method;
        for proof in proofs.iter().filter_map(|proof| Proof::read(proof, method).ok()) {
            let counts =
                known.contains(&proof.multikey) && newest.get(&proof.multikey).is_none_or(|known| known < index);
            if counts && proof.verify(&hash).is_ok() {
                newest.insert(proof.multikey, *index);
            }
        }
    }
    Ok(newest)
}
