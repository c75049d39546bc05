//! The management key, which is asked for to make, import and delete keys.

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit, array::Array};
use zeroize::Zeroizing;

use super::{apdu::Outcome, card::Card, tlv::find};
use crate::secrets::TokenError;

/// What every YubiKey comes with: as Triple-DES below firmware 5.7, as AES-192 from there on.
const FACTORY: [u8; 24] = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8];
/// Yubico's administrative data: whether the management key is in the card, behind its PIN.
const ADMIN_DATA: [u8; 3] = [0x5f, 0xff, 0x00];
/// "Printed information", which only a verified PIN reads: there it is.
const PRINTED: [u8; 3] = [0x5f, 0xc1, 0x09];

/// A management key.
pub struct ManagementKey(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for ManagementKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ManagementKey(redacted)")
    }
}

/// Runs a block through the cipher that an algorithm of PIV names.
macro_rules! block {
    ($key:expr, $algorithm:expr, $block:expr, $run:ident) => {{
        macro_rules! with {
            ($cipher:ty) => {{
                let cipher = <$cipher>::new_from_slice($key).map_err(|_| wrong_length())?;
                let mut block = Zeroizing::new($block.to_vec());
                let array = Array::try_from(&block[..]).map_err(|_| wrong_length())?;
                let mut array = array;
                cipher.$run(&mut array);
                block.copy_from_slice(&array);
                Ok(block)
            }};
        }
        match $algorithm {
            0x03 => with!(des::TdesEde3),
            0x08 => with!(aes::Aes128),
            0x0a => with!(aes::Aes192),
            0x0c => with!(aes::Aes256),
            other => Err(TokenError::Unsupported(format!("a management key of the algorithm {other:02X}"))),
        }
    }};
}

impl ManagementKey {
    /// A key of 16, 24 or 32 bytes.
    pub fn new(key: Vec<u8>) -> Self {
        Self(Zeroizing::new(key))
    }

    /// The one of a factory-fresh card.
    pub(super) fn factory() -> Self {
        Self::new(FACTORY.to_vec())
    }

    /// The one that the card keeps behind its PIN, which must be verified; none if it does not keep it.
    pub(super) fn protected(card: &mut Card<'_>) -> Outcome<Option<Self>> {
        let Some(admin) = card.object(&ADMIN_DATA)? else { return Ok(None) };
        let flags = find(&admin, 0x80).and_then(|admin| find(admin, 0x81)).and_then(|flags| flags.first());
        if flags.is_none_or(|flags| flags & 0x02 == 0) {
            return Ok(None);
        }
        let Some(printed) = card.object(&PRINTED)? else { return Ok(None) };
        let key = find(&printed, 0x88).and_then(|printed| find(printed, 0x89));
        Ok(key.map(|key| Self::new(key.to_vec())))
    }

    pub(super) fn encrypt(&self, algorithm: u8, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        block!(&self.0, algorithm, input, encrypt_block)
    }

    pub(super) fn decrypt(&self, algorithm: u8, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        block!(&self.0, algorithm, input, decrypt_block)
    }

    /// Random bytes that the card is to encrypt.
    pub(super) fn challenge(length: usize) -> Result<Vec<u8>, TokenError> {
        let mut challenge = vec![0; length];
        getrandom::fill(&mut challenge)
            .map_err(|error| TokenError::Device { operation: "getrandom".into(), reason: error.to_string() })?;
        Ok(challenge)
    }

    /// That the card has another one.
    pub(super) fn refused(&self) -> TokenError {
        TokenError::Config("the management key is not the card's".into())
    }
}

fn wrong_length() -> TokenError {
    TokenError::Config("the management key, or what the card sent for it, has a wrong length".into())
}
