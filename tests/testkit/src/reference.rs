//! Both ends of a key agreement in software: requests to a token, and their correct results.

use claviger::{
    crypto::{Cek, ContentEncryption, EncryptedKey, KdfInfo, Kek, SharedSecret, concat_kdf, unwrap_key, wrap_key},
    keys::PublicKey,
    secrets::{Ecdh1puSender, UnwrapRequest, WrapRequest},
};

use crate::PrivateKey;

/// The inputs of the KDF other than the shared secrets.
#[derive(Debug, Clone)]
pub struct Parties {
    /// PartyUInfo, decoded.
    pub apu: Vec<u8>,
    /// PartyVInfo, decoded.
    pub apv: Vec<u8>,
    /// The content's tag. Only ECDH-1PU uses it.
    pub tag: Vec<u8>,
}

impl Parties {
    /// Values of the lengths that DIDComm uses: a key id, a hash, and a tag of A256CBC-HS512.
    pub fn example() -> Self {
        Self { apu: b"did:example:alice#key-1".to_vec(), apv: vec![0xa5; 32], tag: (0..32).collect() }
    }

    fn kek(&self, ze: &SharedSecret, zs: Option<&SharedSecret>) -> Kek {
        match zs {
            None => concat_kdf(&[ze], &KdfInfo { apu: &self.apu, apv: &self.apv, tag: None }),
            Some(zs) => concat_kdf(&[ze, zs], &KdfInfo { apu: &self.apu, apv: &self.apv, tag: Some(&self.tag) }),
        }
    }
}

/// A new content key of 64 bytes.
pub fn fresh_cek() -> Cek {
    Cek::generate(ContentEncryption::A256CbcHs512)
}

/// A request to unwrap a content key for `recipient`: with ECDH-1PU if there is a sender, otherwise with ECDH-ES.
pub fn message_to(recipient: &PublicKey, sender: Option<&PrivateKey>, cek: &Cek, parties: &Parties) -> UnwrapRequest {
    let ephemeral = PrivateKey::generate(recipient.curve());
    let ze = ephemeral.agree(recipient).expect("one curve");
    let zs = sender.map(|sender| sender.agree(recipient).expect("one curve"));
    message_with(&ze, zs.as_ref(), ephemeral.public(), sender.map(PrivateKey::public), cek, parties)
}

/// A request to unwrap a content key, made from known shared secrets, such as those of a test vector.
pub fn message_with(
    ze: &SharedSecret,
    zs: Option<&SharedSecret>,
    epk: &PublicKey,
    sender: Option<&PublicKey>,
    cek: &Cek,
    parties: &Parties,
) -> UnwrapRequest {
    UnwrapRequest {
        epk: epk.clone(),
        sender: sender.map(|key| Ecdh1puSender { key: key.clone(), tag: parties.tag.clone() }),
        apu: parties.apu.clone(),
        apv: parties.apv.clone(),
        encrypted_key: wrap_key(&parties.kek(ze, zs), cek),
    }
}

/// A request to wrap a content key for recipients, with the message's ephemeral key.
pub fn wrap_for<'a>(
    recipients: impl IntoIterator<Item = &'a PublicKey>,
    ephemeral: &PrivateKey,
    cek: &Cek,
    parties: &Parties,
) -> WrapRequest {
    let with_ze = |key: &PublicKey| (key.clone(), ephemeral.agree(key).expect("one curve"));
    WrapRequest {
        cek: cek.clone(),
        apu: parties.apu.clone(),
        apv: parties.apv.clone(),
        tag: parties.tag.clone(),
        recipients: recipients.into_iter().map(with_ze).collect(),
    }
}

/// Unwraps a content key in software. Returns none if it was not wrapped for this recipient by this sender.
pub fn read(
    recipient: &PrivateKey,
    epk: &PublicKey,
    sender: Option<&PublicKey>,
    parties: &Parties,
    encrypted_key: &EncryptedKey,
) -> Option<Cek> {
    let ze = recipient.agree(epk)?;
    let zs = match sender {
        Some(sender) => Some(recipient.agree(sender)?),
        None => None,
    };
    unwrap_key(&parties.kek(&ze, zs.as_ref()), encrypted_key).ok()
}
