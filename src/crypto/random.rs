//! Randomness of the operating system.

/// Fills a buffer from the operating system's generator.
///
/// # Panics
/// If the operating system has no randomness. No cryptography can go on then.
pub(super) fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system has randomness");
}
