//! Connections: accepting, limiting and ending them.
//!
//! hyper is driven directly and not through `axum::serve`, which keeps twice the memory per idle
//! connection (34 KB against 19 KB measured) and sets no time limits.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

/// Open connections; beyond them new ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 20_000;
/// A connection on which no whole request head arrives for this long is closed: longer than the
/// usual poll interval, so that a device may keep its connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// How long requests that are under way may take when the server ends.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Pause after `accept` failed, as it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `closing` says so, then lets what is under way end.
pub async fn serve(listener: TcpListener, router: Router, mut closing: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    let turns = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            _ = closing.wait_for(|end| *end) => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let connection = connection(stream, router.clone());
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            // A connection that breaks is the peer's business.
            drop(watched.await);
            drop(turn);
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

type Service = TowerToHyperService<Router>;

fn connection(stream: TcpStream, router: Router) -> http1::Connection<TokioIo<TcpStream>, Service> {
    // Answers are small and whole: waiting to fill a segment only delays them.
    drop(stream.set_nodelay(true));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
}
