//! The environment variables that the tokens' modules read, such as SoftHSM's SOFTHSM2_CONF.
//!
//! A module reads its variables in the process that loads it. A keeper is started with the variables of its token. A
//! command that loads modules itself replaces its process by the same program with the variables set, because safe Rust
//! cannot change the environment of its own process. A process that loads no module never has the variables.

use std::{collections::BTreeMap, env, ffi::OsStr, os::unix::process::CommandExt};

use super::{
    config::{Config, displayed_name},
    failure::Failure,
    shell::quoted,
    this_program,
};

/// Returns if the variables of the tokens are set. Otherwise replaces this process by the same program with the variables.
/// Must be called before anything is read from stdin, and before the process has a second thread.
///
/// One process has one environment. If two tokens need different ones, this is that of the token called `needed`, or else
/// of the first, and the other token cannot be used.
pub fn ensure(config: &mut Config, needed: Option<&str>) -> Result<(), Failure> {
    let variables = variables(config, needed);
    let is_set =
        |(variable, value): (&String, &String)| env::var_os(variable).is_some_and(|is| is == OsStr::new(value));
    if variables.iter().all(is_set) {
        return Ok(());
    }
    let mut arguments = env::args_os();
    let mut command = this_program::command()?;
    command.arg0(arguments.next().unwrap_or_else(|| "claviger".into())).args(arguments).envs(variables);
    Err(Failure::io("this program cannot be started again with the tokens' variables", &command.exec()))
}

/// The variables of all tokens that can be used together.
fn variables(config: &mut Config, needed: Option<&str>) -> BTreeMap<String, String> {
    let file = displayed_name(config.file.as_deref());
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let (first, rest): (Vec<_>, Vec<_>) =
        config.tokens.iter_mut().partition(|token| needed.is_some_and(|name| token.name == name));
    for token in first.into_iter().chain(rest).filter(|token| token.fault().is_none()) {
        let differs = |(variable, value): &(&String, &String)| all.get(*variable).is_some_and(|other| other != *value);
        if let Some((variable, _)) = token.environment.iter().find(differs) {
            let message = format!(
                "{file}: `environment` of the token {:?}: another token has {variable} with another value, and one process \
                 has one environment",
                token.name
            );
            token.set_fault(Failure::usage("bad-config", message).hint(format!(
                "name the token: `claviger token list` shows one of the two, and `claviger token doctor {}` works; keepers \
                 have an environment each",
                quoted(&token.name)
            )));
            continue;
        }
        all.extend(token.environment.clone());
    }
    all
}
