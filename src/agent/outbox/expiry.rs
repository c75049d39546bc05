//! Messages expire on time, whether or not they are tried: a message may wait behind others, or for a token.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::state::Outbox;
use crate::agent::leading::Leading;

/// The interval at which the agent looks for expired messages. It does not depend on the time of the next expiry,
/// because the system clock may be set.
const INTERVAL: Duration = Duration::from_secs(5);
/// How many messages one commit marks as expired.
const BATCH: usize = 1000;

impl Outbox {
    /// Marks waiting messages as expired when their time is over, while this node leads, until `shutdown` is cancelled. Needs no
    /// token.
    pub async fn expire(self: Arc<Self>, shutdown: CancellationToken) {
        let mut is_failing = false;
        let mut leading = Leading::of(&**self.parts.store.inner());
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = leading.begins() => {}
            }
            match self.store_expired(BATCH).await {
                Ok(expired) => {
                    is_failing = false;
                    for message in &expired {
                        self.parts.metrics.send_attempted(&message.kind, "expired");
                        let reason = message.problem.as_deref().unwrap_or("it was not tried");
                        tracing::warn!(id = message.message, reason, "message not sent before it expired");
                    }
                    if expired.len() == BATCH {
                        tokio::task::yield_now().await;
                        continue;
                    }
                }
                // A store that fails for hours is reported once.
                Err(error) if !is_failing => {
                    tracing::warn!(%error, "expired messages not marked");
                    is_failing = true;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(INTERVAL) => {}
            }
        }
    }
}
