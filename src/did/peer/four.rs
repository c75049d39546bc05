//! did:peer:4: a document in the DID, and its hash as a short form (Peer DID Method Specification, "Method 4").

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{MAX_LENGTH, PeerError, base58, check_length};
use crate::did::{Document, DocumentError, Relationship, document::MAX_EXPANDED};

/// The varint of the multicodec `json`, 0x0200.
const JSON: [u8; 2] = [0x80, 0x04];
/// The multihash prefix of SHA2-256: its code and its length.
const SHA2_256: [u8; 2] = [0x12, 0x20];

/// Both forms of a `did:peer:4`.
///
/// The long one goes to a peer that has not seen it; from then on the short one is enough.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer4 {
    /// The document under the long form.
    pub long: Document,
    /// The document under the short form.
    pub short: Document,
}

/// A `did:peer:4` of a document without `id`, whose ids and references are relative, such as
/// [`DocumentBuilder::input`](crate::did::DocumentBuilder::input) makes.
///
/// # Errors
/// If `input` is no such document, or its DID is over 20 KiB.
pub fn create_4(input: &Value) -> Result<Peer4, PeerError> {
    if input.as_object().is_none_or(|members| members.contains_key("id")) {
        return Err(PeerError::Input("the document of a did:peer:4 must be an object without `id`"));
    }
    let mut bytes = JSON.to_vec();
    bytes.extend(input.to_string().into_bytes());
    if bytes.len() > MAX_LENGTH {
        return Err(PeerError::TooLong { length: bytes.len(), limit: MAX_LENGTH });
    }
    let encoded = format!("z{}", bs58::encode(bytes).into_string());
    let short = format!("did:peer:4{}", hash(&encoded));
    let long = format!("{short}:{encoded}");
    Ok(Peer4 { long: resolve_long(&long)?, short: resolve_short(&short, &long)? })
}

/// The short form of a `did:peer:4`, whose hash is checked if it is a long one. None for another DID.
pub fn short_form(did: &str) -> Option<&str> {
    let form = did.strip_prefix("did:peer:4")?;
    match form.split_once(':') {
        None => form.starts_with('z').then_some(did),
        Some((hashed, encoded)) => (hash(encoded) == hashed).then(|| &did[..did.len() - encoded.len() - 1]),
    }
}

pub(super) fn resolve_long(long: &str) -> Result<Document, PeerError> {
    let short = short_of(long)?;
    contextualized(decoded(long)?, long, short)
}

/// The document of the short form, whose long form is `long`.
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

/// The multihash of the encoded document, over its text, as multibase.
fn hash(encoded: &str) -> String {
    let mut multihash = SHA2_256.to_vec();
    multihash.extend_from_slice(&Sha256::digest(encoded.as_bytes()));
    format!("z{}", bs58::encode(multihash).into_string())
}

/// The input document of a long form.
fn decoded(long: &str) -> Result<Map<String, Value>, PeerError> {
    let encoded = long.rsplit_once(":z").map(|(_, encoded)| encoded).ok_or(PeerError::Encoding)?;
    let bytes = base58::decode(encoded).ok_or(PeerError::Encoding)?;
    let json = bytes.strip_prefix(&JSON).ok_or(PeerError::Encoding)?;
    match serde_json::from_slice(json) {
        Ok(Value::Object(members)) => Ok(members),
        _ => Err(PeerError::Encoding),
    }
}

/// The document under one form of its DID, also known as the other ("contextualize a document").
fn contextualized(mut members: Map<String, Value>, did: &str, other: &str) -> Result<Document, PeerError> {
    members.insert("id".to_owned(), did.into());
    match members.get_mut("alsoKnownAs") {
        Some(Value::Array(names)) => names.push(other.into()),
        _ => drop(members.insert("alsoKnownAs".to_owned(), json!([other]))),
    }
    let mut room = MAX_EXPANDED;
    for member in ["verificationMethod"].into_iter().chain(Relationship::ALL.map(Relationship::name)) {
        for method in members.get_mut(member).and_then(Value::as_array_mut).into_iter().flatten() {
            let Value::Object(method) = method else { continue };
            if !method.contains_key("controller") {
                // Each carries the whole DID, so a short text could become a very long one.
                let too_long = DocumentError::TooLong { length: MAX_EXPANDED + 1, limit: MAX_EXPANDED };
                room = room.checked_sub(did.len()).ok_or(too_long)?;
                method.insert("controller".to_owned(), did.into());
            }
        }
    }
    Ok(Document::of_did(members.into())?)
}
