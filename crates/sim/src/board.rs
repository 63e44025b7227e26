//! A chip on a table: flash as the factory wrote it, the bootloader, and the reason of the last
//! reset. What runs on it is read from the flash after each reset.

use fota_image::{
    app::Chip,
    partition::{Region, TABLE_OFFSET, TableBuilder},
};
use fota_proto::checkin::ResetReason;

use crate::{
    boot::{Boot, BootModel, NoBoot},
    firmware::{Firmware, FirmwareError},
    flash::{FlashError, SharedFlash, SimFlash},
};

/// Size of each of the two slots: room for the seed's 1,040 KB image in 4 MiB of flash.
pub const SLOT_BYTES: u32 = 0x18_0000;
/// Where `ota_0` begins.
pub const FIRST_SLOT_OFFSET: u32 = 0x1_0000;
/// Bootloader and partition table: nobody may write there.
const FIRMWARE_START: u32 = TABLE_OFFSET + 0x1000;

/// Why a board starts nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The bootloader found nothing to boot.
    #[error(transparent)]
    NoBoot(#[from] NoBoot),
    /// The slot could not be read.
    #[error("the booted slot cannot be read: {0}")]
    Firmware(#[from] FirmwareError<FlashError>),
}

/// What a programming station writes: a bootloader, a table with two OTA slots and a trust
/// partition, blank `otadata`, and `image` in `ota_0`.
pub fn factory_flash(image: &[u8]) -> Result<SimFlash, FlashError> {
    let table = TableBuilder::two_ota(SLOT_BYTES).trust().build();
    let table = table.expect("six rows with short labels are a table");
    let mut flash = SimFlash::default();
    // Bytes that no update may ever change; a bootloader that is model code needs no real ones.
    flash.load(0, &[0xB0; TABLE_OFFSET as usize])?;
    flash.load(TABLE_OFFSET, &table)?;
    flash.load(FIRST_SLOT_OFFSET, image)?;
    Ok(flash)
}

/// A chip with its flash.
#[derive(Clone, Debug)]
pub struct Board {
    flash: SharedFlash,
    boot: BootModel,
    reset: ResetReason,
    starts: u32,
}

/// What runs after a reset.
#[derive(Clone, Debug)]
pub struct Started {
    /// From where.
    pub boot: Boot,
    /// What it is.
    pub firmware: Firmware,
    /// Why the chip was reset.
    pub reset: ResetReason,
}

impl Board {
    /// A board that has just been given power. `rollback` is
    /// `CONFIG_BOOTLOADER_APP_ROLLBACK_ENABLE` of its bootloader.
    pub fn new(flash: SimFlash, chip: Chip, rollback: bool) -> Self {
        let boot = BootModel {
            chip: Some(chip),
            ..BootModel::new(rollback)
        };
        Self {
            flash: SharedFlash::new(flash),
            boot,
            reset: ResetReason::PowerOn,
            starts: 0,
        }
    }

    /// Its flash; clones reach the same chip.
    pub fn flash(&self) -> &SharedFlash {
        &self.flash
    }

    /// Its chip.
    pub fn chip(&self) -> Chip {
        self.boot.chip.unwrap_or(Chip::Esp32)
    }

    /// Whether its bootloader rolls back.
    pub fn has_rollback(&self) -> bool {
        self.boot.rollback
    }

    /// How often it started.
    pub fn starts(&self) -> u32 {
        self.starts
    }

    /// Notes why the next start happens.
    pub fn reset(&mut self, reason: ResetReason) {
        self.reset = reason;
    }

    /// Starts what the bootloader chooses. From now on bootloader, table and the running slot are
    /// protected: a write there is refused and counted.
    pub fn start(&mut self) -> Result<Started, StartError> {
        self.starts += 1;
        let boot = self.boot;
        let (boot, firmware) = self.flash.with(|flash| {
            flash.unprotect_all();
            let boot = boot.boot(flash)?;
            flash.protect(0..FIRMWARE_START);
            flash.protect(boot.region.offset..boot.region.end());
            let firmware = Firmware::read(flash, boot.region)?;
            Ok::<_, StartError>((boot, firmware))
        })?;
        Ok(Started {
            boot,
            firmware,
            reset: self.reset,
        })
    }

    /// The two slots.
    pub const fn slots() -> [Region; 2] {
        [
            Region {
                offset: FIRST_SLOT_OFFSET,
                size: SLOT_BYTES,
            },
            Region {
                offset: FIRST_SLOT_OFFSET + SLOT_BYTES,
                size: SLOT_BYTES,
            },
        ]
    }
}
