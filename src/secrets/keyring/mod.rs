//! [`Secrets`] over tokens in the same process: see [`Keyring`].

mod checks;
mod health;
mod idle_probe;
mod recheck;
mod registry;
mod running;
mod worker;

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    context::Context,
    error::{Cause, SecretsError, TokenError},
    failover::{allows_failover, more_hopeful},
    held_key::{HeldKey, HeldKeys},
    interface::Secrets,
    look_again::LookAgain,
    outage::Outage,
    policy::{KeyOperation, Policies, Policy},
    purpose::Purpose,
    request::{UnwrapRequest, WrapRequest},
    signing::{SignRequest, Signature, SigningInput},
    token::{Token, TokenInfo},
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
};
use checks::Question;
use idle_probe::IdleProbes;
use registry::{RegisteredToken, TokenRegistry};
use worker::Worker;

/// How many requests may wait for one token, unless configured otherwise. More fail with [`SecretsError::Busy`].
const QUEUE_LENGTH: usize = 1024;
/// How long dropping a keyring waits for its threads.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// [`Secrets`] over tokens in this process.
///
/// Each token has worker threads and one bounded queue. Keys are found at start, and again when a token comes back;
/// they are identified by their public half. If several tokens hold a key, the first in configured order that is in
/// service performs the operation.
///
/// # When a token is away
///
/// - **Detection.** An operation that fails because the token is absent or its PIN is refused takes the token out of
///   service at once. So do three device or session failures in a row. A failure that is the peer's fault never counts,
///   so a hostile message cannot take a token out of service. An idle token can be asked whether it is still there
///   ([`KeyringBuilder::probe_idle_tokens_every`]).
/// - **Blame.** If a token fails or refuses to unwrap or to wrap, or the content key does not unwrap, the token is asked
///   a question of the same kind whose answer is known, with the same key. A wrong answer shows that the token is at
///   fault. After a right one, the operation is repeated if the token gave no right answer in the second before it.
///   Only if that fails too, the caller gets [`TokenError::Unwrap`], or [`TokenError::Refused`], and the failure does
///   not count against the token. Half a second of failures of a key shares one such check. Keys that ask a person are
///   not checked.
/// - **Callers.** The failed operation is passed to the next token that holds the key. If the key asks a person for a
///   PIN or a touch, this happens only if the token is absent or its PIN is refused. Otherwise a person might be asked
///   twice. Without another token, the caller gets [`SecretsError::Token`] with the token's error, which is retryable
///   ([`SecretsError::is_retryable`]). While the token is out of service, its requests fail at once with the error of
///   the latest probe, and do not reach the token. The keyring queues nothing for later: the caller keeps the message
///   and tries again. The agent's inbox keeps it on disk, still encrypted.
/// - **Keys.** The token's keys stay in [`Secrets::keys`] with the state [`Away`](super::KeyState::Away), or
///   [`Locked`](super::KeyState::Locked) if the PIN is the cause. The keys of a token that was absent from the start
///   ([`KeyringBuilder::allow_absent_tokens`]) are not known and not listed. Requests for keys that no token has shown
///   fail with the error of such a token, which is retryable, or else with [`SecretsError::NotHeld`].
/// - **New keys.** A request for a key that no token has shown fails, and has the tokens searched again
///   ([`Secrets::look_for`]). What another program has made since then is in [`Secrets::keys`].
/// - **Recovery.** A prober thread calls [`Token::keys`], which finds the keys and tests those that ask no person. It
///   repeats this, with pauses from 100 milliseconds to one second, until a probe succeeds. Then the keys become
///   [`Ready`](super::KeyState::Ready) and every subscriber of [`Secrets::keys`] is notified. A refused PIN is not
///   tried again until a person acts: the token's PIN guard sees to that.
/// - **Hanging tokens.** A request whose token does not return fails at its deadline
///   ([`SecretsError::DeadlineExceeded`]), and no other token is asked. If every thread of the token is in an operation
///   that has taken longer than ten seconds and whose deadline has passed, the token is out of service until one returns,
///   and the next requests go to another token. The time during which a person is asked does not count. The threads stay
///   blocked; only a keeper, which is a process of its own, can be replaced.
///
/// # Stopping
///
/// Dropping a keyring stops its threads and waits up to two seconds for running operations. A process that exits while
/// a thread is in a PKCS#11 module may crash in the module's clean-up (SoftHSM 2.6.1 does).
pub struct Keyring {
    registry: Arc<TokenRegistry>,
    /// Bounds the searches for keys that are asked for.
    look: LookAgain,
    /// Ends the thread that checks the keys when it is dropped.
    #[expect(dead_code, reason = "ends a thread when dropped")]
    checker: Option<mpsc::Sender<()>>,
    idle_probes: Option<IdleProbes>,
}

/// A token of a keyring, and whether it is in service.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TokenStatus {
    /// The token's name in the configuration.
    pub name: Arc<str>,
    /// The device's description of itself.
    pub info: TokenInfo,
    /// The outage; `None` while the token is in service.
    pub outage: Option<Outage>,
    /// Since when the token has failed; `None` if its last operation succeeded. Unlike an outage, this does not end when a
    /// probe has put the token into service, but when an operation succeeds.
    pub failing_since: Option<Instant>,
    /// How long the running probe has taken, without the time during which a person was asked for a PIN or a touch;
    /// `None` if no probe runs.
    pub probing: Option<Duration>,
}

/// Builds a [`Keyring`] from tokens and policies.
#[derive(Default)]
pub struct KeyringBuilder {
    tokens: Vec<Arc<dyn Token>>,
    policies: Policies,
    queue_length: Option<usize>,
    allows_absent_tokens: bool,
    uses_caller_thread: bool,
    check_interval: Option<Duration>,
    probe_interval: Option<Duration>,
    outages_are_logged_elsewhere: bool,
}

impl KeyringBuilder {
    /// Adds a token, after those that were added before.
    pub fn token(mut self, token: impl Token + 'static) -> Self {
        self.tokens.push(Arc::new(token));
        self
    }

    /// Adds a token that is also used elsewhere.
    pub fn shared_token(mut self, token: Arc<dyn Token>) -> Self {
        self.tokens.push(token);
        self
    }

    /// Sets the policy of all keys of the token with this name.
    pub fn token_policy(mut self, token: &str, policy: Policy) -> Self {
        self.policies.tokens.insert(token.to_owned(), policy);
        self
    }

    /// Sets the policy of one key, which overrides its token's policy.
    pub fn key_policy(mut self, key: PublicKey, policy: Policy) -> Self {
        self.policies.keys.insert(key, policy);
        self
    }

    /// Sets how many requests may wait for one token. The default is 1,024.
    pub fn queue_length(mut self, requests: usize) -> Self {
        self.queue_length = Some(requests);
        self
    }

    /// Starts even if a token is absent or its PIN is refused. The token comes into service when it is available.
    pub fn allow_absent_tokens(mut self) -> Self {
        self.allows_absent_tokens = true;
        self
    }

    /// Performs each operation on the caller's thread, which is blocked meanwhile. For a caller with threads of its
    /// own, such as the keeper.
    pub fn on_caller_thread(mut self) -> Self {
        self.uses_caller_thread = true;
        self
    }

    /// Finds and tests the keys of each token in service again at this interval, while the keyring runs. A key that is
    /// not proved any more is no longer in [`Secrets::keys`]. By default, keys are found again only after an outage.
    pub fn check_keys_every(mut self, interval: Duration) -> Self {
        self.check_interval = Some(interval);
        self
    }

    /// Asks each token in service at this interval whether it is still there, unless it was used meanwhile
    /// ([`Token::probe`]). By default, a missing token is noticed when an operation fails.
    pub fn probe_idle_tokens_every(mut self, interval: Duration) -> Self {
        self.probe_interval = Some(interval);
        self
    }

    /// Logs outages of tokens at the level `debug`, because the caller logs them.
    #[cfg(feature = "keeper")]
    pub(in crate::secrets) fn outages_are_logged_elsewhere(mut self) -> Self {
        self.outages_are_logged_elsewhere = true;
        self
    }

    /// Finds the keys and starts the threads.
    ///
    /// # Errors
    /// [`SecretsError::Token`] for a token that cannot be used, and for a key whose custody is below its minimum.
    pub async fn start(self) -> Result<Keyring, SecretsError> {
        // Finding the keys may block for seconds.
        let started = tokio::task::spawn_blocking(move || self.start_blocking());
        started.await.map_err(|_| SecretsError::Stopped)?
    }

    /// [`KeyringBuilder::start`] for a thread that may block.
    ///
    /// # Errors
    /// Those of [`KeyringBuilder::start`].
    pub fn start_blocking(self) -> Result<Keyring, SecretsError> {
        let queue_length = self.queue_length.unwrap_or(QUEUE_LENGTH);
        let mut registry = TokenRegistry::new(self.policies, self.outages_are_logged_elsewhere);
        let mut keys_of_token = Vec::new();
        let mut failures = Vec::new();
        for (index, token) in self.tokens.into_iter().enumerate() {
            match registry.find_keys(&*token) {
                Ok(keys) => keys_of_token.push(keys),
                Err(error) if self.allows_absent_tokens && error.cause() != Cause::Permanent => {
                    keys_of_token.push(Vec::new());
                    failures.push((index, error));
                }
                Err(error) => return Err(SecretsError::Token { token: token.name().into(), error }),
            }
            registry.add(match self.uses_caller_thread {
                true => Worker::on_caller_thread(token),
                false => Worker::start(token, queue_length),
            });
        }
        let registry = registry.start(keys_of_token, failures);
        let checker = self.check_interval.map(|interval| recheck::start(&registry, interval));
        let idle_probes = self.probe_interval.map(|interval| IdleProbes::start(&registry, interval));
        Ok(Keyring { registry, look: LookAgain::default(), checker, idle_probes })
    }
}

impl Keyring {
    /// Starts a keyring over tokens, without policies.
    ///
    /// # Errors
    /// Those of [`KeyringBuilder::start`].
    pub async fn start<T: Token + 'static>(tokens: impl IntoIterator<Item = T>) -> Result<Self, SecretsError> {
        tokens.into_iter().fold(Self::builder(), KeyringBuilder::token).start().await
    }

    /// Builds a keyring with policies.
    pub fn builder() -> KeyringBuilder {
        KeyringBuilder::default()
    }

    /// The tokens, in configured order.
    pub fn tokens(&self) -> impl Iterator<Item = &Arc<dyn Token>> {
        self.registry.tokens.iter().map(|token| &token.worker.token)
    }

    /// The status of each token, in configured order.
    pub fn status(&self) -> Vec<TokenStatus> {
        let status = |token: &RegisteredToken| TokenStatus {
            name: token.worker.name.clone(),
            info: token.worker.token.info(),
            outage: token.health.outage(),
            failing_since: token.health.failing_since(),
            probing: token.health.probing(),
        };
        self.registry.tokens.iter().map(status).collect()
    }

    /// Finds the keys of all tokens again, after a token was locked or unlocked.
    #[cfg(feature = "keeper")]
    pub(in crate::secrets) fn refresh_keys(&self) {
        self.registry.probe_all();
    }

    /// Returns an error if the key's custody is below its configured minimum.
    #[cfg(feature = "keeper")]
    pub(in crate::secrets) fn custody_error(&self, key: &HeldKey) -> Option<TokenError> {
        self.registry.custody_error(&key.token, key)
    }

    /// Changes the known keys of a token, after a key was made or deleted.
    #[cfg(feature = "keeper")]
    pub(in crate::secrets) fn change_keys(&self, token: &str, change: impl FnOnce(&mut Vec<HeldKey>)) {
        let index = self.registry.tokens.iter().position(|registered| *registered.worker.name == *token);
        if let Some(index) = index {
            self.registry.change_keys(|keys_of_token| change(&mut keys_of_token[index]));
        }
    }

    /// Performs an operation on the first token that holds the key and is in service.
    async fn perform<T, F>(
        &self,
        key: &PublicKey,
        kind: KeyOperation,
        question: Option<Question>,
        cx: &Context,
        operation: F,
    ) -> Result<T, SecretsError>
    where
        T: Send + 'static,
        F: Fn(&dyn Token, &Purpose) -> Result<T, TokenError> + Clone + Send + 'static,
    {
        let key_table = self.registry.key_table();
        let Some(tokens) = key_table.tokens_of_key.get(key) else {
            self.look_for(key);
            return Err(self.registry.not_held(key));
        };
        let mut failure: Option<SecretsError> = None;
        for &index in tokens {
            let RegisteredToken { worker, health, .. } = &self.registry.tokens[index];
            let policy = self.registry.policies.of(&worker.name, key);
            if policy.allow.is_some_and(|allowed| !allowed.contains(&kind)) {
                return Err(SecretsError::NotAllowed { key: key.clone(), operation: kind.name() });
            }
            if let Some(outage) = health.outage() {
                let error = SecretsError::Token { token: worker.name.clone(), error: outage.error };
                failure = Some(more_hopeful(failure, error));
                continue;
            }
            let (operation, purpose) =
                (operation.clone(), Purpose::Operation { operation: kind, peer: cx.peer.clone() });
            let held = key_table.keys_of_token[index].iter().find(|held| held.public == *key);
            let asks_person = held.is_some_and(HeldKey::asks_person);
            let deadline = cx.deadline_or_default(asks_person);
            let operation = move |token: &dyn Token| operation(token, &purpose);
            // A check would ask the person again.
            let result = match question.filter(|_| !asks_person) {
                Some(question) => self.registry.perform_checked(index, key, question, deadline, operation).await,
                None => worker.perform(deadline, operation).await,
            };
            self.registry.record(index, key, &result);
            match result {
                Err(error) if allows_failover(&error, asks_person) => failure = Some(more_hopeful(failure, error)),
                result => return result,
            }
        }
        Err(failure.unwrap_or_else(|| SecretsError::NotHeld(key.clone())))
    }
}

impl Drop for Keyring {
    fn drop(&mut self) {
        let until = Instant::now() + STOP_TIMEOUT;
        let wait = |end: mpsc::Receiver<()>| {
            let _ = end.recv_timeout(until.saturating_duration_since(Instant::now()));
        };
        self.idle_probes.take().into_iter().flat_map(IdleProbes::stop).for_each(wait);
        self.registry.tokens.iter().filter_map(|token| token.health.stop()).for_each(wait);
        // A prober that is blocked in its token still holds the registry.
        if let Some(registry) = Arc::into_inner(std::mem::take(&mut self.registry)) {
            let ends: Vec<_> = registry.tokens.into_iter().filter_map(|token| token.worker.stop()).collect();
            ends.into_iter().for_each(wait);
        }
    }
}

#[async_trait]
impl Secrets for Keyring {
    fn keys(&self) -> watch::Receiver<HeldKeys> {
        self.registry.keys.subscribe()
    }

    fn look_for(&self, key: &PublicKey) {
        if !self.registry.key_table().tokens_of_key.contains_key(key) && self.look.is_due() {
            tracing::info!(%key, "key asked for that no token has shown; searching the tokens again");
            self.registry.probe_all();
        }
    }

    async fn sign(&self, key: &PublicKey, request: &SignRequest<'_>, cx: &Context) -> Result<Signature, SecretsError> {
        let mut input = SigningInput::new(key, request)?;
        let bytes: Arc<[u8]> = std::mem::take(&mut input.bytes).into();
        let signer = key.clone();
        let kind = KeyOperation::from(request);
        let signature =
            self.perform(key, kind, None, cx, move |token, purpose| token.sign(&signer, &bytes, purpose)).await?;
        Ok(input.with_signature(signature))
    }

    async fn unwrap_cek(&self, key: &PublicKey, request: &UnwrapRequest, cx: &Context) -> Result<Cek, SecretsError> {
        request.check(key)?;
        let (recipient, request) = (key.clone(), Arc::new(request.clone()));
        let question = Some(Question::of_unwrap(&request));
        let operation = move |token: &dyn Token, purpose: &Purpose| token.unwrap_cek(&recipient, &request, purpose);
        self.perform(key, KeyOperation::Unwrap, question, cx, operation).await
    }

    async fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        cx: &Context,
    ) -> Result<Vec<EncryptedKey>, SecretsError> {
        request.check(key)?;
        let (sender, request) = (key.clone(), Arc::new(request.clone()));
        let operation = move |token: &dyn Token, purpose: &Purpose| token.wrap_cek(&sender, &request, purpose);
        self.perform(key, KeyOperation::Wrap, Some(Question::Wrap), cx, operation).await
    }
}
