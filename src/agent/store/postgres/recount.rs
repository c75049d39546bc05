//! Counts what is in the database, for the [`totals`](super::totals).

use tokio_postgres::Error;

use super::{
    session::Session,
    text::{optional_text, text},
    totals::{Count, Counter, Counts},
};

/// The size of a record about a stranger; 0 if the record is kept. A record counts with 200 bytes for its place in the tables.
pub(super) const STRANGER_RECORD: &str =
    "coalesce(octet_length(key) + octet_length(value) + octet_length(peer) + 200, 0)::int8";

/// Counts everything. The sizes of values are read without the values. `by_node` says whether to count what each node sends.
pub(super) async fn recount(session: &Session, by_node: bool) -> Result<Counts, Error> {
    let mut counts = Counts::default();
    let envelopes = "SELECT recipient, unresolved, named_peer, count(*), sum(octet_length(packed))::int8
        FROM envelopes GROUP BY recipient, unresolved, named_peer";
    for row in session.all(envelopes, &[]).await? {
        let of = Count::of(row.get(3), row.get(4));
        count_envelopes(&mut counts, &text(&row, 0)?, row.get(1), optional_text(&row, 2)?, of);
    }
    let deliveries = "SELECT sender, stranger, count(*), coalesce(sum(octet_length(sealed)), 0)::int8
        FROM deliveries WHERE acknowledged IS NULL GROUP BY sender, stranger";
    for row in session.all(deliveries, &[]).await? {
        count_deliveries(&mut counts, text(&row, 0)?, row.get(1), Count::of(row.get(2), row.get(3)));
    }
    let outgoing = "SELECT peer, to_stranger, count(*), node FROM outgoing WHERE state = 0
        GROUP BY peer, to_stranger, node";
    for row in session.all(outgoing, &[]).await? {
        let node = by_node.then(|| row.get(3));
        count_outgoing(&mut counts, text(&row, 0)?, row.get(1), node, row.get(2));
    }
    let marks = "SELECT count(*) FROM handled WHERE stranger";
    if let Some(row) = session.first(marks, &[]).await? {
        counts.add(Counter::StrangerMarks, Count::of(row.get(0), 0));
    }
    let records =
        format!("SELECT count(*), coalesce(sum({STRANGER_RECORD}), 0)::int8 FROM records WHERE peer IS NOT NULL");
    if let Some(row) = session.first(&records, &[]).await? {
        counts.add(Counter::StrangerRecords, Count::of(row.get(0), row.get(1)));
    }
    Ok(counts)
}

/// Counts pending envelopes that have come, or have gone if the numbers are negative.
pub(super) fn count_envelopes(
    counts: &mut Counts,
    recipient: &str,
    unresolved: bool,
    named_peer: Option<String>,
    of: Count,
) {
    counts.add(Counter::Pending, of);
    counts.add(Counter::PendingFor(recipient.to_owned()), of);
    if unresolved {
        counts.add(Counter::Unresolved, of);
        counts.add(Counter::UnresolvedFor(recipient.to_owned()), of);
    }
    if let Some(peer) = named_peer {
        counts.add(Counter::NamedBy(peer), of);
    }
}

/// Counts unacknowledged deliveries that have come or gone.
pub(super) fn count_deliveries(counts: &mut Counts, sender: String, of_stranger: bool, of: Count) {
    counts.add(Counter::Unread, of);
    if of_stranger {
        counts.add(Counter::UnreadOfStrangers, of);
    }
    counts.add(Counter::UnreadFrom(sender), of);
}

/// Counts waiting messages that have come or gone. `node` is the node that sends them, if nodes are counted.
pub(super) fn count_outgoing(counts: &mut Counts, peer: String, to_stranger: bool, node: Option<i64>, number: i64) {
    counts.add(Counter::Unsent, Count::of(number, 0));
    if let Some(node) = node {
        counts.add(Counter::UnsentBy(node, peer.clone()), Count::of(number, 0));
    }
    if to_stranger {
        counts.add(Counter::StrangerReplies, Count::of(number, 0));
    }
    counts.add(Counter::UnsentTo(peer), Count::of(number, 0));
}
