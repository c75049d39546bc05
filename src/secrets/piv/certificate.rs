//! The certificate of a slot. It holds the label and the use of the key in the slot, since a card stores neither. Other
//! programs also look for keys by their certificates.
//!
//! The certificate is signed by a throw-away key: a key-agreement key cannot sign, and a signing key would ask for PIN
//! and touch. The certificate is no evidence about the key, and its issuer's name says so. An attestation is evidence.

use std::{sync::Arc, time::Duration};

use p256::{ecdsa, elliptic_curve::Generate};
use x509_cert::{
    Certificate,
    builder::{self, Builder, CertificateBuilder, profile::BuilderProfile},
    certificate::TbsCertificate,
    der::{Decode, Encode, asn1::BitString},
    ext::{
        Extension, ToExtension,
        pkix::{KeyUsage, KeyUsages},
    },
    name::Name,
    serial_number::SerialNumber,
    spki::{AlgorithmIdentifierOwned, ObjectIdentifier, SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef},
    time::Validity,
};

use super::{certificate_object, tlv::tlv};
use crate::{
    keys::{Curve, PublicKey},
    secrets::{KeyUse, TokenError},
};

const ISSUER: &str = "Claviger: names a key and proves nothing";
/// The subject of a key without a label.
const NO_LABEL: &str = "Claviger";
/// The subject of a key that was deleted on a card that cannot delete keys.
const DELETED: &str = "Claviger: deleted";
const VALIDITY_YEARS: u64 = 20;
/// The longest label, in bytes. A data object on the card holds about 3,000 bytes.
const MAX_LABEL: usize = 1024;

/// What a slot's certificate says about its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyDescription {
    pub(super) label: Option<String>,
    pub(super) usage: KeyUse,
    /// Whether the key is marked as deleted, on a card that cannot delete keys.
    pub(super) deleted: bool,
}

/// Checks that a label can be written into a certificate. Called before anything is overwritten.
///
/// # Errors
/// [`TokenError::Config`] if the label is reserved or too long.
pub(super) fn check_label(label: Option<&str>) -> Result<(), TokenError> {
    match label {
        Some(label) if label == DELETED || label == NO_LABEL => {
            Err(TokenError::Config(format!("{label:?} cannot be a key's label on a card: the name is reserved")))
        }
        Some(label) if label.len() > MAX_LABEL => {
            Err(TokenError::Config(format!("a key's label on a card has at most {MAX_LABEL} bytes")))
        }
        _ => Ok(()),
    }
}

/// The content of a slot's certificate object for a key.
pub(super) fn write(public: &PublicKey, label: Option<&Arc<str>>, usage: KeyUse) -> Result<Vec<u8>, TokenError> {
    object(public, label.map_or(NO_LABEL, |label| label), usage)
}

/// The content of a slot's certificate object that marks the slot's key as deleted.
pub(super) fn write_deleted(public: &PublicKey) -> Result<Vec<u8>, TokenError> {
    object(public, DELETED, KeyUse::of(public.curve()))
}

/// Whether a slot's certificate object is one of [`write_deleted`], for whichever key.
pub(super) fn marks_deleted(object: &[u8]) -> bool {
    let certificate = certificate_object::certificate(object).and_then(|der| Certificate::from_der(&der).ok());
    certificate.is_some_and(|certificate| {
        let tbs = certificate.tbs_certificate();
        let names = [(tbs.issuer(), ISSUER), (tbs.subject(), DELETED)];
        names.into_iter().all(|(name, expected)| common_name(expected).is_ok_and(|expected| *name == expected))
    })
}

/// Reads a slot's certificate object; none if it holds no readable certificate, or that of a key other than `public`.
pub(super) fn read(object: &[u8], public: &PublicKey) -> Option<KeyDescription> {
    let certificate = Certificate::from_der(&certificate_object::certificate(object)?).ok()?;
    let tbs = certificate.tbs_certificate();
    let is_for_this_key = spki(public).ok()? == *tbs.subject_public_key_info();
    let name = tbs.subject().common_name().ok().flatten();
    let label = name.map(|name| name.value().into_owned()).filter(|label| label != NO_LABEL);
    let usage = tbs.get_extension::<KeyUsage>().ok().flatten().and_then(|(_, usage)| {
        match (usage.key_agreement(), usage.digital_signature()) {
            (true, true) => Some(KeyUse::Both),
            (true, false) => Some(KeyUse::Agreement),
            (false, true) => Some(KeyUse::Signing),
            (false, false) => None,
        }
    });
    let usage = usage.filter(|usage| usage.fits(public.curve())).unwrap_or(KeyUse::of(public.curve()));
    let deleted = label.as_deref() == Some(DELETED);
    is_for_this_key.then_some(KeyDescription { label, usage, deleted })
}

fn object(public: &PublicKey, label: &str, usage: KeyUse) -> Result<Vec<u8>, TokenError> {
    let failed = |error: &dyn std::fmt::Display| TokenError::Config(format!("the certificate cannot be made: {error}"));
    let (subject, issuer) =
        (common_name(label).map_err(|error| failed(&error))?, common_name(ISSUER).map_err(|error| failed(&error))?);
    let validity =
        Validity::from_now(Duration::from_secs(VALIDITY_YEARS * 365 * 86_400)).map_err(|error| failed(&error))?;
    let spki = spki(public).map_err(|error| failed(&error))?;
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|error| failed(&error))?;
    serial[0] = serial[0] & 0x7f | 1;
    let serial = SerialNumber::new(&serial).map_err(|error| failed(&error))?;
    let signer = ecdsa::SigningKey::generate();
    let builder = CertificateBuilder::new(Profile { subject, issuer, usage }, serial, validity, spki);
    let certificate =
        builder.and_then(|builder| builder.build::<_, ecdsa::DerSignature>(&signer)).map_err(|error| failed(&error))?;
    let mut object = tlv(&[0x70], &certificate.to_der().map_err(|error| failed(&error))?).to_vec();
    // The certificate is not compressed (NIST SP 800-73-4 part 1 appendix A, CertInfo) and has no error detection code.
    object.extend_from_slice(&tlv(&[0x71], &[0]));
    object.extend_from_slice(&tlv(&[0xfe], &[]));
    Ok(object)
}

/// The names and the extension of a slot's certificate.
struct Profile {
    subject: Name,
    issuer: Name,
    usage: KeyUse,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _: SubjectPublicKeyInfoRef<'_>,
        _: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> builder::Result<Vec<Extension>> {
        let usage = match self.usage {
            KeyUse::Agreement => KeyUsages::KeyAgreement.into(),
            KeyUse::Signing => KeyUsages::DigitalSignature.into(),
            KeyUse::Both => KeyUsages::KeyAgreement | KeyUsages::DigitalSignature,
        };
        // Not critical, although RFC 5280 section 4.2.1.3 would have it so: nobody verifies this certificate, and
        // age-plugin-yubikey 0.5.1 hides the key of a certificate with a critical extension.
        Ok(vec![Extension { critical: false, ..KeyUsage(usage).to_extension(tbs.subject(), &[])? }])
    }
}

/// The public key of a certificate; none for a kind of key that this program does not use on a YubiKey.
pub(super) fn public_key(info: &SubjectPublicKeyInfoOwned) -> Option<PublicKey> {
    let bytes = info.subject_public_key.as_bytes()?;
    let of = |curve| PublicKey::from_bytes(curve, bytes).ok().filter(|key| spki(key).as_ref() == Ok(info));
    [Curve::P256, Curve::P384, Curve::Ed25519, Curve::X25519].into_iter().find_map(of)
}

/// SubjectPublicKeyInfo by RFC 5480 for NIST curves, and by RFC 8410 for curve 25519.
fn spki(public: &PublicKey) -> Result<SubjectPublicKeyInfoOwned, x509_cert::der::Error> {
    const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
    let (oid, curve) = match public.curve() {
        Curve::P256 => (EC, Some("1.2.840.10045.3.1.7")),
        Curve::P384 => (EC, Some("1.3.132.0.34")),
        Curve::P521 => (EC, Some("1.3.132.0.35")),
        Curve::Secp256k1 => (EC, Some("1.3.132.0.10")),
        Curve::X25519 => (ObjectIdentifier::new_unwrap("1.3.101.110"), None),
        Curve::Ed25519 => (ObjectIdentifier::new_unwrap("1.3.101.112"), None),
    };
    let parameters = curve.map(|curve| (&ObjectIdentifier::new_unwrap(curve)).into());
    Ok(SubjectPublicKeyInfoOwned {
        algorithm: AlgorithmIdentifierOwned { oid, parameters },
        subject_public_key: BitString::from_bytes(public.as_bytes())?,
    })
}

/// A distinguished name that consists of one common name (RFC 5280 appendix A.1), as UTF8String.
fn common_name(name: &str) -> Result<Name, x509_cert::der::Error> {
    const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
    let mut attribute = COMMON_NAME.to_vec();
    attribute.extend_from_slice(&tlv(&[0x0c], name.as_bytes()));
    Name::from_der(&tlv(&[0x30], &tlv(&[0x31], &tlv(&[0x30], &attribute))))
}
