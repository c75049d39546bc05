//! PIN and touch policies as the card encodes them.

use super::tlv::tlv;
use crate::secrets::{PinPolicy, TouchPolicy};

/// The policies of a new key, encoded for GENERATE and IMPORT KEY.
pub(super) fn policies(pin: PinPolicy, touch: TouchPolicy) -> Vec<u8> {
    let pin = match pin {
        PinPolicy::Never => 1,
        PinPolicy::Once => 2,
        PinPolicy::Always => 3,
        PinPolicy::MatchOnce => 4,
        PinPolicy::MatchAlways => 5,
    };
    let touch = match touch {
        TouchPolicy::Never => 1,
        TouchPolicy::Always => 2,
        TouchPolicy::Cached => 3,
    };
    let mut policies = tlv(&[0xaa], &[pin]).to_vec();
    policies.extend_from_slice(&tlv(&[0xab], &[touch]));
    policies
}

/// A PIN policy by its number. An unknown number counts as the strictest policy.
pub(super) fn pin_policy(number: u8) -> PinPolicy {
    match number {
        1 => PinPolicy::Never,
        2 => PinPolicy::Once,
        4 => PinPolicy::MatchOnce,
        5 => PinPolicy::MatchAlways,
        _ => PinPolicy::Always,
    }
}

/// A touch policy by its number. An unknown number counts as the strictest policy.
pub(super) fn touch_policy(number: u8) -> TouchPolicy {
    match number {
        1 => TouchPolicy::Never,
        3 => TouchPolicy::Cached,
        _ => TouchPolicy::Always,
    }
}
