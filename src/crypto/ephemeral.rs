//! The key pair of one message (RFC 7518 section 4.6: fresh for each). Its private half is the only one in the crate.

use getrandom::{SysRng, rand_core::UnwrapErr};

use p256::elliptic_curve::sec1::ToSec1Point;

use super::SharedSecret;
use crate::keys::{Curve, PublicKey};

/// A key pair that lives as long as one message is made.
pub struct EphemeralKey {
    secret: Secret,
    public: PublicKey,
}

enum Secret {
    X25519(x25519_dalek::StaticSecret),
    P256(p256::SecretKey),
    P384(p384::SecretKey),
    P521(p521::SecretKey),
}

impl EphemeralKey {
    /// A fresh pair on a curve that agrees on keys; none for the others.
    pub fn generate(curve: Curve) -> Option<Self> {
        // The operating system's generator; it failing is no state to go on in.
        let mut rng = UnwrapErr(SysRng);
        macro_rules! nist {
            ($curve:ident, $variant:ident) => {{
                use $curve::elliptic_curve::Generate;
                let secret = $curve::SecretKey::generate_from_rng(&mut rng);
                let point = secret.public_key().to_sec1_point(false).as_bytes().to_vec();
                (Secret::$variant(secret), point)
            }};
        }
        let (secret, point) = match curve {
            Curve::X25519 => {
                let secret = x25519_dalek::StaticSecret::random_from_rng(&mut rng);
                let point = x25519_dalek::PublicKey::from(&secret).as_bytes().to_vec();
                (Secret::X25519(secret), point)
            }
            Curve::P256 => nist!(p256, P256),
            Curve::P384 => nist!(p384, P384),
            Curve::P521 => nist!(p521, P521),
            Curve::Ed25519 | Curve::Secp256k1 => return None,
        };
        let public = PublicKey::from_bytes(curve, &point).expect("a generated point is valid");
        Some(Self { secret, public })
    }

    /// The public half: the message's `epk`.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Ze with a recipient's key; none if that is on another curve.
    pub fn agree(&self, recipient: &PublicKey) -> Option<SharedSecret> {
        if recipient.curve() != self.public.curve() {
            return None;
        }
        macro_rules! nist {
            ($curve:ident, $secret:expr) => {{
                let peer = $curve::PublicKey::from_sec1_bytes(recipient.as_bytes()).ok()?;
                let z = $curve::ecdh::diffie_hellman($secret.to_nonzero_scalar(), peer.as_affine());
                Some(SharedSecret::new(z.raw_secret_bytes().to_vec()))
            }};
        }
        match &self.secret {
            Secret::X25519(secret) => {
                let point: [u8; 32] = recipient.as_bytes().try_into().ok()?;
                let z = secret.diffie_hellman(&point.into());
                Some(SharedSecret::new(z.as_bytes().to_vec()))
            }
            Secret::P256(secret) => nist!(p256, secret),
            Secret::P384(secret) => nist!(p384, secret),
            Secret::P521(secret) => nist!(p521, secret),
        }
    }
}

/// Fills from the operating system's generator.
pub(super) fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system has randomness");
}
