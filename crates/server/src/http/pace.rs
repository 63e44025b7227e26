//! A request's body that must come at a least rate.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Limits;

/// The body came too slowly.
#[derive(Debug, thiserror::Error)]
#[error("{bytes} bytes in {seconds} s; a body must come at {bytes_per_s_min} bytes/s at least")]
pub(crate) struct TooSlow {
    bytes: u64,
    seconds: u64,
    bytes_per_s_min: u64,
}

/// Its time starts when it is first asked for bytes: before that the peer may have to wait.
pub(super) struct Paced {
    body: Incoming,
    limits: Limits,
    bytes: u64,
    started: Option<Instant>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    pub fn new(body: Incoming, limits: Limits) -> Self {
        Self {
            body,
            limits,
            bytes: 0,
            started: None,
            deadline: None,
        }
    }

    /// When the next bytes must be there, by how many came so far.
    fn due(&self, started: Instant) -> Instant {
        let earned = self.bytes / self.limits.body_bytes_per_s_min.max(1);
        started + self.limits.body_grace + Duration::from_secs(earned)
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let started = *self.started.get_or_insert_with(Instant::now);
        let due = self.due(started);
        let now = Instant::now();
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx)
            && now < due
        {
            self.deadline = None;
            let data = frame.as_ref().and_then(|frame| frame.as_ref().ok());
            let bytes = data.and_then(Frame::data_ref).map_or(0, Bytes::len);
            self.bytes += bytes as u64;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if now < due {
            let deadline = self
                .deadline
                .get_or_insert_with(|| Box::pin(sleep_until(due)));
            ready!(deadline.as_mut().poll(cx));
        }
        Poll::Ready(Some(Err(Box::new(TooSlow {
            bytes: self.bytes,
            seconds: started.elapsed().as_secs(),
            bytes_per_s_min: self.limits.body_bytes_per_s_min,
        }))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
