//! The table in docs/interop.md.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::operation::Operation;

/// What happened when one side read what the other wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Works,
    /// It works, but for this.
    But(String),
    /// Whose fault, and what was said.
    Fails(String),
    /// The sender does not have the operation.
    Absent,
}

/// Both ways of one operation.
pub struct Results {
    /// Claviger reads what the peer wrote.
    pub read: Outcome,
    /// The peer reads what Claviger wrote.
    pub written: Outcome,
}

pub struct Row {
    /// Package, language and version.
    pub peer: String,
    pub operation: Operation,
    pub results: Results,
}

const BEGIN: &str =
    "<!-- generated: CLAVIGER_UPDATE_DOCS=1 cargo test --manifest-path tests/interop/Cargo.toml --test peers -->";
const END: &str = "<!-- end of the generated part -->";
/// The columns of the summary.
const GROUPS: [&str; 8] = ["plain", "signed", "anoncrypt", "authcrypt", "nested", "did:key", "did:peer", "did:webvh"];

/// Compares the page with these rows, or writes them there if `CLAVIGER_UPDATE_DOCS` is set.
pub fn compare_or_write(rows: &[Row]) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/interop.md");
    let page = fs::read_to_string(&file).unwrap();
    let (mut written, mut rest) = (String::new(), &page[..]);
    for table in [summary(rows), details(rows)] {
        let parts = rest.split_once(BEGIN).and_then(|(head, rest)| Some((head, rest.split_once(END)?)));
        let Some((head, (_, tail))) = parts else {
            panic!("docs/interop.md has not twice the lines {BEGIN} and {END}")
        };
        write!(written, "{head}{BEGIN}\n\n{table}\n{END}").unwrap();
        rest = tail;
    }
    written += rest;
    if std::env::var_os("CLAVIGER_UPDATE_DOCS").is_some() {
        fs::write(file, written).unwrap();
        return;
    }
    let differs = page.lines().zip(written.lines()).find(|(present, generated)| present != generated);
    assert!(page == written, "docs/interop.md is out of date: {differs:#?}\n{BEGIN}");
}

/// A row for each peer.
fn summary(rows: &[Row]) -> String {
    let mut text = format!("| peer | version | {} |\n|---|---{}|\n", GROUPS.join(" | "), "|---".repeat(GROUPS.len()));
    for of_peer in rows.chunk_by(|a, b| a.peer == b.peer) {
        write!(text, "| {} |", of_peer[0].peer).unwrap();
        for group in GROUPS {
            let rows: Vec<_> = of_peer.iter().filter(|row| row.operation.group() == group).collect();
            let read = count(rows.iter().map(|row| &row.results.read));
            let written = count(rows.iter().map(|row| &row.results.written));
            let cell = match (read, written) {
                ((0, 0), (0, 0)) => String::new(),
                ((works, of), (does, out_of)) if works == of && does == out_of => "yes".to_owned(),
                ((0, _), (0, _)) => "no".to_owned(),
                ((works, of), (does, out_of)) => format!("in {works}/{of}, out {does}/{out_of}"),
            };
            write!(text, " {cell} |").unwrap();
        }
        text.push('\n');
    }
    text
}

/// How many work, and how many were tried.
fn count<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> (usize, usize) {
    let tried: Vec<_> = outcomes.filter(|outcome| **outcome != Outcome::Absent).collect();
    let works = tried.iter().filter(|outcome| matches!(outcome, Outcome::Works | Outcome::But(_))).count();
    (works, tried.len())
}

/// A row for each operation of each peer.
fn details(rows: &[Row]) -> String {
    let mut text = "| peer | version | operation | in | out |\n|---|---|---|---|---|\n".to_owned();
    for Row { peer, operation, results } in rows {
        writeln!(text, "| {peer} | {operation} | {} | {} |", cell(&results.read), cell(&results.written)).unwrap();
    }
    text
}

fn cell(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Works => "works".to_owned(),
        Outcome::But(note) => format!("works, but {}", clean(note)),
        Outcome::Fails(reason) => format!("**no**: {}", clean(reason)),
        Outcome::Absent => "–".to_owned(),
    }
}

/// Text of a stranger for a cell: without what would end the cell, differs in each run, or is too long for a table.
fn clean(text: &str) -> String {
    let words = text.split_whitespace().map(|word| {
        let word = word.replace('|', "/").replace('<', "&lt;").replace('*', "\\*");
        match ["did:peer:", "did:webvh:", "did:key:"].iter().find_map(|method| Some((word.find(method)?, method))) {
            Some((start, method)) => format!("{}{method}…", &word[..start]),
            None if word.chars().count() > 60 => "…".to_owned(),
            None => word,
        }
    });
    let text = words.collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
