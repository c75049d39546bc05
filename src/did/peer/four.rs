//! did:peer:4: the long form contains the document, and the short form contains only a hash of it (Peer DID Method
//! Specification, "Method 4").

use serde_json::{Map, Value, json};

use super::{
    base58,
    error::PeerError,
    forms::{hash, short_form},
    length::{MAX_LENGTH, check_length},
};
use crate::{
    did::document::{Document, DocumentError, MAX_EXPANDED_BYTES, MAX_VALUES, Relationship},
    json::{Duplicates, parse},
};

/// The multicodec `json`, 0x0200, as a varint.
const JSON_CODEC: [u8; 2] = [0x80, 0x04];

/// Both forms of a `did:peer:4`.
///
/// Send the long form to a peer that has not seen it. From then on the short form is enough.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer4 {
    /// The document with the long form as `id`.
    pub long: Document,
    /// The document with the short form as `id`.
    pub short: Document,
}

/// Makes a `did:peer:4` from a document without `id`, in which ids and references are relative.
/// See [`DocumentBuilder::input`](crate::did::DocumentBuilder::input).
///
/// # Errors
/// If `input` is not such a document, or the DID is longer than 20 KiB.
pub fn create_4(input: &Value) -> Result<Peer4, PeerError> {
    if input.as_object().is_none_or(|members| members.contains_key("id")) {
        return Err(PeerError::Input("the document of a did:peer:4 must be an object without `id`"));
    }
    let mut bytes = JSON_CODEC.to_vec();
    bytes.extend(input.to_string().into_bytes());
    if bytes.len() > MAX_LENGTH {
        return Err(PeerError::TooLong { length: bytes.len(), limit: MAX_LENGTH });
    }
    let encoded = format!("z{}", bs58::encode(bytes).into_string());
    let short = format!("did:peer:4{}", hash(&encoded));
    let long = format!("{short}:{encoded}");
    Ok(Peer4 { long: resolve_long(&long)?, short: resolve_short(&short, &long)? })
}

/// The document of the long form `long`, whose hash is checked.
pub(super) fn resolve_long(long: &str) -> Result<Document, PeerError> {
    let short = short_of(long)?;
    contextualized(decoded(long)?, long, short)
}

/// The document of the short form `short`. `long` must be its long form.
pub(super) fn resolve_short(short: &str, long: &str) -> Result<Document, PeerError> {
    if short_of(long)? != short {
        return Err(PeerError::Hash);
    }
    contextualized(decoded(long)?, short, long)
}

fn short_of(long: &str) -> Result<&str, PeerError> {
    check_length(long)?;
    short_form(long).ok_or(PeerError::Hash)
}

/// Decodes the input document in a long form.
fn decoded(long: &str) -> Result<Map<String, Value>, PeerError> {
    let encoded = long.rsplit_once(":z").map(|(_, encoded)| encoded).ok_or(PeerError::Encoding)?;
    let bytes = base58::decode(encoded).ok_or(PeerError::Encoding)?;
    let json = bytes.strip_prefix(&JSON_CODEC).ok_or(PeerError::Encoding)?;
    match parse(json, MAX_VALUES, Duplicates::LastWins) {
        Ok(Value::Object(members)) => Ok(members),
        _ => Err(PeerError::Encoding),
    }
}

/// The document with one form of the DID as `id`, and the other in `alsoKnownAs` ("contextualize a document").
fn contextualized(mut members: Map<String, Value>, did: &str, other: &str) -> Result<Document, PeerError> {
    members.insert("id".to_owned(), did.into());
    match members.get_mut("alsoKnownAs") {
        Some(Value::Array(names)) => names.push(other.into()),
        _ => drop(members.insert("alsoKnownAs".to_owned(), json!([other]))),
    }
    let mut remaining = MAX_EXPANDED_BYTES;
    for member in ["verificationMethod"].into_iter().chain(Relationship::ALL.map(Relationship::name)) {
        for method in members.get_mut(member).and_then(Value::as_array_mut).into_iter().flatten() {
            let Value::Object(method) = method else { continue };
            if !method.contains_key("controller") {
                // Each added controller is the whole DID, so a short DID could expand to a very long document.
                let too_long = DocumentError::TooLong { length: MAX_EXPANDED_BYTES + 1, limit: MAX_EXPANDED_BYTES };
                remaining = remaining.checked_sub(did.len()).ok_or(too_long)?;
                method.insert("controller".to_owned(), did.into());
            }
        }
    }
    Ok(Document::from_own_did(members.into())?)
}
