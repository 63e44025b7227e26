//! Foreign protocols. Each is an adapter: its requests become the same check-in that a native
//! device sends, its answers come from the same order. None has a state machine of its own.

mod seed;

use axum::Router;

use crate::AppState;

/// All routes of all foreign protocols.
pub fn routes(state: &AppState) -> Router<AppState> {
    seed::routes(state)
}
