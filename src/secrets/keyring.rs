//! `Secrets` over any number of tokens, in process.
//!
//! Each token has worker threads and one bounded queue. Keys are found once, at start, and named by their public half.
//! A public key in two tokens is served by the first that is configured, and by the next when that one is away.

use std::{
    collections::HashMap,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::{oneshot, watch};

use super::{
    Allow, Context, HeldKey, HeldKeys, KeyState, Policy, Secrets, SecretsError, Signature, ToSign, Token, TokenError,
    Unwrap, Wrap, policy::Policies, signing::signing_input,
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
};

/// Requests that may wait for one token before [`SecretsError::Busy`].
const QUEUE: usize = 1024;
/// The deadline of a request that brings none.
const DEADLINE: Duration = Duration::from_secs(30);
/// A token that is usually quicker than this is waited for awake: putting a thread to sleep and waking it costs as much
/// as such an operation (some 100 microseconds on an idle virtual machine).
const QUICK: Duration = Duration::from_millis(1);
/// How long a quick token's thread stays awake for the next request.
const AWAKE: Duration = Duration::from_micros(100);
/// How long a keyring that is dropped waits for its threads.
const FAREWELL: Duration = Duration::from_secs(2);

/// [`Secrets`] over tokens in this process.
///
/// It stops its threads when it is dropped, and waits up to two seconds for operations under way: a process that exits
/// while a thread is in a PKCS#11 module may crash in the module's own clean-up (SoftHSM 2.6.1 does).
pub struct Keyring {
    tokens: Vec<Worker>,
    /// For each public key the tokens that hold it, in configured order, as indices into `tokens`.
    routes: HashMap<PublicKey, Vec<usize>>,
    policies: Policies,
    keys: watch::Sender<HeldKeys>,
    /// Whether any key was ever away.
    some_away: AtomicBool,
}

/// A token and the way to its threads.
struct Worker {
    token: Arc<dyn Token>,
    name: Arc<str>,
    queue: mpsc::SyncSender<Job>,
    pace: Arc<Pace>,
    /// Disconnected once every thread has let go of the token.
    ended: Mutex<mpsc::Receiver<()>>,
}

type Job = Box<dyn FnOnce(&dyn Token) + Send>;

/// How long a token usually takes, and how many wait for it.
#[derive(Default)]
struct Pace {
    /// Nanoseconds of an operation, the last eight or so; 0 before the first.
    usual: AtomicU64,
    waiting: AtomicUsize,
}

impl Pace {
    fn took(&self, time: Duration) {
        let time = time.as_nanos().try_into().unwrap_or(u64::MAX) / 8;
        let usual = self.usual.load(Ordering::Relaxed);
        let usual = if usual == 0 { time.saturating_mul(8) } else { (usual - usual / 8).saturating_add(time) };
        self.usual.store(usual, Ordering::Relaxed);
    }

    /// The usual time, of a token that is quick.
    fn quick(&self) -> Option<Duration> {
        let usual = Duration::from_nanos(self.usual.load(Ordering::Relaxed));
        (!usual.is_zero() && usual < QUICK).then_some(usual)
    }
}

/// One that waits for a token.
struct Waiting<'p>(&'p Pace);

impl<'p> Waiting<'p> {
    /// And whether nobody else does.
    fn new(pace: &'p Pace) -> (Self, bool) {
        let others = pace.waiting.fetch_add(1, Ordering::Relaxed);
        (Self(pace), others == 0)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tokens, with the rules for them.
#[derive(Default)]
pub struct KeyringBuilder {
    tokens: Vec<Arc<dyn Token>>,
    policies: Policies,
    queue: Option<usize>,
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

    /// Finds the keys and starts the threads. A key whose custody is below its minimum is an error, here and not at the
    /// first message.
    pub async fn start(self) -> Result<Keyring, SecretsError> {
        // Tokens block, some for seconds.
        let found = tokio::task::spawn_blocking(move || {
            let found: Result<Vec<_>, _> = self.tokens.into_iter().map(find_keys).collect();
            found.map(|found| (found, self.policies, self.queue.unwrap_or(QUEUE)))
        });
        let (found, policies, queue) = found.await.map_err(|_| SecretsError::Stopped)??;

        let mut tokens = Vec::new();
        let mut routes: HashMap<PublicKey, Vec<usize>> = HashMap::new();
        let mut keys = Vec::new();
        for (index, (token, held)) in found.into_iter().enumerate() {
            for key in &held {
                check_custody(token.name(), key, &policies)?;
                routes.entry(key.public.clone()).or_default().push(index);
            }
            keys.extend(held);
            tokens.push(Worker::start(token, queue));
        }
        Ok(Keyring {
            tokens,
            routes,
            policies,
            keys: watch::Sender::new(keys.into()),
            some_away: AtomicBool::new(false),
        })
    }
}

fn find_keys(token: Arc<dyn Token>) -> Result<(Arc<dyn Token>, Vec<HeldKey>), SecretsError> {
    match token.keys() {
        Ok(keys) => Ok((token, keys)),
        Err(error) => Err(SecretsError::Token { token: token.name().into(), error }),
    }
}

fn check_custody(token: &str, key: &HeldKey, policies: &Policies) -> Result<(), SecretsError> {
    match (key.custody, policies.of(token, &key.public).minimum_custody) {
        (Some(custody), Some(minimum)) if custody < minimum => Err(SecretsError::Token {
            token: token.into(),
            error: TokenError::Custody(format!(
                "the key {} is served with custody {custody}, and minimum_custody is {minimum}",
                key.public
            )),
        }),
        _ => Ok(()),
    }
}

impl Worker {
    fn start(token: Arc<dyn Token>, queue: usize) -> Self {
        let (sender, receiver) = mpsc::sync_channel::<Job>(queue);
        let receiver = Arc::new(Mutex::new(receiver));
        let (end, ended) = mpsc::channel::<()>();
        let pace = Arc::<Pace>::default();
        for number in 0..token.concurrency().max(1) {
            let (token, receiver, end) = (token.clone(), receiver.clone(), end.clone());
            let pace = pace.clone();
            thread::Builder::new()
                .name(format!("{} {number}", token.name()))
                .spawn(move || {
                    // The lock is held while waiting, not while working.
                    while let Some(job) = { next(&receiver.lock().expect("no holder panics"), &pace) } {
                        // A token's code that panics fails its request; the thread is there for the next one.
                        let _ = panic::catch_unwind(AssertUnwindSafe(|| job(&*token)));
                    }
                    // In this order: the token may be closed by this, and that is what is waited for.
                    drop(token);
                    drop(end);
                })
                .expect("the system has a thread to spare at start");
        }
        let name = token.name().into();
        Self { token, name, queue: sender, pace, ended: Mutex::new(ended) }
    }

    /// Lets go of the token, and returns what to wait on until its threads have too.
    fn stop(self) -> mpsc::Receiver<()> {
        self.ended.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Does an operation on the token's thread, unless its deadline has passed or its caller has gone by then.
    async fn call<T: Send + 'static>(
        &self,
        cx: &Context,
        operation: impl FnOnce(&dyn Token) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, SecretsError> {
        let deadline = cx.deadline.unwrap_or_else(|| Instant::now() + DEADLINE);
        let (reply, mut answer) = oneshot::channel();
        let pace = self.pace.clone();
        let job = move |token: &dyn Token| {
            let begun = Instant::now();
            if !reply.is_closed() && begun < deadline {
                let result = operation(token);
                pace.took(begun.elapsed());
                let _ = reply.send(result);
            }
        };
        let (_waiting, alone) = Waiting::new(&self.pace);
        self.queue.try_send(Box::new(job)).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => SecretsError::Busy { token: self.name.clone() },
            mpsc::TrySendError::Disconnected(_) => SecretsError::Stopped,
        })?;
        if let Some(usual) = self.pace.quick().filter(|_| alone) {
            // Other tasks and timers of the runtime run between two looks.
            let until = (Instant::now() + 2 * usual).min(deadline);
            while answer.is_empty() && !answer.is_terminated() && Instant::now() < until {
                tokio::task::yield_now().await;
            }
        }
        match tokio::time::timeout_at(deadline.into(), &mut answer).await {
            Ok(Ok(result)) => result.map_err(|error| SecretsError::Token { token: self.name.clone(), error }),
            // Dropped unanswered before its deadline: the token's code panicked.
            Ok(Err(_)) if Instant::now() < deadline => Err(SecretsError::Token {
                token: self.name.clone(),
                error: TokenError::Device { operation: "the operation", reason: "the token's code panicked".into() },
            }),
            // The deadline passed in the queue, or while the token worked.
            Ok(Err(_)) | Err(_) => Err(SecretsError::Deadline { token: self.name.clone() }),
        }
    }
}

/// The next request; none when the keyring is gone.
fn next(queue: &mpsc::Receiver<Job>, pace: &Pace) -> Option<Job> {
    if pace.quick().is_some() {
        let until = Instant::now() + AWAKE;
        while Instant::now() < until {
            match queue.try_recv() {
                Ok(job) => return Some(job),
                Err(mpsc::TryRecvError::Empty) => std::hint::spin_loop(),
                Err(mpsc::TryRecvError::Disconnected) => return None,
            }
        }
    }
    queue.recv().ok()
}

impl Drop for Keyring {
    fn drop(&mut self) {
        let ends: Vec<_> = self.tokens.drain(..).map(Worker::stop).collect();
        let until = Instant::now() + FAREWELL;
        for end in ends {
            let _ = end.recv_timeout(until.saturating_duration_since(Instant::now()));
        }
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
        self.tokens.iter().map(|worker| &worker.token)
    }

    /// Does an operation on the first token that holds the key and is there.
    async fn route<T, F>(&self, key: &PublicKey, allow: Allow, cx: &Context, operation: F) -> Result<T, SecretsError>
    where
        T: Send + 'static,
        F: Fn(&dyn Token) -> Result<T, TokenError> + Clone + Send + 'static,
    {
        let holders = self.routes.get(key).ok_or_else(|| SecretsError::NotHeld(key.clone()))?;
        let mut away = None;
        for &index in holders {
            let worker = &self.tokens[index];
            let policy = self.policies.of(&worker.name, key);
            if policy.allow.is_some_and(|allowed| !allowed.contains(&allow)) {
                return Err(SecretsError::NotAllowed { key: key.clone(), operation: allow.name() });
            }
            let result = worker.call(cx, operation.clone()).await;
            if let Err(SecretsError::Token { error: TokenError::Away(_) | TokenError::KeyGone, .. }) = &result {
                self.mark(&worker.name, key, KeyState::Away);
                away = Some(result);
                continue;
            }
            // What serves is there again. Looking for it takes time that few requests need to spend.
            if result.is_ok() && self.some_away.load(Ordering::Relaxed) {
                self.mark(&worker.name, key, KeyState::Ready);
            }
            return result;
        }
        away.unwrap_or_else(|| Err(SecretsError::NotHeld(key.clone())))
    }

    /// Tells those who watch that a key's state has changed, if it has.
    fn mark(&self, token: &str, key: &PublicKey, state: KeyState) {
        if state == KeyState::Away {
            self.some_away.store(true, Ordering::Relaxed);
        }
        let changed = self.keys.send_if_modified(|keys| {
            let differs = |held: &HeldKey| *held.token == *token && held.public == *key && held.state != state;
            let Some(position) = keys.iter().position(differs) else { return false };
            let mut changed = keys.to_vec();
            changed[position].state = state;
            *keys = changed.into();
            true
        });
        if changed {
            tracing::warn!(token, %key, ?state, "a key's state has changed");
        }
    }
}

#[async_trait]
impl Secrets for Keyring {
    fn keys(&self) -> watch::Receiver<HeldKeys> {
        self.keys.subscribe()
    }

    async fn sign(&self, key: &PublicKey, what: &ToSign<'_>, cx: &Context) -> Result<Signature, SecretsError> {
        let algorithm =
            key.curve().signature_algorithm().ok_or(SecretsError::Request("the key's curve does not sign"))?;
        let (protected, payload) = signing_input(algorithm, what)?;
        let input: Arc<[u8]> = format!("{protected}.{payload}").into_bytes().into();
        let signer = key.clone();
        let signature = self.route(key, Allow::from(what), cx, move |token| token.sign(&signer, &input)).await?;
        Ok(Signature { algorithm, protected, payload, signature })
    }

    async fn unwrap_cek(&self, key: &PublicKey, request: &Unwrap, cx: &Context) -> Result<Cek, SecretsError> {
        let peers = [Some(&request.epk), request.sender.as_ref().map(|sender| &sender.key)];
        check_curves(key, peers.into_iter().flatten())?;
        if ![40, 72].contains(&request.encrypted_key.len()) {
            return Err(SecretsError::Request("a wrapped content key has 40 or 72 bytes"));
        }
        let (recipient, request) = (key.clone(), Arc::new(request.clone()));
        self.route(key, Allow::Unwrap, cx, move |token| token.unwrap_cek(&recipient, &request)).await
    }

    async fn wrap_cek(&self, key: &PublicKey, request: &Wrap, cx: &Context) -> Result<Vec<EncryptedKey>, SecretsError> {
        check_curves(key, request.recipients.iter().map(|(recipient, _)| recipient))?;
        let (sender, request) = (key.clone(), Arc::new(request.clone()));
        self.route(key, Allow::Wrap, cx, move |token| token.wrap_cek(&sender, &request)).await
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
