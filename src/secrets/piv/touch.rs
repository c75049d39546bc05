//! Touches: a person is told before the card waits for one, and again after five seconds.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::secrets::{Purpose, Slot};

/// After so long a person is told again; the card waits for 15 seconds.
const AGAIN: Duration = Duration::from_secs(5);

/// What a person is told of a touch that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TouchPrompt {
    /// The YubiKey's serial number.
    pub serial: u32,
    /// Which touch of this operation.
    pub number: usize,
    /// Of how many.
    pub of: usize,
    /// Whether it was said before.
    pub again: bool,
    /// What it is wanted for, if that is known.
    pub purpose: Option<Purpose>,
}

type Tell = Arc<dyn Fn(&TouchPrompt) + Send + Sync>;

/// Who is told, and when the last touches came.
#[derive(Clone, Default)]
pub(super) struct Touches {
    tell: Option<Tell>,
    last: Arc<Mutex<HashMap<Slot, Instant>>>,
}

impl Touches {
    pub(super) fn told_to(tell: impl Fn(&TouchPrompt) + Send + Sync + 'static) -> Self {
        Self { tell: Some(Arc::new(tell)), ..Self::default() }
    }

    /// Does something for which the card wants a touch.
    pub(super) fn around<T>(&self, prompt: TouchPrompt, work: impl FnOnce() -> T) -> T {
        let Some(tell) = &self.tell else { return work() };
        tell(&prompt);
        let (done, wait) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                if wait.recv_timeout(AGAIN) == Err(mpsc::RecvTimeoutError::Timeout) {
                    tell(&TouchPrompt { again: true, ..prompt });
                }
            });
            let result = work();
            drop(done);
            result
        })
    }

    /// A touch came for a key.
    pub(super) fn came(&self, slot: Slot, when: Instant) {
        self.last().insert(slot, when);
    }

    /// The key in a slot is another now.
    pub(super) fn forget(&self, slot: Slot) {
        self.last().remove(&slot);
    }

    /// Whether one came so lately.
    pub(super) fn within(&self, slot: Slot, time: Duration) -> bool {
        self.last().get(&slot).is_some_and(|last| last.elapsed() < time)
    }

    fn last(&self) -> MutexGuard<'_, HashMap<Slot, Instant>> {
        self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
