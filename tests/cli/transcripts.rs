//! Transcripts of the command line: tests/transcripts/*.txt.
//!
//! ```text
//! = token                     the folder has an initialised SoftHSM token named soft
//! # a comment
//! $ claviger --json did create
//! > more of the command
//! a line on stdout
//! ! a line on stderr
//! ? 2                         the exit status; 0 if it is not said
//! ```
//!
//! `[..]` stands for anything within a line, a line `...` for any number of lines. Empty lines do not count. Variables of
//! the shell live as long as the transcript. `CLAVIGER_TRANSCRIPTS=update` writes what came out, where it did not match.

use std::{fs, path::Path};

use crate::home::Home;

#[test]
fn each_command_says_what_its_transcript_says() {
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
        let came = replay(&home, &text, &mut |command, wanted, came| {
            let file = file.file_name().unwrap().to_string_lossy();
            wrong +=
                &format!("\n{file}: {command}\n--- wanted\n{}\n--- came\n{}\n", wanted.join("\n"), came.join("\n"));
        });
        if update {
            fs::write(file, came).unwrap();
        }
    }
    assert!(wrong.is_empty() || update, "{wrong}");
}

/// Told of a command, what was wanted and what came.
type Differs<'a> = dyn FnMut(&str, &[String], &[String]) + 'a;

/// Runs the commands of a transcript, and writes it again with what came out.
fn replay(home: &Home, text: &str, differs: &mut Differs<'_>) -> String {
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
        let mut wanted = Vec::new();
        while let Some(line) =
            lines.next_if(|line| !line.is_empty() && !line.starts_with("$ ") && !line.starts_with("# "))
        {
            wanted.push(line.to_owned());
        }
        let came = run(home, &command);
        let fits = fits(&wanted, &came);
        if !fits {
            differs(&command, &wanted, &came);
        }
        for line in if fits { &wanted } else { &came } {
            written += &format!("{line}\n");
        }
    }
    written
}

/// What a command prints, as a transcript has it.
fn run(home: &Home, command: &str) -> Vec<String> {
    let script = format!("set -a; [ -e .env ] && . ./.env; {command}\nstatus=$?; export -p > .env; exit $status");
    let output = home.command("sh").args(["-c", &script]).output().unwrap();
    let lines = |bytes: &[u8], mark: &str| -> Vec<String> {
        let text = String::from_utf8_lossy(bytes).replace(&home.path().display().to_string(), "$PWD");
        text.lines().filter(|line| !line.is_empty()).map(|line| format!("{mark}{line}")).collect()
    };
    let mut came = lines(&output.stdout, "");
    came.extend(lines(&output.stderr, "! "));
    match output.status.code() {
        Some(0) => {}
        code => came.push(format!("? {}", code.unwrap_or(-1))),
    }
    came
}

fn fits(wanted: &[String], came: &[String]) -> bool {
    match (wanted, came) {
        ([], []) => true,
        ([first, rest @ ..], came) if first == "..." => (0..=came.len()).any(|skipped| fits(rest, &came[skipped..])),
        ([first, wanted @ ..], [line, came @ ..]) => line_fits(first, line) && fits(wanted, came),
        _ => false,
    }
}

fn line_fits(wanted: &str, line: &str) -> bool {
    match wanted.split_once("[..]") {
        None => wanted == line,
        Some((start, rest)) => line.strip_prefix(start).is_some_and(|line| {
            let ends = line.char_indices().map(|(index, _)| index).chain([line.len()]);
            ends.into_iter().any(|index| line_fits(rest, &line[index..]))
        }),
    }
}
