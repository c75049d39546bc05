//! Data objects, such as certificates (NIST SP 800-73-4 part 2 sections 3.1.2 and 3.3.1).

use std::collections::BTreeMap;

use crate::{
    apdu::Command,
    status::Status,
    tlv::{self, List},
};

/// The object with the certificate of the attestation key.
pub(crate) const ATTESTATION_CERTIFICATE: [u8; 3] = [0x5F, 0xFF, 0x01];

/// The size of the largest object by Yubico's documentation, in bytes.
const MAX_OBJECT: usize = 3052;

/// Objects that need the PIN: fingerprints, facial image, printed information, iris images (SP 800-73-4 part 1
/// table 2).
const NEED_PIN: [[u8; 3]; 4] = [[0x5F, 0xC1, 0x03], [0x5F, 0xC1, 0x08], [0x5F, 0xC1, 0x09], [0x5F, 0xC1, 0x21]];

/// The discovery object (SP 800-73-4 part 1 section 3.3.2): it names the application, and says that the application
/// uses its own PIN.
const DISCOVERY: &[u8] = &[
    0x7E, 0x12, 0x4F, 0x0B, 0xA0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00, 0x5F, 0x2F, 0x02, 0x40,
    0x00,
];

/// The data objects by their tags.
pub(crate) struct Objects {
    objects: BTreeMap<[u8; 3], Vec<u8>>,
    /// The size of the largest object that fits into the memory, in bytes.
    pub(crate) largest: usize,
}

impl Objects {
    /// Only the certificate of the attestation key.
    pub(crate) fn factory(attestation_certificate: &[u8]) -> Self {
        let objects = BTreeMap::from([(ATTESTATION_CERTIFICATE, certificate_object(attestation_certificate))]);
        Self { objects, largest: MAX_OBJECT }
    }

    /// Removes all objects except the certificate of the attestation key, as a reset of the application does.
    pub(crate) fn reset(&mut self) {
        self.objects.retain(|id, _| *id == ATTESTATION_CERTIFICATE);
    }

    /// The certificate of the attestation key.
    pub(crate) fn attestation_certificate(&self) -> Option<&[u8]> {
        List::parse(self.objects.get(&ATTESTATION_CERTIFICATE)?).ok()?.find(0x70)
    }

    /// GET DATA.
    pub(crate) fn read(&self, command: &Command, pin_verified: bool) -> Result<Vec<u8>, Status> {
        let id = List::parse(&command.data)?.find(0x5C).ok_or(Status::WRONG_DATA)?;
        if id == [0x7E] {
            return Ok(DISCOVERY.to_vec());
        }
        let id: [u8; 3] = id.try_into().map_err(|_| Status::NOT_FOUND)?;
        if NEED_PIN.contains(&id) && !pin_verified {
            return Err(Status::SECURITY);
        }
        self.objects.get(&id).map(|object| tlv::write(&[0x53], object)).ok_or(Status::NOT_FOUND)
    }

    /// PUT DATA. An empty value removes the object.
    pub(crate) fn write(&mut self, command: &Command) -> Result<Vec<u8>, Status> {
        let list = List::parse(&command.data)?;
        let id = list.find(0x5C).and_then(|id| <[u8; 3]>::try_from(id).ok()).ok_or(Status::WRONG_DATA)?;
        let object = list.find(0x53).ok_or(Status::WRONG_DATA)?;
        if object.len() > self.largest {
            return Err(Status::NO_SPACE);
        }
        if object.is_empty() {
            self.objects.remove(&id);
        } else {
            self.objects.insert(id, object.to_vec());
        }
        Ok(Vec::new())
    }
}

/// The object for a certificate: not compressed, no error detection code (SP 800-73-4 part 1 appendix A).
fn certificate_object(certificate: &[u8]) -> Vec<u8> {
    [tlv::write(&[0x70], certificate), tlv::write(&[0x71], &[0]), tlv::write(&[0xFE], &[])].concat()
}
