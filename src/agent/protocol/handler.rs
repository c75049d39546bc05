//! The trait that every protocol implements.

use async_trait::async_trait;

use super::{problem::HandleError, received::Received, transaction::Transaction};

/// Handles the messages of one protocol.
#[async_trait]
pub trait Protocol: Send + Sync + 'static {
    /// Returns the protocol identifier URI, such as `https://didcomm.org/trust-ping/2.0` (v2.1 "Protocol Identifier
    /// URI"). Messages of another minor version are handed to the protocol too.
    fn piuri(&self) -> &str;

    /// Returns the roles of this agent in the protocol, for discover-features.
    fn roles(&self) -> &[&str] {
        &[]
    }

    /// Whether the protocol accepts messages without an authenticated sender. If not, such messages are dropped.
    fn accepts_anonymous(&self) -> bool {
        false
    }

    /// Handles one message.
    ///
    /// The agent may call this more than once for a message: after an interruption, or when a record was changed
    /// meanwhile. The effects in the transaction are committed once. Any other effect must be safe to repeat.
    ///
    /// # Errors
    /// [`HandleError::Problem`] is reported to the sender, and the transaction is dropped. After [`HandleError::Retry`]
    /// the message is handled again later.
    async fn handle(&self, received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError>;
}
