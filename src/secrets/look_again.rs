//! Bounds how often tokens are searched for a key that is asked for and that no token has shown.
//!
//! A stranger can cause such searches, by messages to a key that our own document names. With many keys a search takes
//! long.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use super::mutex::lock;

/// The shortest time between two searches.
const INTERVAL: Duration = Duration::from_secs(10);

/// When the tokens were searched last because a key was asked for.
#[derive(Default)]
pub(super) struct LookAgain(Mutex<Option<Instant>>);

impl LookAgain {
    /// Whether the tokens may be searched now. If so, the search counts as made.
    pub(super) fn is_due(&self) -> bool {
        let mut last = lock(&self.0);
        let is_due = last.is_none_or(|last| last.elapsed() >= INTERVAL);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_requests_are_one_search() {
        let look = LookAgain::default();
        assert!(look.is_due());
        assert!((0..100).all(|_| !look.is_due()));
        *lock(&look.0) = Instant::now().checked_sub(INTERVAL);
        assert!(look.is_due() && !look.is_due());
    }
}
