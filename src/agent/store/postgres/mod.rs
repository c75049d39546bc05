//! The store in PostgreSQL 15 or newer, for one agent, or for several nodes that share it ([`node`]).
//!
//! One task writes, in a session of its own. It runs all waiting requests in one transaction (group commit), and answers them
//! after the transaction is on the server's disk. A few other sessions read. The sums that the limits are compared with are in
//! memory ([`totals`]). Nodes write one after another ([`ownership`]), and tell one another what they have changed ([`log`]).
//! Decision records 0169 and 0174 give the reasons. Behind a pooler, what must outlive a transaction is on a direct connection
//! ([`session`], decision record 0175).
//!
//! If the server or the connection fails, requests fail with [`StoreError::Unavailable`] until the store has connected again,
//! which each request tries. A commit whose answer was lost is looked up afterwards, so an answer is always true.
//!
//! PostgreSQL does not overwrite deleted content: it is in the files until a vacuum, and in the write-ahead log. Content is
//! sealed before it is stored.

mod adoption;
mod changes;
mod check;
mod cursors;
mod envelopes;
mod errors;
mod events;
mod gather;
mod handover;
mod locks;
mod log;
mod node;
mod options;
mod ownership;
mod parameter;
mod pool;
mod pooler;
mod queries;
mod readiness;
mod records;
mod recount;
mod request;
mod rows;
mod schema;
mod session;
mod strangers;
mod tables;
mod text;
mod tls;
mod totals;
mod transaction;
mod writer;

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

pub use options::PostgresOptions;
pub(super) use tables::PostgresTables;

use self::{
    node::Node,
    ownership::Owned,
    pool::Pool,
    request::{Keys, Outcome, WriteRequest, key, request},
    totals::{Counter, Totals},
    transaction::Db,
    writer::Writer,
};
use super::{
    super::clock::now,
    backend::Store,
    digests::{handled_mark, record_digest},
    error::StoreError,
    event::{NewEvent, StoredEvent},
    limits::StoreLimits,
    node::{HintListener, StoreNode},
    types::{
        Change, Commit, CommitOutcome, Delivery, DeliveryQuery, EventOfExpired, ExpiredEnvelope, HandledMessage,
        Millis, NewEnvelope, OutboxEntry, OutboxPosition, OutboxQuery, PeerQuota, PendingEnvelope, Postponement,
        ReceiveOutcome, Record, Retention, SendOutcome, ThreadEntry, ThreadPosition, Usage,
    },
};

/// A store in a database of PostgreSQL, for one agent, or for the nodes of [`PostgresOptions::as_node`]. It has at most six
/// connections; behind a pooler, one of them is with the server itself.
///
/// If it is dropped without [`Store::close`], it completes the waiting requests and then ends its sessions. It lives in the
/// tokio runtime in which it was opened.
pub struct PostgresStore {
    limits: StoreLimits,
    totals: Arc<Totals>,
    commits: Arc<AtomicU64>,
    node: Arc<Node>,
    pool: Pool,
    /// `None` after the store was closed.
    writer: Mutex<Option<Running>>,
}

/// The writer, and the queue of its requests.
struct Running {
    queue: mpsc::Sender<Box<dyn WriteRequest>>,
    task: JoinHandle<()>,
}

impl PostgresStore {
    /// Opens the store in a database, and creates its tables if the database is empty.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another agent uses the database, unless both are nodes with different names;
    /// [`StoreError::TooNew`] for a newer schema; [`StoreError::Unusable`] for another program's database, a server before
    /// PostgreSQL 15, limits with `max_bytes`, or a pooler in transaction mode without
    /// [a direct URL](PostgresOptions::with_direct_url);
    /// [`StoreError::Full`] or [`StoreError::Unavailable`] if the server cannot be reached, refuses the login, or cannot write.
    pub async fn open(options: PostgresOptions, limits: StoreLimits) -> Result<Self, StoreError> {
        if limits.max_bytes.is_some() {
            let why = "in PostgreSQL has no limit of its own for bytes: limit the disk or the tablespace".to_owned();
            return Err(StoreError::Unusable(why));
        }
        let (totals, commits) = (Arc::<Totals>::default(), Arc::<AtomicU64>::default());
        let node = Arc::new(Node::new(options.node()));
        let owned = Some(Owned::take(&options, &totals, &node).await?);
        let pool = Pool::new(options.clone());
        let (queue, requests) = mpsc::channel(writer::QUEUE_LENGTH);
        let writer = Writer {
            options,
            limits: limits.clone(),
            totals: totals.clone(),
            commits: commits.clone(),
            node: node.clone(),
            owned,
            failure: None,
        };
        let task = tokio::spawn(writer.run(requests));
        Ok(Self { limits, totals, commits, node, pool, writer: Mutex::new(Some(Running { queue, task })) })
    }

    /// Checks that a server can be reached, accepts the login, and has a database that this release can use; also through the
    /// pooler, if there is one. Writes nothing, and an agent may use the database meanwhile.
    ///
    /// # Errors
    /// Those of [`open`](Self::open) but [`StoreError::InUse`].
    pub async fn try_connect(options: &PostgresOptions) -> Result<(), StoreError> {
        let direct = session::Session::connect_direct(options).await?;
        let session = session::Session::connect(options).await?;
        pooler::check(&direct, &session, options).await?;
        schema::set_up(&session).await?;
        schema::current(&session).await.map(drop)
    }

    /// Like [`try_connect`](Self::try_connect), and checks that no other agent keeps this one from the database. For a moment this
    /// may keep another agent from it, which tries again.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn try_open(options: &PostgresOptions) -> Result<(), StoreError> {
        Self::try_connect(options).await?;
        ownership::check_free(options).await
    }

    /// Returns how many transactions were committed since the store was opened. Under load, transactions are far fewer
    /// than requests.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Queues a request to write, and waits for its answer. A queued request is carried out even if the caller stops waiting.
    async fn write<I, T, F>(&self, keys: Keys, input: I, work: F) -> Result<T, StoreError>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
        F: for<'a> Fn(&'a Db<'a>, &'a I) -> BoxFuture<'a, Outcome<T>> + Send + Sync + 'static,
    {
        let queue = self.running().as_ref().map(|running| running.queue.clone()).ok_or(StoreError::Closed)?;
        let ended = || StoreError::Unavailable("its task has ended".to_owned());
        let (request, outcome) = request(keys, input, work);
        queue.send(request).await.map_err(|_| ended())?;
        outcome.await.map_err(|_| ended())?
    }

    fn check_open(&self) -> Result<(), StoreError> {
        self.running().as_ref().map(drop).ok_or(StoreError::Closed)
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The keys of a commit.
fn keys_of(commit: &Commit) -> Keys {
    let read = commit.expects.iter().map(|expected| key(record_digest(&expected.kind, &expected.key))).collect();
    let mut keys: Vec<_> = commit.envelope.map(key).into_iter().collect();
    keys.extend(commit.arrived.as_ref().map(|arrived| key(arrived.digest)));
    if let Some(handled) = &commit.handled {
        let earlier = handled.earlier.iter().map(|(sender, recipient)| (sender.as_str(), recipient.as_str()));
        let names = earlier.chain([(handled.sender.as_str(), handled.recipient.as_str())]);
        keys.extend(names.map(|(sender, recipient)| key(handled_mark(sender, recipient, &handled.message))));
    }
    if let Some(stranger) = &commit.stranger {
        // All that is known of a stranger has one time.
        if commit.changes.iter().any(|change| matches!(change, Change::Remember(_))) {
            keys.push(key(("stranger", &stranger.did)));
        }
        // These are counted.
        if stranger.created.is_some_and(|created| created > now()) {
            keys.push(key("marks of the future"));
        }
    }
    // Changes whatever there is of the peer.
    if commit.changes.iter().any(|change| matches!(change, Change::Keep(_))) {
        return Keys::All;
    }
    keys.extend(commit.changes.iter().filter_map(|change| match change {
        Change::Put(record) | Change::Remember(record) => Some(key(record_digest(&record.kind, &record.key))),
        Change::Delete { kind, key: of } => Some(key(record_digest(kind, of))),
        Change::Deliver(delivery) => Some(key(&delivery.id)),
        Change::Send(entry) => Some(key(&entry.id)),
        Change::Event(_) | Change::Keep(_) => None,
    }));
    Keys::Some { changed: keys, read }
}

#[async_trait]
impl Store for PostgresStore {
    async fn receive(&self, envelope: NewEnvelope) -> Result<ReceiveOutcome, StoreError> {
        let keys = Keys::of([key(envelope.digest)]);
        self.write(keys, envelope, |db, envelope| Box::pin(envelopes::receive(db, envelope))).await
    }

    async fn known_digests(&self, limit: usize) -> Result<Vec<u64>, StoreError> {
        self.pool.read(&limit, |db, limit| Box::pin(queries::known_digests(db, *limit))).await
    }

    async fn pending_envelopes(
        &self,
        now: Millis,
        except: &[i64],
        limit: usize,
    ) -> Result<Vec<PendingEnvelope>, StoreError> {
        let input = (self.node.worker(), now, except, limit);
        self.pool
            .read(&input, |db, (worker, now, except, limit)| {
                Box::pin(queries::pending_envelopes(db, *worker, *now, except, *limit))
            })
            .await
    }

    async fn pending_count(&self, recipient: &str) -> Result<u64, StoreError> {
        self.check_open()?;
        Ok(self.totals.get(&Counter::PendingFor(recipient.to_owned())).number())
    }

    async fn peer_quota(&self, peer: &str, is_stranger: bool) -> Result<PeerQuota, StoreError> {
        self.check_open()?;
        Ok(queries::quota(|counter| self.totals.get(counter), peer, is_stranger, &self.limits))
    }

    async fn postpone(&self, envelope: i64, postponement: Postponement) -> Result<(), StoreError> {
        let (keys, input) = (Keys::of([key(envelope)]), (envelope, postponement));
        self.write(keys, input, |db, (envelope, postponement)| {
            Box::pin(envelopes::postpone(db, *envelope, postponement))
        })
        .await
    }

    async fn make_due(&self, max_attempts: u32) -> Result<(), StoreError> {
        self.write(Keys::All, max_attempts, |db, max_attempts| Box::pin(envelopes::make_due(db, *max_attempts))).await
    }

    async fn expire_envelopes(&self, arrived: Millis, limit: usize) -> Result<Vec<ExpiredEnvelope>, StoreError> {
        let input = (arrived, limit);
        self.write(Keys::All, input, |db, (arrived, limit)| Box::pin(envelopes::expire_envelopes(db, *arrived, *limit)))
            .await
    }

    async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StoreError> {
        self.write(keys_of(&commit), commit, |db, commit| Box::pin(changes::commit(db, commit))).await
    }

    async fn handled_position(&self, sender: &str, recipient: &str, message: &str) -> Result<Option<i64>, StoreError> {
        let mark = handled_mark(sender, recipient, message);
        self.pool.read(&mark, |db, mark| Box::pin(queries::handled_position(db, mark))).await
    }

    async fn is_certainly_new(&self, message: &HandledMessage, created: Option<Millis>) -> Result<bool, StoreError> {
        let input = (handled_mark(&message.sender, &message.recipient, &message.message), created);
        self.pool.read(&input, |db, (mark, created)| Box::pin(queries::is_certainly_new(db, mark, *created))).await
    }

    async fn deliveries(&self, query: DeliveryQuery) -> Result<Vec<Delivery>, StoreError> {
        let found = self.pool.read(&query, |db, query| Box::pin(queries::deliveries(db, query))).await?;
        found.ok_or(StoreError::UnknownCursor(query.after))
    }

    async fn deliveries_by_id(&self, beginning: &str, limit: usize) -> Result<Vec<Delivery>, StoreError> {
        let input = (beginning, limit);
        self.pool
            .read(&input, |db, (beginning, limit)| Box::pin(queries::deliveries_by_id(db, beginning, *limit)))
            .await
    }

    async fn acknowledge(&self, ids: &[String]) -> Result<usize, StoreError> {
        let keys = Keys::of(ids.iter().map(key));
        self.write(keys, ids.to_vec(), |db, ids| Box::pin(changes::acknowledge(db, ids))).await
    }

    async fn outbox_peers(&self) -> Result<Vec<String>, StoreError> {
        self.check_open()?;
        Ok(self.totals.waiting_peers(self.node.worker()))
    }

    async fn outbox_entries(
        &self,
        peer: &str,
        except_senders: &[String],
        except: &[String],
        limit: usize,
    ) -> Result<Vec<OutboxEntry>, StoreError> {
        let input = (self.node.worker(), peer, except_senders, except, limit);
        let read = self.pool.read(&input, |db, (worker, peer, except_senders, except, limit)| {
            Box::pin(queries::outbox_entries(db, *worker, peer, except_senders, except, *limit))
        });
        read.await
    }

    async fn outbox_entry(&self, id: &str) -> Result<Option<OutboxEntry>, StoreError> {
        self.pool.read(&id, |db, id| Box::pin(queries::outbox_entry(db, id))).await
    }

    async fn outbox(&self, query: OutboxQuery) -> Result<Vec<(OutboxPosition, OutboxEntry)>, StoreError> {
        self.pool.read(&query, |db, query| Box::pin(queries::outbox(db, query))).await
    }

    async fn cancel_outgoing(&self, id: &str, time: Millis) -> Result<bool, StoreError> {
        let (keys, input) = (Keys::of([key(id)]), (id.to_owned(), time));
        self.write(keys, input, |db, (id, time)| Box::pin(changes::cancel_outgoing(db, id, *time))).await
    }

    async fn record_send_outcome(
        &self,
        id: &str,
        outcome: SendOutcome,
        event: Option<NewEvent>,
    ) -> Result<(), StoreError> {
        let (keys, input) = (Keys::of([key(id)]), (id.to_owned(), outcome, event));
        let write = self.write(keys, input, |db, (id, outcome, event)| {
            Box::pin(changes::record_send_outcome(db, id, outcome, event.as_ref()))
        });
        write.await
    }

    async fn expire_outgoing(
        &self,
        now: Millis,
        limit: usize,
        event: EventOfExpired,
    ) -> Result<Vec<OutboxEntry>, StoreError> {
        let input = (now, limit, event);
        let write = self.write(Keys::All, input, |db, (now, limit, event)| {
            Box::pin(changes::expire_outgoing(db, *now, *limit, *event))
        });
        write.await
    }

    async fn events(&self, after: i64, kinds: &[&str], limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        let kinds: Vec<_> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let input = (after, kinds, limit);
        let read =
            self.pool.read(&input, |db, (after, kinds, limit)| Box::pin(events::events(db, *after, kinds, *limit)));
        read.await?.ok_or(StoreError::UnknownCursor(after))
    }

    async fn thread_entries(
        &self,
        thread: &str,
        after: ThreadPosition,
        limit: usize,
    ) -> Result<Vec<(ThreadPosition, ThreadEntry)>, StoreError> {
        let input = (thread, after, limit);
        let read = self
            .pool
            .read(&input, |db, (thread, after, limit)| Box::pin(queries::thread_entries(db, thread, *after, *limit)));
        read.await
    }

    async fn record(&self, kind: &str, key: &str) -> Result<Option<Record>, StoreError> {
        Ok(self.records_at(&[(kind, key)]).await?.into_iter().next().flatten())
    }

    async fn records_at(&self, places: &[(&str, &str)]) -> Result<Vec<Option<Record>>, StoreError> {
        self.pool.read(&places, |db, places| Box::pin(queries::records_at(db, places))).await
    }

    async fn records(&self, kind: &str, after: &str, limit: usize) -> Result<Vec<Record>, StoreError> {
        let input = (kind, after, limit);
        self.pool.read(&input, |db, (kind, after, limit)| Box::pin(queries::records(db, kind, after, *limit))).await
    }

    async fn records_with_peer(
        &self,
        kind: &'static str,
        peer: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let input = (kind, peer, after, limit);
        let read = self.pool.read(&input, |db, (kind, peer, after, limit)| {
            Box::pin(queries::records_with_peer(db, kind, peer, after, *limit))
        });
        read.await
    }

    async fn known_connections(&self, limit: usize) -> Result<Vec<String>, StoreError> {
        self.pool.read(&limit, |db, limit| Box::pin(queries::known_connections(db, *limit))).await
    }

    async fn delete_expired(&self, now: Millis, retention: &Retention, limit: usize) -> Result<usize, StoreError> {
        let input = (now, *retention, limit);
        let write = self.write(Keys::All, input, |db, (now, retention, limit)| {
            Box::pin(changes::delete_expired(db, *now, retention, *limit))
        });
        write.await
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        let totals = &*self.totals;
        self.pool.read(&totals, |db, totals| Box::pin(queries::usage(db, totals))).await
    }

    fn listen(&self, listener: HintListener) {
        self.node.listen(listener);
    }

    async fn nodes(&self) -> Result<Vec<StoreNode>, StoreError> {
        match self.node.worker() {
            None => Ok(Vec::new()),
            Some(this) => self.pool.read(&this, |db, this| Box::pin(queries::nodes(db, *this))).await,
        }
    }

    fn leads(&self) -> watch::Receiver<bool> {
        self.node.leads()
    }

    async fn show_ready(&self, ready: &[i64]) -> Result<(), StoreError> {
        if !self.node.is_shared() {
            return self.check_open();
        }
        // A node that joins again shows it, too.
        self.node.set_ready(ready);
        self.write(Keys::All, (), |db, ()| Box::pin(handover::show_ready(db))).await
    }

    fn waits_elsewhere(&self, peer: &str) -> bool {
        let Some(this) = self.node.worker() else { return false };
        let waits =
            |node: &i64| *node != this && self.totals.get(&Counter::UnsentBy(*node, peer.to_owned())).number > 0;
        self.node.nodes().iter().any(waits)
    }

    async fn claim_outgoing(&self, peer: &str) -> Result<(), StoreError> {
        if !self.waits_elsewhere(peer) {
            return Ok(());
        }
        self.write(Keys::All, peer.to_owned(), |db, peer| Box::pin(adoption::claim_outgoing(db, peer))).await
    }

    async fn probe_write(&self) -> Result<(), StoreError> {
        self.write(Keys::of([key("probe")]), (), |db, ()| Box::pin(changes::probe_write(db))).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        let running = self.running().take().ok_or(StoreError::Closed)?;
        self.pool.close();
        drop(running.queue);
        running.task.await.map_err(|_| StoreError::Unavailable("its task has panicked".to_owned()))
    }
}
