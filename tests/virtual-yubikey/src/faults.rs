//! What goes wrong, and who touches.

use std::{
    error::Error,
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::status::Status;

/// The YubiKey is not there, or went while it worked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unplugged;

impl fmt::Display for Unplugged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the virtual YubiKey is unplugged")
    }
}

impl Error for Unplugged {}

/// When an operation that waits for a touch gets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    /// So long after it began to wait.
    After(Duration),
    /// Not at all: it waits for [`Faults::touch_timeout`] and answers 6982, the same as to a missing PIN.
    Never,
}

/// The handle to break a virtual YubiKey with; clones break the same one. Each fault can be ordered while a command is
/// at work, and what waits at that moment heeds it.
#[derive(Clone, Default)]
pub struct Faults(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    plugged: bool,
    /// How often it was unplugged. A command that began before the last time has lost its card, even if it is back.
    unplugs: u64,
    unplug_in_operation: bool,
    /// How many APDUs are still answered.
    unplug_after: Option<u64>,
    operations_take: Duration,
    touch: Touch,
    touch_timeout: Duration,
    touch_counts_for: Duration,
    answers: Vec<(u8, Status)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            plugged: true,
            unplugs: 0,
            unplug_in_operation: false,
            unplug_after: None,
            operations_take: Duration::ZERO,
            touch: Touch::After(Duration::ZERO),
            touch_timeout: Duration::from_secs(15),
            touch_counts_for: Duration::from_secs(15),
            answers: Vec::new(),
        }
    }
}

impl Faults {
    /// Takes it out: it has no power, so it loses all but its keys, objects, PINs and tries.
    pub fn unplug(&self) {
        self.change(State::unplug);
    }

    /// Puts it back in.
    pub fn plug_in(&self) {
        self.change(|state| state.plugged = true);
    }

    /// The next private-key operation never answers: the YubiKey is unplugged after the touch and before the result.
    pub fn unplug_in_operation(&self) {
        self.change(|state| state.unplug_in_operation = true);
    }

    /// So many more APDUs are answered. The one after them is done, and its answer is lost: the YubiKey is unplugged.
    pub fn unplug_after(&self, apdus: u64) {
        self.change(|state| state.unplug_after = Some(apdus));
    }

    /// Has each private-key operation take this much longer, besides waiting for a touch.
    pub fn operations_take(&self, time: Duration) {
        self.change(|state| state.operations_take = time);
    }

    /// When touches come; at once if nothing is said.
    pub fn touch(&self, touch: Touch) {
        self.change(|state| state.touch = touch);
    }

    /// How long an operation waits for a touch; 15 seconds if nothing is said, as hardware does.
    pub fn touch_timeout(&self, time: Duration) {
        self.change(|state| state.touch_timeout = time);
    }

    /// How long a touch counts for keys with the touch policy *cached*; 15 seconds if nothing is said, as on hardware.
    pub fn touch_counts_for(&self, time: Duration) {
        self.change(|state| state.touch_counts_for = time);
    }

    /// The next command with this INS is not done, and is answered with this status word only; a chain is one command,
    /// answered at its end. Several such orders are obeyed one after the other.
    pub fn answer_next(&self, ins: u8, status: u16) {
        self.change(|state| state.answers.push((ins, Status(status))));
    }

    /// Names the time since it was last plugged in, if it is.
    pub(crate) fn plugging(&self) -> Result<Plugging, Unplugged> {
        let state = self.state();
        if state.plugged { Ok(Plugging(state.unplugs)) } else { Err(Unplugged) }
    }

    /// An APDU was done, and its answer is under way.
    pub(crate) fn done(&self) {
        let mut state = self.state();
        match state.unplug_after {
            Some(0) => {
                state.unplug_after = None;
                state.unplug();
            }
            Some(left) => state.unplug_after = Some(left - 1),
            None => {}
        }
    }

    /// Waits for a touch, and says whether it came.
    pub(crate) fn wait_for_touch(&self, plugging: Plugging) -> Result<bool, Unplugged> {
        self.wait(plugging, |state| match state.touch {
            Touch::After(time) => time.min(state.touch_timeout),
            Touch::Never => state.touch_timeout,
        })?;
        let state = self.state();
        Ok(matches!(state.touch, Touch::After(time) if time <= state.touch_timeout))
    }

    /// Works, as long as a private-key operation takes.
    pub(crate) fn work(&self, plugging: Plugging) -> Result<(), Unplugged> {
        self.wait(plugging, |state| state.operations_take)?;
        let mut state = self.state();
        if std::mem::take(&mut state.unplug_in_operation) {
            state.unplug();
            return Err(Unplugged);
        }
        Ok(())
    }

    /// Whether a touch of then still counts.
    pub(crate) fn still_counts(&self, touch: Instant) -> bool {
        touch.elapsed() < self.state().touch_counts_for
    }

    /// The status word that is ordered for the next command with this INS.
    pub(crate) fn take_answer(&self, ins: u8) -> Option<Status> {
        let mut state = self.state();
        let next = state.answers.iter().position(|(its, _)| *its == ins)?;
        Some(state.answers.remove(next).1)
    }

    /// Waits until so much time has passed since now; how much is asked again whenever an order came.
    fn wait(&self, plugging: Plugging, time: fn(&State) -> Duration) -> Result<(), Unplugged> {
        let begin = Instant::now();
        let mut state = self.state();
        loop {
            if !state.plugged || state.unplugs != plugging.0 {
                return Err(Unplugged);
            }
            let left = time(&state).saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            state = match self.0.changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    fn change(&self, order: impl FnOnce(&mut State)) {
        order(&mut self.state());
        self.0.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn unplug(&mut self) {
        self.plugged = false;
        self.unplugs += 1;
    }
}

/// One time between being plugged in and being unplugged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plugging(u64);
