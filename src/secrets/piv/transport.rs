//! The connection to a card: PC/SC on a machine with a reader, a virtual card in tests.

use zeroize::Zeroizing;

/// A connection to one card. One thread uses it at a time.
pub trait Transport: Send {
    /// Runs `work` while no other program can use the card (SCardBeginTransaction). Afterwards the card is left as it
    /// is (SCARD_LEAVE_CARD): a verified PIN stays verified.
    ///
    /// # Errors
    /// The transaction could not begin. `work` was not called.
    fn transaction(&mut self, work: &mut dyn FnMut(&mut dyn CardTransaction)) -> Result<(), TransportError>;

    /// Whether the card is still inserted. Sends nothing to the card, and does not wait for other programs that use it.
    ///
    /// # Errors
    /// [`TransportError::Away`] if the card was removed, or the PC/SC service does not answer.
    fn check_inserted(&self) -> Result<(), TransportError>;
}

/// A card in a transaction.
pub trait CardTransaction {
    /// Sends a command APDU. Returns the response with its status word: at least two bytes.
    ///
    /// # Errors
    /// The card did not answer. The command may have been carried out.
    fn transmit(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TransportError>;
}

/// Finds cards and connects to them.
pub trait Readers: Send + Sync {
    /// Connects to the YubiKey with this serial number, or to the only YubiKey that is inserted.
    ///
    /// # Errors
    /// [`TransportError::Away`] if it is not inserted; the error lists the YubiKeys that are.
    /// [`TransportError::InUse`] if another program uses it, or a YubiKey that may be it.
    /// [`TransportError::Unusable`] if it is inserted and its firmware or its settings do not suffice.
    /// [`TransportError::Ambiguous`] if several are inserted and `serial` is none.
    fn connect(&self, serial: Option<u32>) -> Result<Box<dyn Transport>, TransportError>;
}

/// Why a card cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The card is not inserted, or was removed.
    #[error("{0}")]
    Away(String),
    /// Another program has exclusive access to the card, or is in a transaction with it. Try again.
    #[error("{0}")]
    InUse(String),
    /// The card is no YubiKey that can be used: its firmware is too old, or its PIV applet is switched off.
    #[error("{0}")]
    Unusable(String),
    /// The PC/SC service does not let this user use smart cards.
    #[error("{0}")]
    Denied(String),
    /// Another program reset the card, or the connection broke. Connect again.
    #[error("{0}")]
    Reset(String),
    /// Several cards are inserted, and no serial number was given.
    #[error("{0}")]
    Ambiguous(String),
}

impl TransportError {
    /// Whether the card may answer another time, and so may be any card until then.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::InUse(_) | Self::Reset(_))
    }
}
