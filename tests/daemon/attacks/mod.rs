//! All attacks of `docs/security-model.md` that strangers can make on a running daemon, at once: an honest peer is
//! answered, memory and disk are bounded, and after an hour of the daemon's clock nothing of the attack is left.
//!
//! `CLAVIGER_SOAK` sets the length: seconds in `make test`, a minute with `short` (CI), ten minutes with `whole`
//! (`make soak`). Latencies are compared in the soak only, since the machine does other work during `make test`.

mod attackers;
mod honest_peer;
mod operator;
mod usage;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use self::{attackers::Attacker, honest_peer::HonestPeer, operator::Operator};
use crate::{clock::Clock, daemon::Daemon};

/// The memory of the daemon's processes, all together.
const MAX_MEMORY_KIB: u64 = 512 * 1024;
/// What the attacks may add to the state folder. Received bytes of strangers wait or are unread up to their quotas.
const MAX_DISK_GROWTH: u64 = 512 * 1024 * 1024;
/// How many times its quiet time the 99th percentile of an honest peer's round trips may take under attack.
const MAX_SLOWDOWN: u32 = 10;
/// Round trips shorter than this are not told from the noise of the machine.
const SHORTEST_ROUND_TRIP: Duration = Duration::from_millis(10);
const HOUR: i64 = 60 * 60;
/// The nice value of the attackers' threads.
const LOW_PRIORITY: i32 = 15;

/// The duration of the attack, and whether latencies are compared.
fn length() -> (Duration, bool) {
    match std::env::var("CLAVIGER_SOAK").as_deref() {
        Ok("whole") => (Duration::from_secs(600), true),
        Ok("short") => (Duration::from_secs(60), true),
        Ok(other) => panic!("CLAVIGER_SOAK is `short` or `whole`, not `{other}`"),
        Err(_) => (Duration::from_secs(5), false),
    }
}

/// Whether this is the full soak, in which the program is optimised.
fn is_whole_soak() -> bool {
    std::env::var("CLAVIGER_SOAK").is_ok_and(|length| length == "whole")
}

#[test]
fn an_honest_peer_is_served_under_all_attacks() {
    let (duration, compares_latency) = length();
    let Some(operator) = Operator::new() else { return };
    let Some(mut daemon) = Daemon::with_config(operator.http_and_net(), &operator.api()) else { return };
    operator.write_secret(&daemon.home);
    let clock = Clock::new(&daemon.home);
    daemon.start_with(clock.command(&daemon.home));
    daemon.wait_until_token_ready();
    let daemon = daemon;

    let honest = HonestPeer::new();
    honest.connect(&daemon);
    let quiet = honest.ping_for(&daemon, (duration / 6).max(Duration::from_secs(2)));
    daemon.wait_until_all_opened();
    let (before, disk_before) = (usage::stored(&daemon), usage::disk_bytes(&daemon));

    let attack = Attack::start(&daemon, &operator, honest.captured_with_return_route(&daemon));
    let reader = operator.acknowledge_everything(&daemon);
    let attacked = honest.ping_for(&daemon, duration);
    let (memory, disk) = (usage::peak_memory_kib(&daemon), usage::disk_bytes(&daemon));
    let disk_growth = disk.saturating_sub(disk_before);
    let sent = attack.stop();
    println!("quiet: {quiet}");
    println!("under attack: {attacked}");
    println!("memory at most {memory} KiB, disk grew by {disk_growth} bytes");
    sent.iter().for_each(|(name, sent)| println!("{sent:>7} {name}"));
    assert_eq!(attacked.unanswered, 0, "{attacked}\n{}", daemon.log());
    assert!(memory < MAX_MEMORY_KIB, "{memory} KiB");
    assert!(disk_growth < MAX_DISK_GROWTH, "{disk_growth} bytes");
    if compares_latency {
        let limit = quiet.p99.max(SHORTEST_ROUND_TRIP) * MAX_SLOWDOWN;
        assert!(attacked.p99 < limit, "quiet: {quiet}; under attack: {attacked}");
    }
    assert!(sent.iter().all(|(_, sent)| *sent > 0), "an attack was not made: {sent:?}");
    operator.assert_untouched();
    honest.assert_only_answers_to_itself();

    // An hour later, the sweeps have run and the application has read what was delivered.
    clock.set(HOUR + 300);
    daemon.wait_until_within(Duration::from_secs(120), "nothing of the attack is left", |daemon| {
        usage::stored(daemon).attackable() <= before.attackable()
    });
    drop(reader);
    let last = honest.ping_for(&daemon, Duration::from_secs(1));
    assert_eq!(last.unanswered, 0, "{last}");
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

/// The attackers, each in a thread of its own.
struct Attack {
    ended: Arc<AtomicBool>,
    threads: Vec<(&'static str, Arc<AtomicU64>, thread::JoinHandle<()>)>,
}

impl Attack {
    fn start(daemon: &Daemon, operator: &Operator, captured: String) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let threads = attackers::all(daemon, captured, operator.webhook_port)
            .into_iter()
            .map(|attacker| {
                let (sent, ended) = (Arc::new(AtomicU64::new(0)), ended.clone());
                let (name, count) = (attacker.name, sent.clone());
                (name, sent, thread::spawn(move || attack(attacker, &count, &ended)))
            })
            .collect();
        Self { ended, threads }
    }

    /// Ends the attack. Returns how many times each attacker attacked.
    fn stop(self) -> Vec<(&'static str, u64)> {
        self.ended.store(true, Ordering::SeqCst);
        self.threads
            .into_iter()
            .map(|(name, sent, thread)| {
                thread.join().unwrap_or_else(|_| panic!("the attacker `{name}` panicked"));
                (name, sent.load(Ordering::SeqCst))
            })
            .collect()
    }
}

/// Attacks at the attacker's rate, or more slowly if the machine does not allow it. The thread has a low priority: attackers
/// have machines of their own, and must not take the daemon's processor here.
fn attack(mut attacker: Attacker, sent: &AtomicU64, ended: &AtomicBool) {
    // On Linux this changes the calling thread only.
    rustix::process::setpriority_process(None, LOW_PRIORITY).expect("a lower priority is always allowed");
    let mut next = Instant::now();
    while !ended.load(Ordering::SeqCst) {
        (attacker.act)(sent.fetch_add(1, Ordering::SeqCst));
        next = (next + attacker.interval).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}
