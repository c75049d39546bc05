//! The agent's metrics as a page shows them: how long private-key operations take, and which limits were reached.

use std::collections::BTreeMap;

use maud::{Markup, html};

/// The samples of a text in the format of OpenMetrics, by name with labels.
pub struct Samples(BTreeMap<String, f64>);

/// How long operations of one kind took: how many took at most so many seconds, in increasing order.
#[derive(Debug, PartialEq)]
pub struct Durations {
    at_most: Vec<(f64, u64)>,
}

/// The counters that a limit increases, each with what it means.
const LIMITS: [(&str, &str); 12] = [
    ("claviger_connections_turned_away_total", "connections refused: too many at once"),
    ("claviger_http_answers_total{status=\"413\"}", "messages refused: too large"),
    ("claviger_http_answers_total{status=\"429\"}", "messages refused: too many from one address"),
    (
        "claviger_http_answers_total{status=\"503\"}",
        "messages refused for now: no room, or the token of the DID is away",
    ),
    ("claviger_replies_dropped_total", "replies dropped: too many for one peer"),
    ("claviger_paused_servers", "servers of peers that get no messages for a while"),
    (
        "claviger_token_operations_total{kind=\"unwrap\",result=\"rate-limited\"}",
        "messages that waited: the rate limit of a key",
    ),
    (
        "claviger_token_operations_total{kind=\"wrap\",result=\"rate-limited\"}",
        "sendings that waited: the rate limit of a key",
    ),
    (
        "claviger_token_operations_total{kind=\"unwrap\",result=\"busy\"}",
        "messages that waited: the queue of a token was full",
    ),
    (
        "claviger_token_operations_total{kind=\"wrap\",result=\"busy\"}",
        "sendings that waited: the queue of a token was full",
    ),
    (
        "claviger_messages_received_total{result=\"not-kept\"}",
        "messages refused: the store is full, or does not answer",
    ),
    ("claviger_refused_dids", "DIDs of ours that are refused: a key is not proved"),
];

impl Samples {
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    /// The limits that were reached since the start, each with how often.
    pub fn limits(&self) -> Vec<(&'static str, u64)> {
        let reached = LIMITS.iter().filter_map(|(name, what)| Some((*what, *self.0.get(*name)? as u64)));
        reached.filter(|(_, count)| *count > 0).collect()
    }

    /// How long operations of this kind took, if there was one.
    pub fn durations(&self, kind: &str) -> Option<Durations> {
        let mut at_most = Vec::new();
        for (name, count) in &self.0 {
            let Some(labels) = name.strip_prefix("claviger_token_operation_seconds_bucket{") else { continue };
            let label = |key: &str| labels.split(',').find_map(|pair| pair.trim_end_matches('}').strip_prefix(key));
            if label("kind=") != Some(&format!("\"{kind}\"")) {
                continue;
            }
            let Some(bound) = label("le=").map(|bound| bound.trim_matches('"')) else { continue };
            at_most.push((if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? }, *count as u64));
        }
        at_most.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        at_most.last().is_some_and(|(_, all)| *all > 0).then_some(Durations { at_most })
    }
}

impl Durations {
    fn total(&self) -> u64 {
        self.at_most.last().map_or(0, |(_, count)| *count)
    }

    /// The bound within which this part of the operations ended.
    fn quantile(&self, part: f64) -> f64 {
        let wanted = part * self.total() as f64;
        self.at_most.iter().find(|(_, count)| *count as f64 >= wanted).map_or(f64::INFINITY, |(bound, _)| *bound)
    }

    /// The sentence that says what the plot shows.
    fn summary(&self) -> String {
        let within = |bound: f64| {
            if bound.is_finite() {
                format!("took at most {}", seconds(bound))
            } else {
                "took longer than 30 s".to_owned()
            }
        };
        let (half, most) = (within(self.quantile(0.5)), within(self.quantile(0.99)));
        match self.total() {
            1 => format!("One operation {half}."),
            total => format!("Of {total} operations, half {half}, and 99 % {most}."),
        }
    }

    /// A bar for each bound, with the number of operations between it and the bound before.
    pub fn plot(&self) -> Markup {
        const BAR: usize = 20;
        const HEIGHT: u64 = 60;
        let mut counts = Vec::new();
        let mut before = 0;
        for (bound, count) in &self.at_most {
            counts.push((*bound, count.saturating_sub(before)));
            before = *count;
        }
        let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
        let width = counts.len() * BAR;
        html! {
            svg.plot viewBox={ "0 0 " (width) " " (HEIGHT + 18) } role="img" aria-label=(self.summary()) {
                @for (at, (bound, count)) in counts.iter().enumerate() {
                    // A single operation can be seen too.
                    @let height = if *count > 0 { (count * HEIGHT / most).max(2) } else { 0 };
                    rect x=(at * BAR + 2) y=(HEIGHT - height) width=(BAR - 4) height=(height) {}
                    @if at % 4 == 0 {
                        text x=(at * BAR) y=(HEIGHT + 15) { @if bound.is_finite() { "≤" (seconds(*bound)) } @else { "more" } }
                    }
                }
                line x1="0" y1=(HEIGHT) x2=(width) y2=(HEIGHT) {}
            }
            p.soft { (self.summary()) }
        }
    }
}

fn seconds(seconds: f64) -> String {
    if seconds < 1.0 { format!("{} ms", seconds * 1000.0) } else { format!("{seconds} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE claviger_token_operation_seconds histogram\n\
        claviger_token_operation_seconds_sum{kind=\"unwrap\"} 0.5\n\
        claviger_token_operation_seconds_bucket{le=\"0.001\",kind=\"unwrap\"} 3\n\
        claviger_token_operation_seconds_bucket{le=\"0.01\",kind=\"unwrap\"} 9\n\
        claviger_token_operation_seconds_bucket{le=\"+Inf\",kind=\"unwrap\"} 10\n\
        claviger_token_operation_seconds_bucket{le=\"+Inf\",kind=\"wrap\"} 0\n\
        claviger_connections_turned_away_total 7\n\
        claviger_replies_dropped_total 0\n\
        # EOF\n";

    #[test]
    fn durations_and_limits_are_read() {
        let samples = Samples::parse(TEXT);
        assert_eq!(samples.limits(), [("connections refused: too many at once", 7)]);
        assert_eq!(samples.durations("wrap"), None);
        let durations = samples.durations("unwrap").unwrap();
        assert_eq!(durations.at_most, [(0.001, 3), (0.01, 9), (f64::INFINITY, 10)]);
        assert_eq!(durations.summary(), "Of 10 operations, half took at most 10 ms, and 99 % took longer than 30 s.");
        let plot = durations.plot().into_string();
        assert_eq!(plot.matches("<rect").count(), 3, "{plot}");
        assert!(plot.contains("height=\"60\"") && plot.contains("height=\"10\""), "{plot}");
    }
}
