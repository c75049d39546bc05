//! The one task that writes. All waiting requests share one transaction (group commit).
//!
//! Requests of a batch run at the same time if none changes what another reads or changes. What they ask the server for is gathered
//! ([`gather`](super::gather)). So a batch takes about as many statements and round trips as its longest request.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    adoption::beat,
    errors::{is_lost, store_error},
    node::Node,
    options::PostgresOptions,
    ownership::Owned,
    request::{Keys, WriteRequest, request},
    strangers,
    totals::Totals,
    transaction::Transaction,
};
use crate::agent::store::{error::StoreError, limits::StoreLimits, node::Hint};

/// The most requests that share one transaction.
const BATCH: usize = 256;
/// How many requests the queue of the writer holds. Further callers wait for room. A request may hold 1 MB.
pub(super) const QUEUE_LENGTH: usize = 256;
/// After a failed attempt to connect, requests fail for this long without another attempt.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// How long the outcome of a COMMIT is asked for whose answer was lost.
const LONGEST_DOUBT: Duration = Duration::from_secs(20);

/// How often a node shows that it lives, and looks whether the others do.
const BEAT: Duration = Duration::from_secs(2);

type Request = Box<dyn WriteRequest>;

/// The writer, and what it holds until it ends.
pub(super) struct Writer {
    pub(super) options: PostgresOptions,
    pub(super) limits: StoreLimits,
    pub(super) totals: Arc<Totals>,
    pub(super) commits: Arc<AtomicU64>,
    pub(super) node: Arc<Node>,
    /// `None` after a connection was lost.
    pub(super) owned: Option<Owned>,
    /// Why and when the last attempt to connect failed.
    pub(super) failure: Option<(StoreError, Instant)>,
}

/// Why a batch was not committed.
enum Failure {
    /// The connection was lost before the COMMIT was sent: nothing of the batch is in the database.
    Lost(StoreError),
    /// Others have taken the database, or this node's work.
    Taken,
    /// The connection was lost during the COMMIT of a transaction: the numbers of the node and of the transaction.
    InDoubt((i64, i64), StoreError),
    /// The server has refused the transaction. Nothing of the batch is in the database.
    Refused(StoreError),
}

impl Writer {
    /// Serves requests until the queue is closed. Then releases the database.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut requests = Vec::with_capacity(BATCH);
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                received = queue.recv_many(&mut requests, BATCH) => Event::Requests(received),
                _ = beats.tick(), if self.node.is_shared() => Event::Beat,
                is_leaving = heard_something(self.owned.as_ref()), if self.node.is_shared() => match is_leaving {
                    true => Event::Beat,
                    false => Event::News,
                },
            };
            match event {
                Event::Requests(0) => break,
                Event::Requests(_) => {
                    let committed = self.write(&mut requests).await;
                    for request in requests.drain(..) {
                        request.answer(committed.clone());
                    }
                }
                Event::Beat => self.beat().await,
                Event::News => self.look().await,
            }
        }
        if let Some(owned) = self.owned {
            owned.release().await;
        }
    }

    /// Shows that this node lives, and takes over the work of nodes that do not.
    async fn beat(&mut self) {
        let (beat, outcome) = request(Keys::All, (), |db, ()| Box::pin(beat(db)));
        let mut beat = [beat];
        let committed = self.write(&mut beat).await;
        let [beat] = beat;
        beat.answer(committed);
        if let Ok(Err(error)) = outcome.await {
            tracing::debug!(%error, "node could not show that it lives");
        }
    }

    /// Hears what other nodes have done.
    async fn look(&mut self) {
        let Some(owned) = &self.owned else { return };
        if let Err(error) = owned.look(&self.totals).await
            && (is_lost(&error) || owned.is_lost())
        {
            self.lose();
        }
    }

    /// Gives the connection up. Its sessions end.
    fn lose(&mut self) {
        self.owned = None;
        self.node.lost();
    }

    /// Runs the requests in one transaction. After an error, none of their changes is made. Tries again if the connection was
    /// lost and nothing is in the database: it may have ended long ago, without anyone noticing.
    async fn write(&mut self, requests: &mut [Request]) -> Result<(), StoreError> {
        let mut is_again = false;
        loop {
            let error = match self.try_write(requests).await {
                Ok(()) => break,
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Lost(error)) => {
                    self.lose();
                    error
                }
                Err(Failure::Taken) => {
                    self.lose();
                    // What a node that slept wants to change may be another one's by now.
                    if self.node.is_shared() {
                        return Err(self.taken());
                    }
                    self.taken()
                }
                Err(Failure::InDoubt(id, error)) => {
                    self.lose();
                    match self.was_committed(id).await {
                        Some(true) => break,
                        Some(false) => error,
                        None => return Err(error),
                    }
                }
            };
            if is_again {
                return Err(error);
            }
            is_again = true;
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn taken(&self) -> StoreError {
        StoreError::Unavailable(match self.node.is_shared() {
            true => "this node was silent for too long, and others have taken over its work".to_owned(),
            false => format!("another agent has taken the database {}", self.options.name()),
        })
    }

    async fn try_write(&mut self, requests: &mut [Request]) -> Result<(), Failure> {
        self.take().await.map_err(Failure::Refused)?;
        let Some(owned) = &self.owned else { return Ok(()) };
        // A request whose changes are to be rolled back is rare, and so is one that meets another one's change.
        for with_savepoints in [false, true] {
            if attempt(owned, requests, (&self.totals, &self.limits, &self.node), with_savepoints).await? {
                return Ok(());
            }
        }
        Err(Failure::Refused(StoreError::Unavailable("the transaction was rolled back".to_owned())))
    }

    /// Takes the database again if a session was lost.
    async fn take(&mut self) -> Result<(), StoreError> {
        if self.owned.as_ref().is_some_and(|owned| !owned.is_lost()) {
            return Ok(());
        }
        // The sessions end before others begin: the lock is free then.
        self.lose();
        if let Some((error, since)) = &self.failure
            && since.elapsed() < RECONNECT_PAUSE
        {
            return Err(error.clone());
        }
        match Owned::take(&self.options, &self.totals, &self.node).await {
            Ok(owned) => {
                tracing::info!(database = self.options.name(), "connected to PostgreSQL again");
                (self.owned, self.failure) = (Some(owned), None);
                self.node.tell(&[Hint::Anything]);
                Ok(())
            }
            Err(error) => {
                let is_refused = matches!(error, StoreError::InUse(_));
                let error = match error {
                    StoreError::InUse(_) if self.node.is_shared() => StoreError::Unavailable(error.to_string()),
                    StoreError::InUse(_) => self.taken(),
                    other => other,
                };
                let is_told = self.failure.as_ref().is_some_and(|(told, _)| told.to_string() == error.to_string());
                if is_refused && !is_told {
                    tracing::error!(%error, "this agent cannot use its database any more until the other one ends");
                }
                self.failure = Some((error.clone(), Instant::now()));
                Err(error)
            }
        }
    }

    /// Finds out whether a transaction was committed whose COMMIT got no answer. Taking the database has waited for its end.
    async fn was_committed(&mut self, id: (i64, i64)) -> Option<bool> {
        let start = Instant::now();
        while start.elapsed() < LONGEST_DOUBT {
            if self.take().await.is_ok()
                && let Some(owned) = &self.owned
            {
                match owned.was_committed(id).await {
                    Ok(was_committed) => return was_committed,
                    Err(_) => self.lose(),
                }
            }
            sleep(RECONNECT_PAUSE).await;
        }
        None
    }
}

/// What the writer does next.
enum Event {
    /// Write this many requests; 0: the queue is closed.
    Requests(usize),
    Beat,
    News,
}

/// Waits until another node has written or leaves. Returns whether one leaves.
async fn heard_something(owned: Option<&Owned>) -> bool {
    match owned {
        Some(owned) => owned.heard_something().await,
        None => std::future::pending().await,
    }
}

/// Runs the requests in one transaction. Returns false if that needs savepoints; then nothing is committed.
async fn attempt(
    owned: &Owned,
    requests: &mut [Request],
    (totals, limits, node): (&Totals, &StoreLimits, &Node),
    with_savepoints: bool,
) -> Result<bool, Failure> {
    let lost = |error| match is_lost(&error) || owned.is_lost() {
        true => Failure::Lost(store_error(error)),
        false => Failure::Refused(store_error(error)),
    };
    let (batch, dropped) = match owned.begin(totals).await {
        Ok(Some(begun)) => begun,
        Ok(None) => {
            let _ = owned.session.run("ROLLBACK").await;
            return Err(Failure::Taken);
        }
        Err(error) => {
            // The transaction may have begun before the error.
            let _ = owned.session.run("ROLLBACK").await;
            return Err(lost(error));
        }
    };
    let id = (node.number(), batch);
    let transaction = Transaction::new(&owned.session, totals, limits, node, dropped);
    let worked = match with_savepoints {
        true => one_by_one(&transaction, requests).await.map(|()| true),
        false => Ok(at_once(&transaction, requests).await),
    };
    let worked = match worked {
        Ok(true) if !transaction.has_failed() => strangers::bound(&transaction.request()).await.map(|()| true),
        other => other,
    };
    if transaction.is_lost() {
        return Err(Failure::Lost(StoreError::Unavailable("the connection to PostgreSQL was lost".to_owned())));
    }
    let error = match worked {
        Ok(true) if !transaction.has_failed() => {
            let entry = transaction.changes();
            match owned.commit(&entry).await {
                Ok(()) => {
                    let hints = if entry.has_taken() { entry.hints(node.number()) } else { Vec::new() };
                    totals.commit(entry.counts);
                    node.tell(&hints);
                    return Ok(true);
                }
                Err(error) if is_lost(&error) || owned.session.is_closed() => {
                    return Err(Failure::InDoubt(id, store_error(error)));
                }
                Err(error) => Some(error),
            }
        }
        Ok(_) => None,
        Err(error) => Some(error),
    };
    let rolled_back = owned.session.run("ROLLBACK").await;
    match error {
        Some(error) => Err(lost(error)),
        None => rolled_back.map(|()| false).map_err(lost),
    }
}

/// Runs requests at the same time that do not change what others have, and the others one after another. Returns false if some
/// changes must be rolled back.
async fn at_once(transaction: &Transaction<'_>, requests: &mut [Request]) -> bool {
    let mut rest = requests;
    while !rest.is_empty() {
        let (wave, others) = rest.split_at_mut(wave_length(rest));
        let work = wave.iter_mut().map(|request| async {
            let db = transaction.request();
            request.work(&db).await || !db.has_changed()
        });
        let done = transaction.serve(join_all(work)).await;
        if transaction.has_failed() || done.is_none_or(|done| done.contains(&false)) {
            return false;
        }
        rest = others;
    }
    true
}

/// How many of the requests, from the first on, may run at the same time; at least one.
fn wave_length(requests: &[Request]) -> usize {
    let (mut all_changed, mut all_read) = (HashSet::<u64>::new(), HashSet::<u64>::new());
    for (length, request) in requests.iter().enumerate() {
        let Keys::Some { changed, read } = request.keys() else { return length.max(1) };
        let meets_another = changed.iter().any(|key| all_changed.contains(key) || all_read.contains(key))
            || read.iter().any(|key| all_changed.contains(key));
        if meets_another {
            return length;
        }
        all_changed.extend(changed);
        all_read.extend(read);
    }
    requests.len()
}

/// Runs the requests one after another, each in a savepoint.
async fn one_by_one(transaction: &Transaction<'_>, requests: &mut [Request]) -> Result<(), tokio_postgres::Error> {
    for request in requests {
        let changes = transaction.changes();
        transaction.run("SAVEPOINT request").await?;
        let db = transaction.request();
        let keep = transaction.serve(request.work(&db)).await.unwrap_or(false);
        if transaction.is_lost() {
            return Ok(());
        }
        if let Some(error) = transaction.unheard_failure() {
            request.fail(error);
        }
        if !keep || transaction.has_failed() {
            transaction.run("ROLLBACK TO request").await?;
            transaction.roll_back_to(changes);
        }
        transaction.run("RELEASE request").await?;
    }
    Ok(())
}
