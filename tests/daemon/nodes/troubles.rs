//! What happens to a node at random: its daemon and its keepers are killed, its links are cut, its machine sleeps.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    cluster::Node,
    network::{Cut, Host},
};
use crate::random::Random;

/// The longest pause between the troubles of one node.
const LONGEST_PAUSE: u64 = 3000;
/// How long a link is cut.
const CUT_MS: std::ops::Range<u64> = 1000..8000;
/// How long the database's link is cut, and the longest pause between two cuts of it.
const DATABASE_CUT_MS: std::ops::Range<u64> = 500..4000;
const LONGEST_PAUSE_OF_DATABASE: u64 = 40_000;
/// How long a machine sleeps: longer than a node's lease.
pub const SLEEP: Duration = Duration::from_secs(17);

/// How many troubles there were.
#[derive(Debug, Default)]
pub struct Figures {
    pub kills: AtomicUsize,
    pub keeper_kills: AtomicUsize,
    pub cuts: AtomicUsize,
    pub database_cuts: AtomicUsize,
    pub sleeps: AtomicUsize,
    /// Daemons that ended by themselves, and were started again.
    pub ends: AtomicUsize,
}

fn count(figure: &AtomicUsize) {
    figure.fetch_add(1, Ordering::SeqCst);
}

/// Troubles a node until then. If `sleeps` is given, the node sleeps once, at that time.
pub fn trouble(node: &mut Node, random: &mut Random, until: Instant, mut sleeps: Option<Instant>, figures: &Figures) {
    while Instant::now() < until {
        thread::sleep(Duration::from_millis(200 + random.below(LONGEST_PAUSE)));
        if node.has_ended() {
            count(&figures.ends);
            node.start();
        }
        if sleeps.is_some_and(|at| at < Instant::now()) {
            (sleeps, _) = (None, count(&figures.sleeps));
            node.sleep(SLEEP);
            continue;
        }
        match random.below(8) {
            0..3 => kill(node, random, figures),
            3 => {
                count(&figures.keeper_kills);
                node.kill_keepers();
            }
            _ => cut(node, random, figures),
        }
    }
    if node.has_ended() {
        node.start();
    }
}

fn kill(node: &mut Node, random: &mut Random, figures: &Figures) {
    count(&figures.kills);
    node.kill();
    thread::sleep(Duration::from_millis(random.below(1500)));
    node.start();
    // One in four is troubled again while it starts.
    if random.below(4) != 0 {
        node.is_ready_within(Duration::from_secs(10));
    }
}

/// Cuts the node's link for a while. In one of four times, the daemon is killed and starts meanwhile.
fn cut(node: &mut Node, random: &mut Random, figures: &Figures) {
    let (cut, time) = (Cut::ALL[random.index(Cut::ALL.len())], time_in(CUT_MS, random));
    count(&figures.cuts);
    node.host.cut(cut);
    if random.below(4) == 0 {
        thread::sleep(time / 2);
        count(&figures.kills);
        node.kill();
        node.start();
        thread::sleep(time / 2);
    } else {
        thread::sleep(time);
    }
    node.host.mend(cut);
}

/// Cuts the database's link for all, now and then.
pub fn trouble_database(database: &Host, random: &mut Random, until: Instant, figures: &Figures) {
    loop {
        let pause = Duration::from_millis(5000 + random.below(LONGEST_PAUSE_OF_DATABASE));
        if Instant::now() + pause > until {
            return thread::sleep(until.saturating_duration_since(Instant::now()));
        }
        thread::sleep(pause);
        count(&figures.database_cuts);
        let cut = if random.below(2) == 0 { Cut::Carrier } else { Cut::Everything };
        database.cut_for(cut, time_in(DATABASE_CUT_MS, random));
    }
}

fn time_in(range: std::ops::Range<u64>, random: &mut Random) -> Duration {
    Duration::from_millis(range.start + random.below(range.end - range.start))
}
