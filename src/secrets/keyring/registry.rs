//! The tokens of a keyring, the keys that were found in them, and the probers of the tokens that are out of service.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock, Weak, mpsc},
    thread,
};

use tokio::sync::watch;

use super::{
    health::{Diagnosis, TokenHealth},
    worker::{Worker, catch_panic},
};
use crate::{
    keys::PublicKey,
    secrets::{
        error::{SecretsError, TokenError},
        held_key::{HeldKey, HeldKeys, KeyState},
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
    key_table: RwLock<Arc<KeyTable>>,
    /// The keys with their states, for subscribers.
    pub(super) keys: watch::Sender<HeldKeys>,
}

/// A token with its worker and its health.
pub(super) struct RegisteredToken {
    pub(super) worker: Worker,
    pub(super) health: TokenHealth,
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
    pub(super) fn new(policies: Policies) -> Self {
        Self { policies, ..Self::default() }
    }

    /// Adds a token before the registry is started.
    pub(super) fn add(&mut self, worker: Worker) {
        self.tokens.push(RegisteredToken { worker, health: TokenHealth::default() });
    }

    /// Publishes the keys that were found in each token. `failures` are the tokens, by index, that are out of service
    /// from the start.
    pub(super) fn start(mut self, keys_of_token: Vec<Vec<HeldKey>>, failures: Vec<(usize, TokenError)>) -> Arc<Self> {
        self.key_table = RwLock::new(Arc::new(KeyTable::new(keys_of_token)));
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

    /// Updates a token's health from the result of an operation, and acts on the diagnosis.
    pub(super) fn record<T>(self: &Arc<Self>, index: usize, key: &PublicKey, result: &Result<T, SecretsError>) {
        let error = match result {
            Ok(_) => None,
            Err(SecretsError::Token { error, .. }) => Some(error),
            // The operation was not begun, or has not ended. A deadline that passed does not count against the token.
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
    fn take_out_of_service(self: &Arc<Self>, index: usize, error: TokenError) {
        self.publish_outage(index, error);
        self.probe(index);
    }

    fn publish_outage(&self, index: usize, error: TokenError) {
        let state = KeyState::after(&error);
        let RegisteredToken { worker, health } = &self.tokens[index];
        if health.set_out_of_service(error.clone()) {
            tracing::warn!(token = &*worker.name, %error, "token out of service; probing it until it is back");
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

    /// Puts a token into service with these keys.
    fn put_into_service(&self, index: usize, keys: Vec<HeldKey>) {
        let RegisteredToken { worker, health } = &self.tokens[index];
        if health.outage().is_some() {
            tracing::warn!(token = &*worker.name, "token back in service");
        }
        // The token is put into service before the keys are published: a caller that sees a ready key may
        // use it at once.
        health.set_in_service();
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
        let key_table = self.key_table();
        self.keys.send_if_modified(|published| {
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
            let is_changed = **published != *keys;
            if is_changed {
                *published = keys.into();
            }
            is_changed
        });
    }
}

/// Probes a token until it is in service. A probe finds the keys and tests them: only real operations prove that a
/// token works. Keys of a YubiKey that ask a person for a PIN or a touch are not tested.
fn probe_until_in_service(registry: &Weak<TokenRegistry>, index: usize) {
    for probes in 0.. {
        let Some(registry) = registry.upgrade() else { return };
        let RegisteredToken { worker, health } = &registry.tokens[index];
        if !health.pause(probes) {
            return;
        }
        match registry.find_keys(&*worker.token) {
            Ok(keys) => return registry.put_into_service(index, keys),
            Err(error) => registry.publish_outage(index, error),
        }
    }
}
