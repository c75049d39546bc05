//! Commands and responses: command chaining and GET RESPONSE (NIST SP 800-73-4 part 2 sections 2.4.1 and 2.4.2).

use std::borrow::Cow;

use zeroize::Zeroizing;

use super::transport::{CardTransaction, TransportError};
use crate::secrets::TokenError;

/// The data of one command, in bytes. Longer data is sent as a chain of commands.
const MAX_DATA: usize = 255;
/// The longest response that is accepted, in bytes. No response of a PIV card is that long.
const MAX_RESPONSE: usize = 16 << 10;

/// A status word that reports a failure (ISO 7816-4 section 5.6; NIST SP 800-73-4 part 2 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status(pub(super) u16);

impl Status {
    /// The PIN is not verified, or no touch came: a card reports both with the same status.
    pub(super) const NOT_SATISFIED: Self = Self(0x6982);
    /// A rule of the card forbids the command.
    pub(super) const CONDITIONS: Self = Self(0x6985);
    /// There is no such object.
    pub(super) const NOT_FOUND: Self = Self(0x6a82);
    /// There is no such key.
    pub(super) const NO_REFERENCE: Self = Self(0x6a88);

    /// The tries left for the PIN, if the status reports them: after a wrong PIN, and after a VERIFY without a PIN.
    pub(super) fn tries(self) -> Option<u8> {
        match self.0 {
            0x63c0..=0x63cf => Some((self.0 & 0xf) as u8),
            0x6983 => Some(0),
            _ => None,
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(super) enum CardError {
    /// The card refused the command, named here by its PIV name.
    Status(&'static str, Status),
    /// The card did not answer. The command may have been carried out.
    Transport(TransportError),
    /// An error in the terms of the layer above.
    Token(TokenError),
}

pub(super) type CardResult<T> = Result<T, CardError>;

impl From<TokenError> for CardError {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

impl CardError {
    /// Whether the card refused with this status.
    pub(super) fn is(&self, status: Status) -> bool {
        matches!(self, Self::Status(_, answer) if *answer == status)
    }
}

impl From<CardError> for TokenError {
    fn from(error: CardError) -> Self {
        match error {
            CardError::Token(error) => error,
            CardError::Transport(error) => error.into(),
            CardError::Status(operation, Status(status)) => {
                Self::Device { operation: Cow::Borrowed(operation), reason: format!("the card answered {status:04X}") }
            }
        }
    }
}

impl From<TransportError> for TokenError {
    fn from(error: TransportError) -> Self {
        match error {
            // A card that another program uses is as good as absent: it works again without anybody's doing.
            TransportError::Away(reason) | TransportError::InUse(reason) => Self::Away(reason),
            TransportError::Ambiguous(reason) => Self::Config(reason),
            TransportError::Unusable(reason) => Self::Unsupported(reason),
            TransportError::Denied(reason) | TransportError::Reset(reason) => {
                Self::Device { operation: Cow::Borrowed("PC/SC"), reason }
            }
        }
    }
}

/// An instruction with its parameters. `name` is its PIV name, for errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) ins: u8,
    pub(super) p1: u8,
    pub(super) p2: u8,
}

/// Sends a command with its data. Returns the response without its status word.
pub(super) fn send(card: &mut dyn CardTransaction, command: Command, data: &[u8]) -> CardResult<Zeroizing<Vec<u8>>> {
    let Command { name, ins, p1, p2 } = command;
    let mut parts = data.chunks(MAX_DATA).peekable();
    let mut last: &[u8] = &[];
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            last = part;
            break;
        }
        let (status, _) = exchange(card, &apdu(0x10, ins, p1, p2, part, false))?;
        if status != 0x9000 {
            return Err(CardError::Status(name, Status(status)));
        }
    }
    let (mut status, mut response) = exchange(card, &apdu(0, ins, p1, p2, last, true))?;
    while status >> 8 == 0x61 && response.len() < MAX_RESPONSE {
        let (next, more) = exchange(card, &[0, 0xc0, 0, 0, status as u8])?;
        // The vector has its full size from the start: a vector that grows leaves a copy of a secret behind.
        let mut both = Zeroizing::new(Vec::with_capacity(response.len() + more.len()));
        both.extend_from_slice(&response);
        both.extend_from_slice(&more);
        (status, response) = (next, both);
    }
    if status == 0x9000 { Ok(response) } else { Err(CardError::Status(name, Status(status))) }
}

/// A short APDU, with Le = 256 if it is the last of its chain.
fn apdu(cla: u8, ins: u8, p1: u8, p2: u8, data: &[u8], last: bool) -> Zeroizing<Vec<u8>> {
    let mut apdu = Zeroizing::new(Vec::with_capacity(6 + data.len()));
    apdu.extend([cla, ins, p1, p2]);
    if !data.is_empty() {
        apdu.push(data.len() as u8);
        apdu.extend_from_slice(data);
    }
    if last {
        apdu.push(0);
    }
    apdu
}

fn exchange(card: &mut dyn CardTransaction, apdu: &[u8]) -> CardResult<(u16, Zeroizing<Vec<u8>>)> {
    let mut response = card.transmit(apdu).map_err(CardError::Transport)?;
    let Some((data, status)) = response.split_last_chunk::<2>() else {
        return Err(CardError::Transport(TransportError::Reset("the card's response has no status word".into())));
    };
    let (status, length) = (u16::from_be_bytes(*status), data.len());
    response.truncate(length);
    Ok((status, response))
}
