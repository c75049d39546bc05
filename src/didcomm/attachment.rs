//! Attachments (DIDComm v2.1 "Attachments").

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256, Sha512};

use super::MessageError;

/// Something that comes with a message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Attachment {
    /// Unique in the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A hint at a name; not to be trusted as a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// The media type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The format, where the media type does not say enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// When the content was changed last: seconds since 1970, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lastmod_time: Option<u64>,
    /// The length of the content in bytes, where it is not in the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub byte_count: Option<u64>,
    /// The content, or where it is.
    pub data: AttachmentData,
    /// Members that we do not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The content of an attachment, or where it is; at least one member is there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AttachmentData {
    /// A detached JWS over the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jws: Option<Value>,
    /// The multihash of the content; must be there with `links`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Where the content can be fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links: Option<Vec<String>>,
    /// The content in base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// The content as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
    /// Members that we do not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What is wrong with a hash, or with content that it names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HashError {
    /// Content elsewhere needs a hash.
    #[error("links need a hash")]
    Missing,
    /// It is no multihash in hexadecimal, base58btc or multibase.
    #[error("the hash is no multihash")]
    Malformed,
    /// It is a multihash, but neither SHA-256 nor SHA-512.
    #[error("the hash function with multicodec {0:#x} is not supported")]
    Unsupported(u8),
    /// The content is another one.
    #[error("the content does not have the hash")]
    Mismatch,
    /// The content is not base64.
    #[error("the content is not base64")]
    Base64,
}

impl Attachment {
    /// Begins an attachment of bytes.
    pub fn base64(content: impl AsRef<[u8]>) -> AttachmentBuilder {
        let base64 = Some(URL_SAFE_NO_PAD.encode(content));
        AttachmentBuilder(Self { data: AttachmentData { base64, ..Default::default() }, ..Default::default() })
    }

    /// Begins an attachment of JSON.
    pub fn json(content: Value) -> AttachmentBuilder {
        let data = AttachmentData { json: Some(content), ..Default::default() };
        AttachmentBuilder(Self { data, ..Default::default() })
    }

    /// Begins an attachment that is fetched; `hash` is the multihash of the content ([`multihash`]).
    ///
    /// [`multihash`]: AttachmentData::multihash
    pub fn links(links: Vec<String>, hash: impl Into<String>) -> AttachmentBuilder {
        let data = AttachmentData { links: Some(links), hash: Some(hash.into()), ..Default::default() };
        AttachmentBuilder(Self { data, ..Default::default() })
    }

    /// At least one kind of data; a hash where there are links; and content that has its hash.
    pub(super) fn check(&self, number: usize) -> Result<(), MessageError> {
        let id = || self.id.clone().unwrap_or_else(|| number.to_string());
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
    /// The multihash of content with SHA-256, in multibase base58btc.
    pub fn multihash(content: &[u8]) -> String {
        let mut bytes = vec![0x12, 0x20];
        bytes.extend_from_slice(&Sha256::digest(content));
        format!("z{}", bs58::encode(bytes).into_string())
    }

    /// The bytes of embedded base64 content; padded and standard base64, as older peers write it, is read too.
    pub fn bytes(&self) -> Option<Result<Vec<u8>, HashError>> {
        let text = self.base64.as_deref()?;
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).or_else(|_| STANDARD.decode(text));
        Some(bytes.map_err(|_| HashError::Base64))
    }

    /// Compares content, fetched from a link, with the hash.
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

/// A multihash in the spellings that are met: hexadecimal, bare base58btc, multibase `z`, `f` and `u`.
fn multihash_bytes(text: &str) -> Result<Vec<u8>, HashError> {
    if text.len() > 200 {
        return Err(HashError::Malformed); // Base58 is quadratic.
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

/// Makes an [`Attachment`].
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
        /// Sets the time of the last change, in seconds since 1970.
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

    /// The attachment.
    pub fn finalize(self) -> Attachment {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_checked_in_each_spelling() {
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
