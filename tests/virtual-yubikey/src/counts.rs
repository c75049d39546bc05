//! Counts of events, which tests compare with what they expect.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of events since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// VERIFY commands with a PIN, right or wrong.
    pub verifies: u64,
    /// Wrong PINs that cost a try, in any command.
    pub wrong_pins: u64,
    /// Operations that waited for a touch, whether it came or not.
    pub touches: u64,
    /// Completed private-key operations: signatures and key agreements, not attestations.
    pub operations: u64,
    /// SELECT commands.
    pub selects: u64,
    /// APDUs that reached the card.
    pub apdus: u64,
}

/// The counts as atomic counters, which can be read during a command.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) verifies: Counter,
    pub(crate) wrong_pins: Counter,
    pub(crate) touches: Counter,
    pub(crate) operations: Counter,
    pub(crate) selects: Counter,
    pub(crate) apdus: Counter,
}

#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn increment(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Counters {
    pub(crate) fn now(&self) -> Counts {
        let now = |counter: &Counter| counter.0.load(Relaxed);
        Counts {
            verifies: now(&self.verifies),
            wrong_pins: now(&self.wrong_pins),
            touches: now(&self.touches),
            operations: now(&self.operations),
            selects: now(&self.selects),
            apdus: now(&self.apdus),
        }
    }
}
