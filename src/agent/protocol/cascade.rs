//! Problems that bring about problems (DIDComm v2.1 "Cascading Problems"): errors are counted, and past a limit the thread
//! is no longer answered; a peer whose threads go wrong one after the other gets no more reports for a while.

use serde::{Deserialize, Serialize};

use super::{Code, Fault, Problem, Received, Sorter, Turn, id_key, report_problem};
use crate::agent::store::Millis;

/// The kind of the records of threads that are closed.
pub const THREAD: &str = "thread";
/// The kind of the records of errors in a thread.
pub const PROBLEMS: &str = "problems";
/// The kind of the records of peers with many problems: the circuit breaker.
pub const BREAKER: &str = "breaker";

const HOUR: Millis = 60 * 60 * 1000;

/// How many problems are borne.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemLimits {
    /// The errors of one thread, reported to the peer or by it; one more closes the thread.
    pub errors: u32,
    /// The threads of one peer that may go over that within the window; then the breaker opens.
    pub threads: u32,
    /// The reports that one peer gets within the window; then the breaker opens. A peer that answers each report by a bad
    /// message in a fresh thread goes over no other limit.
    pub reports: u32,
    /// The window.
    pub window: Millis,
    /// For how long a peer gets no reports once the breaker is open.
    pub pause: Millis,
    /// For how long a thread's errors, and that it is closed, are remembered.
    pub remembered: Millis,
}

impl Default for ProblemLimits {
    fn default() -> Self {
        Self { errors: 5, threads: 3, reports: 60, window: HOUR, pause: HOUR, remembered: 7 * 24 * HOUR }
    }
}

/// That a thread is no longer answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Since when.
    pub time: Millis,
    /// The code of the problem that closed it.
    pub code: String,
}

/// Whether the message's thread is closed, and so no longer answered.
///
/// # Errors
/// [`Fault::Later`] if the store does not answer.
pub async fn is_closed(received: &Received, turn: &mut Turn<'_>) -> Result<bool, Fault> {
    let Some(key) = thread_key(received, received.message.thread()) else { return Ok(false) };
    Ok(turn.get::<Closed>(THREAD, &key).await?.is_some())
}

/// Reports a problem with a message, or what stands in for it: nothing to whom nothing is to be told, and
/// `e.p.req.max-errors-exceeded` once in a thread that has had its errors. The turn should be a fresh one.
///
/// # Errors
/// [`Fault::Later`] if the store does not answer.
pub async fn report_on(
    received: &Received,
    problem: &Problem,
    turn: &mut Turn<'_>,
    limits: &ProblemLimits,
) -> Result<(), Fault> {
    let Some(report) = report_problem::report(received, problem) else { return Ok(()) };
    if is_closed(received, turn).await? {
        return Ok(());
    }
    let Some(breaker) = Breaker::closed_for(received, turn).await? else { return Ok(()) };
    // A warning is no error, as long as nobody judges it to be one.
    let is_error = Code::parse(&problem.code).is_none_or(|code| code.sorter == Sorter::Error);
    let thread = received.message.thread();
    if is_error && crossed(received, thread, turn, limits).await? {
        abort(received, thread, breaker, turn, limits).await
    } else {
        breaker.note(received, 0, turn, limits);
        turn.send(report);
        Ok(())
    }
}

/// Counts an error that the peer reported. "If the limit is crossed as a result of a problem report they receive, they
/// SHOULD send back a problem report with e.p.req.max-errors-exceeded": it is the one report that a report is answered by,
/// once in a thread.
pub(super) async fn was_told(
    received: &Received,
    thread: &str,
    turn: &mut Turn<'_>,
    limits: &ProblemLimits,
) -> Result<(), Fault> {
    let Some(key) = thread_key(received, thread) else { return Ok(()) };
    if turn.get::<Closed>(THREAD, &key).await?.is_some() || !crossed(received, thread, turn, limits).await? {
        return Ok(());
    }
    match Breaker::closed_for(received, turn).await? {
        Some(breaker) => abort(received, thread, breaker, turn, limits).await,
        None => close(received, thread, MAX_ERRORS, turn, limits).await,
    }
}

/// Closes a thread.
pub(super) async fn close(
    received: &Received,
    thread: &str,
    code: &str,
    turn: &mut Turn<'_>,
    limits: &ProblemLimits,
) -> Result<(), Fault> {
    let Some(key) = thread_key(received, thread) else { return Ok(()) };
    if turn.get::<Closed>(THREAD, &key).await?.is_none() {
        let closed = Closed { time: received.time, code: super::start_of(code, 256).to_owned() };
        turn.put(THREAD, &key, &closed, Some(received.time + limits.remembered));
    }
    Ok(())
}

const MAX_ERRORS: &str = "e.p.req.max-errors-exceeded";

/// Sends the thread's last report, and closes it.
async fn abort(
    received: &Received,
    thread: &str,
    breaker: Breaker,
    turn: &mut Turn<'_>,
    limits: &ProblemLimits,
) -> Result<(), Fault> {
    let problem = Problem::new(MAX_ERRORS, "There were too many errors; this thread is no longer answered.");
    if let Some(report) = report_problem::tell(received, thread, &problem) {
        turn.send(report);
    }
    breaker.note(received, 1, turn, limits);
    close(received, thread, MAX_ERRORS, turn, limits).await
}

/// The errors of a thread.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Errors {
    count: u32,
}

/// Counts an error; whether there are too many now.
async fn crossed(
    received: &Received,
    thread: &str,
    turn: &mut Turn<'_>,
    limits: &ProblemLimits,
) -> Result<bool, Fault> {
    let Some(key) = thread_key(received, thread) else { return Ok(false) };
    let mut errors: Errors = turn.get(PROBLEMS, &key).await?.unwrap_or_default();
    errors.count = errors.count.saturating_add(1);
    turn.put(PROBLEMS, &key, &errors, Some(received.time + limits.remembered));
    Ok(errors.count > limits.errors)
}

/// What a peer's problems come to within a window, which begins with the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Breaker {
    since: Millis,
    threads: u32,
    reports: u32,
    open_until: Millis,
}

impl Breaker {
    /// The sender's, if it gets reports now.
    async fn closed_for(received: &Received, turn: &mut Turn<'_>) -> Result<Option<Self>, Fault> {
        let Some(theirs) = &received.theirs else { return Ok(None) };
        let breaker: Self = turn.get(BREAKER, theirs).await?.unwrap_or_default();
        Ok((breaker.open_until <= received.time).then_some(breaker))
    }

    /// Remembers one report more, and so many threads that went over their limit.
    fn note(self, received: &Received, threads: u32, turn: &mut Turn<'_>, limits: &ProblemLimits) {
        let Some(theirs) = &received.theirs else { return };
        let next = self.counted(received.time, threads, limits);
        if next.open_until > received.time {
            tracing::warn!(peer = theirs, "too many problems with this peer: it gets no more reports for a while");
        }
        turn.put(BREAKER, theirs, &next, Some(received.time + limits.window.max(limits.pause)));
    }

    fn counted(mut self, now: Millis, threads: u32, limits: &ProblemLimits) -> Self {
        // A clock that was put back begins a window too.
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

/// The key of a thread with the sender.
fn thread_key(received: &Received, thread: &str) -> Option<String> {
    let theirs = received.theirs.as_deref()?;
    Some(format!("{} {theirs} {}", received.ours, id_key(thread)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::protocol::{
        report_problem::{PROBLEM_REPORT, ReportProblem},
        testing::{ALICE, BOB, NOW, Outcome, World, anonymous, from, from_with},
    };

    const MOVE: &str = "https://didcomm.org/tictactoe/1.0/move";

    fn in_thread(peer: &str, thread: &str) -> Received {
        from_with(peer, MOVE, json!({}), |message| message.thid(thread))
    }

    async fn reported(world: &World, received: &Received, code: &str, limits: &ProblemLimits) -> Outcome {
        let mut turn = world.turn(received);
        report_on(received, &Problem::new(code, "Bad message."), &mut turn, limits).await.unwrap();
        world.commit(turn)
    }

    async fn closed(world: &World, received: &Received) -> bool {
        is_closed(received, &mut world.turn(received)).await.unwrap()
    }

    fn codes(outcome: &Outcome) -> Vec<&str> {
        outcome.sent.iter().map(|message| message.body["code"].as_str().unwrap()).collect()
    }

    #[tokio::test]
    async fn past_the_limit_one_report_ends_the_thread() {
        let (world, limits) = (World::default(), ProblemLimits::default());
        for _ in 0..5 {
            assert_eq!(codes(&reported(&world, &in_thread(ALICE, "t"), "e.m.msg", &limits).await), ["e.m.msg"]);
        }
        // A warning is not counted.
        assert_eq!(codes(&reported(&world, &in_thread(ALICE, "t"), "w.m.msg", &limits).await), ["w.m.msg"]);
        assert!(!closed(&world, &in_thread(ALICE, "t")).await);
        let last = reported(&world, &in_thread(ALICE, "t"), "e.m.msg", &limits).await;
        assert_eq!(codes(&last), [MAX_ERRORS]);
        assert_eq!(last.sent[0].pthid.as_deref(), Some("t"));
        assert!(closed(&world, &in_thread(ALICE, "T")).await);
        let after = reported(&world, &in_thread(ALICE, "t"), "e.m.msg", &limits).await;
        assert!(after.sent.is_empty() && after.written.is_empty());
        // Other threads and other peers are not concerned.
        assert!(!closed(&world, &in_thread(ALICE, "u")).await);
        assert!(!closed(&world, &in_thread(BOB, "t")).await);
        assert_eq!(codes(&reported(&world, &in_thread(BOB, "t"), "e.m.msg", &limits).await), ["e.m.msg"]);
    }

    #[tokio::test]
    async fn nothing_is_reported_to_nobody_or_about_a_report() {
        let (world, limits) = (World::default(), ProblemLimits::default());
        for received in [anonymous(MOVE, json!({})), from(ALICE, PROBLEM_REPORT, json!({}))] {
            let outcome = reported(&world, &received, "e.m.msg", &limits).await;
            assert!(outcome.sent.is_empty() && outcome.written.is_empty());
        }
    }

    #[tokio::test]
    async fn the_breaker_opens_for_a_while() {
        let limits = ProblemLimits { errors: 0, threads: 2, ..Default::default() };
        let world = World::default();
        for thread in ["a", "b"] {
            assert_eq!(codes(&reported(&world, &in_thread(ALICE, thread), "e.m.msg", &limits).await), [MAX_ERRORS]);
        }
        let mut later = in_thread(ALICE, "c");
        assert!(reported(&world, &later, "e.m.msg", &limits).await.written.is_empty());
        assert_eq!(codes(&reported(&world, &in_thread(BOB, "c"), "e.m.msg", &limits).await), [MAX_ERRORS]);
        later.time = NOW + limits.pause;
        assert_eq!(codes(&reported(&world, &later, "e.m.msg", &limits).await), [MAX_ERRORS]);
    }

    #[tokio::test]
    async fn a_loop_through_fresh_threads_ends() {
        let (world, limits) = (World::default(), ProblemLimits::default());
        let mut sent = 0;
        for _ in 0..100 {
            sent += reported(&world, &from(ALICE, MOVE, json!({})), "e.m.msg", &limits).await.sent.len();
        }
        assert_eq!(sent, 60);
    }

    #[test]
    fn the_window_moves_on() {
        let limits = ProblemLimits { threads: 2, ..Default::default() };
        let one = Breaker::default().counted(NOW, 1, &limits);
        assert_eq!(one, Breaker { since: NOW, threads: 1, reports: 1, open_until: 0 });
        assert_eq!(one.clone().counted(NOW + HOUR, 1, &limits).threads, 1);
        assert_eq!(one.clone().counted(NOW - 1, 1, &limits).since, NOW - 1);
        assert_eq!(one.counted(NOW + 1, 1, &limits).open_until, NOW + 1 + limits.pause);
    }

    #[tokio::test]
    async fn errors_of_the_peer_count_too() {
        let world = World::default();
        let protocol = ReportProblem::default();
        let told = |code: &str| from_with(ALICE, PROBLEM_REPORT, json!({ "code": code }), |message| message.pthid("t"));
        for _ in 0..5 {
            let outcome = world.handle(&protocol, &told("e.m.msg")).await.unwrap();
            assert!(outcome.delivered && outcome.sent.is_empty());
        }
        assert!(world.handle(&protocol, &told("w.p.msg")).await.unwrap().sent.is_empty());
        assert_eq!(codes(&world.handle(&protocol, &told("e.m.msg")).await.unwrap()), [MAX_ERRORS]);
        assert!(closed(&world, &in_thread(ALICE, "t")).await);
        for code in ["e.m.msg", MAX_ERRORS] {
            let outcome = world.handle(&protocol, &told(code)).await.unwrap();
            assert!(outcome.delivered && outcome.sent.is_empty());
        }
    }

    #[tokio::test]
    async fn an_error_of_scope_p_closes_its_thread() {
        let world = World::default();
        let told = from_with(ALICE, PROBLEM_REPORT, json!({"code": "e.p.msg.x"}), |message| message.pthid("t"));
        world.handle(&ReportProblem::default(), &told).await.unwrap();
        assert!(closed(&world, &in_thread(ALICE, "t")).await);
        assert!(!closed(&world, &in_thread(BOB, "t")).await);
    }
}
