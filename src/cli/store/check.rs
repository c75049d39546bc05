//! `claviger store check`: looks for damage in the store.

use std::path::PathBuf;

use serde_json::json;

use claviger::agent::store;

use crate::cli::{
    config::Config,
    failure::Failure,
    output::{Out, Progress, count},
    runtime::block_on,
    store_location::{self, Connection},
};

/// Checks the store, and changes nothing. The agent may run meanwhile.
///
/// Reads all rows in one state of the store: the file (SQLite's integrity check), the sums that limits are compared with,
/// that no number or cursor will be given twice, and what must hold between rows. Content is encrypted, and is not looked at.
/// While the check runs, SQLite cannot shorten its log, so the log grows with what the agent writes.
///
/// Exit status 1: something is wrong.
#[derive(clap::Args)]
#[command(
    after_long_help = r#"With --json: {"store", "ok", "tables", "findings"}. "tables" has {"name", "rows"}, "findings" {"code", "message"}."#
)]
pub struct Args {
    /// The path of a file of SQLite, or postgres://USER@HOST:PORT/DATABASE; if not given, the configured store
    #[arg(value_name = "STORE")]
    store: Option<String>,
    /// The file with the password for PostgreSQL
    #[arg(long, value_name = "FILE", requires = "store")]
    password_file: Option<PathBuf>,
    /// The certificates of the authorities that the server's certificate is from, in PEM, beside the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let connection = Connection { password_file: args.password_file.as_deref(), ca: args.ca.as_deref() };
    let location = match &args.store {
        Some(name) => store_location::named(name, &connection)?,
        None => store_location::configured(config)?,
    };
    let progress = Progress::new(out);
    let show = |table: &str, rows: u64| progress.show(&format!("Checking {table}: {rows} rows"));
    let checked = block_on(async { Ok(store::check(&location, show).await?) });
    drop(progress);
    let report = checked?;
    if out.json {
        let tables: Vec<_> = report.tables.iter().map(|(name, rows)| json!({ "name": name, "rows": rows })).collect();
        let findings = report.findings.iter().map(|it| json!({ "code": it.code, "message": it.text }));
        let findings: Vec<_> = findings.collect();
        let ok = findings.is_empty();
        out.document(&json!({ "store": location.to_string(), "ok": ok, "tables": tables, "findings": findings }))?;
    } else {
        for (name, rows) in &report.tables {
            out.line(&format!("{name:<10} {rows}"))?;
        }
        for finding in &report.findings {
            out.line(&format!("{}: {}", finding.code, finding.text))?;
        }
    }
    if report.findings.is_empty() {
        out.say(&format!("Nothing is wrong in the store {location}."));
        return Ok(());
    }
    let message = format!("the store {location} is not whole: {}", count(report.findings.len(), "finding"));
    Err(Failure::new("store-damaged", message).hint(
        "stop the agent, keep the store as it is, and restore a backup: `claviger restore`, or that of your PostgreSQL. If \
         only sums differ, `claviger store copy` makes a store that has the right ones",
    ))
}
