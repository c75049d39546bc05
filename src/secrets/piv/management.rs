//! The management key, which is asked for to make, import and delete keys.

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit, array::Array};
use zeroize::Zeroizing;

use super::{
    apdu::Outcome,
    card::Card,
    tlv::{find, tlv},
};
use crate::secrets::TokenError;

/// What every YubiKey comes with: as Triple-DES below firmware 5.7, as AES-192 from there on.
const FACTORY: [u8; 24] = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8];
/// Yubico's administrative data: whether the management key is in the card, behind its PIN.
const ADMIN_DATA: [u8; 3] = [0x5f, 0xff, 0x00];
/// The flag there which says that it is.
const PROTECTED: u8 = 0x02;
/// "Printed information", which only a verified PIN reads: there it is.
const PRINTED: [u8; 3] = [0x5f, 0xc1, 0x09];

/// A management key.
pub(super) struct ManagementKey(Zeroizing<Vec<u8>>);

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
    pub(super) fn new(key: Zeroizing<Vec<u8>>) -> Result<Self, TokenError> {
        if [16, 24, 32].contains(&key.len()) { Ok(Self(key)) } else { Err(wrong_length()) }
    }

    /// The one of a factory-fresh card.
    pub(super) fn factory() -> Self {
        Self(Zeroizing::new(FACTORY.to_vec()))
    }

    /// A new one of 24 bytes, which Triple-DES and AES-192 have alike.
    pub(super) fn random() -> Result<Self, TokenError> {
        random(24).map(|key| Self(Zeroizing::new(key)))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the card keeps it behind its PIN.
    pub(super) fn is_protected(card: &mut Card<'_>) -> Outcome<bool> {
        let Some(admin) = card.object(&ADMIN_DATA)? else { return Ok(false) };
        let flags = find(&admin, 0x80).and_then(|admin| find(admin, 0x81)).and_then(|flags| flags.first());
        Ok(flags.is_some_and(|flags| flags & PROTECTED != 0))
    }

    /// The one that the card keeps behind its PIN, which must be verified; none if it does not keep it.
    pub(super) fn protected(card: &mut Card<'_>) -> Outcome<Option<Self>> {
        if !Self::is_protected(card)? {
            return Ok(None);
        }
        let Some(printed) = card.object(&PRINTED)? else { return Ok(None) };
        let key = find(&printed, 0x88).and_then(|printed| find(printed, 0x89));
        Ok(key.map(|key| Self(Zeroizing::new(key.to_vec()))))
    }

    /// Has the card keep it behind its PIN, as Yubico's tools do.
    pub(super) fn protect(&self, card: &mut Card<'_>) -> Outcome<()> {
        card.put_object(&PRINTED, &tlv(&[0x88], &tlv(&[0x89], &self.0)))?;
        card.put_object(&ADMIN_DATA, &tlv(&[0x80], &tlv(&[0x81], &[PROTECTED])))
    }

    pub(super) fn encrypt(&self, algorithm: u8, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        block!(&self.0, algorithm, input, encrypt_block)
    }

    pub(super) fn decrypt(&self, algorithm: u8, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        block!(&self.0, algorithm, input, decrypt_block)
    }

    /// Random bytes that the card is to encrypt.
    pub(super) fn challenge(length: usize) -> Result<Vec<u8>, TokenError> {
        random(length)
    }

    /// That the card has another one.
    pub(super) fn refused(&self) -> TokenError {
        TokenError::Config("the management key is not the card's".into())
    }
}

fn random(length: usize) -> Result<Vec<u8>, TokenError> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes)
        .map_err(|error| TokenError::Device { operation: "getrandom".into(), reason: error.to_string() })?;
    Ok(bytes)
}

fn wrong_length() -> TokenError {
    TokenError::Config("the management key, or what the card sent for it, has a wrong length".into())
}
