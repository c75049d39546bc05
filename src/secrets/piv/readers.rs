//! Cards behind PC/SC: pcscd here, the system's own service elsewhere.

use std::ffi::{CStr, CString};

use pcsc::{Card, Context, Disposition, Error, Protocols, Scope, ShareMode, Transaction};
use zeroize::Zeroizing;

use super::{
    apdu::Fault,
    card,
    transport::{Exchange, Readers, Transport, TransportError},
};

/// Longer than any answer to a short APDU (ISO 7816-4: 256 bytes and the status word).
const ANSWER: usize = 258;
/// In the name of a YubiKey's reader.
const NAME: &str = "yubikey";

/// The readers of this machine that are YubiKeys.
#[derive(Debug, Clone, Copy, Default)]
pub struct PcscReaders;

impl PcscReaders {
    /// The serial numbers of the YubiKeys that are there; one that does not answer is passed over.
    ///
    /// # Errors
    /// [`TransportError`] if the PC/SC service, or the only one, does not answer.
    pub fn serials(&self) -> Result<Vec<u32>, TransportError> {
        match Seen::now()? {
            Seen { cards, trouble: Some(error) } if cards.is_empty() => Err(error),
            Seen { cards, .. } => Ok(cards.iter().map(|(serial, _)| *serial).collect()),
        }
    }
}

impl Readers for PcscReaders {
    fn connect(&self, serial: Option<u32>) -> Result<Box<dyn Transport>, TransportError> {
        let Seen { cards: mut seen, trouble } = Seen::now()?;
        let at = match serial {
            Some(serial) => seen.iter().position(|(found, _)| *found == serial),
            None if seen.len() > 1 => {
                return Err(TransportError::Ambiguous(format!(
                    "several YubiKeys are here: name one by its serial number in the URI ({})",
                    serials(&seen)
                )));
            }
            // One that does not answer may be the one that is meant: the PIN is not for the other.
            None => (!seen.is_empty() && trouble.is_none()).then_some(0),
        };
        match (at, trouble, serial) {
            (Some(at), ..) => Ok(Box::new(seen.swap_remove(at).1)),
            // One that did not answer may be the one that is wanted.
            (None, Some(error), _) => Err(error),
            (None, None, None) => Err(TransportError::Away("insert a YubiKey".into())),
            (None, None, Some(serial)) => Err(TransportError::Away(match seen.is_empty() {
                true => format!("insert the YubiKey with serial {serial}"),
                false => format!("insert the YubiKey with serial {serial} (here is {})", serials(&seen)),
            })),
        }
    }
}

/// The YubiKeys that are there.
struct Seen {
    /// Each with its serial number.
    cards: Vec<(u32, PcscCard)>,
    /// What went wrong with one that did not answer.
    trouble: Option<TransportError>,
}

impl Seen {
    fn now() -> Result<Self, TransportError> {
        // After a restart of pcscd only a new context works (pcsc-lite 1.9.9).
        let context = Context::establish(Scope::User).map_err(|error| said("the PC/SC service", error))?;
        let (mut cards, mut trouble) = (Vec::new(), None);
        for reader in readers(&context)? {
            let mut card = match PcscCard::connect(&context, &reader) {
                Ok(card) => card,
                // An empty reader.
                Err(TransportError::Away(_)) => continue,
                Err(error) => {
                    trouble = Some(error);
                    continue;
                }
            };
            match card.serial() {
                Ok(found) => cards.push((found, card)),
                Err(TransportError::Away(_)) => {}
                Err(error) => trouble = Some(error),
            }
        }
        Ok(Self { cards, trouble })
    }
}

fn serials(seen: &[(u32, PcscCard)]) -> String {
    let serials: Vec<String> = seen.iter().map(|(serial, _)| serial.to_string()).collect();
    serials.join(", ")
}

fn readers(context: &Context) -> Result<Vec<CString>, TransportError> {
    match context.list_readers_owned() {
        Ok(readers) => Ok(readers
            .into_iter()
            .filter(|reader| reader.to_string_lossy().to_ascii_lowercase().contains(NAME))
            .collect()),
        Err(Error::NoReadersAvailable) => Ok(Vec::new()),
        Err(error) => Err(said("the PC/SC service", error)),
    }
}

struct PcscCard {
    /// None once it is let go.
    card: Option<Card>,
    reader: String,
}

impl PcscCard {
    fn connect(context: &Context, reader: &CStr) -> Result<Self, TransportError> {
        let name = reader.to_string_lossy().into_owned();
        match context.connect(reader, ShareMode::Shared, Protocols::T1) {
            Ok(card) => Ok(Self { card: Some(card), reader: name }),
            Err(error) => Err(said(&name, error)),
        }
    }

    fn serial(&mut self) -> Result<u32, TransportError> {
        let mut serial = Err(TransportError::Reset(format!("{} did not say its serial number", self.reader)));
        self.transaction(&mut |exchange| {
            serial = match card::Card::select(exchange) {
                Ok(card) => Ok(card.serial),
                Err(Fault::Lost(error)) => Err(error),
                Err(_) => Err(TransportError::Reset("its PIV applet does not answer".into())),
            };
        })?;
        serial
    }
}

impl Transport for PcscCard {
    fn transaction(&mut self, work: &mut dyn FnMut(&mut dyn Exchange)) -> Result<(), TransportError> {
        let reader = self.reader.clone();
        let card = self.card.as_mut().expect("it is let go only at the end");
        let mut within = Within { transaction: card.transaction().map_err(|error| said(&reader, error))?, reader };
        work(&mut within);
        // The default would be the same; what is wanted is said.
        let _ = within.transaction.end(Disposition::LeaveCard);
        Ok(())
    }
}

impl Drop for PcscCard {
    fn drop(&mut self) {
        // Dropped by itself it would reset the card, and with it another program's verified PIN.
        if let Some(card) = self.card.take() {
            let _ = card.disconnect(Disposition::LeaveCard);
        }
    }
}

struct Within<'c> {
    transaction: Transaction<'c>,
    reader: String,
}

impl Exchange for Within<'_> {
    fn transmit(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TransportError> {
        let mut answer = Zeroizing::new(vec![0; ANSWER]);
        match self.transaction.transmit(command, &mut answer) {
            Ok(said) => {
                let length = said.len();
                answer.truncate(length);
                Ok(answer)
            }
            Err(error) => Err(said(&self.reader, error)),
        }
    }
}

/// What an error of PC/SC means here, and what to do.
fn said(of: &str, error: Error) -> TransportError {
    match error {
        Error::NoService | Error::ServiceStopped => TransportError::Away(
            "the PC/SC service does not run: install and start pcscd (`apt-get install pcscd`, `systemctl start pcscd`)"
                .into(),
        ),
        Error::SharingViolation => TransportError::InUse(format!(
            "another program has {of} for itself: close it (gpg's scdaemon is one that does; `gpgconf --kill scdaemon`)"
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
