//! The forms of the screens.

use axum::{
    extract::{FromRequest, Request},
    http::request::Parts,
};

use super::fault::Fault;
use crate::{
    api::{
        extract::{require_type, whole_body},
        problem::Refusal,
    },
    auth::{Principal, Via, cookie, guard::must_be_csrf_token},
};

/// Longest form: a rollout to some hundred devices by name.
const FORM_BYTES_MAX: u64 = 256 * 1024;

/// The fields of a form that this browser's session sent. There is no other way to them than
/// through the session's CSRF token, so no handler can forget to look at it.
pub struct Form(Vec<(String, String)>);

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self, Fault> {
        let (parts, body) = request.into_parts();
        require_type(&parts.headers, "application/x-www-form-urlencoded")?;
        let bytes = whole_body(body, FORM_BYTES_MAX).await?;
        let form = Self(form_urlencoded::parse(&bytes).into_owned().collect());
        form.must_be_of_session(&parts)?;
        Ok(form)
    }
}

impl Form {
    fn must_be_of_session(&self, parts: &Parts) -> Result<(), Refusal> {
        let principal = parts.extensions.get::<Principal>();
        if principal.is_some_and(|principal| principal.via == Via::Bearer) {
            return Ok(());
        }
        let id = cookie(&parts.headers).unwrap_or("");
        must_be_csrf_token(id, self.text("csrf"))
    }

    /// A field without the blanks around it; empty where it is absent.
    pub fn text(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.trim())
    }

    /// A field that may be left empty.
    pub fn maybe(&self, name: &str) -> Option<String> {
        Some(self.text(name).to_owned()).filter(|text| !text.is_empty())
    }

    /// All fields, in their order.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}
