//! The syntax of arguments that several commands take.

use claviger::{
    did::{did_of, short_name_beginning},
    keys::PublicKey,
};

use super::failure::Failure;

/// Checks that an argument is a DID or a DID URL.
pub fn check_did(text: &str) -> Result<(), Failure> {
    did_of(text).map(|_| ()).ok_or_else(|| not_a_did(text))
}

/// Checks that an argument is a DID, a DID URL or the short name of a DID.
pub fn check_own_did(text: &str) -> Result<(), Failure> {
    if short_name_beginning(text).is_some() { Ok(()) } else { check_did(text) }
}

/// The failure for an argument that is neither a DID nor a DID URL.
pub fn not_a_did(text: &str) -> Failure {
    let failure = Failure::usage("bad-did", format!("{text:?} is not a DID or DID URL"));
    match short_name_beginning(text) {
        Some(_) => failure.hint("this is the short name of a DID, and the whole DID is needed here"),
        None => failure,
    }
}

/// Routing keys in the form of a DID document: DIDs and DID URLs. A multikey becomes the key of its did:key.
pub fn routing_keys(names: &[String]) -> Result<Vec<String>, Failure> {
    let named = names.iter().map(|text| {
        if did_of(text).is_some() {
            return Ok(text.clone());
        }
        match PublicKey::from_multikey(text) {
            Ok(_) => Ok(format!("did:key:{text}#{text}")),
            Err(_) => Err(Failure::usage("bad-key-name", format!("{text:?} is not a routing key"))
                .hint("name the mediator's DID, DID URL or multikey")),
        }
    });
    named.collect()
}
