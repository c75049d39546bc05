//! Limits problem reports, so that two agents do not report problems to each other for ever (DIDComm v2.1 "Cascading
//! Problems"). The agent counts the errors of each thread, and closes a thread with too many of them. A peer with too
//! many closed threads or reports gets no more reports for a while.

use serde::{Deserialize, Serialize};

use super::{
    problem::{HandleError, Problem},
    problem_code::{ProblemCode, Sorter},
    received::Received,
    record::RecordType,
    report_message,
    text::{id_as_key, truncate_to},
    transaction::Transaction,
};
use crate::agent::clock::Millis;

const HOUR: Millis = 60 * 60 * 1000;
/// The problem that closes a thread.
const MAX_ERRORS: &str = "e.p.req.max-errors-exceeded";
/// The longest code that is stored, in bytes.
const MAX_CODE: usize = 256;

/// How many problems are reported before a thread or a peer gets no more reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemLimits {
    /// The errors that one thread may have, reported to the peer or by the peer. The next error closes the thread.
    /// Default: 5.
    pub errors: u32,
    /// The threads of one peer that may be closed within the window. At this number the peer's circuit breaker opens.
    /// Default: 3.
    pub threads: u32,
    /// The reports to one peer within the window. At this number the circuit breaker opens. Without this limit, a peer
    /// that answers each report with a bad message in a new thread would get reports without end. Default: 60.
    pub reports: u32,
    /// The length of the window, in milliseconds. Default: one hour.
    pub window: Millis,
    /// How long the circuit breaker stays open and the peer gets no reports, in milliseconds. Default: one hour.
    pub pause: Millis,
    /// How long a thread's error count and the closing of a thread are remembered, in milliseconds. Default: 7 days.
    pub remembered: Millis,
}

impl Default for ProblemLimits {
    fn default() -> Self {
        Self { errors: 5, threads: 3, reports: 60, window: HOUR, pause: HOUR, remembered: 7 * 24 * HOUR }
    }
}

/// The record of a closed thread. The messages of a closed thread are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedThread {
    /// When the thread was closed.
    pub time: Millis,
    /// The code of the problem that closed the thread.
    pub code: String,
}

impl RecordType for ClosedThread {
    const KIND: &'static str = "thread";
    const ABOUT_SENDER: bool = true;
}

impl ClosedThread {
    /// Returns the key of the record of a message's thread. `None` if the sender is not authenticated.
    pub(in crate::agent) fn key(received: &Received) -> Option<String> {
        thread_key(received, received.message.thread())
    }
}

/// The record of a thread's errors.
#[derive(Debug, Default, Serialize, Deserialize)]
struct ErrorCount {
    count: u32,
}

impl RecordType for ErrorCount {
    const KIND: &'static str = "problems";
    const ABOUT_SENDER: bool = true;
}

/// Whether the message's thread is closed, so that the message must be ignored.
///
/// # Errors
/// [`HandleError::Retry`] if the store does not answer.
pub async fn is_thread_closed(received: &Received, tx: &mut Transaction<'_>) -> Result<bool, HandleError> {
    let Some(key) = ClosedThread::key(received) else { return Ok(false) };
    Ok(tx.get::<ClosedThread>(&key).await?.is_some())
}

/// Reports a problem with a message to its sender, within the limits. One error too many in a thread is reported as
/// `e.p.req.max-errors-exceeded` and closes the thread. Nothing is sent if the sender is not authenticated, the message
/// is a report itself, the thread is closed or the peer's circuit breaker is open. `tx` should be a new transaction.
///
/// # Errors
/// [`HandleError::Retry`] if the store does not answer.
pub async fn report_within_limits(
    received: &Received,
    problem: &Problem,
    tx: &mut Transaction<'_>,
    limits: &ProblemLimits,
) -> Result<(), HandleError> {
    let Some(report) = report_message::for_message(received, problem) else { return Ok(()) };
    if is_thread_closed(received, tx).await? {
        return Ok(());
    }
    let Some(breaker) = CircuitBreaker::closed_for_sender(received, tx).await? else { return Ok(()) };
    // A warning does not count.
    let is_error = ProblemCode::parse(&problem.code).is_none_or(|code| code.sorter == Sorter::Error);
    let thread = received.message.thread();
    if is_error && count_error(received, thread, tx, limits).await? {
        abort_thread(received, thread, breaker, tx, limits).await
    } else {
        breaker.count_report(received, 0, tx, limits);
        tx.send(report);
        Ok(())
    }
}

/// Counts an error that the peer reported. "If the limit is crossed as a result of a problem report they receive, they
/// SHOULD send back a problem report with e.p.req.max-errors-exceeded". Only that report answers a report, and only
/// once in a thread.
pub(super) async fn count_reported_error(
    received: &Received,
    thread: &str,
    tx: &mut Transaction<'_>,
    limits: &ProblemLimits,
) -> Result<(), HandleError> {
    let Some(key) = thread_key(received, thread) else { return Ok(()) };
    if tx.get::<ClosedThread>(&key).await?.is_some() || !count_error(received, thread, tx, limits).await? {
        return Ok(());
    }
    match CircuitBreaker::closed_for_sender(received, tx).await? {
        Some(breaker) => abort_thread(received, thread, breaker, tx, limits).await,
        None => close_thread(received, thread, MAX_ERRORS, tx, limits).await,
    }
}

/// Closes a thread.
pub(super) async fn close_thread(
    received: &Received,
    thread: &str,
    code: &str,
    tx: &mut Transaction<'_>,
    limits: &ProblemLimits,
) -> Result<(), HandleError> {
    let Some(key) = thread_key(received, thread) else { return Ok(()) };
    if tx.get::<ClosedThread>(&key).await?.is_none() {
        let closed = ClosedThread { time: received.time, code: truncate_to(code, MAX_CODE).to_owned() };
        tx.put(&key, &closed, Some(received.time + limits.remembered));
    }
    Ok(())
}

/// Sends the last report of a thread, and closes the thread.
async fn abort_thread(
    received: &Received,
    thread: &str,
    breaker: CircuitBreaker,
    tx: &mut Transaction<'_>,
    limits: &ProblemLimits,
) -> Result<(), HandleError> {
    let problem = Problem::new(MAX_ERRORS, "There were too many errors; this thread is no longer answered.");
    if let Some(report) = report_message::for_thread(received, thread, &problem) {
        tx.send(report);
    }
    breaker.count_report(received, 1, tx, limits);
    close_thread(received, thread, MAX_ERRORS, tx, limits).await
}

/// Counts an error of a thread. Returns whether the thread has too many errors now.
async fn count_error(
    received: &Received,
    thread: &str,
    tx: &mut Transaction<'_>,
    limits: &ProblemLimits,
) -> Result<bool, HandleError> {
    let Some(key) = thread_key(received, thread) else { return Ok(false) };
    let mut errors: ErrorCount = tx.get(&key).await?.unwrap_or_default();
    errors.count = errors.count.saturating_add(1);
    tx.put(&key, &errors, Some(received.time + limits.remembered));
    Ok(errors.count > limits.errors)
}

/// The record of a peer's problems within the current window. The first problem begins the window. The key is the
/// peer's DID.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct CircuitBreaker {
    since: Millis,
    threads: u32,
    reports: u32,
    open_until: Millis,
}

impl RecordType for CircuitBreaker {
    const KIND: &'static str = "breaker";
    const ABOUT_SENDER: bool = true;
}

impl CircuitBreaker {
    /// Returns the sender's circuit breaker if the breaker is closed, so that the sender gets reports.
    async fn closed_for_sender(received: &Received, tx: &mut Transaction<'_>) -> Result<Option<Self>, HandleError> {
        let Some(sender) = &received.sender else { return Ok(None) };
        let breaker: Self = tx.get(sender).await?.unwrap_or_default();
        Ok((breaker.open_until <= received.time).then_some(breaker))
    }

    /// Counts one report, and `threads` threads that were closed.
    fn count_report(self, received: &Received, threads: u32, tx: &mut Transaction<'_>, limits: &ProblemLimits) {
        let Some(sender) = &received.sender else { return };
        let next = self.with_report(received.time, threads, limits);
        if next.open_until > received.time {
            tracing::warn!(peer = sender, "problem reports to the peer suspended: too many problems");
        }
        tx.put(sender, &next, Some(received.time + limits.window.max(limits.pause)));
    }

    /// Returns the circuit breaker after one more report at `now`, with `threads` more closed threads.
    fn with_report(mut self, now: Millis, threads: u32, limits: &ProblemLimits) -> Self {
        // A window also begins if the clock was set back.
        if !(0..limits.window).contains(&(now - self.since)) {
            self = Self { since: now, ..Default::default() };
        }
        self.threads = self.threads.saturating_add(threads);
        self.reports = self.reports.saturating_add(1);
        if self.threads >= limits.threads || self.reports >= limits.reports {
            self = Self { open_until: now + limits.pause, ..Default::default() };
        }
        self
    }
}

/// Returns the record key of a thread with the sender.
fn thread_key(received: &Received, thread: &str) -> Option<String> {
    let sender = received.sender.as_deref()?;
    Some(format!("{} {sender} {}", received.recipient, id_as_key(thread)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::protocol::{
        report_message::PROBLEM_REPORT,
        report_problem::ReportProblem,
        testing::{ALICE, BOB, Harness, NOW, Outcome, anonymous, from, from_with},
    };

    const MOVE: &str = "https://didcomm.org/tictactoe/1.0/move";

    fn in_thread(peer: &str, thread: &str) -> Received {
        from_with(peer, MOVE, json!({}), |message| message.thid(thread))
    }

    async fn report(harness: &Harness, received: &Received, code: &str, limits: &ProblemLimits) -> Outcome {
        let mut tx = harness.begin(received);
        report_within_limits(received, &Problem::new(code, "Bad message."), &mut tx, limits).await.unwrap();
        harness.commit(tx)
    }

    async fn is_closed(harness: &Harness, received: &Received) -> bool {
        is_thread_closed(received, &mut harness.begin(received)).await.unwrap()
    }

    fn codes(outcome: &Outcome) -> Vec<&str> {
        outcome.sent.iter().map(|message| message.body["code"].as_str().unwrap()).collect()
    }

    #[tokio::test]
    async fn one_error_too_many_closes_the_thread() {
        let (harness, limits) = (Harness::default(), ProblemLimits::default());
        for _ in 0..5 {
            assert_eq!(codes(&report(&harness, &in_thread(ALICE, "t"), "e.m.msg", &limits).await), ["e.m.msg"]);
        }
        // A warning does not count.
        assert_eq!(codes(&report(&harness, &in_thread(ALICE, "t"), "w.m.msg", &limits).await), ["w.m.msg"]);
        assert!(!is_closed(&harness, &in_thread(ALICE, "t")).await);
        let last = report(&harness, &in_thread(ALICE, "t"), "e.m.msg", &limits).await;
        assert_eq!(codes(&last), [MAX_ERRORS]);
        assert_eq!(last.sent[0].pthid.as_deref(), Some("t"));
        assert!(is_closed(&harness, &in_thread(ALICE, "T")).await);
        let after = report(&harness, &in_thread(ALICE, "t"), "e.m.msg", &limits).await;
        assert!(after.sent.is_empty() && after.written.is_empty());
        // Other threads and other peers are not affected.
        assert!(!is_closed(&harness, &in_thread(ALICE, "u")).await);
        assert!(!is_closed(&harness, &in_thread(BOB, "t")).await);
        assert_eq!(codes(&report(&harness, &in_thread(BOB, "t"), "e.m.msg", &limits).await), ["e.m.msg"]);
    }

    #[tokio::test]
    async fn no_report_without_a_sender_or_about_a_report() {
        let (harness, limits) = (Harness::default(), ProblemLimits::default());
        for received in [anonymous(MOVE, json!({})), from(ALICE, PROBLEM_REPORT, json!({}))] {
            let outcome = report(&harness, &received, "e.m.msg", &limits).await;
            assert!(outcome.sent.is_empty() && outcome.written.is_empty());
        }
    }

    #[tokio::test]
    async fn the_circuit_breaker_opens_for_a_while() {
        let limits = ProblemLimits { errors: 0, threads: 2, ..Default::default() };
        let harness = Harness::default();
        for thread in ["a", "b"] {
            assert_eq!(codes(&report(&harness, &in_thread(ALICE, thread), "e.m.msg", &limits).await), [MAX_ERRORS]);
        }
        let mut later = in_thread(ALICE, "c");
        assert!(report(&harness, &later, "e.m.msg", &limits).await.written.is_empty());
        assert_eq!(codes(&report(&harness, &in_thread(BOB, "c"), "e.m.msg", &limits).await), [MAX_ERRORS]);
        later.time = NOW + limits.pause;
        assert_eq!(codes(&report(&harness, &later, "e.m.msg", &limits).await), [MAX_ERRORS]);
    }

    #[tokio::test]
    async fn a_loop_through_new_threads_ends() {
        let (harness, limits) = (Harness::default(), ProblemLimits::default());
        let mut sent = 0;
        for _ in 0..100 {
            sent += report(&harness, &from(ALICE, MOVE, json!({})), "e.m.msg", &limits).await.sent.len();
        }
        assert_eq!(sent, 60);
    }

    #[test]
    fn the_window_moves_on() {
        let limits = ProblemLimits { threads: 2, ..Default::default() };
        let one = CircuitBreaker::default().with_report(NOW, 1, &limits);
        assert_eq!(one, CircuitBreaker { since: NOW, threads: 1, reports: 1, open_until: 0 });
        assert_eq!(one.clone().with_report(NOW + HOUR, 1, &limits).threads, 1);
        assert_eq!(one.clone().with_report(NOW - 1, 1, &limits).since, NOW - 1);
        assert_eq!(one.with_report(NOW + 1, 1, &limits).open_until, NOW + 1 + limits.pause);
    }

    #[tokio::test]
    async fn errors_reported_by_the_peer_count() {
        let harness = Harness::default();
        let protocol = ReportProblem::default();
        let report =
            |code: &str| from_with(ALICE, PROBLEM_REPORT, json!({ "code": code }), |message| message.pthid("t"));
        for _ in 0..5 {
            let outcome = harness.handle(&protocol, &report("e.m.msg")).await.unwrap();
            assert!(outcome.delivered && outcome.sent.is_empty());
        }
        assert!(harness.handle(&protocol, &report("w.p.msg")).await.unwrap().sent.is_empty());
        assert_eq!(codes(&harness.handle(&protocol, &report("e.m.msg")).await.unwrap()), [MAX_ERRORS]);
        assert!(is_closed(&harness, &in_thread(ALICE, "t")).await);
        for code in ["e.m.msg", MAX_ERRORS] {
            let outcome = harness.handle(&protocol, &report(code)).await.unwrap();
            assert!(outcome.delivered && outcome.sent.is_empty());
        }
    }

    #[tokio::test]
    async fn an_error_of_scope_p_closes_its_thread() {
        let harness = Harness::default();
        let report = from_with(ALICE, PROBLEM_REPORT, json!({"code": "e.p.msg.x"}), |message| message.pthid("t"));
        harness.handle(&ReportProblem::default(), &report).await.unwrap();
        assert!(is_closed(&harness, &in_thread(ALICE, "t")).await);
        assert!(!is_closed(&harness, &in_thread(BOB, "t")).await);
    }
}
