//! A server without a network, a clock or tasks of its own: requests are function calls, and
//! whoever embeds it says when time passes. For simulations that are to repeat exactly.

use std::fs::File;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode, header},
};
use tokio::sync::watch;
use tower::ServiceExt;

use crate::{
    AppState, Clock, Config, StartError, api, fleet,
    service::advance,
    start::{Opened, open},
    store::StoreError,
};

/// Largest answer that is read, bytes: a page of devices fits.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// See the module.
pub struct Embedded {
    router: Router,
    state: AppState,
    operator_token: String,
    /// Held to the end: another server must not open the same data.
    _lock: File,
    _end: watch::Sender<bool>,
}

impl Embedded {
    /// Opens the data directory of `config`; what it says of addresses and TLS means nothing here.
    pub async fn open(config: Config, clock: Clock) -> Result<Self, StartError> {
        let Opened {
            state,
            operator_token,
            lock,
            end,
        } = open(config, clock).await?;
        Ok(Self {
            router: api::router(state.clone()),
            state,
            operator_token,
            _lock: lock,
            _end: end,
        })
    }

    /// One request as the operator, or as a device where `kind` is that of a check-in.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> (StatusCode, Vec<u8>) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, kind)
            .header(
                header::AUTHORIZATION,
                format!("Bearer {}", self.operator_token),
            )
            .body(Body::from(body));
        let Ok(request) = request else {
            return (StatusCode::BAD_REQUEST, Vec::new());
        };
        // The router never fails: what goes wrong is an answer.
        let Ok(answer) = self.router.clone().oneshot(request).await;
        let status = answer.status();
        let body = to_bytes(answer.into_body(), ANSWER_BYTES_MAX).await;
        (status, body.map(Vec::from).unwrap_or_default())
    }

    /// Does what a running server does each second.
    pub async fn tick(&self) -> Result<(), StoreError> {
        fleet::flush(&self.state).await?;
        advance::tick(&self.state).await
    }
}
