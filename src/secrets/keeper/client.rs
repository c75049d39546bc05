//! The agent's client of a keeper: see [`KeeperClient`].

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    client_connection::ResponseValue, client_session::ClientSession, connector::KeeperConnector,
    reconnect::keep_connected, wire::RequestBody,
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
    secrets::{
        context::Context,
        error::SecretsError,
        held_key::{HeldKeys, KeyState},
        interface::Secrets,
        outage::Outage,
        request::{UnwrapRequest, WrapRequest},
        signing::{SignRequest, Signature, SigningInput},
        token::TokenInfo,
    },
};

/// How many requests may wait at once, unless configured otherwise.
const MAX_REQUESTS: usize = 1024;

/// Implements [`Secrets`] with the token of a keeper, which is another process.
///
/// When the keeper ends, the client connects to the next one, with back-off. Requests that were running then fail with
/// [`SecretsError::Interrupted`]; the client does not repeat them. Until the next keeper answers, requests fail at once
/// with [`TokenError::Away`](crate::secrets::TokenError::Away), so that
/// [`FailoverSecrets`](crate::secrets::FailoverSecrets) can ask another keeper.
pub struct KeeperClient {
    session: Arc<ClientSession>,
    task: JoinHandle<()>,
}

impl KeeperClient {
    /// Connects to the keeper of the token that the configuration calls `name`. Must be called on a tokio runtime with
    /// I/O and time.
    ///
    /// # Errors
    /// [`SecretsError::Token`] if the keeper refuses ([`TokenError::Config`](crate::secrets::TokenError::Config)), or
    /// cannot be reached or started ([`TokenError::Away`](crate::secrets::TokenError::Away)). A token that is out of
    /// service is not an error: see [`KeeperClient::outage`].
    pub async fn start(name: &str, connector: KeeperConnector) -> Result<Self, SecretsError> {
        Self::start_with_limit(name, connector, MAX_REQUESTS).await
    }

    /// Like [`KeeperClient::start`], with at most `max_requests` requests at once. More fail
    /// with [`SecretsError::Busy`].
    ///
    /// # Errors
    /// Those of [`KeeperClient::start`].
    pub async fn start_with_limit(
        name: &str,
        connector: KeeperConnector,
        max_requests: usize,
    ) -> Result<Self, SecretsError> {
        let session = Arc::new(ClientSession::new(name, max_requests));
        let connected = session.connect(&connector).await;
        let connection = connected.map_err(|error| SecretsError::Token { token: name.into(), error })?;
        let task = tokio::spawn(keep_connected(Arc::downgrade(&session), connector, Some(connection)));
        Ok(Self { session, task })
    }

    /// Like [`KeeperClient::start`], but connects in the background until it succeeds. Until then no key is held. The begin
    /// and the end of each outage of the token are logged.
    pub fn start_in_background(name: &str, connector: KeeperConnector) -> Self {
        let session = Arc::new(ClientSession::new(name, MAX_REQUESTS).with_logged_outages());
        session.set_disconnected();
        let task = tokio::spawn(keep_connected(Arc::downgrade(&session), connector, None));
        Self { session, task }
    }

    /// Connects to a new keeper, which finds the token's keys again. Call this after another process has made or
    /// deleted a key. Requests that are running are still answered by the old keeper.
    pub fn refresh_keys(&self) {
        if let Some(connection) = self.session.connection() {
            connection.request_replacement();
        }
    }

    /// Tells the client that this process shuts down: a keeper that ends from now on is no failure. Keepers may get the
    /// same signal as this process.
    pub fn expect_end(&self) {
        self.session.set_stopping();
    }

    /// The token's name in the configuration.
    pub fn name(&self) -> &str {
        &self.session.token
    }

    /// The state of the token's keys.
    pub fn state(&self) -> KeyState {
        self.outage().map_or(KeyState::Ready, |outage| KeyState::after(&outage.error))
    }

    /// The device's description of itself.
    pub fn info(&self) -> TokenInfo {
        self.session.info()
    }

    /// The token's outage; `None` while it is in service.
    pub fn outage(&self) -> Option<Outage> {
        self.session.outage()
    }

    /// Since when the token is in service or out of service, as far as this client knows.
    pub fn since(&self) -> Option<Instant> {
        self.session.since()
    }

    /// The error for a response of the wrong kind.
    fn unexpected_response(&self) -> SecretsError {
        SecretsError::Interrupted { token: self.session.token.clone() }
    }
}

impl Drop for KeeperClient {
    fn drop(&mut self) {
        // Closed here, not when the runtime drops the task: a supervisor that is dropped next waits for its keepers,
        // and they wait for the end of their connections.
        if let Some(connection) = self.session.take_connection() {
            connection.close();
        }
        self.task.abort();
    }
}

#[async_trait]
impl Secrets for KeeperClient {
    fn keys(&self) -> watch::Receiver<HeldKeys> {
        self.session.keys.subscribe()
    }

    fn look_for(&self, key: &PublicKey) {
        self.session.look_for(key);
    }

    async fn sign(&self, key: &PublicKey, request: &SignRequest<'_>, cx: &Context) -> Result<Signature, SecretsError> {
        // The keeper builds the same input; only the signature comes back.
        let input = SigningInput::new(key, request)?;
        match self.session.request(key, RequestBody::sign(key, request), cx).await? {
            ResponseValue::Signature(signature) => Ok(input.with_signature(signature)),
            _ => Err(self.unexpected_response()),
        }
    }

    async fn unwrap_cek(&self, key: &PublicKey, request: &UnwrapRequest, cx: &Context) -> Result<Cek, SecretsError> {
        request.check(key)?;
        match self.session.request(key, RequestBody::unwrap(key, request), cx).await? {
            ResponseValue::Cek(cek) => Ok(cek),
            _ => Err(self.unexpected_response()),
        }
    }

    async fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        cx: &Context,
    ) -> Result<Vec<EncryptedKey>, SecretsError> {
        request.check(key)?;
        match self.session.request(key, RequestBody::wrap(key, request), cx).await? {
            ResponseValue::EncryptedKeys(keys) => Ok(keys),
            _ => Err(self.unexpected_response()),
        }
    }
}
