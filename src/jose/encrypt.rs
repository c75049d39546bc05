//! Encrypts messages into JWEs in the General JSON Serialization (RFC 7516 section 7.2.1).

use serde_json::{Value, json};

use super::{
    b64,
    error::JoseError,
    jwe::{KeyAgreement, apv_of},
};
use crate::{
    crypto::{
        Cek, ContentEncryption, EncryptedContent, EncryptedKey, EphemeralKey, KdfInfo, SharedSecret, concat_kdf,
        wrap_key,
    },
    keys::PublicKey,
    secrets::{Context, Secrets, WrapRequest},
};

/// A recipient of a message.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    /// The DID URL of the recipient's key.
    pub kid: &'a str,
    /// The recipient's public key. The keys of all recipients must be on one curve.
    pub key: &'a PublicKey,
}

/// Encrypts `plaintext` to the recipients with ECDH-ES+A256KW, which needs no private key of ours. Returns
/// the JWE as JSON, with the recipients in the order of their key ids.
///
/// # Errors
/// If there is no recipient, or the keys are not on one curve that is for key agreement.
pub fn anoncrypt(plaintext: &[u8], enc: ContentEncryption, recipients: &[Recipient<'_>]) -> Result<String, JoseError> {
    let recipients = &sorted(recipients);
    let draft = MessageDraft::new(enc, None, recipients)?;
    let info = KdfInfo { apu: &[], apv: &draft.apv, tag: None };
    let keys = draft.ze.iter().map(|ze| wrap_key(&concat_kdf(&[ze], &info), &draft.cek)).collect();
    let content = draft.encrypt(plaintext);
    Ok(draft.serialize(recipients, keys, &content))
}

/// Encrypts `plaintext` to the recipients with ECDH-1PU+A256KW and A256CBC-HS512. `sender` is our public key, and
/// `skid` is its DID URL. Returns the JWE as JSON.
///
/// The content is encrypted first, because its tag is an input of the KDF. Then [`Secrets::wrap_cek`] is called once
/// for all recipients.
///
/// # Errors
/// Those of [`anoncrypt`], and [`JoseError::Secrets`] if the token fails.
pub async fn authcrypt(
    plaintext: &[u8],
    skid: &str,
    sender: &PublicKey,
    recipients: &[Recipient<'_>],
    secrets: &(impl Secrets + ?Sized),
    cx: &Context,
) -> Result<String, JoseError> {
    let recipients = &sorted(recipients);
    let mut draft = MessageDraft::new(ContentEncryption::A256CbcHs512, Some(skid), recipients)?;
    let content = draft.encrypt(plaintext);
    let request = WrapRequest {
        cek: draft.cek.clone(),
        apu: skid.as_bytes().to_vec(),
        apv: draft.apv.clone(),
        tag: content.tag.clone(),
        recipients: recipients.iter().map(|to| to.key.clone()).zip(std::mem::take(&mut draft.ze)).collect(),
    };
    let keys = secrets.wrap_cek(sender, &request, &cx.for_kid(skid)).await?;
    Ok(draft.serialize(recipients, keys, &content))
}

/// The recipients by key id. `apv` is the hash of the sorted key ids. A peer that hashes them in the order of the
/// message, as didcomm-messaging 0.1.1 for Python does, gets the same hash.
fn sorted<'a>(recipients: &[Recipient<'a>]) -> Vec<Recipient<'a>> {
    let mut sorted = recipients.to_vec();
    sorted.sort_by_key(|recipient| recipient.kid);
    sorted
}

/// A message before its content is encrypted.
struct MessageDraft {
    enc: ContentEncryption,
    protected: String,
    apv: Vec<u8>,
    cek: Cek,
    /// The shared secret of the ephemeral key with each recipient.
    ze: Vec<SharedSecret>,
}

impl MessageDraft {
    fn new(enc: ContentEncryption, skid: Option<&str>, recipients: &[Recipient<'_>]) -> Result<Self, JoseError> {
        let curve = recipients.first().ok_or(JoseError::NoRecipient)?.key.curve();
        let ephemeral =
            EphemeralKey::generate(curve).ok_or_else(|| JoseError::UnsupportedAlgorithm(curve.name().to_owned()))?;
        let ze: Result<Vec<_>, _> = recipients
            .iter()
            .map(|Recipient { kid, key }| {
                ephemeral.agree(key).ok_or_else(|| JoseError::CurveMismatch {
                    kid: (*kid).to_owned(),
                    curve: key.curve(),
                    expected: curve,
                })
            })
            .collect();
        let apv = apv_of(recipients.iter().map(|recipient| recipient.kid));
        let alg = if skid.is_some() { KeyAgreement::Ecdh1Pu } else { KeyAgreement::EcdhEs };
        let mut header = json!({
            "typ": "application/didcomm-encrypted+json",
            "alg": alg.name(),
            "enc": enc.name(),
            "apv": b64::encode(&apv),
            "epk": ephemeral.public().to_jwk(),
        });
        if let Some(skid) = skid {
            header["skid"] = skid.into();
            header["apu"] = b64::encode(skid).into();
        }
        Ok(Self { enc, protected: b64::encode(header.to_string()), apv, cek: Cek::generate(enc), ze: ze? })
    }

    fn encrypt(&self, plaintext: &[u8]) -> EncryptedContent {
        self.enc.seal(&self.cek, self.protected.as_bytes(), plaintext)
    }

    fn serialize(&self, recipients: &[Recipient<'_>], keys: Vec<EncryptedKey>, content: &EncryptedContent) -> String {
        let recipients: Vec<Value> = recipients
            .iter()
            .zip(keys)
            .map(|(to, key)| json!({"header": {"kid": to.kid}, "encrypted_key": b64::encode(key)}))
            .collect();
        json!({
            "ciphertext": b64::encode(&content.ciphertext),
            "protected": self.protected,
            "recipients": recipients,
            "tag": b64::encode(&content.tag),
            "iv": b64::encode(&content.iv),
        })
        .to_string()
    }
}
