//! YubiKeys in PC/SC readers: through pcscd on Linux, through the system's own service elsewhere.

use std::{
    ffi::CString,
    fmt,
    sync::mpsc,
    time::{Duration, Instant},
};

use pcsc::Error;

use super::{
    algorithm::Firmware,
    identity::{Identity, serial_of_management},
    pcsc_card::{ANSWER_LIMIT, ConnectingCard, PcscCard, Report, context, in_transaction, transport_error},
    transport::{Readers, Transport, TransportError},
};

/// Part of the name of every YubiKey's reader, in lower case.
const READER_NAME: &str = "yubikey";

/// How long the other YubiKeys may answer once the wanted one has. They take milliseconds. If this process ended meanwhile,
/// pcscd would reset them, and another program's PIN would not be verified any more.
const GRACE: Duration = Duration::from_millis(300);

/// The YubiKeys of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct PcscReaders;

/// The YubiKeys that are inserted.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct InsertedYubiKeys {
    /// The serial numbers of those that can be used.
    pub serials: Vec<u32>,
    /// Those that cannot be used.
    pub passed_over: Vec<PassedOver>,
}

/// A YubiKey that is inserted and cannot be used. Its text ([`Display`](fmt::Display)) names reader, serial number and
/// cause.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassedOver {
    /// The name of its reader.
    pub reader: String,
    /// Its serial number, if it is known.
    pub serial: Option<u32>,
    /// Why it cannot be used.
    pub cause: TransportError,
}

impl PcscReaders {
    /// The YubiKeys that are inserted.
    ///
    /// # Errors
    /// [`TransportError`] if the PC/SC service does not answer.
    pub fn inserted(&self) -> Result<InsertedYubiKeys, TransportError> {
        let Search { found, mut unusable } = Search::run(|_| false)?;
        let serials = found.iter().map(|(serial, _)| *serial).collect();
        Ok(InsertedYubiKeys { serials, passed_over: unusable.iter_mut().map(Unusable::named).collect() })
    }
}

impl Readers for PcscReaders {
    fn connect(&self, serial: Option<u32>) -> Result<Box<dyn Transport>, TransportError> {
        let Search { mut found, mut unusable } = Search::run(|serials| serial == Some(serials))?;
        let index = match serial {
            Some(serial) => found.iter().position(|(other, _)| *other == serial),
            // If another YubiKey does not answer, that one may be meant, and this one must not get the PIN.
            None => (found.len() == 1 && !unusable.iter().any(Unusable::may_be_any)).then_some(0),
        };
        if let Some(index) = index {
            for other in &unusable {
                tracing::info!(reader = other.reader, cause = %other.cause, "YubiKey passed over");
            }
            return Ok(Box::new(found.swap_remove(index).1));
        }
        let serials: Vec<u32> = found.iter().map(|(serial, _)| *serial).collect();
        drop(found);
        let passed_over: Vec<PassedOver> = unusable.iter_mut().map(Unusable::named).collect();
        Err(not_found(serial, &serials, &passed_over))
    }
}

/// The error if the wanted YubiKey is not among those that can be used.
fn not_found(wanted: Option<u32>, found: &[u32], passed_over: &[PassedOver]) -> TransportError {
    let listed: Vec<String> = found.iter().map(u32::to_string).collect();
    let listed = listed.join(", ");
    let named: Vec<String> = passed_over.iter().map(PassedOver::to_string).collect();
    let named = named.join("; ");
    let in_use = passed_over.iter().find(|other| other.serial.is_none() && other.cause.may_pass());
    if let Some(denied) = passed_over.iter().find(|other| matches!(other.cause, TransportError::Denied(_))) {
        return denied.cause.clone();
    }
    let also = if named.is_empty() { String::new() } else { format!("; passed over: {named}") };
    match (wanted, in_use) {
        (None, _) if found.len() > 1 => TransportError::Ambiguous(format!(
            "several YubiKeys are inserted: add serial= to the URI to name one ({listed}{also})"
        )),
        (None, Some(_)) => TransportError::InUse(format!(
            "a YubiKey cannot be examined, so it is not clear which one is meant: add serial= to the URI{}{also}",
            if found.is_empty() { String::new() } else { format!(" (found {listed})") }
        )),
        (None, None) => match passed_over {
            [] => TransportError::Away("insert a YubiKey".into()),
            _ => TransportError::Away(format!("insert another YubiKey{also}")),
        },
        (Some(serial), _) => match passed_over.iter().find(|other| other.serial == Some(serial)) {
            Some(wanted) => TransportError::Unusable(wanted.to_string()),
            None => {
                let found = if found.is_empty() { String::new() } else { format!(" (found {listed})") };
                match in_use {
                    Some(_) => TransportError::InUse(format!(
                        "insert the YubiKey with serial {serial}, or free it{found}{also}"
                    )),
                    None => TransportError::Away(format!("insert the YubiKey with serial {serial}{found}{also}")),
                }
            }
        },
    }
}

/// What is in the readers.
struct Search {
    /// The YubiKeys that can be used, each with its serial number.
    found: Vec<(u32, PcscCard)>,
    unusable: Vec<Unusable>,
}

impl Search {
    /// Connects to the cards in all readers at once, until `is_enough` accepts the serial number of one of them, and then
    /// for [`GRACE`]. A reader that does not answer within [`ANSWER_LIMIT`] is unusable.
    fn run(is_enough: impl Fn(u32) -> bool) -> Result<Self, TransportError> {
        let mut until = Instant::now() + ANSWER_LIMIT + Duration::from_millis(500);
        let (report, reports) = mpsc::channel::<(usize, Report)>();
        let mut connecting = Vec::new();
        for (index, reader) in readers()?.into_iter().enumerate() {
            let report = report.clone();
            connecting.push(Some(ConnectingCard::start(reader, move |found| {
                // Nobody waits for it any more.
                let _ = report.send((index, found));
            })?));
        }
        drop(report);
        let mut search = Self { found: Vec::new(), unusable: Vec::new() };
        while let Ok((index, report)) = reports.recv_timeout(until.saturating_duration_since(Instant::now())) {
            let Some(card) = connecting.get_mut(index).and_then(Option::take) else { continue };
            let reader = card.reader().to_owned();
            match report {
                Ok(Identity::Usable { serial }) => {
                    search.found.push((serial, card.connected()));
                    if is_enough(serial) {
                        until = until.min(Instant::now() + GRACE);
                    }
                }
                Ok(Identity::PivOff { serial }) => search.unusable.push(Unusable {
                    cause: TransportError::Unusable(
                        "its PIV application is switched off (`ykman config usb --enable PIV` switches it on)".into(),
                    ),
                    serial,
                    reader,
                    card: None,
                }),
                Ok(Identity::TooOld { firmware, serial }) => search.unusable.push(Unusable {
                    cause: TransportError::Unusable(format!(
                        "it has firmware {firmware}, and {} or later is needed",
                        Firmware::METADATA
                    )),
                    serial,
                    reader,
                    card: Some(card.connected()),
                }),
                // An empty reader.
                Err(TransportError::Away(_)) => {}
                Err(cause) => search.unusable.push(Unusable { reader, serial: None, cause, card: None }),
            }
        }
        for card in connecting.into_iter().flatten() {
            let reader = card.reader().to_owned();
            search.unusable.push(Unusable { cause: in_transaction(&reader), reader, serial: None, card: None });
        }
        Ok(search)
    }
}

/// A YubiKey that cannot be used.
struct Unusable {
    reader: String,
    serial: Option<u32>,
    cause: TransportError,
    /// The connection to a card that may say its serial number yet.
    card: Option<PcscCard>,
}

impl Unusable {
    /// Whether this may be any YubiKey, since it does not say what it is.
    fn may_be_any(&self) -> bool {
        self.serial.is_none() && (self.cause.may_pass() || matches!(self.cause, TransportError::Denied(_)))
    }

    /// Asks for the serial number, if the PIV applet does not say it. Then the card forgets that its PIN was verified: so
    /// this is called only for the message to a person.
    fn named(&mut self) -> PassedOver {
        if let (None, Some(card)) = (self.serial, &mut self.card) {
            let mut serial = None;
            // The message goes without the number if the card does not say it.
            let _ = card.transaction(&mut |exchange| serial = serial_of_management(exchange));
            self.serial = serial;
        }
        PassedOver { reader: self.reader.clone(), serial: self.serial, cause: self.cause.clone() }
    }
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Some causes name the reader themselves.
        let cause = self.cause.to_string();
        let cause = cause.strip_prefix(&format!("{}: ", self.reader)).unwrap_or(&cause);
        match self.serial {
            Some(serial) => write!(f, "the YubiKey {serial} in {:?}: {cause}", self.reader),
            None => write!(f, "the YubiKey in {:?}: {cause}", self.reader),
        }
    }
}

/// The readers of YubiKeys.
fn readers() -> Result<Vec<CString>, TransportError> {
    // A new context is made each time: an old context does not work after a restart of pcscd (pcsc-lite 1.9.9).
    let context = context()?;
    match context.list_readers_owned() {
        Ok(readers) => Ok(readers
            .into_iter()
            .filter(|reader| reader.to_string_lossy().to_ascii_lowercase().contains(READER_NAME))
            .collect()),
        Err(Error::NoReadersAvailable) => Ok(Vec::new()),
        Err(error) => Err(transport_error("the PC/SC service", error)),
    }
}
