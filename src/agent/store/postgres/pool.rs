//! The sessions that read. Each has one request at a time.

use std::sync::{Mutex, MutexGuard};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio_postgres::Error;

use super::{
    errors::{is_lost, store_error},
    options::PostgresOptions,
    session::Session,
};
use crate::agent::store::error::StoreError;

/// The most sessions that read.
const READER_COUNT: usize = 4;

/// The sessions that read.
pub(super) struct Pool {
    options: PostgresOptions,
    places: Semaphore,
    idle: Mutex<Vec<Session>>,
}

impl Pool {
    /// A pool, whose sessions are made when they are needed.
    pub fn new(options: PostgresOptions) -> Self {
        Self { options, places: Semaphore::new(READER_COUNT), idle: Mutex::default() }
    }

    /// Reads. If the connection was lost, reads once more with another one.
    ///
    /// If the caller stops waiting, the session is not used again: its transaction may be open.
    pub async fn read<I, T, F>(&self, input: &I, read: F) -> Result<T, StoreError>
    where
        F: for<'a> Fn(&'a Session, &'a I) -> BoxFuture<'a, Result<T, Error>>,
    {
        let Ok(_place) = self.places.acquire().await else { return Err(StoreError::Closed) };
        let idle = self.lock().pop();
        if let Some(session) = idle {
            let done = read(&session, input).await;
            if !is_over(&session, &done) {
                self.lock().push(session);
                return done.map_err(store_error);
            }
        }
        let session = Session::connect(&self.options).await?;
        let done = read(&session, input).await;
        if !is_over(&session, &done) {
            self.lock().push(session);
        }
        done.map_err(store_error)
    }

    /// Ends the sessions. Later requests fail with [`StoreError::Closed`].
    pub fn close(&self) {
        self.places.close();
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn is_over<T>(session: &Session, done: &Result<T, Error>) -> bool {
    done.as_ref().is_err_and(|error| is_lost(error) || session.is_closed())
}
