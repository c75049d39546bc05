//! A store as tables: it is read, filled or checked as a whole, on connections to the server itself.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_postgres::Error;

use super::{
    check,
    cursors::{self, RESTORED_AT, Sequence},
    errors::store_error,
    node::Node,
    options::PostgresOptions,
    ownership::{Locked, Owned},
    schema::{self, KNOWN_SCHEMA},
    session::{Parameter, Session, params},
    text::{optional_text, stored},
    totals::Totals,
};
use crate::agent::store::{
    digests::record_digest,
    error::StoreError,
    tables::{BATCH_BYTES, BATCH_ROWS, COPIED, COPY_OF, Facts, Fault, Kind, Row, TABLES, Table, Tables, Value},
};

/// A store as tables.
pub(in crate::agent::store) struct PostgresTables {
    name: String,
    access: Access,
}

enum Access {
    /// No agent uses the store.
    Owned(Box<Owned>),
    /// One state of the store, in a transaction that only reads.
    State(Box<Session>),
}

impl PostgresTables {
    /// Opens a store that no agent uses, to copy it.
    pub async fn open_source(options: &PostgresOptions) -> Result<Self, StoreError> {
        let options = options.direct();
        let locked = Locked::take(options, false).await?;
        check_schema(&locked.session, options).await?;
        Self::own(locked, options).await
    }

    /// Opens an empty database, or an unfinished copy of the source with this number.
    pub async fn open_target(options: &PostgresOptions, source: i64) -> Result<Self, StoreError> {
        let options = options.direct();
        let locked = Locked::take(options, false).await?;
        let unusable = |why: &str| Err(StoreError::Unusable(format!("{} {why}", options.name())));
        match schema::version(&locked.session).await? {
            0 => schema::create_copy(&locked.session, source).await?,
            _ => match schema::copy_of(&locked.session).await? {
                Some(found) if found == source => {}
                Some(_) => return unusable(OTHER_COPY),
                None => return unusable(NOT_EMPTY),
            },
        }
        Self::own(locked, options).await
    }

    /// Opens a store to check one state of it, which an agent may use.
    pub async fn open_to_check(options: &PostgresOptions) -> Result<Self, StoreError> {
        let options = options.direct();
        let session = Session::connect(options).await?;
        schema::set_up(&session).await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0;
            SET LOCAL idle_in_transaction_session_timeout = 0";
        session.run(begin).await.map_err(store_error)?;
        check_schema(&session, options).await?;
        Ok(Self { name: options.name().to_owned(), access: Access::State(Box::new(session)) })
    }

    async fn own(locked: Locked, options: &PostgresOptions) -> Result<Self, StoreError> {
        let owned = locked.join(None, &Arc::new(Node::new(None))).await?;
        // Counting the rows of a large table may take longer than other statements may.
        owned.session.run("SET statement_timeout = 0").await.map_err(store_error)?;
        Ok(Self { name: options.name().to_owned(), access: Access::Owned(Box::new(owned)) })
    }

    fn session(&self) -> Result<&Session, StoreError> {
        match &self.access {
            Access::State(session) => Ok(session),
            Access::Owned(owned) if owned.is_lost() => {
                Err(StoreError::Unavailable(format!("the connection to {} was lost", self.name)))
            }
            Access::Owned(owned) => Ok(&owned.session),
        }
    }

    /// Begins a transaction that writes.
    async fn begin(&self) -> Result<&Session, StoreError> {
        let session = self.session()?;
        let Access::Owned(owned) = &self.access else {
            return Err(StoreError::Unavailable(format!("{} was opened to be read", self.name)));
        };
        let begun = owned.begin(&Totals::default()).await;
        if let Ok(Some(_)) = begun {
            return Ok(session);
        }
        let _ = session.run("ROLLBACK").await;
        Err(match begun {
            Err(error) => store_error(error),
            Ok(_) => StoreError::Unavailable(format!("an agent has taken {}", self.name)),
        })
    }

    /// Ends a transaction.
    async fn end(&self, session: &Session, done: Result<(), Error>) -> Result<(), StoreError> {
        match done {
            Ok(()) => session.run("COMMIT").await.map_err(store_error),
            Err(error) => {
                let _ = session.run("ROLLBACK").await;
                Err(store_error(error))
            }
        }
    }
}

const NOT_EMPTY: &str = "is not empty: give an empty database, or a role with an empty schema of its own. A copy is never mixed \
     with what is there already";
const OTHER_COPY: &str = "is an unfinished copy of another store, or of this one before an agent used it again: create the \
     database anew, and copy again";

async fn check_schema(session: &Session, options: &PostgresOptions) -> Result<(), StoreError> {
    match schema::current(session).await? {
        KNOWN_SCHEMA => Ok(()),
        0 => Err(StoreError::Unusable(format!("{} is empty", options.name()))),
        found if found > KNOWN_SCHEMA => Err(StoreError::TooNew { found, known: KNOWN_SCHEMA }),
        found => Err(StoreError::Unusable(format!(
            "has schema {found}, and schema {KNOWN_SCHEMA} is needed: start the agent of this release once"
        ))),
    }
}

#[async_trait]
impl Tables for PostgresTables {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn read(&mut self, table: &'static Table, after: Option<Row>) -> Result<Vec<Row>, StoreError> {
        let parameters: Vec<_> = after.iter().flatten().map(parameter).collect();
        let parameters: Vec<_> = parameters.iter().map(|value| &**value as &dyn Parameter).collect();
        let found = self.session()?.all(&select(table, after.is_some()), &parameters).await.map_err(store_error)?;
        let kinds: Vec<_> = table.columns.iter().map(|(_, kind)| *kind).collect();
        found.iter().map(|row| values(row, &kinds)).collect::<Result<_, _>>().map_err(store_error)
    }

    async fn last_key(&mut self, table: &'static Table) -> Result<Option<Row>, StoreError> {
        let keys = table.key_columns();
        let descending = order(table).iter().map(|key| format!("{key} DESC")).collect::<Vec<_>>().join(", ");
        let sql = format!("SELECT {} FROM {} ORDER BY {descending} LIMIT 1", keys.join(", "), table.name);
        let kinds: Vec<_> = table.columns.iter().map(|(_, kind)| *kind).take(keys.len()).collect();
        let found = self.session()?.first(&sql, &[]).await.map_err(store_error)?;
        found.map(|row| values(&row, &kinds)).transpose().map_err(store_error)
    }

    async fn number(&mut self, sql: &str) -> Result<i64, StoreError> {
        let row = self.session()?.first(sql, &[]).await.map_err(store_error)?;
        row.map_or(Ok(0), |row| row.try_get(0)).map_err(store_error)
    }

    async fn facts(&mut self) -> Result<Facts, StoreError> {
        facts(self.session()?).await.map_err(store_error)
    }

    async fn write(&mut self, table: &'static Table, rows: Vec<Row>) -> Result<(), StoreError> {
        let (sql, arrays) = insert(table, &rows);
        // The values are in the arrays.
        drop(rows);
        let session = self.begin().await?;
        let parameters: Vec<_> = arrays.iter().map(|array| &**array as &dyn Parameter).collect();
        let done = session.execute(&sql, &parameters).await.map(drop);
        self.end(session, done).await
    }

    async fn write_facts(&mut self, facts: Facts) -> Result<(), StoreError> {
        let session = self.begin().await?;
        let done = write_facts(session, &facts).await;
        self.end(session, done).await
    }

    async fn copy_id(&mut self) -> Result<i64, StoreError> {
        let session = self.begin().await?;
        let new = "INSERT INTO claviger (name, value) VALUES ($1, floor(random() * 9007199254740992)::int8)
            ON CONFLICT (name) DO NOTHING";
        let done = session.execute(new, params![COPIED]).await.map(drop);
        self.end(session, done).await?;
        let find = "SELECT value FROM claviger WHERE name = $1";
        let row = session.first(find, params![COPIED]).await.map_err(store_error)?;
        row.map(|row| row.get(0)).ok_or_else(|| StoreError::Unusable("forgets what is written".to_owned()))
    }

    async fn mark_left(&mut self) -> Result<(), StoreError> {
        let session = self.begin().await?;
        let done = cursors::note_no_place(session).await;
        self.end(session, done).await
    }

    async fn complete(&mut self) -> Result<(), StoreError> {
        // The planner knows nothing of the new rows until then.
        let tables: Vec<_> = TABLES.iter().map(|table| table.name).collect();
        self.session()?.run(&format!("ANALYZE {}", tables.join(", "))).await.map_err(store_error)?;
        let session = self.begin().await?;
        let done = session.execute("DELETE FROM claviger WHERE name = $1", params![COPY_OF]).await.map(drop);
        self.end(session, done).await
    }

    async fn check_backend(&mut self) -> Result<Vec<Fault>, StoreError> {
        check::check(self.session()?).await.map_err(store_error)
    }

    async fn close(self: Box<Self>) -> Result<(), StoreError> {
        match self.access {
            Access::Owned(owned) => owned.release().await,
            Access::State(session) => session.run("COMMIT").await.map_err(store_error)?,
        }
        Ok(())
    }
}

/// The order of keys, as the index has it.
fn order(table: &Table) -> Vec<&'static str> {
    match table.name {
        "records" => vec!["kind", "left(key, 600)", "key"],
        _ => table.key_columns(),
    }
}

/// A statement that reads a batch. The sizes of values are added up without the values.
fn select(table: &Table, is_after: bool) -> String {
    let columns = table.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let (keys, order) = (table.key_columns(), order(table).join(", "));
    let condition = match (is_after, table.name) {
        (false, _) => String::new(),
        (true, "records") => {
            "WHERE (kind, left(key, 600)) >= ($1, left($2, 600)) AND (kind, key) > ($1, $2)".to_owned()
        }
        (true, _) => {
            let places: Vec<_> = (1..=keys.len()).map(|number| format!("${number}")).collect();
            format!("WHERE ({}) > ({})", keys.join(", "), places.join(", "))
        }
    };
    let sizes = table.columns.iter().filter(|(_, kind)| matches!(kind, Kind::Text | Kind::Bytes));
    let sizes: Vec<_> = sizes.map(|(name, _)| format!("coalesce(octet_length({name}), 0)::int8")).collect();
    let size = if sizes.is_empty() { "0".to_owned() } else { sizes.join(" + ") };
    format!(
        "SELECT {columns} FROM (
            SELECT *, sum({size}) OVER (ORDER BY {order}) - ({size}) AS bytes_before FROM (
                SELECT {columns} FROM {} {condition} ORDER BY {order} LIMIT {BATCH_ROWS}) AS page) AS sized
        WHERE bytes_before < {BATCH_BYTES} ORDER BY {order}",
        table.name
    )
}

fn values(row: &tokio_postgres::Row, kinds: &[Kind]) -> Result<Row, Error> {
    let value = |(at, kind): (usize, &Kind)| {
        let value = match kind {
            Kind::Integer | Kind::State => row.try_get::<_, Option<i64>>(at)?.map(Value::Integer),
            Kind::Flag => row.try_get::<_, Option<bool>>(at)?.map(|flag| Value::Integer(flag.into())),
            Kind::Text => optional_text(row, at)?.map(Value::Text),
            Kind::Bytes => row.try_get::<_, Option<Vec<u8>>>(at)?.map(Value::Bytes),
        };
        Ok(value.unwrap_or(Value::Null))
    };
    kinds.iter().enumerate().map(value).collect()
}

type BoxedParameter = Box<dyn Parameter + Send>;

fn parameter(value: &Value) -> BoxedParameter {
    match value {
        Value::Null => Box::new(None::<i64>),
        Value::Integer(number) => Box::new(*number),
        Value::Text(text) => Box::new(stored(text).into_owned()),
        Value::Bytes(bytes) => Box::new(bytes.clone()),
    }
}

/// A statement that writes rows, and its parameters: an array for each column.
fn insert(table: &Table, rows: &[Row]) -> (String, Vec<BoxedParameter>) {
    let (mut columns, mut types, mut arrays): (Vec<_>, Vec<_>, Vec<BoxedParameter>) =
        (Vec::new(), Vec::new(), Vec::new());
    for (at, (name, kind)) in table.columns.iter().enumerate() {
        let column = rows.iter().map(|row| row.get(at).unwrap_or(&Value::Null));
        let integers = column.clone().map(Value::integer);
        let (of, array): (_, BoxedParameter) = match kind {
            Kind::Integer | Kind::State => ("int8[]", Box::new(integers.collect::<Vec<_>>())),
            Kind::Flag => ("bool[]", Box::new(integers.map(|flag| Some(flag? != 0)).collect::<Vec<_>>())),
            Kind::Text => ("text[]", Box::new(column.map(text_of).collect::<Vec<_>>())),
            Kind::Bytes => ("bytea[]", Box::new(column.map(bytes_of).collect::<Vec<_>>())),
        };
        columns.push(*name);
        types.push(of);
        arrays.push(array);
    }
    if table.name == "records" {
        let digest = |row: &Row| match table.key(row) {
            [Value::Text(kind), Value::Text(key)] => Some(record_digest(kind, key).to_vec()),
            _ => None,
        };
        columns.push("digest");
        types.push("bytea[]");
        arrays.push(Box::new(rows.iter().map(digest).collect::<Vec<_>>()));
    }
    let places = types.iter().zip(1..).map(|(of, number)| format!("${number}::{of}")).collect::<Vec<_>>().join(", ");
    let columns = columns.join(", ");
    let sql = format!("INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE SELECT * FROM unnest({places})", table.name);
    (sql, arrays)
}

fn text_of(value: &Value) -> Option<String> {
    if let Value::Text(text) = value { Some(stored(text).into_owned()) } else { None }
}

fn bytes_of(value: &Value) -> Option<Vec<u8>> {
    if let Value::Bytes(bytes) = value { Some(bytes.clone()) } else { None }
}

async fn facts(session: &Session) -> Result<Facts, Error> {
    let mut facts = Facts { is_restored: cursors::was_restored(session).await? == Some(true), ..Facts::default() };
    for table in TABLES.iter().filter(|table| table.is_numbered) {
        let key = table.key_columns().join(", ");
        let sql = format!("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {}_{key}_seq", table.name);
        let row = session.first(&sql, &[]).await?;
        facts.sequences.insert(table.name, row.map_or(0, |row| row.get(0)));
    }
    let revision = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM record_revisions";
    facts.revision = session.first(revision, &[]).await?.map_or(0, |row| row.get(0));
    for table in Sequence::ALL.map(Sequence::table) {
        let sql = "SELECT first, last FROM cursor_ranges WHERE sequence = $1 ORDER BY first";
        let ranges = session.all(sql, params![table]).await?;
        facts.ranges.insert(table, ranges.iter().map(|row| (row.get(0), row.get(1))).collect());
    }
    let find = "SELECT (SELECT value FROM claviger WHERE name = 'dropped'),
        (SELECT value FROM claviger WHERE name = $1)";
    if let Some(row) = session.first(find, params![RESTORED_AT]).await? {
        facts.dropped = row.get::<_, Option<i64>>(0).unwrap_or(0);
        facts.restored_at = row.get(1);
    }
    Ok(facts)
}

async fn write_facts(session: &Session, facts: &Facts) -> Result<(), Error> {
    for table in TABLES.iter().filter(|table| table.is_numbered) {
        let (key, last) = (table.key_columns().join(", "), facts.sequences.get(table.name).copied().unwrap_or(0));
        // A sequence begins with 1, and 1 was not given then.
        let set = "SELECT setval(pg_get_serial_sequence($1, $2), greatest($3::int8, 1), $3 > 0)";
        session.all(set, params![table.name, key, last]).await?;
    }
    let set = "SELECT setval('record_revisions', greatest($1::int8, 1), $1 > 0)";
    session.all(set, params![facts.revision]).await?;
    session.execute("DELETE FROM cursor_ranges", &[]).await?;
    for (table, ranges) in &facts.ranges {
        for (first, last) in ranges {
            let insert = "INSERT INTO cursor_ranges (sequence, first, last) VALUES ($1, $2, $3)";
            session.execute(insert, params![*table, first, last]).await?;
        }
    }
    let note = "INSERT INTO claviger (name, value) VALUES ($1, $2)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    session.execute(note, params!["dropped", facts.dropped]).await?;
    session.execute("DELETE FROM claviger WHERE name = $1", params![RESTORED_AT]).await?;
    if let Some(time) = facts.restored_at {
        session.execute(note, params![RESTORED_AT, time]).await?;
    }
    cursors::note_place(session).await?;
    if facts.is_restored {
        cursors::note_no_place(session).await?;
    }
    Ok(())
}
