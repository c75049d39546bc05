//! Throw-away peers in software, and messages between them and a key under test.

use crate::{
    crypto::{self, Cek, ContentEncryption, EncryptedKey, EphemeralKey, KdfInfo, Kek, SharedSecret},
    keys::{Curve, PublicKey},
    secrets::request::{Ecdh1puSender, UnwrapRequest, WrapRequest},
};

/// The keys of throw-away peers.
pub(in crate::secrets) struct TestPeers {
    ephemeral: EphemeralKey,
    /// The static key of the other party, sender or recipient.
    peer: EphemeralKey,
}

/// A message to the key under test, and the content key that the token must return.
pub(in crate::secrets) struct TestRequest {
    pub(in crate::secrets) request: UnwrapRequest,
    pub(in crate::secrets) cek: Cek,
}

const APU: &[u8] = b"known";
const APV: &[u8] = b"answer";
const TAG: &[u8] = &[0x5a; 32];
const INFO: KdfInfo<'static> = KdfInfo { apu: APU, apv: APV, tag: Some(TAG) };

impl TestPeers {
    /// Generates the peers' keys. Returns none for a curve without key agreement.
    pub(in crate::secrets) fn generate(curve: Curve) -> Option<Self> {
        Some(Self { ephemeral: EphemeralKey::generate(curve)?, peer: EphemeralKey::generate(curve)? })
    }

    /// The same peer, with another ephemeral key.
    pub(in crate::secrets) fn with_new_ephemeral(self) -> Option<Self> {
        Some(Self { ephemeral: EphemeralKey::generate(self.peer.public().curve())?, ..self })
    }

    /// An ECDH-ES message to the key.
    pub(in crate::secrets) fn anoncrypt(&self, to: &PublicKey) -> TestRequest {
        let ze = agree(&self.ephemeral, to);
        let kek = crypto::concat_kdf(&[&ze], &KdfInfo { apu: b"", apv: APV, tag: None });
        self.request(None, b"", Cek::generate(ContentEncryption::A256Gcm), &kek)
    }

    /// An ECDH-1PU message to the key.
    pub(in crate::secrets) fn authcrypt(&self, to: &PublicKey) -> TestRequest {
        let (ze, zs) = (agree(&self.ephemeral, to), agree(&self.peer, to));
        let kek = crypto::concat_kdf(&[&ze, &zs], &INFO);
        let sender = Ecdh1puSender { key: self.peer.public().clone(), tag: TAG.to_vec() };
        self.request(Some(sender), APU, Cek::generate(ContentEncryption::A256CbcHs512), &kek)
    }

    fn request(&self, sender: Option<Ecdh1puSender>, apu: &[u8], cek: Cek, kek: &Kek) -> TestRequest {
        let encrypted_key = crypto::wrap_key(kek, &cek);
        let (epk, apu, apv) = (self.ephemeral.public().clone(), apu.to_vec(), APV.to_vec());
        TestRequest { request: UnwrapRequest { epk, sender, apu, apv, encrypted_key }, cek }
    }

    /// An ECDH-1PU message from the key to the peer: the request, and the wrapped key that the token must return.
    pub(in crate::secrets) fn reply(&self, from: &PublicKey, cek: Cek) -> (WrapRequest, EncryptedKey) {
        let (ze, zs) = (agree(&self.ephemeral, self.peer.public()), agree(&self.peer, from));
        let expected = crypto::wrap_key(&crypto::concat_kdf(&[&ze, &zs], &INFO), &cek);
        let recipients = vec![(self.peer.public().clone(), ze)];
        (WrapRequest { cek, apu: APU.to_vec(), apv: APV.to_vec(), tag: TAG.to_vec(), recipients }, expected)
    }
}

fn agree(with: &EphemeralKey, to: &PublicKey) -> SharedSecret {
    with.agree(to).expect("a key of the same curve")
}
