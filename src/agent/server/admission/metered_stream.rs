//! The byte stream below a WebSocket, which limits the size and the duration of an incomplete message.
//!
//! An incomplete message on a WebSocket is bounded as an HTTP body is: by the byte budget and by a timeout.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::bytes::ByteReservation;

/// The bytes of a client's control frame besides its payload: two bytes for the header, and four for the mask (RFC 6455
/// section 5.2).
const CONTROL_FRAME_OVERHEAD: usize = 6;

/// A stream that counts the bytes it reads.
///
/// Reading fails with [`io::ErrorKind::QuotaExceeded`] when the byte budget has no room, and with
/// [`io::ErrorKind::TimedOut`] when a message is incomplete for too long.
pub struct MeteredStream<I> {
    io: I,
    reservation: ByteReservation,
    message_timeout: Duration,
    /// When the message must be complete. Set while only part of a message has arrived.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<I> MeteredStream<I> {
    /// A stream over `io` whose bytes count against `reservation`, and whose messages must arrive within
    /// `message_timeout`.
    pub fn new(io: I, reservation: ByteReservation, message_timeout: Duration) -> Self {
        Self { io, reservation, message_timeout, deadline: None }
    }

    /// Records that a message is complete and no longer in memory: its bytes are released.
    pub fn message_done(&mut self) {
        self.reservation.release(usize::MAX);
        self.deadline = None;
    }

    /// Records that a control frame with this payload has arrived, perhaps between the frames of a message.
    pub fn control_frame_done(&mut self, payload: usize) {
        if self.reservation.release(CONTROL_FRAME_OVERHEAD + payload) == 0 {
            self.deadline = None;
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for MeteredStream<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(context, buffer) else {
            let Some(deadline) = &mut self.deadline else { return Poll::Pending };
            ready!(deadline.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        };
        let received = buffer.filled().len() - before;
        if read.is_ok() && received > 0 {
            if !self.reservation.try_grow(received) {
                return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
            }
            let timeout = self.message_timeout;
            self.deadline.get_or_insert_with(|| Box::pin(sleep(timeout)));
        }
        Poll::Ready(read)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for MeteredStream<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
