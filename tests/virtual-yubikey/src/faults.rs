//! Faults and touches that a test sets.

use std::{
    error::Error,
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::status::Status;

/// The YubiKey is unplugged, or was unplugged during the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unplugged;

impl fmt::Display for Unplugged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the virtual YubiKey is unplugged")
    }
}

impl Error for Unplugged {}

/// When an operation that waits for a touch gets one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    /// The touch comes this long after the operation began to wait.
    After(Duration),
    /// Never. The operation waits for [`Faults::touch_timeout`] and returns 6982, as for a missing PIN.
    Never,
}

/// The handle for the faults of a virtual YubiKey. Clones refer to the same YubiKey. Each fault can be set during a
/// command, and affects a command that is waiting.
#[derive(Clone, Default)]
pub struct Faults(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    plugged: bool,
    /// How often the YubiKey was unplugged. A command during which this changes fails, even if the YubiKey is plugged
    /// in again.
    unplugs: u64,
    unplug_in_operation: bool,
    /// How many more APDUs are answered.
    unplug_after: Option<u64>,
    operations_take: Duration,
    touch: Touch,
    touch_timeout: Duration,
    touch_counts_for: Duration,
    answers: Vec<(u8, Status)>,
    piv_is_off: bool,
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
            piv_is_off: false,
        }
    }
}

impl Faults {
    /// Unplugs the YubiKey. Without power it keeps only its keys, objects, PINs and tries.
    pub fn unplug(&self) {
        self.change(State::unplug);
    }

    /// Plugs the YubiKey in again.
    pub fn plug_in(&self) {
        self.change(|state| state.plugged = true);
    }

    /// Whether the YubiKey is plugged in.
    pub fn is_plugged_in(&self) -> bool {
        self.state().plugged
    }

    /// Unplugs the YubiKey during the next private-key operation, after the touch and before the result.
    pub fn unplug_in_operation(&self) {
        self.change(|state| state.unplug_in_operation = true);
    }

    /// Unplugs the YubiKey after this many more APDUs. The next APDU is carried out, and its response is lost.
    pub fn unplug_after(&self, apdus: u64) {
        self.change(|state| state.unplug_after = Some(apdus));
    }

    /// Makes each private-key operation take this much longer, in addition to waiting for a touch.
    pub fn operations_take(&self, time: Duration) {
        self.change(|state| state.operations_take = time);
    }

    /// Sets when touches come. Default: at once.
    pub fn touch(&self, touch: Touch) {
        self.change(|state| state.touch = touch);
    }

    /// Sets how long an operation waits for a touch. Default: 15 seconds, as on hardware.
    pub fn touch_timeout(&self, time: Duration) {
        self.change(|state| state.touch_timeout = time);
    }

    /// Sets how long a touch counts for keys with touch policy *cached*. Default: 15 seconds, as on hardware.
    pub fn touch_counts_for(&self, time: Duration) {
        self.change(|state| state.touch_counts_for = time);
    }

    /// Answers the next command with this INS with this status word, without carrying it out. A chain is one command,
    /// answered at its end. Several calls affect one command each, in order.
    pub fn answer_next(&self, ins: u8, status: u16) {
        self.change(|state| state.answers.push((ins, Status(status))));
    }

    /// Switches the PIV application off, as `ykman config usb --disable PIV` does.
    pub fn switch_piv_off(&self) {
        self.change(|state| state.piv_is_off = true);
    }

    /// Whether the PIV application is switched off.
    pub(crate) fn is_piv_off(&self) -> bool {
        self.state().piv_is_off
    }

    /// The present power cycle.
    pub(crate) fn power_cycle(&self) -> Result<PowerCycle, Unplugged> {
        let state = self.state();
        if state.plugged { Ok(PowerCycle(state.unplugs)) } else { Err(Unplugged) }
    }

    /// Called after an APDU was carried out, before its response is returned.
    pub(crate) fn apdu_done(&self) {
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

    /// Waits for a touch. Returns whether it came.
    pub(crate) fn wait_for_touch(&self, power_cycle: PowerCycle) -> Result<bool, Unplugged> {
        self.wait(power_cycle, |state| match state.touch {
            Touch::After(time) => time.min(state.touch_timeout),
            Touch::Never => state.touch_timeout,
        })?;
        let state = self.state();
        Ok(matches!(state.touch, Touch::After(time) if time <= state.touch_timeout))
    }

    /// Waits as long as a private-key operation takes.
    pub(crate) fn work(&self, power_cycle: PowerCycle) -> Result<(), Unplugged> {
        self.wait(power_cycle, |state| state.operations_take)?;
        let mut state = self.state();
        if std::mem::take(&mut state.unplug_in_operation) {
            state.unplug();
            return Err(Unplugged);
        }
        Ok(())
    }

    /// Whether a touch at the time `touch` still counts.
    pub(crate) fn still_counts(&self, touch: Instant) -> bool {
        touch.elapsed() < self.state().touch_counts_for
    }

    /// The status word that is set for the next command with this INS.
    pub(crate) fn take_answer(&self, ins: u8) -> Option<Status> {
        let mut state = self.state();
        let next = state.answers.iter().position(|(of, _)| *of == ins)?;
        Some(state.answers.remove(next).1)
    }

    /// Waits for a time. The time is read again whenever a fault is set, since the fault may change it.
    fn wait(&self, power_cycle: PowerCycle, time: fn(&State) -> Duration) -> Result<(), Unplugged> {
        let begin = Instant::now();
        let mut state = self.state();
        loop {
            if !state.plugged || state.unplugs != power_cycle.0 {
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

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
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

/// The time from being plugged in to being unplugged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PowerCycle(u64);
