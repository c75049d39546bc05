//! What nodes hand over to one another: what a node cannot do, because no token of it has a key for it ready, goes to one that can.
//!
//! - An envelope goes to a node that has one of its keys ready.
//! - The waiting messages for a peer have one node. They go to another one if their node can send none of them, and that one can
//!   send some. So each move is followed by progress, and nothing goes to and fro.
//!
//! This is decided whenever a node shows that it has something else ready, or takes over the work of one that ended, and from time
//! to time, for all that waits; and for what is new when it is stored (`Node::worker_for`). A message may join others that its
//! node can send, and be left when these are sent.

use std::collections::BTreeSet;

use tokio_postgres::Error;

use super::{
    readiness::{Readiness, SHOWN, Shown, shown},
    request::Outcome,
    session::params,
    text::{stored, text},
    totals::{Count, Counter},
    transaction::Db,
};
use crate::{agent::store::types::ready_hash, did::canonical_did};

/// What a node must have ready to send a message of this sender, one of our DIDs. Any key will do for an anonymous message: the
/// node can open the store then.
pub(super) fn needed_to_send(sender: &str) -> Vec<i64> {
    let did = Some(sender).filter(|sender| !sender.is_empty());
    did.map(|did| ready_hash(&canonical_did(did))).into_iter().collect()
}

/// Shows the others what the tokens of this node have ready, and has what waits handed over to those that can do it now.
pub(super) async fn show_ready(db: &Db<'_>) -> Outcome<()> {
    let node = db.node();
    let (number, version, ready) = (node.number(), node.next_batch(), node.ready());
    let show = "UPDATE nodes SET ready = $2, ready_version = $3 WHERE number = $1";
    db.execute(show, params![number, ready, version]).await?;
    let ready = Some(ready.into_iter().collect());
    node.note_own_ready(Shown { node: number, version, ready, lives: true });
    hand_over(db).await?;
    Ok(())
}

/// Hands over whatever waits at a node that cannot do it, and that another one can.
pub(super) async fn hand_over(db: &Db<'_>) -> Result<(), Error> {
    let mut readiness = Readiness::default();
    readiness.replace(shown(&db.all(SHOWN, &[]).await?)?);
    if !readiness.differs() {
        return Ok(());
    }
    // There may be much.
    db.all("SELECT set_config('statement_timeout', '0', true)", &[]).await?;
    hand_over_envelopes(db, &readiness).await?;
    hand_over_outgoing(db, &readiness).await
}

async fn hand_over_envelopes(db: &Db<'_>, readiness: &Readiness) -> Result<(), Error> {
    let (mut nodes, mut keys, mut takers) = (Vec::<i64>::new(), Vec::<String>::new(), Vec::<i64>::new());
    // Many envelopes have the same keys.
    let groups = "SELECT node, keys, coalesce(keys::text, '') FROM envelopes GROUP BY node, keys";
    for row in db.all(groups, &[]).await? {
        let needed = row.try_get::<_, Option<Vec<i64>>>(1)?.unwrap_or_default();
        if let Some(taker) = readiness.taker(row.try_get(0)?, &needed) {
            nodes.push(row.try_get(0)?);
            keys.push(row.try_get(2)?);
            takers.push(taker);
        }
    }
    if takers.is_empty() {
        return Ok(());
    }
    // What was postponed because of the token is due at once.
    let give = "UPDATE envelopes SET node = given.taker,
            next_try = CASE WHEN unresolved_since IS NULL AND attempts = 0 THEN 0 ELSE next_try END
        FROM unnest($1::int8[], $2::text[], $3::int8[]) AS given (node, keys, taker)
        WHERE envelopes.node = given.node AND coalesce(envelopes.keys::text, '') = given.keys";
    let given = db.execute(give, params![nodes, keys, takers]).await?;
    tracing::info!(envelopes = given, "messages handed over to nodes whose tokens open them");
    let this = db.node().number();
    for taker in takers.into_iter().collect::<BTreeSet<_>>() {
        db.tell(|entry| entry.given(taker, taker == this));
    }
    Ok(())
}

async fn hand_over_outgoing(db: &Db<'_>, readiness: &Readiness) -> Result<(), Error> {
    let (mut nodes, mut senders) = (Vec::<i64>::new(), Vec::<String>::new());
    let (mut kept, mut takers) = (Vec::<bool>::new(), Vec::<Option<i64>>::new());
    for row in db.all("SELECT node, sender FROM outgoing WHERE state = 0 GROUP BY node, sender", &[]).await? {
        let (node, sender) = (row.try_get(0)?, text(&row, 1)?);
        let needed = needed_to_send(&sender);
        nodes.push(node);
        kept.push(readiness.can(node, &needed));
        takers.push(readiness.taker(node, &needed));
        senders.push(sender);
    }
    if takers.iter().all(Option::is_none) {
        return Ok(());
    }
    let give = "WITH found AS (SELECT * FROM unnest($1::int8[], $2::text[], $3::bool[], $4::int8[])
                AS found (node, sender, kept, taker)),
        given AS (SELECT node, peer, min(taker) AS taker, count(*) AS messages
            FROM outgoing JOIN found USING (node, sender) WHERE state = 0
            GROUP BY node, peer HAVING NOT bool_or(kept) AND min(taker) IS NOT NULL),
        done AS (UPDATE outgoing SET node = given.taker FROM given
            WHERE state = 0 AND outgoing.node = given.node AND outgoing.peer = given.peer)
        SELECT node, taker, messages, peer FROM given";
    let senders: Vec<_> = senders.iter().map(|sender| stored(sender)).collect();
    let given = db.change(give, params![nodes, senders, kept, takers]).await?;
    if !given.is_empty() {
        tracing::info!(peers = given.len(), "messages for peers handed over to nodes whose tokens send them");
    }
    let this = db.node().number();
    for row in &given {
        let (before, taker, messages): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let peer = text(row, 3)?;
        db.add(|counts| {
            counts.add(Counter::UnsentBy(before, peer.clone()), Count::of(-messages, 0));
            counts.add(Counter::UnsentBy(taker, peer.clone()), Count::of(messages, 0));
        });
        db.tell(|entry| if taker == this { entry.taken(taker, &peer) } else { entry.sent(taker, &peer) });
    }
    Ok(())
}
