//! The conversations with the mediators: one task for each, which registers our DIDs and fetches messages.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
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
    deliveries::Accepted,
    error::MediationError,
    mediator::{Mediator, MediatorState},
    plan::{Pause, Plan, Reached, Registration},
    service::{MAX_COMMIT_ATTEMPTS, MAX_MEDIATORS, Mediation},
    session::Session,
};
use crate::agent::{
    clock::full_jitter,
    leading::Leading,
    sealed_store::SealedStore,
    store::{StoreError, types::CommitOutcome},
};

/// The longest interval at which a mediator with live delivery is asked for messages that it may have missed. The interval
/// at which a missing WebSocket is tried again, and at which the list of mediators is read again.
const CHECK_INTERVAL: Duration = Duration::from_secs(300);
/// The pause before the first retry, and the longest pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(120);
/// How often in a row the pause grows after conversations that began well.
const MAX_FAULTS: u32 = 5;
/// How many fetches that live delivery should have made needless bring messages, before the mediator is polled.
const MAX_MISSED: usize = 2;

impl Mediation {
    /// Fetches messages from all mediators while this node leads, until `shutdown`: a mediator that delivers a message to one
    /// node has none for the others.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        tokio::select! {
            () = self.parts.store.unlocked() => {}
            () = shutdown.cancelled() => return,
        }
        let mut leading = Leading::of(&**self.parts.store.inner());
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = leading.begins() => {}
                () = shutdown.cancelled() => return,
            }
            let stop = shutdown.child_token();
            let mut serving = pin!(self.clone().serve_all(stop.clone()));
            tokio::select! {
                () = &mut serving => {}
                () = leading.ends() => {
                    stop.cancel();
                    serving.await;
                }
            }
        }
    }

    /// Fetches messages from all mediators until `shutdown`.
    async fn serve_all(self: Arc<Self>, shutdown: CancellationToken) {
        let mut changes = self.changes.subscribe();
        let mut served: HashMap<Id, String> = HashMap::new();
        let mut tasks = JoinSet::new();
        loop {
            changes.borrow_and_update();
            match self.parts.store.list::<Mediator>("", MAX_MEDIATORS).await {
                Ok(all) => {
                    for (key, mediator) in all {
                        let key = match self.canonical_key(key, &mediator).await {
                            Ok(key) => key,
                            Err(error) => {
                                tracing::warn!(%error, "mediator of an earlier release not read");
                                continue;
                            }
                        };
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
                    Ok((task, ())) => {
                        served.remove(&task);
                        sleep(FIRST_PAUSE).await;
                    }
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

    /// Returns the key of a mediator's record, and moves a record of a release that wrote the escapes of a DID as they came.
    async fn canonical_key(&self, key: String, mediator: &Mediator) -> Result<String, StoreError> {
        let canonical = Mediator::key(&key).into_owned();
        if canonical != key {
            let store = &self.parts.store;
            let delete = || SealedStore::delete_change::<Mediator>(&key);
            let moved = vec![store.put_change(&canonical, mediator, 0, None)?, delete()];
            if store.commit_changes(moved).await? == CommitOutcome::Conflict {
                store.commit_changes(vec![delete()]).await?;
            }
        }
        Ok(canonical)
    }

    /// Converses with one mediator for as long as the store has its record.
    async fn serve(self: Arc<Self>, key: String, shutdown: CancellationToken) {
        let mut failures = 0;
        let mut plan = Plan::new(self.transport());
        let mut changes = self.changes.subscribe();
        let mut keys = self.parts.own_dids.secrets().keys();
        while !shutdown.is_cancelled() {
            changes.borrow_and_update();
            keys.borrow_and_update();
            let mut reached = Reached::Nothing;
            let ended = match self.find(&key).await {
                Ok(None) => break,
                Ok(Some(mediator)) => tokio::select! {
                    ended = self.converse(mediator, plan, &mut changes, &mut reached) => ended,
                    // Cancelling loses nothing: the mediator keeps every message that was not acknowledged.
                    () = shutdown.cancelled() => break,
                },
                Err(error) => Err(error.into()),
            };
            // A mediator that misbehaves later is asked less often, but not too seldom: a stranger may have caused it.
            let is_at_fault = matches!(ended, Err(MediationError::Unusable(_) | MediationError::Denied(_)));
            failures = match reached == Reached::Queue {
                true if is_at_fault => (failures + 1).min(MAX_FAULTS),
                true => 0,
                false => failures + 1,
            };
            plan = plan.after(ended.as_ref().err(), reached, self.transport());
            let Err(error) = ended else { continue };
            tracing::info!(%error, mediator = key, "conversation with mediator failed, and is retried");
            self.set_state(&key, MediatorState::Unreachable(error.to_string()), None);
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

    /// Holds one conversation. Returns `Ok` when the mediator is removed, and when it is time to try something else again.
    async fn converse(
        &self,
        mediator: Mediator,
        plan: Plan,
        changes: &mut watch::Receiver<u64>,
        reached: &mut Reached,
    ) -> Result<(), MediationError> {
        let mut session = self.open_session(&mediator, plan.transport).await?;
        if session.is_websocket() {
            *reached = Reached::Socket;
        }
        // All DIDs are registered again in each conversation, since the mediator may have lost them.
        let registration = match self.update_keylist(&mut session, &mediator.did, true).await {
            Err(MediationError::Denied(reason)) => {
                renew(&mut session, &mediator, reason).await?;
                self.update_keylist(&mut session, &mediator.did, true).await?
            }
            updated => updated?,
        };
        let Some(mut registration) = registration else { return Ok(()) };
        let mut live = session.is_websocket() && session.enable_live_delivery().await?;
        let mut fetched = match plan.max_delivery {
            0 if live => Accepted::default(),
            count => session.fetch_all(count.max(1)).await?,
        };
        *reached = Reached::Queue;
        tracing::info!(mediator = mediator.did, live, "mediator connected");
        let start = Instant::now();
        let mut pause = Pause::new(self.options.poll_interval);
        let mut missed = 0;
        // A mediator that does not deliver live is soon found.
        let mut interval = match live {
            true => self.options.poll_interval.min(CHECK_INTERVAL),
            false => self.options.poll_interval,
        };
        let mut next_fetch = start + interval;
        loop {
            self.show(&mediator, live, missed >= MAX_MISSED, &registration, plan, &fetched)?;
            let mut is_due = false;
            tokio::select! {
                _ = changes.changed() => match self.update_keylist(&mut session, &mediator.did, false).await? {
                    Some(updated) => registration = updated,
                    None => break,
                },
                frame = session.receive(), if session.is_websocket() => session.handle_frame(frame?).await?,
                () = tokio::time::sleep_until(next_fetch) => is_due = true,
            }
            if plan.max_delivery == 0 {
                session.has_more = false;
                next_fetch = start + CHECK_INTERVAL;
            } else if is_due || (session.has_more && pause.is_over()) {
                let had_held = fetched.held > 0;
                fetched = session.fetch_all(plan.max_delivery).await?;
                pause.begin(fetched.fresh > 0);
                let is_missed = is_due && live && !had_held && fetched.stored > 0;
                missed += usize::from(is_missed);
                live &= missed < MAX_MISSED;
                interval = match live && !is_missed && fetched.held == 0 {
                    true => (2 * interval).min(CHECK_INTERVAL),
                    false => self.options.poll_interval,
                };
                next_fetch = Instant::now() + interval;
            }
            if session.has_more {
                next_fetch = next_fetch.min(pause.end());
            }
            if start.elapsed() >= CHECK_INTERVAL && plan.is_makeshift(self.transport(), session.is_websocket()) {
                break;
            }
        }
        session.close().await;
        Ok(())
    }

    /// Records the state of a conversation, and what the mediator lacks.
    ///
    /// # Errors
    /// If the mediator registers none of our DIDs: nothing can come then.
    fn show(
        &self,
        mediator: &Mediator,
        live: bool,
        lacks_live: bool,
        registration: &Registration,
        plan: Plan,
        fetched: &Accepted,
    ) -> Result<(), MediationError> {
        let Registration { wanted, missing, .. } = *registration;
        let mut problems = Vec::new();
        if missing > 0 {
            let problem = format!("it registers {} of our {wanted} DIDs: {}", wanted - missing, registration.reason());
            if missing == wanted {
                return Err(MediationError::Denied(problem));
            }
            problems.push(problem);
        }
        if lacks_live {
            problems.push("it accepts live delivery, and messages come only when they are asked for".to_owned());
        }
        if plan.max_delivery == 0 {
            problems.push(
                "it sends more bytes at once than max_delivery_bytes, although it is asked for one message: only new \
                 messages come"
                    .to_owned(),
            );
        }
        if let Some(reason) = &fetched.reason {
            problems.push(format!("{} messages wait at the mediator: {reason}", fetched.held));
        }
        let state = if live { MediatorState::Live } else { MediatorState::Polling };
        self.set_state(&mediator.did, state, Some(problems.join("; ")).filter(|text| !text.is_empty()));
        Ok(())
    }

    /// Registers our DIDs whose service names the mediator, and removes other DIDs. With `all`, DIDs that are
    /// registered already are registered again. Returns `None` if the mediator was removed.
    async fn update_keylist(
        &self,
        session: &mut Session<'_>,
        did: &str,
        all: bool,
    ) -> Result<Option<Registration>, MediationError> {
        let _guard = self.keylist_update.lock().await;
        let Some(mediator) = self.find(did).await? else { return Ok(None) };
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
            return Ok(Some(Registration::default()));
        }
        let (added, result) = session.update_keylist(&add, &remove).await?;
        let changed: HashSet<&String> = add.iter().chain(&remove).collect();
        let is_unchanged = |name: &&String| !changed.contains(*name);
        let mut registered: Vec<String> = mediator.registered.iter().filter(is_unchanged).cloned().collect();
        registered.extend(added);
        registered.sort();
        let is_missing = |name: &&String| !registered.contains(*name);
        let missing = wanted.iter().filter(is_missing).count();
        let registration = Registration { wanted: wanted.len(), missing, result };
        if registered == mediator.registered {
            return Ok(Some(registration));
        }
        let key = &*Mediator::key(&mediator.did);
        for _ in 0..MAX_COMMIT_ATTEMPTS {
            let Some((stored, revision)) = self.parts.store.get::<Mediator>(key).await? else {
                // Another node has removed the mediator meanwhile, and perhaps told it so before this update.
                session.update_keylist(&[], &registered).await?;
                return Ok(None);
            };
            let updated = Mediator { registered: registered.clone(), ..stored };
            if self.parts.store.put(key, &updated, revision).await? {
                return Ok(Some(registration));
            }
        }
        // The next conversation registers all DIDs again, and records the result.
        Err(StoreError::Unavailable("the mediator's record is changed concurrently".to_owned()).into())
    }
}

/// Asks for mediation again, since the mediator has refused a keylist update for this reason: it may have lost what it had
/// granted.
async fn renew(session: &mut Session<'_>, mediator: &Mediator, reason: String) -> Result<(), MediationError> {
    match session.request_mediation(true).await {
        Ok(Some(routing_dids)) if mediator.routing_dids.iter().all(|did| routing_dids.contains(did)) => Ok(()),
        Ok(Some(_)) => Err(MediationError::Unusable(
            "it has forgotten this agent, and grants mediation with other routing DIDs: leave it with --force, and use \
             it again"
                .to_owned(),
        )),
        Ok(None) | Err(MediationError::Denied(_) | MediationError::Unreachable(_)) => {
            Err(MediationError::Denied(reason))
        }
        Err(error) => Err(error),
    }
}
