//! What happened, counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How often each thing happened since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// VERIFYs with a PIN in them, right or wrong.
    pub verifies: u64,
    /// PINs that were wrong and cost a try, in whichever command.
    pub wrong_pins: u64,
    /// Operations that waited for a touch, whether it came or not.
    pub touches: u64,
    /// Private-key operations that were done: signatures and key agreements, not attestations.
    pub operations: u64,
    /// SELECTs.
    pub selects: u64,
    /// APDUs that reached the card.
    pub apdus: u64,
}

/// The same while it changes, so that it is readable while the card works.
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
    pub(crate) fn up(&self) {
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
