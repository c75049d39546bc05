//! Checks a store.

use super::{
    error::StoreError,
    location::StoreLocation,
    tables::{Facts, Fault, Row, TABLES, Table, Tables, Value},
};

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// The tables, each with its number of rows.
    pub tables: Vec<(&'static str, u64)>,
    /// What is wrong. Nothing is wrong if it is empty.
    pub findings: Vec<CheckFinding>,
}

/// Something that is wrong in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckFinding {
    /// What is wrong, in a word for programs: `file-damaged`, `unreadable`, `sums-differ`, ...
    pub code: &'static str,
    /// What is wrong, for people.
    pub text: String,
}

/// Checks one state of a store, and changes nothing. An agent may use the store meanwhile.
///
/// It reads every row, and checks: the file of SQLite (`integrity_check`), and its sums, which limits are compared with; that
/// numbers and cursors are within those that the store has given, so that none is given twice; and what must hold within rows
/// and between them. Content is sealed, and is not looked at. `progress` gets the table and the number of its rows so far.
///
/// # Errors
/// [`StoreError::Unusable`] if there is no store, or an unfinished copy; [`StoreError::TooNew`] for a newer schema;
/// [`StoreError::Unavailable`] if the store cannot be read now.
pub async fn check(
    store: &StoreLocation,
    mut progress: impl FnMut(&'static str, u64) + Send,
) -> Result<CheckReport, StoreError> {
    let mut store = store.open_to_check().await?;
    let (mut faults, mut tables) = (Vec::new(), Vec::new());
    progress("the store itself", 0);
    note(store.check_backend().await, &mut faults)?;
    if let Some(facts) = note_value(store.facts().await, &mut faults)? {
        check_ranges(&facts, &mut faults);
        for table in &TABLES {
            let rows = check_table(&mut *store, table, &facts, &mut faults, &mut progress).await?;
            tables.push((table.name, rows));
        }
        if let Some(number @ 1..) = note_value(store.number(PROCESSED_ENVELOPES).await, &mut faults)? {
            faults.push(Fault::new("envelope-processed", format!("{number} waiting envelopes count as processed too")));
        }
    }
    // A damaged store need not close well.
    let closed = store.close().await;
    if faults.is_empty() {
        closed?;
    }
    let findings = faults.into_iter().map(|Fault { code, text }| CheckFinding { code, text }).collect();
    Ok(CheckReport { tables, findings })
}

/// Counts envelopes that wait and count as processed, so that no copy of them is accepted.
const PROCESSED_ENVELOPES: &str = "SELECT count(*) FROM envelopes WHERE digest IN (SELECT digest FROM concluded)";

/// Adds what was found. A store that cannot be read because it is damaged is a fault too.
fn note(found: Result<Vec<Fault>, StoreError>, faults: &mut Vec<Fault>) -> Result<(), StoreError> {
    let found = note_value(found, faults)?;
    faults.extend(found.unwrap_or_default());
    Ok(())
}

fn note_value<T>(read: Result<T, StoreError>, faults: &mut Vec<Fault>) -> Result<Option<T>, StoreError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Unusable(why)) => {
            faults.push(Fault::new("unreadable", format!("the store {why}")));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Checks that ranges of cursors follow one another, and that one is the current one.
fn check_ranges(facts: &Facts, faults: &mut Vec<Fault>) {
    for (table, ranges) in &facts.ranges {
        let given = facts.sequences.get(table).copied().unwrap_or(0);
        let (ended, current): (Vec<_>, Vec<_>) = ranges.iter().partition(|(_, last)| last.is_some());
        let is_last_current = ranges.last().is_some_and(|(first, last)| last.is_none() && *first <= given + 1);
        let follow = ranges.windows(2).all(|pair| {
            let [(_, last), (next, _)] = pair else { return true };
            last.is_some_and(|last| last < *next)
        });
        if current.len() != 1 || !is_last_current || !follow || ended.iter().any(|(_, last)| last.unwrap_or(0) > given)
        {
            let text =
                format!("the ranges of cursors of {table} do not follow one another: applications may miss messages");
            faults.push(Fault::new("ranges-wrong", text));
        }
    }
}

/// A rule for the rows of a table: a code, what is wrong with the rows, and whether it is.
type Rule = (&'static str, &'static str, fn(&Table, &Row, &Facts) -> bool);

/// The rules. Each looks only at the tables that it is for.
const RULES: [Rule; 8] = [
    (
        "number-never-given",
        "have numbers that the store has not given yet, and will give again",
        |table, row, facts| {
            let last = facts.sequences.get(table.name);
            last.is_some_and(|last| {
                table.key(row).iter().any(|key| key.integer().is_none_or(|key| key > *last || key < 1))
            })
        },
    ),
    ("cursor-unknown", "have cursors that no range has", |table, row, facts| {
        facts.ranges.contains_key(table.name)
            && !table.value(row, "cursor").integer().is_some_and(|cursor| facts.is_known(table.name, cursor))
    }),
    ("digest-malformed", "have a digest that has not 32 bytes", |table, row, _| {
        let column = match table.name {
            "envelopes" | "concluded" => "digest",
            "handled" => "mark",
            _ => return false,
        };
        !matches!(table.value(row, column), Value::Bytes(bytes) if bytes.len() == 32)
    }),
    ("content-left", "have ended, and still have their content", |table, row, _| {
        let is_over = match table.name {
            "deliveries" => *table.value(row, "acknowledged") != Value::Null,
            "outgoing" => *table.value(row, "state") != Value::Integer(0),
            _ => return false,
        };
        is_over && *table.value(row, "sealed") != Value::Null
    }),
    ("state-unknown", "have a state that this release does not know", |table, row, _| {
        table.name == "outgoing" && !table.value(row, "state").integer().is_some_and(|state| (0..=4).contains(&state))
    }),
    ("revision-wrong", "have a revision that the store has not given", |table, row, facts| {
        table.name == "records"
            && !table.value(row, "revision").integer().is_some_and(|revision| (1..=facts.revision).contains(&revision))
    }),
    ("stranger-half-known", "have a stranger without a time, or a time without a stranger", |table, row, _| {
        table.name == "records"
            && (*table.value(row, "peer") == Value::Null) != (*table.value(row, "seen") == Value::Null)
    }),
    ("flag-malformed", "have a flag that is neither 0 nor 1", |table, row, _| {
        table.flags().any(|flag| !matches!(table.value(row, flag), Value::Integer(0 | 1)))
    }),
];

/// Reads a table, and checks its rows. Returns their number.
async fn check_table(
    store: &mut dyn Tables,
    table: &'static Table,
    facts: &Facts,
    faults: &mut Vec<Fault>,
    progress: &mut (impl FnMut(&'static str, u64) + Send),
) -> Result<u64, StoreError> {
    let (mut rows, mut after) = (0, None);
    let mut found: [(u64, String); RULES.len()] = Default::default();
    loop {
        progress(table.name, rows);
        let batch = match note_value(store.read(table, after).await, faults)? {
            Some(batch) => batch,
            None => break,
        };
        let Some(last) = batch.last() else { break };
        after = Some(table.key(last).to_vec());
        rows += batch.len() as u64;
        for row in &batch {
            for ((_, _, is_wrong), (number, example)) in RULES.iter().zip(&mut found) {
                if is_wrong(table, row, facts) {
                    *number += 1;
                    if *number == 1 {
                        *example = key_for_people(table.key(row));
                    }
                }
            }
        }
    }
    for ((code, text, _), (number, example)) in RULES.iter().zip(found) {
        if number > 0 {
            faults.push(Fault::new(code, format!("{number} rows of {} {text}, first {example}", table.name)));
        }
    }
    Ok(rows)
}

/// A key, short.
fn key_for_people(key: &[Value]) -> String {
    let part = |value: &Value| match value {
        Value::Null => "nothing".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => format!("{:?}", text.chars().take(100).collect::<String>()),
        Value::Bytes(bytes) => bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect(),
    };
    key.iter().map(part).collect::<Vec<_>>().join(" ")
}
