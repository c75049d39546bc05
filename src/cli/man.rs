//! `claviger man`: the manual page, with a section for each command.

use std::io;

use clap::Command;
use clap_mangen::Man;
use serde_json::json;

use super::{failure::Failure, output::Out};

pub fn run(root: &Command, out: &Out) -> Result<(), Failure> {
    let mut page = Vec::new();
    write(root, &mut page).map_err(|error| Failure::io("the manual page", &error))?;
    let page = String::from_utf8_lossy(&page);
    if out.json { out.document(&json!({ "man": page })) } else { out.line(page.trim_end()) }
}

fn write(root: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let man = Man::new(built(root));
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    for command in leaf_commands(root) {
        let name = command.get_bin_name().unwrap_or_default().to_uppercase();
        page.extend_from_slice(format!(".SH \"{name}\"\n").as_bytes());
        for paragraph in paragraphs(&command) {
            page.extend_from_slice(format!("{}\n\n", paragraph.replace('\\', "\\\\")).as_bytes());
        }
        let mut options = Vec::new();
        Man::new(command).render_options_section(&mut options)?;
        // The options belong to the command's section, so they need no heading of their own.
        let options = String::from_utf8_lossy(&options).into_owned();
        for line in options.lines().filter(|line| !line.starts_with(".SH")) {
            page.extend_from_slice(format!("{line}\n").as_bytes());
        }
    }
    Ok(())
}

/// The commands that need no subcommand, in the order of the help. The options that every command has are hidden.
pub fn leaf_commands(root: &Command) -> Vec<Command> {
    let mut leaves = Vec::new();
    collect_leaves(&built(root), &mut leaves);
    leaves
}

fn collect_leaves(command: &Command, leaves: &mut Vec<Command>) {
    // `help` repeats what the sections say.
    for command in command.get_subcommands().filter(|it| !it.is_hide_set() && it.get_name() != "help") {
        if !command.has_subcommands() || !command.is_subcommand_required_set() {
            leaves.push(command.clone().mut_args(|arg| {
                let is_hidden = arg.is_hide_set() || arg.is_global_set() || arg.get_id() == "help";
                arg.hide(is_hidden)
            }));
        }
        collect_leaves(command, leaves);
    }
}

/// The description of a command: its long help, and the text after its options.
pub fn paragraphs(command: &Command) -> Vec<String> {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let after = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let all = format!("{about}\n\n{after}");
    all.split("\n\n").map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

/// The command with the names and global options that clap adds when it parses.
fn built(root: &Command) -> Command {
    let mut root = root.clone();
    root.build();
    root
}
