//! [`Refusals`]: which refusals get a line of their own, and the counts of the others. So neither a stranger nor a broken
//! client fills the disk.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

/// The time for which refusals are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// How many kinds of refusals are told apart.
const MAX_KINDS: usize = 64;

/// What a refusal has in common with those that are counted with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RefusalKind {
    pub(super) operation: &'static str,
    pub(super) result: &'static str,
    /// The client's user.
    pub(super) uid: Option<u32>,
}

/// Refusals that have no line of their own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) kind: RefusalKind,
    pub(super) count: u64,
    /// When the first of them was refused.
    pub(super) since: SystemTime,
}

/// The refusals of the last minute.
pub(super) struct Refusals {
    /// How many refusals of a kind have a line of their own within a window.
    max_lines: u32,
    kinds: HashMap<RefusalKind, Window>,
}

struct Window {
    begin: Instant,
    lines: u32,
    count: u64,
    since: SystemTime,
}

impl Refusals {
    pub(super) fn new(max_lines: u32) -> Self {
        Self { max_lines, kinds: HashMap::new() }
    }

    /// Whether a refusal gets a line of its own. Otherwise it is counted.
    pub(super) fn has_line(&mut self, kind: RefusalKind, now: Instant) -> bool {
        let is_known = self.kinds.contains_key(&kind) || self.kinds.len() < MAX_KINDS;
        let kind = if is_known { kind } else { RefusalKind { operation: "other", result: "refused", uid: None } };
        let window = Window { begin: now, lines: 0, count: 0, since: SystemTime::now() };
        let window = self.kinds.entry(kind).or_insert(window);
        if window.lines < self.max_lines {
            window.lines += 1;
            return true;
        }
        if window.count == 0 {
            window.since = SystemTime::now();
        }
        window.count += 1;
        false
    }

    /// Ends the windows that are over at `now`, and all of them if there is no `now`. Returns their counts.
    pub(super) fn take_counts(&mut self, now: Option<Instant>) -> Vec<Count> {
        let is_over = |window: &mut Window| now.is_none_or(|now| now.duration_since(window.begin) >= WINDOW);
        let over = self.kinds.extract_if(|_, window| is_over(window));
        let counts = over.filter(|(_, window)| window.count > 0);
        counts.map(|(kind, window)| Count { kind, count: window.count, since: window.since }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_has_few_lines_and_every_refusal_is_counted() {
        let kind = |uid| RefusalKind { operation: "connect", result: "not-served", uid: Some(uid) };
        let (mut refusals, now) = (Refusals::new(10), Instant::now());
        let lines = (0..1000).filter(|_| refusals.has_line(kind(7), now)).count();
        assert_eq!(lines, 10);
        assert_eq!(refusals.take_counts(Some(now)), []);
        let counts = refusals.take_counts(Some(now + WINDOW));
        assert_eq!(counts.iter().map(|count| (count.kind, count.count)).collect::<Vec<_>>(), [(kind(7), 990)]);
        assert!(refusals.has_line(kind(7), now + WINDOW), "a new window begins");

        // A thousand kinds: as many as are told apart, and one for all others.
        let lines = (0..1000).flat_map(|uid| [kind(uid); 20]).filter(|kind| refusals.has_line(*kind, now)).count();
        let counted: u64 = refusals.take_counts(None).iter().map(|count| count.count).sum();
        assert!(lines <= 10 * (MAX_KINDS + 1), "{lines}");
        assert_eq!(lines as u64 + counted, 20_000);
        assert!(refusals.kinds.is_empty());
    }
}
