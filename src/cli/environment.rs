//! The variables that tokens' modules read, as the configuration has them: SoftHSM's SOFTHSM2_CONF.
//!
//! A module reads them in the process that loads it. Keepers are started with those of their token. Where a command loads
//! modules itself, the program starts itself again in its place, with the same words, as no safe Rust changes the environment
//! of its own process. A process that loads no module never has them.

use std::{collections::BTreeMap, env, ffi::OsStr, os::unix::process::CommandExt, process::Command};

use super::{
    config::{Config, name},
    failure::Failure,
};

/// Returns if those of all tokens are set. To be called before anything is read from stdin, and before a second thread.
pub fn enter(config: &Config) -> Result<(), Failure> {
    let wanted = wanted(config)?;
    if wanted.iter().all(|(variable, value)| env::var_os(variable).is_some_and(|is| is == OsStr::new(value))) {
        return Ok(());
    }
    let program = env::current_exe().map_err(|error| Failure::io("this program", &error))?;
    let mut words = env::args_os();
    let mut command = Command::new(program);
    command.arg0(words.next().unwrap_or_else(|| "claviger".into())).args(words).envs(wanted);
    Err(Failure::io("this program cannot be started again with the tokens' variables", &command.exec()))
}

/// Those of all tokens.
fn wanted(config: &Config) -> Result<BTreeMap<&str, &str>, Failure> {
    let mut all = BTreeMap::new();
    for token in &config.tokens {
        for (variable, value) in &token.environment {
            if all.insert(variable.as_str(), value.as_str()).is_some_and(|other| other != value) {
                let said = format!(
                    "{}: `environment` of the token {:?}: another token has {variable} with another value, and one process has \
                     one environment",
                    name(config.file.as_deref()),
                    token.name
                );
                return Err(Failure::words("bad-config", said)
                    .hint("`claviger token` wants a configuration for each of them; keepers have no such trouble"));
            }
        }
    }
    Ok(all)
}

/// Whether a variable may have this name: else it would never be found to be set.
pub fn is_variable(name: &str) -> bool {
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.bytes().all(of_name) && !name.starts_with(|first: char| first.is_ascii_digit())
}
