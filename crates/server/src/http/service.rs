//! One connection's requests on their way to the routes and back.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

use axum::{Router, body, extract::Request, http::HeaderValue, http::header};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::service::TowerToHyperService;

use super::{ClientAddr, Front, pace::Paced};
use crate::tls::{self, PeerIdentity};

/// Who is at the other end of a connection.
pub(super) struct Peer {
    pub addr: IpAddr,
    pub is_tls: bool,
    pub identity: Option<PeerIdentity>,
}

/// Whether a connection waits for the head of a request, or has one that it answers; and how many
/// requests it had, so that one which came and went between two looks is noticed.
#[derive(Clone, Default)]
pub(super) struct Phase(Arc<AtomicU32>);

impl Phase {
    /// The lowest bit; the count of requests is above it.
    const BUSY: u32 = 1;

    /// A number that differs for each request and each wait.
    pub fn now(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn is_head_awaited(now: u32) -> bool {
        now & Self::BUSY == 0
    }

    /// Only one request of a connection is under way, so nothing comes between load and store.
    fn begin(&self) {
        let count = self.now() >> 1;
        let next = count.wrapping_add(1) << 1;
        self.0.store(next | Self::BUSY, Ordering::Relaxed);
    }

    fn end(&self) {
        self.0.fetch_and(!Self::BUSY, Ordering::Relaxed);
    }
}

/// Tells the routes who asks, and holds request bodies to their pace.
pub(super) struct Service {
    front: Arc<Front>,
    routes: TowerToHyperService<Router>,
    peer: Peer,
    phase: Phase,
}

impl Service {
    pub fn new(front: Arc<Front>, peer: Peer, phase: Phase) -> Self {
        Self {
            routes: TowerToHyperService::new(front.router.clone()),
            front,
            peer,
            phase,
        }
    }

    /// The request as the routes get it.
    fn prepared(&self, request: Request<Incoming>) -> Request {
        let (mut parts, body) = request.into_parts();
        let peer = &self.peer;
        let (addr, via) = self
            .front
            .proxies
            .resolve(peer.addr, peer.is_tls, &parts.headers);
        parts.extensions.insert(ClientAddr(addr));
        parts.extensions.insert(via);
        if let Some(identity) = &peer.identity {
            parts.extensions.insert(identity.clone());
        }
        let body = body::Body::new(Paced::new(body, self.front.limits));
        Request::from_parts(parts, body)
    }
}

type Answer = Pin<
    Box<dyn Future<Output = Result<hyper::Response<Answering>, std::convert::Infallible>> + Send>,
>;

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = hyper::Response<Answering>;
    type Error = std::convert::Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        self.phase.begin();
        let phase = self.phase.clone();
        let tls = self.front.tls.as_ref().filter(|_| self.peer.is_tls);
        let hsts = tls.is_some_and(|tls| tls.is_for_browsers());
        let answer = hyper::service::Service::call(&self.routes, self.prepared(request));
        Box::pin(async move {
            let mut response = answer.await?;
            if hsts {
                let value = HeaderValue::from_static(tls::HSTS);
                let headers = response.headers_mut();
                headers.insert(header::STRICT_TRANSPORT_SECURITY, value);
            }
            Ok(response.map(|body| Answering { body, phase }))
        })
    }
}

/// An answer's body; when it is gone, the connection waits for the next head.
pub(super) struct Answering {
    body: body::Body,
    phase: Phase,
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.phase.end();
    }
}
