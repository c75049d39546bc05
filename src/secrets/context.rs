//! The context of an operation with a private key: its key id, its message, its peer and its deadline.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The time limit of an operation without a deadline.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for a key that asks a person for a PIN or a touch. A person needs longer than a token.
const DEFAULT_TIMEOUT_WITH_PERSON: Duration = Duration::from_secs(120);

/// The context of an operation with a private key: what the operation is for, and its deadline.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// The key id under which the caller uses the key. It is written to the audit log.
    pub kid: Option<Arc<str>>,
    /// The `id` of the message, if it is known. It is written to the log and the audit log.
    pub message_id: Option<Arc<str>>,
    /// The DID at the other end, as the message or the caller claims it. It is shown to a person who is asked for a PIN
    /// or a touch.
    pub peer: Option<Arc<str>>,
    /// When the caller stops waiting. An operation that has not begun by then is not performed. `None` means 30 seconds
    /// from the call, and 120 seconds for a key that asks a person for a PIN or a touch.
    pub deadline: Option<Instant>,
}

impl Context {
    /// The same context, for the key id `kid`.
    pub fn for_kid(&self, kid: &str) -> Self {
        Self { kid: Some(kid.into()), ..self.clone() }
    }

    /// The deadline, or the default deadline from now. `asks_person` says whether the key asks a person.
    pub(in crate::secrets) fn deadline_or_default(&self, asks_person: bool) -> Instant {
        let timeout = if asks_person { DEFAULT_TIMEOUT_WITH_PERSON } else { DEFAULT_TIMEOUT };
        self.deadline.unwrap_or_else(|| Instant::now() + timeout)
    }
}
