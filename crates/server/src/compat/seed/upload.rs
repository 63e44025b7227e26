//! `POST /api/cloud/fota/upload`: the JSON that carries an image, read and checked against
//! itself. Whether the bytes are an image that a chip would boot is judged where every upload is.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use fota_proto::{
    Sha256,
    limits::{IMAGE_BYTES_MAX, NOTES_BYTES_MAX, VERSION_BYTES_MAX},
};
use serde_json::{Map, Value};
use sha2::Digest;

use super::chunk::{ChunkBytes, UNNAMED_CHUNK_BYTES};

/// Longest request body: the largest image as base64, and the other fields.
pub const BODY_BYTES_MAX: usize = (IMAGE_BYTES_MAX as usize).div_ceil(3) * 4 + 64 * 1024;

/// An upload whose fields agree with each other.
#[derive(Debug, PartialEq, Eq)]
pub struct Upload {
    pub version: String,
    pub image: Vec<u8>,
    pub sha256: Sha256,
    pub chunk_bytes: ChunkBytes,
    pub notes: String,
    /// `hash` was not the hash of the data and `skip_validation` let it pass.
    pub hash_skipped: bool,
}

/// Why a request is refused; the text is the `error` of the reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub error: String,
    /// The field that is wrong.
    pub field: &'static str,
}

impl Refused {
    fn new(field: &'static str, error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            field,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

const REQUIRED: [&str; 4] = ["version", "size", "hash", "firmware_data"];

/// Reads the body. With `lab`, `skip_validation` may let a wrong `hash` pass.
pub fn parse(body: &[u8], lab: bool) -> Result<Upload, Refused> {
    let fields = object(body)?;
    if let Some(missing) = REQUIRED.iter().find(|name| absent(&fields, name)) {
        return Err(Refused::new(missing, "Missing required fields"));
    }
    let version = version(&fields)?;
    let size = whole(&fields, "size")?.unwrap_or_default();
    let chunk_bytes = whole(&fields, "chunk_size")?.unwrap_or(i64::from(UNNAMED_CHUNK_BYTES));
    let skip = skip_validation(&fields, lab)?;
    let image = image(&fields)?;
    if u64::try_from(size) != Ok(image.len() as u64) {
        let held = image.len();
        let error = format!("Size mismatch: size is {size}, firmware_data holds {held} bytes");
        return Err(Refused::new("size", error));
    }
    let sha256 = Sha256(sha2::Sha256::digest(&image).into());
    let hash_matches = text(&fields, "hash")?.trim().parse() == Ok(sha256);
    if !hash_matches && !skip {
        return Err(Refused::new("hash", "Hash mismatch"));
    }
    Ok(Upload {
        version,
        image,
        sha256,
        chunk_bytes: ChunkBytes::nearest(chunk_bytes),
        notes: notes(&fields)?,
        hash_skipped: !hash_matches,
    })
}

/// Reads a body that must be a JSON object.
pub fn object(body: &[u8]) -> Result<Map<String, Value>, Refused> {
    let not_object = |error: String| Refused::new("body", error);
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(not_object("the body must be a JSON object".into())),
        Err(error) => Err(not_object(format!("the body is not JSON: {error}"))),
    }
}

/// The text in field `name`, empty where it is absent.
pub fn text<'a>(fields: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, Refused> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Refused::new(name, format!("{name} must be a string"))),
    }
}

fn absent(fields: &Map<String, Value>, name: &str) -> bool {
    match fields.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    }
}

/// The whole number in field `name`; a JSON number such as `3.0` is one too.
fn whole(fields: &Map<String, Value>, name: &'static str) -> Result<Option<i64>, Refused> {
    let Some(value) = fields.get(name).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let exact =
        |number: f64| (number.fract() == 0.0 && number.abs() < 2e15).then_some(number as i64);
    value
        .as_i64()
        .or_else(|| value.as_f64().and_then(exact))
        .map(Some)
        .ok_or_else(|| Refused::new(name, format!("{name} must be a whole number")))
}

fn version(fields: &Map<String, Value>) -> Result<String, Refused> {
    let version = text(fields, "version")?.trim();
    let shown = |c: char| !c.is_control();
    let valid = (1..=VERSION_BYTES_MAX).contains(&version.len()) && version.chars().all(shown);
    if !valid {
        let error =
            format!("version must be 1 to {VERSION_BYTES_MAX} bytes without control characters");
        return Err(Refused::new("version", error));
    }
    Ok(version.into())
}

fn notes(fields: &Map<String, Value>) -> Result<String, Refused> {
    let notes = text(fields, "description")?;
    if notes.len() > NOTES_BYTES_MAX {
        let error = format!(
            "description is {} bytes, at most {NOTES_BYTES_MAX}",
            notes.len()
        );
        return Err(Refused::new("description", error));
    }
    Ok(notes.into())
}

fn skip_validation(fields: &Map<String, Value>, lab: bool) -> Result<bool, Refused> {
    match fields.get("skip_validation") {
        None | Some(Value::Null | Value::Bool(false)) => Ok(false),
        Some(Value::Bool(true)) if lab => Ok(true),
        Some(Value::Bool(true)) => Err(Refused::new(
            "skip_validation",
            "skip_validation is refused: an image with a wrong hash must not reach a device \
             (a test server takes it with --lab)",
        )),
        Some(_) => Err(Refused::new(
            "skip_validation",
            "skip_validation must be true or false",
        )),
    }
}

fn image(fields: &Map<String, Value>) -> Result<Vec<u8>, Refused> {
    let data = text(fields, "firmware_data")?.trim();
    let image = STANDARD
        .decode(data)
        .map_err(|error| Refused::new("firmware_data", format!("Invalid base64: {error}")))?;
    if image.len() as u64 > IMAGE_BYTES_MAX {
        let error = format!("image is {} bytes, at most {IMAGE_BYTES_MAX}", image.len());
        return Err(Refused::new("firmware_data", error));
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn vector() -> Value {
        let mut image: Vec<u8> = (0..40_000usize).map(|i| (7 * i) as u8).collect();
        image[0] = 0xe9;
        json!({
            "version": "1.0.6", "size": 40_000, "chunk_size": 16_384, "description": "why",
            "hash": "9221fe8ac1e3361e771ac83254fa3f6f670286e5f4ebe132e8efcead221cf276",
            "firmware_data": STANDARD.encode(image),
        })
    }

    fn with(name: &str, value: Value) -> Vec<u8> {
        let mut upload = vector();
        upload[name] = value;
        upload.to_string().into_bytes()
    }

    fn refusal(name: &str, value: Value) -> Refused {
        parse(&with(name, value), false).expect_err("must be refused")
    }

    #[test]
    fn an_upload_is_read_with_its_description() {
        let upload = parse(vector().to_string().as_bytes(), false).expect("agrees");
        assert_eq!(upload.version, "1.0.6");
        assert_eq!(upload.image.len(), 40_000);
        assert_eq!(upload.chunk_bytes.get(), 16_384);
        assert_eq!(upload.notes, "why");
        assert!(!upload.hash_skipped);
    }

    #[test]
    fn chunk_size_is_1024_unless_named_and_clamped_to_what_the_device_takes() {
        for (named, taken) in [
            (Value::Null, 1_024),
            (json!(1_024), 1_024),
            (json!(16_384), 16_384),
            (json!(16_384.0), 16_384),
            (json!(0), 1),
            (json!(-4), 1),
            (json!(65_536), 18_750),
        ] {
            let upload = parse(&with("chunk_size", named.clone()), false).expect("taken");
            assert_eq!(upload.chunk_bytes.get(), taken, "{named}");
        }
    }

    #[test]
    fn every_refusal_names_its_field() {
        for name in REQUIRED {
            let refused = refusal(name, Value::Null);
            assert_eq!(
                (refused.error.as_str(), refused.field),
                ("Missing required fields", name)
            );
        }
        for (name, value, error) in [
            (
                "size",
                json!(1),
                "Size mismatch: size is 1, firmware_data holds 40000 bytes",
            ),
            (
                "size",
                json!(-1),
                "Size mismatch: size is -1, firmware_data holds 40000 bytes",
            ),
            ("size", json!("40000"), "size must be a whole number"),
            ("size", json!(1.5), "size must be a whole number"),
            ("hash", json!("00".repeat(32)), "Hash mismatch"),
            ("hash", json!("zz"), "Hash mismatch"),
            ("hash", json!(5), "hash must be a string"),
            (
                "chunk_size",
                json!("big"),
                "chunk_size must be a whole number",
            ),
            ("version", json!(["1"]), "version must be a string"),
            (
                "version",
                json!("v".repeat(33)),
                "version must be 1 to 32 bytes without control characters",
            ),
            (
                "description",
                json!("d".repeat(4_097)),
                "description is 4097 bytes, at most 4096",
            ),
        ] {
            let refused = refusal(name, value);
            assert_eq!((refused.error.as_str(), refused.field), (error, name));
        }
        let base64 = refusal("firmware_data", json!("***"));
        assert!(base64.error.starts_with("Invalid base64: "), "{base64}");
        assert_eq!(parse(b"{", false).expect_err("no JSON").field, "body");
        assert_eq!(parse(b"[]", false).expect_err("no object").field, "body");
    }

    #[test]
    fn skip_validation_needs_lab() {
        assert_eq!(
            refusal("skip_validation", json!(true)).field,
            "skip_validation"
        );
        let mut upload = vector();
        upload["skip_validation"] = json!(true);
        upload["hash"] = json!("00".repeat(32));
        let taken = parse(upload.to_string().as_bytes(), true).expect("taken in a lab");
        assert!(taken.hash_skipped);
    }
}
