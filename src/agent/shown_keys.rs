//! Tells the other nodes which of our keys the tokens of this node have ready, so that each does what its tokens can do.
//!
//! A key that is ready again is shown at once. One that is away is shown for a while longer: a token that fails over, or a keeper
//! that starts again, needs some seconds, and what waits here would lose its return routes elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::agent::Agent;

/// How long a key that is away is shown.
const AWAY_TIME: Duration = Duration::from_secs(10);
/// The pause after a failure of the store.
const PAUSE: Duration = Duration::from_secs(1);

/// What was ready lately.
#[derive(Default)]
struct Recent {
    /// Since when each of these is away; `None` if it is ready.
    away_since: BTreeMap<i64, Option<Instant>>,
}

impl Recent {
    /// Notes what is ready now. Returns what is to be shown, and when that is over for something that is away.
    fn note(&mut self, ready: &BTreeSet<i64>, now: Instant) -> (Vec<i64>, Option<Instant>) {
        for (hash, since) in &mut self.away_since {
            *since = if ready.contains(hash) { None } else { since.or(Some(now)) };
        }
        self.away_since.extend(ready.iter().map(|hash| (*hash, None)));
        self.away_since.retain(|_, since| since.is_none_or(|since| now < since + AWAY_TIME));
        let next = self.away_since.values().flatten().min().map(|since| *since + AWAY_TIME);
        (self.away_since.keys().copied().collect(), next)
    }
}

impl Agent {
    /// Shows the other nodes what is ready, until `shutdown` is cancelled.
    pub(super) async fn show_ready(self: Arc<Self>, shutdown: CancellationToken) {
        let (mut keys, mut dids) = (self.own_dids.secrets().keys(), self.own_dids.changes());
        let (mut recent, mut shown, mut is_failing) = (Recent::default(), Vec::new(), false);
        // False once nothing reports changes any more: the keys are then what they are.
        let mut may_change = true;
        loop {
            keys.borrow_and_update();
            dids.borrow_and_update();
            let is_unlocked = self.store.is_unlocked();
            // A node without the store's key can handle no message.
            let ready = if is_unlocked { self.own_dids.ready_hashes() } else { BTreeSet::new() };
            let (current, next) = recent.note(&ready, Instant::now());
            if current != shown {
                match self.store.inner().show_ready(&current).await {
                    Ok(()) => {
                        (shown, is_failing) = (current, false);
                        // What waits elsewhere for peers that are connected here may be sent from here now.
                        self.outbox.wake_connected();
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut is_failing, true) {
                            tracing::warn!(%error, "ready keys not shown to the other nodes");
                        }
                        tokio::select! {
                            () = shutdown.cancelled() => return,
                            () = sleep(PAUSE) => continue,
                        }
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = keys.changed(), if may_change => may_change = changed.is_ok(),
                _ = dids.changed() => {}
                () = self.store.unlocked(), if !is_unlocked => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_away_for_a_moment_is_shown_on() {
        let (mut recent, start) = (Recent::default(), Instant::now());
        let mut note = |ready: &[i64], seconds| {
            let (shown, next) = recent.note(&ready.iter().copied().collect(), start + Duration::from_secs(seconds));
            (shown, next.map(|next| (next - start).as_secs()))
        };
        assert_eq!(note(&[], 0), (vec![], None));
        assert_eq!(note(&[1, 2], 1), (vec![1, 2], None));
        assert_eq!(note(&[2], 2), (vec![1, 2], Some(12)));
        assert_eq!(note(&[], 5), (vec![1, 2], Some(12)));
        assert_eq!(note(&[1], 11), (vec![1, 2], Some(15)));
        assert_eq!(note(&[1, 3], 15), (vec![1, 3], None));
        assert_eq!(note(&[], 20), (vec![1, 3], Some(30)));
        assert_eq!(note(&[], 30), (vec![], None));
    }
}
