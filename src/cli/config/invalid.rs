//! Errors in the configuration, with the line and the nearest known name.

use std::path::Path;

use figment::error::Kind;

use super::{file::ConfigFile, token_table::TokenTables};
use crate::cli::failure::Failure;

/// The name of the configuration in an error.
pub fn displayed_name(path: Option<&Path>) -> String {
    path.map_or_else(|| "the environment".to_owned(), |path| path.display().to_string())
}

/// The failure for an invalid configuration: what is wrong, in which line of the file, and which known name is nearest.
pub fn invalid_configuration(path: Option<&Path>, text: &str, error: figment::Error) -> Failure {
    let from_environment = error.metadata.as_ref().is_some_and(|metadata| metadata.name.contains("environment"));
    let mut file = displayed_name(path.filter(|_| !from_environment));
    // figment does not keep the position of a value; the TOML parser below it does.
    let parsed = toml::from_str::<ConfigFile>(text).err().or_else(|| toml::from_str::<TokenTables>(text).err());
    let parsed = parsed.filter(|_| !from_environment);
    if let Some(before) = parsed.as_ref().and_then(|error| text.get(..error.span()?.start)) {
        file = format!("{file} line {}", before.matches('\n').count() + 1);
    }
    let setting = if error.path.is_empty() { String::new() } else { format!("`{}`: ", error.path.join(".")) };
    let (message, known, found) = match &error.kind {
        Kind::UnknownField(found, known) => (format!("unknown setting {found:?}"), *known, found.as_str()),
        Kind::UnknownVariant(found, known) => {
            (format!("{setting}{found:?} is not a valid value"), *known, found.as_str())
        }
        Kind::MissingField(field) => (format!("the setting {field:?} is missing"), &[][..], ""),
        // figment's message quotes the line, which may hold a PIN.
        Kind::Message(message) if message.starts_with("TOML parse error") => {
            (parsed.as_ref().map_or("not valid TOML", toml::de::Error::message).replace('\n', ": "), &[][..], "")
        }
        // The message of the standard library.
        Kind::Message(message) if message == "invalid socket address syntax" => {
            (format!("{setting}this is no IP address with a port, such as 127.0.0.1:8443"), &[][..], "")
        }
        kind => (format!("{setting}{}", kind.to_string().trim_end()), &[][..], ""),
    };
    let failure = Failure::usage("bad-config", format!("{file}: {message}"));
    match (nearest(found, known), known) {
        (Some(near), _) => failure.hint(format!("did you mean {near:?}?")),
        (None, []) => failure,
        (None, known) => failure.hint(format!("the valid names are: {}", known.join(", "))),
    }
}

/// The known name that is most similar to this one, if one is similar enough.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let similarity = |known: &&str| strsim::jaro_winkler(name, known);
    let best = known.iter().copied().max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    (similarity(&best) > 0.8).then_some(best)
}
