//! Pauses between attempts: exponential back-off with jitter.

use std::time::Duration;

/// How long to pause between attempts: the pause doubles with each failure, up to a longest pause.
///
/// Used between probes of an absent token, between a client's attempts to connect to a keeper, and between other
/// retries of the daemon and the command line.
///
/// ```
/// # use std::time::Duration;
/// # use claviger::secrets::Backoff;
/// let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
/// assert_eq!([1, 2, 3].map(|failures| backoff.pause(failures).as_millis()), [100, 200, 400]);
/// assert_eq!(backoff.pause(50), Duration::from_secs(1));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    jitter: f64,
}

impl Backoff {
    /// A back-off without jitter: `first` is the pause after one failure, `longest` is never exceeded.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, jitter: 0.0 }
    }

    /// The same pause after each failure.
    pub const fn constant(pause: Duration) -> Self {
        Self::new(pause, pause)
    }

    /// The same back-off with each pause shortened by a random share between 0 and `jitter`. 1.0 is full jitter.
    pub const fn with_jitter(self, jitter: f64) -> Self {
        Self { jitter, ..self }
    }

    /// The pause after this number of failures in a row. 0 counts as 1.
    pub fn pause(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let pause = self.first.saturating_mul(1 << doublings).min(self.longest);
        if self.jitter == 0.0 { pause } else { pause.mul_f64(1.0 - self.jitter * random()) }
    }
}

/// A random number that is at least 0 and less than 1.
fn random() -> f64 {
    const BITS: u32 = 53;
    // In the low half of a version 4 UUID, only the two highest bits are fixed (the variant, RFC 9562 section 5.4), so
    // the other bits are random.
    let (_, low) = uuid::Uuid::new_v4().as_u64_pair();
    (low & ((1 << BITS) - 1)) as f64 / (1_u64 << BITS) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_only_shortens_a_pause() {
        let (first, longest) = (Duration::from_millis(50), Duration::from_secs(2));
        let half = Backoff::new(first, longest).with_jitter(0.5);
        let full = Backoff::new(first, longest).with_jitter(1.0);
        for failures in 0..100 {
            let whole = Backoff::new(first, longest).pause(failures);
            assert!((whole / 2..=whole).contains(&half.pause(failures)), "{failures}");
            assert!(full.pause(failures) <= whole, "{failures}");
        }
    }
}
