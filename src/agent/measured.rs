//! Every operation with a private key, counted and timed where the agent asks for it: the way to the keeper and the token's
//! queue are in its time.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use tokio::sync::watch;
use tracing::{Instrument, field::Empty};

use super::{SPANS, metrics::Metrics};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
    secrets::{Allow, Cause, Context, HeldKeys, Secrets, SecretsError, Signature, ToSign, Unwrap, Wrap},
};

/// [`Secrets`] that are counted.
pub(super) struct Measured {
    pub secrets: Arc<dyn Secrets>,
    pub metrics: Arc<Metrics>,
}

impl Measured {
    async fn measure<T>(
        &self,
        what: Allow,
        operation: impl Future<Output = Result<T, SecretsError>>,
    ) -> Result<T, SecretsError> {
        let begun = Instant::now();
        let span = tracing::info_span!(target: SPANS, "token", kind = what.name(), result = Empty);
        let done = operation.instrument(span.clone()).await;
        let result = done.as_ref().err().map_or("done", name);
        span.record("result", result);
        self.metrics.operated(what.name(), result, begun.elapsed());
        done
    }
}

#[async_trait]
impl Secrets for Measured {
    fn keys(&self) -> watch::Receiver<HeldKeys> {
        self.secrets.keys()
    }

    async fn sign(&self, key: &PublicKey, what: &ToSign<'_>, cx: &Context) -> Result<Signature, SecretsError> {
        self.measure(what.into(), self.secrets.sign(key, what, cx)).await
    }

    async fn unwrap_cek(&self, key: &PublicKey, request: &Unwrap, cx: &Context) -> Result<Cek, SecretsError> {
        self.measure(Allow::Unwrap, self.secrets.unwrap_cek(key, request, cx)).await
    }

    async fn wrap_cek(&self, key: &PublicKey, request: &Wrap, cx: &Context) -> Result<Vec<EncryptedKey>, SecretsError> {
        self.measure(Allow::Wrap, self.secrets.wrap_cek(key, request, cx)).await
    }
}

/// An error's name as a label: of a token's the cause.
fn name(error: &SecretsError) -> &'static str {
    match error {
        SecretsError::NotHeld(_) => "not-held",
        SecretsError::NotAllowed { .. } => "not-allowed",
        SecretsError::Request(_) => "wrong-request",
        SecretsError::Busy { .. } => "busy",
        SecretsError::Deadline { .. } => "deadline",
        SecretsError::Interrupted { .. } => "interrupted",
        SecretsError::RateLimited(_) => "rate-limited",
        SecretsError::Audit(_) => "audit",
        SecretsError::Stopped => "stopped",
        SecretsError::Token { error, .. } => match error.cause() {
            Cause::Peer => "peer",
            Cause::Transient => "transient",
            Cause::SessionLost => "session-lost",
            Cause::TokenGone => "token-gone",
            Cause::Pin => "pin",
            Cause::Permanent => "permanent",
        },
    }
}
