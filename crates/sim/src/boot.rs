//! The second-stage bootloader of ESP-IDF: which slot boots, and what it writes to `otadata`.
//!
//! The order of the decisions, and its surprises, are those of `bootloader_utility.c`. With
//! rollback off it agrees with 49 runs of the real ESP32-C3 bootloader
//! (`tests/data/boot-matrix-rollback-off.csv`).

use embedded_storage::nor_flash::NorFlash;
use fota_image::app::{self, CheckError, Chip, Image, Window};
use fota_image::otadata::{self, ENTRY_BYTES, Entry, SECTOR_BYTES, State};
use fota_image::partition::{Kind, Region, TABLE_BYTES, TABLE_OFFSET, Table, TableError};

use crate::flash::{DEFAULT_BYTES, FlashError, SimFlash};

/// How the bootloader was built, and on what it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootModel {
    /// `BOOTLOADER_APP_ROLLBACK_ENABLE`.
    pub rollback: bool,
    /// Where it looks for the partition table.
    pub table_offset: u32,
    /// The flash size in its header.
    pub flash_bytes: u32,
    /// The chip, which refuses images for others; `None` takes any.
    pub chip: Option<Chip>,
}

impl BootModel {
    /// A bootloader at the usual places for a 4 MiB flash.
    pub const fn new(rollback: bool) -> Self {
        BootModel {
            rollback,
            table_offset: TABLE_OFFSET,
            flash_bytes: DEFAULT_BYTES as u32,
            chip: None,
        }
    }
}

/// Which app was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The factory app.
    Factory,
    /// `ota_<index>`.
    Ota(u8),
    /// The app for production tests.
    Test,
}

impl Slot {
    /// `x` of `ota_x`.
    pub const fn ota_index(self) -> Option<u8> {
        match self {
            Slot::Ota(index) => Some(index),
            Slot::Factory | Slot::Test => None,
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Slot::Factory => Kind::Factory,
            Slot::Ota(index) => Kind::Ota(index),
            Slot::Test => Kind::Test,
        }
    }
}

/// A started app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Where it was started from.
    pub slot: Slot,
    /// Its partition.
    pub region: Region,
    /// The verified image.
    pub image: Image,
    /// Whether another slot was chosen first and its image refused. `otadata` still names it.
    pub is_fallback: bool,
}

/// Why nothing was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoBoot {
    /// The power failed meanwhile; boot again after [`SimFlash::power_on`].
    #[error("the power failed during the boot")]
    PowerLost,
    /// No valid table: nothing can ever boot.
    #[error(transparent)]
    Table(#[from] TableError),
    /// `otadata` is too small to choose from.
    #[error("otadata has {size} bytes; the bootloader needs 8,192")]
    OtaData {
        /// Its length.
        size: u32,
    },
    /// No partition holds a valid image.
    #[error("no partition holds a bootable image")]
    NoImage,
    /// The flash refused, which a bootloader that keeps to its own sectors never causes.
    #[error(transparent)]
    Flash(FlashError),
}

impl From<FlashError> for NoBoot {
    fn from(error: FlashError) -> Self {
        match error {
            FlashError::PowerLost => NoBoot::PowerLost,
            other => NoBoot::Flash(other),
        }
    }
}

/// What the partition table says, in the bootloader's terms.
struct Partitions<'a> {
    table: Table<'a>,
    otadata: Option<Region>,
    /// Every `ota_x` partition counts, gaps or not.
    app_count: u8,
}

impl Partitions<'_> {
    fn region(&self, slot: Slot) -> Option<Region> {
        let found = match slot {
            Slot::Ota(index) => self.table.slot(index).map(|slot| slot.region()),
            _ => self.table.find(slot.kind()).map(|entry| entry.region),
        };
        found.filter(|region| region.size > 0)
    }
}

/// Where to begin, and whether `otadata` is to be filled on success.
struct Start {
    slot: Slot,
    has_initial_contents: bool,
}

impl BootModel {
    /// Starts an app as the chip does after a reset.
    ///
    /// Its writes to `otadata` are ordinary operations of `flash` and can be cut.
    pub fn boot(&self, flash: &mut SimFlash) -> Result<Boot, NoBoot> {
        let mut bytes = [0; TABLE_BYTES];
        app::Source::read(flash, self.table_offset, &mut bytes)?;
        let table = Table::parse_for(&bytes, self.flash_bytes)?;
        let partitions = Partitions {
            table,
            otadata: table.find_otadata(),
            app_count: table.ota_slots(),
        };
        let start = self.choose(flash, &partitions)?;
        self.load(flash, &partitions, start)
    }

    fn choose(&self, flash: &mut SimFlash, partitions: &Partitions) -> Result<Start, NoBoot> {
        let factory = Start {
            slot: Slot::Factory,
            has_initial_contents: false,
        };
        let Some(region) = partitions.otadata else {
            return Ok(factory);
        };
        if region.size < 2 * SECTOR_BYTES {
            return Err(NoBoot::OtaData { size: region.size });
        }
        let mut entries = [read_entry(flash, region, 0)?, read_entry(flash, region, 1)?];
        if self.rollback {
            abort_unconfirmed(flash, region, &mut entries)?;
        }
        if entries.iter().all(Entry::is_empty_or_given_up) || partitions.app_count == 0 {
            return Ok(match partitions.region(Slot::Factory) {
                Some(_) => factory,
                None => Start {
                    slot: Slot::Ota(0),
                    has_initial_contents: entries
                        .iter()
                        .all(|entry| entry.is_empty() || !entry.is_crc_right()),
                },
            });
        }
        let Some(active) = otadata::active(&entries) else {
            // Damaged, not empty: the factory app if there is one, else whatever is bootable.
            return Ok(factory);
        };
        let entry = &mut entries[active];
        if self.rollback && entry.state == State::New {
            entry.state = State::PendingVerify;
            write_entry(flash, region, active, entry)?;
        }
        Ok(Start {
            slot: Slot::Ota(otadata::slot_of(entry.seq, partitions.app_count)),
            has_initial_contents: false,
        })
    }

    /// Tries the chosen slot, then downwards to the factory app, then upwards, then the test app.
    fn load(
        &self,
        flash: &mut SimFlash,
        partitions: &Partitions,
        start: Start,
    ) -> Result<Boot, NoBoot> {
        let first = start.slot.ota_index();
        let down = first.map_or(0, |index| index + 1);
        let order = (0..down)
            .rev()
            .map(Slot::Ota)
            .chain([Slot::Factory])
            .chain((down..partitions.app_count).map(Slot::Ota))
            .chain([Slot::Test]);
        for slot in order {
            let Some(region) = partitions.region(slot) else {
                continue;
            };
            let Some(image) = self.verify(flash, region)? else {
                continue;
            };
            if let (true, Some(index), Some(otadata)) = (
                start.has_initial_contents,
                slot.ota_index(),
                partitions.otadata,
            ) {
                let entry = Entry::new(u32::from(index) + 1, State::Valid);
                write_entry(flash, otadata, 0, &entry)?;
            }
            return Ok(Boot {
                slot,
                region,
                image,
                is_fallback: slot != start.slot,
            });
        }
        Err(NoBoot::NoImage)
    }

    fn verify(&self, flash: &mut SimFlash, region: Region) -> Result<Option<Image>, NoBoot> {
        let mut slot = Window {
            source: flash,
            base: region.offset,
        };
        match app::check(&mut slot, region.size) {
            Ok(image) if self.chip.is_none_or(|chip| image.header.chip == Some(chip)) => {
                Ok(Some(image))
            }
            Ok(_) | Err(CheckError::Image(_)) => Ok(None),
            Err(CheckError::Read { error, .. }) => Err(error.into()),
        }
    }
}

/// Whoever was started once and did not confirm is given up; the CRC is neither checked nor made.
fn abort_unconfirmed(
    flash: &mut SimFlash,
    region: Region,
    entries: &mut [Entry; 2],
) -> Result<(), NoBoot> {
    for (index, entry) in entries.iter_mut().enumerate() {
        if entry.state == State::PendingVerify {
            entry.state = State::Aborted;
            write_entry(flash, region, index, entry)?;
        }
    }
    Ok(())
}

fn read_entry(flash: &mut SimFlash, region: Region, index: usize) -> Result<Entry, NoBoot> {
    let mut bytes = [0; ENTRY_BYTES];
    app::Source::read(flash, entry_offset(region, index), &mut bytes)?;
    Ok(Entry::parse(&bytes))
}

fn write_entry(
    flash: &mut SimFlash,
    region: Region,
    index: usize,
    entry: &Entry,
) -> Result<(), NoBoot> {
    let offset = entry_offset(region, index);
    flash.erase(offset, offset + SECTOR_BYTES)?;
    flash.write(offset, &entry.to_bytes())?;
    Ok(())
}

fn entry_offset(region: Region, index: usize) -> u32 {
    region.offset + index as u32 * SECTOR_BYTES
}
