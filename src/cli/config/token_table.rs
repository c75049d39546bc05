//! `[[token]]` as it stands in the file. A wrong table does not keep the other tokens from being used.

use figment::value::{Dict, Value};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use super::token::TokenConfig;

/// A table, or what is wrong with it.
pub struct TokenTable<T> {
    /// The token's name, if the table has one.
    pub name: Option<String>,
    pub content: Result<T, Box<figment::Error>>,
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for TokenTable<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = Dict::deserialize(deserializer)?;
        let name = table.get("name").and_then(Value::as_str).map(str::to_owned);
        Ok(Self { name, content: Value::from(table).deserialize().map_err(Box::new) })
    }
}

/// The tables alone, for the position of an error.
#[derive(Deserialize)]
pub struct TokenTables {
    #[serde(default, rename = "token")]
    _tokens: Vec<TokenConfig>,
}
