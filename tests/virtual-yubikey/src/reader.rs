//! A reader for it: vsmartcard's vpcd, which pcscd takes for one, speaks to a card over TCP.

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

/// How often is looked for a reader that is not there, and whether the card is unplugged.
pub const GLANCE: Duration = Duration::from_millis(50);

/// A YubiKey in a reader of this machine's pcscd, until this is dropped.
pub struct InReader {
    unplugged: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl InReader {
    /// Plugs it in where vpcd listens on `port` of 127.0.0.1, as soon as it does.
    pub fn plug_in(yubikey: &VirtualYubiKey, port: u16) -> Self {
        let (unplugged, end) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (yubikey, out, over) = (yubikey.clone(), unplugged.clone(), end.clone());
        let thread = thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                if !out.load(Ordering::SeqCst)
                    && let Ok(reader) = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                {
                    let (out, over) = (out.clone(), over.clone());
                    let gone = move || out.load(Ordering::SeqCst) || over.load(Ordering::SeqCst);
                    if let Err(error) = serve(&yubikey, reader, gone, || {}) {
                        eprintln!("virtual-yubikey: {error}");
                    }
                }
                // vpcd takes the next connection only when it has noticed that this one ended.
                thread::sleep(GLANCE);
            }
        });
        Self { unplugged, end, thread: Some(thread) }
    }

    /// Takes it out, or puts it back in; it takes a moment until the reader sees it.
    pub fn unplug(&self, unplugged: bool) {
        self.unplugged.store(unplugged, Ordering::SeqCst);
    }
}

impl Drop for InReader {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Is in the reader, which is a connection to vpcd, until it is unplugged or the reader goes; `ready` is called when it is.
///
/// # Errors
/// Those of the connection, but for its end.
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
    let over = Arc::new(AtomicBool::new(false));
    let watch = {
        let (over, faults) = (over.clone(), yubikey.faults());
        thread::spawn(move || {
            while !over.load(Ordering::SeqCst) && !is_unplugged() {
                thread::sleep(GLANCE);
            }
            // A command at work is left, too.
            faults.unplug();
            let _gone_already = watched.shutdown(Shutdown::Both);
        })
    };
    let mut connection = Connection::from(reader);
    let mut card = Card(yubikey.clone());
    let ended = loop {
        // Otherwise each APDU waits for a delayed acknowledgement: 20 a second instead of 7,000. Linux forgets it.
        #[cfg(target_os = "linux")]
        rustix::net::sockopt::set_tcp_quickack(&same_reader, true)?;
        if let Err(error) = connection.poll(&mut card) {
            break error;
        }
    };
    drop(same_reader);
    over.store(true, Ordering::SeqCst);
    watch.join().map_err(|_| io::Error::other("it cannot be watched whether it is unplugged"))?;
    match ended.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(ended),
    }
}

/// The YubiKey as vpcd speaks to it.
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
        // There is no answer from what is not there, and no reader any more that could take one.
        self.0.transmit(apdu).unwrap_or_default()
    }
}
