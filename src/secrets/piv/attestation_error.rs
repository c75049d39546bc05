//! Why an attestation is not accepted, in words.

use std::time::{Duration, UNIX_EPOCH};

use rustls_pki_types::UnixTime;
use webpki::Error;

/// Why an attestation is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestationError {
    /// A certificate cannot be read, or a part of the statement is missing.
    #[error("the attestation cannot be read: {0}")]
    Malformed(&'static str),
    /// The certificates do not lead to a known root. The text says why.
    #[error("the attestation does not lead to a known root certificate: {0}")]
    Untrusted(String),
    /// The caller's root certificate cannot be used. The text says why.
    #[error("the root certificate cannot be used: {0}")]
    UnusableRoot(String),
}

/// A refusal of webpki in words. Its own texts are names of Rust variants.
pub(super) fn words(error: &Error) -> String {
    let text = match error {
        Error::UnknownIssuer => "the issuer of a certificate is missing, or is no trusted root",
        Error::CertExpired { not_after, .. } => return format!("a certificate expired at {}", time(*not_after)),
        Error::CertNotValidYet { time: now, not_before } => {
            let (not_before, now) = (time(*not_before), time(*now));
            return format!("a certificate is valid from {not_before} on, and the clock here says {now}");
        }
        Error::InvalidSignatureForPublicKey => {
            "the signature of a certificate is wrong: the certificate was altered, its issuer has another key, or an \
             RSA key is not of 2048 to 8192 bits"
        }
        Error::UnsupportedSignatureAlgorithmContext(_) | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            "a certificate is signed in a way that is not supported: ECDSA on P-256, P-384 or P-521 and RSA are, with \
             SHA-256, SHA-384 or SHA-512"
        }
        Error::SignatureAlgorithmMismatch => "a certificate names two algorithms for its signature",
        Error::CaUsedAsEndEntity => {
            "the first certificate is that of an authority, and the attestation of the key must come first"
        }
        Error::EndEntityUsedAsCa => "a certificate is signed by one that is no authority's",
        Error::PathLenConstraintViolated | Error::MaximumPathDepthExceeded => "the chain is longer than is allowed",
        Error::MaximumSignatureChecksExceeded
        | Error::MaximumPathBuildCallsExceeded
        | Error::MaximumNameConstraintComparisonsExceeded => "the certificates allow too many chains",
        Error::RequiredEkuNotFoundContext(_) => {
            "the extended key usage of a certificate allows other uses only; a certificate of an attestation key needs \
             no such extension"
        }
        Error::NameConstraintViolation => "a certificate has a name that its authority may not certify",
        Error::UnsupportedCriticalExtension => "a certificate has a critical extension that is not supported",
        Error::UnsupportedCertVersion => "a certificate is not of X.509 version 3",
        other => return format!("a certificate is not well-formed ({other:?})"),
    };
    text.to_owned()
}

/// A time of a certificate, in RFC 3339. X.509 has no year after 9999.
fn time(time: UnixTime) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs())).to_string()
}
