//! Attestation: a YubiKey's signed statement that a key was made in one of its slots
//! (<https://docs.yubico.com/yesdk/users-manual/application-piv/attestation.html>).
//!
//! The key in slot F9 of the same YubiKey signs the statement, and Yubico certifies that key: directly under Yubico's
//! PIV root up to firmware 5.7.3, and through two intermediates from firmware 5.7.4 on. `yubico/` has Yubico's roots
//! and intermediates.

use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
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
    attestation_error::{AttestationError, words},
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

/// The most certificates of a chain. webpki follows six between the key's own and the root.
const MAX_CERTIFICATES: usize = 10;
/// The most bytes of a chain.
const MAX_BYTES: usize = 64 * 1024;

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
    /// Whether the root certificate is one of Yubico's. If not, the owner of that root vouches for the statement, and
    /// can certify anything.
    pub root_is_yubicos: bool,
}

impl Attestation {
    /// Verifies the certificates that [`Custodian::attest`](crate::secrets::Custodian::attest) returned (in DER, the
    /// key's own first), and reads the statement. The certificates must lead to one of Yubico's roots or to one of
    /// `roots` (in DER). `roots` is for users who put an attestation key of their own into F9.
    ///
    /// The signatures may be ECDSA on P-256, P-384 or P-521, Ed25519, or RSA, with SHA-256, SHA-384 or SHA-512. A chain
    /// may come from a stranger: it has at most 10 certificates and 64 KiB.
    ///
    /// # Errors
    /// [`AttestationError`] if a certificate cannot be read or the chain leads to none of these roots.
    pub fn verify(chain: &[Vec<u8>], roots: &[Vec<u8>]) -> Result<Self, AttestationError> {
        use AttestationError::{Malformed, Untrusted, UnusableRoot};
        let untrusted = |error: webpki::Error| Untrusted(words(&error));
        let (own, above) = chain.split_first().ok_or(Malformed("there is no certificate"))?;
        if chain.len() > MAX_CERTIFICATES || chain.iter().map(Vec::len).sum::<usize>() > MAX_BYTES {
            return Err(Malformed("it has more than 10 certificates or 64 KiB"));
        }
        let mut known: Vec<CertificateDer<'_>> = built_in(ROOTS);
        let yubicos = known.len();
        known.extend(roots.iter().map(|root| CertificateDer::from(root.as_slice())));
        let anchors = known.iter().map(anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>();
        let anchors = anchors.map_err(|error| UnusableRoot(words(&error)))?;
        let mut intermediates: Vec<CertificateDer<'_>> = built_in(INTERMEDIATES);
        intermediates.extend(above.iter().map(|above| CertificateDer::from(above.as_slice())));
        let certificate = CertificateDer::from(own.as_slice());
        let end = EndEntityCert::try_from(&certificate).map_err(untrusted)?;
        // All algorithms of webpki: nobody chooses those of Yubico's or of his company's authority. One of Yubico's
        // intermediates omits the parameters of its RSA identifier, where RFC 4055 requires NULL; webpki has that form.
        let path = end
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                &intermediates,
                UnixTime::now(),
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map_err(untrusted)?;
        let chain = [own.clone()].into_iter().chain(path.intermediate_certificates().map(|above| above.der().to_vec()));
        // Name and key: another root may have the name of one of Yubico's.
        let root = anchors.iter().position(|anchor| anchor == path.anchor());
        let name = root.and_then(|root| common_name(&Certificate::from_der(&known[root]).ok()?));
        let root = (name.unwrap_or_default(), root.is_some_and(|root| root < yubicos));
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

/// Reads a statement, which is not verified here. `root` is the root's name, and whether it is Yubico's.
pub(super) fn read(
    own: &[u8],
    chain: Vec<Vec<u8>>,
    (root, root_is_yubicos): (String, bool),
) -> Result<Attestation, AttestationError> {
    use AttestationError::Malformed;
    let certificate = Certificate::from_der(own).map_err(|_| Malformed("the statement is not a certificate"))?;
    let public = certificate::public_key(certificate.tbs_certificate().subject_public_key_info())
        .ok_or(Malformed("the key is RSA, or on a curve that YubiKeys and DIDComm do not share"))?;
    let slot =
        common_name(&certificate).and_then(|name| name.strip_prefix("YubiKey PIV Attestation ")?.parse().ok()).ok_or(
            Malformed("the first certificate names no slot: it is no attestation of a key, or of one in slot f9"),
        )?;
    let extension = |last| extension(&certificate, last);
    let firmware = extension(3).and_then(|value| Some(Firmware::from(*value.first_chunk::<3>()?)));
    let policies = extension(8).and_then(|value| value.first_chunk::<2>().copied());
    // The PIN policies 4 and 5 are those of a YubiKey Bio.
    let policies = policies.filter(|[pin, touch]| (1..=5).contains(pin) && (1..=3).contains(touch));
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
        root_is_yubicos,
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
