//! What a client knows of its keeper: the token's state and keys, and the current connection.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use super::{
    client_connection::{ClientConnection, RegisterError, ResponseSender, ResponseValue, StateListener},
    connector::KeeperConnector,
    frame::{decode, encode_frame},
    monotonic_clock::to_monotonic_millis,
    wire::{ClientFrame, Hello, Request, RequestBody, Role, ServerFrame, TokenState, VERSION},
    wire_types::WireHeldKey,
};
use crate::{
    keys::PublicKey,
    secrets::{
        context::Context,
        error::{SecretsError, TokenError},
        held_key::{HeldKey, HeldKeys, KeyState},
        latency::{Latency, Waiter},
        look_again::LookAgain,
        mutex::lock,
        outage::{Availability, Outage},
        token::TokenInfo,
    },
};

/// How long a keeper may take to send its first frame after it was started. The module of a network HSM may connect
/// first, each key is tested, and a person may be asked for the PIN.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(300);

/// What a client knows of its keeper.
pub(super) struct ClientSession {
    pub(super) token: Arc<str>,
    pub(super) keys: watch::Sender<HeldKeys>,
    state: Mutex<(TokenInfo, Availability)>,
    connection: Mutex<Option<Arc<ClientConnection>>>,
    next_id: AtomicU64,
    /// Whether this process shuts down, so that keepers may end at any moment.
    is_stopping: AtomicBool,
    /// The error of the outage that was logged last, across all keepers of the token; none if it is over. Not used without
    /// `logs_outages`.
    logged_outage: Mutex<Option<TokenError>>,
    /// Whether outages of the token are logged here.
    logs_outages: bool,
    /// Bounds the requests to search for a key.
    look: LookAgain,
    /// How many requests may wait at once.
    max_requests: usize,
    latency: Latency,
}

impl ClientSession {
    pub(super) fn new(token: &str, max_requests: usize) -> Self {
        Self {
            token: token.into(),
            keys: watch::Sender::default(),
            state: Mutex::default(),
            connection: Mutex::default(),
            next_id: AtomicU64::new(1),
            is_stopping: AtomicBool::new(false),
            logged_outage: Mutex::default(),
            logs_outages: false,
            look: LookAgain::default(),
            max_requests,
            latency: Latency::default(),
        }
    }

    /// Logs the begin and the end of each outage of the token.
    pub(super) fn with_logged_outages(self) -> Self {
        Self { logs_outages: true, ..self }
    }

    pub(super) fn info(&self) -> TokenInfo {
        lock(&self.state).0.clone()
    }

    /// The token's outage; `None` while it is in service.
    pub(super) fn outage(&self) -> Option<Outage> {
        lock(&self.state).1.outage().cloned()
    }

    /// Since when the token is in service or out of service.
    pub(super) fn since(&self) -> Option<Instant> {
        lock(&self.state).1.since()
    }

    /// The current connection; `None` while there is no keeper.
    pub(super) fn connection(&self) -> Option<Arc<ClientConnection>> {
        lock(&self.connection).clone()
    }

    /// Records that this process shuts down.
    pub(super) fn set_stopping(&self) {
        self.is_stopping.store(true, Ordering::Release);
    }

    /// Whether this process shuts down.
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// Removes the current connection.
    pub(super) fn take_connection(&self) -> Option<Arc<ClientConnection>> {
        lock(&self.connection).take()
    }

    /// Opens a connection, waits until the keeper accepts this client, and makes the connection the current one.
    ///
    /// # Errors
    /// The keeper's own error if the keeper refuses the client, and [`TokenError::Away`] if the keeper cannot be
    /// reached or started.
    pub(super) async fn connect(&self, connector: &KeeperConnector) -> Result<Arc<ClientConnection>, TokenError> {
        let away = |error: io::Error| TokenError::Away(format!("the keeper of the token {:?}: {error}", self.token));
        let opener = connector.clone();
        let stream = tokio::task::spawn_blocking(move || opener.open()).await.map_err(io::Error::other);
        let connection = ClientConnection::new(stream.and_then(|stream| stream).map_err(away)?).map_err(away)?;
        let connection = Arc::new(connection);
        if !connector.has_sent_hello {
            connection.send(encode_frame(&Hello { version: VERSION, role: Role::Agent }).map_err(away)?);
        }
        let first = tokio::time::timeout(WELCOME_TIMEOUT, connection.first_frame()).await;
        let content = first.map_err(|_| io::ErrorKind::TimedOut.into()).and_then(|first| first).map_err(away)?;
        match decode(&content).map_err(away)? {
            ServerFrame::Welcome(state) => self.state_changed(state).map_err(away)?,
            ServerFrame::Refused(error) => return Err(error),
            _ => return Err(away(io::Error::other("the first frame is not a welcome"))),
        }
        *lock(&self.connection) = Some(connection.clone());
        Ok(connection)
    }

    /// Records that the token is out of service because of `error`.
    pub(super) fn set_out_of_service(&self, error: TokenError) {
        self.set_key_state(KeyState::after(&error));
        lock(&self.state).1.set_out_of_service(error);
    }

    /// Records that the client has no keeper until it has connected to another one.
    pub(super) fn set_disconnected(&self) {
        *lock(&self.connection) = None;
        self.set_out_of_service(self.keeper_away());
    }

    /// Logs the state that a keeper reports, if it differs from what was logged last. During an outage one keeper may follow
    /// the other, and each reports the same.
    fn log_outage(&self, error: Option<&TokenError>) {
        let mut logged = lock(&self.logged_outage);
        if !self.logs_outages || logged.as_ref() == error {
            return;
        }
        match error {
            Some(error) => {
                tracing::warn!(token = &*self.token, %error, "token out of service; probing it until it is back");
            }
            None => tracing::warn!(token = &*self.token, "token back in service"),
        }
        *logged = error.cloned();
    }

    fn keeper_away(&self) -> TokenError {
        TokenError::Away(format!("the keeper of the token {:?} is being restarted", self.token))
    }

    fn set_key_state(&self, state: KeyState) {
        self.keys.send_if_modified(|keys| {
            let is_changed = keys.iter().any(|held| held.state != state);
            if is_changed {
                *keys = keys.with_states(|_| state);
            }
            is_changed
        });
    }

    /// Has the keeper search its token for a key that it has not shown.
    pub(super) fn look_for(&self, key: &PublicKey) {
        if self.keys.borrow().get(key).is_some() || self.outage().is_some() {
            return;
        }
        let Some(connection) = self.connection().filter(|_| self.look.is_due()) else { return };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let body = RequestBody::LookFor { key: key.into() };
        let request = Request { id, deadline: None, kid: None, message_id: None, peer: None, body };
        // Nobody waits for the response: the keeper sends its keys when they have changed.
        if let Ok(frame) = encode_frame(&ClientFrame::Request(request)) {
            connection.send(frame);
        }
    }

    /// Sends a request and waits for its response. Dropping the future cancels the request.
    pub(super) async fn request(
        &self,
        key: &PublicKey,
        body: RequestBody<'_>,
        cx: &Context,
    ) -> Result<ResponseValue, SecretsError> {
        let deadline_exceeded = || SecretsError::DeadlineExceeded { token: self.token.clone() };
        let asks_person = self.keys.borrow().get(key).map(HeldKey::asks_person);
        let deadline = cx.deadline_or_default(asks_person == Some(true));
        if deadline <= Instant::now() {
            return Err(deadline_exceeded());
        }
        if asks_person.is_none() {
            // A token that has been out of service since the start may hold the key.
            return Err(match self.outage() {
                Some(outage) => SecretsError::Token { token: self.token.clone(), error: outage.error },
                None => {
                    self.look_for(key);
                    SecretsError::NotHeld(key.clone())
                }
            });
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        let request = Request {
            id,
            deadline: Some(to_monotonic_millis(deadline)),
            kid: cx.kid.as_deref(),
            message_id: cx.message_id.as_deref(),
            peer: cx.peer.as_deref(),
            body,
        };
        let frame = encode_frame(&ClientFrame::Request(request))
            .map_err(|_| SecretsError::InvalidRequest("the request is too long"))?;
        let (caller, mut response) = oneshot::channel();
        let connection = self.register(id, caller)?;
        let running = RunningRequest { connection: &connection, id };
        let waiter = Waiter::new(&self.latency);
        connection.send(frame);
        waiter
            .poll(deadline, || {
                // A polling caller also reads the responses of the others.
                let _ = connection.receive_now(self);
                !response.is_empty() || response.is_terminated()
            })
            .await;
        let response =
            tokio::time::timeout_at(deadline.into(), &mut response).await.map_err(|_| deadline_exceeded())?;
        drop(running);
        self.latency.record(start.elapsed());
        match response {
            Ok(result) => result.map_err(|error| error.into_secrets_error(&self.token, key)),
            Err(_) => Err(SecretsError::Interrupted { token: self.token.clone() }),
        }
    }

    /// Registers a request's caller on the current connection, and returns the connection.
    fn register(&self, id: u64, mut caller: ResponseSender) -> Result<Arc<ClientConnection>, SecretsError> {
        let out_of_service = || {
            let error = self.outage().map_or_else(|| self.keeper_away(), |outage| outage.error);
            SecretsError::Token { token: self.token.clone(), error }
        };
        loop {
            let connection = self.connection().ok_or_else(out_of_service)?;
            match connection.register(id, caller, self.max_requests) {
                Ok(()) => return Ok(connection),
                Err((RegisterError::Busy, _)) => return Err(SecretsError::Busy { token: self.token.clone() }),
                Err((RegisterError::Ended, _)) => return Err(out_of_service()),
                Err((RegisterError::Replaced, returned)) => caller = returned,
            }
        }
    }
}

impl StateListener for ClientSession {
    /// Stores the state that the keeper sent. If the keeper could not find the keys of its token, the keys that are
    /// known from before are kept.
    fn state_changed(&self, state: TokenState) -> io::Result<()> {
        let TokenState { info, keys, refused, is_complete, error } = state;
        let read = |keys: Vec<WireHeldKey>| keys.into_iter().map(HeldKey::try_from).collect::<io::Result<Vec<_>>>();
        let keys = HeldKeys::new(read(keys)?, read(refused)?, is_complete);
        let mut known = lock(&self.state);
        match &error {
            Some(error) if keys.is_empty() => self.set_key_state(KeyState::after(error)),
            _ => {
                self.keys.send_if_modified(|published| {
                    let is_changed = *published != keys;
                    if is_changed {
                        *published = keys;
                    }
                    is_changed
                });
            }
        }
        known.0 = info;
        self.log_outage(error.as_ref());
        match error {
            Some(error) => {
                known.1.set_out_of_service(error);
            }
            None => known.1.set_in_service(),
        }
        Ok(())
    }
}

/// A request whose response has not come. Dropping it cancels the request.
struct RunningRequest<'c> {
    connection: &'c ClientConnection,
    id: u64,
}

impl Drop for RunningRequest<'_> {
    fn drop(&mut self) {
        if self.connection.unregister(self.id)
            && let Ok(frame) = encode_frame(&ClientFrame::Cancel(self.id))
        {
            self.connection.send(frame);
        }
    }
}
