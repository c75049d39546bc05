//! A WebSocket's connection, on which a message that is not whole has its weight and its time, as a body has.

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

use super::hall::Burden;

/// What a control frame of a client's has beside its payload: two bytes, and the mask (RFC 6455 section 5.2).
const CONTROL: usize = 6;

pub struct Weighed<I> {
    io: I,
    burden: Burden,
    time: Duration,
    /// Set while there is part of a message.
    late: Option<Pin<Box<Sleep>>>,
}

impl<I> Weighed<I> {
    pub fn new(io: I, burden: Burden, time: Duration) -> Self {
        Self { io, burden, time, late: None }
    }

    /// What came is a whole message.
    pub fn whole(&mut self) {
        self.burden.lightens(usize::MAX);
        self.late = None;
    }

    /// A control frame came, perhaps between the parts of a message.
    pub fn control(&mut self, payload: usize) {
        if self.burden.lightens(CONTROL + payload) == 0 {
            self.late = None;
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Weighed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(context, buffer) else {
            let Some(late) = &mut self.late else { return Poll::Pending };
            ready!(late.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        };
        let came = buffer.filled().len() - before;
        if read.is_ok() && came > 0 {
            if !self.burden.grows(came) {
                return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
            }
            let time = self.time;
            self.late.get_or_insert_with(|| Box::pin(sleep(time)));
        }
        Poll::Ready(read)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Weighed<I> {
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
