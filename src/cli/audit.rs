//! `claviger audit`: checks the keepers' audit, and prints its last hash.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Take},
    path::{Path, PathBuf},
};

use claviger::secrets::keeper::{AuditFinding, AuditHash, AuditHead, AuditReport, AuditVerifier, audit_files};
use serde::Deserialize;

use super::{
    config::Config,
    failure::Failure,
    output::{Out, count},
};

/// The commands for the audit.
#[derive(clap::Subcommand)]
pub enum Command {
    Verify(VerifyArgs),
    Head(HeadArgs),
}

/// Finds lines of the audit that are missing, changed, torn or out of order
///
/// Each line names the hash of the line before it, also across the files of a rotation. Whoever can write the files can
/// write them all anew, or take lines away from the end. Only a hash that was kept elsewhere shows that: `claviger audit
/// head` prints it, and the keeper logs it every hour ("audit head").
///
/// Exit status 1: something is wrong. Lines before the chain begins, and torn lines after which a keeper went on, are
/// noted, and are no fault.
#[derive(clap::Args)]
pub struct VerifyArgs {
    /// The files, in any order; - is standard input. If not given, the configured audit file and those that were rotated
    /// from it
    #[arg(value_name = "FILES")]
    files: Vec<PathBuf>,
    /// A hash that must be in the files: one that `audit head` or the log showed earlier; may be repeated
    #[arg(long = "head", value_name = "SHA256")]
    heads: Vec<AuditHash>,
}

/// Prints the number and the hash of the last line of the audit
///
/// Keep it on another machine. `claviger audit verify --head` then shows whether the audit up to this line is still what
/// it was.
#[derive(clap::Args)]
pub struct HeadArgs {
    /// The file; if not given, the configured audit file
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Runs a command for the audit. `config` loads the configuration, which is needed only without a file.
pub fn run(command: &Command, config: &dyn Fn() -> Result<Config, Failure>, out: &Out) -> Result<(), Failure> {
    match command {
        Command::Verify(VerifyArgs { files, heads }) => {
            let files = if files.is_empty() { configured_files(&config()?, out)? } else { files.clone() };
            verify(files, heads, out)
        }
        Command::Head(HeadArgs { file }) => {
            let files = match file {
                Some(file) => vec![file.clone()],
                None => configured_files(&config()?, out)?,
            };
            print_head(files, out)
        }
    }
}

/// The configured audit file, and the files that were rotated from it and are not compressed.
fn configured_files(config: &Config, out: &Out) -> Result<Vec<PathBuf>, Failure> {
    let path = config.audit_path();
    let (compressed, files): (Vec<_>, Vec<_>) = audit_files(&path).into_iter().partition(|file| is_compressed(file));
    for file in compressed {
        out.say(&format!("{} is compressed, and is not read.", file.display()));
    }
    if files.is_empty() {
        return Err(Failure::new("io", format!("{}: there is no audit yet", path.display())));
    }
    Ok(files)
}

/// Whether a file begins like one of gzip, zstd, xz or bzip2.
fn is_compressed(file: &Path) -> bool {
    let mut start = [0; 4];
    let read = File::open(file).and_then(|mut file| file.read(&mut start));
    let beginnings: [&[u8]; 4] = [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd], &[0xfd, b'7', b'z', b'X'], b"BZh"];
    read.is_ok_and(|length| beginnings.iter().any(|beginning| start[..length].starts_with(beginning)))
}

fn verify(files: Vec<PathBuf>, heads: &[AuditHash], out: &Out) -> Result<(), Failure> {
    let report = read(files, heads)?;
    if out.json {
        out.document(&report)?;
    } else {
        print(&report, out)?;
    }
    if report.ok { Ok(()) } else { Err(broken(&report)) }
}

fn broken(report: &AuditReport) -> Failure {
    let faults = count(report.faults.len() + usize::try_from(report.more_faults).unwrap_or(usize::MAX / 2), "fault");
    Failure::new("audit-broken", format!("the audit is not whole: {faults}"))
        .hint("compare the files with a copy, and find out who can write them")
}

fn print_head(files: Vec<PathBuf>, out: &Out) -> Result<(), Failure> {
    match read(files, &[])?.head {
        Some(head) if out.json => out.document(&head),
        Some(AuditHead { seq, sha256 }) => out.line(&format!("{seq} {sha256}")),
        None => Err(Failure::new("audit-broken", "no line of the audit is in a chain")),
    }
}

/// Reads the files in the order in which they were written.
fn read(files: Vec<PathBuf>, heads: &[AuditHash]) -> Result<AuditReport, Failure> {
    let mut dated = Vec::new();
    for file in files {
        if !is_stdin(&file) && is_compressed(&file) {
            let name = file.display();
            let hint = format!("`zcat {name} | claviger audit verify -` reads it");
            return Err(Failure::usage("bad-arguments", format!("{name} is compressed")).hint(hint));
        }
        dated.push((first_time(&file)?, file));
    }
    dated.sort();
    let mut verifier = AuditVerifier::new(heads.iter().copied());
    for (_, file) in &dated {
        let name = file.display().to_string();
        let read = match is_stdin(file) {
            true => verifier.read(&name, &mut io::stdin().lock()),
            false => open(file).and_then(|mut input| verifier.read(&name, &mut input)),
        };
        read.map_err(|error| Failure::io(&name, &error))?;
    }
    Ok(verifier.finish())
}

/// The time of the first line that has one; empty if no line near the beginning has. Times in RFC 3339 (UTC) sort like
/// text.
fn first_time(file: &Path) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Line {
        time: String,
    }
    if is_stdin(file) {
        return Ok(String::new());
    }
    let failed = |error: io::Error| Failure::io(file.display(), &error);
    let mut start = open(file).map_err(failed)?.take(1 << 20);
    let mut line = Vec::new();
    while start.read_until(b'\n', &mut line).map_err(failed)? > 0 {
        if let Ok(Line { time }) = serde_json::from_slice(&line) {
            return Ok(time);
        }
        line.clear();
    }
    Ok(String::new())
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

/// Opens a file, and reads it up to its present end. A keeper may be writing, and holds the lock for each write.
fn open(file: &Path) -> io::Result<BufReader<Take<File>>> {
    let file = File::open(file)?;
    let mut length = u64::MAX;
    if file.metadata()?.is_file() {
        file.lock_shared()?;
        length = file.metadata()?.len();
        file.unlock()?;
    }
    Ok(BufReader::with_capacity(64 << 10, file.take(length)))
}

fn print(report: &AuditReport, out: &Out) -> Result<(), Failure> {
    for file in &report.files {
        out.line(&format!("{}: {}, {} in the chain", file.name, count_lines(file.lines), file.chained))?;
    }
    let line = |finding: &AuditFinding| {
        let place = match (&finding.file, finding.line) {
            (Some(file), Some(line)) => format!("{file}:{line}: "),
            _ => String::new(),
        };
        format!("{place}{}: {}", finding.kind, finding.text)
    };
    for finding in report.notes.iter().chain(&report.faults) {
        out.line(&line(finding))?;
    }
    if report.more_faults > 0 {
        out.line(&format!("{} more faults", report.more_faults))?;
    }
    if let (Some(begin), Some(head)) = (report.begin, report.head) {
        out.line(&format!(
            "The chain goes from line {} to line {}, whose hash is {}.",
            begin.seq, head.seq, head.sha256
        ))?;
        if begin.seq > 1 {
            out.say(&format!("Lines 1 to {} of the chain are not in these files.", begin.seq - 1));
        }
    }
    Ok(())
}

fn count_lines(lines: u64) -> String {
    if lines == 1 { "1 line".to_owned() } else { format!("{lines} lines") }
}
