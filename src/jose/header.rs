//! Rules for header parameters that JWE, JWS and JWT have in common.

use serde_json::{Map, Value};

use super::error::JoseError;

/// Refuses parameters that must not be ignored. No extension is supported, so `crit` is refused. The other parameters
/// are refused since DIDComm has no compression (`zip`), no encryption with passwords (`p2c`, `p2s`) and no unencoded
/// payload (`b64`).
pub(super) fn refuse_extensions(header: &Map<String, Value>) -> Result<(), JoseError> {
    match ["crit", "zip", "p2c", "p2s", "b64"].into_iter().find(|name| header.contains_key(*name)) {
        Some(name) => Err(JoseError::RefusedParameter(name.to_owned())),
        None => Ok(()),
    }
}
