//! A running webhook: what its worker, the API and the metrics share.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    agent::{
        api::webhook::Webhook,
        clock::{Millis, now},
    },
    net::HttpClient,
};

/// A running webhook.
pub(in crate::agent::api) struct RunningWebhook {
    pub webhook: Webhook,
    pub(super) client: HttpClient,
    status: Mutex<Status>,
    /// Signals that the webhook is to go on.
    resumed: Notify,
    /// The ids of the dead letters that are to be posted again.
    resends: Mutex<BTreeSet<String>>,
    /// Signals that there are such letters.
    resend: Notify,
}

/// How a webhook is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::agent::api) struct Status {
    /// Whether the receiver wants no more letters.
    pub is_paused: bool,
    /// When the first of the failures in a row was.
    pub since: Option<Millis>,
    /// The number of failed attempts in a row.
    pub failures: u32,
    /// Why the last attempt failed.
    pub problem: Option<String>,
    /// When the next attempt is made.
    pub next_try: Option<Millis>,
}

impl RunningWebhook {
    pub fn new(webhook: Webhook, client: HttpClient) -> Self {
        Self {
            webhook,
            client,
            status: Mutex::default(),
            resumed: Notify::new(),
            resends: Mutex::default(),
            resend: Notify::new(),
        }
    }

    pub fn name(&self) -> &str {
        &self.webhook.options().name
    }

    pub fn status(&self) -> Status {
        self.lock().clone()
    }

    /// Ends the pause of a webhook, or its wait for the next attempt.
    pub fn resume(&self) {
        self.lock().is_paused = false;
        self.resumed.notify_one();
    }

    /// Has a dead letter posted again, soon.
    pub fn resend(&self, dead: String) {
        self.resends.lock().unwrap_or_else(PoisonError::into_inner).insert(dead);
        self.resend.notify_one();
    }

    /// Whether a dead letter is to be posted again.
    pub fn is_resent(&self, dead: &str) -> bool {
        self.resends.lock().unwrap_or_else(PoisonError::into_inner).contains(dead)
    }

    /// Waits for a dead letter to post again, and returns its id. It stays among those to post until
    /// [`Self::resent`].
    pub(super) async fn next_resend(&self) -> String {
        loop {
            let first = self.resends.lock().unwrap_or_else(PoisonError::into_inner).first().cloned();
            match first {
                Some(id) => return id,
                None => self.resend.notified().await,
            }
        }
    }

    /// Records that a dead letter was posted again.
    pub(super) fn resent(&self, dead: &str) {
        self.resends.lock().unwrap_or_else(PoisonError::into_inner).remove(dead);
    }

    /// Records that the receiver has accepted a letter. Returns whether the attempt before had failed.
    pub(super) fn accepted(&self) -> bool {
        std::mem::take(&mut *self.lock()).failures > 0
    }

    /// Records that no letter waits. The failures before are past.
    pub(super) fn nothing_waits(&self) {
        *self.lock() = Status::default();
    }

    /// Forgets how the webhook was doing, because another node posts from now on.
    pub(super) fn leave(&self) {
        *self.lock() = Status::default();
        self.resends.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Records a failed attempt. Returns the number of failures in a row.
    pub(super) fn failed(&self, problem: String) -> u32 {
        let mut status = self.lock();
        status.failures = status.failures.saturating_add(1);
        status.since.get_or_insert_with(now);
        status.problem = Some(problem);
        status.failures
    }

    /// Waits before the next attempt, or until the webhook is resumed.
    pub(super) async fn pause(&self, pause: Duration) {
        self.lock().next_try = Some(now().saturating_add(Millis::try_from(pause.as_millis()).unwrap_or(Millis::MAX)));
        let _ = tokio::time::timeout(pause, self.resumed.notified()).await;
        self.lock().next_try = None;
    }

    /// Waits until the webhook is resumed.
    pub(super) async fn wait_for_resumption(&self) {
        self.lock().is_paused = true;
        while self.lock().is_paused {
            self.resumed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
