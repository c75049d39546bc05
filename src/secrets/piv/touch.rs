//! Touch prompts: a person is asked before the card waits for a touch, and reminded after five seconds.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::secrets::{Purpose, Slot};

/// The time until the reminder. The card waits for 15 seconds.
const REMIND_AFTER: Duration = Duration::from_secs(5);

/// What to tell the person who is asked for a touch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TouchPrompt {
    /// The YubiKey's serial number.
    pub serial: u32,
    /// The number of this touch in the operation, from 1.
    pub number: usize,
    /// How many touches the operation needs.
    pub of: usize,
    /// Whether this repeats the first prompt.
    pub is_reminder: bool,
    /// What the operation is for, if it is known.
    pub purpose: Option<Purpose>,
}

type Tell = Arc<dyn Fn(&TouchPrompt) + Send + Sync>;

/// The function that asks for touches, and the time of each key's last touch.
#[derive(Clone, Default)]
pub(super) struct Touches {
    tell: Option<Tell>,
    last: Arc<Mutex<HashMap<Slot, Instant>>>,
}

impl Touches {
    pub(super) fn new(tell: impl Fn(&TouchPrompt) + Send + Sync + 'static) -> Self {
        Self { tell: Some(Arc::new(tell)), ..Self::default() }
    }

    /// Runs `work`, during which the card waits for a touch, and prompts a person meanwhile.
    pub(super) fn prompt_during<T>(&self, prompt: TouchPrompt, work: impl FnOnce() -> T) -> T {
        let Some(tell) = &self.tell else { return work() };
        tell(&prompt);
        let (done, wait) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                if wait.recv_timeout(REMIND_AFTER) == Err(mpsc::RecvTimeoutError::Timeout) {
                    tell(&TouchPrompt { is_reminder: true, ..prompt });
                }
            });
            let result = work();
            drop(done);
            result
        })
    }

    /// Records a touch for the key in a slot.
    pub(super) fn record(&self, slot: Slot, when: Instant) {
        self.last().insert(slot, when);
    }

    /// Forgets the touches for a slot, whose key is another one now.
    pub(super) fn forget(&self, slot: Slot) {
        self.last().remove(&slot);
    }

    /// Whether the key in a slot was touched within the last `time`.
    pub(super) fn was_touched_within(&self, slot: Slot, time: Duration) -> bool {
        self.last().get(&slot).is_some_and(|last| last.elapsed() < time)
    }

    fn last(&self) -> MutexGuard<'_, HashMap<Slot, Instant>> {
        self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
