//! Attestation: a YubiKey's signed statement that a key was made in one of its slots
//! (<https://docs.yubico.com/yesdk/users-manual/application-piv/attestation.html>).
//!
//! The key in slot F9 of the same YubiKey signs the statement, and Yubico certifies that key: directly under Yubico's
//! PIV root up to firmware 5.7.3, and through two intermediates from firmware 5.7.4 on. `yubico/` has Yubico's roots
//! and intermediates.

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime, pem::PemObject};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, aws_lc_rs as algorithms};
use x509_cert::{
    Certificate,
    der::{
        Decode,
        asn1::{ObjectIdentifier, OctetStringRef},
        pem::{LineEnding, encode_string},
    },
};

use super::{
    algorithm::Firmware,
    certificate,
    form_factor::FormFactor,
    policies::{pin_policy, touch_policy},
};
use crate::{
    keys::PublicKey,
    secrets::{PinPolicy, Slot, TouchPolicy},
};

const ROOTS: &[u8] = include_bytes!("yubico/roots.pem");
const INTERMEDIATES: &[u8] = include_bytes!("yubico/intermediates.pem");

/// The algorithms of Yubico's certificates, and those of attestation keys that users put in F9 themselves. One of
/// Yubico's intermediates omits the parameters of its RSA identifier, where RFC 4055 requires NULL.
const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P384_SHA384,
];

/// A YubiKey's verified statement about a key that was made in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attestation {
    /// The public half of the key.
    pub public: PublicKey,
    /// The key's slot.
    pub slot: Slot,
    /// The YubiKey's serial number; `None` if the certificate does not contain it.
    pub serial: Option<u32>,
    /// The YubiKey's firmware when the key was attested.
    pub firmware: Firmware,
    /// The YubiKey's form factor; `None` if the certificate does not contain it.
    pub form_factor: Option<FormFactor>,
    /// When the key needs the PIN.
    pub pin: PinPolicy,
    /// When the key needs a touch.
    pub touch: TouchPolicy,
    /// The certificates in DER, from the key's own up to the one below the root.
    pub chain: Vec<Vec<u8>>,
    /// The common name of the root certificate.
    pub root: String,
}

/// Why an attestation is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestationError {
    /// A certificate cannot be read, or a part of the statement is missing.
    #[error("the attestation cannot be read: {0}")]
    Malformed(&'static str),
    /// The certificates do not lead to a known root.
    #[error("the attestation does not lead to a known root certificate: {0}")]
    Untrusted(String),
}

impl Attestation {
    /// Verifies the certificates that [`Custodian::attest`](crate::secrets::Custodian::attest) returned (in DER, the
    /// key's own first), and reads the statement. The certificates must lead to one of Yubico's roots or to one of
    /// `roots` (in DER). `roots` is for users who put an attestation key of their own into F9.
    ///
    /// # Errors
    /// [`AttestationError`] if a certificate cannot be read or the chain leads to none of these roots.
    pub fn verify(chain: &[Vec<u8>], roots: &[Vec<u8>]) -> Result<Self, AttestationError> {
        let untrusted = |error: webpki::Error| AttestationError::Untrusted(error.to_string());
        let (own, above) = chain.split_first().ok_or(AttestationError::Malformed("there is no certificate"))?;
        let mut known: Vec<CertificateDer<'_>> = built_in(ROOTS);
        known.extend(roots.iter().map(|root| CertificateDer::from(root.as_slice())));
        let anchors: Vec<_> =
            known.iter().map(anchor_from_trusted_cert).collect::<Result<_, _>>().map_err(untrusted)?;
        let mut intermediates: Vec<CertificateDer<'_>> = built_in(INTERMEDIATES);
        intermediates.extend(above.iter().map(|above| CertificateDer::from(above.as_slice())));
        let certificate = CertificateDer::from(own.as_slice());
        let end = EndEntityCert::try_from(&certificate).map_err(untrusted)?;
        let path = end
            .verify_for_usage(
                ALGORITHMS,
                &anchors,
                &intermediates,
                UnixTime::now(),
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map_err(untrusted)?;
        let chain = [own.clone()].into_iter().chain(path.intermediate_certificates().map(|above| above.der().to_vec()));
        let anchor = path.anchor();
        let root = anchors.iter().position(|other| other.subject == anchor.subject).map(|at| &known[at]);
        let root = root.and_then(|root| common_name(&Certificate::from_der(root).ok()?)).unwrap_or_default();
        read(own, chain.collect(), root)
    }

    /// [`chain`](Self::chain) as PEM (RFC 7468 section 5).
    pub fn chain_pem(&self) -> Vec<String> {
        let written = self.chain.iter().map(|der| encode_string("CERTIFICATE", LineEnding::LF, der));
        written.map(|pem| pem.expect("bytes can be written as PEM")).collect()
    }
}

/// The certificates of a file in `yubico/`.
fn built_in(pem: &'static [u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// The form factor in an attestation certificate, which is not verified here.
pub(super) fn form_factor(own: &[u8]) -> Option<FormFactor> {
    extension(&Certificate::from_der(own).ok()?, 9)?.first().copied().map(FormFactor::new)
}

fn common_name(certificate: &Certificate) -> Option<String> {
    let name = certificate.tbs_certificate().subject().common_name().ok()??;
    Some(name.value().into_owned())
}

fn read(own: &[u8], chain: Vec<Vec<u8>>, root: String) -> Result<Attestation, AttestationError> {
    use AttestationError::Malformed;
    let certificate = Certificate::from_der(own).map_err(|_| Malformed("the statement is not a certificate"))?;
    let public = certificate::public_key(certificate.tbs_certificate().subject_public_key_info())
        .ok_or(Malformed("the key is of an unknown kind"))?;
    let slot = common_name(&certificate)
        .and_then(|name| name.strip_prefix("YubiKey PIV Attestation ")?.parse().ok())
        .ok_or(Malformed("the slot is missing"))?;
    let extension = |last| extension(&certificate, last);
    let firmware = extension(3).and_then(|value| Some(Firmware::from(*value.first_chunk::<3>()?)));
    let policies = extension(8).and_then(|value| value.first_chunk::<2>().copied());
    let policies = policies.filter(|policies| policies.iter().all(|policy| (1..=3).contains(policy)));
    let [pin, touch] = policies.ok_or(Malformed("the PIN and touch policies are missing or unknown"))?;
    Ok(Attestation {
        public,
        slot,
        serial: extension(7).and_then(|value| u32::from_der(value).ok()),
        firmware: firmware.ok_or(Malformed("the firmware is missing"))?,
        form_factor: form_factor(own),
        pin: pin_policy(pin),
        touch: touch_policy(touch),
        chain,
        root,
    })
}

/// The value of an extension under Yubico's OID 1.3.6.1.4.1.41482.3, by its last number.
fn extension(certificate: &Certificate, last: u32) -> Option<&[u8]> {
    const ARC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3");
    let id = ARC.push_arc(last).ok()?;
    let extensions = certificate.tbs_certificate().extensions()?;
    let value = extensions.iter().find(|extension| extension.extn_id == id)?.extn_value.as_bytes();
    // Firmware up to 5.7.3 writes the plain bytes; later firmware wraps some of them in a second OCTET STRING.
    Some(<&OctetStringRef>::from_der(value).map_or(value, OctetStringRef::as_bytes))
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// The fingerprints that Yubico publishes, and that other projects pin.
    #[test]
    fn built_in_certificates_have_the_published_fingerprints() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let fingerprints = [ROOTS, INTERMEDIATES].into_iter().flat_map(built_in).map(|der| hex(&Sha256::digest(&der)));
        assert_eq!(
            fingerprints.collect::<Vec<_>>(),
            [
                "63ece914e54dd87915f34033c85af4c0696ba1512f8add66ced738331207b546",
                "62760c6a6ef91679f454c8902b80fd009825b3f25da90f1fbace2ec6586cd5a8",
                "4698a1d3389c3ec60016c216250f1d0439922832d65142327436376dc2942b55",
                "d4cc3f456fdaf4e7812a21aab1dfe9d8e27d24e2fd2d6f21c9940109f0daa754",
                "6de693f05376f5d8ca29069261e1c8626c75d503bd2edbfd75354cad1f722870",
                "2d55b7998f4e42569d6d8fa382b6dc77d1dacf07358b19701163892922b17052",
                "0c90b7d184a36edf50a35f9be935f0c5689bfdcfe5bdd073366cafb49061a440",
            ]
        );
        for text in [ROOTS, INTERMEDIATES].map(|pem| std::str::from_utf8(pem).unwrap()) {
            let documented = text.lines().filter_map(|line| line.strip_prefix("# SHA-256 "));
            let actual = built_in(text.as_bytes()).into_iter().map(|der| hex(&Sha256::digest(&der)));
            assert_eq!(documented.map(str::to_owned).collect::<Vec<_>>(), actual.collect::<Vec<_>>());
        }
    }

    /// This shows that an attestation under any of the intermediates leads to a root. webpki offers no other way
    /// to check that.
    #[test]
    fn every_intermediate_is_signed_by_a_built_in_certificate() {
        let all: Vec<_> = [ROOTS, INTERMEDIATES].into_iter().flat_map(built_in).collect();
        let read = |der: &CertificateDer<'_>| Certificate::from_der(der).unwrap();
        for der in built_in(INTERMEDIATES) {
            let certificate = read(&der);
            let issuer = all
                .iter()
                .map(read)
                .find(|above| above.tbs_certificate().subject() == certificate.tbs_certificate().issuer());
            let issuer = issuer.expect("the issuer is built in");
            let key = issuer.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes();
            let signed =
                aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256, key);
            let tbs = x509_cert::der::Encode::to_der(certificate.tbs_certificate()).unwrap();
            signed.verify(&tbs, certificate.signature().raw_bytes()).expect("the issuer's signature");
        }
    }
}
