//! The signature of a webhook's body, as <https://www.standardwebhooks.com> defines it: HMAC-SHA256
//! over `id.timestamp.body`, base64 behind `v1,`.

use base64::{Engine, engine::general_purpose::STANDARD};
use fota_proto::operators::Secret;
use hmac::{Hmac, KeyInit, Mac};
use std::io;

use crate::random;

/// Begins every key, so that scanners for leaked secrets can find it.
const PREFIX: &str = "whsec_";
/// Bytes of a key that the server makes.
const MADE_BYTES: usize = 32;
/// Bytes that a key may have: those of the specification.
pub const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A new key.
///
/// # Errors
/// Where the system has no randomness to give.
pub fn make() -> io::Result<Secret> {
    let bytes = random::bytes::<MADE_BYTES>()?;
    Ok(Secret::new(format!("{PREFIX}{}", STANDARD.encode(bytes))))
}

/// The bytes of a key; none where it is not one.
pub fn key(secret: &Secret) -> Option<Vec<u8>> {
    let text = secret.reveal().strip_prefix(PREFIX)?;
    let bytes = STANDARD.decode(text).ok()?;
    KEY_BYTES.contains(&bytes.len()).then_some(bytes)
}

/// What stands in `webhook-signature`.
pub fn sign(key: &[u8], id: &str, at_s: i64, body: &str) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(format!("{id}.{at_s}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_specifications_libraries() {
        // The vector in the tests of the reference libraries.
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let key = key(&secret).expect("a key");
        let signature = sign(
            &key,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_made_key_is_one_and_what_is_too_short_or_long_is_none() {
        assert_eq!(key(&make().expect("random")).map(|key| key.len()), Some(32));
        let of = |bytes: usize| Secret::new(format!("whsec_{}", STANDARD.encode(vec![7; bytes])));
        assert!(key(&of(24)).is_some() && key(&of(64)).is_some());
        for wrong in [
            of(23),
            of(65),
            Secret::new("whsec_!"),
            Secret::new("aGVsbG8="),
        ] {
            assert_eq!(key(&wrong), None);
        }
    }
}
