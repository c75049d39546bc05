//! How a card is reached: PC/SC on a machine with a reader, a virtual card in tests.

use zeroize::Zeroizing;

/// A way to one card. One thread uses it at a time.
pub trait Transport: Send {
    /// Has `work` speak to the card while no other program does (SCardBeginTransaction), and leaves the card as it is
    /// (SCARD_LEAVE_CARD), with its PIN verified.
    ///
    /// # Errors
    /// If the transaction could not begin: `work` was not called.
    fn transaction(&mut self, work: &mut dyn FnMut(&mut dyn Exchange)) -> Result<(), TransportError>;
}

/// A card within a transaction.
pub trait Exchange {
    /// Sends a command APDU and returns the response with its status word, of at least two bytes.
    ///
    /// # Errors
    /// If the card did not answer; what was sent may have been done.
    fn transmit(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TransportError>;
}

/// Finds cards.
pub trait Readers: Send + Sync {
    /// A way to the YubiKey of this serial number, or to the only one that is there.
    ///
    /// # Errors
    /// [`TransportError::Away`] if it is not there; those that are there are listed.
    fn connect(&self, serial: Option<u32>) -> Result<Box<dyn Transport>, TransportError>;
}

/// Why a card was not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// It is not there, or no longer.
    #[error("{0}")]
    Away(String),
    /// Another program has it for itself.
    #[error("{0}")]
    InUse(String),
    /// The card was reset by another program, or the way to it broke: connect again.
    #[error("{0}")]
    Reset(String),
    /// Several cards are there, and none is named.
    #[error("{0}")]
    Ambiguous(String),
}
