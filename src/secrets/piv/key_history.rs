//! The Key History object: how many of the retired slots have certificates (NIST SP 800-73-4 part 1 section 3.3.3).
//!
//! OpenSC reads the certificates of the slots 82 to 95, and so finds their keys, only as far as this object says
//! (`piv_process_history` in its card-piv.c). A YubiKey has no such object until a program writes one.

use super::{
    apdu::CardResult,
    card::Card,
    tlv::{find, tlv},
};
use crate::secrets::{Slot, TokenError};

const KEY_HISTORY: [u8; 3] = [0x5f, 0xc1, 0x0c];
/// The tags of keysWithOnCardCerts and keysWithOffCardCerts.
const ON_CARD: u16 = 0xc1;
const OFF_CARD: u16 = 0xc2;

/// Writes the object after the key in `slot` was made or deleted. It counts up to the last retired slot with a certificate:
/// OpenSC passes over the slots without one before it.
///
/// The object of a card whose older certificates are stored elsewhere is left as it is. A failure is logged only: the key
/// itself is done, and Claviger does not need the object.
pub(super) fn update(card: &mut Card<'_>, slot: Slot) {
    if !Slot::retired().any(|retired| retired == slot) {
        return;
    }
    if let Err(error) = try_update(card) {
        let error = TokenError::from(error);
        tracing::warn!(%error, "Key History object not written; OpenSC may not see the keys in the slots 82 to 95");
    }
}

fn try_update(card: &mut Card<'_>) -> CardResult<()> {
    let old = card.object(&KEY_HISTORY)?;
    let old = old.as_deref().map(Vec::as_slice).unwrap_or_default();
    if find(old, OFF_CARD).is_some_and(|count| count.iter().any(|byte| *byte != 0)) {
        return Ok(());
    }
    let mut count = 0;
    for (slot, number) in Slot::retired().zip(1..).collect::<Vec<(Slot, u8)>>().into_iter().rev() {
        if card.certificate(slot)?.is_some() {
            count = number;
            break;
        }
    }
    if find(old, ON_CARD).unwrap_or(&[0]) == [count] {
        return Ok(());
    }
    let new = [&tlv(&[ON_CARD as u8], &[count])[..], &tlv(&[OFF_CARD as u8], &[0]), &tlv(&[0xfe], &[])].concat();
    card.put_object(&KEY_HISTORY, &new)
}
