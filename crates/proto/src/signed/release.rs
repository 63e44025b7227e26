//! What an image is, as its maker signed it.

use minicbor::{Decode, Encode};

use super::{SignedError, canonical, index};
use crate::{
    Sha256,
    limits::{
        ADVISORY_BYTES_MAX, IMAGE_BYTES_MAX, PROJECT_BYTES_MAX, SIGNED_DELTAS_MAX,
        VERSION_BYTES_MAX,
    },
    list::List,
};

/// What the payload of a release begins with; another kind is another object.
const KIND: u8 = 0x11;
const WHAT: &str = "release";

/// A release.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Release<'a> {
    #[n(0)]
    kind: u8,
    /// What runs on the same image: the project name in it.
    #[b(1)]
    pub product: &'a str,
    /// ESP chip id of the image header.
    #[n(2)]
    pub chip: u16,
    /// Lowest and highest revision of the board it runs on; absent: all.
    #[n(3)]
    pub hardware: Option<(u16, u16)>,
    /// Version text, as in the image.
    #[b(4)]
    pub version: &'a str,
    /// Its place in the order of releases: a device installs only a higher one than it runs.
    #[n(5)]
    pub sequence: u32,
    /// Security epoch: once a device has confirmed it, nothing below it is ever started again.
    #[n(6)]
    pub epoch: u32,
    /// Length of the whole image.
    #[n(7)]
    pub bytes: u32,
    /// SHA-256 of the whole image.
    #[n(8)]
    pub image: Sha256,
    /// `app_elf_sha256` in the image, by which a device says what it runs.
    #[n(9)]
    pub elf: Sha256,
    /// The hashes of the index pages, [`index::HASH_BYTES`] each (see [`index`]).
    #[cbor(b(10), with = "minicbor::bytes")]
    pub pages: &'a [u8],
    /// Patches that make this image out of another one.
    #[n(11)]
    pub deltas: List<SignedDelta, SIGNED_DELTAS_MAX>,
    /// Unix time in seconds after which it is not to be offered any more.
    #[n(12)]
    pub expires: Option<u64>,
    /// Seconds after its first start within which it must confirm itself.
    #[n(13)]
    pub self_test_deadline_s: Option<u16>,
    /// Starts that may end by losing power before a further one counts as a crash.
    #[n(14)]
    pub trial_attempts: Option<u8>,
    /// Unix time in seconds until which its maker supports it.
    #[n(15)]
    pub support_until: Option<u64>,
    /// Where to read about it.
    #[b(16)]
    pub advisory: Option<&'a str>,
}

/// A patch that the release key vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SignedDelta {
    /// `app_elf_sha256` of the image it starts from.
    #[n(0)]
    pub from: Sha256,
    /// Length of the patch.
    #[n(1)]
    pub bytes: u32,
    /// SHA-256 of the patch.
    #[n(2)]
    pub patch: Sha256,
}

impl<'a> Release<'a> {
    /// A release to sign, with nothing that may be left out.
    pub fn new(
        product: &'a str,
        chip: u16,
        version: &'a str,
        [sequence, epoch]: [u32; 2],
        bytes: u32,
        [image, elf]: [Sha256; 2],
        pages: &'a [u8],
    ) -> Result<Self, SignedError> {
        let release = Self {
            kind: KIND,
            product,
            chip,
            hardware: None,
            version,
            sequence,
            epoch,
            bytes,
            image,
            elf,
            pages,
            deltas: List::new(),
            expires: None,
            self_test_deadline_s: None,
            trial_attempts: None,
            support_until: None,
            advisory: None,
        };
        release.check()?;
        Ok(release)
    }

    /// Reads a payload whose signatures are not checked here.
    #[inline(never)]
    pub fn parse(payload: &'a [u8]) -> Result<Self, SignedError> {
        let release: Self = canonical::decode(WHAT, payload)?;
        release.check()?;
        Ok(release)
    }

    /// Whether it contradicts itself; for a release whose optional fields were set by hand.
    pub fn check(&self) -> Result<(), SignedError> {
        if self.kind != KIND {
            return Err(SignedError::Payload { what: WHAT });
        }
        let short = |text: &str, max| (1..=max).contains(&text.len());
        let rules = [
            ("product", short(self.product, PROJECT_BYTES_MAX)),
            ("version", short(self.version, VERSION_BYTES_MAX)),
            ("sequence", self.sequence > 0),
            ("bytes", (1..=IMAGE_BYTES_MAX).contains(&self.bytes.into())),
            (
                "pages",
                self.pages.len() == index::pages(self.bytes) as usize * index::HASH_BYTES,
            ),
            (
                "hardware",
                self.hardware.is_none_or(|(low, high)| low <= high),
            ),
            ("self_test_deadline_s", self.self_test_deadline_s != Some(0)),
            (
                "advisory",
                self.advisory
                    .is_none_or(|text| text.len() <= ADVISORY_BYTES_MAX),
            ),
        ];
        match rules.iter().find(|(_, holds)| !holds) {
            None => Ok(()),
            Some((field, _)) => Err(SignedError::Field { what: WHAT, field }),
        }
    }
}
