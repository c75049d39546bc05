//! Which failures another holder of the same key may make good, and [`Several`] holders as one.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::{sync::watch, task::AbortHandle};

use super::{Cause, Context, HeldKeys, Secrets, SecretsError, Signature, ToSign, Unwrap, Wrap};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
};

/// Whether the next holder of a key may be asked after one failed so.
///
/// A hostile message is as hostile there. What may have asked a person for a touch is not repeated behind that person's
/// back.
pub(super) fn next_may_serve(error: &SecretsError, asks_a_person: bool) -> bool {
    match error {
        SecretsError::NotHeld(_) | SecretsError::Busy { .. } | SecretsError::Stopped => true,
        SecretsError::Interrupted { .. } => !asks_a_person,
        SecretsError::Token { error, .. } => match error.cause() {
            Cause::TokenGone | Cause::Pin => true,
            Cause::Transient | Cause::SessionLost => !asks_a_person,
            Cause::Peer | Cause::Permanent => false,
        },
        SecretsError::NotAllowed { .. }
        | SecretsError::Request(_)
        | SecretsError::Deadline { .. }
        | SecretsError::RateLimited(_)
        | SecretsError::Audit(_) => false,
    }
}

/// Several holders of keys as one: keepers, keyrings, or both. A key that more than one holds is served by the first of
/// them that is there.
pub struct Several {
    holders: Vec<Arc<dyn Secrets>>,
    keys: watch::Sender<HeldKeys>,
    /// What follows the keys of each holder.
    follow: Vec<AbortHandle>,
}

impl Several {
    /// All of them, in the order in which they are asked. It wants a tokio runtime, on which it follows their keys.
    pub fn new(holders: impl IntoIterator<Item = Arc<dyn Secrets>>) -> Self {
        let holders: Vec<_> = holders.into_iter().collect();
        let all: Arc<[watch::Receiver<HeldKeys>]> = holders.iter().map(|holder| holder.keys()).collect();
        // Subscribed first, so that no change in between is missed.
        let keys = watch::Sender::new(joined(&all));
        let follow = |mut changes: watch::Receiver<HeldKeys>| {
            let (all, keys) = (all.clone(), keys.clone());
            let follows = async move {
                while changes.changed().await.is_ok() {
                    keys.send_replace(joined(&all));
                }
            };
            tokio::spawn(follows).abort_handle()
        };
        let follow = all.iter().cloned().map(follow).collect();
        Self { holders, keys, follow }
    }

    /// Those that hold a key, and whether each asks a person.
    fn holders<'a>(&'a self, key: &'a PublicKey) -> impl Iterator<Item = (&'a dyn Secrets, bool)> {
        self.holders.iter().filter_map(|holder| {
            let keys = holder.keys();
            let asks = keys.borrow().get(key).map(|held| held.asks_pin || held.asks_touch);
            asks.map(|asks| (&**holder, asks))
        })
    }
}

/// Asks the holders of a key in turn. A macro, since no closure returns a future that borrows from all of its arguments.
macro_rules! in_turn {
    ($self:ident, $key:ident, $holder:ident => $ask:expr) => {{
        let mut failed = None;
        for ($holder, asks_a_person) in $self.holders($key) {
            match $ask.await {
                Err(error) if next_may_serve(&error, asks_a_person) => {
                    tracing::warn!(key = %$key, %error, "another holder of the key is asked, if there is one");
                    failed = Some(error);
                }
                result => return result,
            }
        }
        Err(failed.unwrap_or_else(|| SecretsError::NotHeld($key.clone())))
    }};
}

fn joined(all: &[watch::Receiver<HeldKeys>]) -> HeldKeys {
    all.iter().flat_map(|keys| keys.borrow().to_vec()).collect::<Vec<_>>().into()
}

impl Drop for Several {
    fn drop(&mut self) {
        self.follow.iter().for_each(AbortHandle::abort);
    }
}

#[async_trait]
impl Secrets for Several {
    fn keys(&self) -> watch::Receiver<HeldKeys> {
        self.keys.subscribe()
    }

    async fn sign(&self, key: &PublicKey, what: &ToSign<'_>, cx: &Context) -> Result<Signature, SecretsError> {
        in_turn!(self, key, holder => holder.sign(key, what, cx))
    }

    async fn unwrap_cek(&self, key: &PublicKey, request: &Unwrap, cx: &Context) -> Result<Cek, SecretsError> {
        in_turn!(self, key, holder => holder.unwrap_cek(key, request, cx))
    }

    async fn wrap_cek(&self, key: &PublicKey, request: &Wrap, cx: &Context) -> Result<Vec<EncryptedKey>, SecretsError> {
        in_turn!(self, key, holder => holder.wrap_cek(key, request, cx))
    }
}
