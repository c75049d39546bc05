//! Where the configuration comes from: the first file that is found, and the environment.

use std::{
    env,
    path::{Path, PathBuf},
};

use figment::{
    Figment,
    providers::{Env, Format, Toml},
    value::{Dict, Value},
};

use super::invalid::nearest;
use crate::cli::failure::Failure;

/// The top-level members that the environment may set. Other variables that begin with CLAVIGER_ are not checked.
pub const SECTIONS: [&str; 13] = [
    "state_dir",
    "did",
    "keeper",
    "agent",
    "http",
    "net",
    "mediation",
    "outbox",
    "store",
    "api",
    "ops",
    "token",
    "key",
];
/// The arrays of tables among [`SECTIONS`], each with the member that names an entry.
const ARRAYS: [(&str, &str); 2] = [("token", "name"), ("key", "key")];

/// Returns the path and the text of the file, and the file merged with the environment.
pub fn read(named: Option<&Path>) -> Result<(Option<PathBuf>, String, Figment), Failure> {
    let (path, text) = match find(named)? {
        Some((path, text)) => (Some(path), text),
        None => (None, String::new()),
    };
    let mut figment = Figment::from(Toml::string(&text));
    for section in SECTIONS.into_iter().filter(|section| ARRAYS.iter().all(|(array, _)| array != section)) {
        figment = figment.merge(Env::prefixed("CLAVIGER_").split("__").filter(move |name| {
            name.as_str().split('.').next().is_some_and(|first| first.eq_ignore_ascii_case(section))
        }));
    }
    for (section, named_by) in ARRAYS {
        if let Some(entries) = overridden_entries(&text, section, named_by)? {
            figment = figment.merge((section, entries));
        }
    }
    Ok((path, text, figment))
}

/// The entries of `[[token]]` or `[[key]]` with the values that the environment sets by the entry's name, such as
/// `CLAVIGER_TOKEN__SOFT__URI`. `None` if the environment sets none.
fn overridden_entries(text: &str, section: &str, named_by: &str) -> Result<Option<Vec<Dict>>, Failure> {
    let prefix = format!("CLAVIGER_{}__", section.to_ascii_uppercase());
    let overrides: Vec<(String, String)> = env::vars_os()
        .filter_map(|(name, value)| Some((name.to_str()?.strip_prefix(&prefix)?.to_owned(), value.into_string().ok()?)))
        .collect();
    if overrides.is_empty() {
        return Ok(None);
    }
    // An error in the file is reported later, when the whole file is parsed.
    let mut entries: Vec<Dict> = Figment::from(Toml::string(text)).extract_inner(section).unwrap_or_default();
    // Shells allow no dashes in the name of a variable.
    let plain = |name: &str| name.replace('-', "_").to_ascii_lowercase();
    for (name, value) in overrides {
        let Some((entry, member)) = name.split_once("__") else { continue };
        let is_named = |dict: &&mut Dict| {
            dict.get(named_by).and_then(Value::as_str).is_some_and(|name| plain(name) == plain(entry))
        };
        let Some(dict) = entries.iter_mut().find(is_named) else {
            let message = format!("{prefix}{name} in the environment: no [[{section}]] has that {named_by}");
            return Err(Failure::usage("bad-config", message));
        };
        let value = value.parse().expect("any text is a value");
        dict.insert(member.to_ascii_lowercase(), value);
    }
    Ok(Some(entries))
}

/// The configuration file and its text. A file that was named must exist.
fn find(named: Option<&Path>) -> Result<Option<(PathBuf, String)>, Failure> {
    let named = named.map(Path::to_owned).or_else(|| env::var_os("CLAVIGER_CONFIG").map(PathBuf::from));
    let read = |path: PathBuf| match std::fs::read_to_string(&path) {
        Ok(text) => Ok((path, text)),
        Err(error) => {
            let message = format!("the configuration {} cannot be read: {error}", path.display());
            Err(Failure::usage("config-unreadable", message))
        }
    };
    if let Some(path) = named {
        return read(path).map(Some);
    }
    let user = xdg_folder("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("claviger/claviger.toml"));
    let usual = [Some("claviger.toml".into()), user, Some("/etc/claviger/claviger.toml".into())];
    usual.into_iter().flatten().find(|path: &PathBuf| path.exists()).map(read).transpose()
}

/// The state folder of a systemd service, else of the user, else of the system.
pub fn default_state_dir() -> PathBuf {
    let service = env::var_os("STATE_DIRECTORY").map(PathBuf::from);
    let user = || xdg_folder("XDG_STATE_HOME", ".local/state").map(|folder| folder.join("claviger"));
    service.or_else(user).unwrap_or_else(|| "/var/lib/claviger".into())
}

/// A folder of the XDG Base Directory Specification: an absolute path in the variable, or one in the home folder.
fn xdg_folder(variable: &str, in_home: &str) -> Option<PathBuf> {
    let named = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    named.or_else(|| env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(in_home)))
}

/// Warns of environment variables whose names nearly match a setting, and which would otherwise be ignored silently.
pub fn warn_of_misspelt_variables() {
    for (variable, _) in env::vars_os() {
        let Some(rest) = variable.to_str().and_then(|name| name.strip_prefix("CLAVIGER_")) else { continue };
        let first = rest.split("__").next().unwrap_or_default().to_ascii_lowercase();
        let known = SECTIONS.contains(&first.as_str()) || first == "config";
        if let Some(near) = nearest(&first, &SECTIONS).filter(|_| !known && first.len() > 2) {
            let near = near.to_ascii_uppercase();
            tracing::warn!("CLAVIGER_{rest} in the environment is not used; did you mean CLAVIGER_{near}?");
        }
    }
}
