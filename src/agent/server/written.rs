//! Tells when a response was written to its connection. Until then the reply in it does not count as sent.

use std::{
    convert::Infallible,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

/// The replies that hyper has taken and not yet written to a connection.
#[derive(Default)]
pub struct UnwrittenReplies(Mutex<Vec<oneshot::Sender<bool>>>);

impl UnwrittenReplies {
    fn lock(&self) -> MutexGuard<'_, Vec<oneshot::Sender<bool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that hyper has taken was written.
    fn all_written(&self) {
        for written in self.lock().drain(..) {
            // The outbox may have given up waiting.
            let _ = written.send(true);
        }
    }
}

/// The body of a response that is a reply.
pub struct ReplyBody {
    packed: Option<Bytes>,
    written: Option<oneshot::Sender<bool>>,
    unwritten: Arc<UnwrittenReplies>,
}

impl ReplyBody {
    /// A body that yields `true` on `written` once the packed message is written. If the connection ends before, the
    /// channel is closed.
    pub fn new(packed: String, written: oneshot::Sender<bool>, unwritten: Arc<UnwrittenReplies>) -> Self {
        Self { packed: Some(packed.into()), written: Some(written), unwritten }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // hyper puts the data into its buffer before it flushes next, and flushes only after it has written its buffer.
        let written = self.written.take();
        self.unwritten.lock().extend(written);
        Poll::Ready(self.packed.take().map(|packed| Ok(Frame::data(packed))))
    }

    fn is_end_stream(&self) -> bool {
        self.packed.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.packed.as_ref().map_or(0, |packed| packed.len() as u64))
    }
}

/// A connection that tells when it has written the replies.
pub struct ReportingStream<I> {
    io: I,
    unwritten: Arc<UnwrittenReplies>,
}

impl<I> ReportingStream<I> {
    /// A stream over `io` that reports on `unwritten`.
    pub fn new(io: I, unwritten: Arc<UnwrittenReplies>) -> Self {
        Self { io, unwritten }
    }
}

impl<I> Drop for ReportingStream<I> {
    /// What was not written by now never is.
    fn drop(&mut self) {
        self.unwritten.lock().clear();
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for ReportingStream<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for ReportingStream<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(context))?;
        self.unwritten.all_written();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
