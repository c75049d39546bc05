//! The keeper's end of a connection. Threads take requests from it in turn: one reads, the others work.

use std::{
    collections::VecDeque,
    io::{self, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, recv},
};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    Peer,
    frame::{Inbox, frame, value},
    wire::{Hello, Role},
};
use crate::secrets::keyring::{Pace, make_way};

/// Requests that are read before their turn, in bytes: so far ahead is looked whether one was called off.
const AHEAD: usize = 8 << 20;
/// What a request costs beside its content, in bytes, so that very many small ones are few too.
const EACH: usize = 128;
/// The first frame is short, in bytes: longer ones come from who is no agent.
const LONGEST_HELLO: usize = 64;
/// Who does not take an answer for so long is let go.
const SLOWEST_READER: Duration = Duration::from_secs(10);

/// A connection.
pub(super) struct Connection {
    stream: UnixStream,
    waiting: Mutex<Waiting>,
    /// One frame at a time.
    out: Mutex<()>,
    pub(super) peer: Peer,
    pub(super) role: Role,
    /// For the next change that it asks for, and for no other's.
    pub(super) management_key: Mutex<Option<Zeroizing<Vec<u8>>>>,
}

/// What was read and has not had its turn.
struct Waiting {
    inbox: Inbox,
    requests: VecDeque<(u64, Zeroizing<Vec<u8>>)>,
    bytes: usize,
    ended: bool,
}

impl Connection {
    /// Reads the first frame. Who it is that speaks is the kernel's word.
    pub(super) fn accept(stream: UnixStream) -> io::Result<(Self, Hello)> {
        stream.set_write_timeout(Some(SLOWEST_READER))?;
        stream.set_read_timeout(Some(SLOWEST_READER))?;
        let mut waiting = Waiting { inbox: Inbox::new(), requests: VecDeque::new(), bytes: 0, ended: false };
        let until = Instant::now() + SLOWEST_READER;
        let content = loop {
            if waiting.inbox.length()?.is_some_and(|length| length > LONGEST_HELLO) || Instant::now() > until {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "that is no hello"));
            }
            match waiting.inbox.next()? {
                Some(content) => break content,
                None if !waiting.fill(&stream, RecvFlags::empty())? => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => {}
            }
        };
        let hello: Hello = value(&content)?;
        stream.set_read_timeout(None)?;
        let peer = Peer::of(&stream);
        let role = hello.role;
        Ok((
            Self {
                stream,
                waiting: Mutex::new(waiting),
                out: Mutex::default(),
                peer,
                role,
                management_key: Mutex::default(),
            },
            hello,
        ))
    }

    /// The next request, if one has come.
    pub(super) fn try_next(&self) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        // Who has it reads for all, and gives this thread its turn.
        let Ok(mut waiting) = self.waiting.try_lock() else { return Ok(None) };
        waiting.take_in(&self.stream)?;
        Ok(waiting.pop())
    }

    /// The next request, in the order in which they came; none when the other side has gone.
    ///
    /// A quick token's thread stays awake for it for a moment.
    pub(super) fn next(&self, pace: &Pace) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let mut waiting = lock(&self.waiting);
        let awake = pace.awake_until();
        loop {
            waiting.take_in(&self.stream)?;
            if let Some(content) = waiting.pop() {
                return Ok(Some(content));
            }
            if waiting.ended {
                return Ok(None);
            }
            if awake.is_some_and(|until| Instant::now() < until) {
                make_way();
                continue;
            }
            waiting.fill(&self.stream, RecvFlags::empty())?;
            waiting.sort()?;
        }
    }

    /// Sends a frame.
    pub(super) fn send(&self, said: &impl Serialize) -> io::Result<()> {
        self.write(&frame(said)?)
    }

    /// Sends frames.
    pub(super) fn write(&self, frames: &[u8]) -> io::Result<()> {
        let _out = lock(&self.out);
        let sent = (&self.stream).write_all(frames);
        if sent.is_err() {
            // Half a frame may be out: nothing can follow it.
            self.close();
        }
        sent
    }

    /// Ends it; whoever waits for its next request is woken.
    pub(super) fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Waiting {
    /// All that has come: one that waits may have been called off.
    fn take_in(&mut self, stream: &UnixStream) -> io::Result<()> {
        while self.bytes < AHEAD && !self.ended && self.fill(stream, RecvFlags::DONTWAIT)? {
            self.sort()?;
        }
        Ok(())
    }

    fn pop(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        let (_, content) = self.requests.pop_front()?;
        self.bytes -= EACH + content.len();
        Some(content)
    }

    /// Nothing more comes. Who has gone gets no answer either: what waits is not begun.
    fn end(&mut self, gone: bool) {
        self.ended = true;
        if gone {
            self.requests.clear();
            self.bytes = 0;
        }
    }

    /// Reads once. False if nothing is there, or the other side has gone.
    fn fill(&mut self, stream: &UnixStream, flags: RecvFlags) -> io::Result<bool> {
        loop {
            match recv(stream, self.inbox.room()?, flags) {
                Ok((_, 0)) => {
                    self.end(has_gone(stream));
                    return Ok(false);
                }
                Ok((_, bytes)) => {
                    self.inbox.filled(bytes);
                    return Ok(true);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                // Who leaves without reading all that was said has left.
                Err(rustix::io::Errno::CONNRESET) => {
                    self.end(true);
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes whole frames out, and what was called off with them. Both kinds of frame begin alike: which, and whose.
    fn sort(&mut self) -> io::Result<()> {
        const REQUEST: u32 = 0;
        while let Some(content) = self.inbox.next()? {
            let ((kind, id), _) = postcard::take_from_bytes::<(u32, u64)>(&content).map_err(io::Error::other)?;
            if kind == REQUEST {
                self.bytes += EACH + content.len();
                self.requests.push_back((id, content));
            } else if let Some(at) = self.requests.iter().position(|(waits, _)| *waits == id) {
                self.bytes -= self.requests.remove(at).map_or(0, |(_, content)| EACH + content.len());
            }
        }
        Ok(())
    }
}

/// Whether the other side reads no more either.
fn has_gone(stream: &UnixStream) -> bool {
    let mut hung_up = [PollFd::new(stream, PollFlags::empty())];
    poll(&mut hung_up, Some(&Timespec::default())).is_ok() && hung_up[0].revents().contains(PollFlags::HUP)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
