//! The approval of witnesses ("DID Witnesses").

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{WebvhError, parameters::Witness, proof::Proof};
use crate::crypto::document_hash;

/// Whether the proofs of a did-witness.json approve each of these versions that has to be approved.
///
/// A witness who approves a version approves those before it. What cannot be attributed to a witness of a version, is not
/// valid, or is for a version that the log does not have, does not count.
pub(super) fn check(versions: &[(String, Option<Arc<Witness>>)], file: &[u8]) -> Result<(), WebvhError> {
    let newest = newest_approvals(versions, file)?;
    for (place, (_, witness)) in versions.iter().enumerate() {
        let Some(witness) = witness else { continue };
        let Witness { threshold, keys } = &**witness;
        let approvals = keys.iter().filter(|key| newest.get(*key).is_some_and(|newest| *newest >= place)).count();
        if approvals < *threshold {
            return Err(WebvhError::Witnesses { number: place + 1, approvals, threshold: *threshold });
        }
    }
    Ok(())
}

/// The newest version that each witness has approved, by its multikey.
fn newest_approvals(
    versions: &[(String, Option<Arc<Witness>>)],
    file: &[u8],
) -> Result<HashMap<String, usize>, WebvhError> {
    let places: HashMap<&str, usize> =
        versions.iter().enumerate().map(|(place, (id, _))| (id.as_str(), place)).collect();
    let witnesses = versions.iter().filter_map(|(_, witness)| witness.as_ref());
    let known: HashSet<&String> = witnesses.flat_map(|witness| &witness.keys).collect();
    let Ok(Value::Array(entries)) = serde_json::from_slice(file) else { return Err(WebvhError::WitnessFile) };
    let mut newest = HashMap::new();
    for entry in &entries {
        let version = entry.get("versionId").and_then(Value::as_str).ok_or(WebvhError::WitnessFile)?;
        let Some(place) = places.get(version) else { continue };
        // What a witness signs is the version's id alone, which is a hash over all that came before.
        let hash = document_hash(&json!({ "versionId": version }));
        let proofs = entry.get("proof").and_then(Value::as_array).ok_or(WebvhError::WitnessFile)?;
        for proof in proofs.iter().filter_map(|proof| Proof::read(proof).ok()) {
            let counts =
                known.contains(&proof.multikey) && newest.get(&proof.multikey).is_none_or(|there| there < place);
            if counts && proof.verify(&hash).is_ok() {
                newest.insert(proof.multikey, *place);
            }
        }
    }
    Ok(newest)
}
