//! Keeps a client connected: when a keeper ends, connects to the next one, with back-off.

use std::{
    io,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::{client_connection::ClientConnection, client_session::ClientSession, connector::KeeperConnector};
use crate::secrets::backoff::Backoff;

const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The pauses before connecting again. The jitter keeps the clients of a restarted keeper from all connecting at
/// the same moment.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), LONGEST_PAUSE).with_jitter(0.5);
/// A keeper that ran for longer than this did not fail at its start, so the back-off begins anew.
const MIN_UPTIME: Duration = Duration::from_secs(5);

/// Keeps a session connected until the session is dropped. `connection` is the first connection, if it exists already.
pub(super) async fn keep_connected(
    session: Weak<ClientSession>,
    connector: KeeperConnector,
    mut connection: Option<Arc<ClientConnection>>,
) {
    let mut failures = 0;
    let mut lost = None;
    loop {
        if let Some(current) = connection {
            let start = Instant::now();
            match run_until_replaced(&session, &current, &connector).await {
                Ok(next) => {
                    connection = Some(next);
                    continue;
                }
                Err(reason) => lost = reason,
            }
            if start.elapsed() > MIN_UPTIME || current.is_ending() {
                failures = 0;
            }
        }
        connection = loop {
            failures += 1;
            tokio::time::sleep(BACKOFF.pause(failures)).await;
            let Some(session) = session.upgrade() else { return };
            // After the pause, because a signal that ends both processes may reach the keeper first.
            let lost = lost.take().filter(|_| !session.is_stopping());
            if let Some(reason) = lost {
                tracing::warn!(token = &*session.token, reason, "connection to the keeper lost; connecting again");
            }
            match session.connect(&connector).await {
                Ok(connection) => break Some(connection),
                Err(error) => {
                    if !session.is_stopping() {
                        tracing::warn!(token = &*session.token, %error, "cannot connect to the keeper");
                    }
                    session.set_out_of_service(error);
                }
            }
        };
    }
}

/// Runs a connection until it ends or is replaced. Returns the connection that replaced it.
///
/// # Errors
/// The connection has ended, for this reason; `None` if its end was expected.
///
/// The new connection is made before the old one is given up. The old one still delivers the responses to its requests.
async fn run_until_replaced(
    session: &Weak<ClientSession>,
    connection: &Arc<ClientConnection>,
    connector: &KeeperConnector,
) -> Result<Arc<ClientConnection>, Option<String>> {
    let mut task = ConnectionTask::start(connection.clone(), session.clone());
    loop {
        tokio::select! {
            ended = task.ended() => {
                session.upgrade().ok_or(None)?.set_disconnected();
                let reason = || ended.err().map_or_else(|| "keeper ended".to_owned(), |error| error.to_string());
                return Err((!connection.is_ending()).then(reason));
            }
            () = connection.replacement_requested() => {
                let session = session.upgrade().ok_or(None)?;
                match session.connect(connector).await {
                    Ok(next) => {
                        connection.set_replaced();
                        task.detach();
                        return Ok(next);
                    }
                    Err(error) => {
                        tracing::warn!(token = &*session.token, %error, "cannot connect to the next keeper");
                        tokio::time::sleep(LONGEST_PAUSE).await;
                        connection.request_replacement();
                    }
                }
            }
        }
    }
}

/// The task that runs a connection. Dropping this aborts the task, unless it was detached.
struct ConnectionTask(Option<JoinHandle<io::Result<()>>>);

impl ConnectionTask {
    fn start(connection: Arc<ClientConnection>, session: Weak<ClientSession>) -> Self {
        Self(Some(tokio::spawn(async move { connection.run(session).await })))
    }

    async fn ended(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Some(task) => task.await.map_err(io::Error::other)?,
            None => Ok(()),
        }
    }

    fn detach(&mut self) {
        self.0 = None;
    }
}

impl Drop for ConnectionTask {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}
