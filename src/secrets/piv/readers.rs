//! YubiKeys in PC/SC readers: through pcscd on Linux, through the system's own service elsewhere.

use std::ffi::{CStr, CString};

use pcsc::{Card, Context, Disposition, Error, Protocols, Scope, ShareMode, Transaction};
use zeroize::Zeroizing;

use super::{
    apdu::CardError,
    card,
    transport::{CardTransaction, Readers, Transport, TransportError},
};

/// The longest response to a short APDU, in bytes: 256 and the status word (ISO 7816-4).
const MAX_RESPONSE: usize = 258;
/// Part of the name of every YubiKey's reader, in lower case.
const READER_NAME: &str = "yubikey";

/// The YubiKeys of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct PcscReaders;

impl PcscReaders {
    /// The serial numbers of the YubiKeys that are inserted. A YubiKey that does not answer is left out.
    ///
    /// # Errors
    /// [`TransportError`] if the PC/SC service does not answer, or if no YubiKey does.
    pub fn serials(&self) -> Result<Vec<u32>, TransportError> {
        match ConnectedCards::connect()? {
            ConnectedCards { cards, error: Some(error) } if cards.is_empty() => Err(error),
            ConnectedCards { cards, .. } => Ok(cards.iter().map(|(serial, _)| *serial).collect()),
        }
    }
}

impl Readers for PcscReaders {
    fn connect(&self, serial: Option<u32>) -> Result<Box<dyn Transport>, TransportError> {
        let ConnectedCards { mut cards, error } = ConnectedCards::connect()?;
        let index = match serial {
            Some(serial) => cards.iter().position(|(found, _)| *found == serial),
            None if cards.len() > 1 => {
                return Err(TransportError::Ambiguous(format!(
                    "several YubiKeys are inserted: add serial= to the URI to name one ({})",
                    serials(&cards)
                )));
            }
            // If another YubiKey does not answer, that one may be meant, and this one must not get the PIN.
            None => (!cards.is_empty() && error.is_none()).then_some(0),
        };
        match (index, error, serial) {
            (Some(index), ..) => Ok(Box::new(cards.swap_remove(index).1)),
            // The YubiKey that did not answer may be meant, so its error is returned.
            (None, Some(error), _) => Err(error),
            (None, None, None) => Err(TransportError::Away("insert a YubiKey".into())),
            (None, None, Some(serial)) => Err(TransportError::Away(match cards.is_empty() {
                true => format!("insert the YubiKey with serial {serial}"),
                false => format!("insert the YubiKey with serial {serial} (found {})", serials(&cards)),
            })),
        }
    }
}

/// The YubiKeys that are inserted.
struct ConnectedCards {
    /// Each card with its serial number.
    cards: Vec<(u32, PcscCard)>,
    /// The error of a card that did not answer.
    error: Option<TransportError>,
}

impl ConnectedCards {
    fn connect() -> Result<Self, TransportError> {
        // A new context is made each time: an old context does not work after a restart of pcscd (pcsc-lite 1.9.9).
        let context = Context::establish(Scope::User).map_err(|error| transport_error("the PC/SC service", error))?;
        let (mut cards, mut failure) = (Vec::new(), None);
        for reader in readers(&context)? {
            let mut card = match PcscCard::connect(&context, &reader) {
                Ok(card) => card,
                // An empty reader.
                Err(TransportError::Away(_)) => continue,
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            };
            match card.serial() {
                Ok(found) => cards.push((found, card)),
                Err(TransportError::Away(_)) => {}
                Err(error) => failure = Some(error),
            }
        }
        Ok(Self { cards, error: failure })
    }
}

fn serials(cards: &[(u32, PcscCard)]) -> String {
    let serials: Vec<String> = cards.iter().map(|(serial, _)| serial.to_string()).collect();
    serials.join(", ")
}

fn readers(context: &Context) -> Result<Vec<CString>, TransportError> {
    match context.list_readers_owned() {
        Ok(readers) => Ok(readers
            .into_iter()
            .filter(|reader| reader.to_string_lossy().to_ascii_lowercase().contains(READER_NAME))
            .collect()),
        Err(Error::NoReadersAvailable) => Ok(Vec::new()),
        Err(error) => Err(transport_error("the PC/SC service", error)),
    }
}

struct PcscCard {
    /// None once the card is disconnected, in `drop`.
    card: Option<Card>,
    reader: String,
}

impl PcscCard {
    fn connect(context: &Context, reader: &CStr) -> Result<Self, TransportError> {
        let name = reader.to_string_lossy().into_owned();
        match context.connect(reader, ShareMode::Shared, Protocols::T1) {
            Ok(card) => Ok(Self { card: Some(card), reader: name }),
            Err(error) => Err(transport_error(&name, error)),
        }
    }

    fn serial(&mut self) -> Result<u32, TransportError> {
        let mut serial = Err(TransportError::Reset(format!("{} did not report its serial number", self.reader)));
        self.transaction(&mut |exchange| {
            serial = match card::Card::select(exchange) {
                Ok(card) => Ok(card.serial),
                Err(CardError::Transport(error)) => Err(error),
                Err(_) => Err(TransportError::Reset("the card's PIV applet does not answer".into())),
            };
        })?;
        serial
    }
}

impl Transport for PcscCard {
    fn transaction(&mut self, work: &mut dyn FnMut(&mut dyn CardTransaction)) -> Result<(), TransportError> {
        let reader = self.reader.clone();
        let card = self.card.as_mut().expect("the card is disconnected only in drop");
        let mut within = PcscTransaction {
            transaction: card.transaction().map_err(|error| transport_error(&reader, error))?,
            reader,
        };
        work(&mut within);
        // LeaveCard is the default too. It is spelled out because the verified PIN depends on it.
        let _ = within.transaction.end(Disposition::LeaveCard);
        Ok(())
    }
}

impl Drop for PcscCard {
    fn drop(&mut self) {
        // The drop of `pcsc::Card` resets the card, which would also undo another program's verified PIN.
        if let Some(card) = self.card.take() {
            let _ = card.disconnect(Disposition::LeaveCard);
        }
    }
}

struct PcscTransaction<'c> {
    transaction: Transaction<'c>,
    reader: String,
}

impl CardTransaction for PcscTransaction<'_> {
    fn transmit(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TransportError> {
        let mut response = Zeroizing::new(vec![0; MAX_RESPONSE]);
        match self.transaction.transmit(command, &mut response) {
            Ok(received) => {
                let length = received.len();
                response.truncate(length);
                Ok(response)
            }
            Err(error) => Err(transport_error(&self.reader, error)),
        }
    }
}

/// Converts an error of PC/SC into an error that says what to do. `of` is what failed: a reader's name or the service.
fn transport_error(of: &str, error: Error) -> TransportError {
    match error {
        Error::NoService | Error::ServiceStopped => TransportError::Away(
            "the PC/SC service is not running: install and start pcscd (`apt-get install pcscd`, `systemctl start pcscd`)"
                .into(),
        ),
        Error::SharingViolation => TransportError::InUse(format!(
            "another program has exclusive access to {of}: close it (if it is GnuPG's scdaemon: `gpgconf --kill scdaemon`)"
        )),
        Error::NoSmartcard | Error::RemovedCard | Error::ReaderUnavailable | Error::UnknownReader => {
            TransportError::Away(format!("{of}: the card was removed"))
        }
        Error::UnpoweredCard | Error::UnresponsiveCard | Error::CommError | Error::CommDataLost | Error::NotTransacted => {
            TransportError::Away(format!("{of}: the card does not answer ({error})"))
        }
        Error::ResetCard | Error::InvalidHandle => TransportError::Reset(format!("{of}: {error}")),
        error => TransportError::Reset(format!("{of}: {error}")),
    }
}
