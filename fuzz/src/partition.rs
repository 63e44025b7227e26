//! Partition tables.

use fota_image::partition::{Kind, Layout, ROW_BYTES, Region, TABLE_BYTES, Table, TableBuilder};

const FLASH_BYTES: u32 = 16 << 20;

/// Judges the bytes as a table, and a table with a right MD5 whose rows they describe.
pub fn partition_table(data: &[u8]) {
    judge(data);
    let rows = data.chunks_exact(ROW_BYTES).take(40);
    let table = rows.fold(TableBuilder::new(), |table, row| {
        let word = |at: usize| u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
        let region = Region {
            offset: word(4),
            size: word(8),
        };
        table.add_at("label", Kind::from_raw(row[2], row[3]), region)
    });
    judge(&table.build().expect("40 rows fit"));
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let tables = [
        TableBuilder::factory_two_ota(),
        TableBuilder::two_ota(0x1A_0000),
        TableBuilder::ota(16, 0x2_0000),
    ];
    let build = |table: TableBuilder| table.build().expect("at most 20 rows");
    tables.map(build).to_vec()
}

fn judge(data: &[u8]) {
    let table = Table::parse_for(data, FLASH_BYTES);
    if let Ok(table) = &table {
        assert!(table.entries().count() < TABLE_BYTES / ROW_BYTES);
        for entry in table.entries() {
            let end = u64::from(entry.region.offset) + u64::from(entry.region.size);
            assert!(end <= u64::from(FLASH_BYTES));
            let (kind, subtype) = entry.kind.to_raw();
            assert_eq!(Kind::from_raw(kind, subtype), entry.kind);
        }
    }
    let mut flash = data.to_vec();
    flash.resize(TABLE_BYTES, 0x55);
    let Ok(layout) = Layout::read(&mut &*flash, 0, FLASH_BYTES) else {
        return;
    };
    // The row-by-row reader saw the same table as the one with a buffer.
    let table = Table::parse_for(&flash, FLASH_BYTES).expect("a layout was read from it");
    assert_eq!(Some(layout.otadata), table.find_otadata());
    assert_eq!(layout.factory, table.factory());
    assert_eq!(layout.count(), table.ota_slots());
    for slot in layout.slots() {
        assert_eq!(Some(*slot), table.slot(slot.index));
        assert_eq!(layout.slot_at(slot.offset), Some(slot));
        assert!(!slot.region().overlaps(layout.otadata));
    }
}
