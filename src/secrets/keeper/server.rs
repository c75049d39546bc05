//! The keeper: serves one token to the clients that may connect.

use std::{
    io::{self, Write},
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{
    audit::AuditLog,
    frame::{decode, encode_frame},
    operation::Operation,
    options::KeeperOptions,
    peer_credentials::PeerCredentials,
    renewal::{is_due, is_due_after_absence, is_probe_hung},
    response_batch::ResponseBatch,
    served_token::ServedToken,
    server_connection::ServerConnection,
    watchdog::Watchdog,
    wire::{ClientFrame, Role, ServerFrame, VERSION},
    wire_types::WireError,
};
use crate::secrets::{
    error::{SecretsError, TokenError},
    held_key::HeldKeys,
    interface::Secrets,
    latency::Latency,
    mutex::lock,
    token::Custodian,
};

/// How often the keeper checks its token and its operations.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Why a keeper has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeeperExit {
    /// No client is connected any more.
    Finished,
    /// The token is absent, and may need a new process when it comes back.
    TokenGone,
    /// The token has failed for [`KeeperOptions::renew_after`], and a new process may help.
    Failing,
    /// An operation took longer than [`KeeperOptions::hang_timeout`].
    Hung,
    /// The module has used up a resource that only a new process gives back. All requests were answered.
    Exhausted,
}

/// A keeper, which serves one token.
pub struct Keeper {
    token: ServedToken,
    audit: Option<AuditLog>,
    connections: Mutex<Vec<Weak<ServerConnection>>>,
    /// Whether another keeper must take over.
    is_ending: AtomicBool,
    watchdog: Watchdog,
    hang_timeout: Duration,
    renew_after: Duration,
    latency: Latency,
    /// Tells whether the keys have changed since they were last announced to the clients.
    announced_keys: Mutex<watch::Receiver<HeldKeys>>,
}

impl Keeper {
    /// Starts a keeper of a token. The token may be absent: the keeper serves it as soon as it is available.
    ///
    /// # Errors
    /// [`SecretsError::Token`] if the configuration is wrong, [`SecretsError::AuditFailed`] if the audit log
    /// cannot be opened.
    pub fn start(token: Arc<dyn Custodian>, options: KeeperOptions) -> Result<Arc<Self>, SecretsError> {
        let audit = options.audit.as_ref().map(|path| {
            AuditLog::open(path, token.name(), options.audit_refusals)
                .map_err(|error| SecretsError::AuditFailed(format!("{}: {error}", path.display())))
        });
        let (hang_timeout, renew_after) = (options.hang_timeout, options.renew_after);
        let token = ServedToken::start(token, options)?;
        Ok(Arc::new(Self {
            audit: audit.transpose()?,
            connections: Mutex::default(),
            is_ending: AtomicBool::new(false),
            watchdog: Watchdog::new(hang_timeout),
            hang_timeout,
            renew_after,
            latency: Latency::default(),
            announced_keys: Mutex::new(token.keyring.keys()),
            token,
        }))
    }

    /// Serves one connection until the connection or the keeper ends. The client gets at most the role `max_role`.
    pub fn serve(self: &Arc<Self>, stream: UnixStream, max_role: Role) -> KeeperExit {
        let (sender, served) = mpsc::channel::<()>();
        let keeper = self.clone();
        let server = thread::spawn(move || {
            let _sender = sender;
            keeper.serve_client(stream, |_, role| role <= max_role);
        });
        let exit = self.watch(|wait| served.recv_timeout(wait) != Err(mpsc::RecvTimeoutError::Timeout), || {});
        if matches!(exit, KeeperExit::Finished | KeeperExit::Exhausted) {
            // The caller then drops the last reference to the keeper, and so waits for the token's threads.
            let _ = server.join();
        }
        exit
    }

    /// Serves the clients that connect, if `may_connect` accepts them with the role that they ask for. Returns
    /// when the keeper ends. `start_successor` is called when another keeper must take over; that keeper listens
    /// on the same socket.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn listen(
        self: &Arc<Self>,
        listener: UnixListener,
        may_connect: impl Fn(&PeerCredentials, Role) -> bool + Send + Sync + 'static,
        start_successor: impl FnOnce(),
    ) -> io::Result<KeeperExit> {
        listener.set_nonblocking(true)?;
        let (keeper, may_connect) = (self.clone(), Arc::new(may_connect));
        thread::spawn(move || {
            // The successor serves the clients that connect after this keeper has begun to end.
            while !keeper.is_ending.load(Ordering::Acquire) {
                keeper.accept_client(&listener, &may_connect);
            }
        });
        let is_finished = |wait| {
            thread::sleep(wait);
            self.is_ending.load(Ordering::Acquire)
                && !lock(&self.connections).iter().any(|connection| connection.strong_count() > 0)
        };
        Ok(self.watch(is_finished, start_successor))
    }

    /// Waits up to [`CHECK_INTERVAL`] for a client, and serves the client on a thread of its own.
    fn accept_client<F>(self: &Arc<Self>, listener: &UnixListener, may_connect: &Arc<F>)
    where
        F: Fn(&PeerCredentials, Role) -> bool + Send + Sync + 'static,
    {
        match accept(listener) {
            Ok(Some(stream)) => {
                // A client that is accepted with no role gets no thread.
                let peer = PeerCredentials::of(&stream);
                if !may_connect(&peer, Role::Agent) {
                    let PeerCredentials { uid, pid } = peer;
                    tracing::warn!(?uid, ?pid, "client refused");
                    self.refused(CONNECT, "not-served", &peer);
                    refuse_client(&stream);
                    return;
                }
                let (keeper, may_connect) = (self.clone(), may_connect.clone());
                let serve = move || keeper.serve_client(stream, &*may_connect);
                if let Err(error) = thread::Builder::new().spawn(serve) {
                    tracing::error!(%error, "cannot start a thread for a client");
                    thread::sleep(CHECK_INTERVAL);
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                thread::sleep(CHECK_INTERVAL);
            }
        }
    }

    /// Goes on in a new audit file if the present one was renamed. The keeper looks for that by itself, too.
    pub fn reopen_audit(&self) {
        self.audit.iter().for_each(AuditLog::reopen);
    }

    /// Writes the counts of refusals that have no line of their own. Call this before the process ends at once.
    pub fn end_audit(&self) {
        self.audit.iter().for_each(|audit| audit.write_counts(true));
    }

    /// Adds a refusal that needs no key to the audit.
    fn refused(&self, operation: &'static str, result: &'static str, peer: &PeerCredentials) {
        if let Some(audit) = &self.audit {
            audit.refused(operation, result, peer);
        }
    }

    /// Watches the token and the running operations until the work is finished, or cannot go on in this process.
    fn watch(&self, is_finished: impl FnMut(Duration) -> bool, start_successor: impl FnOnce()) -> KeeperExit {
        let exit = self.watch_token(is_finished, start_successor);
        // A thread that hangs may hold what the audit needs.
        if exit != KeeperExit::Hung {
            self.end_audit();
        }
        exit
    }

    fn watch_token(&self, mut is_finished: impl FnMut(Duration) -> bool, start_successor: impl FnOnce()) -> KeeperExit {
        let mut start_successor = Some(start_successor);
        while !is_finished(CHECK_INTERVAL) {
            self.announce_changes();
            self.audit.iter().for_each(AuditLog::maintain);
            let status = self.token.status();
            if self.watchdog.has_hung_operation() || is_probe_hung(&status, self.hang_timeout) {
                tracing::error!(token = &*self.token.name, "operation hangs; the keeper ends and is replaced");
                return KeeperExit::Hung;
            }
            let helps = self.token.custodian.needs_new_process_after_absence();
            let is_gone = is_due_after_absence(&status, helps);
            let may_help = self.token.custodian.may_need_new_process() && self.watchdog.is_idle();
            if !is_gone && may_help && is_due(&status, helps, self.renew_after) {
                let error = status.outage.map_or_else(String::new, |outage| outage.error.to_string());
                tracing::warn!(token = &*self.token.name, error, "token does not recover; trying a new keeper process");
                return KeeperExit::Failing;
            }
            if (is_gone || self.token.custodian.is_exhausted())
                && let Some(start_successor) = start_successor.take()
            {
                self.is_ending.store(true, Ordering::Release);
                self.broadcast(&ServerFrame::Ending);
                start_successor();
            }
            if is_gone {
                return KeeperExit::TokenGone;
            }
        }
        if start_successor.is_none() { KeeperExit::Exhausted } else { KeeperExit::Finished }
    }

    /// Serves one client until its connection ends.
    fn serve_client(self: &Arc<Self>, stream: UnixStream, may_connect: impl Fn(&PeerCredentials, Role) -> bool) {
        let peer = PeerCredentials::of(&stream);
        let (connection, hello) = match ServerConnection::accept(stream, peer) {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::info!(%error, "client disconnected: no valid hello");
                // Who closes the connection without a hello only looked whether somebody listens.
                if error.kind() != io::ErrorKind::UnexpectedEof {
                    self.refused(CONNECT, "malformed", &peer);
                }
                return;
            }
        };
        let refusal = if hello.version != VERSION {
            self.refused(CONNECT, "wrong-version", &peer);
            Some(format!(
                "the keeper has version {VERSION} of the protocol, the client version {}: use programs of the same release",
                hello.version
            ))
        } else if !may_connect(&connection.peer, hello.role) {
            let PeerCredentials { uid, pid } = peer;
            tracing::warn!(?uid, ?pid, role = ?hello.role, "client refused");
            self.refused(CONNECT, "not-served", &peer);
            Some(NOT_SERVED.to_owned())
        } else {
            None
        };
        if let Some(reason) = refusal {
            let _ = connection.send(&ServerFrame::Refused(TokenError::Config(reason)));
            return;
        }
        let connection = Arc::new(connection);
        {
            // The lock is held from the welcome until the connection is in the list, so that no change is missed:
            // changes are sent to all connections in the list.
            let mut connections = lock(&self.connections);
            if connection.send(&ServerFrame::Welcome(self.token.state())).is_err() {
                return;
            }
            connections.retain(|connection| connection.strong_count() > 0);
            connections.push(Arc::downgrade(&connection));
            if self.is_ending.load(Ordering::Acquire) {
                let _ = connection.send(&ServerFrame::Ending);
            }
        }
        thread::scope(|scope| {
            for _ in 0..self.token.custodian.concurrency().max(1) {
                scope.spawn(|| self.perform_requests(&connection));
            }
        });
    }

    /// Performs the requests of a connection, one after the other, until the connection ends. One thread runs this for
    /// each operation that the token performs at once.
    fn perform_requests(&self, connection: &ServerConnection) {
        let timer = self.watchdog.timer();
        let mut batch = ResponseBatch::new(connection, self.audit.as_ref());
        loop {
            let next = match connection.try_next() {
                Ok(None) => {
                    batch.send();
                    connection.next(&self.latency)
                }
                next => next,
            };
            let content = match next {
                Ok(Some(content)) => content,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "client disconnected: unreadable data");
                    self.refused(REQUEST, "malformed", &connection.peer);
                    break;
                }
            };
            if !batch.may_wait(&self.latency) {
                batch.send();
            }
            let start = Instant::now();
            let performed = timer.time(&self.watchdog, || self.perform_request(connection, content, &mut batch));
            self.latency.record(start.elapsed());
            if let Err(error) = performed {
                tracing::warn!(%error, "client disconnected: invalid frame");
                self.refused(REQUEST, "malformed", &connection.peer);
                break;
            }
        }
        batch.send();
        connection.close();
    }

    fn perform_request(
        &self,
        connection: &ServerConnection,
        content: Zeroizing<Vec<u8>>,
        batch: &mut ResponseBatch<'_>,
    ) -> io::Result<()> {
        let ClientFrame::Request(request) = decode(&content)? else { return Ok(()) };
        let id = request.id;
        let operation = Operation::new(&self.token, connection, self.audit.as_ref(), request.context());
        let result = operation.run(request);
        // Every operation that was performed has its audit lines, whatever happens to its response.
        let audit_lines = operation.into_audit_lines();
        let result = match &result {
            Ok(result) => Ok(result.response()),
            Err(error) => Err(WireError::from(error.clone())),
        };
        let frame = encode_frame(&ServerFrame::Response { id, result }).or_else(|error| {
            let too_long = WireError::InvalidRequest(error.to_string());
            encode_frame(&ServerFrame::Response { id, result: Err(too_long) })
        })?;
        batch.add(id, frame, &audit_lines);
        Ok(())
    }

    /// Sends the token's state to all clients if its keys have changed.
    fn announce_changes(&self) {
        let mut keys = lock(&self.announced_keys);
        if keys.has_changed().unwrap_or(false) {
            keys.mark_unchanged();
            drop(keys);
            self.broadcast(&ServerFrame::Changed(self.token.state()));
        }
    }

    fn broadcast(&self, frame: &ServerFrame<'_>) {
        let connections: Vec<_> = lock(&self.connections).iter().filter_map(Weak::upgrade).collect();
        for connection in connections {
            let _ = connection.send(frame);
        }
    }
}

/// The operations in the audit that no request asks for: to connect, and to make a request that cannot be read.
const CONNECT: &str = "connect";
const REQUEST: &str = "request";

/// The reason that is sent to a client that may not connect.
const NOT_SERVED: &str = "the keeper does not serve this user: see `agents` and `custodians` in its [keeper]";

/// Sends the reason to a client that may not connect, as far as that is possible without waiting.
fn refuse_client(mut stream: &UnixStream) {
    let refused = ServerFrame::Refused(TokenError::Config(NOT_SERVED.into()));
    if let (Ok(()), Ok(frame)) = (stream.set_nonblocking(true), encode_frame(&refused)) {
        let _ = stream.write_all(&frame);
    }
}

/// Waits up to [`CHECK_INTERVAL`] for a client.
fn accept(listener: &UnixListener) -> io::Result<Option<UnixStream>> {
    let mut events = [PollFd::new(listener, PollFlags::IN)];
    match poll(&mut events, Some(&CHECK_INTERVAL.try_into().map_err(io::Error::other)?)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nonblocking(false)?;
            Ok(Some(stream))
        }
        // Another keeper on the same socket has accepted the client.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Refuses a connection because the keeper could not be started. The client gets `error`.
pub fn refuse_connection(stream: UnixStream, error: &SecretsError) {
    let error = match error {
        SecretsError::Token { error, .. } => error.clone(),
        other => TokenError::Config(other.to_string()),
    };
    let peer = PeerCredentials::of(&stream);
    if let Ok((connection, _)) = ServerConnection::accept(stream, peer) {
        let _ = connection.send(&ServerFrame::Refused(error));
    }
}
