//! Private keys and their operations.

use getrandom::{SysRng, rand_core::UnwrapErr};
use p256::{
    ecdsa::signature::{Signer, hazmat::PrehashSigner},
    elliptic_curve::{Generate, sec1::ToSec1Point},
};

use crate::{firmware::Firmware, status::Status};

/// An algorithm with its PIV number (NIST SP 800-78-4 table 6-2; E0 and E1 are Yubico's own).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Algorithm {
    P256 = 0x11,
    P384 = 0x14,
    Ed25519 = 0xE0,
    X25519 = 0xE1,
}

impl Algorithm {
    /// The algorithm with this number, if the firmware has it.
    pub(crate) fn parse(number: u8, firmware: Firmware) -> Result<Self, Status> {
        match number {
            0x11 => Ok(Self::P256),
            0x14 => Ok(Self::P384),
            0xE0 if firmware.is_5_7() => Ok(Self::Ed25519),
            0xE1 if firmware.is_5_7() => Ok(Self::X25519),
            _ => Err(Status::WRONG_DATA),
        }
    }
}

/// A private key.
#[derive(Clone)]
pub(crate) enum PrivateKey {
    P256(p256::SecretKey),
    P384(p384::SecretKey),
    Ed25519(Box<ed25519_dalek::SigningKey>),
    X25519(x25519_dalek::StaticSecret),
}

impl PrivateKey {
    pub(crate) fn generate(algorithm: Algorithm) -> Self {
        let mut rng = UnwrapErr(SysRng);
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("the operating system has randomness");
        match algorithm {
            Algorithm::P256 => Self::P256(p256::SecretKey::generate_from_rng(&mut rng)),
            Algorithm::P384 => Self::P384(p384::SecretKey::generate_from_rng(&mut rng)),
            Algorithm::Ed25519 => Self::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(&seed))),
            Algorithm::X25519 => Self::X25519(seed.into()),
        }
    }

    /// A key from its bytes. Tag 06 is the scalar of a NIST curve, 07 an Ed25519 key, 08 an X25519 key, all at full
    /// length (Yubico's IMPORT ASYMMETRIC KEY).
    pub(crate) fn import(algorithm: Algorithm, tag: u8, bytes: &[u8]) -> Result<Self, Status> {
        let seed = || <[u8; 32]>::try_from(bytes).ok();
        match (algorithm, tag, bytes.len()) {
            (Algorithm::P256, 0x06, 32) => p256::SecretKey::from_slice(bytes).ok().map(Self::P256),
            (Algorithm::P384, 0x06, 48) => p384::SecretKey::from_slice(bytes).ok().map(Self::P384),
            (Algorithm::Ed25519, 0x07, _) => {
                seed().map(|seed| Self::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(&seed))))
            }
            (Algorithm::X25519, 0x08, _) => seed().map(|seed| Self::X25519(seed.into())),
            _ => None,
        }
        .ok_or(Status::WRONG_DATA)
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match self {
            Self::P256(_) => Algorithm::P256,
            Self::P384(_) => Algorithm::P384,
            Self::Ed25519(_) => Algorithm::Ed25519,
            Self::X25519(_) => Algorithm::X25519,
        }
    }

    /// The public half as the card encodes it: an uncompressed point, or the 32 bytes of a 25519 key.
    pub(crate) fn public(&self) -> Vec<u8> {
        match self {
            Self::P256(key) => key.public_key().to_sec1_point(false).as_bytes().to_vec(),
            Self::P384(key) => key.public_key().to_sec1_point(false).as_bytes().to_vec(),
            Self::Ed25519(key) => key.verifying_key().to_bytes().to_vec(),
            Self::X25519(key) => x25519_dalek::PublicKey::from(key).to_bytes().to_vec(),
        }
    }

    /// Signs a hash, or with Ed25519 the whole message. An ECDSA signature is DER (SP 800-73-4 part 2 appendix A.3).
    pub(crate) fn sign(&self, input: &[u8]) -> Result<Vec<u8>, Status> {
        match self {
            Self::P256(key) => {
                let hash = pad::<32>(input)?;
                let signature: p256::ecdsa::Signature =
                    p256::ecdsa::SigningKey::from(key).sign_prehash(&hash).map_err(|_| Status::WRONG_DATA)?;
                Ok(signature.to_der().as_bytes().to_vec())
            }
            Self::P384(key) => {
                let hash = pad::<48>(input)?;
                let signature: p384::ecdsa::Signature =
                    p384::ecdsa::SigningKey::from(key).sign_prehash(&hash).map_err(|_| Status::WRONG_DATA)?;
                Ok(signature.to_der().as_bytes().to_vec())
            }
            Self::Ed25519(key) => Ok(key.sign(input).to_bytes().to_vec()),
            Self::X25519(_) => Err(Status::WRONG_DATA),
        }
    }

    /// The shared secret with a peer (SP 800-73-4 part 2 appendix A.5). A point that is not on its NIST curve is
    /// refused. X25519 accepts every point, even if the result is zero.
    pub(crate) fn agree(&self, peer: &[u8]) -> Result<Vec<u8>, Status> {
        // The card accepts only uncompressed points. The library would accept compressed ones too.
        let is_uncompressed = peer.first() == Some(&0x04);
        match self {
            Self::P256(key) if is_uncompressed => {
                let peer = p256::PublicKey::from_sec1_bytes(peer).map_err(|_| Status::WRONG_DATA)?;
                let secret = p256::ecdh::diffie_hellman(key.to_nonzero_scalar(), peer.as_affine());
                Ok(secret.raw_secret_bytes().to_vec())
            }
            Self::P384(key) if is_uncompressed => {
                let peer = p384::PublicKey::from_sec1_bytes(peer).map_err(|_| Status::WRONG_DATA)?;
                let secret = p384::ecdh::diffie_hellman(key.to_nonzero_scalar(), peer.as_affine());
                Ok(secret.raw_secret_bytes().to_vec())
            }
            Self::X25519(key) => {
                let peer: [u8; 32] = peer.try_into().map_err(|_| Status::WRONG_DATA)?;
                Ok(key.diffie_hellman(&peer.into()).to_bytes().to_vec())
            }
            Self::P256(_) | Self::P384(_) | Self::Ed25519(_) => Err(Status::WRONG_DATA),
        }
    }
}

/// Pads a hash to the length of the curve's order. Tools shorten longer hashes themselves.
fn pad<const N: usize>(hash: &[u8]) -> Result<[u8; N], Status> {
    let from = N.checked_sub(hash.len()).filter(|from| *from < N).ok_or(Status::WRONG_DATA)?;
    let mut padded = [0; N];
    padded[from..].copy_from_slice(hash);
    Ok(padded)
}
