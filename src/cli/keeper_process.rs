//! Keepers as other processes: this program, started again, or a socket that a keeper listens on.

use std::{
    env, io,
    os::{fd::AsFd, unix::net::UnixStream},
    process::{Command, Stdio},
    sync::Arc,
};

use claviger::secrets::keeper::{Role, Supervisor};

use super::{config::Config, failure::Failure, service_log};

/// Starts the supervisor: the process that starts keepers with this configuration, for connections of a role.
pub fn start_supervisor(config: &Config, role: Role) -> Result<Arc<Supervisor>, Failure> {
    let mut command = this_program(config);
    command.args(["keeper", "--supervise", role_name(role)]).args(log_arguments(config));
    Supervisor::start(command).map_err(|error| Failure::io("the keepers' supervisor cannot be started", &error))
}

/// The command that starts a keeper of a token, with one connection on its standard input. `failed_keepers` is how many keepers
/// of the token in a row have ended because the token failed.
pub fn keeper_command(config: &Config, token: &str, role: Role, failed_keepers: u32) -> io::Result<Command> {
    let mut command = this_program(config);
    command.args(["keeper", "--token", token, "--connection", role_name(role)]);
    command.args(["--failed-keepers", &failed_keepers.to_string()]);
    // The variables that the token's module reads.
    command.envs(config.tokens.iter().filter(|it| it.name == token).flat_map(|it| &it.environment));
    write_to_log(&mut command, config)?;
    Ok(command)
}

/// The command that starts a keeper of a token, with a listening socket on its standard input. The keeper ends with
/// this process. `failed_keepers` is as for [`keeper_command`].
pub fn listening_keeper_command(config: &Config, token: &str, failed_keepers: u32) -> io::Result<Command> {
    let mut command = this_program(config);
    command.args(["keeper", "--token", token, "--listener", &std::process::id().to_string()]);
    command.args(["--failed-keepers", &failed_keepers.to_string()]);
    write_to_log(&mut command, config)?;
    Ok(command)
}

/// Has a keeper write its log in the format of this process's. With JSON, what the token's module writes is in the log
/// too.
fn write_to_log(command: &mut Command, config: &Config) -> io::Result<()> {
    command.args(log_arguments(config));
    if service_log::is_json() {
        let output = service_log::pipe_for_child()?;
        command.stdout(output.try_clone()?).stderr(output);
    }
    Ok(())
}

/// The option for the format of the log of this process.
fn log_arguments(config: &Config) -> impl Iterator<Item = &'static str> {
    config.log.into_iter().flat_map(|format| ["--log", format.name()])
}

/// Connects to a keeper that listens on a socket: `unix:PATH`.
pub fn connect(address: &str) -> io::Result<UnixStream> {
    let path = address.strip_prefix("unix:").unwrap_or(address);
    UnixStream::connect(path).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}

/// This program with the same configuration and the same global options. The new process writes to our stderr only.
fn this_program(config: &Config) -> Command {
    let program = env::current_exe().unwrap_or_else(|_| "claviger".into());
    let mut command = Command::new(program);
    command.args(&config.flags);
    if let Some(file) = &config.file {
        command.arg("--config").arg(file);
    }
    command.stdout(io::stderr().as_fd().try_clone_to_owned().map_or_else(|_| Stdio::null(), Stdio::from));
    command
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Agent => "agent",
        Role::Custodian => "custodian",
    }
}
