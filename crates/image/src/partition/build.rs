//! Makes partition tables.

extern crate std;
use std::vec;
use std::vec::Vec;

use md5::{Digest, Md5};

use super::{
    APP_ALIGN, Entry, Kind, MAGIC, MAGIC_MD5, ROW_BYTES, ROWS_MAX, Region, TABLE_BYTES,
    TABLE_OFFSET,
};
use crate::bytes::Text;

/// First byte behind the table's sector.
const FIRST_OFFSET: u32 = TABLE_OFFSET + 0x1000;
const SECTOR_BYTES: u32 = 0x1000;

/// Why a table cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableBuildError {
    /// No place for MD5 and end row.
    #[error("too many partitions: at most 94 fit beside the MD5 row")]
    TooMany,
    /// The label does not fit its field.
    #[error("a partition label has at most 16 bytes")]
    Label,
}

/// Collects partitions and places each behind the one before, aligned as its kind needs.
#[derive(Clone, Debug, Default)]
pub struct TableBuilder {
    rows: Vec<Entry>,
    label_too_long: bool,
}

impl TableBuilder {
    /// An empty table, placed behind 0x8000.
    pub fn new() -> Self {
        TableBuilder::default()
    }

    /// ESP-IDF's stock "factory app, two OTA definitions" for 4 MiB.
    pub fn factory_two_ota() -> Self {
        TableBuilder::new()
            .add("nvs", Kind::Nvs, 0x4000)
            .add("otadata", Kind::OtaData, 0x2000)
            .add("phy_init", PHY, 0x1000)
            .add("factory", Kind::Factory, 0x10_0000)
            .add("ota_0", Kind::Ota(0), 0x10_0000)
            .add("ota_1", Kind::Ota(1), 0x10_0000)
    }

    /// Two slots of `slot_bytes` and no factory app, as ESP-IDF's "two large OTA".
    pub fn two_ota(slot_bytes: u32) -> Self {
        TableBuilder::ota(2, slot_bytes)
    }

    /// `slots` slots of `slot_bytes` and no factory app.
    pub fn ota(slots: u8, slot_bytes: u32) -> Self {
        const LABELS: [&str; 16] = [
            "ota_0", "ota_1", "ota_2", "ota_3", "ota_4", "ota_5", "ota_6", "ota_7", "ota_8",
            "ota_9", "ota_10", "ota_11", "ota_12", "ota_13", "ota_14", "ota_15",
        ];
        let start = TableBuilder::new()
            .add("nvs", Kind::Nvs, 0x4000)
            .add("otadata", Kind::OtaData, 0x2000)
            .add("phy_init", PHY, 0x1000);
        (0..)
            .zip(LABELS)
            .take(slots.into())
            .fold(start, |table, (index, label)| {
                table.add(label, Kind::Ota(index), slot_bytes)
            })
    }

    /// Adds the two sectors in which a device keeps whom it trusts.
    pub fn trust(self) -> Self {
        self.add("fota", Kind::TRUST, 2 * SECTOR_BYTES)
    }

    /// Adds a partition behind the last one.
    pub fn add(self, label: &str, kind: Kind, size: u32) -> Self {
        let align = if kind.is_app() {
            APP_ALIGN
        } else {
            SECTOR_BYTES
        };
        let end = self
            .rows
            .last()
            .map_or(FIRST_OFFSET, |row| row.region.end());
        let offset = end.checked_next_multiple_of(align).unwrap_or(u32::MAX);
        self.add_at(label, kind, Region { offset, size })
    }

    /// Adds a partition anywhere, also where none may be.
    pub fn add_at(mut self, label: &str, kind: Kind, region: Region) -> Self {
        let text = Text::from_text(label);
        self.label_too_long |= text.is_none();
        self.rows.push(Entry {
            kind,
            region,
            label: text.unwrap_or_default(),
            flags: 0,
        });
        self
    }

    /// The table's 0xC00 bytes, with MD5 and end row.
    pub fn build(&self) -> Result<Vec<u8>, TableBuildError> {
        if self.rows.len() > ROWS_MAX - 2 {
            return Err(TableBuildError::TooMany);
        }
        if self.label_too_long {
            return Err(TableBuildError::Label);
        }
        let mut bytes: Vec<u8> = self.rows.iter().flat_map(row_bytes).collect();
        let md5 = Md5::digest(&bytes);
        bytes.extend(MAGIC_MD5);
        bytes.extend([0xFF; 14]);
        bytes.extend(md5);
        bytes.resize(TABLE_BYTES, 0xFF);
        Ok(bytes)
    }
}

const PHY: Kind = Kind::Other {
    kind: 1,
    subtype: 1,
};

fn row_bytes(entry: &Entry) -> Vec<u8> {
    let (kind, subtype) = entry.kind.to_raw();
    let mut row = vec![MAGIC[0], MAGIC[1], kind, subtype];
    row.extend(entry.region.offset.to_le_bytes());
    row.extend(entry.region.size.to_le_bytes());
    row.extend(entry.label.as_bytes());
    row.extend(entry.flags.to_le_bytes());
    debug_assert_eq!(row.len(), ROW_BYTES);
    row
}
