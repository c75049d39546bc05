//! The agent's end of a connection: frames out at once or as there is room, frames in to whoever waits for them.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::unix::net::UnixStream as StdStream,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{Notify, oneshot},
};
use zeroize::Zeroizing;

use super::{
    frame::{Inbox, value},
    wire::{Answer, Failure, Said, Status},
};
use crate::crypto::{Cek, EncryptedKey};

/// Who hears what the keeper says of its token.
pub(super) trait Hear: Send + Sync + 'static {
    fn told(&self, status: Status) -> io::Result<()>;
}

/// What came back, no longer in the frame.
pub(super) enum Reply {
    Signature(Vec<u8>),
    Cek(Cek),
    EncryptedKeys(Vec<EncryptedKey>),
}

/// Who waits for an answer.
pub(super) type Asker = oneshot::Sender<Result<Reply, Failure>>;

/// One connection.
pub(super) struct Link {
    pub(super) stream: UnixStream,
    out: Mutex<VecDeque<Zeroizing<Vec<u8>>>>,
    more: Notify,
    inbox: Mutex<Inbox>,
    /// Who waits; none when the connection has ended.
    pub(super) pending: Mutex<Option<HashMap<u64, Asker>>>,
    /// The keeper wants another to take over.
    pub(super) ending: AtomicBool,
    pub(super) successor: Notify,
    /// Another has: this one is read until all is answered.
    pub(super) superseded: AtomicBool,
}

impl Link {
    pub(super) fn new(stream: StdStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: UnixStream::from_std(stream)?,
            out: Mutex::default(),
            more: Notify::new(),
            inbox: Mutex::new(Inbox::new()),
            pending: Mutex::new(Some(HashMap::new())),
            ending: AtomicBool::new(false),
            successor: Notify::new(),
            superseded: AtomicBool::new(false),
        })
    }

    /// Sends a frame now, or as soon as there is room for it.
    pub(super) fn write(&self, frame: Zeroizing<Vec<u8>>) {
        let mut out = lock(&self.out);
        out.push_back(frame);
        // What is left, or an error that shows itself again there, is the task's.
        if out.len() > 1 || !matches!(self.flush(&mut out), Ok(true)) {
            self.more.notify_one();
        }
    }

    /// Writes as much as there is room for. Whether all of it is out.
    fn flush(&self, out: &mut VecDeque<Zeroizing<Vec<u8>>>) -> io::Result<bool> {
        while let Some(frame) = out.front_mut() {
            match send(&self.stream, frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(bytes) if bytes == frame.len() => drop(out.pop_front()),
                Ok(bytes) => *frame = Zeroizing::new(frame[bytes..].to_vec()),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// The first frame.
    pub(super) async fn first(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        loop {
            if let Some(content) = lock(&self.inbox).next()? {
                return Ok(content);
            }
            self.receive().await?;
        }
    }

    /// Waits until something has come, and takes it in.
    async fn receive(&self) -> io::Result<()> {
        self.stream.readable().await?;
        let mut inbox = lock(&self.inbox);
        match self.stream.try_io(Interest::READABLE, || fill(&self.stream, &mut inbox)) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads and writes until the connection ends, or is done with.
    async fn read(&self, hearer: &Weak<impl Hear>) -> io::Result<()> {
        while !self.is_done() {
            tokio::select! {
                received = self.receive() => {
                    received?;
                    let Some(hearer) = hearer.upgrade() else { return Ok(()) };
                    self.dispatch(&mut lock(&self.inbox), &*hearer)?;
                }
                () = self.more.notified() => {
                    while !self.flush(&mut lock(&self.out))? {
                        self.stream.writable().await?;
                        // Its readiness is tokio's to know; the write is tried as often as it says that there is room.
                        let full = || -> io::Result<()> {
                            if self.flush(&mut lock(&self.out))? { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
                        };
                        match self.stream.try_io(Interest::WRITABLE, full) {
                            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                            _ => {}
                        }
                        // Answers must be taken, or both sides would wait for room.
                        let Some(hearer) = hearer.upgrade() else { return Ok(()) };
                        self.drain(&*hearer)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes in what is there, without waiting, unless another does so just now.
    pub(super) fn drain(&self, hearer: &impl Hear) -> io::Result<()> {
        let Ok(mut inbox) = self.inbox.try_lock() else { return Ok(()) };
        match fill(&self.stream, &mut inbox) {
            // The end of the connection is seen by who waits for it.
            Ok(_) => self.dispatch(&mut inbox, hearer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives out the frames that are whole.
    fn dispatch(&self, inbox: &mut Inbox, hearer: &impl Hear) -> io::Result<()> {
        while let Some(content) = inbox.next()? {
            match value(&content)? {
                Said::Answer { id, answer } => {
                    let waits = lock(&self.pending).as_mut().and_then(|pending| pending.remove(&id));
                    // Who does not wait any more wants no answer.
                    if let Some(waits) = waits {
                        let _ = waits.send(match answer {
                            Ok(Answer::Signature(signature)) => Ok(Reply::Signature(signature.to_vec())),
                            Ok(Answer::Cek(cek)) => Ok(Reply::Cek(Cek::new(cek.to_vec()))),
                            Ok(Answer::EncryptedKeys(keys)) => {
                                Ok(Reply::EncryptedKeys(keys.into_iter().map(<[u8]>::to_vec).collect()))
                            }
                            Ok(_) => Err(Failure::Interrupted),
                            Err(failure) => Err(failure),
                        });
                    }
                }
                Said::Changed(status) => hearer.told(status)?,
                Said::Ending => {
                    self.ending.store(true, Ordering::Release);
                    self.successor.notify_one();
                }
                Said::Welcome(_) | Said::Refused(_) => return Err(io::Error::other("the keeper says welcome twice")),
            }
        }
        Ok(())
    }

    /// Another has taken over.
    pub(super) fn supersede(&self) {
        self.superseded.store(true, Ordering::Release);
        self.more.notify_one();
    }

    /// Whether another has taken over, and nothing waits for an answer here; then nothing is asked here any more.
    fn is_done(&self) -> bool {
        let mut pending = lock(&self.pending);
        let done = self.superseded.load(Ordering::Acquire) && pending.as_ref().is_none_or(HashMap::is_empty);
        if done {
            *pending = None;
        }
        done
    }
}

fn fill(stream: &UnixStream, inbox: &mut Inbox) -> io::Result<usize> {
    loop {
        match recv(stream, inbox.room()?, RecvFlags::DONTWAIT) {
            Ok((_, bytes)) => {
                inbox.filled(bytes);
                return Ok(bytes);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads and writes until the connection ends, or nobody needs it any more.
pub(super) async fn read(link: Arc<Link>, hearer: Weak<impl Hear>) -> io::Result<()> {
    // However it ends, and though it is aborted: who waits is told.
    let _end = End(&link);
    link.read(&hearer).await
}

struct End<'l>(&'l Link);

impl Drop for End<'_> {
    fn drop(&mut self) {
        *lock(&self.0.pending) = None;
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
