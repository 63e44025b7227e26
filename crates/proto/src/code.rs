//! Why an update did not work: a closed, numbered list. Numbers are on the wire and in stored
//! history: never reorder, only append.

macro_rules! failure_codes {
    ($($number:literal $variant:ident $name:literal $sentence:literal $remedy:literal)*) => {
        /// A failure code. The number goes over the wire, the name into the database and the API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        #[allow(missing_docs)] // the sentence of each is its documentation
        pub enum FailureCode { $(#[doc = $sentence] $variant = $number,)* }

        impl FailureCode {
            /// Every code, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable number on the wire.
            pub const fn number(self) -> u16 { self as u16 }

            /// The stable name in the API.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What happened, as a sentence for an operator.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// What to do about it.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }

            /// The code with this number; a number from a newer peer is [`Self::Unknown`].
            pub const fn from_number(number: u16) -> Self {
                match number { $($number => Self::$variant,)* _ => Self::Unknown }
            }

            /// The code with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.name() == name)
            }
        }
    };
}

failure_codes! {
    1 NetTimeout "net_timeout" "the connection gave no data in time"
        "check the device's signal; it goes on by itself at its next check-in"
    2 NetRefused "net_refused" "the server could not be reached"
        "check the server address that the device was given, and any firewall between"
    3 Http4xx "http_4xx" "the server refused the download"
        "look at the server log: the artifact may have been removed, or the device is not allowed"
    4 Http5xx "http_5xx" "the server could not give the download"
        "look at the server log; the device tries again by itself"
    5 Tls "tls" "the encrypted connection could not be set up"
        "check the server certificate and the device's clock and root certificates"
    6 HashMismatch "hash_mismatch" "the bytes in flash are not the bytes of the release"
        "retry once; if it happens again on this device alone, suspect its flash"
    7 SignatureInvalid "signature_invalid" "the release is not signed by a key this device trusts"
        "sign it with the right key, or rotate the device's keys"
    8 ImageInvalid "image_invalid" "the image would not boot on this chip"
        "build the release again and check it with `fota image check`"
    9 WrongChip "wrong_chip" "the image is for another chip"
        "upload a build for this chip"
    10 WrongRevision "wrong_rev" "the image needs another chip revision"
        "build with a lower minimum chip revision, or leave this device out"
    11 NoSpace "no_space" "the image is larger than the slot"
        "make the image smaller, or give the device a larger partition over USB"
    12 FlashWrite "flash_write" "the flash did not take a write or an erase"
        "retry; if it happens again the flash of this device is worn out"
    13 LowBattery "low_battery" "the battery was too low to install safely"
        "charge the device; it goes on by itself"
    14 OutOfMemory "out_of_memory" "the device had too little memory for the update"
        "free memory before the update, or restart the device"
    15 NotConfirmed "not_confirmed" "the new image ran but did not confirm itself in time"
        "see why its self-test fails: it could not do its work on this device"
    16 CrashLoop "crash_loop" "the new image reset before it confirmed itself"
        "read the reset reason; fix the crash and publish a new release"
    17 DowngradeRefused "downgrade_refused" "the device refuses an older release"
        "publish the old code under a newer version"
    18 AntiRollback "anti_rollback" "the image's security version is below the device's"
        "build with the current security version"
    19 Unknown "unknown" "the device gave a reason that this server does not know"
        "update the server, or read the raw report in the device's history"
    20 NoRollbackTarget "no_rollback_target" "there is no other valid image to go back to"
        "install a good release instead"
    21 VersionLie "version_lie" "the device claims the new version but runs another image"
        "look at its boot log; trust the image digest, not the version text"
    22 HealthCheck "health_check" "the new image's own health check failed"
        "read the device's report; fix the release"
    23 WrongProduct "wrong_product" "the release is signed for another product"
        "sign a release of this device's product"
    24 WrongHardware "wrong_hardware" "the release is signed for other revisions of the board"
        "sign a release for this board, or leave this device out"
    25 NotSigned "not_signed" "the order names no signed release, and this device takes no other"
        "sign the release: `fota release sign`"
    26 NotLogged "not_logged" "the release is not in the server's release log"
        "upload it again; where only some devices say so, run `fota log verify`"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_find_their_code() {
        for (index, code) in FailureCode::ALL.iter().enumerate() {
            assert_eq!(
                code.number() as usize,
                index + 1,
                "appended in order, none reused"
            );
            assert_eq!(FailureCode::from_number(code.number()), *code);
            assert_eq!(FailureCode::from_name(code.name()), Some(*code));
        }
        assert_eq!(FailureCode::from_number(9_999), FailureCode::Unknown);
    }
}
