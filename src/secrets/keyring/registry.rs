//! The tokens of a keyring, the keys that were found in them, and the probers of the tokens that are out of service.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, RwLock, Weak, mpsc},
    thread,
    time::Instant,
};

use tokio::sync::watch;

use super::{
    checks::{KnownAnswerChecks, Question, leaves_fault_open, not_of_token, of_token},
    health::{Diagnosis, TokenHealth},
    worker::{Worker, catch_panic},
};
use crate::{
    keys::PublicKey,
    secrets::{
        error::{SecretsError, TokenError},
        failover::more_hopeful,
        held_key::{HeldKey, HeldKeys, KeyState},
        mutex::lock,
        policy::Policies,
        token::Token,
    },
};

/// The tokens of a keyring, and the keys that were found in them.
#[derive(Default)]
pub(super) struct TokenRegistry {
    /// The tokens, in configured order.
    pub(super) tokens: Vec<RegisteredToken>,
    pub(super) policies: Policies,
    outages_are_logged_elsewhere: bool,
    key_table: RwLock<Arc<KeyTable>>,
    /// The keys with their states, for subscribers.
    pub(super) keys: watch::Sender<HeldKeys>,
}

/// A token with its worker and its health.
pub(super) struct RegisteredToken {
    pub(super) worker: Worker,
    pub(super) health: TokenHealth,
    pub(super) checks: KnownAnswerChecks,
    /// The pairs that the token holds and does not serve; none if the token has not shown its keys yet.
    pub(super) refused: Mutex<Option<Vec<HeldKey>>>,
}

/// The keys that were found when each token was in service last.
#[derive(Default)]
pub(super) struct KeyTable {
    /// The keys of each token, in configured order.
    pub(super) keys_of_token: Vec<Vec<HeldKey>>,
    /// The tokens that hold each key, by index, in configured order.
    pub(super) tokens_of_key: HashMap<PublicKey, Vec<usize>>,
}

impl KeyTable {
    fn new(keys_of_token: Vec<Vec<HeldKey>>) -> Self {
        let mut tokens_of_key: HashMap<PublicKey, Vec<usize>> = HashMap::new();
        for (index, keys) in keys_of_token.iter().enumerate() {
            for key in keys {
                tokens_of_key.entry(key.public.clone()).or_default().push(index);
            }
        }
        Self { keys_of_token, tokens_of_key }
    }
}

impl TokenRegistry {
    pub(super) fn new(policies: Policies, outages_are_logged_elsewhere: bool) -> Self {
        Self { policies, outages_are_logged_elsewhere, ..Self::default() }
    }

    /// Adds a token before the registry is started.
    pub(super) fn add(&mut self, worker: Worker) {
        self.tokens.push(RegisteredToken {
            worker,
            health: TokenHealth::default(),
            checks: KnownAnswerChecks::default(),
            refused: Mutex::default(),
        });
    }

    /// Publishes the keys that were found in each token. `failures` are the tokens, by index, that are out of service
    /// from the start.
    pub(super) fn start(mut self, keys_of_token: Vec<Vec<HeldKey>>, failures: Vec<(usize, TokenError)>) -> Arc<Self> {
        self.key_table = RwLock::new(Arc::new(KeyTable::new(keys_of_token)));
        for (index, token) in self.tokens.iter().enumerate() {
            if !failures.iter().any(|(failed, _)| *failed == index) {
                *lock(&token.refused) = Some(token.worker.token.refused_keys());
            }
        }
        let registry = Arc::new(self);
        registry.publish(|_, _| KeyState::Ready);
        for (index, error) in failures {
            registry.take_out_of_service(index, error);
        }
        registry
    }

    /// The key table as it is now.
    pub(super) fn key_table(&self) -> Arc<KeyTable> {
        self.key_table.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Finds the keys of a token. Fails with [`TokenError::Custody`] if a key is below its minimum custody.
    pub(super) fn find_keys(&self, token: &dyn Token) -> Result<Vec<HeldKey>, TokenError> {
        let keys = catch_panic(|token| token.keys(), token)?;
        match keys.iter().find_map(|key| self.custody_error(token.name(), key)) {
            Some(error) => Err(error),
            None => Ok(keys),
        }
    }

    /// Returns an error if the key's custody is below its configured minimum.
    pub(super) fn custody_error(&self, token: &str, key: &HeldKey) -> Option<TokenError> {
        let (custody, minimum) = (key.custody?, self.policies.of(token, &key.public).minimum_custody?);
        let error = || {
            let public = &key.public;
            TokenError::Custody(format!(
                "the key {public} has custody {custody}, which is below minimum_custody ({minimum})"
            ))
        };
        (custody < minimum).then(error)
    }

    /// The error for a key that no token has shown. A token that has been out of service since the start may hold it.
    pub(super) fn not_held(&self, key: &PublicKey) -> SecretsError {
        let key_table = self.key_table();
        let absent = self.tokens.iter().zip(&key_table.keys_of_token).filter(|(_, keys)| keys.is_empty());
        let outages = absent.filter_map(|(token, _)| {
            let error = token.health.outage()?.error;
            Some(SecretsError::Token { token: token.worker.name.clone(), error })
        });
        outages
            .fold(None, |before, next| Some(more_hopeful(before, next)))
            .unwrap_or(SecretsError::NotHeld(key.clone()))
    }

    /// Performs an operation. If it fails, finds out by known-answer checks whether the token is at fault.
    pub(super) async fn perform_checked<T, F>(
        &self,
        index: usize,
        key: &PublicKey,
        question: Question,
        deadline: Instant,
        operation: F,
    ) -> Result<T, SecretsError>
    where
        T: Send + 'static,
        F: Fn(&dyn Token) -> Result<T, TokenError> + Clone + Send + 'static,
    {
        let RegisteredToken { worker, checks, .. } = &self.tokens[index];
        for is_last in [false, true] {
            let begin = Instant::now();
            let failure = match worker.perform(deadline, operation.clone()).await {
                Err(SecretsError::Token { error, .. }) if leaves_fault_open(&error) => error,
                result => {
                    if result.is_ok() && question != Question::Wrap {
                        checks.record_right(question, key.curve());
                    }
                    return result;
                }
            };
            let was_right = checks.was_right_before(question, key.curve(), begin);
            let error = match checks.check(question, key, worker, deadline).await? {
                Err(check) => {
                    tracing::warn!(token = &*worker.name, %key, %failure, %check, "known-answer check failed");
                    of_token(failure, check)
                }
                Ok(()) if was_right || is_last => not_of_token(failure),
                // The token was not seen to work right before. The next attempt is between two right answers.
                Ok(()) => continue,
            };
            return Err(SecretsError::Token { token: worker.name.clone(), error });
        }
        unreachable!("the second attempt returns")
    }

    /// Updates a token's health from the result of an operation, and acts on the diagnosis.
    pub(super) fn record<T>(self: &Arc<Self>, index: usize, key: &PublicKey, result: &Result<T, SecretsError>) {
        let error = match result {
            Ok(_) => None,
            Err(SecretsError::Token { error, .. }) => Some(error),
            Err(SecretsError::DeadlineExceeded { .. }) if self.tokens[index].worker.hangs() => {
                return self.take_out_of_service(index, hanging());
            }
            // The operation was not begun, or has not ended. A short deadline says nothing about the token.
            Err(_) => return,
        };
        match (self.tokens[index].health.record(error), error) {
            (Diagnosis::Healthy, _) | (_, None) => {}
            (Diagnosis::KeyGone, _) => {
                let token = &*self.tokens[index].worker.name;
                tracing::warn!(token, %key, "key not in the token any more; finding the token's keys again");
                self.publish(|at, held| if at == index && held.public == *key { KeyState::Away } else { held.state });
                self.probe(index);
            }
            (Diagnosis::OutOfService, Some(error)) => self.take_out_of_service(index, error.clone()),
        }
    }

    /// Takes a token out of service, and probes it until it is back.
    pub(super) fn take_out_of_service(self: &Arc<Self>, index: usize, error: TokenError) {
        self.publish_outage(index, error);
        self.probe(index);
    }

    fn publish_outage(&self, index: usize, error: TokenError) {
        let state = KeyState::after(&error);
        let RegisteredToken { worker, health, .. } = &self.tokens[index];
        if health.set_out_of_service(error.clone()) {
            match self.outages_are_logged_elsewhere {
                true => tracing::debug!(token = &*worker.name, %error, "token out of service"),
                false => {
                    tracing::warn!(token = &*worker.name, %error, "token out of service; probing it until it is back")
                }
            }
        }
        self.publish(|at, held| if at == index { state } else { held.state });
    }

    /// Starts a prober thread, which finds the keys of a token again and repeats that until it succeeds.
    pub(super) fn probe(self: &Arc<Self>, index: usize) {
        self.tokens[index].health.start_prober(|end: mpsc::Sender<()>| {
            let registry = Arc::downgrade(self);
            let name = format!("{} prober", self.tokens[index].worker.name);
            let prober = move || {
                probe_until_in_service(&registry, index);
                drop(end);
            };
            let started = thread::Builder::new().name(name).spawn(prober);
            if let Err(error) = &started {
                tracing::error!(%error, "cannot start a thread to probe a token");
            }
            started.is_ok()
        });
    }

    /// Finds the keys of all tokens again.
    pub(super) fn probe_all(self: &Arc<Self>) {
        (0..self.tokens.len()).for_each(|index| self.probe(index));
    }

    /// Puts a token into service with these keys.
    fn put_into_service(&self, index: usize, keys: Vec<HeldKey>) {
        let RegisteredToken { worker, health, .. } = &self.tokens[index];
        if health.outage().is_some() {
            match self.outages_are_logged_elsewhere {
                true => tracing::debug!(token = &*worker.name, "token back in service"),
                false => tracing::warn!(token = &*worker.name, "token back in service"),
            }
        }
        // The token is put into service before the keys are published: a caller that sees a ready key may
        // use it at once.
        health.set_in_service();
        *lock(&self.tokens[index].refused) = Some(worker.token.refused_keys());
        self.change_keys(|keys_of_token| keys_of_token[index] = keys);
        self.publish(|at, held| if at == index { KeyState::Ready } else { held.state });
    }

    /// Changes the key table and publishes it.
    pub(super) fn change_keys(&self, change: impl FnOnce(&mut Vec<Vec<HeldKey>>)) {
        {
            let mut key_table = self.key_table.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            let mut keys_of_token = key_table.keys_of_token.clone();
            change(&mut keys_of_token);
            *key_table = Arc::new(KeyTable::new(keys_of_token));
        }
        self.publish(|_, held| held.state);
    }

    /// Publishes the key table. `state` maps the token's index and the key with its old state to its new state.
    fn publish(&self, state: impl Fn(usize, &HeldKey) -> KeyState) {
        self.keys.send_if_modified(|published| {
            // Read here, where one thread at a time publishes: otherwise an older key table might be published last.
            let key_table = self.key_table();
            let mut refused = Vec::new();
            let mut is_complete = true;
            for token in &self.tokens {
                match &*lock(&token.refused) {
                    Some(pairs) => refused.extend(pairs.iter().cloned()),
                    None => is_complete = false,
                }
            }
            let mut states: HashMap<(&str, &PublicKey), KeyState> =
                published.iter().map(|held| ((&*held.token, &held.public), held.state)).collect();
            let mut keys = Vec::new();
            for (index, keys_of_token) in key_table.keys_of_token.iter().enumerate() {
                for held in keys_of_token {
                    let old_state = states.remove(&(&*held.token, &held.public)).unwrap_or(KeyState::Ready);
                    let held = HeldKey { state: old_state, ..held.clone() };
                    keys.push(HeldKey { state: state(index, &held), ..held });
                }
            }
            let keys = HeldKeys::new(keys, refused, is_complete);
            let is_changed = *published != keys;
            if is_changed {
                *published = keys;
            }
            is_changed
        });
    }
}

/// The error of a token whose operations do not return.
pub(super) fn hanging() -> TokenError {
    TokenError::Device { operation: "the operation".into(), reason: "it did not return before its deadline".into() }
}

/// Probes a token until it is in service. A probe finds the keys and tests them: only real operations prove that a
/// token works. Keys of a YubiKey that ask a person for a PIN or a touch are not tested.
fn probe_until_in_service(registry: &Weak<TokenRegistry>, index: usize) {
    for probes in 0.. {
        let Some(registry) = registry.upgrade() else { return };
        let RegisteredToken { worker, health, .. } = &registry.tokens[index];
        if !health.pause(probes) {
            return;
        }
        let find_keys = || if worker.hangs() { Err(hanging()) } else { registry.find_keys(&*worker.token) };
        match health.probe(find_keys) {
            Ok(keys) => {
                registry.put_into_service(index, keys);
                if health.end_probing() {
                    return;
                }
                // An operation has failed meanwhile, and this thread may have published the keys as ready after that.
                if let Some(outage) = health.outage() {
                    registry.publish_outage(index, outage.error);
                }
            }
            Err(error) => registry.publish_outage(index, error),
        }
    }
}
