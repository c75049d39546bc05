//! Both ends of a key agreement in software: what a token is asked, and what it must answer.

use claviger::{
    crypto::{Cek, ContentEncryption, EncryptedKey, KdfInfo, Kek, SharedSecret, concat_kdf, unwrap_key, wrap_key},
    keys::PublicKey,
    secrets::{Sender, Unwrap, Wrap},
};

use crate::PrivateKey;

/// What enters the KDF beside the secrets.
#[derive(Debug, Clone)]
pub struct Parties {
    /// PartyUInfo, decoded.
    pub apu: Vec<u8>,
    /// PartyVInfo, decoded.
    pub apv: Vec<u8>,
    /// The content's tag, which only ECDH-1PU uses.
    pub tag: Vec<u8>,
}

impl Parties {
    /// Lengths as DIDComm has them: a key id, a hash, and a tag of A256CBC-HS512.
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

/// A content key of 64 bytes, fresh.
pub fn fresh_cek() -> Cek {
    Cek::generate(ContentEncryption::A256CbcHs512)
}

/// A content key on its way to `recipient`: by ECDH-1PU from a sender, else by ECDH-ES.
pub fn message_to(recipient: &PublicKey, sender: Option<&PrivateKey>, cek: &Cek, parties: &Parties) -> Unwrap {
    let ephemeral = PrivateKey::generate(recipient.curve());
    let ze = ephemeral.agree(recipient).expect("one curve");
    let zs = sender.map(|sender| sender.agree(recipient).expect("one curve"));
    message_with(&ze, zs.as_ref(), ephemeral.public(), sender.map(PrivateKey::public), cek, parties)
}

/// The same from shared secrets that are known, as those of a test vector are.
pub fn message_with(
    ze: &SharedSecret,
    zs: Option<&SharedSecret>,
    epk: &PublicKey,
    sender: Option<&PublicKey>,
    cek: &Cek,
    parties: &Parties,
) -> Unwrap {
    Unwrap {
        epk: epk.clone(),
        sender: sender.map(|key| Sender { key: key.clone(), tag: parties.tag.clone() }),
        apu: parties.apu.clone(),
        apv: parties.apv.clone(),
        encrypted_key: wrap_key(&parties.kek(ze, zs), cek),
    }
}

/// A content key for a token to wrap, and the ephemeral key that its recipients read it with.
pub fn wrap_for<'a>(
    recipients: impl IntoIterator<Item = &'a PublicKey>,
    ephemeral: &PrivateKey,
    cek: &Cek,
    parties: &Parties,
) -> Wrap {
    let with_ze = |key: &PublicKey| (key.clone(), ephemeral.agree(key).expect("one curve"));
    Wrap {
        cek: cek.clone(),
        apu: parties.apu.clone(),
        apv: parties.apv.clone(),
        tag: parties.tag.clone(),
        recipients: recipients.into_iter().map(with_ze).collect(),
    }
}

/// What a recipient in software reads of a wrapped key; none if it was not made for it by that sender.
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
