//! The part of the table that an updater needs.

use super::{APP_ALIGN, Entry, Kind, ROWS_MAX, Region, RowsError, TableError, read_rows};
use crate::app::Source;
use crate::bytes::Text;
use crate::otadata;

/// `ota_0` to `ota_15`.
pub const SLOTS_MAX: usize = 16;

/// One slot for an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// `x` of `ota_x`.
    pub index: u8,
    /// First byte in flash.
    pub offset: u32,
    /// Length.
    pub size: u32,
    /// Name in the table.
    pub label: Text<16>,
}

impl Slot {
    pub(super) fn new(index: u8, entry: &Entry) -> Slot {
        Slot {
            index,
            offset: entry.region.offset,
            size: entry.region.size,
            label: entry.label,
        }
    }

    /// Where it lies.
    pub const fn region(&self) -> Region {
        Region {
            offset: self.offset,
            size: self.size,
        }
    }
}

/// `otadata`, the slots and the factory app of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The two sectors that choose the slot.
    pub otadata: Region,
    slots: [Slot; SLOTS_MAX],
    count: u8,
    /// The factory app, if there is one.
    pub factory: Option<Region>,
    /// Where the device keeps whom it trusts ([`Kind::TRUST`]), if there is such a partition.
    pub trust: Option<Region>,
}

/// Why a device with this table cannot be updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError<E> {
    /// The table itself.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The table could not be read.
    #[error("read failed at offset {offset:#x}")]
    Read {
        /// Where.
        offset: u32,
        /// Why.
        error: E,
    },
    /// No place for the choice.
    #[error("partition table has no otadata partition: use a table with OTA, such as two_ota")]
    NoOtaData,
    /// The bootloader would read the last one, ESP-IDF's app side the first.
    #[error("partition table has more than one otadata partition: leave one")]
    OtaDataTwice,
    /// Too small for two sectors.
    #[error(
        "otadata has {size} bytes at {offset:#x}; it needs 8,192 on a sector boundary: correct the partition table"
    )]
    OtaData {
        /// Its first byte.
        offset: u32,
        /// Its length.
        size: u32,
    },
    /// Too small for two sectors, or not on one.
    #[error(
        "the trust partition has {size} bytes at {offset:#x}; it needs 8,192 on a sector boundary: correct the partition table"
    )]
    Trust {
        /// Its first byte.
        offset: u32,
        /// Its length.
        size: u32,
    },
    /// Nothing to switch to.
    #[error("partition table has no ota_0 partition: use a table with OTA, such as two_ota")]
    NoSlots,
    /// Bootloader and app would count differently.
    #[error(
        "partition table has {count} ota partitions but ota_{missing} is missing or empty, or another is there twice: number them without gaps"
    )]
    SlotGap {
        /// How many there are.
        count: u8,
        /// The first number that is not there.
        missing: u8,
    },
    /// A slot that the flash cache cannot map.
    #[error(
        "ota_{index} begins at {offset:#x}, which is no multiple of 0x10000, or its size is no multiple of 0x1000: correct the partition table"
    )]
    SlotAlignment {
        /// Number of the slot.
        index: u8,
        /// Its first byte.
        offset: u32,
    },
    /// An update would destroy something else.
    #[error(
        "ota_{index} overlaps another slot, the factory app, otadata, the trust partition or the partition table: correct the table"
    )]
    Overlap {
        /// Number of the slot.
        index: u8,
    },
}

impl<E> From<RowsError<E>> for LayoutError<E> {
    fn from(error: RowsError<E>) -> Self {
        match error {
            RowsError::Table(error) => LayoutError::Table(error),
            RowsError::Read { offset, error } => LayoutError::Read { offset, error },
        }
    }
}

impl Layout {
    /// Reads the table at `table_offset` row by row with a buffer of 32 bytes. Needs 1.7 KiB of
    /// stack on RV32 (measured, opt-level s, MD5 and the layout itself included).
    ///
    /// Stricter than the bootloader: slots must be numbered without gaps, aligned, and apart from
    /// each other and from `otadata`, because an updater that trusts them erases them.
    pub fn read<S: Source>(
        source: &mut S,
        table_offset: u32,
        flash_bytes: u32,
    ) -> Result<Layout, LayoutError<S::Error>> {
        let mut layout = Layout {
            otadata: Region::default(),
            slots: [Slot::default(); SLOTS_MAX],
            count: 0,
            factory: None,
            trust: None,
        };
        let mut otadata_rows = 0u8;
        read_rows(source, table_offset, ROWS_MAX, flash_bytes, |entry| {
            otadata_rows += u8::from(entry.kind == Kind::OtaData);
            layout.add(entry);
        })?;
        layout.refuse_otadata(otadata_rows)?;
        layout.refuse_trust()?;
        layout.refuse_slots()?;
        let table = Region {
            offset: table_offset,
            size: otadata::SECTOR_BYTES,
        };
        layout.refuse_overlaps(table)?;
        Ok(layout)
    }

    /// The slots, `ota_0` first.
    pub fn slots(&self) -> &[Slot] {
        &self.slots[..usize::from(self.count)]
    }

    /// How many slots there are; at least one.
    pub const fn count(&self) -> u8 {
        self.count
    }

    /// Slot `ota_<index>`.
    pub fn slot(&self, index: u8) -> Option<&Slot> {
        self.slots().get(usize::from(index))
    }

    /// The slot that contains this flash offset: where the running code was mapped from.
    pub fn slot_at(&self, offset: u32) -> Option<&Slot> {
        self.slots().iter().find(|slot| {
            let region = slot.region();
            (region.offset..region.end()).contains(&offset)
        })
    }

    /// Takes what matters of a row. Until `refuse_slots` is through, `count` may disagree with
    /// `slots`, where a slot of no bytes stands for one that was not seen.
    fn add(&mut self, entry: Entry) {
        match entry.kind {
            Kind::OtaData => self.otadata = entry.region,
            Kind::Factory => self.factory = Some(entry.region),
            Kind::TRUST => self.trust = Some(entry.region),
            Kind::Ota(index) => {
                self.slots[usize::from(index)] = Slot::new(index, &entry);
                self.count += 1;
            }
            _ => {}
        }
    }

    fn refuse_otadata<E>(&self, rows: u8) -> Result<(), LayoutError<E>> {
        let Region { offset, size } = self.otadata;
        let sector = otadata::SECTOR_BYTES;
        match rows {
            0 => Err(LayoutError::NoOtaData),
            1 if size >= 2 * sector && offset.is_multiple_of(sector) => Ok(()),
            1 => Err(LayoutError::OtaData { offset, size }),
            _ => Err(LayoutError::OtaDataTwice),
        }
    }

    fn refuse_trust<E>(&self) -> Result<(), LayoutError<E>> {
        let sector = otadata::SECTOR_BYTES;
        match self.trust {
            Some(Region { offset, size })
                if size < 2 * sector || !offset.is_multiple_of(sector) =>
            {
                Err(LayoutError::Trust { offset, size })
            }
            _ => Ok(()),
        }
    }

    fn refuse_slots<E>(&self) -> Result<(), LayoutError<E>> {
        if self.count == 0 {
            return Err(LayoutError::NoSlots);
        }
        for index in 0..self.count {
            let slot = self.slots.get(usize::from(index));
            let Some(slot) = slot.filter(|slot| slot.size > 0) else {
                return Err(LayoutError::SlotGap {
                    count: self.count,
                    missing: index,
                });
            };
            let sector = otadata::SECTOR_BYTES;
            if !slot.offset.is_multiple_of(APP_ALIGN) || !slot.size.is_multiple_of(sector) {
                return Err(LayoutError::SlotAlignment {
                    index,
                    offset: slot.offset,
                });
            }
        }
        Ok(())
    }

    fn refuse_overlaps<E>(&self, table: Region) -> Result<(), LayoutError<E>> {
        let others = [Some(table), Some(self.otadata), self.factory, self.trust];
        for (index, slot) in self.slots().iter().enumerate() {
            let region = slot.region();
            let later = self.slots()[index + 1..].iter().map(Slot::region);
            let mut rest = others.into_iter().flatten().chain(later);
            if rest.any(|other| other.overlaps(region)) {
                return Err(LayoutError::Overlap { index: slot.index });
            }
        }
        Ok(())
    }
}
