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
    net::Shutdown,
    os::unix::net::UnixStream,
    path::PathBuf,
    thread,
};

use figment::value::Dict;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    api_callers::ApiCallers,
    config::{Config, RELOADABLE, TokenConfig},
    daemon_options::webhooks,
    failure::Failure,
};

/// The agent asks its supervisor for a token by name. This name, which no token has, asks for the configuration.
pub const CONFIGURATION: &str = "";

/// Settings by `table.member`, with the values of the file and the environment.
pub type Settings = BTreeMap<String, Value>;

/// The supervisor's answer. Two lines precede the answer: the webhooks' secrets, joined by spaces, which no secret has; and the
/// tokens of `callers`. Either may be empty.
#[derive(Serialize, Deserialize)]
pub struct ReloadedSettings {
    /// The settings of [`RELOADABLE`] that the configuration has.
    pub reloadable: Settings,
    /// The names of the settings whose value differs from the one in force.
    pub changed: BTreeSet<String>,
    /// The names in `changed` that need a restart.
    pub needs_restart: BTreeSet<String>,
    /// Who may use the API.
    pub callers: ApiCallers,
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
        let (secrets, answer) = self.read().map_err(|failure| {
            let hint = failure.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            let words: Vec<&str> = failure.message.split_whitespace().collect();
            io::Error::other(words.join(" ") + &hint)
        })?;
        let (tokens, settings) = (answer.callers.tokens_line(), serde_json::to_vec(&answer)?);
        let (mut writer, reader) = UnixStream::pair()?;
        // The supervisor's hello would stay unread, and the end of this side would then lose the rest of the answer.
        writer.shutdown(Shutdown::Read)?;
        // The agent reads once it has the connection. Until then, a long answer does not fit into the socket's buffer.
        let write = move || {
            for secret in secrets {
                writer.write_all(secret.as_bytes())?;
                writer.write_all(b" ")?;
            }
            [b"\n", tokens.as_bytes(), b"\n", &settings].into_iter().try_for_each(|part| writer.write_all(part))
        };
        // It fails only if the agent has gone.
        thread::Builder::new().spawn(move || drop::<io::Result<()>>(write()))?;
        Ok(reader)
    }

    fn read(&self) -> Result<(Vec<Zeroizing<String>>, ReloadedSettings), Failure> {
        let (config, source) = Config::load_with_source(self.file.as_deref())?;
        config.daemon.check()?;
        // As at the start: the agent needs all of its tokens.
        config.tokens.iter().try_for_each(TokenConfig::check)?;
        let secrets = webhooks(&config)?.into_iter().map(|(_, secret)| secret).collect();
        let callers = ApiCallers::read(&config)?;
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
        Ok((secrets, ReloadedSettings { reloadable, changed, needs_restart, callers }))
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

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, fs, io::Read};

    use super::*;

    /// The answer is longer than the buffer of a socket, and nobody reads before it is ready.
    #[test]
    fn a_long_configuration_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("claviger.toml");
        let mut text =
            "[api.remote]\nlisten = \"127.0.0.1:1\"\ntls_certificate = \"a\"\ntls_key = \"a\"\nclient_ca = \"a\"\n"
                .to_owned();
        for number in 0..3000 {
            writeln!(
                text,
                "[[api.client]]\nname = \"client-{number}.shops.example.org\"\nscopes = [\"read\", \"send\"]"
            )
            .unwrap();
        }
        fs::write(&file, text).unwrap();
        let reader = ConfigurationReader { file: Some(file), current: RefCell::default(), hasher: RandomState::new() };
        let (mut answer, mut connection) = (String::new(), reader.answer().unwrap());
        // The supervisor says hello on every connection.
        assert!(connection.write_all(b"hello").is_err());
        connection.read_to_string(&mut answer).unwrap();
        let lines: Vec<&str> = answer.splitn(3, '\n').collect();
        assert!(answer.len() > 1 << 18 && lines[..2] == ["", ""]);
        let settings: ReloadedSettings = serde_json::from_str(lines[2]).unwrap();
        assert_eq!(settings.reloadable["api.client"].as_array().unwrap().len(), 3000);
        assert!(settings.callers.permissions().is_ok());
    }
}
