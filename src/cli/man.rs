//! `claviger man`: the manual page, with a section for each command.

use std::io;

use clap_mangen::Man;

use super::{failure::Failure, output::Out};

pub fn run(command: &clap::Command, out: &Out) -> Result<(), Failure> {
    let mut page = Vec::new();
    write(command, &mut page).map_err(|error| Failure::io("the manual page", &error))?;
    out.line(String::from_utf8_lossy(&page).trim_end())
}

fn write(command: &clap::Command, page: &mut Vec<u8>) -> io::Result<()> {
    let mut command = command.clone();
    command.build();
    let man = Man::new(command.clone());
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    of_each(&command, page)
}

fn of_each(command: &clap::Command, page: &mut Vec<u8>) -> io::Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        if command.has_subcommands() {
            of_each(command, page)?;
            continue;
        }
        let name = command.get_bin_name().unwrap_or_default().to_uppercase();
        page.extend_from_slice(format!(".SH \"{name}\"\n").as_bytes());
        let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
        page.extend_from_slice(format!("{}\n", about.replace('\\', "\\\\")).as_bytes());
        let mut options = Vec::new();
        // Said once, at the top.
        let own = command.clone().mut_args(|arg| {
            let everywhere = arg.is_global_set() || arg.get_id() == "help";
            arg.hide(everywhere)
        });
        Man::new(own).render_options_section(&mut options)?;
        // Its own section here, not one of the page.
        let options = String::from_utf8_lossy(&options).into_owned();
        for line in options.lines().filter(|line| !line.starts_with(".SH")) {
            page.extend_from_slice(format!("{line}\n").as_bytes());
        }
    }
    Ok(())
}
