//! The keeper's end of a connection. The keeper's threads take requests from the connection in turn: one thread reads
//! while the others work.

use std::{
    collections::VecDeque,
    io::{self, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::Mutex,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, recv},
};
use zeroize::Zeroizing;

use super::{
    frame::{FrameBuffer, decode, encode_frame},
    peer_credentials::PeerCredentials,
    wire::{Hello, Role, ServerFrame},
};
use crate::secrets::{
    latency::{Latency, yield_processor},
    mutex::lock,
};

/// The keeper reads ahead up to this many bytes of waiting requests, to find cancellations.
const MAX_WAITING: usize = 8 << 20;
/// How many bytes a waiting request counts in addition to its content, so that the number of small requests
/// is limited too.
const REQUEST_OVERHEAD: usize = 128;
/// The longest content of a hello, in bytes.
const MAX_HELLO: usize = 64;
/// A client that takes longer to send its hello, or to read a response, is disconnected.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// A client's connection.
pub(super) struct ServerConnection {
    stream: UnixStream,
    waiting: Mutex<WaitingRequests>,
    /// Held while a frame is sent.
    sending: Mutex<()>,
    pub(super) peer: PeerCredentials,
    pub(super) role: Role,
    /// The management key for this connection's next change.
    pub(super) management_key: Mutex<Option<Zeroizing<Vec<u8>>>>,
}

/// Requests that were read and not begun.
struct WaitingRequests {
    received: FrameBuffer,
    /// Each request's id and its frame's content.
    requests: VecDeque<(u64, Zeroizing<Vec<u8>>)>,
    bytes: usize,
    has_ended: bool,
}

impl ServerConnection {
    /// Accepts a connection from `peer` and reads the client's hello.
    pub(super) fn accept(stream: UnixStream, peer: PeerCredentials) -> io::Result<(Self, Hello)> {
        stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
        stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
        let mut waiting =
            WaitingRequests { received: FrameBuffer::new(), requests: VecDeque::new(), bytes: 0, has_ended: false };
        let until = Instant::now() + CLIENT_TIMEOUT;
        let content = loop {
            if waiting.received.next_length()?.is_some_and(|length| length > MAX_HELLO) || Instant::now() > until {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the first frame is not a hello"));
            }
            match waiting.received.next_frame()? {
                Some(content) => break content,
                None if !waiting.read(&stream, RecvFlags::empty())? => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => {}
            }
        };
        let hello: Hello = decode(&content)?;
        stream.set_read_timeout(None)?;
        let connection = Self {
            stream,
            waiting: Mutex::new(waiting),
            sending: Mutex::default(),
            peer,
            role: hello.role,
            management_key: Mutex::default(),
        };
        Ok((connection, hello))
    }

    /// The content of the next request, if one has arrived.
    pub(super) fn try_next(&self) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        // If another thread holds the lock, that thread is reading already.
        let Ok(mut waiting) = self.waiting.try_lock() else { return Ok(None) };
        waiting.read_all(&self.stream)?;
        Ok(waiting.pop())
    }

    /// Waits for the content of the next request. Requests are returned in the order in which they came. Returns `None`
    /// when the client has closed the connection.
    ///
    /// If the token is fast, the thread polls for a moment before it sleeps ([`Latency::poll_until`]).
    pub(super) fn next(&self, latency: &Latency) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let mut waiting = lock(&self.waiting);
        let poll_until = latency.poll_until();
        loop {
            waiting.read_all(&self.stream)?;
            if let Some(content) = waiting.pop() {
                return Ok(Some(content));
            }
            if waiting.has_ended {
                return Ok(None);
            }
            if poll_until.is_some_and(|until| Instant::now() < until) {
                yield_processor();
                continue;
            }
            waiting.read(&self.stream, RecvFlags::empty())?;
            waiting.take_frames()?;
        }
    }

    /// Sends a frame.
    pub(super) fn send(&self, frame: &ServerFrame<'_>) -> io::Result<()> {
        self.send_encoded(&encode_frame(frame)?)
    }

    /// Sends encoded frames.
    pub(super) fn send_encoded(&self, frames: &[u8]) -> io::Result<()> {
        let _sending = lock(&self.sending);
        let sent = (&self.stream).write_all(frames);
        if sent.is_err() {
            // Part of a frame may have been sent, so nothing can follow.
            self.close();
        }
        sent
    }

    /// Closes the connection. A thread that waits for the next request wakes up.
    pub(super) fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl WaitingRequests {
    /// Reads everything that has arrived, since a cancellation may be among it.
    fn read_all(&mut self, stream: &UnixStream) -> io::Result<()> {
        while self.bytes < MAX_WAITING && !self.has_ended && self.read(stream, RecvFlags::DONTWAIT)? {
            self.take_frames()?;
        }
        Ok(())
    }

    fn pop(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        let (_, content) = self.requests.pop_front()?;
        self.bytes -= REQUEST_OVERHEAD + content.len();
        Some(content)
    }

    /// Records that the client sends nothing more. If the client cannot read responses either (`is_gone`), waiting
    /// requests are dropped.
    fn end(&mut self, is_gone: bool) {
        self.has_ended = true;
        if is_gone {
            self.requests.clear();
            self.bytes = 0;
        }
    }

    /// Reads once. Returns false if nothing has arrived, or the client has closed the connection.
    fn read(&mut self, stream: &UnixStream, flags: RecvFlags) -> io::Result<bool> {
        loop {
            match recv(stream, self.received.free_space()?, flags) {
                Ok((_, 0)) => {
                    self.end(has_hung_up(stream));
                    return Ok(false);
                }
                Ok((_, bytes)) => {
                    self.received.add(bytes);
                    return Ok(true);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                // The client closed the connection before it had read everything.
                Err(rustix::io::Errno::CONNRESET) => {
                    self.end(true);
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Queues the requests that have arrived completely, and removes those that are cancelled. Both kinds of
    /// [`ClientFrame`](super::wire::ClientFrame) begin with the number of the variant and a request id.
    fn take_frames(&mut self) -> io::Result<()> {
        const REQUEST: u32 = 0;
        while let Some(content) = self.received.next_frame()? {
            let ((kind, id), _) = postcard::take_from_bytes::<(u32, u64)>(&content).map_err(io::Error::other)?;
            if kind == REQUEST {
                self.bytes += REQUEST_OVERHEAD + content.len();
                self.requests.push_back((id, content));
            } else if let Some(at) = self.requests.iter().position(|(waiting, _)| *waiting == id) {
                self.bytes -= self.requests.remove(at).map_or(0, |(_, content)| REQUEST_OVERHEAD + content.len());
            }
        }
        Ok(())
    }
}

/// Whether the client has closed both directions, and so reads no more responses.
fn has_hung_up(stream: &UnixStream) -> bool {
    let mut events = [PollFd::new(stream, PollFlags::empty())];
    poll(&mut events, Some(&Timespec::default())).is_ok() && events[0].revents().contains(PollFlags::HUP)
}
