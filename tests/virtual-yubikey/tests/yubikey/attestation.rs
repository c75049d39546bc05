//! The attestation certificates: chain, extensions, and which keys are attested.

use claviger_virtual_yubikey::Firmware;
use p256::ecdsa::signature::Verifier;
use x509_cert::{
    Certificate,
    der::{Decode, Encode},
    ext::pkix::BasicConstraints,
};

use crate::host::{CACHED, ED25519, Host, NEVER, P256, P384, PIN_ALWAYS, X25519, element, tlv};

fn attest(host: &Host, slot: u8) -> Result<Certificate, u16> {
    host.command(0xF9, slot, 0, &[]).map(|der| Certificate::from_der(&der).expect("a certificate and nothing more"))
}

/// The certificate of the attestation key, from its object.
fn intermediate(host: &Host) -> Certificate {
    let object = host.read([0x5F, 0xFF, 0x01]).unwrap();
    let (_, list) = element(&object);
    let certificate = &list[..list.len() - 5];
    assert_eq!(list[list.len() - 5..], [0x71, 1, 0, 0xFE, 0]);
    Certificate::from_der(element(certificate).1).unwrap()
}

fn public(certificate: &Certificate) -> &[u8] {
    certificate.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes()
}

/// Whether the authority signed the certificate, by name and with ECDSA on P-256.
fn is_signed_by(certificate: &Certificate, authority: &Certificate) -> bool {
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(public(authority)).unwrap();
    let signature = p256::ecdsa::DerSignature::from_bytes(certificate.signature().raw_bytes()).unwrap();
    certificate.tbs_certificate().issuer() == authority.tbs_certificate().subject()
        && certificate.signature_algorithm().oid.to_string() == "1.2.840.10045.4.3.2"
        && key.verify(&certificate.tbs_certificate().to_der().unwrap(), &signature).is_ok()
}

/// The value of an extension, without its OCTET STRING.
fn extension<'a>(certificate: &'a Certificate, id: &str) -> &'a [u8] {
    let extensions = certificate.tbs_certificate().extensions().expect("extensions");
    let extension = extensions.iter().find(|extension| extension.extn_id.to_string() == id).expect(id);
    extension.extn_value.as_bytes()
}

#[test]
fn the_chain_ends_in_the_root() {
    let host = Host::manager(Firmware::V5_7_1);
    let generated = host.generate(0x82, P256, NEVER, 0).unwrap();
    let root = Certificate::from_der(&host.0.attestation_root()).unwrap();
    let (intermediate, leaf) = (intermediate(&host), attest(&host, 0x82).unwrap());
    assert_eq!(root.tbs_certificate().subject().to_string(), "CN=Virtual YubiKey PIV Root CA");
    assert_eq!(leaf.tbs_certificate().subject().to_string(), "CN=YubiKey PIV Attestation 82");
    assert_eq!(public(&leaf), generated);
    assert!(is_signed_by(&root, &root) && is_signed_by(&intermediate, &root) && is_signed_by(&leaf, &intermediate));
    for authority in [&root, &intermediate] {
        let constraints =
            authority.tbs_certificate().get_extension::<BasicConstraints>().unwrap().expect("it has them");
        assert!(constraints.0 && constraints.1.ca);
    }
    let another = Host::manager(Firmware::V5_7_1);
    another.generate(0x82, P256, NEVER, 0).unwrap();
    assert!(!is_signed_by(&attest(&another, 0x82).unwrap(), &intermediate), "each YubiKey has its own chain");
}

#[test]
fn yubicos_extensions_describe_the_key() {
    let host = Host::manager(Firmware::V5_7_1);
    host.generate(0x9A, P256, PIN_ALWAYS, CACHED).unwrap();
    let leaf = attest(&host, 0x9A).unwrap();
    assert_eq!(leaf.tbs_certificate().subject().to_string(), "CN=YubiKey PIV Attestation 9a");
    assert_eq!(extension(&leaf, "1.3.6.1.4.1.41482.3.3"), [5, 7, 1]);
    assert_eq!(extension(&leaf, "1.3.6.1.4.1.41482.3.7"), [0x02, 2, 0x04, 0x57], "an INTEGER: 1111");
    assert_eq!(extension(&leaf, "1.3.6.1.4.1.41482.3.8"), [PIN_ALWAYS, CACHED]);
    assert_eq!(extension(&leaf, "1.3.6.1.4.1.41482.3.9"), [1]);
}

#[test]
fn each_algorithm_has_its_identifier() {
    let host = Host::manager(Firmware::V5_7_1);
    for (algorithm, id, curve) in [
        (P256, "1.2.840.10045.2.1", Some("06082a8648ce3d030107")),
        (P384, "1.2.840.10045.2.1", Some("06052b81040022")),
        (ED25519, "1.3.101.112", None),
        (X25519, "1.3.101.110", None),
    ] {
        let generated = host.generate(0x82, algorithm, NEVER, 0).unwrap();
        let leaf = attest(&host, 0x82).unwrap();
        let info = leaf.tbs_certificate().subject_public_key_info();
        assert_eq!((info.algorithm.oid.to_string(), public(&leaf)), (id.to_owned(), &generated[..]));
        let parameters = info.algorithm.parameters.as_ref().map(|parameters| parameters.to_der().unwrap());
        assert_eq!(parameters, curve.map(crate::host::from_hex));
        assert!(is_signed_by(&leaf, &intermediate(&host)));
    }
}

#[test]
fn an_imported_key_an_empty_slot_and_the_attestation_key_itself_are_not_attested() {
    let host = Host::manager(Firmware::V5_7_1);
    assert_eq!(attest(&host, 0x82), Err(0x6A80));
    host.command(0xFE, P256, 0x82, &tlv(&[6], &[1; 32])).unwrap();
    assert_eq!(attest(&host, 0x82), Err(0x6A80));
    assert_eq!(attest(&host, 0xF9), Err(0x6A80));
}

#[test]
fn a_replaced_attestation_key_signs_from_then_on() {
    let host = Host::manager(Firmware::V5_7_1);
    host.generate(0x82, P256, NEVER, 0).unwrap();
    host.command(0xFE, P384, 0xF9, &tlv(&[6], &[1; 48])).unwrap();
    let leaf = attest(&host, 0x82).unwrap();
    assert_eq!(leaf.signature_algorithm().oid.to_string(), "1.2.840.10045.4.3.3", "ECDSA with SHA-384");
    let key = p384::ecdsa::VerifyingKey::from(p384::SecretKey::from_slice(&[1; 48]).unwrap().public_key());
    let signature = p384::ecdsa::DerSignature::from_bytes(leaf.signature().raw_bytes()).unwrap();
    assert!(key.verify(&leaf.tbs_certificate().to_der().unwrap(), &signature).is_ok());
    host.write([0x5F, 0xFF, 0x01], &[]).unwrap();
    assert_eq!(attest(&host, 0x82), Err(0x6A80), "without a certificate there is no issuer name");
}
