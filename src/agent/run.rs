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
    give_label::record_labels,
    leading::Leading,
    server::{QrCodes, Server, ServerContext, SharedLimits},
    stale::Part,
};

/// The interval at which the agent tries to unlock a sealed store. It also tries whenever the state of a key changes.
const UNLOCK_INTERVAL: Duration = Duration::from_secs(5);
/// How long a token may take to get ready before a warning says that the store is sealed.
const TOKEN_START_TIME: Duration = Duration::from_secs(30);
/// The interval at which expired data is deleted, and how many rows one commit deletes.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(60);
const CLEANUP_BATCH: usize = 1000;

impl Agent {
    /// Runs the agent, and serves peers on `servers`, until `shutdown` is cancelled. Then waits until running work has
    /// finished. Cancels `shutdown` itself if it fails.
    ///
    /// # Errors
    /// If the store fails, a listening socket cannot be used, or a task panics.
    pub async fn run(self: &Arc<Self>, servers: Vec<Server>, shutdown: CancellationToken) -> io::Result<()> {
        self.blocked.load().await.map_err(io::Error::other)?;
        self.shared_dids.begin().await.map_err(io::Error::other)?;
        let context = Arc::new(ServerContext {
            inbox: self.inbox.clone(),
            outbox: self.outbox.clone(),
            routes: self.routes.clone(),
            own_dids: self.own_dids.clone(),
            invitations: self.invitations.clone(),
            metrics: self.metrics.clone(),
            limits: SharedLimits::default(),
            qr_codes: QrCodes::default(),
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
        work.spawn(self.clone().record_token_changes(shutdown.clone()));
        work.spawn(self.clone().read_stale(shutdown.clone()));
        work.spawn(self.clone().show_ready(shutdown.clone()));
        work.spawn(self.inbox.clone().work(shutdown.clone()));
        work.spawn(self.outbox.clone().work(shutdown.clone()));
        work.spawn(self.outbox.clone().expire(shutdown.clone()));
        work.spawn(self.mediation.clone().run(shutdown.clone()));
        let mut result = Ok(());
        // An agent that has lost a part ends, so that it is started again, and says why.
        loop {
            let lost = tokio::select! {
                Some(ended) = serving.join_next() => ended.unwrap_or_else(|error| Err(io::Error::other(error))),
                Some(ended) = work.join_next() => match ended {
                    Ok(()) if !shutdown.is_cancelled() => Err(io::Error::other("a task returned before the shutdown")),
                    ended => ended.map_err(io::Error::other),
                },
                else => return result,
            };
            if let Err(error) = lost {
                tracing::error!(%error, "agent shuts down: one of its tasks failed");
                result = Err(error);
                shutdown.cancel();
            }
        }
    }

    /// Unlocks the store as soon as a token is ready. Afterwards wraps the store key for each further key that becomes
    /// ready.
    async fn unlock_store(self: Arc<Self>, shutdown: CancellationToken) {
        let start = Instant::now();
        let mut logged = String::new();
        let mut keys = self.own_dids.secrets().keys();
        self.refresh_own_dids();
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
                () = self.store.unlocked(), if !self.store.is_unlocked() => {}
                Ok(()) = keys.changed() => self.refresh_own_dids(),
            }
        }
        tracing::info!("store unlocked");
        self.stale.mark(Part::OwnDids);
        if let Err(error) = record_labels(&self.store).await {
            tracing::warn!(%error, "labels of an older release not recorded: `claviger connections label` sets one again");
        }
        // A token that appears later must be able to unlock the store too, in case the first token is lost.
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = keys.changed() => match changed {
                    Ok(()) => self.refresh_own_dids(),
                    // The keys do not change any more.
                    Err(_) => return shutdown.cancelled().await,
                },
            }
            if let Err(reason) = self.store.unlock(&self.own_dids).await {
                tracing::info!(reason, "store key not wrapped for the current keys");
            }
        }
    }

    /// Looks up again which of our keys the tokens hold. Logs the DIDs that are refused since, or no longer.
    fn refresh_own_dids(&self) {
        self.own_dids.refresh();
        self.own_dids.log_refused();
    }

    /// Retires DIDs whose overlap is over, which each node does for itself. Deletes expired data from the store, if this node
    /// leads.
    async fn delete_expired(self: Arc<Self>, shutdown: CancellationToken) {
        let mut leading = Leading::of(&**self.store.inner());
        loop {
            self.rotations.retire_expired().await;
            let leads = leading.is_now();
            if leads && self.delete_some_expired().await {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(CLEANUP_INTERVAL) => {}
                () = leading.begins(), if !leads => {}
            }
        }
    }

    /// Deletes a batch of expired data. Returns whether there may be more.
    async fn delete_some_expired(&self) -> bool {
        let retention = *self.retention.borrow();
        if self.inbox.expire_envelopes(retention.envelopes, CLEANUP_BATCH).await >= CLEANUP_BATCH {
            return true;
        }
        match self.store.inner().delete_expired(now(), &retention, CLEANUP_BATCH).await {
            Ok(deleted) => deleted >= CLEANUP_BATCH,
            Err(error) => {
                tracing::warn!(%error, "expired data not deleted");
                false
            }
        }
    }
}
