//! Attestation: a certificate in which the YubiKey states that it made a key
//! (<https://docs.yubico.com/yesdk/users-manual/application-piv/attestation.html>).
//!
//! Here the whole chain is ECDSA on P-256. The attestation key of a real YubiKey up to 5.6 is RSA-2048, so a verifier
//! must take the algorithm from the certificates.

use std::time::Duration;

use getrandom::{SysRng, rand_core::UnwrapErr};
use p256::ecdsa::signature::{Keypair, Signer};
use x509_cert::{
    Certificate, TbsCertificate,
    builder::{self, Builder, CertificateBuilder, profile::BuilderProfile},
    der::{
        Decode, Encode,
        asn1::{Any, BitString, ObjectIdentifier, OctetString},
    },
    ext::{Extension, ToExtension, pkix::BasicConstraints},
    name::Name,
    serial_number::SerialNumber,
    spki::{
        AlgorithmIdentifierOwned, DynSignatureAlgorithmIdentifier, EncodePublicKey, SignatureBitStringEncoding,
        SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef,
    },
    time::Validity,
};

use crate::{
    firmware::Firmware,
    keys::{Algorithm, PrivateKey},
    objects::Objects,
    slots::{ATTESTATION, Origin, Slots},
    status::Status,
};

/// Yubico's extensions of the certificate: firmware, serial number, PIN and touch policies, form factor.
const FIRMWARE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.3");
const SERIAL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.7");
const POLICIES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.8");
const FORM_FACTOR: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.9");

const USB_A_KEYCHAIN: u8 = 0x01;

/// The keys and certificates that a YubiKey gets in the factory.
pub(crate) struct Factory {
    /// The manufacturer's root certificate.
    pub(crate) root: Vec<u8>,
    /// The attestation key, in slot F9.
    pub(crate) key: PrivateKey,
    /// The certificate of the attestation key.
    pub(crate) certificate: Vec<u8>,
}

impl Factory {
    pub(crate) fn new() -> Self {
        let root_key = PrivateKey::generate(Algorithm::P256);
        let key = PrivateKey::generate(Algorithm::P256);
        let root_name = name("Virtual YubiKey PIV Root CA");
        let root = Statement::authority(root_name.clone(), root_name.clone(), 1);
        let intermediate = Statement::authority(root_name, name("Virtual YubiKey PIV Attestation"), 0);
        let signed = "a well-formed certificate";
        Self {
            root: root.sign(&root_key, &root_key).expect(signed),
            certificate: intermediate.sign(&key, &root_key).expect(signed),
            key,
        }
    }
}

/// Yubico's ATTEST: the attestation certificate of the key in a slot. An imported key has no certificate: the response
/// is the one for an empty slot.
pub(crate) fn attest(
    firmware: Firmware,
    serial: u32,
    slot: u8,
    slots: &Slots,
    objects: &Objects,
) -> Result<Vec<u8>, Status> {
    let key = slots.find(slot).filter(|key| key.origin == Origin::Generated).ok_or(Status::WRONG_DATA)?;
    let signer = slots.find(ATTESTATION).ok_or(Status::WRONG_DATA)?;
    let authority = objects.attestation_certificate().ok_or(Status::WRONG_DATA)?;
    let authority = Certificate::from_der(authority).map_err(|_| Status::WRONG_DATA)?;
    let statement = Statement {
        issuer: authority.tbs_certificate().subject().clone(),
        subject: name(&format!("YubiKey PIV Attestation {slot:02x}")),
        extensions: vec![
            extension(FIRMWARE, &firmware.bytes()),
            extension(SERIAL, &serial.to_der().map_err(|_| Status::WRONG_DATA)?),
            extension(POLICIES, &[key.pin as u8, key.touch as u8]),
            extension(FORM_FACTOR, &[USB_A_KEYCHAIN]),
        ],
    };
    statement.sign(&key.private, &signer.private).map_err(|_| Status::WRONG_DATA)
}

/// The content of a certificate, without the public key.
struct Statement {
    issuer: Name,
    subject: Name,
    extensions: Vec<Extension>,
}

impl Statement {
    /// The content of a CA certificate. `between` is the number of CA certificates that may follow it.
    fn authority(issuer: Name, subject: Name, between: u8) -> Self {
        let constraints = BasicConstraints { ca: true, path_len_constraint: Some(between) };
        let extension = (&constraints).to_extension(&subject, &[]).expect("an extension of a few bytes");
        Self { issuer, subject, extensions: vec![extension] }
    }

    fn sign(self, key: &PrivateKey, signer: &PrivateKey) -> builder::Result<Vec<u8>> {
        match signer {
            PrivateKey::P256(signer) => {
                self.sign_with::<_, p256::ecdsa::DerSignature>(key, &p256::ecdsa::SigningKey::from(signer))
            }
            PrivateKey::P384(signer) => {
                self.sign_with::<_, p384::ecdsa::DerSignature>(key, &p384::ecdsa::SigningKey::from(signer))
            }
            // Nobody imports such a key into F9.
            PrivateKey::Ed25519(_) | PrivateKey::X25519(_) => Err(builder::Error::MissingAttributes),
        }
    }

    fn sign_with<S, Signature>(self, key: &PrivateKey, signer: &S) -> builder::Result<Vec<u8>>
    where
        S: Signer<Signature> + Keypair + DynSignatureAlgorithmIdentifier,
        S::VerifyingKey: EncodePublicKey,
        Signature: SignatureBitStringEncoding,
    {
        let number = SerialNumber::generate(&mut UnwrapErr(SysRng));
        let validity = Validity::from_now(Duration::from_secs(20 * 365 * 24 * 60 * 60))?;
        let certificate = CertificateBuilder::new(self, number, validity, public_key_info(key)?)?;
        Ok(certificate.build::<S, Signature>(signer)?.to_der()?)
    }
}

impl BuilderProfile for Statement {
    fn get_issuer(&self, _subject: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _key: SubjectPublicKeyInfoRef<'_>,
        _issuer_key: SubjectPublicKeyInfoRef<'_>,
        _certificate: &TbsCertificate,
    ) -> builder::Result<Vec<Extension>> {
        Ok(self.extensions.clone())
    }
}

/// SubjectPublicKeyInfo of a key (RFC 5480 section 2, RFC 8410 section 4).
fn public_key_info(key: &PrivateKey) -> builder::Result<SubjectPublicKeyInfoOwned> {
    const EC: &str = "1.2.840.10045.2.1";
    let (algorithm, curve) = match key.algorithm() {
        Algorithm::P256 => (EC, Some("1.2.840.10045.3.1.7")),
        Algorithm::P384 => (EC, Some("1.3.132.0.34")),
        Algorithm::Ed25519 => ("1.3.101.112", None),
        Algorithm::X25519 => ("1.3.101.110", None),
    };
    let parameters = curve.map(|curve| Any::from(ObjectIdentifier::new_unwrap(curve)));
    Ok(SubjectPublicKeyInfoOwned {
        algorithm: AlgorithmIdentifierOwned { oid: ObjectIdentifier::new_unwrap(algorithm), parameters },
        subject_public_key: BitString::from_bytes(&key.public())?,
    })
}

/// An extension whose value is the plain bytes in the extension's own OCTET STRING.
fn extension(id: ObjectIdentifier, value: &[u8]) -> Extension {
    let extn_value = OctetString::new(value).expect("a few bytes");
    Extension { extn_id: id, critical: false, extn_value }
}

fn name(common: &str) -> Name {
    format!("CN={common}").parse().expect("a name of letters and spaces")
}
