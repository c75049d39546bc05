//! The operations that a token's threads run, and which of them do not return.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::secrets::{mutex::lock, person::Stopwatch};

/// An operation that still runs when its deadline has passed hangs if it has taken longer than this, without the time
/// during which a person was asked. A shorter deadline than this says nothing about the token.
pub(super) const HANG_TIME: Duration = Duration::from_secs(10);

/// The operations that run now.
#[derive(Clone, Default)]
pub(super) struct RunningOperations(Arc<Mutex<Operations>>);

#[derive(Default)]
struct Operations {
    next_number: u64,
    /// Each with its time, and whether its caller has given up.
    running: HashMap<u64, (Stopwatch, bool)>,
}

impl RunningOperations {
    /// Runs an operation. `number` is what [`RunningOperations::number`] returned for it.
    pub(super) fn run<T>(&self, number: u64, operation: impl FnOnce() -> T) -> T {
        lock(&self.0).running.insert(number, (Stopwatch::start(), false));
        let result = operation();
        lock(&self.0).running.remove(&number);
        result
    }

    /// A number for an operation that will run.
    pub(super) fn number(&self) -> u64 {
        let mut operations = lock(&self.0);
        operations.next_number += 1;
        operations.next_number
    }

    /// Records that the caller of an operation has given up at its deadline.
    pub(super) fn give_up(&self, number: u64) {
        if let Some((_, given_up)) = lock(&self.0).running.get_mut(&number) {
            *given_up = true;
        }
    }

    /// Whether `threads` operations or more have taken longer than `time` and have no caller any more, so that no thread
    /// is left for another.
    pub(super) fn hang(&self, threads: usize, time: Duration) -> bool {
        let operations = lock(&self.0);
        let hung = operations.running.values().filter(|(running, given_up)| *given_up && running.elapsed() > time);
        hung.count() >= threads.max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn an_operation_without_a_caller_hangs_until_it_returns() {
        let operations = &RunningOperations::default();
        let number = operations.number();
        let (begun, has_begun) = mpsc::channel();
        let (end, may_end) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                operations.run(number, || {
                    begun.send(()).unwrap();
                    may_end.recv().unwrap();
                });
            });
            has_begun.recv().unwrap();
            assert!(!operations.hang(1, Duration::ZERO), "its caller waits");
            operations.give_up(number);
            assert!(operations.hang(1, Duration::ZERO));
            assert!(!operations.hang(2, Duration::ZERO), "another thread is free");
            assert!(!operations.hang(1, HANG_TIME), "it has not taken long");
            end.send(()).unwrap();
            thread.join().unwrap();
            assert!(!operations.hang(1, Duration::ZERO));
        });
        operations.give_up(operations.number());
        assert!(!operations.hang(1, Duration::ZERO), "an operation that has not begun");
    }
}
