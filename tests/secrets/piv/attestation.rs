//! Chains of attestations: every algorithm of an authority, public chains of real YubiKeys, and hostile chains.

use std::{fs, path::Path};

use claviger::{
    keys::Curve,
    secrets::{
        PinPolicy, TouchPolicy,
        piv::{Attestation, AttestationError},
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    SignatureAlgorithm, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// The certificates of a file of `tests/vectors/attestation`, in DER.
fn vector(file: &Path) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(file).unwrap().replace("----------BEGIN", "-----\n-----BEGIN");
    CertificateDer::pem_slice_iter(text.as_bytes()).map(|der| der.unwrap().to_vec()).collect()
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/attestation"))
}

#[test]
fn an_authority_may_use_every_algorithm() {
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let own: Vec<_> = files.filter(|file| file.file_name().unwrap().to_string_lossy().starts_with("own-")).collect();
    assert_eq!(own.len(), 16);
    for file in own {
        let mut chain = vector(&file);
        let root = chain.pop().unwrap();
        let read = Attestation::verify(&chain, &[root]).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let algorithm = file.file_stem().unwrap().to_string_lossy().replace("own-", "");
        assert_eq!((read.root, read.root_is_yubicos), (format!("Example root, {algorithm}"), false));
        assert_eq!((read.public.curve(), read.serial, read.slot.number()), (Curve::P256, Some(1111), 0x9d));
        assert_eq!((read.pin, read.touch), (PinPolicy::Once, TouchPolicy::Cached));
        assert!(matches!(Attestation::verify(&chain, &[]), Err(AttestationError::Untrusted(_))), "{algorithm}");
    }
}

#[test]
fn public_chains_of_yubikeys_lead_to_yubicos_root() {
    for (file, serial) in [("yubikey-5.4.3", 25_515_003), ("yubikey-5.4.3-crlf", 28_751_259)] {
        let chain = vector(&folder().join(format!("{file}.pem")));
        let read = Attestation::verify(&chain, &[]).unwrap();
        assert_eq!((read.serial, read.slot.number(), read.public.curve()), (Some(serial), 0x9c, Curve::P384));
        assert_eq!(
            (read.firmware.to_string(), read.form_factor.unwrap().to_string()),
            ("5.4.3".into(), "USB-C, FIPS".into())
        );
        assert_eq!((read.pin, read.touch), (PinPolicy::Always, TouchPolicy::Never));
        assert_eq!((read.root.as_str(), read.root_is_yubicos), ("Yubico PIV Root CA Serial 263751", true));
        assert_eq!(read.chain, chain);
    }
}

/// An authority with its certificate.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
    der: Vec<u8>,
}

impl Authority {
    fn root(name: &str, algorithm: &'static SignatureAlgorithm) -> Self {
        let (params, key) = (authority(name), KeyPair::generate_for(algorithm).unwrap());
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { params, key, der }
    }

    /// An authority that this one has certified.
    fn certify(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let der = params.signed_by(&key, &self.issuer()).unwrap().der().to_vec();
        Self { params, key, der }
    }

    /// The attestation of a new key.
    fn attest(&self, params: &CertificateParams) -> Vec<u8> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        params.signed_by(&key, &self.issuer()).unwrap().der().to_vec()
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }
}

fn with(mut params: CertificateParams, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    change(&mut params);
    params
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority(name: &str) -> CertificateParams {
    with(named(name), |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))
}

fn statement() -> CertificateParams {
    let values: [(u64, &[u8]); 4] = [(3, &[5, 7, 1]), (7, &[2, 2, 4, 0x57]), (8, &[2, 1]), (9, &[1])];
    let extension = |(last, value): (u64, &[u8])| {
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 41482, 3, last], value.to_vec())
    };
    with(named("YubiKey PIV Attestation 9d"), |params| {
        params.custom_extensions = values.into_iter().map(extension).collect()
    })
}

#[test]
fn chains_of_every_algorithm_are_verified() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA256,
        &rcgen::PKCS_ECDSA_P521_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_RSA_SHA256,
        &rcgen::PKCS_RSA_SHA384,
        &rcgen::PKCS_RSA_SHA512,
    ] {
        let root = Authority::root("Root", algorithm);
        let f9 = root.certify(authority("F9"));
        let chain = [f9.attest(&statement()), f9.der];
        let read = Attestation::verify(&chain, &[root.der]).unwrap_or_else(|error| panic!("{algorithm:?}: {error}"));
        assert_eq!((read.serial, read.root.as_str()), (Some(1111), "Root"));
    }
}

/// The refusal of a chain.
fn refusal(chain: &[Vec<u8>], root: &Authority) -> String {
    Attestation::verify(chain, std::slice::from_ref(&root.der)).unwrap_err().to_string()
}

#[test]
fn hostile_chains_are_refused_in_words() {
    let root = Authority::root("Root", &rcgen::PKCS_ECDSA_P256_SHA256);
    let f9 = root.certify(authority("F9"));
    let leaf = f9.attest(&statement());
    assert!(Attestation::verify(&[leaf.clone(), f9.der.clone()], std::slice::from_ref(&root.der)).is_ok());

    let wrong_order = refusal(&[f9.der.clone(), leaf.clone()], &root);
    assert!(wrong_order.contains("the attestation of the key must come first"), "{wrong_order}");
    let incomplete = refusal(std::slice::from_ref(&leaf), &root);
    assert!(incomplete.contains("the issuer of a certificate is missing, or is no trusted root"), "{incomplete}");
    let other = Authority::root("Root", &rcgen::PKCS_ECDSA_P256_SHA256);
    let other = refusal(&[leaf.clone(), f9.der.clone()], &other);
    assert!(other.contains("the signature of a certificate is wrong"), "{other}");

    let expired = with(statement(), |params| params.not_after = date_time_ymd(2020, 1, 2));
    let expired = refusal(&[f9.attest(&expired), f9.der.clone()], &root);
    assert!(expired.contains("a certificate expired at 2020-01-02T00:00:00Z"), "{expired}");
    let early = with(statement(), |params| params.not_before = date_time_ymd(2090, 1, 2));
    let early = refusal(&[f9.attest(&early), f9.der.clone()], &root);
    assert!(
        early.contains("a certificate is valid from 2090-01-02T00:00:00Z on, and the clock here says 20"),
        "{early}"
    );

    // A key that was attested makes an attestation: it is no authority.
    let attested = f9.certify(statement());
    let forged = refusal(&[attested.attest(&statement()), attested.der, f9.der.clone()], &root);
    assert!(forged.contains("a certificate is signed by one that is no authority's"), "{forged}");
    // An F9 whose certificate allows no authority below it.
    let constrained = IsCa::Ca(BasicConstraints::Constrained(0));
    let last = root.certify(with(named("Last"), |params| params.is_ca = constrained));
    let below = last.certify(authority("Below"));
    let below = refusal(&[below.attest(&statement()), below.der, last.der], &root);
    assert!(below.contains("the chain is longer than is allowed"), "{below}");

    // Eight authorities, where webpki follows six; and more certificates than are read.
    let mut authorities = vec![f9];
    for number in 0..7 {
        let next = authorities.last().unwrap().certify(authority(&format!("Authority {number}")));
        authorities.push(next);
    }
    let mut long = vec![authorities.last().unwrap().attest(&statement())];
    long.extend(authorities.iter().rev().map(|authority| authority.der.clone()));
    let too_long = refusal(&long, &root);
    assert!(too_long.contains("the chain is longer than is allowed"), "{too_long}");
    let many = refusal(&vec![leaf.clone(); 11], &root);
    assert!(many.contains("more than 10 certificates or 64 KiB"), "{many}");
    let huge = refusal(&[leaf.clone(), vec![0; 65 * 1024]], &root);
    assert!(huge.contains("more than 10 certificates or 64 KiB"), "{huge}");
    let garbage = refusal(&[b"garbage".to_vec()], &root);
    assert!(garbage.contains("a certificate is not well-formed"), "{garbage}");
    assert!(refusal(&[], &root).contains("there is no certificate"));

    let unusable = Attestation::verify(&[leaf], &[b"garbage".to_vec()]).unwrap_err();
    assert!(unusable.to_string().contains("the root certificate cannot be used: a certificate is not"), "{unusable}");
}

#[test]
fn an_altered_attestation_is_refused_at_every_byte() {
    let chain = vector(&folder().join("yubikey-5.4.3.pem"));
    for at in 0..chain[0].len() {
        let mut altered = chain.clone();
        altered[0][at] ^= 1;
        assert!(Attestation::verify(&altered, &[]).is_err(), "byte {at}");
    }
}

#[test]
fn statements_that_say_too_little_are_refused() {
    let root = Authority::root("Root", &rcgen::PKCS_ECDSA_P256_SHA256);
    let f9 = root.certify(authority("F9"));
    let refused = |params: CertificateParams| refusal(&[f9.attest(&params), f9.der.clone()], &root);
    let without = |left_out: usize| with(statement(), |params| drop(params.custom_extensions.remove(left_out)));
    assert!(refused(without(0)).contains("the firmware is missing"));
    assert!(refused(without(2)).contains("the PIN and touch policies are missing or unknown"));
    for name in ["A server", "YubiKey PIV Attestation f9", "YubiKey PIV Attestation "] {
        let params = with(statement(), |params| params.distinguished_name = named(name).distinguished_name);
        assert!(refused(params).contains("the first certificate names no slot"), "{name}");
    }
    // The serial number and the form factor may be missing.
    let read = Attestation::verify(&[f9.attest(&without(1)), f9.der.clone()], std::slice::from_ref(&root.der)).unwrap();
    assert_eq!(read.serial, None);
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let rsa = statement().signed_by(&key, &f9.issuer()).unwrap().der().to_vec();
    let rsa = refusal(&[rsa, f9.der.clone()], &root);
    assert!(rsa.contains("the key is RSA, or on a curve that YubiKeys and DIDComm do not share"), "{rsa}");
}

/// A root of one's own with the name of Yubico's is not taken for Yubico's.
#[test]
fn a_root_with_yubicos_name_is_not_yubicos() {
    let root = Authority::root("Yubico PIV Root CA Serial 263751", &rcgen::PKCS_ECDSA_P256_SHA256);
    let f9 = root.certify(authority("F9"));
    let chain = [f9.attest(&statement()), f9.der];
    let read = Attestation::verify(&chain, &[root.der]).unwrap();
    assert_eq!((read.root.as_str(), read.root_is_yubicos), ("Yubico PIV Root CA Serial 263751", false));
    assert!(Attestation::verify(&chain, &[]).is_err());
}
