//! Rules for header parameters that JWE, JWS and JWT have in common.

use serde_json::{Map, Value};

/// The headers of a JWE or JWS, as errors name them.
pub(super) const PROTECTED: &str = "`protected`";
pub(super) const UNPROTECTED: &str = "`unprotected`";
pub(super) const RECIPIENT: &str = "a recipient's `header`";
pub(super) const SIGNATURE: &str = "the signature's unprotected `header`";

use super::error::JoseError;

/// Refuses the parameters of an unprotected header that must be protected. `found` names the header.
pub(super) fn refuse_misplaced(
    header: &Map<String, Value>,
    protected: &[&'static str],
    found: &'static str,
) -> Result<(), JoseError> {
    let names: Vec<&str> = protected.iter().copied().filter(|name| header.contains_key(*name)).collect();
    match names.is_empty() {
        true => Ok(()),
        false => Err(JoseError::Misplaced { names, found, wanted: PROTECTED }),
    }
}

/// Refuses parameters that must not be ignored. No extension is supported, so `crit` is refused. The other parameters
/// are refused since DIDComm has no compression (`zip`), no encryption with passwords (`p2c`, `p2s`) and no unencoded
/// payload (`b64`).
pub(super) fn refuse_extensions(header: &Map<String, Value>) -> Result<(), JoseError> {
    match ["crit", "zip", "p2c", "p2s", "b64"].into_iter().find(|name| header.contains_key(*name)) {
        Some(name) => Err(JoseError::RefusedParameter(name.to_owned())),
        None => Ok(()),
    }
}
