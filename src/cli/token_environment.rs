//! The environment variables that the tokens' modules read, such as SoftHSM's SOFTHSM2_CONF.
//!
//! A module reads its variables in the process that loads it. A keeper is started with the variables of its token. A
//! command that loads modules itself replaces its process by the same program with the variables set, because safe Rust
//! cannot change the environment of its own process. A process that loads no module never has the variables.

use std::{collections::BTreeMap, env, ffi::OsStr, os::unix::process::CommandExt};

use super::{
    config::{Config, displayed_name},
    failure::Failure,
    this_program,
};

/// Returns if the variables of all tokens are set. Otherwise replaces this process by the same program with the
/// variables. Must be called before anything is read from stdin, and before the process has a second thread.
pub fn ensure(config: &Config) -> Result<(), Failure> {
    let variables = variables(config)?;
    let is_set = |(variable, value): (&&str, &&str)| env::var_os(variable).is_some_and(|is| is == OsStr::new(value));
    if variables.iter().all(is_set) {
        return Ok(());
    }
    let mut arguments = env::args_os();
    let mut command = this_program::command()?;
    command.arg0(arguments.next().unwrap_or_else(|| "claviger".into())).args(arguments).envs(variables);
    Err(Failure::io("this program cannot be started again with the tokens' variables", &command.exec()))
}

/// The variables of all tokens.
fn variables(config: &Config) -> Result<BTreeMap<&str, &str>, Failure> {
    let mut all = BTreeMap::new();
    for token in &config.tokens {
        for (variable, value) in &token.environment {
            if all.insert(variable.as_str(), value.as_str()).is_some_and(|other| other != value) {
                let message = format!(
                    "{}: `environment` of the token {:?}: another token has {variable} with another value, and one \
                     process has one environment",
                    displayed_name(config.file.as_deref()),
                    token.name
                );
                return Err(Failure::usage("bad-config", message)
                    .hint("`claviger token` needs a configuration for each of them; keepers do not"));
            }
        }
    }
    Ok(all)
}
