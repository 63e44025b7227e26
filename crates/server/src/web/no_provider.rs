//! Stands in for `provider.rs` in a program that was built without the feature `oidc`.

use crate::api::problem::Refusal;

/// `GET /login/oidc`
pub async fn begin() -> Refusal {
    missing()
}

/// `GET /login/oidc/callback`
pub async fn end() -> Refusal {
    missing()
}

fn missing() -> Refusal {
    Refusal::not_found("login provider: this program was built without the feature oidc")
}
