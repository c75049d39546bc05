//! What a node does from time to time beside its requests: it shows that it lives, and takes over the work of nodes that ended.
//!
//! A node has ended if its lease is over, or if the session that holds its lock is gone for more than a second: after a failure
//! of the server, the others need a moment to connect again. A process that was killed is found by its lock; a process or
//! machine that hangs by its lease.

use std::time::Instant;

use super::{
    handover::{hand_over, needed_to_send},
    locks::is_node_locked,
    request::Outcome,
    session::{Parameters, params},
    text::{stored, text},
    totals::{Count, Counter},
    transaction::Db,
};

/// Ends the nodes that show no sign of life, and takes over what they had.
pub(super) async fn beat(db: &Db<'_>) -> Outcome<()> {
    let node = db.node();
    let number = node.number();
    let unlocked = format!("SELECT number FROM nodes WHERE ended IS NULL AND NOT {}", is_node_locked("nodes.number"));
    let unlocked: Vec<_> = db.all(&unlocked, &[]).await?.iter().map(|row| row.get(0)).collect();
    let gone = node.unlocked_again(&unlocked, Instant::now());
    // If this node was late itself, something has held up all of them.
    let end = "UPDATE nodes SET ended = clock_timestamp() WHERE ended IS NULL AND number <> $1
            AND (number = ANY($2) OR (lease <= clock_timestamp() AND NOT $3))
        RETURNING number";
    let ended = db.change(end, params![number, gone, node.was_late()]).await?;
    if !ended.is_empty() {
        tracing::info!(node = node.name(), ended = ended.len(), "work of ended nodes taken over");
        adopt(db).await?;
    }
    if !ended.is_empty() || node.is_hand_over_due(Instant::now()) {
        hand_over(db).await?;
    }
    if *node.leads().borrow() {
        let forget = "DELETE FROM node_log WHERE number <= (SELECT min(heard) FROM nodes WHERE ended IS NULL)";
        db.execute(forget, &[]).await?;
    }
    Ok(())
}

/// Takes over the envelopes and the waiting messages that no node has.
pub(super) async fn adopt(db: &Db<'_>) -> Result<(), tokio_postgres::Error> {
    let number = db.node().number();
    // There may be much.
    db.all("SELECT set_config('statement_timeout', '0', true)", &[]).await?;
    let having = "SELECT number FROM nodes WHERE ended IS NULL";
    let envelopes = format!("UPDATE envelopes SET node = $1 WHERE node NOT IN ({having})");
    let taken = db.execute(&envelopes, params![number]).await?;
    let outgoing = format!("state = 0 AND node NOT IN ({having})");
    let moved = take_outgoing(db, &outgoing, params![number]).await?;
    if taken > 0 || moved {
        db.tell(|entry| entry.adopted(number));
    }
    Ok(())
}

/// Takes over the waiting messages for a peer, unless this node can send none of them and others can.
pub(super) async fn claim_outgoing(db: &Db<'_>, peer: &str) -> Outcome<()> {
    let of_peer = "state = 0 AND left(peer, 600) = left($2, 600) AND peer = $2 AND node <> $1";
    let parameters: Parameters<'_> = params![db.node().number(), stored(peer)];
    let senders = db.all(&format!("SELECT DISTINCT sender FROM outgoing WHERE {of_peer}"), parameters).await?;
    for row in &senders {
        if db.node().worker_for(&needed_to_send(&text(row, 0)?)) == db.node().worker() {
            take_outgoing(db, of_peer, parameters).await?;
            break;
        }
    }
    Ok(())
}

/// Takes over the messages that a condition selects. The first parameter is the number of this node.
async fn take_outgoing(
    db: &Db<'_>,
    condition: &str,
    parameters: Parameters<'_>,
) -> Result<bool, tokio_postgres::Error> {
    let take = format!(
        "WITH old AS (SELECT sequence, peer, node FROM outgoing WHERE {condition}),
        taken AS (UPDATE outgoing SET node = $1 WHERE sequence IN (SELECT sequence FROM old))
        SELECT peer, node, count(*) FROM old GROUP BY peer, node"
    );
    let taken = db.change(&take, parameters).await?;
    for row in &taken {
        let (peer, before, messages) = (text(row, 0)?, row.get::<_, i64>(1), row.get::<_, i64>(2));
        db.add(|counts| {
            counts.add(Counter::UnsentBy(before, peer.clone()), Count::of(-messages, 0));
            counts.add(Counter::UnsentBy(db.node().number(), peer.clone()), Count::of(messages, 0));
        });
        db.tell(|told| told.taken(db.node().number(), &peer));
    }
    Ok(!taken.is_empty())
}
