//! How long an answer of a mediator is waited for.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout_at};

/// The longest wait for an answer. A mediator may send without a pause, and never answer.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// The time limit for an answer.
///
/// Only the mediator's silence counts. Other messages may come before the answer, and the time that it takes to store them is
/// not the mediator's: on a slow disk, hundreds take longer than the limit. Who gives up then loses those that were sent and
/// forgotten.
#[derive(Debug)]
pub(super) struct Patience {
    /// How much silence is left.
    silence: Duration,
    /// When the wait ends in any case.
    end: Instant,
}

impl Patience {
    /// Bears this much silence.
    pub fn new(silence: Duration) -> Self {
        Self { silence, end: Instant::now() + MAX_WAIT }
    }

    /// Bears at most this much silence from now on.
    pub fn limit(&mut self, silence: Duration) {
        self.silence = self.silence.min(silence);
    }

    /// Waits for the mediator. `None` if the wait has ended before.
    pub async fn wait<T>(&mut self, for_mediator: impl Future<Output = T>) -> Option<T> {
        let begun = Instant::now();
        // What is there already is not taken after the end: otherwise a mediator that sends without a pause is never left.
        let until = self.until(begun)?;
        let done = timeout_at(until, for_mediator).await;
        self.spend(begun.elapsed());
        done.ok()
    }

    /// When a wait that begins now ends. `None` if there is no time left.
    fn until(&self, now: Instant) -> Option<Instant> {
        Some(self.end.min(now + self.silence)).filter(|until| now < *until)
    }

    fn spend(&mut self, silence: Duration) {
        self.silence = self.silence.saturating_sub(silence);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_silence_counts() {
        let (mut patience, begun) = (Patience::new(30 * SECOND), Instant::now());
        // Messages that came within ten seconds, and took a minute to be stored.
        patience.spend(10 * SECOND);
        let now = begun + 70 * SECOND;
        assert_eq!(patience.until(now), Some(now + 20 * SECOND));
        patience.spend(20 * SECOND);
        assert_eq!(patience.until(now + 20 * SECOND), None);
    }

    #[test]
    fn a_mediator_that_sends_without_a_pause_is_left() {
        let patience = Patience::new(30 * SECOND);
        assert_eq!(patience.until(patience.end - SECOND), Some(patience.end));
        assert_eq!(patience.until(patience.end), None);
    }

    #[tokio::test]
    async fn a_wait_ends_with_the_patience() {
        let mut patience = Patience::new(60 * SECOND);
        assert_eq!(patience.wait(ready(1)).await, Some(1));
        patience.limit(SECOND / 10);
        patience.limit(60 * SECOND);
        assert_eq!(patience.wait(pending::<()>()).await, None);
        assert_eq!(patience.wait(ready(1)).await, None, "also for what is there");
    }
}
