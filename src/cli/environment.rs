//! The variables that tokens' modules read, as the configuration has them: SoftHSM's SOFTHSM2_CONF.
//!
//! A module reads them in the process that loads it, and no safe Rust changes the environment of its own process. So the
//! program starts itself again in its place, with the same words; who it starts has them then as well.

use std::{collections::BTreeMap, env, ffi::OsStr, os::unix::process::CommandExt, process::Command};

use super::{
    config::{Config, name},
    failure::Failure,
};

/// Returns if all of them are set. To be called before anything is read from stdin, and before a second thread.
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
            let place = format!("{}: `environment` of the token {:?}", name(config.file.as_deref()), token.name);
            if !is_variable(variable) {
                let said = format!("{place}: {variable:?} is no variable's name");
                return Err(Failure::words("bad-config", said));
            }
            if all.insert(variable.as_str(), value.as_str()).is_some_and(|other| other != value) {
                let said = format!("{place}: another token has {variable} with another value");
                return Err(Failure::words("bad-config", said).hint(
                    "one program has one environment: give both the same value, or one of them a keeper of its own",
                ));
            }
        }
    }
    Ok(all)
}

/// Else it would never be found to be set.
fn is_variable(name: &str) -> bool {
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.bytes().all(of_name) && !name.starts_with(|first: char| first.is_ascii_digit())
}
