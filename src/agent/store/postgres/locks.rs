//! The advisory locks, in SQL.
//!
//! The first of the two numbers of a lock is "Clav" in ASCII, and the numbers after it. The second is the PostgreSQL schema that
//! the tables are in, so that one database can have several stores. The lock of a node is one number: both of these halves.

/// Held as long as the store is open: exclusively by the only agent, shared by nodes.
pub(super) const OWNER_LOCK: i32 = 0x436c_6176;
/// Held exclusively by each transaction that writes.
pub(super) const TRANSACTION_LOCK: i32 = 0x436c_6177;
/// Held while the tables are created or migrated.
pub(super) const MIGRATION_LOCK: i32 = 0x436c_6179;
/// Held for a moment, with a random second number, to see whether two connections lead to one database.
pub(super) const PROBE_LOCK: i32 = 0x436c_6178;
/// The second number of the locks.
pub(super) const SCHEMA_NUMBER: &str = "(current_schema()::regnamespace::oid::int8 & 2147483647)::int4";

/// The lock of the node with a number.
pub(super) fn node_lock(number: &str) -> String {
    format!("(({SCHEMA_NUMBER}::int8 << 32) | ({number} & 4294967295))")
}

/// A condition on the view `pg_locks`: somebody has the lock of the node with this number.
pub(super) fn is_node_locked(number: &str) -> String {
    format!(
        "EXISTS (SELECT FROM pg_locks
            WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND classid::int8 = {SCHEMA_NUMBER} AND objid::int8 = ({number} & 4294967295) AND objsubid = 1 AND granted)"
    )
}
