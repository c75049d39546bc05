//! Notices that an idle token is missing, before an operation fails.
//!
//! A token that is in use is not asked: its operations say more. The question ([`Token::probe`]) changes nothing. If it
//! fails, the token's keys are found again, as they are when an operation fails.

use std::{
    sync::{Arc, Mutex, Weak, mpsc},
    thread,
    time::Duration,
};

use super::{
    recheck,
    registry::{RegisteredToken, TokenRegistry, hanging},
    running::HANG_TIME,
    worker::catch_panic,
};
use crate::secrets::{error::TokenError, token::Token};

/// The threads that probe the idle tokens of a keyring, one for each token.
pub(super) struct IdleProbes {
    /// Ends the threads when it is dropped.
    stop: Vec<mpsc::Sender<()>>,
    /// Each is disconnected when its thread has ended.
    ends: Mutex<Vec<mpsc::Receiver<()>>>,
}

impl IdleProbes {
    /// Starts to probe each token at this interval while it is idle.
    pub(super) fn start(registry: &Arc<TokenRegistry>, interval: Duration) -> Self {
        let (mut stops, mut ends) = (Vec::new(), Vec::new());
        for (index, token) in registry.tokens.iter().enumerate() {
            let ((stop, stopped), (end, has_ended)) = (mpsc::channel(), mpsc::channel::<()>());
            let registry = Arc::downgrade(registry);
            let run = move || {
                run(&registry, index, interval, &stopped);
                drop(end);
            };
            match thread::Builder::new().name(format!("{} idle probe", token.worker.name)).spawn(run) {
                Ok(_) => {
                    stops.push(stop);
                    ends.push(has_ended);
                }
                Err(error) => tracing::error!(%error, "cannot start the thread that probes an idle token"),
            }
        }
        Self { stop: stops, ends: Mutex::new(ends) }
    }

    /// Ends the threads. Each returned receiver is disconnected when its thread has ended.
    pub(super) fn stop(self) -> Vec<mpsc::Receiver<()>> {
        drop(self.stop);
        self.ends.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn run(registry: &Weak<TokenRegistry>, index: usize, interval: Duration, stopped: &mpsc::Receiver<()>) {
    while stopped.recv_timeout(interval) == Err(mpsc::RecvTimeoutError::Timeout) {
        let Some(present) = registry.upgrade() else { return };
        let RegisteredToken { worker, health, .. } = &present.tokens[index];
        if health.outage().is_some() || health.was_used() {
            continue;
        }
        let Some(answer) = ask(worker.token.clone()) else { continue };
        match answer.recv_timeout(HANG_TIME) {
            Ok(Err(error)) => {
                tracing::info!(token = &*worker.name, %error, "idle token failed a probe; finding its keys again");
                recheck::check(&present, index);
            }
            // It answered, or its thread panicked outside the token's code.
            Ok(Ok(())) | Err(mpsc::RecvTimeoutError::Disconnected) => {}
            Err(mpsc::RecvTimeoutError::Timeout) => {
                present.take_out_of_service(index, hanging());
                // The keyring may be dropped while the token hangs.
                drop(present);
                let _ = answer.recv();
            }
        }
    }
}

/// Asks the token on a thread of its own: the device may not answer.
fn ask(token: Arc<dyn Token>) -> Option<mpsc::Receiver<Result<(), TokenError>>> {
    let (sender, answer) = mpsc::channel();
    let probe = move || {
        let result = catch_panic(|token| token.probe(), &*token);
        // The token is released first: whoever gets the answer may close it.
        drop(token);
        let _ = sender.send(result);
    };
    thread::Builder::new().name("token probe".to_owned()).spawn(probe).is_ok().then_some(answer)
}
