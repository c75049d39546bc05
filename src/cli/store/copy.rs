//! `claviger store copy`: moves the store between SQLite and PostgreSQL.

use std::path::PathBuf;

use serde_json::json;

use claviger::agent::store::{self, CopyProgress, CopyReport, StoreError};

use crate::cli::{
    config::Config,
    failure::Failure,
    output::{Out, Progress, count},
    runtime::block_on,
    store_location::{self, Connection},
};

/// Copies the whole store to another place, between SQLite and PostgreSQL in either direction. No agent may run meanwhile.
///
/// Content is copied as it is, encrypted: no token is needed. Cursors stay valid, so applications go on where they were, and
/// no id is given twice. The target must be empty. At the end, all rows of both are read and compared. An interrupted copy
/// goes on when the same command is run again; no agent opens the target before it is complete.
///
/// The source stays as it is, as a copy of this moment. An agent that is started on it later begins new cursors, as after
/// `claviger restore`.
#[derive(clap::Args)]
#[command(
    after_long_help = r#"With --json: {"from", "to", "found", "tables"}. "found" is the number of rows that an interrupted copy had left; "tables" has {"name", "rows", "sha256"}, which both stores have in common."#
)]
pub struct Args {
    /// Where to: the path of a new file for SQLite, or postgres://USER@HOST:PORT/DATABASE with an empty database
    #[arg(long, value_name = "STORE")]
    to: String,
    /// Where from, in the same form; if not given, the configured store
    #[arg(long, value_name = "STORE")]
    from: Option<String>,
    /// The file with the password for the target in PostgreSQL
    #[arg(long, value_name = "FILE")]
    to_password_file: Option<PathBuf>,
    /// The file with the password for the source in PostgreSQL
    #[arg(long, value_name = "FILE", requires = "from")]
    from_password_file: Option<PathBuf>,
    /// The certificates of the authorities that the servers' certificates are from, in PEM, beside the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let connection = |password_file| Connection { password_file, ca: args.ca.as_deref() };
    let from = match &args.from {
        Some(name) => store_location::named(name, &connection(args.from_password_file.as_deref()))?,
        None => store_location::configured(config)?,
    };
    let to = store_location::named(&args.to, &connection(args.to_password_file.as_deref()))?;
    let progress = Progress::new(out);
    let show = |at: CopyProgress| progress.show(&at.to_string());
    let copied = block_on(async { store::copy(&from, &to, show).await.map_err(failure) });
    drop(progress);
    let CopyReport { tables, found, .. } = copied?;
    if out.json {
        let hex = |bytes: [u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let tables = tables.iter();
        let tables: Vec<_> = tables
            .map(|table| json!({ "name": table.name, "rows": table.rows, "sha256": hex(table.sha256) }))
            .collect();
        return out
            .document(&json!({ "from": from.to_string(), "to": to.to_string(), "found": found, "tables": tables }));
    }
    if found > 0 {
        out.say(&format!("An interrupted copy had left {found} rows, and was completed."));
    }
    for table in &tables {
        out.line(&format!("{:<10} {}", table.name, table.rows))?;
    }
    let rows = tables.iter().map(|table| usize::try_from(table.rows).unwrap_or(usize::MAX)).sum();
    out.say(&format!("{} copied from {from} to {to}, and compared.", count(rows, "row")));
    out.say("Name the copy in [store] of the configuration, then start the agent. Start no agent on the source again.");
    Ok(())
}

fn failure(error: StoreError) -> Failure {
    match error.is_retryable() {
        true => {
            Failure::from(error).hint("once that is mended, run the same command again: it goes on where it stopped")
        }
        false => error.into(),
    }
}
