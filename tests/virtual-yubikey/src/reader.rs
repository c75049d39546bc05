//! The connection to a reader: vsmartcard's vpcd, a reader driver of pcscd, connects to a card over TCP.

use std::{
    io,
    net::{Ipv4Addr, Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use vpicc::{Connection, VSmartCard};

use crate::{ATR, VirtualYubiKey};

/// How often the program looks for a missing reader, and whether the card is unplugged.
pub const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A YubiKey that is plugged into a reader of this machine's pcscd, until this is dropped.
pub struct ReaderConnection {
    unplugged: Arc<AtomicBool>,
    dropped: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl ReaderConnection {
    /// Plugs the YubiKey in as soon as vpcd listens on `port` of 127.0.0.1.
    pub fn plug_in(yubikey: &VirtualYubiKey, port: u16) -> Self {
        let (unplugged, dropped) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (yubikey, is_unplugged, is_dropped) = (yubikey.clone(), unplugged.clone(), dropped.clone());
        let thread = thread::spawn(move || {
            while !is_dropped.load(Ordering::SeqCst) {
                if !is_unplugged.load(Ordering::SeqCst)
                    && let Ok(reader) = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                {
                    let (is_unplugged, is_dropped) = (is_unplugged.clone(), is_dropped.clone());
                    let is_gone = move || is_unplugged.load(Ordering::SeqCst) || is_dropped.load(Ordering::SeqCst);
                    if let Err(error) = serve(&yubikey, reader, is_gone, || {}) {
                        eprintln!("virtual-yubikey: {error}");
                    }
                }
                // vpcd accepts the next connection only after it has noticed that this one ended.
                thread::sleep(POLL_INTERVAL);
            }
        });
        Self { unplugged, dropped, thread: Some(thread) }
    }

    /// Unplugs the YubiKey, or plugs it in again if `unplugged` is false. The reader notices after [`POLL_INTERVAL`].
    pub fn unplug(&self, unplugged: bool) {
        self.unplugged.store(unplugged, Ordering::SeqCst);
    }
}

impl Drop for ReaderConnection {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves a connection to vpcd until the YubiKey is unplugged or the connection ends. Calls `ready` at the beginning.
///
/// # Errors
/// Errors of the connection, except its end.
pub fn serve(
    yubikey: &VirtualYubiKey,
    reader: TcpStream,
    is_unplugged: impl Fn() -> bool + Send + 'static,
    ready: impl FnOnce(),
) -> io::Result<()> {
    reader.set_nodelay(true)?;
    let (watched, same_reader) = (reader.try_clone()?, reader.try_clone()?);
    yubikey.faults().plug_in();
    ready();
    let has_ended = Arc::new(AtomicBool::new(false));
    let watch = {
        let (has_ended, faults) = (has_ended.clone(), yubikey.faults());
        thread::spawn(move || {
            while !has_ended.load(Ordering::SeqCst) && !is_unplugged() {
                thread::sleep(POLL_INTERVAL);
            }
            // Also ends a command in progress.
            faults.unplug();
            // Fails if the reader has ended the connection already.
            let _ = watched.shutdown(Shutdown::Both);
        })
    };
    let mut connection = Connection::from(reader);
    let mut card = Card(yubikey.clone());
    let ended = loop {
        // Without TCP_QUICKACK each APDU waits for a delayed acknowledgement: 20 APDUs a second instead of 7,000. Linux
        // resets the option, so it is set each time.
        #[cfg(target_os = "linux")]
        rustix::net::sockopt::set_tcp_quickack(&same_reader, true)?;
        if let Err(error) = connection.poll(&mut card) {
            break error;
        }
    };
    drop(same_reader);
    has_ended.store(true, Ordering::SeqCst);
    watch.join().map_err(|_| io::Error::other("the thread that watches for unplugging panicked"))?;
    match ended.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(ended),
    }
}

/// The YubiKey as vpcd uses it.
struct Card(VirtualYubiKey);

impl VSmartCard for Card {
    fn atr(&self) -> &[u8] {
        ATR
    }

    fn power_on(&mut self) {
        self.0.reset();
    }

    fn power_off(&mut self) {
        self.0.reset();
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn execute(&mut self, apdu: &[u8]) -> Vec<u8> {
        // An unplugged card does not respond, and the reader is gone.
        self.0.transmit(apdu).unwrap_or_default()
    }
}
