//! The keeper: one token, served to who may connect, by the rules, with a line in the audit for each operation.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    io::{self, Write},
    num::NonZeroU32,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::{runtime::Runtime, sync::watch};
use zeroize::Zeroizing;

use super::{
    Peer,
    answers::Answers,
    audit::Audit,
    connection::Connection,
    errand::{Done, Errand},
    frame::{frame, value},
    wire::{Answer, Asked, Failure, Held, Role, Said, Status, VERSION},
};
use crate::{
    keys::PublicKey,
    secrets::{Cause, Custodian, HeldKeys, Keyring, Policy, Secrets, SecretsError, TokenError, keyring::Pace},
};

/// A token that is gone for so long may need a new process: SoftHSM 2.6.1 never sees one again that came back.
const GONE: Duration = Duration::from_millis(1500);
/// How often the keeper looks at itself.
const WATCH: Duration = Duration::from_millis(100);

/// How a keeper keeps.
#[derive(Debug, Clone)]
pub struct KeeperOptions {
    /// The file of the audit; none is for tests.
    pub audit: Option<PathBuf>,
    /// Operations a second for each key, at most; as many may come at once. None: as fast as the token is.
    pub rate: Option<NonZeroU32>,
    /// An operation that takes longer has hung: the keeper ends, for another to begin anew.
    pub hang: Duration,
    /// The rules of the token.
    pub policy: Policy,
    /// The rules of single keys.
    pub key_policies: Vec<(PublicKey, Policy)>,
}

impl Default for KeeperOptions {
    fn default() -> Self {
        Self {
            audit: None,
            rate: NonZeroU32::new(10_000),
            hang: Duration::from_secs(60),
            policy: Policy::default(),
            key_policies: Vec::new(),
        }
    }
}

/// Why a keeper has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nobody needs it any more.
    Done,
    /// The token is gone, and a new process may be what it needs when it comes back.
    TokenGone,
    /// The token's module does not return.
    Hung,
    /// The module has used up what only a new process gives back; all that was asked here was answered.
    UsedUp,
}

/// A token that is kept.
pub struct Keeper {
    pub(super) token: Arc<dyn Custodian>,
    pub(super) name: Arc<str>,
    pub(super) keyring: Keyring,
    pub(super) audit: Option<Audit>,
    rate: Option<NonZeroU32>,
    limits: Mutex<HashMap<PublicKey, Arc<DefaultDirectRateLimiter>>>,
    /// Keys with which the agent may sign one rotation.
    armed: Mutex<HashSet<PublicKey>>,
    connections: Mutex<Vec<Weak<Connection>>>,
    /// Another keeper is to take over.
    ending: AtomicBool,
    hang: Duration,
    /// When each thread began what it does; 0 if it does nothing. Milliseconds since `begun`.
    under_way: Mutex<Vec<Weak<AtomicU64>>>,
    begun: Instant,
    pace: Pace,
    /// What is held, as it was told last to all who are connected.
    told: Mutex<watch::Receiver<HeldKeys>>,
    /// Operations are done on the thread that asks; this only drives their futures.
    pub(super) runtime: Runtime,
}

impl Keeper {
    /// Keeps a token. It need not be there yet: it serves from when it is.
    ///
    /// # Errors
    /// [`SecretsError::Token`] if the configuration is to blame, [`SecretsError::Audit`] if the audit cannot be written.
    pub fn start(token: Arc<dyn Custodian>, options: KeeperOptions) -> Result<Arc<Self>, SecretsError> {
        let audit = options
            .audit
            .as_ref()
            .map(|path| Audit::open(path).map_err(|error| SecretsError::Audit(format!("{}: {error}", path.display()))));
        let name: Arc<str> = token.name().into();
        let mut keyring = Keyring::builder()
            .shared_token(token.clone())
            .patient()
            .on_the_callers_thread()
            .token_policy(&name, options.policy);
        for (key, policy) in options.key_policies {
            keyring = keyring.key_policy(key, policy);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let keyring = keyring.start_blocking()?;
        Ok(Arc::new(Self {
            audit: audit.transpose()?,
            told: Mutex::new(keyring.keys()),
            keyring,
            token,
            name,
            rate: options.rate,
            limits: Mutex::default(),
            armed: Mutex::default(),
            connections: Mutex::default(),
            ending: AtomicBool::new(false),
            hang: options.hang,
            under_way: Mutex::default(),
            begun: Instant::now(),
            pace: Pace::default(),
            runtime: runtime.map_err(|_| SecretsError::Stopped)?,
        }))
    }

    /// Serves one connection to its end, or to the keeper's.
    pub fn serve(self: &Arc<Self>, stream: UnixStream, most: Role) -> Ended {
        let (done, ended) = mpsc::channel::<()>();
        let keeper = self.clone();
        let attends = thread::spawn(move || {
            let _done = done;
            keeper.attend(stream, |_, role| role <= most);
        });
        let ended = self.watch(|wait| ended.recv_timeout(wait) != Err(mpsc::RecvTimeoutError::Timeout), || {});
        if matches!(ended, Ended::Done | Ended::UsedUp) {
            // Whoever lets go of the keeper next is the last, and waits for the token's threads.
            let _ = attends.join();
        }
        ended
    }

    /// Serves all who connect and may: `may` is told who it is and what is wanted. Without end, but for the keeper's own.
    /// `succeed` is called when another is to take over, that listens on the same socket.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn listen(
        self: &Arc<Self>,
        listener: UnixListener,
        may: impl Fn(&Peer, Role) -> bool + Send + Sync + 'static,
        succeed: impl FnOnce(),
    ) -> io::Result<Ended> {
        listener.set_nonblocking(true)?;
        let (keeper, may) = (self.clone(), Arc::new(may));
        thread::spawn(move || {
            // Whoever comes after the end is for the next keeper.
            while !keeper.ending.load(Ordering::Acquire) {
                match accept(&listener) {
                    Ok(Some(stream)) => {
                        let (keeper, may) = (keeper.clone(), may.clone());
                        // Who may not be even an agent costs no thread.
                        let peer = Peer::of(&stream);
                        if !may(&peer, Role::Agent) {
                            let Peer { uid, pid } = peer;
                            tracing::warn!(?uid, ?pid, "one who may not was turned away");
                            turn_away(&stream);
                            continue;
                        }
                        let attends = move || keeper.attend(stream, &*may);
                        if let Err(error) = thread::Builder::new().spawn(attends) {
                            tracing::error!(%error, "no thread for one who connected");
                            thread::sleep(WATCH);
                        }
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%error, "accept");
                        thread::sleep(WATCH);
                    }
                }
            }
        });
        let left = |wait| {
            thread::sleep(wait);
            self.ending.load(Ordering::Acquire) && !lock(&self.connections).iter().any(|it| it.strong_count() > 0)
        };
        Ok(self.watch(left, succeed))
    }

    /// Looks at the token and at the operations under way until the work is done, or cannot go on here.
    fn watch(&self, mut done: impl FnMut(Duration) -> bool, succeed: impl FnOnce()) -> Ended {
        let mut succeed = Some(succeed);
        while !done(WATCH) {
            self.tell_of_changes();
            if self.hangs() {
                tracing::error!(
                    token = &*self.name,
                    "an operation does not return: the keeper ends, and a new one begins"
                );
                return Ended::Hung;
            }
            let gone =
                |(error, since): (TokenError, Instant)| error.cause() == Cause::TokenGone && since.elapsed() > GONE;
            let gone = self.token.needs_new_process()
                && self.keyring.status().into_iter().any(|status| status.trouble.is_some_and(gone));
            if (gone || self.token.is_used_up())
                && let Some(succeed) = succeed.take()
            {
                self.ending.store(true, Ordering::Release);
                self.broadcast(&Said::Ending);
                succeed();
            }
            if gone {
                return Ended::TokenGone;
            }
        }
        if succeed.is_none() { Ended::UsedUp } else { Ended::Done }
    }

    fn hangs(&self) -> bool {
        let mut under_way = lock(&self.under_way);
        under_way.retain(|begun| begun.strong_count() > 0);
        let now = self.now();
        under_way.iter().filter_map(Weak::upgrade).any(|begun| {
            let begun = begun.load(Ordering::Relaxed);
            begun > 0 && Duration::from_millis(now.saturating_sub(begun)) > self.hang
        })
    }

    /// Milliseconds since the start, and never 0.
    fn now(&self) -> u64 {
        1 + u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// One who connects: who it is, what is wanted, and then all it asks.
    fn attend(self: &Arc<Self>, stream: UnixStream, may: impl Fn(&Peer, Role) -> bool) {
        let (connection, hello) = match Connection::accept(stream) {
            Ok(accepted) => accepted,
            Err(error) => return tracing::info!(%error, "one who connected did not say who it is"),
        };
        let refused = if hello.version != VERSION {
            Some(format!(
                "the keeper speaks version {VERSION} and was spoken to in {}: both must be of one release",
                hello.version
            ))
        } else if !may(&connection.peer, hello.role) {
            let Peer { uid, pid } = connection.peer;
            tracing::warn!(?uid, ?pid, role = ?hello.role, "one who may not was turned away");
            Some(NOT_SERVED.to_owned())
        } else {
            None
        };
        if let Some(reason) = refused {
            let _ = connection.send(&Said::Refused(TokenError::Config(reason)));
            return;
        }
        let connection = Arc::new(connection);
        {
            // Nothing that changes in between is missed: it is told to all that are in the list.
            let mut connections = lock(&self.connections);
            if connection.send(&Said::Welcome(self.status())).is_err() {
                return;
            }
            connections.retain(|connection| connection.strong_count() > 0);
            connections.push(Arc::downgrade(&connection));
            if self.ending.load(Ordering::Acquire) {
                let _ = connection.send(&Said::Ending);
            }
        }
        thread::scope(|scope| {
            for _ in 0..self.token.concurrency().max(1) {
                scope.spawn(|| self.work(&connection));
            }
        });
    }

    /// Takes one request after the other.
    fn work(&self, connection: &Connection) {
        let begun = Arc::new(AtomicU64::new(0));
        lock(&self.under_way).push(Arc::downgrade(&begun));
        let mut answers = Answers::new(connection, self.audit.as_ref());
        loop {
            let next = match connection.try_next() {
                Ok(None) => {
                    answers.give_out();
                    connection.next(&self.pace)
                }
                next => next,
            };
            let content = match next {
                Ok(Some(content)) => content,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "what was sent cannot be read: the connection is closed");
                    break;
                }
            };
            if !answers.may_wait(&self.pace) {
                answers.give_out();
            }
            begun.store(self.now(), Ordering::Relaxed);
            let start = Instant::now();
            let answered = self.answer(connection, content, &mut answers);
            begun.store(0, Ordering::Relaxed);
            self.pace.took(start.elapsed());
            if let Err(error) = answered {
                tracing::warn!(%error, "what was sent has no meaning: the connection is closed");
                break;
            }
        }
        answers.give_out();
        connection.close();
    }

    fn answer(
        &self,
        connection: &Connection,
        content: Zeroizing<Vec<u8>>,
        answers: &mut Answers<'_>,
    ) -> io::Result<()> {
        let Asked::Request(request) = value(&content)? else { return Ok(()) };
        let id = request.id;
        let errand = Errand { keeper: self, connection, cx: request.context(), lines: RefCell::default() };
        let done = errand.run(request);
        let answer = match &done {
            Ok(Done::Signature(signature)) => Ok(Answer::Signature(signature)),
            Ok(Done::Cek(cek)) => Ok(Answer::Cek(cek.as_bytes())),
            Ok(Done::EncryptedKeys(keys)) => Ok(Answer::EncryptedKeys(keys.iter().map(|key| &key[..]).collect())),
            Ok(Done::Key(held)) => Ok(Answer::Key((&**held).into())),
            Ok(Done::Keys(keys)) => Ok(Answer::Keys(keys.iter().map(Held::from).collect())),
            Ok(Done::Certificates(chain)) => Ok(Answer::Certificates(chain.iter().map(Vec::as_slice).collect())),
            Ok(Done::Nothing) => Ok(Answer::Done),
            Err(error) => Err(Failure::from(error.clone())),
        };
        let lines = errand.lines.into_inner();
        // What was done has its line, whatever becomes of the answer.
        let answer = frame(&Said::Answer { id, answer }).or_else(|error| {
            let too_long = Failure::Request(error.to_string());
            frame(&Said::Answer { id, answer: Err(too_long) })
        })?;
        answers.add(id, answer, &lines);
        Ok(())
    }

    /// Keys with which the agent may sign one rotation.
    pub(super) fn armed(&self) -> MutexGuard<'_, HashSet<PublicKey>> {
        lock(&self.armed)
    }

    /// Whether so many more operations with a key are within its rate.
    pub(super) fn within_rate(&self, key: &PublicKey, operations: usize) -> bool {
        let Some(rate) = self.rate else { return true };
        let Some(operations) = u32::try_from(operations).ok().and_then(NonZeroU32::new) else { return true };
        let limit = lock(&self.limits)
            .entry(key.clone())
            .or_insert_with(|| Arc::new(RateLimiter::direct(Quota::per_second(rate))))
            .clone();
        // More than may ever come at once is charged as that much.
        matches!(limit.check_n(operations.min(rate)), Ok(Ok(())))
    }

    fn status(&self) -> Status {
        let keys = self.keyring.keys();
        let keys = keys.borrow().iter().map(Held::from).collect();
        let trouble = self.keyring.status().into_iter().find_map(|status| status.trouble);
        Status { info: self.token.info(), keys, trouble: trouble.map(|(error, _)| error) }
    }

    /// Tells all who are connected what has changed.
    fn tell_of_changes(&self) {
        let mut keys = lock(&self.told);
        if keys.has_changed().unwrap_or(false) {
            keys.mark_unchanged();
            drop(keys);
            self.broadcast(&Said::Changed(self.status()));
        }
    }

    fn broadcast(&self, said: &Said<'_>) {
        let connections: Vec<_> = lock(&self.connections).iter().filter_map(Weak::upgrade).collect();
        for connection in connections {
            let _ = connection.send(said);
        }
    }
}

/// What one is told who may not connect.
const NOT_SERVED: &str = "the keeper does not serve this user: see `agents` and `custodians` in its [keeper]";

/// Says so, as far as that goes at once, to one who may not have connected.
fn turn_away(mut stream: &UnixStream) {
    if let (Ok(()), Ok(frame)) =
        (stream.set_nonblocking(true), frame(&Said::Refused(TokenError::Config(NOT_SERVED.into()))))
    {
        let _ = stream.write_all(&frame);
    }
}

/// One who connects, waited for a moment.
fn accept(listener: &UnixListener) -> io::Result<Option<UnixStream>> {
    let mut waits = [PollFd::new(listener, PollFlags::IN)];
    match poll(&mut waits, Some(&WATCH.try_into().map_err(io::Error::other)?)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nonblocking(false)?;
            Ok(Some(stream))
        }
        // Another keeper was quicker.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells one who connects why there is no keeper.
pub fn refuse(stream: UnixStream, error: &SecretsError) {
    let error = match error {
        SecretsError::Token { error, .. } => error.clone(),
        other => TokenError::Config(other.to_string()),
    };
    if let Ok((connection, _)) = Connection::accept(stream) {
        let _ = connection.send(&Said::Refused(error));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
