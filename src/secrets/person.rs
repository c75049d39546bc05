//! The time during which a person is asked for a PIN or a touch.
//!
//! A person may take minutes. That is no fault of the token: an operation that waits for a person has not hung, and a
//! keeper whose token asks a person is not replaced, since that would take the prompt away. One record for the whole
//! process is enough, because a keeper has one token and the token asks one person at a time. While one operation asks,
//! the others of the same token wait for it.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use super::mutex::lock;

static ASKED: Mutex<Asked> = Mutex::new(Asked {
    #[cfg(any(feature = "pkcs11", feature = "yubikey"))]
    prompts: 0,
    since: None,
    limit: Duration::ZERO,
    before: Duration::ZERO,
});

/// When a person was asked.
struct Asked {
    /// The prompts that are open.
    #[cfg(any(feature = "pkcs11", feature = "yubikey"))]
    prompts: usize,
    /// Since when any prompt is open.
    since: Option<Instant>,
    /// How long the open prompts may take.
    limit: Duration,
    /// The time during which any prompt was open before.
    before: Duration,
}

/// Runs `ask`, in which a person is asked for a PIN or a touch. After `limit`, the time counts as the token's: a device
/// that waits for a touch gives up by itself, unless it hangs.
#[cfg(any(feature = "pkcs11", feature = "yubikey"))]
pub(in crate::secrets) fn while_asked<T>(limit: Duration, ask: impl FnOnce() -> T) -> T {
    let _prompt = Prompt::open(limit);
    ask()
}

#[cfg(any(feature = "pkcs11", feature = "yubikey"))]
struct Prompt;

#[cfg(any(feature = "pkcs11", feature = "yubikey"))]
impl Prompt {
    fn open(limit: Duration) -> Self {
        let mut asked = lock(&ASKED);
        asked.limit = if asked.prompts == 0 { limit } else { asked.limit.max(limit) };
        asked.prompts += 1;
        asked.since.get_or_insert_with(Instant::now);
        Self
    }
}

#[cfg(any(feature = "pkcs11", feature = "yubikey"))]
impl Drop for Prompt {
    fn drop(&mut self) {
        let mut asked = lock(&ASKED);
        asked.prompts -= 1;
        if asked.prompts == 0
            && let Some(since) = asked.since.take()
        {
            let limit = asked.limit;
            asked.before += since.elapsed().min(limit);
        }
    }
}

/// A stopwatch that stands still while a person is asked.
#[derive(Debug, Clone, Copy)]
pub(in crate::secrets) struct Stopwatch {
    start: Instant,
    /// The time during which a person had been asked at the start.
    asked_before: Duration,
}

impl Stopwatch {
    /// A stopwatch that starts now.
    pub(in crate::secrets) fn start() -> Self {
        // In this order, as in `elapsed`: a prompt that is open must not count as time of the token.
        let asked_before = time_asked();
        Self { start: Instant::now(), asked_before }
    }

    /// The time since the start, without the time during which a person was asked.
    pub(in crate::secrets) fn elapsed(self) -> Duration {
        let elapsed = self.start.elapsed();
        elapsed.saturating_sub(time_asked().saturating_sub(self.asked_before))
    }
}

/// The time during which a person was asked since the process started.
fn time_asked() -> Duration {
    let asked = lock(&ASKED);
    asked.before + asked.since.map_or(Duration::ZERO, |since| since.elapsed().min(asked.limit))
}

#[cfg(all(test, any(feature = "pkcs11", feature = "yubikey")))]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_stopwatch_stands_still_while_a_person_is_asked() {
        let stopwatch = Stopwatch::start();
        let real = Instant::now();
        while_asked(Duration::MAX, || {
            let inner = Stopwatch::start();
            thread::sleep(Duration::from_millis(50));
            while_asked(Duration::ZERO, || thread::sleep(Duration::from_millis(50)));
            assert_eq!(inner.elapsed(), Duration::ZERO);
        });
        assert!(stopwatch.elapsed() + Duration::from_millis(100) <= real.elapsed(), "{:?}", stopwatch.elapsed());
        let stopwatch = Stopwatch::start();
        while_asked(Duration::from_millis(10), || thread::sleep(Duration::from_millis(50)));
        assert!(stopwatch.elapsed() >= Duration::from_millis(40), "a prompt has a limit: {:?}", stopwatch.elapsed());
    }
}
