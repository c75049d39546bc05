//! A connection to the card in one PC/SC reader, on a thread of its own.
//!
//! While another program is in a transaction with a card, SCardConnect and SCardBeginTransaction wait without a limit
//! (pcsc-lite 1.9.9 and 2.3), and nothing ends such a call. So a thread makes the calls, and the caller stops waiting for
//! it after [`ANSWER_LIMIT`]. A thread that waits on ends by itself once the other program is done, and a reader has at
//! most one such thread.

use std::{
    collections::HashSet,
    ffi::{CStr, CString},
    sync::{Condvar, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use pcsc::{Card, Context, Disposition, Error, Protocols, ReaderState, Scope, ShareMode, State, Transaction};
use zeroize::Zeroizing;

use super::{
    identity::{Identity, identify},
    polkit,
    transport::{CardTransaction, Transport, TransportError},
};
use crate::secrets::mutex::lock;

/// How long another program may use a card before a call fails. A keeper counts an operation as hung after ten seconds.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The longest response to a short APDU, in bytes: 256 and the status word (ISO 7816-4).
const MAX_RESPONSE: usize = 258;

/// The readers for whose cards a thread of this process waits.
static WAITED_FOR: Mutex<Option<HashSet<CString>>> = Mutex::new(None);
/// Notified when a thread does not wait any more.
static WAIT_ENDED: Condvar = Condvar::new();

/// What the thread of a card found when it connected.
pub(super) type Report = Result<Identity, TransportError>;

/// A card that is being connected to. The thread may wait for another program.
pub(super) struct ConnectingCard {
    reader: String,
    requests: mpsc::Sender<Request>,
    answers: mpsc::Receiver<Answer>,
    thread: thread::JoinHandle<()>,
}

/// A connection to the card in a reader.
pub(super) struct PcscCard {
    reader: String,
    /// None when the connection is being closed.
    requests: Option<mpsc::Sender<Request>>,
    answers: mpsc::Receiver<Answer>,
    /// None if the thread waits for another program.
    thread: Option<thread::JoinHandle<()>>,
}

/// What the thread of a card does next.
enum Request {
    /// Begin a transaction.
    Begin,
    /// Send a command to the card.
    Transmit(Zeroizing<Vec<u8>>),
    /// End the transaction.
    End,
}

/// The answer to each request. Only [`Request::Transmit`] has a response in it.
type Answer = Result<Zeroizing<Vec<u8>>, TransportError>;

impl ConnectingCard {
    /// Starts to connect to the card in `reader`. `report` is called with the result. To drop this does not end a thread
    /// that waits for another program.
    ///
    /// # Errors
    /// [`TransportError::Reset`] if no thread can be started.
    pub(super) fn start(reader: CString, report: impl FnOnce(Report) + Send + 'static) -> Result<Self, TransportError> {
        let name = reader.to_string_lossy().into_owned();
        let (requests, requested) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let thread = thread::Builder::new().name("PC/SC card".into()).spawn(move || match connect(&reader) {
            Ok((card, identity)) => {
                report(Ok(identity));
                serve(card, &reader, &requested, &answer);
            }
            Err(error) => report(Err(error)),
        });
        let thread =
            thread.map_err(|error| TransportError::Reset(format!("{name}: cannot start a thread: {error}")))?;
        Ok(Self { reader: name, requests, answers, thread })
    }

    /// The name of the reader.
    pub(super) fn reader(&self) -> &str {
        &self.reader
    }

    /// The connection, after the report was [`Ok`].
    pub(super) fn connected(self) -> PcscCard {
        let Self { reader, requests, answers, thread } = self;
        PcscCard { reader, requests: Some(requests), answers, thread: Some(thread) }
    }
}

impl PcscCard {
    fn ask(&mut self, request: Request, limit: Option<Duration>) -> Answer {
        let sent = self.requests.as_ref().is_some_and(|requests| requests.send(request).is_ok());
        let answer = match limit {
            _ if !sent => None,
            Some(limit) => match self.answers.recv_timeout(limit) {
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    // The thread waits on. It must not be waited for.
                    self.requests = None;
                    self.thread = None;
                    return Err(in_transaction(&self.reader));
                }
                answer => answer.ok(),
            },
            None => self.answers.recv().ok(),
        };
        answer.unwrap_or_else(|| Err(TransportError::Reset(format!("{}: the connection was closed", self.reader))))
    }
}

impl Transport for PcscCard {
    fn transaction(&mut self, work: &mut dyn FnMut(&mut dyn CardTransaction)) -> Result<(), TransportError> {
        self.ask(Request::Begin, Some(ANSWER_LIMIT))?;
        work(self);
        self.ask(Request::End, None).map(drop)
    }

    /// Asks pcscd about the reader (SCardGetStatusChange), which it answers from its own memory.
    fn check_inserted(&self) -> Result<(), TransportError> {
        let context = context()?;
        let name = CString::new(self.reader.as_bytes()).unwrap_or_default();
        let mut states = [ReaderState::new(name, State::UNAWARE)];
        context
            .get_status_change(Some(Duration::ZERO), &mut states)
            .map_err(|error| transport_error(&self.reader, error))?;
        match states[0].event_state().contains(State::PRESENT) {
            true => Ok(()),
            false => Err(transport_error(&self.reader, Error::NoSmartcard)),
        }
    }
}

impl CardTransaction for PcscCard {
    fn transmit(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TransportError> {
        self.ask(Request::Transmit(Zeroizing::new(command.to_vec())), None)
    }
}

impl Drop for PcscCard {
    fn drop(&mut self) {
        self.requests = None;
        // Disconnects, unless the thread waits for another program.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A connection to the PC/SC service.
pub(super) fn context() -> Result<Context, TransportError> {
    let service = "the PC/SC service";
    Context::establish(Scope::User).map_err(|error| match error {
        Error::CommError => closed(service),
        error => transport_error(service, error),
    })
}

/// The error if the PC/SC service closed the connection. Before pcsc-lite 2.0.1 it did so if polkit refused a card.
fn closed(of: &str) -> TransportError {
    let refusal = polkit::refusal(of);
    TransportError::Reset(format!("{of}: the PC/SC service closed the connection. It may be that {refusal}"))
}

/// Connects to the card in a reader, and finds out what it is.
fn connect(reader: &CStr) -> Result<(Card, Identity), TransportError> {
    let name = reader.to_string_lossy().into_owned();
    // Each card has a context of its own: libpcsclite lets one thread at a time use a context.
    let context = context()?;
    let connected = waiting_for(reader, || context.connect(reader, ShareMode::Shared, Protocols::T1))
        .ok_or_else(|| in_transaction(&name))?;
    let mut card = connected.map_err(|error| match error {
        // Something is in the reader, so this is not the error of an empty one.
        Error::UnpoweredCard | Error::UnresponsiveCard | Error::CommDataLost | Error::NotTransacted => {
            TransportError::Reset(format!("{name}: the card does not answer ({error})"))
        }
        Error::CommError => closed(&name),
        error => transport_error(&name, error),
    })?;
    let identity = begin(&mut card, reader).and_then(|transaction| {
        let mut exchange = Exchange { transaction, reader: &name };
        let identity = identify(&mut exchange);
        end(exchange.transaction);
        identity
    });
    match identity {
        Ok(identity) => Ok((card, identity)),
        Err(error) => {
            disconnect(card);
            // There was a card, so this is not the error of an empty reader: it may be the card that is meant.
            Err(match error {
                TransportError::Away(reason) => TransportError::Reset(reason),
                error => error,
            })
        }
    }
}

/// Does what is asked of the card's thread, until nobody can ask any more.
fn serve(mut card: Card, reader: &CStr, requests: &mpsc::Receiver<Request>, answers: &mpsc::Sender<Answer>) {
    let name = reader.to_string_lossy().into_owned();
    while let Ok(Request::Begin) = requests.recv() {
        let mut exchange = match begin(&mut card, reader) {
            Ok(transaction) => Exchange { transaction, reader: &name },
            Err(error) => {
                let _ = answers.send(Err(error));
                continue;
            }
        };
        let mut sent = answers.send(Ok(Zeroizing::default()));
        while sent.is_ok()
            && let Ok(Request::Transmit(command)) = requests.recv()
        {
            sent = answers.send(exchange.transmit(&command));
        }
        end(exchange.transaction);
        let _ = answers.send(Ok(Zeroizing::default()));
    }
    disconnect(card);
}

fn begin<'c>(card: &'c mut Card, reader: &CStr) -> Result<Transaction<'c>, TransportError> {
    let name = reader.to_string_lossy();
    let begun = waiting_for(reader, || card.transaction()).ok_or_else(|| in_transaction(&name))?;
    begun.map_err(|error| transport_error(&name, error))
}

fn end(transaction: Transaction<'_>) {
    // LeaveCard is the default too. It is spelled out because the verified PIN depends on it.
    let _ = transaction.end(Disposition::LeaveCard);
}

fn disconnect(card: Card) {
    // The drop of `pcsc::Card` resets the card, which would also undo another program's verified PIN.
    let _ = card.disconnect(Disposition::LeaveCard);
}

/// Makes a call that may wait for another program. Returns none if another thread of this process has waited for the
/// same reader for [`ANSWER_LIMIT`] already: it is no use to wait with it.
fn waiting_for<T>(reader: &CStr, call: impl FnOnce() -> T) -> Option<T> {
    let until = Instant::now() + ANSWER_LIMIT;
    let mut waited_for = lock(&WAITED_FOR);
    while !waited_for.get_or_insert_default().insert(reader.to_owned()) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        waited_for = match WAIT_ENDED.wait_timeout(waited_for, left) {
            Ok((waited_for, _)) => waited_for,
            Err(poisoned) => poisoned.into_inner().0,
        };
    }
    drop(waited_for);
    let result = call();
    lock(&WAITED_FOR).get_or_insert_default().remove(reader);
    WAIT_ENDED.notify_all();
    Some(result)
}

struct Exchange<'c, 'r> {
    transaction: Transaction<'c>,
    reader: &'r str,
}

impl CardTransaction for Exchange<'_, '_> {
    fn transmit(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TransportError> {
        let mut response = Zeroizing::new(vec![0; MAX_RESPONSE]);
        match self.transaction.transmit(command, &mut response) {
            Ok(received) => {
                let length = received.len();
                response.truncate(length);
                Ok(response)
            }
            Err(error) => Err(transport_error(self.reader, error)),
        }
    }
}

/// The error for a card with which another program is in a transaction.
pub(super) fn in_transaction(reader: &str) -> TransportError {
    TransportError::InUse(format!("{reader}: another program is using the card; try again when it is done"))
}

/// Converts an error of PC/SC into an error that says what to do. `of` is what failed: a reader's name or the service.
pub(super) fn transport_error(of: &str, error: Error) -> TransportError {
    match error {
        // pcscd answers so also to a client of another version (pcsc-lite 1.9.9 against 2.3.3).
        Error::ServiceStopped => TransportError::Away(
            "the PC/SC service has stopped, or pcscd and this program's libpcsclite are of different versions: restart \
             pcscd, or install both from one release (in a container: the host's)"
                .into(),
        ),
        Error::NoService => TransportError::Away(
            "the PC/SC service is not running: install and start pcscd (`apt-get install pcscd`, `systemctl start pcscd`)"
                .into(),
        ),
        Error::SecurityViolation => TransportError::Denied(polkit::refusal(of)),
        Error::SharingViolation => TransportError::InUse(format!(
            "{of}: another program has exclusive access to the card; close it (GnuPG's scdaemon: `gpgconf --kill \
             scdaemon`)"
        )),
        Error::NoSmartcard | Error::RemovedCard | Error::ReaderUnavailable | Error::UnknownReader => {
            TransportError::Away(format!("{of}: the card was removed"))
        }
        Error::UnpoweredCard | Error::UnresponsiveCard | Error::CommError | Error::CommDataLost | Error::NotTransacted => {
            TransportError::Away(format!("{of}: the card does not answer ({error})"))
        }
        Error::ResetCard | Error::InvalidHandle => TransportError::Reset(format!("{of}: {error}")),
        error => TransportError::Reset(format!("{of}: {error}")),
    }
}
