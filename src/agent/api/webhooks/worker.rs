//! The worker of a webhook. It posts letters one at a time and in their order. A letter is repeated until the receiver
//! accepts it, or the letter is set aside as a dead letter.
//!
//! The worker has no list of its own: it delivers the unacknowledged messages of the inbox. So nothing is lost at a
//! restart. Events it reads after its position. A letter is delivered at least once. It is delivered twice if the response or the acknowledgement was lost.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::broadcast,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    acceptance::{Acceptance, Position},
    dead_letters::{DeadLetter, DeadLetters},
    letter::Letter,
    post::{Failure, Fault, post},
    running::RunningWebhook,
};
use crate::agent::{
    agent::Agent,
    clock::{Millis, full_jitter, now},
    event::Event,
    store::{DeliveryQuery, StoreError},
};

/// The worker of a webhook.
pub(super) struct Worker {
    agent: Arc<Agent>,
    webhook: Arc<RunningWebhook>,
    acceptance: Arc<Acceptance>,
    dead: Arc<DeadLetters>,
    /// The cursors of the last message and of the last event that are behind the webhook.
    checked: i64,
    checked_event: i64,
    /// The kinds of events, each with the cursor of the last that happened before the webhook wanted it.
    kinds: BTreeMap<String, i64>,
    /// How many events are behind the webhook that its written position does not tell.
    unwritten: u32,
    /// Whether the next letter is an event, if there is one. Messages and events take turns.
    events_first: bool,
    /// The letter that was posted and not accepted.
    failing: Option<Failing>,
    /// The number of letters that were set aside since one was accepted, without messages of strangers.
    set_aside: u32,
}

/// A letter that was posted and not accepted.
struct Failing {
    letter: String,
    /// When the first attempt failed.
    since: Millis,
    attempts: u32,
    /// How many of the attempts were refused.
    refusals: u32,
    /// Whether the log says that there is no room to set the letter aside.
    is_full_logged: bool,
}

impl Failing {
    fn new(letter: String, since: Millis) -> Self {
        Self { letter, since, attempts: 0, refusals: 0, is_full_logged: false }
    }
}

/// The upper limit of the pause after the first failure, and of any pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(5 * 60);
/// The pause after a failure of the store.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// The interval at which the store is read if there is no event.
const READ_INTERVAL: Duration = Duration::from_secs(15);
/// How many events are behind the webhook before its position is written, if it has more to do.
const MAX_UNWRITTEN: u32 = 100;
/// How many events are read at once to skip them.
const PAGE_SIZE: usize = 1000;
/// The interval at which dead letters are removed whose messages are gone.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(60 * 60);

impl Worker {
    pub fn new(
        agent: Arc<Agent>,
        webhook: Arc<RunningWebhook>,
        acceptance: Arc<Acceptance>,
        dead: Arc<DeadLetters>,
    ) -> Self {
        Self {
            agent,
            webhook,
            acceptance,
            dead,
            checked: 0,
            checked_event: 0,
            kinds: BTreeMap::new(),
            unwritten: 0,
            events_first: false,
            failing: None,
            set_aside: 0,
        }
    }

    /// Posts letters until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.deliver_all() => {}
        }
        if self.unwritten > 0
            && let Err(error) = self.acceptance.write(self.webhook.name()).await
        {
            tracing::debug!(%error, "events of a webhook are repeated");
        }
    }

    async fn deliver_all(&mut self) {
        let mut events = self.agent.events();
        self.agent.store.unlocked().await;
        while let Err(error) = self.load().await {
            wait_for_store(&error).await;
        }
        let mut cleanup = Instant::now();
        loop {
            if cleanup.elapsed() >= CLEANUP_INTERVAL {
                cleanup = Instant::now();
                retry(|| self.dead.remove_finished(self.webhook.name())).await;
            }
            match self.next().await {
                Ok(Some(letter)) => self.deliver(letter).await,
                Ok(None) => {
                    self.write_position().await;
                    self.webhook.nothing_waits();
                    wait_for_event(&mut events).await;
                }
                Err(error) => wait_for_store(&error).await,
            }
        }
    }

    /// Reads where the webhook was when it stopped.
    async fn load(&mut self) -> Result<(), StoreError> {
        self.dead.load().await?;
        self.dead.remove_finished(self.webhook.name()).await?;
        let position = self.acceptance.load(self.webhook.name()).await?;
        self.checked = position.messages;
        self.begin_kinds(&position).await?;
        let begins = self.kinds.values().min().copied().unwrap_or(0);
        self.checked_event = position.events.max(begins);
        self.failing = position.failing.map(|(letter, since)| Failing::new(letter, since));
        Ok(())
    }

    /// Has the kinds of events that the webhook did not want before begin with the events that happen from now on.
    async fn begin_kinds(&mut self, position: &Position) -> Result<(), StoreError> {
        let wanted: Vec<&str> = self.webhook.webhook.options().event_kinds().collect();
        let new: Vec<&str> = wanted.iter().copied().filter(|kind| !position.kinds.contains_key(*kind)).collect();
        let mut last = position.events;
        while let Some(event) = self.agent.store().events(last, &new, PAGE_SIZE).await?.pop() {
            last = event.cursor;
        }
        let begin = |kind: &str| (kind.to_owned(), position.kinds.get(kind).copied().unwrap_or(last));
        self.kinds = wanted.into_iter().map(begin).collect();
        if self.kinds != position.kinds {
            self.acceptance.record_kinds(self.webhook.name(), &self.kinds).await?;
        }
        Ok(())
    }

    /// Returns the next letter.
    async fn next(&mut self) -> Result<Option<Letter>, StoreError> {
        if self.events_first
            && let Some(event) = self.next_event().await?
        {
            return Ok(Some(event));
        }
        match self.next_message().await? {
            None if !self.events_first => self.next_event().await,
            message => Ok(message),
        }
    }

    /// Returns the next message. It is read again for each attempt, since an application may have acknowledged it through the
    /// API.
    async fn next_message(&mut self) -> Result<Option<Letter>, StoreError> {
        let options = self.webhook.webhook.options();
        if !options.wants_messages() {
            return Ok(None);
        }
        loop {
            let query = DeliveryQuery { after: self.checked, limit: 1, ..DeliveryQuery::default() };
            let Some(message) = self.agent.store().deliveries(query).await?.pop() else { return Ok(None) };
            if options.wants_message(&message.kind) && !self.dead.contains(&options.name, &message.id) {
                return Ok(Some(Letter::Message(message)));
            }
            self.acceptance.pass(&options.name, &message);
            self.checked = message.cursor;
        }
    }

    async fn next_event(&mut self) -> Result<Option<Letter>, StoreError> {
        let options = self.webhook.webhook.options();
        if self.kinds.is_empty() {
            return Ok(None);
        }
        let kinds: Vec<&str> = self.kinds.keys().map(String::as_str).collect();
        loop {
            let found = self.agent.store().events(self.checked_event, &kinds, 1).await?.pop();
            let Some(event) = found else { return Ok(None) };
            let cursor = event.cursor;
            let is_old = self.kinds.get(&event.kind).is_some_and(|begin| cursor <= *begin);
            let letter = Letter::event(&self.agent, event)?;
            if !is_old && !self.dead.contains(&options.name, letter.id()) {
                return Ok(Some(letter));
            }
            self.acceptance.pass_event(&options.name, cursor);
            self.checked_event = cursor;
        }
    }

    /// Makes one attempt to deliver a letter. After a failed attempt waits until the next one is due.
    async fn deliver(&mut self, letter: Letter) {
        let body = match letter.body(&self.agent).await {
            Ok(body) => body,
            Err(error) => return wait_for_store(&error).await,
        };
        let RunningWebhook { webhook, client, .. } = &*self.webhook;
        match post(webhook, client, letter.id(), body).await {
            Ok(()) => self.accept(&letter).await,
            Err(failure) => self.fail(&letter, failure).await,
        }
    }

    async fn accept(&mut self, letter: &Letter) {
        self.agent.metrics.webhook_answered(self.webhook.name(), "accepted");
        match letter {
            Letter::Message(message) => {
                retry(|| self.acceptance.accepted(self.webhook.name(), message)).await;
                self.checked = message.cursor;
            }
            Letter::Event(_, event) => self.pass_event(event.cursor).await,
        }
        self.events_first = !self.events_first;
        (self.failing, self.set_aside) = (None, 0);
        if self.webhook.accepted() {
            let (webhook, host) = (self.webhook.name(), self.webhook.webhook.host());
            tracing::info!(webhook, host, "webhook accepts messages again");
        }
    }

    /// Records that an event is behind the webhook. This is not written for each event: after a crash, some are repeated.
    async fn pass_event(&mut self, cursor: i64) {
        self.acceptance.pass_event(self.webhook.name(), cursor);
        self.checked_event = cursor;
        self.unwritten += 1;
        if self.unwritten >= MAX_UNWRITTEN {
            self.write_position().await;
        }
    }

    async fn write_position(&mut self) {
        if self.unwritten > 0 {
            retry(|| self.acceptance.write(self.webhook.name())).await;
            self.unwritten = 0;
        }
    }

    async fn fail(&mut self, letter: &Letter, failure: Failure) {
        let (webhook, id, reason) = (self.webhook.clone(), letter.id(), &failure.problem);
        self.agent.metrics.webhook_answered(webhook.name(), failure.fault.name());
        if failure.fault != Fault::Gone {
            self.count_failure(id, failure.fault).await;
        }
        let of_stranger = self.is_of_stranger(letter).await;
        if of_stranger && failure.may_be_of_letter() {
            // Strangers can write any number of messages that fail. So these hold up no others, and take no room of theirs.
            self.set_aside(letter, &failure, of_stranger).await;
            return webhook.pause(failure.retry_after.unwrap_or_default()).await;
        }
        // Only the first failure in a row is a warning.
        match webhook.failed(failure.problem.clone()) {
            1 => {
                tracing::warn!(webhook = webhook.name(), id, reason, "webhook did not accept a message, and is retried")
            }
            failures => tracing::debug!(
                webhook = webhook.name(),
                id,
                reason,
                failures,
                "webhook did not accept a message, and is retried"
            ),
        }
        if failure.fault == Fault::Gone {
            tracing::warn!(
                webhook = webhook.name(),
                reason,
                "webhook is paused until `claviger webhook resume`, SIGHUP or a restart: the receiver wants no more"
            );
            self.agent.metrics.set_webhook_paused(webhook.name(), true);
            // The time of the pause does not count, also if a restart ends it.
            self.failing = None;
            retry(|| self.acceptance.record_failing(webhook.name(), None)).await;
            webhook.wait_for_resumption().await;
            self.agent.metrics.set_webhook_paused(webhook.name(), false);
            return;
        }
        if self.is_due(failure.fault) && (of_stranger || self.has_room()) {
            self.set_aside(letter, &failure, of_stranger).await;
        }
        let attempts = self.failing.as_ref().map_or(0, |failing| failing.attempts);
        // A receiver that refuses all letters gets them ever more slowly, so that few are set aside before a person looks.
        let pause = full_jitter(FIRST_PAUSE, MAX_PAUSE, attempts.saturating_add(self.set_aside));
        webhook.pause(pause.max(failure.retry_after.unwrap_or_default())).await;
    }

    /// Counts a failed attempt. The time of the first is written, so that it is not lost in a restart.
    async fn count_failure(&mut self, letter: &str, fault: Fault) {
        if self.failing.as_ref().is_none_or(|failing| failing.letter != letter) {
            let since = now();
            self.failing = Some(Failing::new(letter.to_owned(), since));
            retry(|| self.acceptance.record_failing(self.webhook.name(), Some((letter, since)))).await;
        }
        if let Some(failing) = &mut self.failing {
            failing.attempts = failing.attempts.saturating_add(1);
            failing.refusals = failing.refusals.saturating_add(u32::from(fault == Fault::Refused));
        }
    }

    /// Whether the letter that failed has been tried enough.
    fn is_due(&self, fault: Fault) -> bool {
        let options = self.webhook.webhook.options();
        self.failing.as_ref().is_some_and(|failing| match fault {
            Fault::Refused => failing.refusals >= options.refused_attempts,
            // After a start the receiver gets a chance, however long ago the first attempt was.
            Fault::Away => {
                let is_over = now().saturating_sub(failing.since) >= options.give_up;
                options.give_up > 0 && is_over && failing.attempts >= options.refused_attempts
            }
            Fault::Gone => false,
        })
    }

    /// Whether a letter may be set aside. If not, it is tried on: no letter is lost.
    fn has_room(&mut self) -> bool {
        let webhook = self.webhook.name();
        let has_room = self.dead.count_of_known(webhook) < self.webhook.webhook.options().max_dead_letters;
        if let Some(failing) = self.failing.as_mut().filter(|failing| !has_room && !failing.is_full_logged) {
            failing.is_full_logged = true;
            tracing::warn!(webhook, "letter is tried on: the webhook has `max_dead_letters` already");
        }
        has_room
    }

    async fn is_of_stranger(&self, letter: &Letter) -> bool {
        match letter {
            Letter::Message(message) => retry(|| self.agent.known_peers.is_of_stranger(message)).await,
            Letter::Event(..) => false,
        }
    }

    async fn set_aside(&mut self, letter: &Letter, failure: &Failure, of_stranger: bool) {
        let Some(Failing { since, attempts, .. }) = self.failing.take() else { return };
        let dead = DeadLetter {
            webhook: self.webhook.name().to_owned(),
            letter: letter.kept(),
            attempts,
            status: failure.status,
            problem: failure.problem.clone(),
            since,
            time: now(),
            of_stranger,
        };
        retry(|| self.dead.add(&dead)).await;
        match letter {
            Letter::Message(message) => {
                self.acceptance.pass(self.webhook.name(), message);
                self.checked = message.cursor;
            }
            Letter::Event(_, event) => self.pass_event(event.cursor).await,
        }
        self.events_first = !self.events_first;
        self.set_aside = self.set_aside.saturating_add(u32::from(!of_stranger));
        self.agent.metrics.webhook_answered(self.webhook.name(), "dead");
        let (id, reason) = (dead.id(), &dead.problem);
        match of_stranger {
            true => tracing::info!(id, reason, attempts, "letter of a stranger is set aside as a dead letter"),
            false => tracing::warn!(id, reason, attempts, "letter is set aside as a dead letter"),
        }
    }
}

/// Waits until something has happened, or the store is to be read anyway.
async fn wait_for_event(events: &mut broadcast::Receiver<Event>) {
    tokio::select! {
        _ = events.recv() => {}
        () = sleep(READ_INTERVAL) => {}
    }
}

/// Tries until the store answers. While it is sealed or does not answer, the receiver is not at fault.
pub(super) async fn retry<T, F: Future<Output = Result<T, StoreError>>>(mut attempt: impl FnMut() -> F) -> T {
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => wait_for_store(&error).await,
        }
    }
}

async fn wait_for_store(error: &StoreError) {
    tracing::debug!(%error, "webhook waits for the store");
    sleep(STORE_PAUSE).await;
}
