//! The table of a webhook.

use std::{fmt, path::PathBuf};

use claviger::agent::api::{MESSAGE, WebhookOptions};
use serde::{
    Deserialize, Deserializer,
    de::{
        MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};

/// A webhook, to which received messages are posted. The table is given once for each webhook; a single one may also be the
/// table `[api.webhook]`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub struct WebhookSection {
    /// The webhook's name: letters, digits, `-`, `_` and `.`. Required if there are several. Without it: `webhook`.
    pub name: Option<String>,
    /// The webhook's URL: https, or http on the loopback interface.
    pub url: String,
    /// The file whose first line is the secret that signs the requests.
    pub secret_file: PathBuf,
    /// What is posted: `message` for received messages, and the kinds of events ([api.md](api.md#events)), which are recorded
    /// then. Without it: `message`.
    #[serde(default = "messages")]
    pub events: Vec<String>,
    /// The types of the messages that are posted. Empty: all.
    #[serde(default)]
    pub types: Vec<String>,
    /// How long a message waits for a receiver that cannot be reached or is busy, in hours, before it is set aside as a dead
    /// letter. 0: for ever. Without it: 24.
    pub give_up_hours: Option<u32>,
    /// How often a message is posted that the receiver refuses, before it is set aside as a dead letter; that of a stranger once.
    /// Without it: 5.
    pub refused_attempts: Option<u32>,
    /// The most dead letters of the webhook, without messages of strangers. While there are so many, the webhook tries on.
    /// Without it: 10000.
    pub max_dead_letters: Option<usize>,
}

fn messages() -> Vec<String> {
    vec![MESSAGE.to_owned()]
}

impl WebhookSection {
    /// The options of the webhook.
    pub fn options(&self) -> WebhookOptions {
        let default = WebhookOptions::default();
        WebhookOptions {
            name: self.name.clone().unwrap_or(default.name),
            events: self.events.clone(),
            types: self.types.clone(),
            give_up: self.give_up_hours.map_or(default.give_up, |hours| 60 * 60 * 1000 * i64::from(hours)),
            refused_attempts: self.refused_attempts.unwrap_or(default.refused_attempts),
            max_dead_letters: self.max_dead_letters.unwrap_or(default.max_dead_letters),
        }
    }
}

/// Reads a table, or an array of tables.
pub fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<WebhookSection>, D::Error> {
    deserializer.deserialize_any(OneOrMore)
}

struct OneOrMore;

impl<'de> Visitor<'de> for OneOrMore {
    type Value = Vec<WebhookSection>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table, or an array of tables")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        WebhookSection::deserialize(MapAccessDeserializer::new(map)).map(|one| vec![one])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(seq))
    }
}
