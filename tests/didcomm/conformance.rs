//! `docs/conformance.md` is complete: every test that it names exists, and every number that a test names is in it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_named_test_exists() {
    let table = read("docs/conformance.md");
    let names: Vec<(&str, &str)> =
        table.split('`').filter(|word| !word.contains(' ')).filter_map(|word| word.split_once("::")).collect();
    assert!(names.len() > 80, "{}", names.len());
    for (file, test) in names.into_iter().filter(|name| *name != ("file", "test")) {
        let path = match file.split_once('/') {
            Some((folder @ ("protocol" | "rotation"), file)) => format!("src/agent/{folder}/{file}.rs"),
            Some(("interop", file)) => format!("tests/interop/tests/daemon/{file}.rs"),
            _ => format!("tests/{file}.rs"),
        };
        assert!(read(&path).contains(&format!("fn {test}(")), "{file}::{test}");
    }
}

#[test]
fn every_line_has_a_row() {
    let table = read("docs/conformance.md");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split('|').map(str::trim).collect())
        .filter(|row: &Vec<_>| row.len() == 6)
        .collect();
    let number = |row: &Vec<&str>| row[1].split(' ').next().unwrap().parse::<u32>().ok();
    let numbered: BTreeSet<u32> = rows.iter().filter_map(number).collect();
    assert_eq!(numbered, (1..=106).chain([112, 113]).collect());
    for row in rows.iter().filter(|row| number(row).is_some()) {
        assert_eq!(row[3].is_empty(), row[4] == "later", "{row:?}");
    }
    // The numbers in comments of tests are in the table too.
    for path in rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")) {
        for line in fs::read_to_string(&path).unwrap().lines() {
            let Some((_, named)) = line.split_once("// Conformance ") else { continue };
            let named = named.split([':', ';']).next().unwrap().trim_end_matches('.');
            for number in named.split(", ").filter_map(|number| number.parse::<u32>().ok()) {
                // Higher numbers belong to features that do not exist yet.
                assert!(numbered.contains(&number) || number > 106, "{}: {line}", path.display());
            }
        }
    }
}

/// The files below a folder that end in `.rs`.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}
