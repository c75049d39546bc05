//! The requests to write.

use std::hash::{DefaultHasher, Hash, Hasher};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::{errors::store_error, transaction::Db};
use crate::agent::store::error::StoreError;

/// What a request reads or changes. Requests may run at the same time if none changes a key that another has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Keys {
    /// Hashes of the keys. That two keys have one hash costs a little time.
    Some {
        /// What the request changes.
        changed: Vec<u64>,
        /// What the request only reads.
        read: Vec<u64>,
    },
    /// Anything: the request runs alone.
    All,
}

impl Keys {
    /// The keys of a request that changes these.
    pub fn of(changed: impl IntoIterator<Item = u64>) -> Self {
        Self::Some { changed: changed.into_iter().collect(), read: Vec::new() }
    }
}

/// A key of a request.
pub(super) fn key(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// A request to write, which sends its own answer.
pub(super) trait WriteRequest: Send {
    /// What the request reads or changes.
    fn keys(&self) -> &Keys;
    /// Makes the changes. Returns whether to keep them; otherwise they are rolled back. Is called again if changes that were to
    /// be kept had to be rolled back with those of another request.
    fn work<'a>(&'a mut self, db: &'a Db<'a>) -> BoxFuture<'a, bool>;
    /// Notes why a change could not be made that the request did not wait for.
    fn fail(&mut self, error: StoreError);
    /// Sends the answer, after the transaction was committed or has failed.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

/// Why a request's changes are rolled back.
pub(super) enum Rollback<T> {
    /// The request made no change, and is answered with this value.
    Answer(T),
    /// The request failed.
    Error(StoreError),
}

/// The answer to a request, or why its changes are rolled back.
pub(super) type Outcome<T> = Result<T, Rollback<T>>;

impl<T> From<tokio_postgres::Error> for Rollback<T> {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Error(store_error(error))
    }
}

/// Makes a request from its input and a function, and the channel that yields the result.
pub(super) fn request<I, T, F>(
    keys: Keys,
    input: I,
    work: F,
) -> (Box<dyn WriteRequest>, oneshot::Receiver<Result<T, StoreError>>)
where
    I: Send + Sync + 'static,
    T: Send + 'static,
    F: for<'a> Fn(&'a Db<'a>, &'a I) -> BoxFuture<'a, Outcome<T>> + Send + Sync + 'static,
{
    let (answer, outcome) = oneshot::channel();
    (Box::new(FunctionRequest { keys, input, work, outcome: None, answer }), outcome)
}

/// A request that a function carries out.
struct FunctionRequest<I, T, F> {
    keys: Keys,
    input: I,
    work: F,
    outcome: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<I, T, F> WriteRequest for FunctionRequest<I, T, F>
where
    I: Send + Sync,
    T: Send,
    F: for<'a> Fn(&'a Db<'a>, &'a I) -> BoxFuture<'a, Outcome<T>> + Send + Sync,
{
    fn keys(&self) -> &Keys {
        &self.keys
    }

    fn work<'a>(&'a mut self, db: &'a Db<'a>) -> BoxFuture<'a, bool> {
        let Self { input, work, outcome, .. } = self;
        Box::pin(async move {
            let (done, keep) = match work(db, input).await {
                Ok(value) => (Ok(value), true),
                Err(Rollback::Answer(value)) => (Ok(value), false),
                Err(Rollback::Error(error)) => (Err(error), false),
            };
            *outcome = Some(done);
            keep
        })
    }

    fn fail(&mut self, error: StoreError) {
        self.outcome = Some(Err(error));
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let outcome = match (self.outcome, committed) {
            // The request's own error is more specific than that of the transaction.
            (Some(Err(error)), _) | (_, Err(error)) => Err(error),
            (Some(outcome), Ok(())) => outcome,
            (None, Ok(())) => Err(StoreError::Unavailable("the request was not executed".to_owned())),
        };
        // The caller may have stopped waiting. The change is made all the same.
        let _ = self.answer.send(outcome);
    }
}
