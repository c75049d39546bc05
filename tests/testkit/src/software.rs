//! Private keys in memory, to compare a token with, and for [`SoftToken`](crate::SoftToken).

use std::fmt;

use claviger::{
    crypto::SharedSecret,
    keys::{Curve, PublicKey},
    secrets::{ImportKey, KeyUse},
};
use getrandom::{SysRng, rand_core::UnwrapErr};
use p256::{
    ecdsa::signature::Signer,
    elliptic_curve::{Generate, sec1::ToSec1Point},
};
use zeroize::Zeroizing;

/// A private key in this process's memory, wiped when it is dropped. For tests only: the product has no such type.
pub struct PrivateKey {
    secret: Secret,
    public: PublicKey,
}

#[derive(Clone)]
enum Secret {
    X25519(x25519_dalek::StaticSecret),
    P256(p256::SecretKey),
    P384(p384::SecretKey),
    P521(p521::SecretKey),
    Ed25519(Box<ed25519_dalek::SigningKey>),
    Secp256k1(k256::SecretKey),
}

impl PrivateKey {
    /// A new random key.
    pub fn generate(curve: Curve) -> Self {
        let mut rng = UnwrapErr(SysRng);
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).expect("the operating system has randomness");
        Self::new(match curve {
            Curve::X25519 => Secret::X25519((*seed).into()),
            Curve::P256 => Secret::P256(p256::SecretKey::generate_from_rng(&mut rng)),
            Curve::P384 => Secret::P384(p384::SecretKey::generate_from_rng(&mut rng)),
            Curve::P521 => Secret::P521(p521::SecretKey::generate_from_rng(&mut rng)),
            Curve::Ed25519 => Secret::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(&seed))),
            Curve::Secp256k1 => Secret::Secp256k1(k256::SecretKey::generate_from_rng(&mut rng)),
            other => panic!("{other} is not supported by this crate"),
        })
    }

    /// A key from its bytes, in the form of [`ImportKey::private`]. None if they are not a private key on the curve.
    pub fn from_bytes(curve: Curve, bytes: &[u8]) -> Option<Self> {
        // Checked here, since `from_slice` pads short scalars.
        if bytes.len() != curve.coordinate_length() {
            return None;
        }
        let seed = || <[u8; 32]>::try_from(bytes).ok().map(Zeroizing::new);
        Some(Self::new(match curve {
            Curve::X25519 => Secret::X25519((*seed()?).into()),
            Curve::P256 => Secret::P256(p256::SecretKey::from_slice(bytes).ok()?),
            Curve::P384 => Secret::P384(p384::SecretKey::from_slice(bytes).ok()?),
            Curve::P521 => Secret::P521(p521::SecretKey::from_slice(bytes).ok()?),
            Curve::Ed25519 => Secret::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(&*seed()?))),
            Curve::Secp256k1 => Secret::Secp256k1(k256::SecretKey::from_slice(bytes).ok()?),
            _ => return None,
        }))
    }

    fn new(secret: Secret) -> Self {
        let public = public_half(&secret);
        Self { secret, public }
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The scalar, big-endian at full length, or the 32 bytes of a 25519 key.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(match &self.secret {
            Secret::X25519(secret) => secret.to_bytes().to_vec(),
            Secret::P256(secret) => secret.to_bytes().to_vec(),
            Secret::P384(secret) => secret.to_bytes().to_vec(),
            Secret::P521(secret) => secret.to_bytes().to_vec(),
            Secret::Ed25519(secret) => secret.to_bytes().to_vec(),
            Secret::Secp256k1(secret) => secret.to_bytes().to_vec(),
        })
    }

    /// The key in the form that a token imports.
    pub fn to_import(&self, usage: KeyUse, label: Option<&str>) -> ImportKey {
        ImportKey { public: self.public.clone(), private: self.to_bytes(), usage, label: label.map(Into::into) }
    }

    /// Diffie-Hellman with a peer's key. None across curves, and on a curve without key agreement.
    pub fn agree(&self, peer: &PublicKey) -> Option<SharedSecret> {
        macro_rules! nist {
            ($curve:ident, $secret:expr) => {{
                let peer = $curve::PublicKey::from_sec1_bytes(peer.as_bytes()).ok()?;
                let z = $curve::ecdh::diffie_hellman($secret.to_nonzero_scalar(), peer.as_affine());
                Some(SharedSecret::new(z.raw_secret_bytes().to_vec()))
            }};
        }
        if peer.curve() != self.public.curve() {
            return None;
        }
        match &self.secret {
            Secret::X25519(secret) => {
                let point: [u8; 32] = peer.as_bytes().try_into().ok()?;
                Some(SharedSecret::new(secret.diffie_hellman(&point.into()).as_bytes().to_vec()))
            }
            Secret::P256(secret) => nist!(p256, secret),
            Secret::P384(secret) => nist!(p384, secret),
            Secret::P521(secret) => nist!(p521, secret),
            Secret::Ed25519(_) | Secret::Secp256k1(_) => None,
        }
    }

    /// A signature of 64 bytes. None on a curve without signatures. On secp256k1, s is low.
    pub fn sign(&self, input: &[u8]) -> Option<Vec<u8>> {
        match &self.secret {
            Secret::Ed25519(key) => Some(key.sign(input).to_bytes().to_vec()),
            Secret::P256(key) => {
                let signature: p256::ecdsa::Signature = p256::ecdsa::SigningKey::from(key).sign(input);
                Some(signature.to_bytes().to_vec())
            }
            Secret::Secp256k1(key) => {
                let signature: k256::ecdsa::Signature = k256::ecdsa::SigningKey::from(key).sign(input);
                Some(signature.normalize_s().to_bytes().to_vec())
            }
            Secret::X25519(_) | Secret::P384(_) | Secret::P521(_) => None,
        }
    }
}

fn public_half(secret: &Secret) -> PublicKey {
    let sec1 = |curve, point: &[u8]| PublicKey::from_bytes(curve, point);
    match secret {
        Secret::X25519(key) => sec1(Curve::X25519, x25519_dalek::PublicKey::from(key).as_bytes()),
        Secret::P256(key) => sec1(Curve::P256, key.public_key().to_sec1_point(false).as_bytes()),
        Secret::P384(key) => sec1(Curve::P384, key.public_key().to_sec1_point(false).as_bytes()),
        Secret::P521(key) => sec1(Curve::P521, key.public_key().to_sec1_point(false).as_bytes()),
        Secret::Ed25519(key) => sec1(Curve::Ed25519, key.verifying_key().as_bytes()),
        Secret::Secp256k1(key) => sec1(Curve::Secp256k1, key.public_key().to_sec1_point(false).as_bytes()),
    }
    .expect("the public half of a private key is a valid point")
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public)
    }
}
