//! Public JSON Web Keys (RFC 7517).

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{curve::Curve, error::KeyError, public_key::PublicKey};
use crate::encoding::{from_base64url, to_base64url};

/// The public members of an EC or OKP JWK, as in a DID document or an `epk`. Other members are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    /// `EC` or `OKP`.
    pub kty: String,
    /// The curve's name.
    pub crv: String,
    /// The x coordinate, or the whole OKP key, in base64url without padding.
    pub x: String,
    /// The y coordinate of an EC key, in base64url without padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
}

impl Jwk {
    /// The SHA-256 thumbprint (RFC 7638) in base64url: 43 characters. The members are neither checked nor escaped, so
    /// they must be valid, as those of [`PublicKey::to_jwk`] are.
    pub fn thumbprint(&self) -> String {
        // The members are in lexicographic order (RFC 7638 section 3.3).
        let y = self.y.as_ref().map(|y| format!(r#","y":"{y}""#)).unwrap_or_default();
        let json = format!(r#"{{"crv":"{}","kty":"{}","x":"{}"{y}}}"#, self.crv, self.kty, self.x);
        to_base64url(Sha256::digest(json.as_bytes()))
    }
}

impl PublicKey {
    /// The key as a JWK, with coordinates at full length.
    pub fn to_jwk(&self) -> Jwk {
        let (kty, x, y) = match self.coordinates() {
            Some((x, y)) => ("EC", to_base64url(x), Some(to_base64url(y))),
            None => ("OKP", to_base64url(self.as_bytes()), None),
        };
        Jwk { kty: kty.to_owned(), crv: self.curve().name().to_owned(), x, y }
    }

    /// The key in a JWK.
    ///
    /// # Errors
    /// If the curve is not supported, `kty` does not fit it, a member is absent or malformed, or the point is invalid.
    pub fn from_jwk(jwk: &Jwk) -> Result<Self, KeyError> {
        let curve = Curve::ALL
            .into_iter()
            .find(|curve| curve.name() == jwk.crv)
            .ok_or_else(|| KeyError::Unsupported(jwk.crv.chars().take(40).collect()))?;
        let decode = |text: &str, name| from_base64url(text).ok_or(KeyError::Malformed(name));
        let x = decode(&jwk.x, "x")?;
        match (jwk.kty.as_str(), curve) {
            ("OKP", Curve::X25519 | Curve::Ed25519) => Self::from_bytes(curve, &x),
            ("EC", Curve::P256 | Curve::P384 | Curve::P521 | Curve::Secp256k1) => {
                let y = decode(jwk.y.as_deref().ok_or(KeyError::MissingMember("y"))?, "y")?;
                Self::from_coordinates(curve, &x, &y)
            }
            _ => Err(KeyError::Unsupported(format!("{} {}", jwk.kty.chars().take(40).collect::<String>(), jwk.crv))),
        }
    }

    /// The thumbprint of the key's JWK ([`Jwk::thumbprint`]).
    pub fn thumbprint(&self) -> String {
        self.to_jwk().thumbprint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8037 appendix A.2 and A.3.
    #[test]
    fn thumbprint_of_rfc_8037() {
        let jwk: Jwk =
            serde_json::from_str(r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#)
                .unwrap();
        assert_eq!(jwk.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert_eq!(PublicKey::from_jwk(&jwk).unwrap().to_jwk(), jwk);
    }

    #[test]
    fn kty_and_crv_must_agree() {
        let jwk = Jwk { kty: "EC".into(), crv: "X25519".into(), x: to_base64url([9; 32]), y: None };
        assert_eq!(PublicKey::from_jwk(&jwk), Err(KeyError::Unsupported("EC X25519".into())));
    }
}
