//! Where the ranges of cursors begin, in every backend.

use crate::agent::clock::Millis;

/// A range begins at the seconds since 1970 times 2^20, plus a random part, since two stores may be restored at the same
/// time. With fewer than 500,000 deliveries or events per second no range reaches the next one. Until the year 2242, a cursor is
/// below 2^53, which every JSON parser reads exactly.
const BITS_PER_SECOND: u32 = 20;
const MAX_SECONDS: i64 = (1 << (53 - BITS_PER_SECOND)) - 2;
/// The random part is below this number.
pub(super) const RANDOM_PART: i64 = 1 << 19;

/// Returns where a range begins at the earliest, without the random part.
pub(super) fn earliest_start(now: Millis) -> i64 {
    (now / 1000).clamp(0, MAX_SECONDS) << BITS_PER_SECOND
}
