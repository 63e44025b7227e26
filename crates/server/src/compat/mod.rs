//! Foreign protocols, one file each: adapters that turn their requests into the same check-in and
//! their answers out of the same order.

use axum::Router;

use crate::AppState;

/// Routes of all adapters.
pub fn routes(_state: &AppState) -> Router<AppState> {
    Router::new()
}
