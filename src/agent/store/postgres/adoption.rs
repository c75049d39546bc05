//! What a node does from time to time beside its requests: it shows that it lives, and takes over the work of nodes that ended.
//!
//! A node has ended if its lease is over, or if the session is gone that holds its lock. A process that was killed is found by
//! the second at once; a process or machine that hangs by the first.

use super::{
    locks::is_node_locked,
    request::Outcome,
    session::{Parameters, params},
    text::{stored, text},
    totals::{Count, Counter},
    transaction::Db,
};

/// For how many days the table `nodes` keeps a node that has ended: it knows which transaction was its last.
const KEPT_DAYS: i64 = 1;

/// Ends the nodes that show no sign of life, and takes over what nodes that have ended left. `joins` says whether this node joins
/// just now: it looks for work that nobody has then.
pub(super) async fn beat(db: &Db<'_>, joins: bool) -> Outcome<()> {
    let node = db.node();
    let number = node.number();
    let end = format!(
        "UPDATE nodes SET ended = clock_timestamp() WHERE ended IS NULL AND number <> $1
            AND (lease <= clock_timestamp() OR NOT {})
        RETURNING number",
        is_node_locked("nodes.number")
    );
    let ended: Vec<i64> = db.change(&end, params![number]).await?.iter().map(|row| row.get(0)).collect();
    if !ended.is_empty() {
        tracing::info!(node = node.name(), ended = ended.len(), "work of ended nodes taken over");
    }
    if !ended.is_empty() || joins {
        adopt(db).await?;
    }
    if *node.leads().borrow() {
        let forget = "DELETE FROM node_log WHERE number <= (SELECT min(heard) FROM nodes WHERE ended IS NULL)";
        db.execute(forget, &[]).await?;
        let old = "DELETE FROM nodes WHERE ended < clock_timestamp() - $1 * interval '1 day'";
        db.execute(old, params![KEPT_DAYS as f64]).await?;
    }
    Ok(())
}

/// Takes over the envelopes and the waiting messages that no node has.
async fn adopt(db: &Db<'_>) -> Result<(), tokio_postgres::Error> {
    let number = db.node().number();
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

/// Takes over the waiting messages for a peer.
pub(super) async fn claim_outgoing(db: &Db<'_>, peer: &str) -> Outcome<()> {
    let of_peer = "state = 0 AND left(peer, 600) = left($2, 600) AND peer = $2 AND node <> $1";
    take_outgoing(db, of_peer, params![db.node().number(), stored(peer)]).await?;
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
            counts.add(Counter::UnsentBy(db.node().number(), peer), Count::of(messages, 0));
        });
    }
    Ok(!taken.is_empty())
}
