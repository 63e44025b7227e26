//! Identifiers that come from outside and are valid by construction.

use core::{fmt, str::FromStr};

use crate::limits::DEVICE_ID_BYTES_MAX;

/// A device's name for itself: 1 to 64 of `A-Z a-z 0-9 . _ : -`, not starting with a dot, and
/// not `all`, which the manager and the seed's API use for every device.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(heapless::String<DEVICE_ID_BYTES_MAX>);

impl DeviceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no device id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceIdError;

impl fmt::Display for DeviceIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not a device id: 1 to 64 of A-Z a-z 0-9 . _ : - are needed, \
             not starting with a dot, and not \"all\"",
        )
    }
}

impl core::error::Error for DeviceIdError {}

impl FromStr for DeviceId {
    type Err = DeviceIdError;

    fn from_str(text: &str) -> Result<Self, DeviceIdError> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"._:-".contains(&c);
        let valid = !text.is_empty()
            && text.bytes().all(plain)
            && !text.starts_with('.')
            && !text.eq_ignore_ascii_case("all");
        if !valid {
            return Err(DeviceIdError);
        }
        heapless::String::try_from(text)
            .map(Self)
            .map_err(|_| DeviceIdError)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_device_ids() {
        for good in ["ESP32-001", "a", "24:6F:28:aa:bb:cc", "x.y_z"] {
            assert_eq!(
                good.parse::<DeviceId>().as_ref().map(DeviceId::as_str),
                Ok(good)
            );
        }
        let long = core::str::from_utf8(&[b'a'; 65]).expect("ascii");
        for bad in [
            "", "all", "All", "../x", ".hidden", "a b", "a/b", "é", "a\0", long,
        ] {
            assert_eq!(bad.parse::<DeviceId>(), Err(DeviceIdError), "{bad:?}");
        }
    }
}
