//! A stream that gives up on a peer that is too slow.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{Limits, service::Phase};

/// hyper has one time limit for a head and the idle time before it. Devices idle for minutes
/// between polls and send a head in milliseconds, so the two are told apart here: a head has
/// `limits.head` from its first byte on, and the first one from the connection's beginning.
pub(super) struct Guarded<S> {
    stream: S,
    phase: Phase,
    /// The phase that `head` belongs to.
    seen: u32,
    limits: Limits,
    head: Deadline,
    write: Deadline,
}

/// None while nothing is waited for; boxed, because most connections are idle.
#[derive(Default)]
struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    fn arm(&mut self, limit: Duration) {
        if self.0.is_none() {
            self.0 = Some(Box::pin(sleep_until(Instant::now() + limit)));
        }
    }

    fn disarm(&mut self) {
        self.0 = None;
    }

    /// Whether it is over; wakes the task when it is.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let sleep = self.0.as_mut();
        sleep.is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready())
    }
}

impl<S> Guarded<S> {
    pub fn new(stream: S, phase: Phase, limits: Limits) -> Self {
        let mut head = Deadline::default();
        head.arm(limits.head);
        Self {
            stream,
            seen: phase.now(),
            phase,
            limits,
            head,
            write: Deadline::default(),
        }
    }

    /// Holds the peer to the time that it has for taking bytes.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.write.disarm();
            return poll;
        }
        self.write.arm(self.limits.write_stall);
        match self.write.is_over(cx) {
            true => Poll::Ready(Err(too_slow("takes no bytes"))),
            false => Poll::Pending,
        }
    }
}

fn too_slow(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the peer {what}"))
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        let poll = Pin::new(&mut this.stream).poll_read(cx, buf);
        let now = this.phase.now();
        if now != this.seen {
            this.seen = now;
            this.head.disarm();
        }
        if !Phase::is_head_awaited(now) {
            return poll;
        }
        if poll.is_ready() && buf.filled().len() > before {
            this.head.arm(this.limits.head);
        }
        if this.head.is_over(cx) {
            return Poll::Ready(Err(too_slow("does not finish its request")));
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.written(cx, poll)
    }
}
