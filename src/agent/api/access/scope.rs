//! Scopes: the parts of the API that a caller may use.

use axum::http::Method;
use serde::{Deserialize, Serialize};

/// A part of the API. Each operation belongs to exactly one. A scope does not include another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// All that only reads: every GET, also of messages and events.
    Read,
    /// What an application does that exchanges messages: send, cancel, retry, acknowledge.
    Send,
    /// Everything else: DIDs, connections, invitations, mediators.
    Manage,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 3] = [Self::Read, Self::Send, Self::Manage];

    /// The name of the scope, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Send => "send",
            Self::Manage => "manage",
        }
    }

    /// The scope that an operation needs. `path` is the path of its route. An operation that changes something and is
    /// not listed here needs `manage`.
    pub(in crate::agent::api) fn of(method: &Method, path: &str) -> Self {
        match (method, path) {
            (&Method::GET | &Method::HEAD, _) => Self::Read,
            (
                &Method::POST,
                "/v1/messages"
                | "/v1/batches"
                | "/v1/messages/{id}/cancel"
                | "/v1/messages/{id}/retry"
                | "/v1/inbox/acknowledge",
            ) => Self::Send,
            _ => Self::Manage,
        }
    }
}
