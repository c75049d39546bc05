//! The commands of docs/guide.md, to be run as they stand there.

use std::{fs, path::Path};

/// All commands under a heading, down to the next one of any level, as one script.
#[track_caller]
pub fn commands(heading: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide.md");
    let text = fs::read_to_string(file).unwrap();
    let section = text.split(&format!("\n{heading}\n")).nth(1).unwrap_or_else(|| panic!("no {heading}"));
    let section = section.split("\n#").next().unwrap();
    let blocks = section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let script: String = blocks.collect();
    assert!(!script.is_empty(), "{heading} has no commands");
    // What it has left running ends with it.
    format!("set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n{script}")
}

/// The lines of Rust in it.
#[allow(dead_code, reason = "not every suite has Rust to compare")]
pub fn rust() -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide.md");
    let text = fs::read_to_string(file).unwrap();
    let block = text.split("```rust\n").nth(1).unwrap().split("```").next().unwrap().to_owned();
    block.lines().map(|line| line.trim().to_owned()).collect()
}
