//! What the simulated app does, read from the bytes in flash.
//!
//! A behaviour block lies in the image at [`CONTENT_OFFSET`], under the image's hash, so a device
//! behaves as the image tells that really booted and not as the test believes:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `FOTASIM1` |
//! | 1 | behaviour; with the top bit its updater applies no patches |
//! | 1, n | length and text of the claimed version |
//! | 2, n | length and text of the message it logs at start |
//!
//! An image without the block is a real one and works.

use fota_image::app::{
    AppDesc, Chip, DESC_BYTES, DESC_OFFSET, HASH_BYTES, HEAD_BYTES_MIN, HEADER_BYTES, Header,
    ImageError, SEGMENT_HEADER_BYTES, Source,
};
use fota_image::build::{BuildError, CONTENT_OFFSET, ImageBuilder};
use fota_image::partition::Region;
use sha2::Digest;

use crate::program;

const MAGIC: &[u8; 8] = b"FOTASIM1";
/// Beside the behaviour: the updater in this firmware applies no patches.
const WITHOUT_PATCHES: u8 = 0x80;
/// A claimed version fits the description's field.
const CLAIM_BYTES_MAX: usize = 32;
/// One line of a log.
const MESSAGE_BYTES_MAX: usize = 200;
const BLOCK_BYTES_MAX: usize = MAGIC.len() + 2 + CLAIM_BYTES_MAX + 2 + MESSAGE_BYTES_MAX;

/// What the app does once it is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// Starts, checks in, passes its self-test, confirms.
    #[default]
    Works,
    /// Dies before its first line: a reset follows at once.
    CrashesAtBoot,
    /// Runs and checks in, but never says that it is well.
    NeverConfirms,
    /// Works and reports another version than its description's.
    LiesAboutVersion {
        /// What it reports.
        claims: String,
    },
    /// Runs, tests itself and finds itself unfit.
    FailsSelfTest,
    /// Runs and never reaches the network.
    NeverConnects,
    /// Works and confirms, and what it does for its user goes wrong: it measures errors.
    MakesErrors,
}

impl Behaviour {
    fn code(&self) -> u8 {
        match self {
            Behaviour::Works => 0,
            Behaviour::CrashesAtBoot => 1,
            Behaviour::NeverConfirms => 2,
            Behaviour::LiesAboutVersion { .. } => 3,
            Behaviour::FailsSelfTest => 4,
            Behaviour::NeverConnects => 5,
            Behaviour::MakesErrors => 6,
        }
    }

    fn from_code(code: u8, claims: String) -> Option<Behaviour> {
        Some(match code {
            0 => Behaviour::Works,
            1 => Behaviour::CrashesAtBoot,
            2 => Behaviour::NeverConfirms,
            3 => Behaviour::LiesAboutVersion { claims },
            4 => Behaviour::FailsSelfTest,
            5 => Behaviour::NeverConnects,
            6 => Behaviour::MakesErrors,
            _ => return None,
        })
    }
}

/// A firmware to build.
#[derive(Clone, Debug)]
pub struct Spec {
    /// For which chip.
    pub chip: Chip,
    /// Version in its description.
    pub version: String,
    /// Project in its description.
    pub project: String,
    /// For anti-rollback.
    pub secure_version: u32,
    /// Exact length of the image, if it matters.
    pub image_bytes: Option<usize>,
    /// Seed of what all versions of its code have in common.
    pub seed: u64,
    /// What it does.
    pub behaviour: Behaviour,
    /// What it logs at start.
    pub message: Option<String>,
    /// Whether the updater in it is too old to apply patches, whatever memory the device has.
    pub without_patches: bool,
}

impl Spec {
    /// A working firmware of project "acme" for the ESP32.
    pub fn new(version: &str) -> Self {
        Spec {
            chip: Chip::Esp32,
            version: version.to_string(),
            project: "acme".to_string(),
            secure_version: 0,
            image_bytes: None,
            seed: 0,
            behaviour: Behaviour::Works,
            message: None,
            without_patches: false,
        }
    }

    /// Its updater is too old to apply patches.
    pub fn without_patches(mut self) -> Self {
        self.without_patches = true;
        self
    }

    /// Sets the behaviour.
    pub fn behaviour(mut self, behaviour: Behaviour) -> Self {
        self.behaviour = behaviour;
        self
    }

    /// Sets the exact length.
    pub fn image_bytes(mut self, image_bytes: usize) -> Self {
        self.image_bytes = Some(image_bytes);
        self
    }

    /// Sets what it logs at start.
    pub fn message(mut self, message: &str) -> Self {
        self.message = Some(message.to_string());
        self
    }

    /// Sets the seed of its code.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    fn block(&self) -> Result<Vec<u8>, BuildError> {
        let claims = match &self.behaviour {
            Behaviour::LiesAboutVersion { claims } => claims.as_str(),
            _ => "",
        };
        let message = self.message.as_deref().unwrap_or("");
        let mut block = MAGIC.to_vec();
        let patches = if self.without_patches {
            WITHOUT_PATCHES
        } else {
            0
        };
        block.push(self.behaviour.code() | patches);
        block.push(fit("claimed version", claims, CLAIM_BYTES_MAX)? as u8);
        block.extend(claims.as_bytes());
        let message_bytes = fit("message", message, MESSAGE_BYTES_MAX)? as u16;
        block.extend(message_bytes.to_le_bytes());
        block.extend(message.as_bytes());
        Ok(block)
    }
}

fn fit(field: &'static str, text: &str, max: usize) -> Result<usize, BuildError> {
    match text.len() <= max {
        true => Ok(text.len()),
        false => Err(BuildError::TextTooLong { field, max }),
    }
}

/// Builds the image of a firmware.
pub fn image(spec: &Spec) -> Result<Vec<u8>, BuildError> {
    let builder = ImageBuilder::new(spec.chip)
        .version(&spec.version)
        .project(&spec.project)
        .secure_version(spec.secure_version)
        .fill(spec.seed)
        .content(&spec.block()?);
    let image = match spec.image_bytes {
        Some(image_bytes) => builder.size(image_bytes).build(),
        None => builder.build(),
    };
    let mut image = image?;
    write_code(spec, &mut image);
    Ok(image)
}

/// Puts the program of this version in the place of the noise in the last segment, which is the
/// code in flash, and makes checksum and digest right again.
fn write_code(spec: &Spec, image: &mut [u8]) {
    let word = |image: &[u8], at: usize| {
        let bytes = image[at..].first_chunk().expect("a built image is whole");
        u32::from_le_bytes(*bytes)
    };
    let (mut at, segments) = (HEADER_BYTES, image[1]);
    for _ in 1..segments {
        at += SEGMENT_HEADER_BYTES + word(image, at + 4) as usize;
    }
    let (address, bytes) = (word(image, at), word(image, at + 4) as usize);
    let start = at + SEGMENT_HEADER_BYTES;
    if bytes < program::BYTES_MIN {
        return;
    }
    let xor = |code: &[u8]| code.iter().fold(0, |sum, byte| sum ^ byte);
    let before = xor(&image[start..start + bytes]);
    let code = &mut image[start..start + bytes];
    program::fill(spec.chip, spec.seed, &spec.version, address, code);
    let after = xor(&image[start..start + bytes]);
    let hashed = image.len() - HASH_BYTES;
    image[hashed - 1] ^= before ^ after;
    let hash = sha2::Sha256::digest(&image[..hashed]);
    image[hashed..].copy_from_slice(&hash);
}

/// The app that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// Version in its description, empty if it has none.
    pub version: String,
    /// Project in its description.
    pub project: String,
    /// Identity in its description.
    pub elf_sha256: [u8; 32],
    /// For anti-rollback.
    pub secure_version: u32,
    /// What it does.
    pub behaviour: Behaviour,
    /// What it logs at start.
    pub message: Option<String>,
    /// Whether its updater applies patches.
    pub applies_patches: bool,
}

/// Why a firmware cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FirmwareError<E> {
    /// No image begins there.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The flash could not be read.
    #[error("read failed")]
    Read(E),
}

impl Firmware {
    /// Reads the firmware of a slot that the bootloader has verified.
    pub fn read<S: Source>(
        source: &mut S,
        slot: Region,
    ) -> Result<Firmware, FirmwareError<S::Error>> {
        const { assert!(CONTENT_OFFSET as usize == HEAD_BYTES_MIN) };
        let mut bytes = [0; HEAD_BYTES_MIN + BLOCK_BYTES_MAX];
        let len = bytes.len().min(slot.size as usize);
        source
            .read(slot.offset, &mut bytes[..len])
            .map_err(FirmwareError::Read)?;
        let (head, block) = bytes.split_at(HEAD_BYTES_MIN);
        Header::parse(head)?;
        let desc = head[DESC_OFFSET..]
            .first_chunk::<DESC_BYTES>()
            .and_then(AppDesc::parse);
        let Block {
            behaviour,
            message,
            without_patches,
        } = decode(block).unwrap_or_default();
        let text = |read: fn(&AppDesc) -> &str| desc.as_ref().map_or("", read).to_string();
        Ok(Firmware {
            version: text(|desc| desc.version.as_str()),
            project: text(|desc| desc.project_name.as_str()),
            elf_sha256: desc.map_or([0; 32], |desc| desc.app_elf_sha256),
            secure_version: desc.map_or(0, |desc| desc.secure_version),
            behaviour,
            message,
            applies_patches: !without_patches,
        })
    }

    /// The version that it reports, which is a lie if it lies.
    pub fn claimed_version(&self) -> &str {
        match &self.behaviour {
            Behaviour::LiesAboutVersion { claims } => claims,
            _ => &self.version,
        }
    }
}

#[derive(Default)]
struct Block {
    behaviour: Behaviour,
    message: Option<String>,
    without_patches: bool,
}

fn decode(block: &[u8]) -> Option<Block> {
    let rest = block.strip_prefix(MAGIC)?;
    let (code, rest) = rest.split_first()?;
    let (claim_bytes, rest) = rest.split_first()?;
    let (claims, rest) = rest.split_at_checked(usize::from(*claim_bytes))?;
    let (message_bytes, rest) = rest.split_first_chunk()?;
    let message = rest.get(..usize::from(u16::from_le_bytes(*message_bytes)))?;
    let claims = String::from_utf8(claims.to_vec()).ok()?;
    let message = String::from_utf8(message.to_vec()).ok()?;
    Some(Block {
        behaviour: Behaviour::from_code(code & !WITHOUT_PATCHES, claims)?,
        message: (!message.is_empty()).then_some(message),
        without_patches: code & WITHOUT_PATCHES != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fota_image::app::check_bytes;

    const T2_MESSAGE: &str = "MINIMAL TEST FIRMWARE v1.0.5 - FOTA UPDATE SUCCESSFUL!";

    fn read(bytes: &[u8]) -> Firmware {
        let slot = Region {
            offset: 0,
            size: bytes.len() as u32,
        };
        Firmware::read(&mut &*bytes, slot).unwrap()
    }

    #[test]
    fn every_behaviour_reads_back_from_the_image() {
        let claims = "9.9.9".to_string();
        for behaviour in [
            Behaviour::Works,
            Behaviour::CrashesAtBoot,
            Behaviour::NeverConfirms,
            Behaviour::LiesAboutVersion { claims },
            Behaviour::FailsSelfTest,
            Behaviour::MakesErrors,
            Behaviour::NeverConnects,
        ] {
            let spec = Spec::new("1.0.5")
                .behaviour(behaviour.clone())
                .message(T2_MESSAGE);
            let bytes = image(&spec).unwrap();
            let firmware = read(&bytes);
            let desc = check_bytes(&bytes).unwrap().desc.unwrap();
            assert_eq!(firmware.behaviour, behaviour);
            assert_eq!(firmware.message.as_deref(), Some(T2_MESSAGE));
            assert_eq!(firmware.version, "1.0.5");
            assert_eq!(firmware.elf_sha256, desc.app_elf_sha256);
            assert!(firmware.applies_patches);
            let old = read(&image(&spec.without_patches()).unwrap());
            assert_eq!((old.behaviour, old.applies_patches), (behaviour, false));
        }
    }

    #[test]
    fn only_a_liar_claims_another_version() {
        let lies = Behaviour::LiesAboutVersion {
            claims: "9.9.9".to_string(),
        };
        let liar = read(&image(&Spec::new("1.0.5").behaviour(lies)).unwrap());
        assert_eq!((liar.claimed_version(), &*liar.version), ("9.9.9", "1.0.5"));
        assert_eq!(
            read(&image(&Spec::new("1.0.5")).unwrap()).claimed_version(),
            "1.0.5"
        );
    }

    #[test]
    fn an_image_without_the_block_works() {
        let real = ImageBuilder::new(Chip::Esp32S3)
            .version("2.0")
            .build()
            .unwrap();
        let firmware = read(&real);
        assert_eq!(firmware.behaviour, Behaviour::Works);
        assert_eq!((&*firmware.version, firmware.message), ("2.0", None));
    }

    #[test]
    fn a_damaged_block_is_no_block() {
        let bytes = image(&Spec::new("1.0.5").message("hello")).unwrap();
        let start = CONTENT_OFFSET as usize;
        for (place, value) in [(0, 0), (8, 77), (9, 255), (10, 255), (11, 255)] {
            let mut damaged = bytes.clone();
            damaged[start + place] = value;
            assert_eq!(read(&damaged).behaviour, Behaviour::Works);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = "x".repeat(MESSAGE_BYTES_MAX + 1);
        assert!(image(&Spec::new("1.0.5").message(&long)).is_err());
        assert!(image(&Spec::new(&long)).is_err());
    }
}
