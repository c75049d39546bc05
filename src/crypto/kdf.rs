//! The Concat KDF of JOSE (RFC 7518 section 4.6.2, NIST SP 800-56A section 5.8.1) with the tag of
//! draft-madden-jose-ecdh-1pu-04 section 2.3.

use sha2::{Digest, Sha256};

use super::{Kek, SharedSecret};

/// What is hashed behind Z. The algorithm follows from the tag: only ECDH-1PU+A256KW has one.
///
/// The text of DIDComm v2.1 asks for the tag with ECDH-ES as well; its own vectors were made without it, as every
/// implementation does (didcomm-messaging#457).
#[derive(Debug, Clone, Copy)]
pub struct KdfInfo<'a> {
    /// PartyUInfo: the sender's key id, decoded from the `apu` header; empty for ECDH-ES.
    pub apu: &'a [u8],
    /// PartyVInfo: decoded from the `apv` header.
    pub apv: &'a [u8],
    /// The content's authentication tag, for ECDH-1PU.
    pub tag: Option<&'a [u8]>,
}

impl KdfInfo<'_> {
    /// `alg` as it stands in the header and in AlgorithmID.
    pub fn algorithm(&self) -> &'static str {
        if self.tag.is_some() { "ECDH-1PU+A256KW" } else { "ECDH-ES+A256KW" }
    }

    /// OtherInfo: AlgorithmID, PartyUInfo, PartyVInfo, SuppPubInfo (256 bits, and for ECDH-1PU the tag behind its length).
    pub fn other_info(&self) -> Vec<u8> {
        let mut info = Vec::with_capacity(128);
        push(&mut info, self.algorithm().as_bytes());
        push(&mut info, self.apu);
        push(&mut info, self.apv);
        info.extend_from_slice(&256u32.to_be_bytes());
        if let Some(tag) = self.tag {
            push(&mut info, tag);
        }
        info
    }
}

/// A field behind its length of 32 bits.
fn push(info: &mut Vec<u8>, field: &[u8]) {
    info.extend_from_slice(&(field.len() as u32).to_be_bytes());
    info.extend_from_slice(field);
}

/// The KEK: SHA-256 of round 1, Z (Ze, then Zs for ECDH-1PU) and OtherInfo.
pub fn concat_kdf(z: &[&SharedSecret], info: &KdfInfo<'_>) -> Kek {
    let mut hash = Sha256::new_with_prefix(1u32.to_be_bytes());
    for part in z {
        hash.update(part.as_bytes());
    }
    hash.update(info.other_info());
    Kek::new(hash.finalize().into())
}
