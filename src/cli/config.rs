//! The configuration: claviger.toml, each value of which the environment can override.

use std::{
    collections::BTreeMap,
    env,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use claviger::secrets::keeper::KeeperOptions;
use figment::{
    Figment,
    error::Kind,
    providers::{Env, Format, Toml},
    value::{Dict, Value},
};
use serde::Deserialize;

use claviger::{
    keys::PublicKey,
    secrets::{Allow, Custody, Policy, pkcs11::Profile},
};

use super::{
    environment::is_variable,
    failure::Failure,
    serve::config::{
        AgentSection, ApiSection, DaemonConfig, HttpSection, MediationSection, NetSection, OpsSection, StoreSection,
    },
};

/// What claviger.toml says. Paths are absolute, or relative to the working folder as it is.
#[derive(Debug, Default)]
pub struct Config {
    /// Where it was read from; none if there is no such file.
    pub file: Option<PathBuf>,
    /// What its relative paths start from.
    pub base: PathBuf,
    /// Where what must outlive a command is kept.
    pub state_dir: PathBuf,
    /// The tokens, in the order in which they are asked.
    pub tokens: Vec<TokenConfig>,
    /// The rules of single keys.
    pub keys: Vec<(PublicKey, Policy)>,
    /// Files and folders with DID documents.
    pub documents: Vec<PathBuf>,
    /// How keepers keep.
    pub keeper: KeeperConfig,
    /// What only the daemon reads.
    pub daemon: DaemonConfig,
    /// The arguments that stand before every command, for the processes that this one starts.
    pub flags: Vec<String>,
    /// How long is waited for a YubiKey that is not plugged in.
    pub wait: Option<Duration>,
}

/// A `[[token]]`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// Its name in commands and errors.
    pub name: String,
    /// RFC 7512; none if its keeper is a process of its own.
    #[serde(default)]
    pub uri: String,
    /// Where the keeper listens that holds it: unix:PATH.
    pub keeper: Option<String>,
    /// What is peculiar to the device: a name of hsm-config/.
    pub profile: Option<String>,
    minimum_custody: Option<Custody>,
    allow: Option<Vec<Allowed>>,
    /// Keys that may be used though they could leave the token, by label or multikey.
    #[serde(default)]
    pub allow_unprotected: Vec<String>,
    /// How many operations may be under way at once.
    pub sessions: Option<usize>,
    /// Variables that its module reads, as SOFTHSM2_CONF: for the processes that load it.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

/// Its URI may have a PIN in it.
impl std::fmt::Debug for TokenConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenConfig").field("name", &self.name).finish_non_exhaustive()
    }
}

impl TokenConfig {
    /// A token that no configuration names.
    pub fn of_uri(uri: &str) -> Self {
        Self {
            name: "token".to_owned(),
            uri: uri.to_owned(),
            keeper: None,
            profile: None,
            minimum_custody: None,
            allow: None,
            allow_unprotected: Vec::new(),
            sessions: None,
            environment: BTreeMap::new(),
        }
    }

    /// The rules for its keys.
    pub fn policy(&self) -> Policy {
        policy(&self.allow, self.minimum_custody)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    state_dir: Option<PathBuf>,
    #[serde(default)]
    token: Vec<TokenConfig>,
    #[serde(default)]
    key: Vec<KeyConfig>,
    #[serde(default)]
    did: DidConfig,
    #[serde(default)]
    keeper: KeeperConfig,
    #[serde(default)]
    agent: AgentSection,
    #[serde(default)]
    http: HttpSection,
    #[serde(default)]
    net: NetSection,
    #[serde(default)]
    mediation: MediationSection,
    #[serde(default)]
    store: StoreSection,
    #[serde(default)]
    api: ApiSection,
    #[serde(default)]
    ops: OpsSection,
}

/// A `[[key]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyConfig {
    /// Its multikey.
    key: String,
    minimum_custody: Option<Custody>,
    allow: Option<Vec<Allowed>>,
}

/// The `[did]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DidConfig {
    #[serde(default)]
    documents: Vec<PathBuf>,
}

/// The `[keeper]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeeperConfig {
    /// Whether modules, PINs and software tokens' keys are in the process that needs them, without a keeper.
    #[serde(default)]
    pub in_process: bool,
    /// Operations a second for each key, at most; 0 for no limit.
    rate: Option<u32>,
    /// After so many seconds an operation has hung.
    hang_seconds: Option<u64>,
    /// The file of the audit.
    audit: Option<PathBuf>,
    /// The users whose processes may use the keys of a keeper that listens.
    pub agents: Option<Vec<String>>,
    /// The users who may make and delete its keys too.
    pub custodians: Option<Vec<String>>,
}

impl KeeperConfig {
    pub fn rate(&self) -> Option<NonZeroU32> {
        match self.rate {
            None => KeeperOptions::default().rate,
            Some(rate) => NonZeroU32::new(rate),
        }
    }

    pub fn hang(&self) -> Duration {
        self.hang_seconds.map_or(KeeperOptions::default().hang, Duration::from_secs)
    }
}

/// A word of `allow`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Allowed(Allow);

impl TryFrom<String> for Allowed {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse().map(Self)
    }
}

fn policy(allow: &Option<Vec<Allowed>>, minimum_custody: Option<Custody>) -> Policy {
    Policy { allow: allow.as_ref().map(|allow| allow.iter().map(|it| it.0).collect()), minimum_custody }
}

/// The sections that the environment may name; other variables that begin with CLAVIGER_ are not ours to judge.
const SECTIONS: [&str; 11] =
    ["state_dir", "did", "keeper", "agent", "http", "net", "store", "api", "ops", "token", "key"];
/// Those that are tables or values; of the others there are several, each with a name.
const SINGLE: [&str; 9] = ["state_dir", "did", "keeper", "agent", "http", "net", "store", "api", "ops"];

impl Config {
    /// The configuration that `--config` names, or the first that is found; without any, an empty one.
    pub fn load(named: Option<&Path>) -> Result<Self, Failure> {
        warn_of_misspelt_variables();
        Self::load_as_written(named).map(|(config, _)| config)
    }

    /// The same, and beside it the file and the environment as they are written, without what is left out there.
    pub fn load_as_written(named: Option<&Path>) -> Result<(Self, Dict), Failure> {
        let (path, text, figment) = read(named)?;
        let wrong = |error: figment::Error| refuse(path.as_deref(), &text, error);
        let file: File = figment.extract().map_err(wrong)?;
        let written = figment.extract().map_err(wrong)?;
        Ok((Self::new(path, file)?, written))
    }

    fn new(path: Option<PathBuf>, file: File) -> Result<Self, Failure> {
        // A file in the working folder has no folder in its path.
        let base = path.as_deref().and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
        let keys = file.key.iter().map(|key| match PublicKey::from_multikey(&key.key) {
            Ok(public) => Ok((public, policy(&key.allow, key.minimum_custody))),
            Err(_) => {
                let said = format!("{}: {:?} in [[key]] is no multikey", name(path.as_deref()), key.key);
                Err(Failure::words("bad-config", said)
                    .hint("`claviger key list --json` shows the multikey of each key"))
            }
        });
        let config = Self {
            state_dir: file.state_dir.map_or_else(default_state_dir, |folder| base.join(folder)),
            documents: file.did.documents.iter().map(|path| base.join(path)).collect(),
            keys: keys.collect::<Result<_, _>>()?,
            tokens: file.token,
            keeper: file.keeper,
            daemon: DaemonConfig {
                agent: file.agent,
                http: file.http,
                net: file.net,
                mediation: file.mediation,
                store: file.store,
                api: file.api,
                ops: file.ops,
            },
            flags: Vec::new(),
            wait: None,
            file: path,
            base,
        };
        config.check_tokens()?;
        Ok(config)
    }

    fn check_tokens(&self) -> Result<(), Failure> {
        for (index, token) in self.tokens.iter().enumerate() {
            let twice = self.tokens[..index].iter().any(|other| other.name == token.name);
            if token.name.is_empty() || twice {
                let said = format!("{}: two [[token]] have the name {:?}", name(self.file.as_deref()), token.name);
                return Err(Failure::words("bad-config", said).hint("give each token a name of its own"));
            }
            if token.uri.is_empty() == token.keeper.is_none() {
                let said =
                    format!("{}: the token {:?} wants a uri, or a keeper", name(self.file.as_deref()), token.name);
                return Err(Failure::words("bad-config", said).hint(
                    "`uri` names the token by its module; `keeper` names the socket of a process that holds it",
                ));
            }
            let odd = |(variable, value): &(&String, &String)| !is_variable(variable) || value.contains('\0');
            if let Some((variable, _)) = token.environment.iter().find(odd) {
                let said = format!(
                    "{}: `environment` of the token {:?}: {variable:?} is no variable's name, or has no variable's value",
                    name(self.file.as_deref()),
                    token.name
                );
                return Err(Failure::words("bad-config", said));
            }
            if let Some(profile) = &token.profile {
                self.check_profile(token, profile)?;
            }
        }
        Ok(())
    }

    /// Whether tokens are opened in the process that needs them; that is warned of.
    pub fn in_process(&self) -> bool {
        if self.keeper.in_process {
            tracing::warn!(
                "in_process = true: the PKCS#11 module, the PIN and a software token's keys are in this process's memory"
            );
        }
        self.keeper.in_process
    }

    /// The file of the audit.
    pub fn audit(&self) -> PathBuf {
        self.keeper.audit.as_ref().map_or_else(|| self.state_dir.join("audit.jsonl"), |path| self.base.join(path))
    }

    fn check_profile(&self, token: &TokenConfig, profile: &str) -> Result<(), Failure> {
        let names = Profile::names(Some(&self.base)).map_err(|error| Failure::of_token(&token.name, &error))?;
        if names.iter().any(|name| name == profile) {
            return Ok(());
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let said =
            format!("{}: the token {:?}: there is no profile {profile:?}", name(self.file.as_deref()), token.name);
        Err(Failure::words("bad-config", said).hint(match nearest(profile, &names) {
            Some(near) => format!("is it {near:?}?"),
            None => format!("there are: {}", names.join(", ")),
        }))
    }

    /// The token of a name; without one the only token.
    pub fn token(&self, name: Option<&str>) -> Result<&TokenConfig, Failure> {
        let names: Vec<&str> = self.tokens.iter().map(|token| token.name.as_str()).collect();
        let failure = match (name, self.tokens.as_slice()) {
            (_, []) => return Err(self.no_token()),
            (None, [only]) => return Ok(only),
            (None, _) => {
                return Err(Failure::words("token-unnamed", "several tokens are configured: name one with --token")
                    .hint(format!("there are: {}", names.join(", "))));
            }
            (Some(name), tokens) => match tokens.iter().find(|token| token.name == name) {
                Some(token) => return Ok(token),
                None => Failure::words("token-unknown", format!("no [[token]] has the name {name:?}")),
            },
        };
        Err(failure.hint(nearest(name.unwrap_or_default(), &names).map_or_else(
            || format!("there are: {}", names.join(", ")),
            |near| format!("is it {near:?}? There are: {}", names.join(", ")),
        )))
    }

    /// That no token is configured, and how to configure one.
    pub fn no_token(&self) -> Failure {
        let said = match &self.file {
            Some(file) => format!("{} names no [[token]]", file.display()),
            None => "there is no configuration that names a token".to_owned(),
        };
        Failure::words("no-token", said)
            .hint(
            "`claviger token list` shows the tokens of this machine, with lines to paste into claviger.toml; `claviger init` \
             makes a configuration",
        )
    }
}

/// The file to read, its text, and that with what the environment says.
fn read(named: Option<&Path>) -> Result<(Option<PathBuf>, String, Figment), Failure> {
    let (path, text) = match find(named)? {
        Some((path, text)) => (Some(path), text),
        None => (None, String::new()),
    };
    let mut figment = Figment::from(Toml::string(&text));
    for section in SINGLE {
        figment = figment.merge(Env::prefixed("CLAVIGER_").split("__").filter(move |name| {
            name.as_str().split('.').next().is_some_and(|first| first.eq_ignore_ascii_case(section))
        }));
    }
    for (section, named_by) in [("token", "name"), ("key", "key")] {
        if let Some(entries) = overridden(&text, section, named_by)? {
            figment = figment.merge((section, entries));
        }
    }
    Ok((path, text, figment))
}

/// The entries of `[[token]]` or `[[key]]` with what the environment says of them, by their name:
/// `CLAVIGER_TOKEN__SOFT__URI`. None if it says nothing.
fn overridden(text: &str, section: &str, named_by: &str) -> Result<Option<Vec<Dict>>, Failure> {
    let prefix = format!("CLAVIGER_{}__", section.to_ascii_uppercase());
    let said: Vec<(String, String)> = env::vars_os()
        .filter_map(|(name, value)| Some((name.to_str()?.strip_prefix(&prefix)?.to_owned(), value.into_string().ok()?)))
        .collect();
    if said.is_empty() {
        return Ok(None);
    }
    // A mistake in the file is told when all of it is read.
    let mut entries: Vec<Dict> = Figment::from(Toml::string(text)).extract_inner(section).unwrap_or_default();
    // Shells take no dashes in the name of a variable.
    let plain = |name: &str| name.replace('-', "_").to_ascii_lowercase();
    for (name, value) in said {
        let Some((entry, member)) = name.split_once("__") else { continue };
        let is_named = |dict: &&mut Dict| {
            dict.get(named_by).and_then(Value::as_str).is_some_and(|name| plain(name) == plain(entry))
        };
        let Some(dict) = entries.iter_mut().find(is_named) else {
            let said = format!("{prefix}{name} in the environment: no [[{section}]] has that {named_by}");
            return Err(Failure::words("bad-config", said));
        };
        let value = value.parse().expect("any text is a value");
        dict.insert(member.to_ascii_lowercase(), value);
    }
    Ok(Some(entries))
}

/// The file to read, and its text. One that was named must be there.
fn find(named: Option<&Path>) -> Result<Option<(PathBuf, String)>, Failure> {
    let named = named.map(Path::to_owned).or_else(|| env::var_os("CLAVIGER_CONFIG").map(PathBuf::from));
    let read = |path: PathBuf| match std::fs::read_to_string(&path) {
        Ok(text) => Ok((path, text)),
        Err(error) => {
            let said = format!("the configuration {}: {error}", path.display());
            Err(Failure::words("config-unreadable", said))
        }
    };
    if let Some(path) = named {
        return read(path).map(Some);
    }
    let user = folder("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("claviger/claviger.toml"));
    let usual = [Some("claviger.toml".into()), user, Some("/etc/claviger/claviger.toml".into())];
    usual.into_iter().flatten().find(|path: &PathBuf| path.exists()).map(read).transpose()
}

/// The user's state folder; that of a service.
fn default_state_dir() -> PathBuf {
    let service = env::var_os("STATE_DIRECTORY").map(PathBuf::from);
    let user = || folder("XDG_STATE_HOME", ".local/state").map(|folder| folder.join("claviger"));
    service.or_else(user).unwrap_or_else(|| "/var/lib/claviger".into())
}

/// A folder of the XDG base directory specification: an absolute one in the variable, or one in the home folder.
fn folder(variable: &str, in_home: &str) -> Option<PathBuf> {
    let named = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    named.or_else(|| env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(in_home)))
}

/// What the configuration is called in an error.
pub fn name(path: Option<&Path>) -> String {
    path.map_or_else(|| "the environment".to_owned(), |path| path.display().to_string())
}

/// What is wrong with the configuration, at which line if the file says it, and the nearest name to a wrong one.
fn refuse(path: Option<&Path>, text: &str, error: figment::Error) -> Failure {
    let from_environment = error.metadata.as_ref().is_some_and(|metadata| metadata.name.contains("environment"));
    let mut file = name(path.filter(|_| !from_environment));
    // figment forgets where a value stood; the parser below it knows.
    let parsed = toml::from_str::<File>(text).err().filter(|_| !from_environment);
    if let Some(before) = parsed.as_ref().and_then(|error| text.get(..error.span()?.start)) {
        file = format!("{file} line {}", before.matches('\n').count() + 1);
    }
    let place = if error.path.is_empty() { String::new() } else { format!("`{}`: ", error.path.join(".")) };
    let (said, known, found) = match &error.kind {
        Kind::UnknownField(found, known) => (format!("there is no member {found:?}"), *known, found.as_str()),
        Kind::UnknownVariant(found, known) => (format!("{place}{found:?} is no value of it"), *known, found.as_str()),
        Kind::MissingField(field) => (format!("the member {field:?} is missing"), &[][..], ""),
        // It would quote the line, and a PIN may stand there.
        Kind::Message(said) if said.starts_with("TOML parse error") => {
            (parsed.as_ref().map_or("it is no TOML", toml::de::Error::message).replace('\n', ": "), &[][..], "")
        }
        kind => (format!("{place}{}", kind.to_string().trim_end()), &[][..], ""),
    };
    let failure = Failure::words("bad-config", format!("{file}: {said}"));
    match (nearest(found, known), known) {
        (Some(near), _) => failure.hint(format!("is it {near:?}?")),
        (None, []) => failure,
        (None, known) => failure.hint(format!("there are: {}", known.join(", "))),
    }
}

/// A variable that is nearly one of ours: a misspelt one would go unseen.
fn warn_of_misspelt_variables() {
    for (variable, _) in env::vars_os() {
        let Some(rest) = variable.to_str().and_then(|name| name.strip_prefix("CLAVIGER_")) else { continue };
        let first = rest.split("__").next().unwrap_or_default().to_ascii_lowercase();
        let known = SECTIONS.contains(&first.as_str()) || first == "config";
        if let Some(near) = nearest(&first, &SECTIONS).filter(|_| !known && first.len() > 2) {
            let near = near.to_ascii_uppercase();
            tracing::warn!("CLAVIGER_{rest} in the environment is not used; is it CLAVIGER_{near}?");
        }
    }
}

/// The known name that is most like this one, if one is.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let likeness = |known: &&str| strsim::jaro_winkler(name, known);
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) > 0.8).then_some(best)
}
