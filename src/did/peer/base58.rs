//! Decodes long texts in base58btc. Every decoder takes quadratic time. This decoder handles ten digits and eight bytes
//! in each step. `bs58`, which decodes keys, handles one digit and one byte, and takes some tens of milliseconds for
//! the longest DID.

const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// Decodes `text`. Returns `None` for a character that is no digit of base58, and for a text that begins with `1`, the
/// digit zero: a document with its multicodec never does.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    if text.starts_with('1') {
        return None;
    }
    // The number so far, least significant part first.
    let mut limbs: Vec<u64> = Vec::with_capacity(text.len() / 10 + 1);
    for digits in text.as_bytes().chunks(10) {
        // 58^10 is less than 2^64, so ten digits fit.
        let mut carry: u64 = 0;
        for digit in digits {
            carry = carry * 58 + u64::from(DIGITS[usize::from(*digit)]?);
        }
        let factor = 58u128.pow(digits.len() as u32);
        for limb in &mut limbs {
            let product = u128::from(*limb) * factor + u128::from(carry);
            *limb = product as u64;
            carry = (product >> 64) as u64;
        }
        if carry != 0 {
            limbs.push(carry);
        }
    }
    let mut bytes: Vec<u8> = limbs.iter().rev().flat_map(|limb| limb.to_be_bytes()).collect();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.drain(..zeros);
    Some(bytes)
}

/// The value of each character.
const DIGITS: [Option<u8>; 256] = {
    let mut digits = [None; 256];
    let mut value = 0;
    while value < 58 {
        digits[ALPHABET[value] as usize] = Some(value as u8);
        value += 1;
    }
    digits
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decodes_like_bs58(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[1-9A-Za-z]{0,60}") {
            let encoded = bs58::encode(&bytes).into_string();
            prop_assert_eq!(decode(&encoded), (bytes.first() != Some(&0)).then_some(bytes));
            let known = bs58::decode(&text).into_vec().ok().filter(|_| !text.starts_with('1'));
            prop_assert_eq!(decode(&text), known);
        }
    }
}
