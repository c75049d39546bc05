//! `Secrets` over any number of tokens, in process.
//!
//! Each token has worker threads and one bounded queue. Keys are found once, at start, and again when a token has been
//! away; they are named by their public half. A public key in two tokens is served by the first that is configured, and
//! by the next while that one does not serve. A token that does not is looked at until it does.

mod health;
mod pace;
mod worker;

use std::{
    collections::HashMap,
    sync::{Arc, RwLock, Weak, mpsc},
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    Allow, Context, HeldKey, HeldKeys, KeyState, Policy, Purpose, Secrets, SecretsError, Signature, ToSign, Token,
    TokenError, TokenInfo, Unwrap, Wrap, failover::next_may_serve, policy::Policies, signing::SigningInput,
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
};
use health::{Health, Verdict};
use worker::{Worker, caught};
#[cfg(feature = "keeper")]
pub(in crate::secrets) use {
    health::state_of,
    pace::{Pace, Waiting, make_way},
};

/// Requests that may wait for one token before [`SecretsError::Busy`].
const QUEUE: usize = 1024;
/// Each costs a derivation.
const MOST_RECIPIENTS: usize = 100;
/// How long a keyring that is dropped waits for its threads.
const FAREWELL: Duration = Duration::from_secs(2);

/// [`Secrets`] over tokens in this process.
///
/// It stops its threads when it is dropped, and waits up to two seconds for operations under way: a process that exits
/// while a thread is in a PKCS#11 module may crash in the module's own clean-up (SoftHSM 2.6.1 does).
pub struct Keyring {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    holders: Vec<Holder>,
    policies: Policies,
    table: RwLock<Arc<Table>>,
    keys: watch::Sender<HeldKeys>,
}

/// A token, the way to it, and whether it serves.
struct Holder {
    worker: Worker,
    health: Health,
}

/// What was found.
#[derive(Default)]
struct Table {
    /// The keys of each token, in configured order.
    found: Vec<Vec<HeldKey>>,
    /// For each public key the tokens that hold it, in configured order, as indices.
    routes: HashMap<PublicKey, Vec<usize>>,
}

/// A token of a keyring, and whether it serves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TokenStatus {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What it is.
    pub info: TokenInfo,
    /// Why it does not serve, and since when; none if it does.
    pub trouble: Option<(TokenError, Instant)>,
}

/// Tokens, with the rules for them.
#[derive(Default)]
pub struct KeyringBuilder {
    tokens: Vec<Arc<dyn Token>>,
    policies: Policies,
    queue: Option<usize>,
    patient: bool,
    here: bool,
}

impl KeyringBuilder {
    /// Adds a token, behind those that are there.
    pub fn token(mut self, token: impl Token + 'static) -> Self {
        self.tokens.push(Arc::new(token));
        self
    }

    /// Adds a token that is shared with others.
    pub fn shared_token(mut self, token: Arc<dyn Token>) -> Self {
        self.tokens.push(token);
        self
    }

    /// The rules for all keys of a token, by its name.
    pub fn token_policy(mut self, token: &str, policy: Policy) -> Self {
        self.policies.tokens.insert(token.to_owned(), policy);
        self
    }

    /// The rules for one key, which come before its token's.
    pub fn key_policy(mut self, key: PublicKey, policy: Policy) -> Self {
        self.policies.keys.insert(key, policy);
        self
    }

    /// How many requests may wait for one token; 1,024 if not said.
    pub fn queue(mut self, requests: usize) -> Self {
        self.queue = Some(requests);
        self
    }

    /// Starts although a token is away or has no PIN: it serves from when it is there.
    pub fn patient(mut self) -> Self {
        self.patient = true;
        self
    }

    /// Does each operation on the thread of who asks, and so blocks it: for who has threads of its own, as the keeper.
    pub fn on_the_callers_thread(mut self) -> Self {
        self.here = true;
        self
    }

    /// Finds the keys and starts the threads. A key whose custody is below its minimum is an error, here and not at the
    /// first message.
    pub async fn start(self) -> Result<Keyring, SecretsError> {
        // Tokens block, some for seconds.
        let started = tokio::task::spawn_blocking(move || self.start_blocking());
        started.await.map_err(|_| SecretsError::Stopped)?
    }

    /// [`KeyringBuilder::start`] for who may block.
    pub fn start_blocking(self) -> Result<Keyring, SecretsError> {
        let queue = self.queue.unwrap_or(QUEUE);
        let mut inner = Inner { policies: self.policies, ..Inner::default() };
        let mut found = Vec::new();
        let mut troubles = Vec::new();
        for (index, token) in self.tokens.into_iter().enumerate() {
            match inner.find(&*token) {
                Ok(keys) => found.push(keys),
                Err(error) if self.patient && error.cause() != super::Cause::Permanent => {
                    found.push(Vec::new());
                    troubles.push((index, error));
                }
                Err(error) => return Err(SecretsError::Token { token: token.name().into(), error }),
            }
            let worker = if self.here { Worker::here(token) } else { Worker::start(token, queue) };
            inner.holders.push(Holder { worker, health: Health::default() });
        }
        inner.table = RwLock::new(Arc::new(Table::new(found)));
        let inner = Arc::new(inner);
        inner.publish(|_, _| KeyState::Ready);
        for (index, error) in troubles {
            inner.trouble(index, error);
        }
        Ok(Keyring { inner })
    }
}

impl Table {
    fn new(found: Vec<Vec<HeldKey>>) -> Self {
        let mut routes: HashMap<PublicKey, Vec<usize>> = HashMap::new();
        for (index, keys) in found.iter().enumerate() {
            for key in keys {
                routes.entry(key.public.clone()).or_default().push(index);
            }
        }
        Self { found, routes }
    }
}

impl Keyring {
    /// A keyring over tokens, without rules.
    pub async fn start<T: Token + 'static>(tokens: impl IntoIterator<Item = T>) -> Result<Self, SecretsError> {
        tokens.into_iter().fold(Self::builder(), KeyringBuilder::token).start().await
    }

    /// A keyring with rules.
    pub fn builder() -> KeyringBuilder {
        KeyringBuilder::default()
    }

    /// The tokens, in configured order.
    pub fn tokens(&self) -> impl Iterator<Item = &Arc<dyn Token>> {
        self.inner.holders.iter().map(|holder| &holder.worker.token)
    }

    /// The tokens, in configured order, and whether each serves.
    pub fn status(&self) -> Vec<TokenStatus> {
        let status = |holder: &Holder| TokenStatus {
            name: holder.worker.name.clone(),
            info: holder.worker.token.info(),
            trouble: holder.health.trouble(),
        };
        self.inner.holders.iter().map(status).collect()
    }

    /// Looks for the keys of all tokens again: they were locked or unlocked.
    #[cfg(feature = "keeper")]
    pub(in crate::secrets) fn look_again(&self) {
        for index in 0..self.inner.holders.len() {
            self.inner.look(index);
        }
    }

    /// Whether a key's custody is below its minimum: the error of that.
    #[cfg(feature = "keeper")]
    pub(in crate::secrets) fn is_below_minimum(&self, key: &HeldKey) -> Option<TokenError> {
        self.inner.is_below_minimum(&key.token, key)
    }

    /// Changes what is known of a token's keys: one was made or deleted just now.
    #[cfg(feature = "keeper")]
    pub(in crate::secrets) fn change(&self, token: &str, change: impl FnOnce(&mut Vec<HeldKey>)) {
        let at = self.inner.holders.iter().position(|holder| *holder.worker.name == *token);
        if let Some(index) = at {
            self.inner.change(|found| change(&mut found[index]));
        }
    }

    /// Does an operation on the first token that holds the key and serves.
    async fn route<T, F>(&self, key: &PublicKey, allow: Allow, cx: &Context, operation: F) -> Result<T, SecretsError>
    where
        T: Send + 'static,
        F: Fn(&dyn Token) -> Result<T, TokenError> + Clone + Send + 'static,
    {
        let table = self.inner.table();
        let holders = table.routes.get(key).ok_or_else(|| SecretsError::NotHeld(key.clone()))?;
        let mut failed = None;
        for &index in holders {
            let Holder { worker, health } = &self.inner.holders[index];
            let policy = self.inner.policies.of(&worker.name, key);
            if policy.allow.is_some_and(|allowed| !allowed.contains(&allow)) {
                return Err(SecretsError::NotAllowed { key: key.clone(), operation: allow.name() });
            }
            if let Some((error, _)) = health.trouble() {
                failed.get_or_insert(SecretsError::Token { token: worker.name.clone(), error });
                continue;
            }
            let (operation, purpose) = (operation.clone(), Purpose { operation: allow, peer: cx.peer.clone() });
            let told = move |token: &dyn Token| {
                token.is_for(&purpose);
                operation(token)
            };
            let result = worker.call(cx, told).await;
            self.inner.judge(index, key, &result);
            let asks = |held: &HeldKey| held.public == *key && (held.asks_pin || held.asks_touch);
            match result {
                Err(error) if next_may_serve(&error, table.found[index].iter().any(asks)) => failed = Some(error),
                result => return result,
            }
        }
        Err(failed.unwrap_or_else(|| SecretsError::NotHeld(key.clone())))
    }
}

impl Inner {
    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// The keys of a token, if their custody is what it must be.
    fn find(&self, token: &dyn Token) -> Result<Vec<HeldKey>, TokenError> {
        let keys = caught(|token| token.keys(), token)?;
        match keys.iter().find_map(|key| self.is_below_minimum(token.name(), key)) {
            Some(error) => Err(error),
            None => Ok(keys),
        }
    }

    fn is_below_minimum(&self, token: &str, key: &HeldKey) -> Option<TokenError> {
        let (custody, minimum) = (key.custody?, self.policies.of(token, &key.public).minimum_custody?);
        let below = || {
            let public = &key.public;
            TokenError::Custody(format!(
                "the key {public} is served with custody {custody}, and minimum_custody is {minimum}"
            ))
        };
        (custody < minimum).then(below)
    }

    /// Draws from the end of an operation what it says of the token.
    fn judge<T>(self: &Arc<Self>, index: usize, key: &PublicKey, result: &Result<T, SecretsError>) {
        let error = match result {
            Ok(_) => None,
            Err(SecretsError::Token { error, .. }) => Some(error),
            // Not begun, or not ended: it says nothing.
            Err(_) => return,
        };
        match (self.holders[index].health.judge(error), error) {
            (Verdict::Well, _) | (_, None) => {}
            (Verdict::KeyGone, _) => {
                let token = &*self.holders[index].worker.name;
                tracing::warn!(token, %key, "a key is not where it was: the keys are looked for again");
                self.publish(|at, held| if at == index && held.public == *key { KeyState::Away } else { held.state });
                self.look(index);
            }
            (Verdict::Trouble, Some(error)) => self.trouble(index, error.clone()),
        }
    }

    /// A token does not serve: its keys say so, and it is looked at until it does.
    fn trouble(self: &Arc<Self>, index: usize, error: TokenError) {
        let Holder { worker, health } = &self.holders[index];
        if health.troubled(error.clone()) {
            tracing::warn!(token = &*worker.name, %error, "the token does not serve; it is looked at until it does");
        }
        self.publish(|at, held| if at == index { health::state_of(&error) } else { held.state });
        self.look(index);
    }

    /// Looks for the keys of a token until they are found, on a thread of its own.
    fn look(self: &Arc<Self>, index: usize) {
        self.holders[index].health.probe(|end| {
            let weak = Arc::downgrade(self);
            let name = format!("{} prober", self.holders[index].worker.name);
            let probe = move || {
                look_until_found(&weak, index);
                drop(end);
            };
            let started = thread::Builder::new().name(name).spawn(probe);
            if let Err(error) = &started {
                tracing::error!(%error, "no thread to look at a token with");
            }
            started.is_ok()
        });
    }

    /// The token serves, with these keys.
    fn found(&self, index: usize, keys: Vec<HeldKey>) {
        let Holder { worker, health } = &self.holders[index];
        if health.trouble().is_some() {
            tracing::warn!(token = &*worker.name, "the token serves again");
        }
        // First this: who sees that a key is ready may use it.
        health.found();
        self.change(|found| found[index] = keys);
        self.publish(|at, held| if at == index { KeyState::Ready } else { held.state });
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Vec<HeldKey>>)) {
        {
            let mut table = self.table.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            let mut found = table.found.clone();
            change(&mut found);
            *table = Arc::new(Table::new(found));
        }
        self.publish(|_, held| held.state);
    }

    /// Tells those who watch what is held, with the states that have changed.
    fn publish(&self, state: impl Fn(usize, &HeldKey) -> KeyState) {
        let table = self.table();
        self.keys.send_if_modified(|known| {
            let mut before: HashMap<(&str, &PublicKey), KeyState> =
                known.iter().map(|held| ((&*held.token, &held.public), held.state)).collect();
            let mut now = Vec::new();
            for (index, keys) in table.found.iter().enumerate() {
                for held in keys {
                    let known = before.remove(&(&*held.token, &held.public)).unwrap_or(KeyState::Ready);
                    let held = HeldKey { state: known, ..held.clone() };
                    now.push(HeldKey { state: state(index, &held), ..held });
                }
            }
            let changed = **known != *now;
            if changed {
                *known = now.into();
            }
            changed
        });
    }
}

/// A real operation is what shows that a token serves: the keys are found and proved.
fn look_until_found(keyring: &Weak<Inner>, index: usize) {
    for looks in 0.. {
        let Some(inner) = keyring.upgrade() else { return };
        let health = &inner.holders[index].health;
        if !health.pause(looks) {
            return;
        }
        match inner.find(&*inner.holders[index].worker.token) {
            Ok(keys) => return inner.found(index, keys),
            Err(error) => {
                let news = health.troubled(error.clone());
                if news {
                    let token = &*inner.holders[index].worker.name;
                    tracing::warn!(token, %error, "the token does not serve; it is looked at until it does");
                }
                inner.publish(|at, held| if at == index { health::state_of(&error) } else { held.state });
            }
        }
    }
}

impl Drop for Keyring {
    fn drop(&mut self) {
        let until = Instant::now() + FAREWELL;
        let wait = |end: mpsc::Receiver<()>| {
            let _ = end.recv_timeout(until.saturating_duration_since(Instant::now()));
        };
        self.inner.holders.iter().filter_map(|holder| holder.health.stop()).for_each(wait);
        // A prober that is stuck in its token has it still.
        if let Some(inner) = Arc::into_inner(std::mem::take(&mut self.inner)) {
            let ends: Vec<_> = inner.holders.into_iter().filter_map(|holder| holder.worker.stop()).collect();
            ends.into_iter().for_each(wait);
        }
    }
}

#[async_trait]
impl Secrets for Keyring {
    fn keys(&self) -> watch::Receiver<HeldKeys> {
        self.inner.keys.subscribe()
    }

    async fn sign(&self, key: &PublicKey, what: &ToSign<'_>, cx: &Context) -> Result<Signature, SecretsError> {
        let mut input = SigningInput::new(key, what)?;
        let bytes: Arc<[u8]> = std::mem::take(&mut input.bytes).into();
        let signer = key.clone();
        let signature = self.route(key, Allow::from(what), cx, move |token| token.sign(&signer, &bytes)).await?;
        Ok(input.signed(signature))
    }

    async fn unwrap_cek(&self, key: &PublicKey, request: &Unwrap, cx: &Context) -> Result<Cek, SecretsError> {
        check_request(key, request)?;
        let (recipient, request) = (key.clone(), Arc::new(request.clone()));
        self.route(key, Allow::Unwrap, cx, move |token| token.unwrap_cek(&recipient, &request)).await
    }

    async fn wrap_cek(&self, key: &PublicKey, request: &Wrap, cx: &Context) -> Result<Vec<EncryptedKey>, SecretsError> {
        check_wrap(key, request)?;
        let (sender, request) = (key.clone(), Arc::new(request.clone()));
        self.route(key, Allow::Wrap, cx, move |token| token.wrap_cek(&sender, &request)).await
    }
}

/// Whether a request to unwrap has a meaning.
pub(in crate::secrets) fn check_request(key: &PublicKey, request: &Unwrap) -> Result<(), SecretsError> {
    let peers = [Some(&request.epk), request.sender.as_ref().map(|sender| &sender.key)];
    check_curves(key, peers.into_iter().flatten())?;
    match request.encrypted_key.len() {
        40 | 72 => Ok(()),
        _ => Err(SecretsError::Request("a wrapped content key has 40 or 72 bytes")),
    }
}

/// Whether a request to wrap has a meaning.
pub(in crate::secrets) fn check_wrap(key: &PublicKey, request: &Wrap) -> Result<(), SecretsError> {
    if request.recipients.len() > MOST_RECIPIENTS {
        return Err(SecretsError::Request("a message has at most 100 recipients"));
    }
    check_curves(key, request.recipients.iter().map(|(recipient, _)| recipient))?;
    let length = key.curve().coordinate_length();
    match request.recipients.iter().all(|(_, ze)| ze.as_bytes().len() == length) {
        true => Ok(()),
        false => Err(SecretsError::Request("a Ze has the length of the curve's coordinates")),
    }
}

/// No token is asked to agree on a key across curves.
fn check_curves<'a>(key: &PublicKey, peers: impl IntoIterator<Item = &'a PublicKey>) -> Result<(), SecretsError> {
    if !key.curve().agrees() {
        return Err(SecretsError::Request("the key's curve does not agree on keys"));
    }
    if peers.into_iter().any(|peer| peer.curve() != key.curve()) {
        return Err(SecretsError::Request("the peer's key is on another curve"));
    }
    Ok(())
}
