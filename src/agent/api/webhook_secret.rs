//! The webhook's secret, and the signatures made with it.
//!
//! The signatures follow [Standard Webhooks](https://www.standardwebhooks.com) 1.0.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// The prefix of a secret that continues with the signing key in base64 (Standard Webhooks, "Signature scheme").
const PREFIX: &str = "whsec_";
/// The lengths of a signing key in base64, in bytes, that Standard Webhooks allows.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The secret that a webhook and its receiver share.
pub(super) struct WebhookSecret {
    text: Zeroizing<String>,
    key: Zeroizing<Vec<u8>>,
}

/// The error for a secret that begins with `whsec_` and does not continue with a valid signing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("after `whsec_` a secret must have 24 to 64 bytes in base64, as `openssl rand -base64 32` prints them")]
pub struct InvalidWebhookSecret;

impl WebhookSecret {
    /// Reads a secret. After the prefix `whsec_` it is the signing key in base64. Without the prefix its bytes are the
    /// key.
    pub fn parse(text: Zeroizing<String>) -> Result<Self, InvalidWebhookSecret> {
        let key = match text.strip_prefix(PREFIX) {
            Some(encoded) => STANDARD.decode(encoded).map_err(|_| InvalidWebhookSecret)?,
            None => text.as_bytes().to_vec(),
        };
        let key = Zeroizing::new(key);
        match text.starts_with(PREFIX) && !KEY_BYTES.contains(&key.len()) {
            true => Err(InvalidWebhookSecret),
            false => Ok(Self { text, key }),
        }
    }

    /// Returns the value of the header `webhook-signature`: `v1,`, followed by an HMAC-SHA256 in base64. The HMAC
    /// covers the message's id, the time of the attempt in seconds since 1970, and the body, joined by full stops.
    pub fn sign(&self, id: &str, seconds: i64, body: &[u8]) -> String {
        let mac = hmac(&self.key, &[format!("{id}.{seconds}.").as_bytes(), body]);
        format!("v1,{}", STANDARD.encode(mac))
    }

    /// Returns the value of the deprecated header `claviger-signature`: `t=`, the time in seconds since 1970, `,v1=`
    /// and an HMAC-SHA256 in hexadecimal. The HMAC covers the time, a full stop and the body. Its key is the text of
    /// the secret.
    pub fn sign_deprecated(&self, seconds: i64, body: &[u8]) -> String {
        let mac = hmac(self.text.as_bytes(), &[format!("{seconds}.").as_bytes(), body]);
        let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("t={seconds},v1={hex}")
    }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC accepts a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Result<WebhookSecret, InvalidWebhookSecret> {
        WebhookSecret::parse(Zeroizing::new(text.to_owned()))
    }

    /// The example of the reference implementations of Standard Webhooks.
    #[test]
    fn the_standard_signature() {
        let secret = secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    /// The expected value is the output of
    /// `printf 'a.1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef -binary | base64`.
    #[test]
    fn a_secret_without_the_prefix_is_used_as_it_is() {
        let secret = secret("0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(secret.sign("a", 1_700_000_000, b"{}"), "v1,cdMEi1ZDpaOUzPX3jRUzpKn5lUD4oB/tv7cDH3p3q4A=");
    }

    /// The expected value is the output of
    /// `printf '1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef`.
    #[test]
    fn the_deprecated_signature() {
        let secret = secret("0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(
            secret.sign_deprecated(1_700_000_000, b"{}"),
            "t=1700000000,v1=417adf36b901772f658597a76d329694e335e65fc0849d7715c3ca33406309b5"
        );
    }

    #[test]
    fn invalid_secrets() {
        for invalid in ["whsec_", "whsec_%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%", "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="] {
            assert!(secret(invalid).is_err(), "{invalid}");
        }
    }
}
