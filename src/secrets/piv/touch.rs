//! Touch prompts: a person is prompted before the card waits for a touch, and reminded after five seconds.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::secrets::{Purpose, person::while_asked};

/// The time until the reminder. The card waits for 15 seconds.
const REMIND_AFTER: Duration = Duration::from_secs(5);
/// How long a touch counts for a key with touch policy `cached`. The card allows 15 seconds; one second is a margin for
/// the transmission.
pub(super) const CACHED_TOUCH: Duration = Duration::from_secs(14);
/// A card that waits longer for a touch has hung.
const TOUCH_LIMIT: Duration = Duration::from_secs(20);

/// The content of a touch prompt.
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

type PromptFunction = Arc<dyn Fn(&TouchPrompt) + Send + Sync>;

/// The function that prompts for touches, and the time of each key's last touch.
#[derive(Clone, Default)]
pub(super) struct Touches {
    prompt: Option<PromptFunction>,
    /// By the number of the key's slot; the management key has one too.
    last_touches: Arc<Mutex<HashMap<u8, Instant>>>,
}

impl Touches {
    pub(super) fn new(prompt: impl Fn(&TouchPrompt) + Send + Sync + 'static) -> Self {
        Self { prompt: Some(Arc::new(prompt)), ..Self::default() }
    }

    /// Prompts a person, then runs `work`, in which the card waits for a touch. Prompts once more if `work` is not done
    /// after five seconds.
    pub(super) fn prompt_during<T>(&self, content: TouchPrompt, work: impl FnOnce() -> T) -> T {
        let Some(prompt) = &self.prompt else { return while_asked(TOUCH_LIMIT, work) };
        prompt(&content);
        let (done, wait) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                if wait.recv_timeout(REMIND_AFTER) == Err(mpsc::RecvTimeoutError::Timeout) {
                    prompt(&TouchPrompt { is_reminder: true, ..content });
                }
            });
            let result = while_asked(TOUCH_LIMIT, work);
            drop(done);
            result
        })
    }

    /// Records a touch for the key in a slot.
    pub(super) fn record(&self, slot: u8, when: Instant) {
        self.last_touches().insert(slot, when);
    }

    /// Forgets the touch for a slot whose key was replaced.
    pub(super) fn forget(&self, slot: u8) {
        self.last_touches().remove(&slot);
    }

    /// Whether the key in a slot was touched within the last `time`.
    pub(super) fn was_touched_within(&self, slot: u8, time: Duration) -> bool {
        self.last_touches().get(&slot).is_some_and(|last| last.elapsed() < time)
    }

    fn last_touches(&self) -> MutexGuard<'_, HashMap<u8, Instant>> {
        self.last_touches.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
