//! The tasks of the daemon beside the agent's own.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Starts tasks that run until the shutdown. If one ends earlier, the daemon shuts down with an error: the service
/// manager starts a whole daemon again, and nobody notices a missing part.
#[derive(Clone)]
pub struct Tasks {
    shutdown: CancellationToken,
    lost: Arc<OnceLock<&'static str>>,
}

impl Tasks {
    /// `shutdown` ends the daemon.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self { shutdown, lost: Arc::default() }
    }

    /// Starts a task that may end once `stop` or the shutdown is cancelled. `name` is for the log.
    pub fn spawn(
        &self,
        name: &'static str,
        stop: CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let (tasks, task) = (self.clone(), tokio::spawn(task));
        tokio::spawn(async move {
            let ended = task.await;
            if stop.is_cancelled() || tasks.shutdown.is_cancelled() {
                return;
            }
            let reason = ended.err().map_or_else(|| "it returned".to_owned(), |error| error.to_string());
            tracing::error!(task = name, reason, "task ended; shutting down");
            let _ = tasks.lost.set(name);
            tasks.shutdown.cancel();
        })
    }

    /// Returns the name of the task whose end has shut the daemon down.
    pub fn lost(&self) -> Option<&'static str> {
        self.lost.get().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_task_shuts_the_daemon_down() {
        for panics in [false, true] {
            let (shutdown, stop) = (CancellationToken::new(), CancellationToken::new());
            let tasks = Tasks::new(shutdown.clone());
            stop.cancel();
            tasks.spawn("stopped", stop, async {}).await.unwrap();
            assert_eq!((tasks.lost(), shutdown.is_cancelled()), (None, false));
            let task = async move { assert!(!panics, "the task panics") };
            tasks.spawn("lost", CancellationToken::new(), task).await.unwrap();
            assert_eq!((tasks.lost(), shutdown.is_cancelled()), (Some("lost"), true));
            tasks.spawn("later", CancellationToken::new(), async {}).await.unwrap();
            assert_eq!(tasks.lost(), Some("lost"));
        }
    }
}
