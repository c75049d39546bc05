//! What a key is called and what it is for: a card keeps neither, so they stand in the certificate of its slot, where
//! other programs look for keys too.
//!
//! The certificate is signed by a key that is made for that and forgotten: a key that agrees cannot sign, and one that
//! signs would ask for PIN and touch. It proves nothing and says so; what proves a key is its attestation.

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

use super::tlv::{find, tlv};
use crate::{
    keys::{Curve, PublicKey},
    secrets::{KeyUse, TokenError},
};

const ISSUER: &str = "Claviger: names a key and proves nothing";
/// What stands for a key without a name.
const NAMELESS: &str = "Claviger";
/// Of a key that was deleted on a card that cannot delete: what is in the slot has no meaning.
const DELETED: &str = "Claviger: deleted";
const YEARS: u64 = 20;
/// In bytes; a card's object has some 3,000.
const LONGEST_LABEL: usize = 1024;

/// What a slot's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) label: Option<String>,
    pub(super) usage: KeyUse,
    /// Whether the key was deleted on a card that cannot delete.
    pub(super) deleted: bool,
}

/// Fails for a name that a slot's certificate cannot have: before anything is overwritten.
pub(super) fn check_label(label: Option<&str>) -> Result<(), TokenError> {
    match label {
        Some(label) if label == DELETED || label == NAMELESS => {
            Err(TokenError::Config(format!("{label:?} is no name for a key: it means something else on a card")))
        }
        Some(label) if label.len() > LONGEST_LABEL => {
            Err(TokenError::Config(format!("a key's name has at most {LONGEST_LABEL} bytes on a card")))
        }
        _ => Ok(()),
    }
}

/// The content of a slot's object for a key.
pub(super) fn write(public: &PublicKey, label: Option<&Arc<str>>, usage: KeyUse) -> Result<Vec<u8>, TokenError> {
    object(public, label.map_or(NAMELESS, |label| label), usage)
}

/// The content of a slot's object for a key that is no more.
pub(super) fn deleted(public: &PublicKey) -> Result<Vec<u8>, TokenError> {
    object(public, DELETED, KeyUse::of(public.curve()))
}

/// What an object says; none if there is no certificate in it that can be read.
pub(super) fn read(object: &[u8], public: &PublicKey) -> Option<Note> {
    let certificate = Certificate::from_der(find(object, 0x70)?).ok()?;
    let tbs = certificate.tbs_certificate();
    // A certificate of another key says nothing of this one.
    let of_this = spki(public).ok()? == *tbs.subject_public_key_info();
    let name = tbs.subject().common_name().ok().flatten();
    let label = name.map(|name| name.value().into_owned()).filter(|label| label != NAMELESS);
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
    of_this.then_some(Note { label, usage, deleted })
}

fn object(public: &PublicKey, label: &str, usage: KeyUse) -> Result<Vec<u8>, TokenError> {
    let failed = |error: &dyn std::fmt::Display| TokenError::Config(format!("no certificate of that name: {error}"));
    let (subject, issuer) =
        (named(label).map_err(|error| failed(&error))?, named(ISSUER).map_err(|error| failed(&error))?);
    let validity = Validity::from_now(Duration::from_secs(YEARS * 365 * 86_400)).map_err(|error| failed(&error))?;
    let spki = spki(public).map_err(|error| failed(&error))?;
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|error| failed(&error))?;
    serial[0] = serial[0] & 0x7f | 1;
    let serial = SerialNumber::new(&serial).map_err(|error| failed(&error))?;
    let signer = ecdsa::SigningKey::generate();
    let builder = CertificateBuilder::new(Names { subject, issuer, usage }, serial, validity, spki);
    let certificate =
        builder.and_then(|builder| builder.build::<_, ecdsa::DerSignature>(&signer)).map_err(|error| failed(&error))?;
    let mut object = tlv(&[0x70], &certificate.to_der().map_err(|error| failed(&error))?).to_vec();
    // Not compressed (NIST SP 800-73-4 part 1 appendix A, CertInfo), and no error detection code.
    object.extend_from_slice(&tlv(&[0x71], &[0]));
    object.extend_from_slice(&tlv(&[0xfe], &[]));
    Ok(object)
}

struct Names {
    subject: Name,
    issuer: Name,
    usage: KeyUse,
}

impl BuilderProfile for Names {
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
        Ok(vec![KeyUsage(usage).to_extension(tbs.subject(), &[])?])
    }
}

/// The key of a certificate, if it is of a kind that a YubiKey makes and this program uses.
pub(super) fn public_key(info: &SubjectPublicKeyInfoOwned) -> Option<PublicKey> {
    let bytes = info.subject_public_key.as_bytes()?;
    let of = |curve| PublicKey::from_bytes(curve, bytes).ok().filter(|key| spki(key).as_ref() == Ok(info));
    [Curve::P256, Curve::P384, Curve::Ed25519, Curve::X25519].into_iter().find_map(of)
}

/// RFC 5480 for NIST curves, RFC 8410 for curve 25519.
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

/// A name of one common name (RFC 5280 appendix A.1), whatever its characters.
fn named(name: &str) -> Result<Name, x509_cert::der::Error> {
    const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
    let mut attribute = COMMON_NAME.to_vec();
    attribute.extend_from_slice(&tlv(&[0x0c], name.as_bytes()));
    Name::from_der(&tlv(&[0x30], &tlv(&[0x31], &tlv(&[0x30], &attribute))))
}
