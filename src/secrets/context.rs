//! What an operation is part of: its message, its peer and its deadline.

use std::{sync::Arc, time::Instant};

/// What an operation is part of, and until when it may begin.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// The key id under which the caller uses the key. It is written to the audit log.
    pub kid: Option<Arc<str>>,
    /// The `id` of the message, if it is known. It is written to the log and the audit log.
    pub message_id: Option<Arc<str>>,
    /// The DID at the other end, as the message or the caller claims it. A person who is asked for a PIN or a touch sees
    /// it.
    pub peer: Option<Arc<str>>,
    /// An operation that has not begun at this time is not performed. If there is none, the keyring and the keeper's
    /// client allow 30 seconds.
    pub deadline: Option<Instant>,
}

impl Context {
    /// The same context, for the key id `kid`.
    pub fn for_kid(&self, kid: &str) -> Self {
        Self { kid: Some(kid.into()), ..self.clone() }
    }
}
