//! Counts of a token's operations and derivations.

use std::{
    ops::Sub,
    sync::atomic::{AtomicU64, Ordering},
};

/// Begun operations, and the Diffie-Hellman derivations for them. Subtract an earlier count from a later one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Diffie-Hellman derivations: Ze for unwrapping, and Zs for authcrypt; Zs of each recipient for wrapping.
    pub derivations: u64,
    /// Calls of `sign`.
    pub signatures: u64,
    /// Calls of `unwrap_cek`.
    pub unwraps: u64,
    /// Calls of `wrap_cek`.
    pub wraps: u64,
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            derivations: self.derivations - earlier.derivations,
            signatures: self.signatures - earlier.signatures,
            unwraps: self.unwraps - earlier.unwraps,
            wraps: self.wraps - earlier.wraps,
        }
    }
}

#[derive(Default)]
pub(crate) struct Counters {
    derivations: AtomicU64,
    signatures: AtomicU64,
    unwraps: AtomicU64,
    wraps: AtomicU64,
}

impl Counters {
    pub(crate) fn derivation(&self) {
        self.derivations.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn signature(&self) {
        self.signatures.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn unwrap(&self) {
        self.unwraps.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn wrap(&self) {
        self.wraps.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> Counts {
        Counts {
            derivations: self.derivations.load(Ordering::SeqCst),
            signatures: self.signatures.load(Ordering::SeqCst),
            unwraps: self.unwraps.load(Ordering::SeqCst),
            wraps: self.wraps.load(Ordering::SeqCst),
        }
    }
}
