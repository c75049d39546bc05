//! Transcripts of the command line: tests/transcripts/*.txt.
//!
//! ```text
//! = token                     the folder has an initialised SoftHSM token named soft
//! # a comment; after an output, an empty line comes first
//! $ claviger --json did create
//! > more of the command
//! a line on stdout
//! ! a line on stderr
//! ? 2                         the exit status; 0 without this line
//! ```
//!
//! `[..]` matches anything within a line. A line `...` matches any number of lines. Empty lines are ignored. Shell
//! variables keep their values until the end of the transcript. `CLAVIGER_TRANSCRIPTS=update` writes the actual output
//! where it does not match.

use std::{fs, path::Path};

use crate::home::Home;

#[test]
fn each_command_matches_its_transcript() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts"));
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let update = std::env::var("CLAVIGER_TRANSCRIPTS").is_ok_and(|what| what == "update");
    let mut wrong = String::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "txt")) {
        let text = fs::read_to_string(file).unwrap();
        let with_token = text.lines().any(|line| line == "= token");
        let Some(home) = (if with_token { Home::with_token() } else { Some(Home::new()) }) else { continue };
        let actual = replay(&home, &text, &mut |command, expected, actual| {
            let file = file.file_name().unwrap().to_string_lossy();
            wrong += &format!(
                "\n{file}: {command}\n--- expected\n{}\n--- actual\n{}\n",
                expected.join("\n"),
                actual.join("\n")
            );
        });
        if update {
            fs::write(file, actual).unwrap();
        }
    }
    assert!(wrong.is_empty() || update, "{wrong}");
}

/// Called for each mismatch with the command, the expected lines and the actual lines.
type OnMismatch<'a> = dyn FnMut(&str, &[String], &[String]) + 'a;

/// Runs the commands of a transcript. Returns the transcript with the actual output where it does not match.
fn replay(home: &Home, text: &str, on_mismatch: &mut OnMismatch<'_>) -> String {
    let mut written = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        written += &format!("{line}\n");
        let Some(first) = line.strip_prefix("$ ") else { continue };
        let mut command = first.to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with("> ")) {
            written += &format!("{more}\n");
            command += &format!("\n{}", &more[2..]);
        }
        let mut expected = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.is_empty() && !line.starts_with("$ ")) {
            expected.push(line.to_owned());
        }
        let actual = run(home, &command);
        let matches = matches(&expected, &actual);
        if !matches {
            on_mismatch(&command, &expected, &actual);
        }
        for line in if matches { &expected } else { &actual } {
            written += &format!("{line}\n");
        }
    }
    written
}

/// Runs a command, and returns its output as lines of a transcript.
fn run(home: &Home, command: &str) -> Vec<String> {
    let script = format!("set -a; [ -e .env ] && . ./.env; {command}\nstatus=$?; export -p > .env; exit $status");
    let output = home.command("sh").args(["-c", &script]).output().unwrap();
    let lines = |bytes: &[u8], mark: &str| -> Vec<String> {
        let text = String::from_utf8_lossy(bytes).replace(&home.path().display().to_string(), "$PWD");
        text.lines().filter(|line| !line.is_empty()).map(|line| format!("{mark}{line}")).collect()
    };
    let mut actual = lines(&output.stdout, "");
    actual.extend(lines(&output.stderr, "! "));
    match output.status.code() {
        Some(0) => {}
        code => actual.push(format!("? {}", code.unwrap_or(-1))),
    }
    actual
}

fn matches(expected: &[String], actual: &[String]) -> bool {
    match (expected, actual) {
        ([], []) => true,
        ([first, rest @ ..], actual) if first == "..." => {
            (0..=actual.len()).any(|skipped| matches(rest, &actual[skipped..]))
        }
        ([first, expected @ ..], [line, actual @ ..]) => line_matches(first, line) && matches(expected, actual),
        _ => false,
    }
}

fn line_matches(expected: &str, line: &str) -> bool {
    match expected.split_once("[..]") {
        None => expected == line,
        Some((start, rest)) => line.strip_prefix(start).is_some_and(|line| {
            let ends = line.char_indices().map(|(index, _)| index).chain([line.len()]);
            ends.into_iter().any(|index| line_matches(rest, &line[index..]))
        }),
    }
}
