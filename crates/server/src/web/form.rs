//! The forms of the screens.

use axum::{
    extract::{FromRequest, Multipart, Request, multipart::MultipartError},
    http::{StatusCode, request::Parts},
};
use bytes::Bytes;
use fota_proto::limits::IMAGE_BYTES_MAX;
use tokio::sync::OwnedSemaphorePermit;

use super::fault::Fault;
use crate::{
    AppState,
    api::{
        extract::{require_type, too_large, whole_body},
        problem::Refusal,
    },
    auth::{Principal, Via, cookie, guard::must_be_csrf_token},
};

/// Longest form: a rollout to some hundred devices by name.
const FORM_BYTES_MAX: u64 = 256 * 1024;

/// Longest form with a file: a bundle of the largest image, its signature, and the other fields.
pub const UPLOAD_BYTES_MAX: usize = IMAGE_BYTES_MAX as usize + 64 * 1024;

/// A form with a file. Its fields come before the file, so that one without the session's CSRF
/// token is refused before the file is read.
pub struct UploadForm {
    fields: Form,
    pub file: Bytes,
    /// Kept as long as the file is.
    pub turn: Option<OwnedSemaphorePermit>,
}

impl FromRequest<AppState> for UploadForm {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Fault> {
        require_type(request.headers(), "multipart/form-data")?;
        let (parts, body) = request.into_parts();
        let same = Request::from_parts(parts.clone(), body);
        let read = Multipart::from_request(same, state).await;
        let mut multipart = read.map_err(|error| refused(&error.body_text()))?;
        let mut fields = Form(Vec::new());
        while let Some(field) = multipart.next_field().await.map_err(broken)? {
            let name = field.name().unwrap_or("").to_owned();
            if name == "file" {
                fields.must_be_of_session(&parts)?;
                let turn = state.uploads.clone().acquire_owned().await.ok();
                let file = field.bytes().await.map_err(broken)?;
                return Ok(Self { fields, file, turn });
            }
            let text = field.text().await.map_err(broken)?;
            fields.0.push((name, text));
        }
        Err(Refusal::field("file", "there is no file: choose one").into())
    }
}

impl UploadForm {
    /// A field that may be left empty.
    pub fn maybe(&self, name: &str) -> Option<String> {
        self.fields.maybe(name)
    }
}

fn broken(error: MultipartError) -> Fault {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let limit = UPLOAD_BYTES_MAX as u64;
        return too_large(limit, limit).into();
    }
    refused(&error.body_text())
}

fn refused(reason: &str) -> Fault {
    Refusal::field("body", format!("the form cannot be read: {reason}")).into()
}

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

    /// A field as it was typed, blanks included.
    pub fn whole(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }

    /// A number that may be left out.
    pub fn number<T: std::str::FromStr>(&self, name: &'static str) -> Result<Option<T>, Refusal> {
        let Some(text) = self.maybe(name) else {
            return Ok(None);
        };
        let shown: String = text.chars().take(20).collect();
        let number = text.parse().map(Some);
        number.map_err(|_| Refusal::field(name, format!("{name} is {shown:?}: give digits only")))
    }

    /// All fields, in their order.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}
