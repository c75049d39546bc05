//! A token and the threads that ask it.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::pace::{Pace, Waiting, make_way};
use crate::secrets::{Context, SecretsError, Token, TokenError};

/// The deadline of a request that brings none.
const DEADLINE: Duration = Duration::from_secs(30);

/// A token and the way to it.
pub(super) struct Worker {
    pub(super) token: Arc<dyn Token>,
    pub(super) name: Arc<str>,
    way: Way,
}

enum Way {
    /// On the thread of who calls.
    Here,
    Threads {
        queue: mpsc::SyncSender<Job>,
        pace: Arc<Pace>,
        /// Disconnected once every thread has let go of the token.
        ended: Mutex<mpsc::Receiver<()>>,
    },
}

type Job = Box<dyn FnOnce(&dyn Token) + Send>;

impl Worker {
    /// A token that is asked on the thread of who calls.
    pub(super) fn here(token: Arc<dyn Token>) -> Self {
        Self { name: token.name().into(), token, way: Way::Here }
    }

    /// A token with threads, for which so many requests may wait.
    pub(super) fn start(token: Arc<dyn Token>, queue: usize) -> Self {
        let (sender, receiver) = mpsc::sync_channel::<Job>(queue);
        let receiver = Arc::new(Mutex::new(receiver));
        let (end, ended) = mpsc::channel::<()>();
        let pace = Arc::<Pace>::default();
        for number in 0..token.concurrency().max(1) {
            let (token, receiver, end) = (token.clone(), receiver.clone(), end.clone());
            let pace = pace.clone();
            thread::Builder::new()
                .name(format!("{} {number}", token.name()))
                .spawn(move || {
                    // The lock is held while waiting, not while working.
                    while let Some(job) = { next(&receiver.lock().expect("no holder panics"), &pace) } {
                        job(&*token);
                    }
                    // In this order: the token may be closed by this, and that is what is waited for.
                    drop(token);
                    drop(end);
                })
                .expect("the system has a thread to spare at start");
        }
        Self { name: token.name().into(), token, way: Way::Threads { queue: sender, pace, ended: Mutex::new(ended) } }
    }

    /// Lets go of the token, and returns what to wait on until its threads have too.
    pub(super) fn stop(self) -> Option<mpsc::Receiver<()>> {
        match self.way {
            Way::Here => None,
            Way::Threads { ended, .. } => Some(ended.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())),
        }
    }

    /// Does an operation, unless its deadline has passed or its caller has gone by then.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        cx: &Context,
        operation: impl FnOnce(&dyn Token) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, SecretsError> {
        let deadline = cx.deadline.unwrap_or_else(|| Instant::now() + DEADLINE);
        let (queue, pace) = match &self.way {
            Way::Here if Instant::now() < deadline => return self.result(caught(operation, &*self.token)),
            Way::Here => return Err(self.late()),
            Way::Threads { queue, pace, .. } => (queue, pace),
        };
        let (reply, mut answer) = oneshot::channel();
        let timer = pace.clone();
        let job = move |token: &dyn Token| {
            let begun = Instant::now();
            if !reply.is_closed() && begun < deadline {
                let result = caught(operation, token);
                timer.took(begun.elapsed());
                let _ = reply.send(result);
            }
        };
        let waiting = Waiting::new(pace);
        queue.try_send(Box::new(job)).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => SecretsError::Busy { token: self.name.clone() },
            mpsc::TrySendError::Disconnected(_) => SecretsError::Stopped,
        })?;
        waiting.awake(deadline, || !answer.is_empty() || answer.is_terminated()).await;
        match tokio::time::timeout_at(deadline.into(), &mut answer).await {
            Ok(Ok(result)) => self.result(result),
            // Before it could begin, or while the token worked.
            Ok(Err(_)) | Err(_) => Err(self.late()),
        }
    }

    fn result<T>(&self, result: Result<T, TokenError>) -> Result<T, SecretsError> {
        result.map_err(|error| SecretsError::Token { token: self.name.clone(), error })
    }

    fn late(&self) -> SecretsError {
        SecretsError::Deadline { token: self.name.clone() }
    }
}

/// A token's code that panics fails its request; the thread is there for the next one.
pub(super) fn caught<T>(
    operation: impl FnOnce(&dyn Token) -> Result<T, TokenError>,
    token: &dyn Token,
) -> Result<T, TokenError> {
    panic::catch_unwind(AssertUnwindSafe(|| operation(token))).unwrap_or_else(|_| {
        Err(TokenError::Device { operation: "the operation".into(), reason: "the token's code panicked".into() })
    })
}

/// The next request; none when the keyring is gone.
fn next(queue: &mpsc::Receiver<Job>, pace: &Pace) -> Option<Job> {
    if let Some(until) = pace.awake_until() {
        while Instant::now() < until {
            match queue.try_recv() {
                Ok(job) => return Some(job),
                Err(mpsc::TryRecvError::Empty) => make_way(),
                Err(mpsc::TryRecvError::Disconnected) => return None,
            }
        }
    }
    queue.recv().ok()
}
