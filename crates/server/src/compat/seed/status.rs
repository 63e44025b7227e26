//! `POST /api/inverter/fota/status`: what a seed device says of itself, read into one claim.
//!
//! The device sends one of these at a time; where a post holds several fields, the one that says
//! most wins, in this order:
//!
//! | fields | claim |
//! |---|---|
//! | `rollback: true` | [`Claim::WentBack`] |
//! | `boot_status: "failed"` | [`Claim::BootFailed`] |
//! | `error` | [`Claim::Failed`] |
//! | `boot_status: "pending_reboot"` | [`Claim::Restarting`] |
//! | `boot_status: "success"` | [`Claim::Booted`] |
//! | `verified: true` | [`Claim::Verified`] |
//! | `chunk_received`, `progress` | [`Claim::Taking`] |
//! | anything else | [`Claim::Present`] |
//!
//! None of them proves what runs: the seed's firmware sends no image digest, and its version text
//! comes from a file (one form of it never updates that file, the other writes it too early).

use fota_proto::{FailureCode, limits::VERSION_BYTES_MAX};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::upload::{Refused, object, text};

/// Longest text of a report that is kept, bytes: an error line, not a log file.
const TEXT_BYTES_MAX: usize = 256;

/// One status post, as sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusPost {
    /// How many chunks the device has: a count, not an index.
    pub chunk_received: Option<u64>,
    pub total_chunks: Option<u64>,
    /// Percent, 0 to 100.
    pub progress: Option<f64>,
    pub verified: bool,
    pub boot_status: Option<String>,
    pub new_version: Option<String>,
    pub boot_count: Option<u64>,
    pub rollback: bool,
    pub error: Option<String>,
}

/// What a report says happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The device is there.
    Present,
    /// It takes chunks.
    Taking,
    /// It has the image and believes it.
    Verified,
    /// It restarts into `version`.
    Restarting { version: Option<String> },
    /// It has booted and says that it is `version`.
    Booted { version: Option<String> },
    /// It has booted and is not well.
    BootFailed,
    /// It goes, or went, back to its earlier image.
    WentBack,
    /// It gave up.
    Failed { code: FailureCode },
}

impl StatusPost {
    /// Reads a body `{"fota_status": {…}}`.
    pub fn parse(body: &[u8]) -> Result<Self, Refused> {
        let outer = object(body)?;
        let Some(Value::Object(fields)) = outer.get("fota_status") else {
            return Err(refused("fota_status", "must be a JSON object"));
        };
        Ok(Self {
            chunk_received: count(fields, "chunk_received")?,
            total_chunks: count(fields, "total_chunks")?,
            progress: percent(fields)?,
            verified: flag(fields, "verified")?,
            boot_status: kept(fields, "boot_status", TEXT_BYTES_MAX)?,
            new_version: kept(fields, "new_version", VERSION_BYTES_MAX)?,
            boot_count: count(fields, "boot_count")?,
            rollback: flag(fields, "rollback")?,
            error: kept(fields, "error", TEXT_BYTES_MAX)?,
        })
    }

    /// The claim that says most.
    pub fn claim(&self) -> Claim {
        let boot = self.boot_status.as_deref();
        let version = || self.new_version.clone();
        match (boot, &self.error) {
            _ if self.rollback => Claim::WentBack,
            (Some("failed"), _) => Claim::BootFailed,
            (_, Some(error)) => Claim::Failed {
                code: code_of(error),
            },
            (Some("pending_reboot"), _) => Claim::Restarting { version: version() },
            (Some("success"), _) => Claim::Booted { version: version() },
            _ if self.verified => Claim::Verified,
            _ if self.chunk_received.is_some() || self.progress.is_some() => Claim::Taking,
            _ => Claim::Present,
        }
    }

    /// The record of a device after `next`: a later step keeps how far the download came, a new
    /// download starts a new record.
    pub fn followed_by(&self, next: Self) -> Self {
        if next.claim() == Claim::Taking {
            return next;
        }
        Self {
            chunk_received: next.chunk_received.or(self.chunk_received),
            total_chunks: next.total_chunks.or(self.total_chunks),
            progress: next.progress.or(self.progress),
            verified: next.verified || (self.verified && next.error.is_none()),
            new_version: next.new_version.or(self.new_version.clone()),
            ..next
        }
    }
}

/// The failure code for the seed device's free text; the text itself is kept beside it.
fn code_of(error: &str) -> FailureCode {
    const WORDS: [(&str, FailureCode); 16] = [
        ("hmac", FailureCode::HashMismatch),
        ("hash", FailureCode::HashMismatch),
        ("sha", FailureCode::HashMismatch),
        ("signature", FailureCode::SignatureInvalid),
        ("timeout", FailureCode::NetTimeout),
        ("timed out", FailureCode::NetTimeout),
        ("connect", FailureCode::NetRefused),
        ("memory", FailureCode::OutOfMemory),
        ("alloc", FailureCode::OutOfMemory),
        ("space", FailureCode::NoSpace),
        ("too large", FailureCode::NoSpace),
        ("magic", FailureCode::ImageInvalid),
        ("flash", FailureCode::FlashWrite),
        ("write", FailureCode::FlashWrite),
        ("http 4", FailureCode::Http4xx),
        ("http 5", FailureCode::Http5xx),
    ];
    let error = error.to_ascii_lowercase();
    let found = WORDS.iter().find(|(word, _)| error.contains(word));
    found.map_or(FailureCode::Unknown, |(_, code)| *code)
}

fn refused(field: &'static str, must: &str) -> Refused {
    Refused {
        error: format!("{field} {must}"),
        field,
    }
}

fn present<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn count(fields: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, Refused> {
    let Some(value) = present(fields, name) else {
        return Ok(None);
    };
    let exact = |number: f64| {
        (number.fract() == 0.0 && (0.0..2e15).contains(&number)).then_some(number as u64)
    };
    let count = value.as_u64().or_else(|| value.as_f64().and_then(exact));
    count
        .filter(|count| *count <= i64::MAX as u64)
        .map(Some)
        .ok_or_else(|| refused(name, "must be a whole number from 0"))
}

fn percent(fields: &Map<String, Value>) -> Result<Option<f64>, Refused> {
    let Some(value) = present(fields, "progress") else {
        return Ok(None);
    };
    let percent = value.as_f64().filter(|percent| percent.is_finite());
    percent
        .map(|percent| Some(percent.clamp(0.0, 100.0)))
        .ok_or_else(|| refused("progress", "must be a number"))
}

fn flag(fields: &Map<String, Value>, name: &'static str) -> Result<bool, Refused> {
    match present(fields, name) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(refused(name, "must be true or false")),
    }
}

/// The text of a field without the blanks and control characters around it (the seed's version
/// file ends in a carriage return), cut to `bytes_max`; none where nothing is left.
fn kept(
    fields: &Map<String, Value>,
    name: &'static str,
    bytes_max: usize,
) -> Result<Option<String>, Refused> {
    let blank = |c: char| c.is_whitespace() || c.is_control();
    let text = text(fields, name)?.trim_matches(blank);
    let cut = &text[..text.floor_char_boundary(bytes_max)];
    Ok((!cut.is_empty()).then(|| cut.replace(char::is_control, " ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn post(status: Value) -> StatusPost {
        let body = json!({ "fota_status": status }).to_string();
        StatusPost::parse(body.as_bytes()).expect("a report")
    }

    #[test]
    fn each_moment_of_the_real_firmware_is_one_claim() {
        let version = || Some("1.0.6".to_string());
        for (status, claim) in [
            (
                json!({"chunk_received": 5, "total_chunks": 66, "progress": 7.57}),
                Claim::Taking,
            ),
            (json!({"verified": true}), Claim::Verified),
            (
                json!({"boot_status": "pending_reboot", "new_version": "1.0.6"}),
                Claim::Restarting { version: version() },
            ),
            (
                json!({"boot_status": "success", "new_version": "1.0.6\r"}),
                Claim::Booted { version: version() },
            ),
            (
                json!({"boot_status": "failed", "boot_count": 2}),
                Claim::BootFailed,
            ),
            (
                json!({"boot_status": "failed", "boot_count": 3, "rollback": true}),
                Claim::WentBack,
            ),
            (
                json!({"rollback": true, "error": "new image is bad"}),
                Claim::WentBack,
            ),
            (
                json!({"error": "SHA-256 mismatch"}),
                Claim::Failed {
                    code: FailureCode::HashMismatch,
                },
            ),
            (
                json!({"error": "oh no"}),
                Claim::Failed {
                    code: FailureCode::Unknown,
                },
            ),
            (json!({}), Claim::Present),
            (json!({"chunk_received": null, "error": ""}), Claim::Present),
            (
                json!({"verified": false, "chunk_received": 0}),
                Claim::Taking,
            ),
        ] {
            assert_eq!(post(status.clone()).claim(), claim, "{status}");
        }
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        for (status, field) in [
            (json!({"chunk_received": "5"}), "chunk_received"),
            (json!({"chunk_received": -1}), "chunk_received"),
            (json!({"total_chunks": 1.5}), "total_chunks"),
            (json!({"progress": "50%"}), "progress"),
            (json!({"verified": 1}), "verified"),
            (json!({"rollback": "yes"}), "rollback"),
            (json!({"boot_status": 1}), "boot_status"),
            (json!({"new_version": {}}), "new_version"),
            (json!({"error": []}), "error"),
            (json!([]), "fota_status"),
        ] {
            let body = json!({ "fota_status": status }).to_string();
            let refused = StatusPost::parse(body.as_bytes()).expect_err("refused");
            assert_eq!(refused.field, field);
            assert!(refused.error.contains(field), "{refused}");
        }
    }

    #[test]
    fn texts_are_cut_and_numbers_clamped() {
        let long = post(json!({"error": "é".repeat(500), "progress": 250}));
        assert!(long.error.expect("kept").len() <= TEXT_BYTES_MAX);
        assert_eq!(long.progress, Some(100.0));
    }

    #[test]
    fn a_later_step_keeps_the_progress_and_a_new_download_forgets_the_old() {
        let half = post(json!({"chunk_received": 33, "total_chunks": 66, "progress": 50}));
        let verified = half.followed_by(post(json!({"verified": true})));
        assert_eq!(
            (verified.chunk_received, verified.verified),
            (Some(33), true)
        );
        let failed = half.followed_by(post(json!({"error": "timeout"})));
        assert_eq!(failed.progress, Some(50.0));
        let again = failed.followed_by(post(json!({"chunk_received": 1, "total_chunks": 66})));
        assert_eq!((again.progress, again.error), (None, None));
    }
}
