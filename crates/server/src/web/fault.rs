//! What went wrong, as a page.

use askama::Template;
use axum::response::{IntoResponse, Response};

use super::{assets, html_response};
use crate::{api::problem::Refusal, store::StoreError};

/// A refusal that a person reads in a browser.
pub struct Fault(Refusal);

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self(error.into())
    }
}

#[derive(Template)]
#[template(path = "fault.html")]
struct Page<'a> {
    style: &'static str,
    icon: &'static str,
    title: &'a str,
    detail: &'a str,
    code: &'a str,
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let Self(refusal) = self;
        let status = refusal.status();
        let page = Page {
            style: assets::style().path(),
            icon: assets::icon().path(),
            title: status.canonical_reason().unwrap_or("It did not work"),
            detail: refusal.detail(),
            code: refusal.code(),
        };
        html_response(status, page.render().unwrap_or_default())
    }
}
