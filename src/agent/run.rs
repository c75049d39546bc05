//! The tasks of a running agent.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    agent::Agent,
    clock::now,
    server::{MessageRateLimiter, Server, ServerContext},
};

/// The interval at which the agent tries to unlock a sealed store. It also tries whenever the state of a key changes.
const UNLOCK_INTERVAL: Duration = Duration::from_secs(5);
/// How long a token may take to get ready before a warning says that the store is sealed.
const TOKEN_START_TIME: Duration = Duration::from_secs(10);
/// The interval at which expired data is deleted, and how many rows one commit deletes.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(60);
const CLEANUP_BATCH: usize = 1000;

impl Agent {
    /// Runs the agent, and serves peers on `servers`, until `shutdown` is cancelled. Then waits until running work has
    /// finished.
    ///
    /// # Errors
    /// If a listening socket cannot be used.
    pub async fn run(self: &Arc<Self>, servers: Vec<Server>, shutdown: CancellationToken) -> io::Result<()> {
        let context = Arc::new(ServerContext {
            inbox: self.inbox.clone(),
            outbox: self.outbox.clone(),
            routes: self.routes.clone(),
            own_dids: self.own_dids.clone(),
            invitations: self.invitations.clone(),
            metrics: self.metrics.clone(),
            message_rate: MessageRateLimiter::default(),
            bytes: Arc::default(),
            max_message_bytes: self.max_message_bytes(),
            shutdown: shutdown.clone(),
            options: self.server.subscribe(),
        });
        let mut serving = JoinSet::new();
        for server in servers {
            serving.spawn(server.run(context.clone(), shutdown.clone()));
        }
        let mut work = JoinSet::new();
        work.spawn(self.clone().unlock_store(shutdown.clone()));
        work.spawn(self.clone().delete_expired(shutdown.clone()));
        work.spawn(self.inbox.clone().work(shutdown.clone()));
        work.spawn(self.outbox.clone().work(shutdown.clone()));
        work.spawn(self.outbox.clone().expire(shutdown.clone()));
        work.spawn(self.mediation.clone().run(shutdown.clone()));
        let mut result = Ok(());
        while let Some(ended) = serving.join_next().await {
            if let Ok(Err(error)) = ended {
                result = Err(error);
            }
        }
        while work.join_next().await.is_some() {}
        result
    }

    /// Unlocks the store as soon as a token is ready. Afterwards wraps the store key for each further key that becomes
    /// ready.
    async fn unlock_store(self: Arc<Self>, shutdown: CancellationToken) {
        let start = Instant::now();
        let mut logged = String::new();
        let mut keys = self.own_dids.secrets().keys();
        while let Err(reason) = self.store.unlock(&self.own_dids).await {
            if start.elapsed() < TOKEN_START_TIME {
                tracing::debug!(reason, "store waits for a token");
            } else if reason != logged {
                tracing::warn!(reason, "store is sealed");
                logged = reason;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(UNLOCK_INTERVAL) => {}
                Ok(()) = keys.changed() => self.own_dids.refresh(),
            }
        }
        tracing::info!("store unlocked");
        // A token that appears later must be able to unlock the store too, in case the first token is lost.
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = keys.changed() => match changed {
                    Ok(()) => self.own_dids.refresh(),
                    Err(_) => return,
                },
            }
            if let Err(reason) = self.store.unlock(&self.own_dids).await {
                tracing::info!(reason, "store key not wrapped for the current keys");
            }
        }
    }

    /// Deletes expired data from the store, and retires DIDs whose overlap is over. An envelope that no token opened in
    /// time is deleted without a log line.
    async fn delete_expired(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            self.rotations.retire_expired().await;
            let retention = *self.retention.borrow();
            match self.store.inner().delete_expired(now(), &retention, CLEANUP_BATCH).await {
                // More rows may have expired.
                Ok(deleted) if deleted >= CLEANUP_BATCH => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "expired data not deleted"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(CLEANUP_INTERVAL) => {}
            }
        }
    }
}
