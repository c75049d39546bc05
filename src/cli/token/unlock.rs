//! `claviger token unlock`: tries a token's PIN once more, after a refusal or after `token lock`.

use std::{
    env,
    fs::metadata,
    os::unix::fs::MetadataExt,
    path::{Path, absolute},
};

use serde_json::json;

use crate::cli::{
    config::{Config, TokenConfig},
    failure::Failure,
    output::Out,
    shell::quoted,
    tokens::{custodian::custodian_of, open::open_in_process},
};

/// Tries the PIN once more after the token refused it, or after `token lock`.
///
/// Be sure that the PIN is correct now: each wrong PIN brings the token nearer to being locked.
///
/// If a keeper listens for the token, the keeper tries its PIN: the [[token]] names its socket, or --keeper does. This user must
/// be among the `custodians` of that keeper. A keeper reads a systemd credential when it is started, so after a change of the
/// credential restart its unit: it tries the changed PIN by itself, and this command is not needed.
///
/// A YubiKey forgets that its PIN was verified some seconds after the last program that uses it has ended. With --keep, this
/// command goes on until it is interrupted, and the YubiKey needs no PIN for the commands in the meantime.
#[derive(clap::Args)]
pub struct Args {
    /// The token's name in the configuration; not needed if only one token is configured
    pub name: Option<String>,
    /// The socket of the keeper that listens for the token: unix:PATH
    #[arg(long, value_name = "unix:PATH", conflicts_with = "keep", requires = "name")]
    keeper: Option<String>,
    /// Keeps the PIN of a YubiKey verified until this command is interrupted (Ctrl-C). Every program of this machine can use
    /// the YubiKey's keys meanwhile
    #[arg(long)]
    keep: bool,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let configured = match (&args.keeper, &args.name) {
        // The keeper is asked about its own token: no configuration is needed.
        (Some(address), Some(name)) => &TokenConfig::at_keeper(name, address),
        (_, name) => config.token(name.as_deref())?,
    };
    let name = &configured.name;
    if args.keep {
        #[cfg(feature = "yubikey")]
        if configured.is_yubikey() {
            return super::piv::keep_unlocked(configured, config, out);
        }
        let message = "--keep is for YubiKeys: a PKCS#11 token is logged in to by each process for itself";
        return Err(Failure::usage("bad-arguments", message)
            .hint("`claviger keeper --listen` holds a token for the commands of others (docs/server.md)"));
    }
    configured.check()?;
    match &configured.keeper {
        Some(address) => {
            let unlocked = custodian_of(name, address)?.unlock();
            unlocked.map_err(|error| about_pin(Failure::from_token(name, &error), name))?;
        }
        None => {
            check_credential(configured, config)?;
            open_in_process(config, configured, true).map_err(|failure| about_pin(failure, name))?;
        }
    }
    out.say(&format!("The token {name:?} accepted its PIN."));
    if out.json { out.document(&json!({ "unlocked": name })) } else { Ok(()) }
}

/// The failure of this command has another hint than that of other commands, which names this command.
fn about_pin(failure: Failure, name: &str) -> Failure {
    match failure.code {
        "pin-refused" => failure.hint(format!(
            "`claviger token list` shows the state of the PIN of {name:?}; docs/operations.md says how to set a new one on each \
             device (\"A locked PIN\")"
        )),
        _ => failure,
    }
}

/// Checks that the PIN can be read here if it is a systemd credential, which only a unit with LoadCredential= has.
fn check_credential(token: &TokenConfig, config: &Config) -> Result<(), Failure> {
    let Some(credential) = token.credential().filter(|_| env::var_os("CREDENTIALS_DIRECTORY").is_none()) else {
        return Ok(());
    };
    let (name, unit) = (&token.name, quoted(format!("claviger-keeper@{}", token.name)));
    let message = format!(
        "the PIN of the token {name:?} is the systemd credential {credential:?}, which only its keeper's unit can read. If you \
         have changed it, restart that unit, which tries it once: `systemctl restart {unit}`"
    );
    let socket = format!("/run/claviger/keeper-{name}.sock");
    let unlock = match Path::new(&socket).exists() {
        true => format!("claviger token unlock {} --keeper {}", quoted(name), quoted(format!("unix:{socket}"))),
        false => {
            let owner = metadata(&config.state_dir).map_or_else(|_| "USER".to_owned(), |it| it.uid().to_string());
            // The command runs in another working folder.
            let whole = |path: &Path| absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
            let file = config.file.as_deref().map_or_else(|| "FILE".to_owned(), whole);
            format!(
                "systemd-run --pipe --wait --collect -p User={owner} -p {} -E {} claviger --config {} token unlock {}",
                quoted(format!("LoadCredential={credential}:FILE")),
                quoted(format!("STATE_DIRECTORY={}", whole(&config.state_dir))),
                quoted(file),
                quoted(name)
            )
        }
    };
    Err(Failure::not_ready("pin-needed", message)
        .hint(format!("if it has not changed, and is correct now: `{unlock}`")))
}
