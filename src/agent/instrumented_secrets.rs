//! Counts and times each private-key operation of the agent. The time includes the connection to the keeper and the
//! token's queue.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use tokio::sync::watch;
use tracing::{Instrument, field::Empty};

use super::{metrics::Metrics, spans::SPAN_TARGET};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
    secrets::{
        Cause, Context, HeldKeys, KeyOperation, Secrets, SecretsError, SignRequest, Signature, UnwrapRequest,
        WrapRequest,
    },
};

/// [`Secrets`] whose operations are recorded in [`Metrics`] and as tracing spans.
pub(super) struct InstrumentedSecrets {
    pub secrets: Arc<dyn Secrets>,
    pub metrics: Arc<Metrics>,
}

impl InstrumentedSecrets {
    async fn record<T>(
        &self,
        kind: KeyOperation,
        operation: impl Future<Output = Result<T, SecretsError>>,
    ) -> Result<T, SecretsError> {
        let start = Instant::now();
        let span = tracing::info_span!(target: SPAN_TARGET, "token", kind = kind.name(), result = Empty);
        let done = operation.instrument(span.clone()).await;
        let result = done.as_ref().err().map_or("done", result_label);
        span.record("result", result);
        self.metrics.token_operation(kind.name(), result, start.elapsed());
        done
    }
}

#[async_trait]
impl Secrets for InstrumentedSecrets {
    fn keys(&self) -> watch::Receiver<HeldKeys> {
        self.secrets.keys()
    }

    fn look_for(&self, key: &PublicKey) {
        self.secrets.look_for(key);
    }

    async fn sign(&self, key: &PublicKey, what: &SignRequest<'_>, cx: &Context) -> Result<Signature, SecretsError> {
        self.record(what.into(), self.secrets.sign(key, what, cx)).await
    }

    async fn unwrap_cek(&self, key: &PublicKey, request: &UnwrapRequest, cx: &Context) -> Result<Cek, SecretsError> {
        self.record(KeyOperation::Unwrap, self.secrets.unwrap_cek(key, request, cx)).await
    }

    async fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        cx: &Context,
    ) -> Result<Vec<EncryptedKey>, SecretsError> {
        self.record(KeyOperation::Wrap, self.secrets.wrap_cek(key, request, cx)).await
    }
}

/// Returns the metric's label for an error. An error of a token is labelled by its cause.
fn result_label(error: &SecretsError) -> &'static str {
    match error {
        SecretsError::NotHeld(_) => "not-held",
        SecretsError::NotAllowed { .. } => "not-allowed",
        SecretsError::InvalidRequest(_) => "wrong-request",
        SecretsError::Busy { .. } => "busy",
        SecretsError::DeadlineExceeded { .. } => "deadline",
        SecretsError::Interrupted { .. } => "interrupted",
        SecretsError::RateLimited(_) => "rate-limited",
        SecretsError::AuditFailed(_) => "audit",
        SecretsError::Stopped => "stopped",
        SecretsError::Token { error, .. } => match error.cause() {
            Cause::Peer => "peer",
            Cause::Unknown => "refused",
            Cause::Transient => "transient",
            Cause::SessionLost => "session-lost",
            Cause::TokenGone => "token-gone",
            Cause::Pin => "pin",
            Cause::Permanent => "permanent",
        },
    }
}
