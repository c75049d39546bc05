//! The Concat KDF of JOSE (RFC 7518 section 4.6.2, NIST SP 800-56A section 5.8.1). For ECDH-1PU, the content's
//! authentication tag is another input (draft-madden-jose-ecdh-1pu-04 section 2.3).

use sha2::{Digest, Sha256};

use super::{
    secret::{Kek, SharedSecret},
    stack::with_wiped_stack,
};

/// The inputs of the KDF besides Z. If there is a tag, the algorithm is ECDH-1PU+A256KW, otherwise ECDH-ES+A256KW.
///
/// The text of DIDComm v2.1 demands the tag for ECDH-ES too. The specification's test vectors and all implementations
/// leave the tag out (didcomm-messaging#457).
#[derive(Debug, Clone, Copy)]
pub struct KdfInfo<'a> {
    /// PartyUInfo: the decoded `apu` header, which is the sender's key id. Empty for ECDH-ES.
    pub apu: &'a [u8],
    /// PartyVInfo: the decoded `apv` header.
    pub apv: &'a [u8],
    /// The authentication tag of the content, for ECDH-1PU only.
    pub tag: Option<&'a [u8]>,
}

impl KdfInfo<'_> {
    /// The `alg` of the header, which is also the AlgorithmID.
    pub fn algorithm(&self) -> &'static str {
        if self.tag.is_some() { "ECDH-1PU+A256KW" } else { "ECDH-ES+A256KW" }
    }

    /// OtherInfo: AlgorithmID, PartyUInfo, PartyVInfo and SuppPubInfo. SuppPubInfo is the key length of 256 bits, and
    /// for ECDH-1PU also the length of the tag and the tag.
    pub fn other_info(&self) -> Vec<u8> {
        let mut info = Vec::with_capacity(128);
        push_field(&mut info, self.algorithm().as_bytes());
        push_field(&mut info, self.apu);
        push_field(&mut info, self.apv);
        info.extend_from_slice(&256u32.to_be_bytes());
        if let Some(tag) = self.tag {
            push_field(&mut info, tag);
        }
        info
    }
}

/// Appends the field's length in bytes, as a 32-bit big-endian number, and then the field.
fn push_field(info: &mut Vec<u8>, field: &[u8]) {
    info.extend_from_slice(&(field.len() as u32).to_be_bytes());
    info.extend_from_slice(field);
}

/// Derives the KEK: SHA-256 over the round number 1, Z, and OtherInfo. Z is the concatenation of the parts `z`: Ze
/// alone for ECDH-ES, Ze and then Zs for ECDH-1PU.
pub fn concat_kdf(z: &[&SharedSecret], info: &KdfInfo<'_>) -> Kek {
    let other_info = info.other_info();
    // The hash's state begins with Z, and ends as the KEK. It is moved when it is finished.
    Kek::written_by(|kek| {
        with_wiped_stack(|| {
            let mut hash = Sha256::new_with_prefix(1u32.to_be_bytes());
            for part in z {
                hash.update(part.as_bytes());
            }
            hash.update(&other_info);
            hash.finalize_into(kek.into());
        });
    })
}
