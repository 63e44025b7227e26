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
    /// Nothing to switch to.
    #[error("partition table has no ota_0 partition: use a table with OTA, such as two_ota")]
    NoSlots,
    /// Bootloader and app would count differently.
    #[error(
        "partition table has {count} ota partitions but no ota_{missing}, or one of them twice: number them without gaps"
    )]
    SlotGap {
        /// How many there are.
        count: u8,
        /// The first number that is not there.
        missing: u8,
    },
    /// A slot that the flash cache cannot map, or that holds nothing.
    #[error(
        "ota_{index} begins at {offset:#x}, which is no multiple of 0x10000, or its size is zero or no multiple of 0x1000: correct the partition table"
    )]
    SlotAlignment {
        /// Number of the slot.
        index: u8,
        /// Its first byte.
        offset: u32,
    },
    /// An update would destroy something else.
    #[error(
        "ota_{index} overlaps another slot, the factory app, otadata or the partition table: correct the table"
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

/// What is collected while the rows go by.
#[derive(Default)]
struct Found {
    otadata: Option<Region>,
    slots: [Option<Slot>; SLOTS_MAX],
    count: u8,
    factory: Option<Region>,
}

impl Found {
    fn add(&mut self, entry: Entry) {
        match entry.kind {
            Kind::OtaData => self.otadata = self.otadata.or(Some(entry.region)),
            Kind::Factory => self.factory = self.factory.or(Some(entry.region)),
            Kind::Ota(index) => {
                self.slots[usize::from(index)] = Some(Slot::new(index, &entry));
                self.count += 1;
            }
            _ => {}
        }
    }
}

impl Layout {
    /// Reads the table at `table_offset` row by row: 32 bytes of buffer, about 1 KiB of stack.
    ///
    /// Stricter than the bootloader: slots must be numbered without gaps, aligned, and apart from
    /// each other and from `otadata`, because an updater that trusts them erases them.
    pub fn read<S: Source>(
        source: &mut S,
        table_offset: u32,
        flash_bytes: u32,
    ) -> Result<Layout, LayoutError<S::Error>> {
        let mut found = Found::default();
        read_rows(source, table_offset, ROWS_MAX, flash_bytes, |entry| {
            found.add(entry)
        })?;
        let otadata = found.otadata.ok_or(LayoutError::NoOtaData)?;
        let sector = otadata::SECTOR_BYTES;
        if otadata.size < 2 * sector || !otadata.offset.is_multiple_of(sector) {
            return Err(LayoutError::OtaData {
                offset: otadata.offset,
                size: otadata.size,
            });
        }
        let mut layout = Layout {
            otadata,
            slots: [Slot::default(); SLOTS_MAX],
            count: found.count,
            factory: found.factory,
        };
        layout.take_slots(&found)?;
        let table = Region {
            offset: table_offset,
            size: sector,
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

    fn take_slots<E>(&mut self, found: &Found) -> Result<(), LayoutError<E>> {
        if found.count == 0 {
            return Err(LayoutError::NoSlots);
        }
        for index in 0..found.count {
            let gap = LayoutError::SlotGap {
                count: found.count,
                missing: index,
            };
            let Some(Some(slot)) = found.slots.get(usize::from(index)) else {
                return Err(gap);
            };
            let sector = otadata::SECTOR_BYTES;
            let has_sectors = slot.size > 0 && slot.size.is_multiple_of(sector);
            if !slot.offset.is_multiple_of(APP_ALIGN) || !has_sectors {
                return Err(LayoutError::SlotAlignment {
                    index,
                    offset: slot.offset,
                });
            }
            self.slots[usize::from(index)] = *slot;
        }
        Ok(())
    }

    fn refuse_overlaps<E>(&self, table: Region) -> Result<(), LayoutError<E>> {
        let others = [Some(table), Some(self.otadata), self.factory];
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
