//! Reads the configuration again for a running agent.
//!
//! The sandbox keeps the agent from the operator's files, because PINs may lie beside the configuration. The agent's
//! supervisor is outside the sandbox. The supervisor reads and checks the configuration, and sends the agent the
//! settings that may change while the agent runs.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    io::{self, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use figment::value::Dict;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    config::{Config, RELOADABLE},
    daemon_options::webhook,
    failure::Failure,
};

/// The agent asks its supervisor for a token by name. This name, which no token has, asks for the configuration.
pub const CONFIGURATION: &str = "";

/// Settings by `table.member`, with the values of the file and the environment.
pub type Settings = BTreeMap<String, Value>;

/// The supervisor's answer. A line with the webhook's secret precedes the answer; without a webhook the line is empty.
#[derive(Serialize, Deserialize)]
pub struct ReloadedSettings {
    /// The settings of [`RELOADABLE`] that the configuration has.
    pub reloadable: Settings,
    /// The names of the settings whose value differs from the one in force.
    pub changed: BTreeSet<String>,
    /// The names in `changed` that need a restart.
    pub needs_restart: BTreeSet<String>,
}

/// Reads the configuration for an agent. Runs in the supervisor.
pub struct ConfigurationReader {
    file: Option<PathBuf>,
    /// The hashes of the settings that are in force in the agent. Hashes show which settings changed; the values
    /// themselves are not kept, because they may hold a PIN.
    current: RefCell<BTreeMap<String, u64>>,
    hasher: RandomState,
}

impl ConfigurationReader {
    /// A reader for an agent that has read this configuration.
    pub fn new(config: &Config) -> Self {
        // If the file can no longer be read, every setting counts as changed.
        let source = Config::load_with_source(config.file.as_deref()).map(|(_, source)| settings(source));
        let hasher = RandomState::new();
        let current =
            source.unwrap_or_default().iter().map(|(name, value)| (name.clone(), hash(&hasher, value))).collect();
        Self { file: config.file.clone(), current: RefCell::new(current), hasher }
    }

    /// Reads the configuration, and returns a connection with the answer.
    ///
    /// # Errors
    /// Fails if the configuration is invalid. The error says why, in one line.
    pub fn answer(&self) -> io::Result<UnixStream> {
        let (secret, answer) = self.read().map_err(|failure| {
            let hint = failure.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            let words: Vec<&str> = failure.message.split_whitespace().collect();
            io::Error::other(words.join(" ") + &hint)
        })?;
        let (mut writer, reader) = UnixStream::pair()?;
        // The agent does not read yet, so writing must not block. The socket's buffer has room for any configuration.
        writer.set_nonblocking(true)?;
        writer.write_all(secret.as_bytes())?;
        writer.write_all(b"\n")?;
        writer.write_all(&serde_json::to_vec(&answer)?)?;
        Ok(reader)
    }

    fn read(&self) -> Result<(Zeroizing<String>, ReloadedSettings), Failure> {
        let (config, source) = Config::load_with_source(self.file.as_deref())?;
        config.daemon.check()?;
        let secret = webhook(&config)?.map(|(_, secret)| secret).unwrap_or_default();
        let new = settings(source);
        let hash = |value: &Value| hash(&self.hasher, value);
        let mut current = self.current.borrow_mut();
        let names: BTreeSet<&String> = current.keys().chain(new.keys()).collect();
        let is_changed = |name: &&String| current.get(*name).copied() != new.get(*name).map(hash);
        let changed: BTreeSet<String> = names.into_iter().filter(is_changed).cloned().collect();
        let needs_restart = changed.iter().filter(|name| !RELOADABLE.contains(&name.as_str())).cloned().collect();
        // The hashes of the other settings stay, so that their changes are reported until the agent restarts.
        for name in RELOADABLE {
            current.remove(name);
        }
        let reloadable: Settings = new.into_iter().filter(|(name, _)| RELOADABLE.contains(&name.as_str())).collect();
        current.extend(reloadable.iter().map(|(name, value)| (name.clone(), hash(value))));
        Ok((secret, ReloadedSettings { reloadable, changed, needs_restart }))
    }
}

fn hash(hasher: &RandomState, value: &Value) -> u64 {
    hasher.hash_one(value.to_string())
}

/// The members of tables by `table.member`, and all other members by their own names.
fn settings(source: Dict) -> Settings {
    let mut settings = Settings::new();
    for (section, value) in source {
        match serde_json::to_value(value) {
            Ok(Value::Object(table)) => {
                settings.extend(table.into_iter().map(|(name, value)| (format!("{section}.{name}"), value)));
            }
            value => drop(settings.insert(section, value.unwrap_or_default())),
        }
    }
    settings
}
