//! The commands that are printed in docs/, to run them in tests.

use std::{fs, path::Path};

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// All shell commands of a page under `heading`, up to the next heading of any level, as one script.
#[track_caller]
pub fn commands(name: &str, heading: &str) -> String {
    let text = page(name);
    let section =
        text.split(&format!("\n{heading}\n")).nth(1).unwrap_or_else(|| panic!("{name} has no heading {heading}"));
    let section = section.split("\n#").next().unwrap();
    let blocks = section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let script: String = blocks.collect();
    assert!(!script.is_empty(), "{name}, {heading}: no commands");
    // The trap ends processes that the script has started.
    format!("set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n{script}")
}

/// The lines of the first block of Rust in a page, without indentation.
#[allow(dead_code, reason = "not every suite has Rust to compare")]
pub fn rust(name: &str) -> Vec<String> {
    let block = page(name).split("```rust\n").nth(1).unwrap().split("```").next().unwrap().to_owned();
    block.lines().map(|line| line.trim().to_owned()).collect()
}
