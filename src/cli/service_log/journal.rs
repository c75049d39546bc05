//! The journal of systemd: each event with its fields, by the native protocol
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).

use std::{
    env,
    fmt::{self, Write as _},
    io::{self, Write as _},
    os::unix::net::UnixDatagram,
    path::Path,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// A layer that sends events to the journal. The socket is connected when the layer is made, before the sandbox.
pub struct Journal(UnixDatagram);

impl Journal {
    /// The journal, if systemd says that stderr is connected to it (systemd.exec(5), `$JOURNAL_STREAM`).
    pub fn of_stderr() -> Option<Self> {
        let stream = env::var("JOURNAL_STREAM").ok()?;
        let stderr = rustix::fs::fstat(io::stderr()).ok()?;
        (stream == format!("{}:{}", stderr.st_dev, stderr.st_ino)).then(|| Self::connect(Path::new(SOCKET)).ok())?
    }

    fn connect(socket: &Path) -> io::Result<Self> {
        let journal = UnixDatagram::unbound()?;
        journal.connect(socket)?;
        Ok(Self(journal))
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        let text = format!("{}{}", entry.message, entry.words);
        let mut datagram = entry.fields;
        let priority = match *event.metadata().level() {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            Level::DEBUG | Level::TRACE => "7",
        };
        add(&mut datagram, "PRIORITY", priority);
        add(&mut datagram, "SYSLOG_IDENTIFIER", "claviger");
        add(&mut datagram, "MESSAGE", &text);
        if self.0.send(&datagram).is_err() {
            // Too large for a datagram, or journald is away. Its stream may still take the text.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }
}

/// The fields of an event.
#[derive(Default)]
struct Entry {
    message: String,
    /// The fields after the message, as in the log for people.
    words: String,
    /// The fields in the journal's form.
    fields: Vec<u8>,
}

impl Entry {
    fn add(&mut self, field: &Field, text: &str, shown: &str) {
        if field.name() == "message" {
            text.clone_into(&mut self.message);
            return;
        }
        // Writing to a string cannot fail.
        let _ = write!(self.words, " {}={shown}", field.name());
        let upper = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
        let name: String = field.name().chars().map(upper).collect();
        add(&mut self.fields, &format!("CLAVIGER_{name}"), text);
    }
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.add(field, &text, &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value, &format!("{value:?}"));
    }
}

/// Adds a field. A value with a line feed needs its length before it, or what follows would be another field.
fn add(datagram: &mut Vec<u8>, name: &str, value: &str) {
    datagram.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        datagram.push(b'\n');
        datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        datagram.push(b'=');
    }
    datagram.extend_from_slice(value.as_bytes());
    datagram.push(b'\n');
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn an_event_has_its_fields_and_none_is_forged() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("journal");
        let journald = UnixDatagram::bind(&socket).unwrap();
        let subscriber = tracing_subscriber::registry().with(Journal::connect(&socket).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(reason = "two\nPRIORITY=0", tries = 3, "message refused");
        });
        let mut datagram = [0; 1000];
        let length = journald.recv(&mut datagram).unwrap();
        let mut wanted = b"CLAVIGER_REASON\n".to_vec();
        wanted.extend(14u64.to_le_bytes());
        wanted.extend(b"two\nPRIORITY=0\nCLAVIGER_TRIES=3\nPRIORITY=4\nSYSLOG_IDENTIFIER=claviger\n");
        wanted.extend(b"MESSAGE=message refused reason=\"two\\nPRIORITY=0\" tries=3\n");
        assert_eq!(String::from_utf8_lossy(&datagram[..length]), String::from_utf8_lossy(&wanted));
    }
}
