//! Commands and responses: chaining on the way out, GET RESPONSE on the way in (NIST SP 800-73-4 part 2 sections 2.4.1
//! and 2.4.2).

use std::borrow::Cow;

use zeroize::Zeroizing;

use super::transport::{Exchange, TransportError};
use crate::secrets::TokenError;

/// Data of one command, in bytes; longer is sent as a chain.
const LONGEST: usize = 255;
/// More than any response of a PIV card: who goes on is no card.
const LONGEST_RESPONSE: usize = 16 << 10;

/// A status word that is no success (ISO 7816-4 section 5.6; NIST SP 800-73-4 part 2 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status(pub(super) u16);

impl Status {
    /// No PIN, or no touch came: a card says the same of both.
    pub(super) const NOT_SATISFIED: Self = Self(0x6982);
    /// It has a rule of its own that stands against it.
    pub(super) const CONDITIONS: Self = Self(0x6985);
    /// No such object.
    pub(super) const NOT_FOUND: Self = Self(0x6a82);
    /// No such key.
    pub(super) const NO_REFERENCE: Self = Self(0x6a88);

    /// The tries that a PIN has left, after a wrong one or before any.
    pub(super) fn tries(self) -> Option<u8> {
        match self.0 {
            0x63c0..=0x63cf => Some((self.0 & 0xf) as u8),
            0x6983 => Some(0),
            _ => None,
        }
    }
}

/// Why a command was not done.
#[derive(Debug)]
pub(super) enum Fault {
    /// The card refuses it.
    Status(&'static str, Status),
    /// The card did not answer.
    Lost(TransportError),
    /// Said already.
    Token(TokenError),
}

pub(super) type Outcome<T> = Result<T, Fault>;

impl From<TokenError> for Fault {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

impl Fault {
    /// Whether the card says this.
    pub(super) fn is(&self, status: Status) -> bool {
        matches!(self, Self::Status(_, said) if *said == status)
    }
}

impl From<Fault> for TokenError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Token(error) => error,
            Fault::Lost(error) => error.into(),
            Fault::Status(operation, Status(status)) => {
                Self::Device { operation: Cow::Borrowed(operation), reason: format!("the card says {status:04X}") }
            }
        }
    }
}

impl From<TransportError> for TokenError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Away(reason) => Self::Away(reason),
            TransportError::Ambiguous(reason) => Self::Config(reason),
            TransportError::InUse(reason) | TransportError::Reset(reason) => {
                Self::Device { operation: Cow::Borrowed("PC/SC"), reason }
            }
        }
    }
}

/// An instruction and its parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) ins: u8,
    pub(super) p1: u8,
    pub(super) p2: u8,
}

/// Sends a command with its data, and returns what comes back without the status word.
pub(super) fn send(card: &mut dyn Exchange, command: Command, data: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
    let Command { name, ins, p1, p2 } = command;
    let mut parts = data.chunks(LONGEST).peekable();
    let mut last: &[u8] = &[];
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            last = part;
            break;
        }
        let (status, _) = exchange(card, &apdu(0x10, ins, p1, p2, part, false))?;
        if status != 0x9000 {
            return Err(Fault::Status(name, Status(status)));
        }
    }
    let (mut status, mut response) = exchange(card, &apdu(0, ins, p1, p2, last, true))?;
    while status >> 8 == 0x61 && response.len() < LONGEST_RESPONSE {
        let (next, more) = exchange(card, &[0, 0xc0, 0, 0, status as u8])?;
        // A vector that grows would leave a copy behind.
        let mut both = Zeroizing::new(Vec::with_capacity(response.len() + more.len()));
        both.extend_from_slice(&response);
        both.extend_from_slice(&more);
        (status, response) = (next, both);
    }
    if status == 0x9000 { Ok(response) } else { Err(Fault::Status(name, Status(status))) }
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

fn exchange(card: &mut dyn Exchange, apdu: &[u8]) -> Outcome<(u16, Zeroizing<Vec<u8>>)> {
    let mut response = card.transmit(apdu).map_err(Fault::Lost)?;
    let Some((data, status)) = response.split_last_chunk::<2>() else {
        return Err(Fault::Lost(TransportError::Reset("the card's answer has no status word".into())));
    };
    let (status, length) = (u16::from_be_bytes(*status), data.len());
    response.truncate(length);
    Ok((status, response))
}
