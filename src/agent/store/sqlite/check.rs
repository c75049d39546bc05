//! Checks what only this backend has: the file, its indexes, and the sums that the limits are compared with.

use rusqlite::Connection;

use super::statement::{query_all, query_one};
use crate::agent::store::tables::Fault;

/// The most lines of SQLite's own check that are told.
const MAX_LINES: i64 = 20;

/// The sums that triggers keep, as they are kept and as they are counted. Both queries have the same columns.
const SUMS: [(&str, &str, &str); 7] = [
    (
        "total_load",
        "SELECT envelopes, bytes FROM total_load",
        "SELECT count(*), ifnull(sum(length(packed)), 0) FROM envelopes",
    ),
    (
        "load",
        "SELECT recipient, envelopes, bytes FROM load",
        "SELECT recipient, count(*), sum(length(packed)) FROM envelopes GROUP BY recipient",
    ),
    (
        "unresolved_load",
        "SELECT recipient, envelopes, bytes FROM unresolved_load",
        "SELECT recipient, count(*), sum(bytes) FROM (
            SELECT recipient, length(packed) AS bytes FROM envelopes WHERE unresolved = 1
            UNION ALL SELECT '', length(packed) FROM envelopes WHERE unresolved = 1) GROUP BY recipient",
    ),
    (
        "named_load",
        "SELECT peer, envelopes, bytes FROM named_load",
        "SELECT named_peer, count(*), sum(length(packed)) FROM envelopes WHERE named_peer IS NOT NULL GROUP BY named_peer",
    ),
    (
        "left_by",
        "SELECT peer, unread, unread_bytes, unsent FROM left_by WHERE unread > 0 OR unsent > 0",
        "SELECT peer, sum(unread), sum(bytes), sum(unsent) FROM (
            SELECT sender AS peer, 1 AS unread, ifnull(length(sealed), 0) AS bytes, 0 AS unsent
                FROM deliveries WHERE acknowledged IS NULL
            UNION ALL SELECT peer, 0, 0, 1 FROM outgoing WHERE state = 0) GROUP BY peer",
    ),
    (
        "total_unread",
        "SELECT bytes, of_strangers, messages_of_strangers FROM total_unread",
        "SELECT ifnull(sum(length(sealed)), 0), ifnull(sum(iif(stranger = 1, length(sealed), 0)), 0),
            count(*) FILTER (WHERE stranger = 1) FROM deliveries WHERE acknowledged IS NULL",
    ),
    (
        "of_strangers",
        "SELECT record_bytes, marks, replies FROM of_strangers",
        "SELECT
            (SELECT ifnull(sum(length(key) + length(value) + length(peer) + 200), 0) FROM records WHERE peer IS NOT NULL),
            (SELECT count(*) FROM handled WHERE stranger = 1),
            (SELECT count(*) FROM outgoing WHERE to_stranger = 1 AND state = 0)",
    ),
];

pub(super) fn check(db: &Connection) -> rusqlite::Result<Vec<Fault>> {
    let lines: Vec<String> = query_all(db, &format!("PRAGMA integrity_check({MAX_LINES})"), [], |row| row.get(0))?;
    let damage = lines.iter().filter(|line| *line != "ok");
    let mut faults: Vec<_> = damage.map(|line| Fault::new("file-damaged", format!("SQLite finds: {line}"))).collect();
    for (table, kept, counted) in SUMS {
        let wrong = format!(
            "SELECT (SELECT count(*) FROM (SELECT * FROM ({kept}) EXCEPT SELECT * FROM ({counted})))
                + (SELECT count(*) FROM (SELECT * FROM ({counted}) EXCEPT SELECT * FROM ({kept})))"
        );
        if query_one(db, &wrong, [], |row| row.get::<_, i64>(0))?.unwrap_or(0) > 0 {
            let text = format!(
                "the sums in the table {table} are not those of the rows, so limits are compared with wrong numbers; a copy \
                 by `claviger store copy` counts them anew"
            );
            faults.push(Fault::new("sums-differ", text));
        }
    }
    Ok(faults)
}
