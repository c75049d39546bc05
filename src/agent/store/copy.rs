//! Copies a whole store to another backend or another place.
//!
//! The rows are copied as they are, in the order of their keys and in batches, each in one transaction. The target itself tells
//! how far the copy came: by its last keys. It has a mark until everything is there and was compared, and no agent opens it
//! before. Content is sealed, and stays so: no token is needed.

use std::{fmt, path::Path};

use super::{
    error::StoreError,
    location::StoreLocation,
    tables::{Facts, RowDigest, TABLES, Table, Tables},
};

/// The number of a source whose copy is not completed later.
const ONCE: i64 = -1;

/// How far a copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyProgress {
    /// What is being done.
    pub step: CopyStep,
    /// The table.
    pub table: &'static str,
    /// How many rows of all tables are done in this step.
    pub done: u64,
    /// How many rows all tables have.
    pub all: u64,
}

/// The steps of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyStep {
    /// Rows are read from the source and written to the target.
    Copy,
    /// The rows of both stores are read and compared.
    Compare,
}

impl fmt::Display for CopyProgress {
    /// For people: `Copying records: 100 of 2000 rows`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match self.step {
            CopyStep::Copy => "Copying",
            CopyStep::Compare => "Comparing",
        };
        write!(f, "{step} {}: {} of {} rows", self.table, self.done, self.all)
    }
}

/// A completed copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyReport {
    /// The tables, each with what both stores have in it.
    pub tables: Vec<CopiedTable>,
    /// How many rows an earlier, interrupted copy had left in the target.
    pub found: u64,
}

/// A table of a completed copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedTable {
    /// The table's name.
    pub name: &'static str,
    /// How many rows it has.
    pub rows: u64,
    /// The SHA-256 of all rows, in an encoding that does not depend on the backend.
    pub sha256: [u8; 32],
}

/// Copies a store to an empty place, or completes an interrupted copy of the same store. No agent may use either meanwhile.
///
/// Everything is copied, the cursors and the numbers of the sequences too: applications go on from their cursors, and no id is
/// given twice. At the end all rows of both stores are read and compared. An agent that is started on the *source* later begins
/// a new range of cursors, like one on a restored backup, so that the two stores never give out the same cursor.
///
/// If the copy is interrupted, or fails, the target stays an unfinished copy, which no agent opens. The next call goes on where
/// it stopped, unless an agent has used the source since.
///
/// # Errors
/// [`StoreError::InUse`] if an agent uses one of the stores; [`StoreError::Unusable`] if the target is not empty, the source is
/// damaged or was never used, or the two differ at the end; [`StoreError::TooNew`] for a newer schema; [`StoreError::Full`] or
/// [`StoreError::Unavailable`] if a disk or a server fails.
pub async fn copy(
    from: &StoreLocation,
    to: &StoreLocation,
    mut progress: impl FnMut(CopyProgress) + Send,
) -> Result<CopyReport, StoreError> {
    if let (StoreLocation::Sqlite(from), StoreLocation::Sqlite(to)) = (from, to)
        && let (Ok(from), Ok(to)) = (from.canonicalize(), to.canonicalize())
        && from == to
    {
        return Err(StoreError::Unusable(format!("{} cannot be copied to itself", from.display())));
    }
    let mut source = from.open_source().await?;
    if source.facts().await?.ranges.values().any(Vec::is_empty) {
        let why = format!("{} was never opened by an agent: there is nothing to copy", source.name());
        return Err(StoreError::Unusable(why));
    }
    let mut target = to.open_target(source.copy_id().await?).await?;
    let (all, found) = (rows(&mut *source).await?, rows(&mut *target).await?);
    copy_rows(&mut *source, &mut *target, found, all, &mut progress).await?;
    let facts = source.facts().await?;
    target.write_facts(facts.clone()).await?;
    let tables = compare(&mut *source, &mut *target, &facts, all, &mut progress).await?;
    // The source first, so that no cursor is given twice if this process ends in between. The target is then completed once more,
    // and begins new ranges of cursors too; those of before stay known.
    source.mark_left().await?;
    target.complete().await?;
    target.close().await?;
    source.close().await?;
    Ok(CopyReport { tables, found })
}

/// Copies the state of a store at one moment to a new file of SQLite, and compares the two. An agent may use the store meanwhile,
/// which goes on as it was.
///
/// # Errors
/// Those of [`copy`]. An incomplete file stays behind, which no agent opens.
pub async fn copy_state(
    from: &StoreLocation,
    to: &Path,
    mut progress: impl FnMut(CopyProgress) + Send,
) -> Result<CopyReport, StoreError> {
    let mut source = from.open_to_check().await?;
    let mut target = StoreLocation::Sqlite(to.to_owned()).open_target(ONCE).await?;
    let all = rows(&mut *source).await?;
    copy_rows(&mut *source, &mut *target, 0, all, &mut progress).await?;
    let facts = source.facts().await?;
    target.write_facts(facts.clone()).await?;
    let tables = compare(&mut *source, &mut *target, &facts, all, &mut progress).await?;
    target.complete().await?;
    target.close().await?;
    source.close().await?;
    Ok(CopyReport { tables, found: 0 })
}

/// Counts the rows of all tables.
async fn rows(store: &mut dyn Tables) -> Result<u64, StoreError> {
    let mut all = 0;
    for table in &TABLES {
        let count = store.number(&format!("SELECT count(*) FROM {}", table.name)).await?;
        all += u64::try_from(count).unwrap_or(0);
    }
    Ok(all)
}

/// Copies the rows that the target does not have yet.
async fn copy_rows(
    source: &mut dyn Tables,
    target: &mut dyn Tables,
    mut done: u64,
    all: u64,
    progress: &mut (impl FnMut(CopyProgress) + Send),
) -> Result<(), StoreError> {
    for table in &TABLES {
        let mut after = target.last_key(table).await?;
        loop {
            progress(CopyProgress { step: CopyStep::Copy, table: table.name, done, all });
            let batch = source.read(table, after).await?;
            let Some(last) = batch.last() else { break };
            after = Some(table.key(last).to_vec());
            done += batch.len() as u64;
            target.write(table, batch).await?;
        }
    }
    Ok(())
}

/// Reads both stores anew, and compares them.
async fn compare(
    source: &mut dyn Tables,
    target: &mut dyn Tables,
    facts: &Facts,
    all: u64,
    progress: &mut (impl FnMut(CopyProgress) + Send),
) -> Result<Vec<CopiedTable>, StoreError> {
    let differs = |what: &str| {
        let why = format!(
            "{what}: the copy stays unfinished. Check the source with `claviger store check`, empty the target, and copy again"
        );
        StoreError::Unusable(why)
    };
    let (mut tables, mut done) = (Vec::new(), 0_u64);
    for table in &TABLES {
        let mut report = |rows: u64| {
            progress(CopyProgress { step: CopyStep::Compare, table: table.name, done: (done + rows).min(all), all })
        };
        let original = digest(source, table, &mut report).await?;
        let copied = digest(target, table, &mut report).await?;
        if original.rows != copied.rows {
            let (name, rows, copied) = (table.name, original.rows, copied.rows);
            return Err(differs(&format!("has {rows} rows in the table {name}, and its copy has {copied}")));
        }
        if original != copied {
            return Err(differs(&format!("has other values in the table {} than its copy", table.name)));
        }
        done += original.rows;
        tables.push(original);
    }
    if target.facts().await? != *facts {
        return Err(differs("has other sequences or cursors than its copy"));
    }
    Ok(tables)
}

/// Reads a table. `progress` gets the number of rows so far.
async fn digest(
    store: &mut dyn Tables,
    table: &'static Table,
    progress: &mut (impl FnMut(u64) + Send),
) -> Result<CopiedTable, StoreError> {
    let (mut digest, mut rows, mut after) = (RowDigest::default(), 0, None);
    loop {
        progress(rows);
        let batch = store.read(table, after).await?;
        let Some(last) = batch.last() else { break };
        after = Some(table.key(last).to_vec());
        rows += batch.len() as u64;
        batch.iter().for_each(|row| digest.add(row));
    }
    Ok(CopiedTable { name: table.name, rows, sha256: digest.finish() })
}
