//! Attachments (DIDComm v2.1 "Attachments").

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256, Sha512};

use super::message_error::{HashError, MessageError};

/// An attachment of a message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
    pub data: AttachmentData,
    /// Unknown members.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The content of an attachment, or links to it. At least one member is present.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
    /// The content in base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// The content as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
    /// Unknown members.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Attachment {
    /// Begins an attachment with bytes as content.
    pub fn base64(content: impl AsRef<[u8]>) -> AttachmentBuilder {
        let base64 = Some(URL_SAFE_NO_PAD.encode(content));
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

    /// Checks that there is data, that links have a hash, and that embedded content has its hash. `index` names an
    /// attachment without id in errors.
    pub(super) fn check(&self, index: usize) -> Result<(), MessageError> {
        let id = || self.id.clone().unwrap_or_else(|| index.to_string());
        let data = &self.data;
        if data.jws.is_none()
            && data.hash.is_none()
            && data.links.is_none()
            && data.base64.is_none()
            && data.json.is_none()
        {
            return Err(MessageError::AttachmentData(id()));
        }
        data.check_hash().map_err(|error| MessageError::AttachmentHash { id: id(), error })
    }
}

impl AttachmentData {
    /// The SHA-256 multihash of content, as multibase base58btc.
    pub fn multihash(content: &[u8]) -> String {
        let mut bytes = vec![0x12, 0x20];
        bytes.extend_from_slice(&Sha256::digest(content));
        format!("z{}", bs58::encode(bytes).into_string())
    }

    /// Decodes the content in `base64`. Returns `None` if that member is absent. Padded base64url and standard base64,
    /// which older peers write, are accepted too.
    ///
    /// # Errors
    /// [`HashError::Base64`] if the text is neither base64url nor base64.
    pub fn bytes(&self) -> Option<Result<Vec<u8>, HashError>> {
        let text = self.base64.as_deref()?;
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).or_else(|_| STANDARD.decode(text));
        Some(bytes.map_err(|_| HashError::Base64))
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

/// Decodes a multihash in any form that peers use: hexadecimal, base58btc without prefix, or multibase
/// `z`, `f` and `u`.
fn multihash_bytes(text: &str) -> Result<Vec<u8>, HashError> {
    if text.len() > 200 {
        return Err(HashError::Malformed); // Decoding base58 takes quadratic time.
    }
    let base58 = |text: &str| bs58::decode(text).into_vec().ok();
    let bytes = match text.split_at_checked(1) {
        Some(("z", rest)) => base58(rest),
        Some(("f", rest)) => hex(rest),
        Some(("u", rest)) => URL_SAFE_NO_PAD.decode(rest).ok(),
        _ => hex(text).or_else(|| base58(text)),
    };
    bytes.filter(|bytes| bytes.len() > 2).ok_or(HashError::Malformed)
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if digits.len() % 2 == 1 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
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

    /// Returns the attachment.
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
        for hash in
            [z.clone(), z[1..].to_owned(), hex.clone(), format!("f{hex}"), format!("u{}", URL_SAFE_NO_PAD.encode(&raw))]
        {
            let good = Attachment::base64(content).hash(&hash).finalize();
            assert!(good.check(0).is_ok(), "{hash}");
            let bad = Attachment::base64(b"Claviger").hash(&hash).finalize();
            assert!(matches!(bad.check(0), Err(MessageError::AttachmentHash { error: HashError::Mismatch, .. })));
        }
        let other = Attachment::base64(content).hash("1620").finalize();
        assert!(matches!(other.check(0), Err(MessageError::AttachmentHash { error: HashError::Malformed, .. })));
    }
}
