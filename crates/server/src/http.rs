//! Connections: accepting, limiting and ending them.
//!
//! hyper is driven directly and not through `axum::serve`, which keeps twice the memory per idle
//! connection (34 KB against 19 KB measured) and sets no time limits.

mod addresses;
mod origin;
mod pace;
mod service;
mod stream;

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::tls::{self, Tls};
use addresses::Addresses;
pub use origin::{Proxies, ProxyHeader, Via, public_base};
pub(crate) use pace::TooSlow;
use service::{Peer, Phase, Service};
use stream::Guarded;

/// Open connections; beyond them new ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 20_000;
/// A tenth of all, so that no single address takes them; whole fleets stand behind one router.
const CONNECTIONS_PER_ADDRESS_MAX: u32 = 2_000;
/// A connection without a request is closed after this: longer than the usual poll interval, so
/// that a device may keep its connection.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// From the first byte of a request's head to its last.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// A head longer than this is answered with 431; cookies and a proxy's headers fit many times.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// TLS handshakes are two round trips; slow links take a second.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// A peer that takes none of an answer for this long is gone. Erasing flash takes seconds.
const WRITE_STALL_MAX: Duration = Duration::from_secs(60);
/// A body may be as slow as it likes for so long …
const BODY_GRACE: Duration = Duration::from_secs(30);
/// … and must have come at this rate on average from then on.
const BODY_BYTES_PER_S_MIN: u64 = 1024;
/// How long requests that are under way may take when the server ends.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Pause after `accept` failed, as it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address that a request comes from: the peer's, or the one that a trusted proxy names.
/// Among the extensions of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr(pub std::net::IpAddr);

/// How much time and how many connections a peer gets. The defaults suit devices on slow links;
/// tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections from one address (of IPv6: one /64 network); trusted proxies have no limit.
    pub connections_per_address_max: u32,
    /// A connection without a request.
    pub idle: Duration,
    /// The head of a request.
    pub head: Duration,
    /// The TLS handshake.
    pub handshake: Duration,
    /// An answer of which the peer takes nothing.
    pub write_stall: Duration,
    /// Before a body's rate is looked at.
    pub body_grace: Duration,
    /// Least rate of a body, on average.
    pub body_bytes_per_s_min: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_address_max: CONNECTIONS_PER_ADDRESS_MAX,
            idle: IDLE_MAX,
            head: HEAD_MAX,
            handshake: HANDSHAKE_MAX,
            write_stall: WRITE_STALL_MAX,
            body_grace: BODY_GRACE,
            body_bytes_per_s_min: BODY_BYTES_PER_S_MIN,
        }
    }
}

/// What every connection is served with.
pub(crate) struct Front {
    pub router: Router,
    pub tls: Option<Arc<Tls>>,
    pub limits: Limits,
    pub proxies: Proxies,
}

/// Serves until `closing` says so, then lets what is under way end.
pub(crate) async fn serve(listener: TcpListener, front: Front, mut closing: watch::Receiver<bool>) {
    let front = Arc::new(front);
    let graceful = GracefulShutdown::new();
    let turns = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let addresses = Addresses::default();
    loop {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            _ = closing.wait_for(|end| *end) => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let peer = peer.ip().to_canonical();
        let max = match front.proxies.trusts(peer) {
            true => u32::MAX,
            false => front.limits.connections_per_address_max,
        };
        let Some(place) = addresses.take(peer, max) else {
            tracing::debug!(%peer, max, "too many connections from one address: closed");
            continue;
        };
        let (front, watcher, closing) = (Arc::clone(&front), graceful.watcher(), closing.clone());
        tokio::spawn(async move {
            // A connection that breaks is the peer's business.
            drop(connection(&front, stream, peer, watcher, closing).await);
            drop((turn, place));
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_MAX, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!(
            "ending with requests under way after {} s",
            DRAIN_MAX.as_secs()
        );
    }
}

async fn connection(
    front: &Arc<Front>,
    stream: TcpStream,
    addr: IpAddr,
    watcher: Watcher,
    mut closing: watch::Receiver<bool>,
) -> io::Result<()> {
    // Answers are small and whole: waiting to fill a segment only delays them.
    drop(stream.set_nodelay(true));
    let mut peer = Peer {
        addr,
        is_tls: false,
        identity: None,
    };
    let Some(tls) = &front.tls else {
        return requests(front, stream, peer, watcher).await;
    };
    let handshake = handshake(tls, stream, front.limits.handshake);
    let stream = tokio::select! {
        _ = closing.wait_for(|end| *end) => return Ok(()),
        stream = handshake => stream?,
    };
    peer.is_tls = true;
    let (_, session) = stream.get_ref();
    #[cfg(feature = "acme")]
    if session.alpn_protocol() == Some(tls::acme::ALPN) {
        // The handshake was all that the authority came for.
        return Ok(());
    }
    let certificates = session.peer_certificates().unwrap_or_default();
    peer.identity = certificates.first().and_then(|leaf| tls::name_of(leaf));
    requests(front, stream, peer, watcher).await
}

async fn handshake(
    tls: &Tls,
    stream: TcpStream,
    limit: Duration,
) -> io::Result<TlsStream<TcpStream>> {
    let accept = TlsAcceptor::from(tls.server_config()).accept(stream);
    tokio::time::timeout(limit, accept).await?
}

async fn requests<S>(front: &Arc<Front>, stream: S, peer: Peer, watcher: Watcher) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let phase = Phase::default();
    let stream = Guarded::new(stream, phase.clone(), front.limits);
    let service = Service::new(Arc::clone(front), peer, phase);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(front.limits.idle)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    watcher.watch(connection).await.map_err(io::Error::other)
}
