//! The agent's end: [`Secrets`] by way of a keeper.

use std::{
    io,
    os::unix::net::UnixStream as StdStream,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rustix::net::{Shutdown, shutdown};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use super::{
    frame::{frame, value},
    link::{Hear, Link, Reply, lock, read},
    wire::{Ask, Asked, Failure, Held, Hello, Request, Role, Said, Status, VERSION, What, to_clock},
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
    secrets::{
        Context, HeldKey, HeldKeys, KeyState, Secrets, SecretsError, Signature, ToSign, TokenError, TokenInfo, Unwrap,
        Wrap,
        keyring::{Pace, Waiting, check_request, check_wrap, state_of},
        signing::SigningInput,
    },
};

/// Requests under way, at most.
const QUEUE: usize = 1024;
/// The deadline of a request that brings none.
const DEADLINE: Duration = Duration::from_secs(30);
/// The first pause before a keeper that ended is asked for again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A keeper that lived for so long did not fail at its start.
const LIVED: Duration = Duration::from_secs(5);
/// How long a keeper that was started may take until it answers: a network HSM's module may connect first.
const WELCOME: Duration = Duration::from_secs(60);

/// Gets connections to a keeper: to its socket, or to one that is started for it.
#[derive(Clone)]
pub struct Connect {
    open: Arc<dyn Fn() -> io::Result<StdStream> + Send + Sync>,
    /// Who we are was said on them already.
    introduced: bool,
}

impl Connect {
    /// Each time that `open` is called it gives a new connection. It may block.
    pub fn new(open: impl Fn() -> io::Result<StdStream> + Send + Sync + 'static) -> Self {
        Self { open: Arc::new(open), introduced: false }
    }

    /// The same, for connections on which a supervisor has said who we are.
    pub(super) fn introduced(open: impl Fn() -> io::Result<StdStream> + Send + Sync + 'static) -> Self {
        Self { introduced: true, ..Self::new(open) }
    }
}

/// [`Secrets`] of a token that a keeper holds, in another process.
///
/// A keeper that ends is asked for again, with back-off. What was under way then fails with
/// [`SecretsError::Interrupted`], and is not repeated here. Until the keeper is there again, requests fail at once with
/// [`TokenError::Away`], and so [`Several`](crate::secrets::Several) can go on to another.
pub struct KeeperClient {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    name: Arc<str>,
    keys: watch::Sender<HeldKeys>,
    /// What the token is, and why it does not serve.
    state: Mutex<(TokenInfo, Option<TokenError>)>,
    link: Mutex<Option<Arc<Link>>>,
    next: AtomicU64,
    queue: usize,
    pace: Pace,
}

impl KeeperClient {
    /// Connects to the keeper of the token that the configuration calls `name`. It wants a tokio runtime with I/O and
    /// time.
    ///
    /// # Errors
    /// [`SecretsError::Token`]: the keeper refuses ([`TokenError::Config`]), or cannot be reached or started
    /// ([`TokenError::Away`]). A token that is not ready is none: see [`KeeperClient::trouble`].
    pub async fn start(name: &str, connect: Connect) -> Result<Self, SecretsError> {
        Self::start_with(name, connect, QUEUE).await
    }

    /// The same with so many requests under way at most, beyond which they fail with [`SecretsError::Busy`].
    pub async fn start_with(name: &str, connect: Connect, queue: usize) -> Result<Self, SecretsError> {
        let shared = Arc::new(Shared::new(name, queue));
        let link = shared.connect(&connect).await.map_err(|error| SecretsError::Token { token: name.into(), error })?;
        let task = tokio::spawn(live(Arc::downgrade(&shared), connect, Some(link)));
        Ok(Self { shared, task })
    }

    /// The same for one who does not depend on it: a keeper that is not there yet is asked for until it is, and until then no
    /// key is held.
    pub fn start_late(name: &str, connect: Connect) -> Self {
        let shared = Arc::new(Shared::new(name, QUEUE));
        shared.lost();
        let task = tokio::spawn(live(Arc::downgrade(&shared), connect, None));
        Self { shared, task }
    }

    /// Goes on to another keeper, which looks for the token's keys anew: one was made by someone else. No request is lost.
    pub fn look_again(&self) {
        if let Some(link) = &*lock(&self.shared.link) {
            link.successor.notify_one();
        }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Whether the token serves now, as its keys say.
    pub fn state(&self) -> KeyState {
        self.trouble().as_ref().map_or(KeyState::Ready, state_of)
    }

    /// What the token is.
    pub fn info(&self) -> TokenInfo {
        lock(&self.shared.state).0.clone()
    }

    /// Why the token does not serve now; none if it does.
    pub fn trouble(&self) -> Option<TokenError> {
        lock(&self.shared.state).1.clone()
    }
}

impl Drop for KeeperClient {
    fn drop(&mut self) {
        // At once, and not when the runtime comes to it: a supervisor that is let go of next waits for its keepers, and
        // they for the end of their connections.
        if let Some(link) = lock(&self.shared.link).take() {
            let _ = shutdown(&link.stream, Shutdown::Both);
        }
        self.task.abort();
    }
}

/// Goes from one keeper to the next; the first may be there already.
async fn live(shared: Weak<Shared>, connect: Connect, mut link: Option<Arc<Link>>) {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(now) = link {
            let begun = Instant::now();
            link = take_over(&shared, &now, &connect).await;
            if link.is_some() {
                continue;
            }
            if begun.elapsed() > LIVED || now.ending.load(Ordering::Acquire) {
                pause = FIRST_PAUSE;
            }
        }
        link = loop {
            // Full jitter: the agents of a keeper that was restarted do not come all at once.
            tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * jitter())).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
            let Some(shared) = shared.upgrade() else { return };
            match shared.connect(&connect).await {
                Ok(link) => break Some(link),
                Err(error) => {
                    tracing::warn!(token = &*shared.name, %error, "no keeper yet");
                    shared.troubled(error);
                }
            }
        };
    }
}

/// Reads from a keeper until it ends, or another has taken over, which is returned: that one is there before this one is
/// let go, and this one answers what it was asked.
async fn take_over(shared: &Weak<Shared>, link: &Arc<Link>, connect: &Connect) -> Option<Arc<Link>> {
    let mut reading = Reading(Some(tokio::spawn(read(link.clone(), shared.clone()))));
    loop {
        tokio::select! {
            ended = reading.ended() => {
                let shared = shared.upgrade()?;
                if !link.ending.load(Ordering::Acquire) {
                    let why = ended.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
                    tracing::warn!(token = &*shared.name, why, "the keeper is asked for again");
                }
                shared.lost();
                return None;
            }
            () = link.successor.notified() => {
                let shared = shared.upgrade()?;
                match shared.connect(connect).await {
                    Ok(next) => {
                        link.supersede();
                        reading.0 = None;
                        return Some(next);
                    }
                    Err(error) => {
                        tracing::warn!(token = &*shared.name, %error, "no keeper to take over yet");
                        tokio::time::sleep(LONGEST_PAUSE).await;
                        link.successor.notify_one();
                    }
                }
            }
        }
    }
}

/// A task that ends when this is dropped, unless it was let go.
struct Reading(Option<JoinHandle<io::Result<()>>>);

impl Reading {
    async fn ended(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Some(task) => task.await.map_err(io::Error::other)?,
            None => Ok(()),
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Between 0 and 1.
fn jitter() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX)
}

impl Shared {
    fn new(name: &str, queue: usize) -> Self {
        Self {
            name: name.into(),
            keys: watch::Sender::default(),
            state: Mutex::default(),
            link: Mutex::default(),
            next: AtomicU64::new(1),
            queue,
            pace: Pace::default(),
        }
    }

    /// A new connection, on which the keeper has said welcome.
    async fn connect(self: &Arc<Self>, connect: &Connect) -> Result<Arc<Link>, TokenError> {
        let away = |error: io::Error| TokenError::Away(format!("the keeper of the token {:?}: {error}", self.name));
        let open = connect.open.clone();
        let stream = tokio::task::spawn_blocking(move || open()).await.map_err(io::Error::other);
        let link = Arc::new(Link::new(stream.and_then(|stream| stream).map_err(away)?).map_err(away)?);
        if !connect.introduced {
            link.write(frame(&Hello { version: VERSION, role: Role::Agent }).map_err(away)?);
        }
        let welcome = tokio::time::timeout(WELCOME, link.first()).await;
        let content = welcome.map_err(|_| io::ErrorKind::TimedOut.into()).and_then(|first| first).map_err(away)?;
        match value(&content).map_err(away)? {
            Said::Welcome(status) => self.told(status).map_err(away)?,
            Said::Refused(error) => return Err(error),
            _ => return Err(away(io::Error::other("it does not say welcome"))),
        }
        *lock(&self.link) = Some(link.clone());
        Ok(link)
    }

    fn troubled(&self, error: TokenError) {
        self.mark(state_of(&error));
        lock(&self.state).1 = Some(error);
    }

    /// The keeper has ended.
    fn lost(&self) {
        *lock(&self.link) = None;
        self.troubled(TokenError::Away(format!("the keeper of the token {:?} is being started again", self.name)));
    }

    fn mark(&self, state: KeyState) {
        self.keys.send_if_modified(|keys| {
            let changed = keys.iter().any(|held| held.state != state);
            if changed {
                *keys = keys.iter().map(|held| HeldKey { state, ..held.clone() }).collect::<Vec<_>>().into();
            }
            changed
        });
    }

    /// The connection on which a request is to be sent; from now on its answer is waited for there.
    fn enter(
        &self,
        id: u64,
        reply: oneshot::Sender<Result<Reply, Failure>>,
        away: impl Fn() -> SecretsError,
    ) -> Result<Arc<Link>, SecretsError> {
        // Again only if another has just taken over.
        loop {
            let link = lock(&self.link).clone().ok_or_else(&away)?;
            match &mut *lock(&link.pending) {
                Some(pending) if pending.len() >= self.queue => {
                    return Err(SecretsError::Busy { token: self.name.clone() });
                }
                Some(pending) => {
                    pending.insert(id, reply);
                }
                None if link.superseded.load(Ordering::Acquire) => continue,
                None => return Err(away()),
            }
            return Ok(link);
        }
    }

    /// Sends a request and waits for its answer.
    async fn ask(&self, key: &PublicKey, ask: Ask<'_>, cx: &Context) -> Result<Reply, SecretsError> {
        let late = || SecretsError::Deadline { token: self.name.clone() };
        let deadline = cx.deadline.unwrap_or_else(|| Instant::now() + DEADLINE);
        if deadline <= Instant::now() {
            return Err(late());
        }
        let away = || {
            let gone = || TokenError::Away(format!("the keeper of the token {:?} is being started again", self.name));
            SecretsError::Token { token: self.name.clone(), error: lock(&self.state).1.clone().unwrap_or_else(gone) }
        };
        if self.keys.borrow().get(key).is_none() {
            // A token that has not been there yet may hold it.
            let unknown = lock(&self.state).1.is_some();
            return Err(if unknown { away() } else { SecretsError::NotHeld(key.clone()) });
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let request = Request {
            id,
            deadline: Some(to_clock(deadline)),
            kid: cx.kid.as_deref(),
            message_id: cx.message_id.as_deref(),
            peer: cx.peer.as_deref(),
            ask,
        };
        let frame = frame(&Asked::Request(request)).map_err(|_| SecretsError::Request("it is too long"))?;
        let (reply, mut answer) = oneshot::channel();
        let link = self.enter(id, reply, away)?;
        let asked = Asking { link: &link, id };
        let waiting = Waiting::new(&self.pace);
        link.write(frame);
        waiting
            .awake(deadline, || {
                // Who waits awake reads for all.
                let _ = link.drain(self);
                !answer.is_empty() || answer.is_terminated()
            })
            .await;
        let answer = tokio::time::timeout_at(deadline.into(), &mut answer).await.map_err(|_| late())?;
        drop(asked);
        self.pace.took(begun.elapsed());
        match answer {
            Ok(answer) => answer.map_err(|failure| failure.read(&self.name, key)),
            Err(_) => Err(SecretsError::Interrupted { token: self.name.clone() }),
        }
    }
}

impl Hear for Shared {
    /// What the keeper says of its token. Of one that does not serve, the keys that it had stay known.
    fn told(&self, status: Status) -> io::Result<()> {
        let keys: Vec<HeldKey> = status.keys.into_iter().map(Held::read).collect::<io::Result<_>>()?;
        let mut state = lock(&self.state);
        match &status.trouble {
            Some(trouble) if keys.is_empty() => self.mark(state_of(trouble)),
            _ => {
                self.keys.send_if_modified(|known| {
                    let changed = **known != *keys;
                    if changed {
                        *known = keys.into();
                    }
                    changed
                });
            }
        }
        *state = (status.info, status.trouble);
        Ok(())
    }
}

/// A request under way. Dropped before its answer has come, it is called off.
struct Asking<'l> {
    link: &'l Link,
    id: u64,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let unanswered = lock(&self.link.pending).as_mut().is_some_and(|pending| pending.remove(&self.id).is_some());
        if unanswered && let Ok(frame) = frame(&Asked::Cancel(self.id)) {
            self.link.write(frame);
        }
    }
}

#[async_trait]
impl Secrets for KeeperClient {
    fn keys(&self) -> watch::Receiver<HeldKeys> {
        self.shared.keys.subscribe()
    }

    async fn sign(&self, key: &PublicKey, what: &ToSign<'_>, cx: &Context) -> Result<Signature, SecretsError> {
        // The same that the keeper builds and signs; only the signature comes back.
        let input = SigningInput::new(key, what)?;
        match self.shared.ask(key, Ask::Sign { key: key.into(), what: What::from(what) }, cx).await? {
            Reply::Signature(signature) => Ok(input.signed(signature)),
            _ => Err(self.nonsense()),
        }
    }

    async fn unwrap_cek(&self, key: &PublicKey, request: &Unwrap, cx: &Context) -> Result<Cek, SecretsError> {
        check_request(key, request)?;
        match self.shared.ask(key, Ask::unwrap(key, request), cx).await? {
            Reply::Cek(cek) => Ok(cek),
            _ => Err(self.nonsense()),
        }
    }

    async fn wrap_cek(&self, key: &PublicKey, request: &Wrap, cx: &Context) -> Result<Vec<EncryptedKey>, SecretsError> {
        check_wrap(key, request)?;
        match self.shared.ask(key, Ask::wrap(key, request), cx).await? {
            Reply::EncryptedKeys(keys) => Ok(keys),
            _ => Err(self.nonsense()),
        }
    }
}

impl KeeperClient {
    /// An answer to something else.
    fn nonsense(&self) -> SecretsError {
        SecretsError::Interrupted { token: self.shared.name.clone() }
    }
}
