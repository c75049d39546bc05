//! The client's end of a connection: sends the frames of requests, and passes responses to their callers.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::unix::net::UnixStream as StdStream,
    sync::{
        Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{Notify, oneshot},
};
use zeroize::Zeroizing;

use super::{
    frame::{FrameBuffer, decode},
    wire::{Response, ServerFrame, TokenState},
    wire_types::WireError,
};
use crate::{
    crypto::{Cek, EncryptedKey},
    secrets::mutex::lock,
};

/// Is told the new state of the token when the state changes.
pub(super) trait StateListener: Send + Sync + 'static {
    fn state_changed(&self, state: TokenState) -> io::Result<()>;
}

/// The value of a response, copied out of its frame.
pub(super) enum ResponseValue {
    Signature(Vec<u8>),
    Cek(Cek),
    EncryptedKeys(Vec<EncryptedKey>),
}

/// Sends a response to its caller.
pub(super) type ResponseSender = oneshot::Sender<Result<ResponseValue, WireError>>;

/// A connection to a keeper.
pub(super) struct ClientConnection {
    stream: UnixStream,
    /// Frames that are not sent yet; the first may be sent in part.
    unsent: Mutex<VecDeque<Zeroizing<Vec<u8>>>>,
    /// Notified when the connection's task must send frames, or must check whether the connection is done.
    wake: Notify,
    received: Mutex<FrameBuffer>,
    /// The callers that wait, by request id; `None` when the connection has ended.
    callers: Mutex<Option<HashMap<u64, ResponseSender>>>,
    /// Whether the keeper has said that it will end, or this side has closed the connection.
    is_ending: AtomicBool,
    /// Notified when a connection to another keeper must take over.
    replace: Notify,
    /// Whether another connection has taken over. This connection is read until all its requests are answered.
    is_replaced: AtomicBool,
}

/// Why a request could not be registered on a connection.
pub(super) enum RegisterError {
    /// Too many requests wait.
    Busy,
    /// Another connection has just taken over.
    Replaced,
    /// The connection has ended.
    Ended,
}

impl ClientConnection {
    pub(super) fn new(stream: StdStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: UnixStream::from_std(stream)?,
            unsent: Mutex::default(),
            wake: Notify::new(),
            received: Mutex::new(FrameBuffer::new()),
            callers: Mutex::new(Some(HashMap::new())),
            is_ending: AtomicBool::new(false),
            replace: Notify::new(),
            is_replaced: AtomicBool::new(false),
        })
    }

    /// Registers the caller of a request, unless `max_callers` wait already. A failure returns the caller.
    pub(super) fn register(
        &self,
        id: u64,
        caller: ResponseSender,
        max_callers: usize,
    ) -> Result<(), (RegisterError, ResponseSender)> {
        match &mut *lock(&self.callers) {
            Some(callers) if callers.len() >= max_callers => return Err((RegisterError::Busy, caller)),
            Some(callers) => callers.insert(id, caller),
            None if self.is_replaced.load(Ordering::Acquire) => return Err((RegisterError::Replaced, caller)),
            None => return Err((RegisterError::Ended, caller)),
        };
        Ok(())
    }

    /// Forgets the caller of a request. Returns false if the request was answered, or the connection has ended.
    pub(super) fn unregister(&self, id: u64) -> bool {
        lock(&self.callers).as_mut().is_some_and(|callers| callers.remove(&id).is_some())
    }

    /// Sends a frame now, or as soon as the socket has room for it.
    pub(super) fn send(&self, frame: Zeroizing<Vec<u8>>) {
        let mut unsent = lock(&self.unsent);
        unsent.push_back(frame);
        // The connection's task sends the rest. An error occurs again in that task, which reports it.
        if unsent.len() > 1 || !matches!(self.flush(&mut unsent), Ok(true)) {
            self.wake.notify_one();
        }
    }

    /// Sends as much as the socket has room for. Returns true if everything is sent.
    fn flush(&self, unsent: &mut VecDeque<Zeroizing<Vec<u8>>>) -> io::Result<bool> {
        while let Some(frame) = unsent.front_mut() {
            match send(&self.stream, frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(bytes) if bytes == frame.len() => drop(unsent.pop_front()),
                Ok(bytes) => *frame = Zeroizing::new(frame[bytes..].to_vec()),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Waits for the first frame.
    pub(super) async fn first_frame(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        loop {
            if let Some(content) = lock(&self.received).next_frame()? {
                return Ok(content);
            }
            self.receive().await?;
        }
    }

    /// Waits for bytes and reads them.
    async fn receive(&self) -> io::Result<()> {
        self.stream.readable().await?;
        let mut received = lock(&self.received);
        match self.stream.try_io(Interest::READABLE, || read(&self.stream, &mut received)) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Receives and sends until the connection ends, or until it is replaced and all its requests are answered. Callers
    /// that still wait then get an error. The same happens if the future is dropped.
    pub(super) async fn run(&self, listener: Weak<impl StateListener>) -> io::Result<()> {
        let _dismiss = DismissCallers(self);
        while !self.is_done() {
            tokio::select! {
                received = self.receive() => {
                    received?;
                    let Some(listener) = listener.upgrade() else { return Ok(()) };
                    self.dispatch(&mut lock(&self.received), &*listener)?;
                }
                () = self.wake.notified() => {
                    while !self.flush(&mut lock(&self.unsent))? {
                        self.stream.writable().await?;
                        // The flush runs inside `try_io`, so that tokio learns whether the socket is full.
                        let flush = || -> io::Result<()> {
                            let is_sent = self.flush(&mut lock(&self.unsent))?;
                            if is_sent { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
                        };
                        match self.stream.try_io(Interest::WRITABLE, flush) {
                            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                            _ => {}
                        }
                        // Responses must be read meanwhile. Otherwise both sides might wait for room in the socket.
                        let Some(listener) = listener.upgrade() else { return Ok(()) };
                        self.receive_now(&*listener)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads and dispatches what has arrived, without waiting. Does nothing if another thread is already reading.
    pub(super) fn receive_now(&self, listener: &impl StateListener) -> io::Result<()> {
        let Ok(mut received) = self.received.try_lock() else { return Ok(()) };
        match read(&self.stream, &mut received) {
            // 0 bytes mean that the connection has ended; `run` handles that.
            Ok(_) => self.dispatch(&mut received, listener),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Handles the complete frames.
    fn dispatch(&self, received: &mut FrameBuffer, listener: &impl StateListener) -> io::Result<()> {
        while let Some(content) = received.next_frame()? {
            match decode(&content)? {
                ServerFrame::Response { id, result } => {
                    let caller = lock(&self.callers).as_mut().and_then(|callers| callers.remove(&id));
                    // A caller that was cancelled is not registered any more.
                    if let Some(caller) = caller {
                        let _ = caller.send(result.and_then(copy_value));
                    }
                }
                ServerFrame::Changed(state) => listener.state_changed(state)?,
                ServerFrame::Ending => {
                    self.is_ending.store(true, Ordering::Release);
                    self.request_replacement();
                }
                ServerFrame::Welcome(_) | ServerFrame::Refused(_) => {
                    return Err(io::Error::other("the keeper sent a second welcome"));
                }
            }
        }
        Ok(())
    }

    /// Whether the keeper has said that it will end, or this side has closed the connection.
    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// Requests that a connection to another keeper takes over.
    pub(super) fn request_replacement(&self) {
        self.replace.notify_one();
    }

    /// Waits until a connection to another keeper must take over.
    pub(super) async fn replacement_requested(&self) {
        self.replace.notified().await;
    }

    /// Marks the connection as replaced. `run` ends when its requests are answered.
    pub(super) fn set_replaced(&self) {
        self.is_replaced.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Closes the connection.
    pub(super) fn close(&self) {
        self.is_ending.store(true, Ordering::Release);
        let _ = shutdown(&self.stream, Shutdown::Both);
    }

    /// Whether the connection is replaced and no caller waits. If so, no caller can be registered any more.
    fn is_done(&self) -> bool {
        let mut callers = lock(&self.callers);
        let is_done = self.is_replaced.load(Ordering::Acquire) && callers.as_ref().is_none_or(HashMap::is_empty);
        if is_done {
            *callers = None;
        }
        is_done
    }
}

fn copy_value(response: Response<'_>) -> Result<ResponseValue, WireError> {
    match response {
        Response::Signature(signature) => Ok(ResponseValue::Signature(signature.to_vec())),
        Response::Cek(cek) => Ok(ResponseValue::Cek(Cek::new(cek.to_vec()))),
        Response::EncryptedKeys(keys) => {
            Ok(ResponseValue::EncryptedKeys(keys.into_iter().map(<[u8]>::to_vec).collect()))
        }
        _ => Err(WireError::Interrupted),
    }
}

fn read(stream: &UnixStream, received: &mut FrameBuffer) -> io::Result<usize> {
    loop {
        match recv(stream, received.free_space()?, RecvFlags::DONTWAIT) {
            Ok((_, bytes)) => {
                received.add(bytes);
                return Ok(bytes);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// When dropped, tells all callers that their connection has ended.
struct DismissCallers<'c>(&'c ClientConnection);

impl Drop for DismissCallers<'_> {
    fn drop(&mut self) {
        *lock(&self.0.callers) = None;
    }
}
