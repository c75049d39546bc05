//! One token and the threads that call it.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Instant,
};

use tokio::sync::oneshot;

use super::running::{HANG_TIME, RunningOperations};
use crate::secrets::{
    error::{SecretsError, TokenError},
    latency::{Latency, Waiter, yield_processor},
    token::Token,
};

/// One token and the threads that call it.
pub(super) struct Worker {
    pub(super) token: Arc<dyn Token>,
    pub(super) name: Arc<str>,
    execution: Execution,
}

/// On which thread an operation is performed.
enum Execution {
    CallerThread,
    WorkerThreads {
        queue: mpsc::SyncSender<Job>,
        latency: Arc<Latency>,
        running: RunningOperations,
        /// The number of threads. The token's concurrency may change when it is opened.
        threads: usize,
        /// Disconnected when every thread has dropped the token.
        threads_end: Mutex<mpsc::Receiver<()>>,
    },
}

/// A queued operation. It sends its result to its caller itself.
type Job = Box<dyn FnOnce(&dyn Token) + Send>;

impl Worker {
    /// A token that is called on the caller's thread.
    pub(super) fn on_caller_thread(token: Arc<dyn Token>) -> Self {
        Self { name: token.name().into(), token, execution: Execution::CallerThread }
    }

    /// Starts the token's threads, one for each operation that the token performs at once. At most `queue_length`
    /// requests wait.
    pub(super) fn start(token: Arc<dyn Token>, queue_length: usize) -> Self {
        let (sender, receiver) = mpsc::sync_channel::<Job>(queue_length);
        let receiver = Arc::new(Mutex::new(receiver));
        let (end, threads_end) = mpsc::channel::<()>();
        let latency = Arc::<Latency>::default();
        let threads = token.concurrency().max(1);
        for number in 0..threads {
            let (token, receiver, end) = (token.clone(), receiver.clone(), end.clone());
            let latency = latency.clone();
            thread::Builder::new()
                .name(format!("{} {number}", token.name()))
                .spawn(move || {
                    // The lock is held while waiting for a job, not while performing it.
                    while let Some(job) = { next_job(&receiver.lock().expect("no holder panics"), &latency) } {
                        job(&*token);
                    }
                    // In this order: dropping the token may close it, and `stop` waits for that.
                    drop(token);
                    drop(end);
                })
                .expect("the system can start a thread");
        }
        let execution = Execution::WorkerThreads {
            queue: sender,
            latency,
            running: RunningOperations::default(),
            threads,
            threads_end: Mutex::new(threads_end),
        };
        Self { name: token.name().into(), token, execution }
    }

    /// Drops the token. The returned receiver is disconnected when the threads have dropped it too.
    pub(super) fn stop(self) -> Option<mpsc::Receiver<()>> {
        match self.execution {
            Execution::CallerThread => None,
            Execution::WorkerThreads { threads_end, .. } => {
                Some(threads_end.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
            }
        }
    }

    /// Performs an operation. An operation that is still queued when its deadline passes, or when its caller goes away,
    /// is not begun.
    pub(super) async fn perform<T: Send + 'static>(
        &self,
        deadline: Instant,
        operation: impl FnOnce(&dyn Token) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, SecretsError> {
        let (queue, latency, running) = match &self.execution {
            Execution::CallerThread if Instant::now() < deadline => {
                return self.token_result(catch_panic(operation, &*self.token));
            }
            Execution::CallerThread => return Err(self.deadline_exceeded()),
            Execution::WorkerThreads { queue, latency, running, .. } => (queue, latency, running),
        };
        let (sender, mut reply) = oneshot::channel();
        let number = running.number();
        let (job_latency, job_running) = (latency.clone(), running.clone());
        let job = move |token: &dyn Token| {
            let start = Instant::now();
            if !sender.is_closed() && start < deadline {
                let result = job_running.run(number, || catch_panic(operation, token));
                job_latency.record(start.elapsed());
                let _ = sender.send(result);
            }
        };
        let waiter = Waiter::new(latency);
        queue.try_send(Box::new(job)).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => SecretsError::Busy { token: self.name.clone() },
            mpsc::TrySendError::Disconnected(_) => SecretsError::Stopped,
        })?;
        waiter.poll(deadline, || !reply.is_empty() || reply.is_terminated()).await;
        match tokio::time::timeout_at(deadline.into(), &mut reply).await {
            Ok(Ok(result)) => self.token_result(result),
            // The deadline passed before the operation began, or during it.
            Ok(Err(_)) | Err(_) => {
                running.give_up(number);
                Err(self.deadline_exceeded())
            }
        }
    }

    /// Whether every thread of the token is in an operation that does not return. Only a keeper can be replaced then.
    pub(super) fn hangs(&self) -> bool {
        match &self.execution {
            Execution::CallerThread => false,
            Execution::WorkerThreads { running, threads, .. } => running.hang(*threads, HANG_TIME),
        }
    }

    fn token_result<T>(&self, result: Result<T, TokenError>) -> Result<T, SecretsError> {
        result.map_err(|error| SecretsError::Token { token: self.name.clone(), error })
    }

    fn deadline_exceeded(&self) -> SecretsError {
        SecretsError::DeadlineExceeded { token: self.name.clone() }
    }
}

/// Performs an operation. If the token's code panics, only this operation fails; the thread serves the next one.
pub(super) fn catch_panic<T>(
    operation: impl FnOnce(&dyn Token) -> Result<T, TokenError>,
    token: &dyn Token,
) -> Result<T, TokenError> {
    panic::catch_unwind(AssertUnwindSafe(|| operation(token))).unwrap_or_else(|_| {
        Err(TokenError::Device { operation: "the operation".into(), reason: "the token's code panicked".into() })
    })
}

/// Waits for the next job. Returns `None` when the keyring was dropped.
fn next_job(queue: &mpsc::Receiver<Job>, latency: &Latency) -> Option<Job> {
    if let Some(until) = latency.poll_until() {
        while Instant::now() < until {
            match queue.try_recv() {
                Ok(job) => return Some(job),
                Err(mpsc::TryRecvError::Empty) => yield_processor(),
                Err(mpsc::TryRecvError::Disconnected) => return None,
            }
        }
    }
    queue.recv().ok()
}
