//! Fail-over: combines several implementations of [`Secrets`], and decides after which failures the next is asked.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::{sync::watch, task::AbortHandle};

use super::{
    context::Context,
    error::{Cause, SecretsError},
    held_key::HeldKeys,
    interface::Secrets,
    request::{UnwrapRequest, WrapRequest},
    signing::{SignRequest, Signature},
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
};

/// Whether another holder of the key is asked after this failure.
///
/// No other holder is asked after a failure that is the peer's fault: a hostile message fails with every holder. An
/// operation that may have asked a person for a PIN or a touch (`asks_person`) is not repeated, unless the token is
/// away or its PIN is refused. What one token cannot do, another may: so a permanent failure is passed on too.
pub(super) fn allows_failover(error: &SecretsError, asks_person: bool) -> bool {
    match error {
        SecretsError::NotHeld(_) | SecretsError::Busy { .. } | SecretsError::Stopped => true,
        SecretsError::Interrupted { .. } => !asks_person,
        SecretsError::Token { error, .. } => match error.cause() {
            Cause::TokenGone | Cause::Pin => true,
            Cause::Transient | Cause::SessionLost | Cause::Unknown | Cause::Permanent => !asks_person,
            Cause::Peer => false,
        },
        SecretsError::NotAllowed { .. }
        | SecretsError::InvalidRequest(_)
        | SecretsError::DeadlineExceeded { .. }
        | SecretsError::RateLimited(_)
        | SecretsError::AuditFailed(_) => false,
    }
}

/// Several implementations of [`Secrets`] as one: keepers, keyrings, or both.
///
/// If several hold the same key, the first that is available performs the operation.
pub struct FailoverSecrets {
    holders: Vec<Arc<dyn Secrets>>,
    keys: watch::Sender<HeldKeys>,
    /// One task for each holder; it follows the changes of the holder's keys.
    followers: Vec<AbortHandle>,
}

impl FailoverSecrets {
    /// Combines `holders`, which are asked in this order. Must be called on a tokio runtime, where it starts a task for
    /// each holder.
    pub fn new(holders: impl IntoIterator<Item = Arc<dyn Secrets>>) -> Self {
        let holders: Vec<_> = holders.into_iter().collect();
        let receivers: Arc<[watch::Receiver<HeldKeys>]> = holders.iter().map(|holder| holder.keys()).collect();
        // The keys are read after the receivers were made, so that no change is missed.
        let keys = watch::Sender::new(all_keys(&receivers));
        let follow = |mut changes: watch::Receiver<HeldKeys>| {
            let (receivers, keys) = (receivers.clone(), keys.clone());
            let follower = async move {
                while changes.changed().await.is_ok() {
                    keys.send_replace(all_keys(&receivers));
                }
            };
            tokio::spawn(follower).abort_handle()
        };
        let followers = receivers.iter().cloned().map(follow).collect();
        Self { holders, keys, followers }
    }

    /// The holders of a key, each with whether its operations ask a person. If none lists the key, these are all
    /// holders: one whose token was absent since the start does not know its keys, and says that it is away.
    fn holders_of<'a>(&'a self, key: &'a PublicKey) -> impl Iterator<Item = (&'a dyn Secrets, bool)> {
        let is_listed = self.keys.borrow().get(key).is_some();
        self.holders.iter().filter_map(move |holder| {
            let keys = holder.keys();
            let asks_person = keys.borrow().get(key).map(|held| held.asks_pin || held.asks_touch);
            asks_person.or((!is_listed).then_some(false)).map(|asks_person| (&**holder, asks_person))
        })
    }
}

/// Tries an operation with each holder of a key, until one succeeds or fails for good. This is a macro, since no
/// closure returns a future that borrows all of its arguments.
macro_rules! try_each_holder {
    ($self:ident, $key:ident, $holder:ident => $operation:expr) => {{
        let mut failure: Option<SecretsError> = None;
        for ($holder, asks_person) in $self.holders_of($key) {
            match $operation.await {
                Err(error) if allows_failover(&error, asks_person) => {
                    if !matches!(error, SecretsError::NotHeld(_)) {
                        tracing::warn!(key = %$key, %error, "operation failed; asking the next holder of the key");
                    }
                    failure = Some(more_hopeful(failure, error));
                }
                result => return result,
            }
        }
        Err(failure.unwrap_or_else(|| SecretsError::NotHeld($key.clone())))
    }};
}

/// The failure to report of two holders of a key: the first from which a later attempt may recover, or else the last.
pub(super) fn more_hopeful(before: Option<SecretsError>, next: SecretsError) -> SecretsError {
    before.filter(SecretsError::is_retryable).unwrap_or(next)
}

fn all_keys(receivers: &[watch::Receiver<HeldKeys>]) -> HeldKeys {
    let (mut all, mut refused, mut is_complete) = (Vec::new(), Vec::new(), true);
    for keys in receivers {
        let keys = keys.borrow();
        all.extend_from_slice(&keys);
        refused.extend_from_slice(keys.refused());
        is_complete &= keys.is_complete();
    }
    HeldKeys::new(all, refused, is_complete)
}

impl Drop for FailoverSecrets {
    fn drop(&mut self) {
        self.followers.iter().for_each(AbortHandle::abort);
    }
}

#[async_trait]
impl Secrets for FailoverSecrets {
    fn keys(&self) -> watch::Receiver<HeldKeys> {
        self.keys.subscribe()
    }

    fn look_for(&self, key: &PublicKey) {
        if self.keys.borrow().get(key).is_none() {
            self.holders.iter().for_each(|holder| holder.look_for(key));
        }
    }

    async fn sign(&self, key: &PublicKey, request: &SignRequest<'_>, cx: &Context) -> Result<Signature, SecretsError> {
        try_each_holder!(self, key, holder => holder.sign(key, request, cx))
    }

    async fn unwrap_cek(&self, key: &PublicKey, request: &UnwrapRequest, cx: &Context) -> Result<Cek, SecretsError> {
        try_each_holder!(self, key, holder => holder.unwrap_cek(key, request, cx))
    }

    async fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        cx: &Context,
    ) -> Result<Vec<EncryptedKey>, SecretsError> {
        try_each_holder!(self, key, holder => holder.wrap_cek(key, request, cx))
    }
}
