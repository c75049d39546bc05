//! Attachments (DIDComm v2.1 "Attachments").

use std::collections::HashSet;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256, Sha512};

use super::{
    attachment_problem::AttachmentProblem,
    message_error::{HashError, MessageError},
    times,
};
use crate::encoding::{from_base58, from_base64, from_hex, from_multibase, to_base64url};

/// An attachment of a message.
///
/// Reading one from a JSON object never fails: a member with a wrong type is put into `extra`, and
/// [`problem`](Self::problem) names it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Attachment {
    /// The id, unique within the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// A description for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A suggested file name. Do not trust it as a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// The media type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The format, if the media type is not enough to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// When the content was last modified, in seconds since 1970 (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lastmod_time: Option<u64>,
    /// The length of the content in bytes, if the content is not in the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub byte_count: Option<u64>,
    /// The content, or links to it.
    #[serde(skip_serializing_if = "AttachmentData::is_empty")]
    pub data: AttachmentData,
    /// Unknown members, and those with a wrong type.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The content of an attachment, or links to it. At least one member should be present.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AttachmentData {
    /// A detached JWS over the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jws: Option<Value>,
    /// The multihash of the content, in hexadecimal, base58btc or multibase. Required with `links`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// URLs from which the content can be fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links: Option<Vec<String>>,
    /// The content in base64url. Peers also write other spellings: see [`bytes`](Self::bytes).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// The content as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
    /// Unknown members, and those with a wrong type.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Attachment {
    /// Begins an attachment with bytes as content.
    pub fn base64(content: impl AsRef<[u8]>) -> AttachmentBuilder {
        let base64 = Some(to_base64url(content));
        AttachmentBuilder(Self { data: AttachmentData { base64, ..Default::default() }, ..Default::default() })
    }

    /// Begins an attachment with JSON as content.
    pub fn json(content: Value) -> AttachmentBuilder {
        let data = AttachmentData { json: Some(content), ..Default::default() };
        AttachmentBuilder(Self { data, ..Default::default() })
    }

    /// Begins an attachment whose content is fetched from links. `hash` is the [`multihash`] of the content.
    ///
    /// [`multihash`]: AttachmentData::multihash
    pub fn links(links: Vec<String>, hash: impl Into<String>) -> AttachmentBuilder {
        let data = AttachmentData { links: Some(links), hash: Some(hash.into()), ..Default::default() };
        AttachmentBuilder(Self { data, ..Default::default() })
    }

    /// Reads an attachment. A member of a wrong type stays in `extra`.
    pub(super) fn from_members(mut extra: Map<String, Value>) -> Self {
        Self {
            id: take(&mut extra, "id", text),
            description: take(&mut extra, "description", text),
            filename: take(&mut extra, "filename", text),
            media_type: take(&mut extra, "media_type", text),
            format: take(&mut extra, "format", text),
            lastmod_time: take(&mut extra, "lastmod_time", |value| times::time(&value).map_err(|_| value)),
            byte_count: take(&mut extra, "byte_count", |value| times::whole_number(&value).map_err(|_| value)),
            data: take(&mut extra, "data", data).unwrap_or_default(),
            extra,
        }
    }

    /// Whether the attachment has an id that is not empty.
    pub(super) fn has_id(&self) -> bool {
        self.id.as_deref().is_some_and(|id| !id.is_empty())
    }

    /// Returns what is wrong with the attachment: it has no data, a member has a wrong type, links have no hash, the hash
    /// is malformed or of an unknown function, or the content is not base64 or has another hash.
    pub fn problem(&self) -> Option<AttachmentProblem> {
        let hash = self.data.check_hash();
        if hash == Err(HashError::Mismatch) {
            return Some(HashError::Mismatch.into());
        }
        let data = &self.data;
        let is_absent = data.jws.is_none()
            && data.hash.is_none()
            && data.links.is_none()
            && data.base64.is_none()
            && data.json.is_none();
        let member = self.member_with_wrong_type().map(AttachmentProblem::Member);
        member.or(is_absent.then_some(AttachmentProblem::NoData)).or(hash.err().map(AttachmentProblem::Hash))
    }

    /// Checks that nothing is wrong with an attachment that is sent. `index` names an attachment without id in errors.
    pub(super) fn check(&self, index: usize) -> Result<(), MessageError> {
        let id = || self.id.clone().unwrap_or_else(|| index.to_string());
        match self.problem() {
            None => Ok(()),
            Some(AttachmentProblem::NoData) => Err(MessageError::AttachmentData(id())),
            Some(AttachmentProblem::Member(member)) => Err(MessageError::AttachmentMember { id: id(), member }),
            Some(AttachmentProblem::Hash(error)) => Err(MessageError::AttachmentHash { id: id(), error }),
        }
    }

    /// Returns what is wrong with a received attachment.
    ///
    /// # Errors
    /// If its content has another hash: somebody has changed one of them.
    pub(super) fn check_received(&self, index: usize) -> Result<Option<AttachmentProblem>, MessageError> {
        match self.problem() {
            Some(AttachmentProblem::Hash(error @ HashError::Mismatch)) => {
                let id = self.id.clone().unwrap_or_else(|| index.to_string());
                Err(MessageError::AttachmentHash { id, error })
            }
            problem => Ok(problem),
        }
    }

    fn member_with_wrong_type(&self) -> Option<&'static str> {
        let of = |names: &[&'static str], prefix: usize, extra: &Map<String, Value>| {
            names.iter().copied().find(|name| extra.contains_key(&name[prefix..]))
        };
        of(&MEMBERS, 0, &self.extra).or_else(|| of(&DATA_MEMBERS, "data.".len(), &self.data.extra))
    }
}

/// Gives each attachment without an id the id of its position, `1`, `2` and so on, or the next number that no other has.
/// Some peers drop attachments without an id (@hyperledger/identus-sdk 7.0.0).
pub(super) fn give_ids(attachments: &mut [Attachment]) {
    let taken: HashSet<String> = attachments.iter().filter_map(|attachment| attachment.id.clone()).collect();
    let mut number = 0;
    for (index, attachment) in attachments.iter_mut().enumerate().filter(|(_, attachment)| !attachment.has_id()) {
        number = number.max(index) + 1;
        while taken.contains(&number.to_string()) {
            number += 1;
        }
        attachment.id = Some(number.to_string());
    }
}

/// The members of an attachment, and those of its data, that can have a wrong type.
const MEMBERS: [&str; 8] =
    ["id", "description", "filename", "media_type", "format", "lastmod_time", "byte_count", "data"];
const DATA_MEMBERS: [&str; 3] = ["data.hash", "data.links", "data.base64"];

impl<'de> Deserialize<'de> for Attachment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Self::from_members)
    }
}

impl<'de> Deserialize<'de> for AttachmentData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Self::from_members)
    }
}

/// Takes a member out of an object, unless `read` gives its value back. A null is the same as an absent member.
fn take<T>(members: &mut Map<String, Value>, name: &str, read: fn(Value) -> Result<T, Value>) -> Option<T> {
    match read(members.get_mut(name)?.take()) {
        Ok(read) => {
            members.shift_remove(name);
            Some(read)
        }
        Err(Value::Null) => {
            members.shift_remove(name);
            None
        }
        Err(value) => {
            members.insert(name.to_owned(), value);
            None
        }
    }
}

fn text(value: Value) -> Result<String, Value> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(other),
    }
}

fn texts(value: Value) -> Result<Vec<String>, Value> {
    match value {
        Value::Array(values) if values.iter().all(Value::is_string) => {
            Ok(values.into_iter().filter_map(|value| text(value).ok()).collect())
        }
        other => Err(other),
    }
}

fn json(value: Value) -> Result<Value, Value> {
    if value.is_null() { Err(value) } else { Ok(value) }
}

fn data(value: Value) -> Result<AttachmentData, Value> {
    match value {
        Value::Object(members) => Ok(AttachmentData::from_members(members)),
        other => Err(other),
    }
}

impl AttachmentData {
    /// The SHA-256 multihash of content, as multibase base58btc.
    pub fn multihash(content: &[u8]) -> String {
        let mut bytes = vec![0x12, 0x20];
        bytes.extend_from_slice(&Sha256::digest(content));
        format!("z{}", bs58::encode(bytes).into_string())
    }

    /// Decodes the content in `base64`. Returns `None` if that member is absent. The specification wants base64url. All
    /// that peers write is read: standard base64 and base64url, with and without padding, broken into lines, and
    /// percent-encoded.
    ///
    /// # Errors
    /// [`HashError::Base64`] if the text is not base64.
    pub fn bytes(&self) -> Option<Result<Vec<u8>, HashError>> {
        Some(from_base64(self.base64.as_deref()?).ok_or(HashError::Base64))
    }

    /// Checks that `content`, which was fetched from a link, has the attachment's hash.
    ///
    /// # Errors
    /// If there is no hash, the hash is malformed or neither SHA-256 nor SHA-512, or the content has another hash.
    pub fn verify(&self, content: &[u8]) -> Result<(), HashError> {
        let hash = multihash_bytes(self.hash.as_deref().ok_or(HashError::Missing)?)?;
        let (&[function, length], digest) = hash.split_first_chunk().ok_or(HashError::Malformed)?;
        let computed = match function {
            0x12 => Sha256::digest(content).to_vec(),
            0x13 => Sha512::digest(content).to_vec(),
            other => return Err(HashError::Unsupported(other)),
        };
        if digest.len() != usize::from(length) {
            return Err(HashError::Malformed);
        }
        if digest == computed { Ok(()) } else { Err(HashError::Mismatch) }
    }

    fn from_members(mut extra: Map<String, Value>) -> Self {
        Self {
            jws: take(&mut extra, "jws", json),
            hash: take(&mut extra, "hash", text),
            links: take(&mut extra, "links", texts),
            base64: take(&mut extra, "base64", text),
            json: take(&mut extra, "json", json),
            extra,
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn check_hash(&self) -> Result<(), HashError> {
        if self.links.is_some() && self.hash.is_none() {
            return Err(HashError::Missing);
        }
        match (&self.hash, self.bytes()) {
            (Some(_), Some(content)) => self.verify(&content?),
            (Some(hash), None) => multihash_bytes(hash).map(|_| ()),
            (None, content) => content.transpose().map(|_| ()),
        }
    }
}

/// Decodes a multihash in any form that peers use: multibase, and hexadecimal or base58btc without a prefix.
fn multihash_bytes(text: &str) -> Result<Vec<u8>, HashError> {
    // A multihash in hexadecimal begins with `1`, which is no prefix of multibase.
    let bytes = from_multibase(text).or_else(|| from_hex(text)).or_else(|| from_base58(text));
    bytes.filter(|bytes| bytes.len() > 2).ok_or(HashError::Malformed)
}

/// Builds an [`Attachment`].
#[derive(Debug, Clone)]
#[must_use]
pub struct AttachmentBuilder(Attachment);

impl AttachmentBuilder {
    setters! {
        /// Sets the id.
        id: impl Into<String> => id.into();
        /// Sets the description.
        description: impl Into<String> => description.into();
        /// Sets the file name.
        filename: impl Into<String> => filename.into();
        /// Sets the media type.
        media_type: impl Into<String> => media_type.into();
        /// Sets the format.
        format: impl Into<String> => format.into();
        /// Sets the time of the last modification, in seconds since 1970.
        lastmod_time: u64 => lastmod_time;
        /// Sets the length in bytes.
        byte_count: u64 => byte_count;
    }

    /// Sets the detached JWS over the content.
    pub fn jws(mut self, jws: Value) -> Self {
        self.0.data.jws = Some(jws);
        self
    }

    /// Sets the multihash.
    pub fn hash(mut self, hash: impl Into<String>) -> Self {
        self.0.data.hash = Some(hash.into());
        self
    }

    /// Returns the attachment. One without an id gets one when its message is packed.
    pub fn finalize(self) -> Attachment {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_checked_in_each_encoding() {
        let content = b"claviger";
        let z = AttachmentData::multihash(content);
        let raw = bs58::decode(&z[1..]).into_vec().unwrap();
        let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
        for hash in [z.clone(), z[1..].to_owned(), hex.clone(), format!("f{hex}"), format!("u{}", to_base64url(&raw))] {
            let good = Attachment::base64(content).hash(&hash).finalize();
            assert!(good.check(0).is_ok(), "{hash}");
            let bad = Attachment::base64(b"Claviger").hash(&hash).finalize();
            assert!(matches!(bad.check(0), Err(MessageError::AttachmentHash { error: HashError::Mismatch, .. })));
        }
        let other = Attachment::base64(content).hash("1620").finalize();
        assert!(matches!(other.check(0), Err(MessageError::AttachmentHash { error: HashError::Malformed, .. })));
    }
}
