//! Checks what only this backend has: the digests that records are found by, and the numbers of owners and transactions. The
//! totals are in the agent's memory, and are counted at its start.

use tokio_postgres::Error;

use super::session::Session;
use crate::agent::store::tables::Fault;

/// Counts records whose digest is not that of their kind and key. A text with an escaped character (`text.rs`) is left out.
const WRONG_DIGESTS: &str = "SELECT count(*) FROM records,
        convert_to(kind, 'UTF8') AS kind_bytes, convert_to(key, 'UTF8') AS key_bytes
    WHERE strpos(kind || key, chr(1)) = 0 AND digest <> sha256(
        int8send(octet_length(kind_bytes)) || kind_bytes || int8send(octet_length(key_bytes)) || key_bytes)";

/// Counts indexes that the server does not use: it was stopped while it made them.
const INVALID_INDEXES: &str = "SELECT count(*) FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
    WHERE relnamespace = current_schema()::regnamespace AND NOT indisvalid";

/// The numbers that an owner writes, without which none takes the database.
const MISSING_NUMBERS: &str =
    "SELECT 3 - count(*) FROM claviger WHERE name IN ('owner', 'batch', 'dropped') AND value >= 0";

pub(super) async fn check(session: &Session) -> Result<Vec<Fault>, Error> {
    let mut faults = Vec::new();
    for (sql, code, text) in [
        (
            WRONG_DIGESTS,
            "digests-differ",
            "records have another digest than that of their kind and key, and are not found",
        ),
        (INVALID_INDEXES, "index-invalid", "indexes are not valid; REINDEX makes them anew"),
        (MISSING_NUMBERS, "facts-missing", "rows are missing in the table `claviger`, or have impossible numbers"),
    ] {
        let number: i64 = session.first(sql, &[]).await?.map_or(0, |row| row.get(0));
        if number > 0 {
            faults.push(Fault::new(code, format!("{number} {text}")));
        }
    }
    Ok(faults)
}
