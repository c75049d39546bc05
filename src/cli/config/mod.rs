//! The configuration: claviger.toml, each value of which the environment can override.

mod access;
mod daemon;
mod daemon_check;
mod file;
mod invalid;
mod keeper;
#[cfg(all(test, feature = "yubikey"))]
mod reference;
mod source;
mod store;
mod token;
mod token_table;
mod webhook;

use std::{
    fmt::{self, Display},
    path::{Path, PathBuf},
    time::Duration,
};

use claviger::{
    keys::PublicKey,
    secrets::{Policy, pkcs11::Profile},
};
use figment::value::Dict;

pub use daemon::{DaemonConfig, HttpSection, LogLevel, OpsSection, RELOADABLE};
pub use invalid::displayed_name;
pub use keeper::KeeperSection;
pub use store::StoreSection;
pub use token::TokenConfig;
pub use webhook::{WebhookSection, one_or_more};

use super::{failure::Failure, service_log::LogFormat};
use file::ConfigFile;
use invalid::{invalid_configuration, nearest};
use token::is_variable_name;
use token_table::TokenTable;

/// The configuration of this process. Paths are absolute, or relative to the working folder.
#[derive(Debug, Default)]
pub struct Config {
    /// The file that was read. `None` if no configuration file was found.
    pub file: Option<PathBuf>,
    /// The folder that relative paths of the file start from.
    pub base: PathBuf,
    /// The folder for everything that must outlive a command.
    pub state_dir: PathBuf,
    /// The tokens, in the order in which they are tried.
    pub tokens: Vec<TokenConfig>,
    /// The policies of single keys.
    pub keys: Vec<(PublicKey, Policy)>,
    /// Files and folders with DID documents.
    pub documents: Vec<PathBuf>,
    /// The settings of keepers.
    pub keeper: KeeperSection,
    /// The settings that only the daemon reads.
    pub daemon: DaemonConfig,
    /// The global command line options, for the processes that this one starts.
    pub flags: Vec<String>,
    /// The format of this process's log if it runs as a service, for the keepers that it starts.
    pub log: Option<LogFormat>,
    /// How long to wait for a YubiKey that is not plugged in (`--wait`).
    pub wait: Option<Duration>,
}

/// The address on which the application's API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiAddress {
    Unix(PathBuf),
    /// An address and port, not yet parsed.
    Tcp(String),
}

impl Display for ApiAddress {
    /// As `listen` of `[api]` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

impl Config {
    /// Reads the file that `--config` names, or the first file that is found, and the environment.
    pub fn load(named: Option<&Path>) -> Result<Self, Failure> {
        source::warn_of_misspelt_variables();
        Self::load_with_source(named).map(|(config, _)| config)
    }

    /// Reads the configuration, and returns beside it the merged file and environment without any defaults.
    pub fn load_with_source(named: Option<&Path>) -> Result<(Self, Dict), Failure> {
        let (path, text, figment) = source::read(named)?;
        let invalid = |error: figment::Error| invalid_configuration(path.as_deref(), &text, error);
        let file: ConfigFile = figment.extract().map_err(invalid)?;
        let source = figment.extract().map_err(invalid)?;
        Ok((Self::new(path, &text, file)?, source))
    }

    fn new(path: Option<PathBuf>, text: &str, file: ConfigFile) -> Result<Self, Failure> {
        // The parent of a bare file name is the empty path, which is the working folder.
        let base = path.as_deref().and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
        let keys = file.key.iter().map(|key| match PublicKey::from_multikey(&key.key) {
            Ok(public) => Ok((public, key.policy())),
            Err(_) => {
                let message =
                    format!("{}: {:?} in [[key]] is not a multikey", displayed_name(path.as_deref()), key.key);
                Err(Failure::usage("bad-config", message)
                    .hint("`claviger key list --json` shows the multikey of each key"))
            }
        });
        let tokens = file.token.into_iter().enumerate();
        let tokens = tokens.map(|(index, table)| token(index, table, path.as_deref(), text));
        let mut config = Self {
            tokens: tokens.collect::<Result<_, _>>()?,
            state_dir: file.state_dir.map_or_else(source::default_state_dir, |folder| base.join(folder)),
            documents: file.did.documents.iter().map(|path| base.join(path)).collect(),
            keys: keys.collect::<Result<_, _>>()?,
            keeper: file.keeper,
            daemon: DaemonConfig {
                agent: file.agent,
                http: file.http,
                net: file.net,
                mediation: file.mediation,
                outbox: file.outbox,
                store: file.store,
                api: file.api,
                ops: file.ops,
            },
            flags: Vec::new(),
            log: None,
            wait: None,
            file: path,
            base,
        };
        config.check_tokens();
        config.keeper.check()?;
        Ok(config)
    }

    /// Finds what is wrong with single tokens. The others can be used.
    fn check_tokens(&mut self) {
        let faults: Vec<_> = (0..self.tokens.len()).map(|index| self.token_fault(index).err()).collect();
        for (token, fault) in self.tokens.iter_mut().zip(faults) {
            fault.into_iter().for_each(|fault| token.set_fault(fault));
        }
    }

    fn token_fault(&self, index: usize) -> Result<(), Failure> {
        let (file, token) = (displayed_name(self.file.as_deref()), &self.tokens[index]);
        token.check()?;
        if token.name.is_empty() {
            let message = format!("{file}: the name of a [[token]] is empty");
            return Err(Failure::usage("bad-config", message).hint("give each token a name of its own"));
        }
        if self.tokens.iter().filter(|other| other.name == token.name).count() > 1 {
            let message = format!("{file}: two [[token]] have the name {:?}", token.name);
            return Err(Failure::usage("bad-config", message).hint("give each token a name of its own"));
        }
        if token.uri.is_empty() == token.keeper.is_none() {
            let message = format!("{file}: the token {:?} needs either `uri` or `keeper`", token.name);
            return Err(Failure::usage("bad-config", message).hint(
                "`uri` names the token by its module; `keeper` names the socket of a process that holds the token",
            ));
        }
        let is_invalid = |(variable, value): &(&String, &String)| !is_variable_name(variable) || value.contains('\0');
        if let Some((variable, _)) = token.environment.iter().find(is_invalid) {
            let message = format!(
                "{file}: `environment` of the token {:?}: {variable:?} has an invalid name or value",
                token.name
            );
            return Err(Failure::usage("bad-config", message)
                .hint("a name has letters, digits and underscores; a value has no NUL"));
        }
        token.profile.as_ref().map_or(Ok(()), |profile| self.check_profile(token, profile))
    }

    /// Warns of tokens that cannot be used because their tables are wrong. If none can be used, the command says so.
    pub fn warn_of_faulty_tokens(&self) {
        if self.tokens.iter().all(|token| token.fault().is_some()) {
            return;
        }
        for token in &self.tokens {
            if let Some(fault) = token.fault() {
                tracing::warn!(token = token.name, reason = fault.message, "token cannot be used");
            }
        }
    }

    fn check_profile(&self, token: &TokenConfig, profile: &str) -> Result<(), Failure> {
        let names = Profile::names(Some(&self.base)).map_err(|error| Failure::from_token(&token.name, &error))?;
        if names.iter().any(|name| name == profile) {
            return Ok(());
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let file = displayed_name(self.file.as_deref());
        let message = format!("{file}: the token {:?}: unknown profile {profile:?}", token.name);
        Err(Failure::usage("bad-config", message).hint(match nearest(profile, &names) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("the profiles are: {}", names.join(", ")),
        }))
    }

    /// Whether this process opens tokens itself, without a keeper. Logs a warning if so.
    pub fn in_process(&self) -> bool {
        if self.keeper.in_process {
            tracing::warn!(
                "in_process = true: the PKCS#11 module, the PIN and a software token's keys are in this process's \
                 memory"
            );
        }
        self.keeper.in_process
    }

    /// The path of the audit file.
    pub fn audit_path(&self) -> PathBuf {
        self.keeper.audit.as_ref().map_or_else(|| self.state_dir.join("audit.jsonl"), |path| self.base.join(path))
    }

    /// The folder that the daemon may write to.
    pub fn agent_dir(&self) -> PathBuf {
        self.state_dir.join("agent")
    }

    /// The path of the database in SQLite.
    pub fn store_path(&self) -> PathBuf {
        self.daemon.store.path.as_ref().map_or_else(|| self.agent_dir().join("agent.db"), |path| self.base.join(path))
    }

    /// The address on which the application's API listens.
    pub fn api_address(&self) -> ApiAddress {
        match self.daemon.api.listen.as_deref() {
            None => ApiAddress::Unix(self.state_dir.join("api.sock")),
            Some(listen) => match listen.strip_prefix("unix:") {
                Some(path) => ApiAddress::Unix(self.base.join(path)),
                None => ApiAddress::Tcp(listen.to_owned()),
            },
        }
    }

    /// The token with this name; without a name, the only token.
    pub fn token(&self, name: Option<&str>) -> Result<&TokenConfig, Failure> {
        let names: Vec<&str> = self.tokens.iter().map(|token| token.name.as_str()).collect();
        let failure = match (name, self.tokens.as_slice()) {
            (_, []) => return Err(self.no_token()),
            (None, [only]) => return Ok(only),
            (None, _) => {
                return Err(Failure::usage("token-unnamed", "several tokens are configured: name one")
                    .hint(format!("the tokens are: {}", names.join(", "))));
            }
            (Some(name), tokens) => match tokens.iter().find(|token| token.name == name) {
                Some(token) => return Ok(token),
                None => Failure::usage("token-unknown", format!("no [[token]] has the name {name:?}")),
            },
        };
        Err(failure.hint(nearest(name.unwrap_or_default(), &names).map_or_else(
            || format!("the tokens are: {}", names.join(", ")),
            |near| format!("did you mean {near:?}? The tokens are: {}", names.join(", ")),
        )))
    }

    /// The failure of a command that needs a token when none is configured.
    pub fn no_token(&self) -> Failure {
        let message = match &self.file {
            Some(file) => format!("{} names no [[token]]", file.display()),
            None => "no token is configured: there is no configuration file".to_owned(),
        };
        Failure::usage("no-token", message).hint(
            "`claviger token list` shows the tokens of this machine, with lines to paste into claviger.toml; \
             `claviger init` makes a configuration",
        )
    }
}

/// The token of a table. A table whose name is known may have another fault: then only that token cannot be used.
fn token(
    index: usize,
    table: TokenTable<TokenConfig>,
    path: Option<&Path>,
    text: &str,
) -> Result<TokenConfig, Failure> {
    match (table.content, table.name) {
        (Ok(token), _) => Ok(token),
        (Err(mut error), name) => {
            error.path.splice(0..0, ["token".to_owned(), index.to_string()]);
            let fault = invalid_configuration(path, text, *error);
            name.map(|name| TokenConfig::faulty(name, fault.clone())).ok_or(fault)
        }
    }
}
