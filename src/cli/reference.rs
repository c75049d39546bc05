//! docs/cli.md, generated from the command line. This module is compiled for tests only.

use std::{env, fs, path::Path};

use clap::{Arg, Command, CommandFactory};

use super::{
    Cli,
    man::{leaf_commands, paragraphs},
};

/// The line before the generated part of a page.
const MARKER: &str = "<!-- generated: CLAVIGER_UPDATE_DOCS=1 cargo test --all-features --bin claviger -->";

#[test]
fn the_commands_are_documented() {
    let root = Cli::command();
    let mut page = "## Options of every command\n\n".to_owned();
    for arg in root.get_arguments().filter(|arg| arg.is_global_set()) {
        page += &argument(arg);
    }
    for command in leaf_commands(&root) {
        page += &section(command);
    }
    check_generated("docs/cli.md", &page);
}

/// Compares the part of a page after [`MARKER`] with the generated text. With CLAVIGER_UPDATE_DOCS set, writes the text
/// there.
pub fn check_generated(path: &str, generated: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let page = fs::read_to_string(&file).unwrap();
    let (head, present) = page.split_once(MARKER).unwrap_or_else(|| panic!("{path} has no line {MARKER}"));
    if env::var_os("CLAVIGER_UPDATE_DOCS").is_some() {
        fs::write(file, format!("{head}{MARKER}\n\n{}\n", generated.trim())).unwrap();
        return;
    }
    let differs =
        present.trim().lines().zip(generated.trim().lines()).find(|(present, generated)| present != generated);
    assert!(present.trim() == generated.trim(), "{path} is out of date: {differs:#?}\n{MARKER}");
}

fn section(mut command: Command) -> String {
    let name = command.get_bin_name().unwrap_or_default().to_owned();
    let mut text = format!("\n## {name}\n\n");
    for paragraph in paragraphs(&command) {
        // clap removes the full stop of a summary.
        let stop = if paragraph.ends_with(['.', ')']) { "" } else { "." };
        text += &format!("{}{stop}\n\n", markdown(&paragraph));
    }
    let usage = command.render_usage().to_string();
    text += &format!("```text\n{}\n```\n\n", usage.trim_start_matches("Usage: ").trim());
    let is_shown = |arg: &&Arg| !arg.is_hide_set();
    for arg in command.get_positionals().filter(is_shown).chain(command.get_opts().filter(is_shown)) {
        text += &argument(arg);
    }
    for arg in command.get_arguments().filter(is_shown).filter(|arg| !arg.is_positional() && !takes_value(arg)) {
        text += &argument(arg);
    }
    text.trim_end().to_owned() + "\n"
}

/// The list item of an argument or an option.
fn argument(arg: &Arg) -> String {
    let value = arg.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
    let long = arg.get_long().into_iter().chain(arg.get_visible_aliases().unwrap_or_default());
    let long = long.map(|long| format!("--{long}"));
    let short = arg.get_short().map(|short| format!("-{short}"));
    let flags: Vec<String> = short.into_iter().chain(long).collect();
    let name = match (flags.is_empty(), takes_value(arg)) {
        (true, _) => format!("`{value}`"),
        (false, true) => format!("`{} {value}`", flags.join("`, `")),
        (false, false) => format!("`{}`", flags.join("`, `")),
    };
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut item = format!("- {name}: {}", markdown(&help.replace('\n', " ")));
    let values = arg.get_possible_values();
    let values: Vec<_> = values.iter().filter(|value| takes_value(arg) && !value.is_hide_set()).collect();
    for value in &values {
        let help = value.get_help().map(|help| format!(": {}", markdown(&help.to_string()))).unwrap_or_default();
        item += &format!("\n  - `{}`{help}", value.get_name());
    }
    let defaults: Vec<String> = arg.get_default_values().iter().map(|it| it.to_string_lossy().into_owned()).collect();
    if takes_value(arg) && !defaults.is_empty() {
        let separator = if values.is_empty() { ". " } else { "\n  - " };
        item += &format!("{separator}Default: `{}`", defaults.join(" "));
    }
    item + "\n"
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// Help text as Markdown: options and JSON become code, pages become links.
pub fn markdown(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(['{', '`']).or_else(|| rest.find("--")).into_iter().chain(rest.find("--")).min() {
        let code = &rest[start..];
        let length = match code.as_bytes()[0] {
            b'{' => balanced(code),
            b'`' => code[1..].find('`').map_or(code.len(), |end| end + 2),
            _ => code.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-').unwrap_or(code.len()),
        };
        let (code, after) = code.split_at(length);
        result += &rest[..start];
        result += &if code.starts_with('`') { code.to_owned() } else { format!("`{code}`") };
        rest = after;
    }
    link_pages(&(result + rest))
}

/// Turns `docs/NAME.md` into a link.
fn link_pages(text: &str) -> String {
    let mut parts = text.split("docs/");
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(".md") {
            Some((name, after)) => result += &format!("[{name}.md]({name}.md){after}"),
            None => result += &format!("docs/{part}"),
        }
    }
    result
}

/// The length of the JSON object at the start.
fn balanced(text: &str) -> usize {
    let mut depth = 0;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}
