//! A store as tables: it is read, filled or checked as a whole.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::{
    Connection, ToSql, TransactionBehavior, params, params_from_iter,
    types::{Null, ToSqlOutput, ValueRef},
};
use tokio::task::spawn_blocking;

use super::{
    check,
    cursors::{RESTORED, RESTORED_AT, Sequence},
    errors::{store_error, with_path},
    files::{self, FileIdentity, StoreLock},
    schema::{self, KNOWN_SCHEMA},
    statement::{execute, query_all, query_one},
};
use crate::agent::store::{
    error::StoreError,
    tables::{BATCH_BYTES, BATCH_ROWS, COPIED, Facts, Fault, Kind, Row, TABLES, Table, Tables, Value, size},
};

/// A store as tables. Each request runs on a thread that may block, with all that the store holds: if the caller stops waiting,
/// the request is completed before the lock is released.
pub(in crate::agent::store) struct SqliteTables {
    path: PathBuf,
    /// `None` while a request runs.
    open: Option<Open>,
}

struct Open {
    connection: Connection,
    file: FileIdentity,
    /// `None` if the store is only read.
    lock: Option<StoreLock>,
}

impl SqliteTables {
    /// Opens a store that no agent uses, to copy it.
    pub async fn open_source(path: &Path) -> Result<Self, StoreError> {
        Self::open(path, |path| {
            is_there(path)?;
            let lock = StoreLock::take(path)?;
            let connection = files::open_writer(path, None)?;
            check_schema(&connection)?;
            Ok(Open { connection, file: FileIdentity::of(path)?, lock: Some(lock) })
        })
        .await
    }

    /// Opens a new store, or an unfinished copy of the source with this number.
    pub async fn open_target(path: &Path, source: i64) -> Result<Self, StoreError> {
        Self::open(path, move |path| {
            files::make_folder(path)?;
            let lock = StoreLock::take(path)?;
            let mut connection = files::open_writer(path, None)?;
            let is_new = schema::is_empty(&connection).map_err(store_error)?;
            if !is_new {
                schema::version(&connection)?;
                match schema::copy_of(&connection)? {
                    Some(found) if found == source => {}
                    Some(_) => return Err(StoreError::Unusable(OTHER_COPY.to_owned())),
                    None => return Err(StoreError::Unusable(NOT_EMPTY.to_owned())),
                }
            }
            files::use_wal(&connection, path)?;
            if is_new {
                schema::create_copy(&mut connection, source)?;
            }
            Ok(Open { connection, file: FileIdentity::of(path)?, lock: Some(lock) })
        })
        .await
    }

    /// Opens a store to check one state of it, which an agent may use.
    pub async fn open_to_check(path: &Path) -> Result<Self, StoreError> {
        Self::open(path, |path| {
            is_there(path)?;
            let connection = files::open_reader(path)?;
            connection.execute_batch("BEGIN").map_err(store_error)?;
            check_schema(&connection)?;
            Ok(Open { connection, file: FileIdentity::of(path)?, lock: None })
        })
        .await
    }

    async fn open(
        path: &Path,
        open: impl FnOnce(&Path) -> Result<Open, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let path = files::absolute(path)?;
        let at = path.clone();
        let opened = blocking(move || open(&at).map_err(|error| with_path(&at, error))).await?;
        Ok(Self { path, open: Some(opened?) })
    }

    async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut open = self.open.take().ok_or(StoreError::Closed)?;
        let (open, done) = blocking(move || {
            let done = open.file.check().and_then(|()| work(&mut open.connection));
            (open, done)
        })
        .await?;
        self.open = Some(open);
        done.map_err(|error| with_path(&self.path, error))
    }

    async fn run_sql<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(|db| work(db).map_err(store_error)).await
    }
}

const NOT_EMPTY: &str =
    "is not empty: name a file that does not exist. A copy is never mixed with what is there already";
const OTHER_COPY: &str = "is an unfinished copy of another store, or of this one before an agent used it again: remove the \
     file, and copy again";

fn is_there(path: &Path) -> Result<(), StoreError> {
    match path.exists() {
        true => Ok(()),
        false => Err(StoreError::Unusable("does not exist".to_owned())),
    }
}

fn check_schema(connection: &Connection) -> Result<(), StoreError> {
    match schema::check(connection)? {
        KNOWN_SCHEMA => Ok(()),
        found if found > KNOWN_SCHEMA => Err(StoreError::TooNew { found, known: KNOWN_SCHEMA }),
        found => Err(StoreError::Unusable(format!(
            "has schema {found}, and schema {KNOWN_SCHEMA} is needed: start the agent of this release once"
        ))),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    spawn_blocking(work).await.map_err(|error| StoreError::Unavailable(error.to_string()))
}

#[async_trait]
impl Tables for SqliteTables {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    async fn read(&mut self, table: &'static Table, after: Option<Row>) -> Result<Vec<Row>, StoreError> {
        self.run(move |db| read(db, table, after)).await
    }

    async fn last_key(&mut self, table: &'static Table) -> Result<Option<Row>, StoreError> {
        self.run(move |db| {
            let keys = table.key_columns();
            let descending = keys.iter().map(|key| format!("{key} DESC")).collect::<Vec<_>>().join(", ");
            let sql = format!("SELECT {} FROM {} ORDER BY {descending} LIMIT 1", keys.join(", "), table.name);
            let count = keys.len();
            let found = query_one(db, &sql, [], |row| (0..count).map(|at| value(row.get_ref(at)?)).collect());
            found.map_err(store_error)
        })
        .await
    }

    async fn number(&mut self, sql: &str) -> Result<i64, StoreError> {
        let sql = sql.to_owned();
        self.run_sql(move |db| db.query_row(&sql, [], |row| row.get(0))).await
    }

    async fn facts(&mut self) -> Result<Facts, StoreError> {
        self.run_sql(facts).await
    }

    async fn write(&mut self, table: &'static Table, rows: Vec<Row>) -> Result<(), StoreError> {
        self.run(move |db| write(db, table, &rows).map_err(store_error)).await
    }

    async fn write_facts(&mut self, facts: Facts) -> Result<(), StoreError> {
        self.run(move |db| write_facts(db, &facts).map_err(store_error)).await
    }

    async fn copy_id(&mut self) -> Result<i64, StoreError> {
        self.run_sql(|db| {
            let new = "INSERT INTO meta (name, value) VALUES (?1, abs(random() / 2)) ON CONFLICT (name) DO NOTHING";
            db.execute(new, [COPIED])?;
            db.query_row("SELECT value FROM meta WHERE name = ?1", [COPIED], |row| row.get(0))
        })
        .await
    }

    async fn mark_left(&mut self) -> Result<(), StoreError> {
        self.run_sql(|db| note(db, RESTORED, 1)).await
    }

    async fn complete(&mut self) -> Result<(), StoreError> {
        self.run(|db| schema::complete_copy(db).map_err(store_error)).await
    }

    async fn check_backend(&mut self) -> Result<Vec<Fault>, StoreError> {
        self.run_sql(check::check).await
    }

    async fn close(mut self: Box<Self>) -> Result<(), StoreError> {
        let Open { connection, lock, .. } = self.open.take().ok_or(StoreError::Closed)?;
        let closed = blocking(move || {
            // The last connection copies the log into the database.
            let closed = connection.close().map_err(|(_, error)| store_error(error));
            drop(lock);
            closed
        });
        closed.await?
    }
}

fn read(db: &Connection, table: &Table, after: Option<Row>) -> Result<Vec<Row>, StoreError> {
    let keys = table.key_columns().join(", ");
    let columns = table.columns.iter().map(|(name, kind)| match kind {
        // A cancelled message has the state of a failed one, which older releases know.
        Kind::State => "iif(state = 2 AND cancelled, 4, state)",
        _ => name,
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    let places = vec!["?"; table.key_columns().len()].join(", ");
    let condition = after.as_ref().map_or(String::new(), |_| format!("WHERE ({keys}) > ({places})"));
    let sql = format!("SELECT {columns} FROM {} {condition} ORDER BY {keys}", table.name);
    let read = || {
        let mut statement = db.prepare_cached(&sql)?;
        let mut found = statement.query(params_from_iter(after.iter().flatten()))?;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while rows.len() < BATCH_ROWS
            && bytes < BATCH_BYTES
            && let Some(row) = found.next()?
        {
            let row: Row = (0..table.columns.len()).map(|at| value(row.get_ref(at)?)).collect::<Result<_, _>>()?;
            bytes += size(&row);
            rows.push(row);
        }
        Ok(rows)
    };
    read().map_err(store_error)
}

fn value(value: ValueRef<'_>) -> rusqlite::Result<Value> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Text(_) => Value::Text(value.as_str()?.to_owned()),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_owned()),
        ValueRef::Real(_) => return Err(rusqlite::types::FromSqlError::InvalidType.into()),
    })
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::from(Null),
            Self::Integer(number) => ToSqlOutput::from(*number),
            Self::Text(text) => ToSqlOutput::from(text.as_str()),
            Self::Bytes(bytes) => ToSqlOutput::from(bytes.as_slice()),
        })
    }
}

fn write(db: &mut Connection, table: &Table, rows: &[Row]) -> rusqlite::Result<()> {
    let (mut columns, mut values) = (Vec::new(), Vec::new());
    for ((name, kind), number) in table.columns.iter().zip(1..) {
        columns.push(*name);
        if *kind == Kind::State {
            columns.push("cancelled");
            values.push(format!("iif(?{number} = 4, 2, ?{number}), ?{number} = 4"));
        } else {
            values.push(format!("?{number}"));
        }
    }
    let sql = format!("INSERT INTO {} ({}) VALUES ({})", table.name, columns.join(", "), values.join(", "));
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for row in rows {
        execute(&transaction, &sql, params_from_iter(row))?;
    }
    transaction.commit()
}

/// The highest revision that a record has or had. The note has that of the deleted records.
const HIGHEST_REVISION: &str = "SELECT max(ifnull((SELECT max(revision) FROM records), 0),
    ifnull((SELECT value FROM meta WHERE name = 'deleted_revision'), 0))";

fn facts(db: &Connection) -> rusqlite::Result<Facts> {
    let one = |sql, parameters: &[&dyn ToSql]| query_one(db, sql, parameters, |row| row.get::<_, i64>(0));
    let meta = |name: &str| one("SELECT value FROM meta WHERE name = ?1", &[&name]);
    let mut facts = Facts {
        dropped: one("SELECT dropped FROM of_strangers", &[])?.unwrap_or(0),
        revision: one(HIGHEST_REVISION, &[])?.unwrap_or(0),
        restored_at: meta(RESTORED_AT)?,
        is_restored: meta(RESTORED)?.is_some(),
        ..Facts::default()
    };
    for table in TABLES.iter().filter(|table| table.is_numbered) {
        let last = one("SELECT seq FROM sqlite_sequence WHERE name = ?1", &[&table.name])?;
        facts.sequences.insert(table.name, last.unwrap_or(0));
    }
    for sequence in Sequence::ALL {
        let sql = format!("SELECT first, last FROM {} ORDER BY first", sequence.ranges());
        facts.ranges.insert(sequence.table(), query_all(db, &sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?);
    }
    Ok(facts)
}

fn write_facts(db: &mut Connection, facts: &Facts) -> rusqlite::Result<()> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (table, last) in &facts.sequences {
        execute(&transaction, "DELETE FROM sqlite_sequence WHERE name = ?1", [table])?;
        execute(&transaction, "INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)", params![table, last])?;
    }
    for sequence in Sequence::ALL {
        let table = sequence.ranges();
        transaction.execute(&format!("DELETE FROM {table}"), [])?;
        for (first, last) in facts.ranges.get(sequence.table()).into_iter().flatten() {
            let insert = format!("INSERT INTO {table} (first, last) VALUES (?1, ?2)");
            execute(&transaction, &insert, params![first, last])?;
        }
    }
    execute(&transaction, "UPDATE of_strangers SET dropped = ?1", [facts.dropped])?;
    execute(&transaction, "UPDATE meta SET value = ?1 WHERE name = 'deleted_revision'", [facts.revision])?;
    execute(&transaction, "DELETE FROM meta WHERE name IN (?1, ?2)", [RESTORED, RESTORED_AT])?;
    if let Some(time) = facts.restored_at {
        note(&transaction, RESTORED_AT, time)?;
    }
    if facts.is_restored {
        note(&transaction, RESTORED, 1)?;
    }
    transaction.commit()
}

fn note(db: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    execute(db, "INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)", params![name, value]).map(drop)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What triggers add up, and what is in [`Facts`].
    const OTHERS: [&str; 10] = [
        "meta",
        "load",
        "total_load",
        "unresolved_load",
        "named_load",
        "left_by",
        "total_unread",
        "of_strangers",
        "cursor_ranges",
        "event_ranges",
    ];

    /// A column that was forgotten would be lost in a copy.
    #[test]
    fn all_tables_and_columns_are_described() {
        let folder = tempfile::tempdir().unwrap();
        let mut db = files::open_writer(&folder.path().join("store.db"), None).unwrap();
        schema::migrate(&mut db, 0).unwrap();
        let names = |sql: &str| -> BTreeSet<String> {
            query_all(&db, sql, [], |row| row.get(0)).unwrap().into_iter().collect()
        };
        let found = names("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'");
        let described = TABLES.iter().map(|table| table.name).chain(OTHERS).map(str::to_owned).collect();
        assert_eq!(found, described);
        for table in &TABLES {
            let columns = names(&format!("SELECT name FROM pragma_table_info('{}')", table.name));
            let mut described: BTreeSet<_> = table.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
            if table.columns.iter().any(|(_, kind)| *kind == Kind::State) {
                described.insert("cancelled".to_owned());
            }
            assert_eq!(columns, described, "{}", table.name);
        }
    }
}
