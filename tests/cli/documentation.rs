//! docs/cli.md and the example configuration agree with the program.

use std::{collections::BTreeSet, fs, path::Path};

use crate::home::Home;

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The text of all files in a folder.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { sources(&path) } else { fs::read_to_string(path).unwrap() }).collect()
}

/// The first string literal after each occurrence of `before`, if it looks like a code.
fn codes<'a>(text: &'a str, before: &str) -> impl Iterator<Item = &'a str> {
    text.split(before).skip(1).filter_map(|rest| {
        let code = rest.trim_start().strip_prefix('"')?.split('"').next()?;
        let of_code = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (code.starts_with(|first: char| first.is_ascii_lowercase()) && code.bytes().all(of_code)).then_some(code)
    })
}

#[test]
fn exactly_the_error_codes_are_documented() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli"));
    let failure = read("src/cli/failure.rs");
    let mut made: BTreeSet<&str> = BTreeSet::new();
    for before in ["Failure::new(", "Failure::usage(", "Failure::not_ready("] {
        made.extend(codes(&sources, before));
    }
    for before in ["Self::new(", "Self::usage(", "Self::not_ready(", " new(", "=> "] {
        made.extend(codes(&failure, before));
    }
    for page in ["docs/cli.md", "docs/troubleshooting.md"] {
        let documentation = read(page);
        let table = documentation.split("| code | status |").nth(1).unwrap().split("\n\n").next().unwrap();
        let documented: BTreeSet<&str> =
            table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        assert_eq!(made, documented, "{page}");
    }
}

#[test]
fn exactly_the_findings_are_documented() {
    let findings = read("src/cli/token/doctor/findings.rs");
    let mut made: BTreeSet<&str> = BTreeSet::new();
    for before in [".add(", " add_for_keys(", "=> (", "true => (", "=> "] {
        made.extend(codes(&findings, before));
    }
    let yubikey = read("src/cli/token/doctor/card/mod.rs");
    made.extend(codes(&yubikey, ".add("));
    let documentation = read("docs/cli.md");
    let table = documentation.split("| finding | level |").nth(1).unwrap().split("\n\n").next().unwrap();
    let documented: BTreeSet<&str> =
        table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(made, documented);
}

#[test]
fn each_documented_command_is_in_the_manual_and_has_help() {
    let documentation = read("docs/cli.md");
    let home = Home::new();
    let manual = home.run("man").success().to_owned();
    // A unit test of the program compares these sections with the command line.
    let commands: Vec<&str> = documentation.lines().filter_map(|line| line.strip_prefix("## claviger ")).collect();
    assert!(commands.len() > 30, "{commands:?}");
    for command in commands {
        assert!(manual.contains(&format!("\"CLAVIGER {}\"", command.to_uppercase())), "{command}");
        assert!(home.run(&format!("{command} --help")).success().contains("Usage:"), "{command}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(home.run(&format!("completions {shell}")).success().contains("claviger"), "{shell}");
    }
}

#[test]
fn the_example_configuration_is_valid() {
    let home = Home::new();
    home.write("claviger.toml", &read("examples/claviger.toml"));
    home.run("did resolve did:key:z6LSeu9HkTHSfLLeUs2nnzUSNedgDUevfNQgQjQC23ZCit6F").success();
    // The configuration is valid, so the command looks for the token.
    let code =
        home.run("--json key list").error(if Path::new("/usr/lib/softhsm/libsofthsm2.so").is_file() { 3 } else { 2 });
    assert!(["token-absent", "token-misconfigured"].contains(&code.as_str()), "{code}");
}
