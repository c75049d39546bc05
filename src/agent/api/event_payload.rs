//! A recorded event as the application gets it: the payload of Standard Webhooks (standard-webhooks.md, "Payload structure").

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::agent::store::StoredEvent;

/// A recorded event.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventPayload {
    /// The kind.
    #[serde(rename = "type")]
    kind: String,
    /// When it happened: RFC 3339, in UTC, with milliseconds.
    timestamp: String,
    /// What happened. Its members depend on the kind.
    #[schema(value_type = Object)]
    data: Value,
}

impl From<StoredEvent> for EventPayload {
    fn from(event: StoredEvent) -> Self {
        let since_1970 = Duration::from_millis(u64::try_from(event.time).unwrap_or(0));
        // A time after the year 9999 has no text; the clock was wrong.
        let time = UNIX_EPOCH + since_1970.min(Duration::from_secs(253_402_300_799));
        Self {
            kind: event.kind,
            timestamp: humantime::format_rfc3339_millis(time).to_string(),
            data: serde_json::from_str(&event.data).unwrap_or(Value::Null),
        }
    }
}
