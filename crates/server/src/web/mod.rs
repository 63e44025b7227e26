//! The dashboard.

use axum::Router;

use crate::AppState;

/// Routes of the dashboard.
pub fn routes(_state: &AppState) -> Router<AppState> {
    Router::new()
}
