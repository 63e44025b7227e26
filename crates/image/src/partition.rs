//! The partition table: up to 95 rows of 32 bytes in one flash sector, usually at 0x8000.
//!
//! | bytes of a row | what |
//! |---|---|
//! | 0..2 | `AA 50` |
//! | 2, 3 | type, subtype |
//! | 4..8, 8..12 | offset, size |
//! | 12..28 | label |
//! | 28..32 | flags: bit 0 encrypted, bit 1 read-only |
//!
//! A row that begins with `EB EB` carries in its second half the MD5 of all rows before it; a row
//! that begins with `FF FF FF FF` ends the table. There is no second copy: a table that does not
//! read means that nothing boots.

mod layout;

#[cfg(feature = "build")]
pub use build::{TableBuildError, TableBuilder};
pub use layout::{Layout, LayoutError, SLOTS_MAX, Slot};

use md5::{Digest, Md5};

use crate::app::{PastEnd, Source};
use crate::bytes::{Text, array, u32_at};

#[cfg(feature = "build")]
mod build;

/// Where ESP-IDF puts the table unless told otherwise.
pub const TABLE_OFFSET: u32 = 0x8000;
/// The table's longest data; the rest of its sector is free.
pub const TABLE_BYTES: usize = 0xC00;
/// Length of a row.
pub const ROW_BYTES: usize = 32;
/// Rows that fit, the end row included.
pub const ROWS_MAX: usize = TABLE_BYTES / ROW_BYTES;
/// An app partition begins on a page of the flash cache.
pub const APP_ALIGN: u32 = 0x1_0000;

const MAGIC: [u8; 2] = [0xAA, 0x50];
const MAGIC_MD5: [u8; 2] = [0xEB, 0xEB];
const MAGIC_END: [u8; 4] = [0xFF; 4];

/// What a partition is for, as far as an update cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The app that is there from the factory.
    Factory,
    /// Slot `ota_0` to `ota_15`.
    Ota(u8),
    /// The app for production tests.
    Test,
    /// The two entries that choose the slot.
    OtaData,
    /// Key-value store.
    Nvs,
    /// Everything else, by type and subtype.
    Other {
        /// 0 app, 1 data, 2 bootloader, 3 partition table, 0x40 to 0xFE custom.
        kind: u8,
        /// Depends on the type.
        subtype: u8,
    },
}

impl Kind {
    /// Two sectors in which a device keeps whom it trusts: the custom type 0x40, subtype 0.
    pub const TRUST: Self = Self::Other {
        kind: 0x40,
        subtype: 0,
    };

    /// From the two bytes of a row.
    pub const fn from_raw(kind: u8, subtype: u8) -> Kind {
        match (kind, subtype) {
            (0, 0x00) => Kind::Factory,
            (0, 0x10..=0x1F) => Kind::Ota(subtype & 0x0F),
            (0, 0x20) => Kind::Test,
            (1, 0x00) => Kind::OtaData,
            (1, 0x02) => Kind::Nvs,
            _ => Kind::Other { kind, subtype },
        }
    }

    /// The two bytes of a row.
    pub const fn to_raw(self) -> (u8, u8) {
        match self {
            Kind::Factory => (0, 0x00),
            Kind::Ota(index) => (0, 0x10 | (index & 0x0F)),
            Kind::Test => (0, 0x20),
            Kind::OtaData => (1, 0x00),
            Kind::Nvs => (1, 0x02),
            Kind::Other { kind, subtype } => (kind, subtype),
        }
    }

    /// Whether it holds an app.
    pub const fn is_app(self) -> bool {
        self.to_raw().0 == 0
    }
}

/// A piece of flash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub offset: u32,
    /// Length.
    pub size: u32,
}

impl Region {
    /// First byte behind it. Parsed regions never pass the end of the address space.
    pub const fn end(self) -> u32 {
        self.offset.saturating_add(self.size)
    }

    /// Whether both have a byte in common.
    pub const fn overlaps(self, other: Region) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is for.
    pub kind: Kind,
    /// Where it lies.
    pub region: Region,
    /// Its name.
    pub label: Text<16>,
    /// Bit 0 encrypted, bit 1 read-only.
    pub flags: u32,
}

impl Entry {
    fn parse(row: &[u8; ROW_BYTES]) -> Entry {
        Entry {
            kind: Kind::from_raw(row[2], row[3]),
            region: Region {
                offset: u32_at(row, 4),
                size: u32_at(row, 8),
            },
            label: Text::new(array(row, 12)),
            flags: u32_at(row, 28),
        }
    }
}

/// Why a table is refused; the bootloader then boots nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// No row of any known kind.
    #[error(
        "partition table row {row} begins with {found:#06x}, expected 0x50aa: no table is here, or it is damaged"
    )]
    Magic {
        /// Number of the row, from 0.
        row: u8,
        /// Its first two bytes.
        found: u16,
    },
    /// The table must begin with a partition.
    #[error("partition table is empty: flash one, usually at 0x8000")]
    Empty,
    /// Nothing after the last row.
    #[error("partition table has no end row: it is truncated or damaged")]
    NoEnd,
    /// Beyond the flash.
    #[error(
        "partition in row {row} ends at {end:#x}; the flash ends at {flash_bytes:#x}: use a table for this flash size"
    )]
    BeyondFlash {
        /// Number of the row, from 0.
        row: u8,
        /// Where it ends.
        end: u64,
        /// Size of the flash.
        flash_bytes: u32,
    },
    /// The MD5 row does not fit the rows before it.
    #[error("partition table is damaged: its MD5 does not fit its rows")]
    Md5,
    /// More after the MD5 row than the end.
    #[error("partition table has row {row} behind its MD5 row: it is damaged")]
    RowAfterMd5 {
        /// Number of the row, from 0.
        row: u8,
    },
}

/// A verified table in a buffer; [`Layout::read`] needs no buffer.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    rows: &'a [u8],
}

impl<'a> Table<'a> {
    /// Verifies a table for the largest flash there can be.
    pub fn parse(bytes: &'a [u8]) -> Result<Table<'a>, TableError> {
        Table::parse_for(bytes, u32::MAX)
    }

    /// Verifies a table for a flash of `flash_bytes`, as the bootloader does.
    ///
    /// `bytes` may go on behind the end row; only the first 0xC00 are looked at.
    pub fn parse_for(bytes: &'a [u8], flash_bytes: u32) -> Result<Table<'a>, TableError> {
        let mut count = 0;
        let mut source = bytes;
        let whole_rows = bytes.len() / ROW_BYTES;
        read_rows(&mut source, 0, whole_rows, flash_bytes, |_| count += 1).map_err(|error| {
            match error {
                RowsError::Table(error) => error,
                RowsError::Read { error: PastEnd, .. } => TableError::NoEnd,
            }
        })?;
        Ok(Table {
            rows: &bytes[..count * ROW_BYTES],
        })
    }

    /// Its rows, in order.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + use<'a> {
        self.rows
            .chunks_exact(ROW_BYTES)
            .map(|row| Entry::parse(&array(row, 0)))
    }

    /// The row of a kind; the last of several, because that is the one the bootloader takes.
    pub fn find(&self, kind: Kind) -> Option<Entry> {
        self.entries().filter(|entry| entry.kind == kind).last()
    }

    /// The first row of a name.
    pub fn find_label(&self, label: &str) -> Option<Entry> {
        self.entries().find(|entry| entry.label == *label)
    }

    /// Where `otadata` lies.
    pub fn find_otadata(&self) -> Option<Region> {
        self.find(Kind::OtaData).map(|entry| entry.region)
    }

    /// The factory app, if there is one.
    pub fn factory(&self) -> Option<Region> {
        self.find(Kind::Factory).map(|entry| entry.region)
    }

    /// How many `ota_x` partitions there are, counted as the bootloader counts.
    pub fn ota_slots(&self) -> u8 {
        let count = self
            .entries()
            .filter(|entry| matches!(entry.kind, Kind::Ota(_)))
            .count();
        // At most 95 rows.
        count as u8
    }

    /// Slot `ota_<index>`.
    pub fn slot(&self, index: u8) -> Option<Slot> {
        let entry = self.find(Kind::Ota(index))?;
        Some(Slot::new(index, &entry))
    }
}

enum RowsError<E> {
    Table(TableError),
    Read { offset: u32, error: E },
}

impl<E> From<TableError> for RowsError<E> {
    fn from(error: TableError) -> Self {
        RowsError::Table(error)
    }
}

/// Reads and verifies row by row, with 32 bytes of buffer and a running MD5. `each` sees every
/// partition before the MD5 is known to be right: keep nothing if this fails.
fn read_rows<S: Source>(
    source: &mut S,
    table_offset: u32,
    rows: usize,
    flash_bytes: u32,
    mut each: impl FnMut(Entry),
) -> Result<(), RowsError<S::Error>> {
    let mut md5 = Md5::new();
    let mut md5_seen = false;
    for index in 0..rows.min(ROWS_MAX) as u8 {
        let offset = table_offset + u32::from(index) * ROW_BYTES as u32;
        let mut row = [0; ROW_BYTES];
        source
            .read(offset, &mut row)
            .map_err(|error| RowsError::Read { offset, error })?;
        if row.starts_with(&MAGIC_END) {
            return match index {
                0 => Err(TableError::Empty.into()),
                _ => Ok(()),
            };
        }
        if md5_seen {
            return Err(TableError::RowAfterMd5 { row: index }.into());
        }
        if row.starts_with(&MAGIC_MD5) {
            let computed: [u8; 16] = md5.clone().finalize().into();
            if computed != array::<16>(&row, 16) {
                return Err(TableError::Md5.into());
            }
            md5_seen = true;
            continue;
        }
        each(parse_row(index, &row, flash_bytes)?);
        md5.update(row);
    }
    Err(TableError::NoEnd.into())
}

fn parse_row(index: u8, row: &[u8; ROW_BYTES], flash_bytes: u32) -> Result<Entry, TableError> {
    if !row.starts_with(&MAGIC) {
        return Err(TableError::Magic {
            row: index,
            found: u16::from_le_bytes(array(row, 0)),
        });
    }
    let entry = Entry::parse(row);
    let end = u64::from(entry.region.offset) + u64::from(entry.region.size);
    if end > u64::from(flash_bytes) {
        return Err(TableError::BeyondFlash {
            row: index,
            end,
            flash_bytes,
        });
    }
    Ok(entry)
}

#[cfg(test)]
mod tests;
