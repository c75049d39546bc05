//! The conversations with the mediators: one task for each, which registers our DIDs and fetches messages.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{Id, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    error::MediationError,
    mediator::{Mediator, MediatorState},
    service::{MAX_COMMIT_ATTEMPTS, MAX_DELIVERY, MAX_MEDIATORS, Mediation},
    session::Session,
};
use crate::agent::{clock::full_jitter, store::StoreError};

/// The interval at which a mediator with live delivery is asked for messages that it may have missed, at which a
/// missing WebSocket is tried again, and at which the list of mediators is read again.
const CHECK_INTERVAL: Duration = Duration::from_secs(300);
/// The pause before the first retry, and the longest pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(120);

impl Mediation {
    /// Fetches messages from all mediators until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        tokio::select! {
            () = self.parts.store.unlocked() => {}
            () = shutdown.cancelled() => return,
        }
        let mut changes = self.changes.subscribe();
        let mut served: HashMap<Id, String> = HashMap::new();
        let mut tasks = JoinSet::new();
        loop {
            changes.borrow_and_update();
            match self.parts.store.list::<Mediator>("", MAX_MEDIATORS).await {
                Ok(all) => {
                    for (key, _) in all {
                        if !served.values().any(|other| *other == key) {
                            let task = tasks.spawn(self.clone().serve(key.clone(), shutdown.clone()));
                            served.insert(task.id(), key);
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "mediators not read"),
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = changes.changed() => {}
                Some(ended) = tasks.join_next_with_id(), if !tasks.is_empty() => match ended {
                    Ok((task, ())) => drop(served.remove(&task)),
                    Err(error) => {
                        tracing::error!(%error, "mediator task panicked, and is restarted");
                        served.remove(&error.id());
                        sleep(FIRST_PAUSE).await;
                    }
                },
                () = sleep(CHECK_INTERVAL) => {}
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Converses with one mediator for as long as the store has its record.
    async fn serve(self: Arc<Self>, key: String, shutdown: CancellationToken) {
        let mut failures = 0;
        let mut max_delivery = MAX_DELIVERY;
        let mut changes = self.changes.subscribe();
        let mut keys = self.parts.own_dids.secrets().keys();
        while !shutdown.is_cancelled() {
            changes.borrow_and_update();
            keys.borrow_and_update();
            let mut is_established = false;
            let ended = match self.find(&key).await {
                Ok(None) => break,
                Ok(Some(mediator)) => tokio::select! {
                    ended = self.converse(mediator, max_delivery, &mut changes, &mut is_established) => ended,
                    // Cancelling loses nothing: the mediator keeps every message that was not acknowledged.
                    () = shutdown.cancelled() => break,
                },
                Err(error) => Err(error.into()),
            };
            failures = if is_established { 0 } else { failures + 1 };
            if is_established {
                // Messages that were too large for one delivery have been fetched one by one.
                max_delivery = MAX_DELIVERY;
            }
            let Err(error) = ended else { continue };
            tracing::info!(%error, mediator = key, "conversation with mediator failed, and is retried");
            if let MediationError::TooLarge(_) = error {
                max_delivery = 1;
            }
            self.set_state(&key, MediatorState::Unreachable(error.to_string()));
            let needs_token = matches!(error, MediationError::TokenUnavailable(_));
            let pause = full_jitter(FIRST_PAUSE, MAX_PAUSE, failures.max(1));
            tokio::select! {
                () = shutdown.cancelled() => {}
                _ = changes.changed() => {}
                Ok(()) = keys.changed(), if needs_token => self.parts.own_dids.refresh(),
                () = sleep(pause) => {}
            }
        }
        self.clear_state(&key);
    }

    /// Holds one conversation. Returns `Ok` when the mediator is removed, and when it is time to try the WebSocket
    /// again. `is_established` is set once our DIDs are registered and the queue is fetched.
    async fn converse(
        &self,
        mediator: Mediator,
        max_delivery: usize,
        changes: &mut watch::Receiver<u64>,
        is_established: &mut bool,
    ) -> Result<(), MediationError> {
        let mut session = self.open_session(&mediator, self.options.websocket).await?;
        // All DIDs are registered again in each conversation, since the mediator may have lost them.
        self.update_keylist(&mut session, &mediator.did, true).await?;
        let live = session.is_websocket() && session.enable_live_delivery().await?;
        session.fetch_all(max_delivery).await?;
        *is_established = true;
        self.set_state(&mediator.did, if live { MediatorState::Live } else { MediatorState::Polling });
        tracing::info!(mediator = mediator.did, live, "mediator connected");
        let interval = if live { CHECK_INTERVAL } else { self.options.poll_interval };
        let start = Instant::now();
        let mut next_fetch = start + interval;
        loop {
            tokio::select! {
                _ = changes.changed() => {
                    if !self.update_keylist(&mut session, &mediator.did, false).await? {
                        break;
                    }
                }
                frame = session.receive(), if session.is_websocket() => session.handle_frame(frame?).await?,
                () = tokio::time::sleep_until(next_fetch) => {
                    session.fetch_all(max_delivery).await?;
                    next_fetch = Instant::now() + interval;
                }
            }
            if std::mem::take(&mut session.has_more) {
                session.fetch_all(max_delivery).await?;
            }
            if self.options.websocket && !session.is_websocket() && start.elapsed() > CHECK_INTERVAL {
                break;
            }
        }
        session.close().await;
        Ok(())
    }

    /// Registers our DIDs whose service names the mediator, and removes other DIDs. With `all`, DIDs that are
    /// registered already are registered again. Returns false if the mediator was removed.
    async fn update_keylist(&self, session: &mut Session<'_>, did: &str, all: bool) -> Result<bool, MediationError> {
        let _guard = self.keylist_update.lock().await;
        let Some(mediator) = self.find(did).await? else { return Ok(false) };
        let own_dids = &self.parts.own_dids;
        let wanted = own_dids.routed_through(&mediator.routing_dids);
        let known: HashSet<&String> = mediator.registered.iter().collect();
        let is_registered = |name: &&String| known.contains(*name);
        let add: Vec<String> = wanted.iter().filter(|name| all || !is_registered(name)).cloned().collect();
        // A DID that is not known to be ours, because its token is unavailable, stays registered.
        let all_wanted: HashSet<&String> = wanted.iter().collect();
        let stays = |name: &&String| all_wanted.contains(*name) || own_dids.may_be_own(name);
        let remove: Vec<String> = mediator.registered.iter().filter(|name| !stays(name)).cloned().collect();
        if add.is_empty() && remove.is_empty() {
            return Ok(true);
        }
        let added = session.update_keylist(&add, &remove).await?;
        let changed: HashSet<&String> = add.iter().chain(&remove).collect();
        let is_unchanged = |name: &&String| !changed.contains(*name);
        let mut registered: Vec<String> = mediator.registered.iter().filter(is_unchanged).cloned().collect();
        registered.extend(added);
        registered.sort();
        if registered == mediator.registered {
            return Ok(true);
        }
        let key = Mediator::key(&mediator.did);
        for _ in 0..MAX_COMMIT_ATTEMPTS {
            let Some((stored, revision)) = self.parts.store.get::<Mediator>(key).await? else { return Ok(false) };
            let updated = Mediator { registered: registered.clone(), ..stored };
            if self.parts.store.put(key, &updated, revision).await? {
                return Ok(true);
            }
        }
        // The next conversation registers all DIDs again, and records the result.
        Err(StoreError::Unavailable("the mediator's record is changed concurrently".to_owned()).into())
    }
}
