extern crate std;
use std::vec::Vec;

use super::*;
use proptest::prelude::*;

const FLASH_BYTES: u32 = 4 << 20;

fn stock() -> Vec<u8> {
    TableBuilder::factory_two_ota().build().unwrap()
}

/// The table at its place in an otherwise erased flash.
fn flash(table: &[u8]) -> Vec<u8> {
    let mut flash = std::vec![0xFF; TABLE_OFFSET as usize + 0x1000];
    flash[TABLE_OFFSET as usize..][..table.len()].copy_from_slice(table);
    flash
}

fn layout(table: &[u8]) -> Result<Layout, LayoutError<PastEnd>> {
    Layout::read(&mut &*flash(table), TABLE_OFFSET, FLASH_BYTES)
}

#[test]
fn the_stock_table_has_the_md5_that_esp_idf_gives_it() {
    let bytes = stock();
    let md5_row = &bytes[6 * ROW_BYTES..7 * ROW_BYTES];
    assert_eq!(md5_row[..16], [[0xEB; 2].as_slice(), &[0xFF; 14]].concat());
    assert_eq!(
        u128::from_be_bytes(array(md5_row, 16)),
        0xbf25822c_0fa6d864_1bd93025_1e06b4c4
    );
}

#[test]
fn the_stock_table_reads_back() {
    let bytes = stock();
    let table = Table::parse_for(&bytes, FLASH_BYTES).unwrap();
    let region = |offset, size| Region { offset, size };
    assert_eq!(table.entries().count(), 6);
    assert_eq!(table.find_otadata(), Some(region(0xD000, 0x2000)));
    assert_eq!(table.factory(), Some(region(0x1_0000, 0x10_0000)));
    assert_eq!(table.ota_slots(), 2);
    let slot = table.slot(1).unwrap();
    assert_eq!(slot.region(), region(0x21_0000, 0x10_0000));
    assert_eq!(slot.label, "ota_1");
    assert_eq!(table.find_label("nvs").unwrap().kind, Kind::Nvs);

    let layout = layout(&bytes).unwrap();
    assert_eq!(layout.otadata, region(0xD000, 0x2000));
    assert_eq!(layout.factory, table.factory());
    assert_eq!(layout.slot(1), Some(&slot));
    assert_eq!(layout.slot_at(0x21_0000), Some(&slot));
    assert_eq!(layout.slot_at(0x31_0000), None);
}

#[test]
fn every_changed_byte_of_the_rows_is_found() {
    let bytes = stock();
    for place in 0..7 * ROW_BYTES {
        // Bytes 2..16 of the MD5 row are filler that nobody reads.
        if (6 * ROW_BYTES + 2..6 * ROW_BYTES + 16).contains(&place) {
            continue;
        }
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x10;
        assert!(Table::parse(&damaged).is_err(), "byte {place}");
        assert!(layout(&damaged).is_err(), "byte {place}");
    }
}

#[test]
fn what_the_bootloader_refuses_is_refused() {
    let bytes = stock();
    assert_eq!(Table::parse(&[]).unwrap_err(), TableError::NoEnd);
    assert_eq!(
        Table::parse(&[0xFF; TABLE_BYTES]).unwrap_err(),
        TableError::Empty
    );
    assert_eq!(
        Table::parse(&bytes[..6 * ROW_BYTES]).unwrap_err(),
        TableError::NoEnd
    );
    assert!(Table::parse(&bytes[..8 * ROW_BYTES]).is_ok());
    assert_eq!(
        Table::parse_for(&bytes, 2 << 20).unwrap_err(),
        TableError::BeyondFlash {
            row: 4,
            end: 0x21_0000,
            flash_bytes: 2 << 20
        }
    );
    let mut no_end = bytes.clone();
    no_end[7 * ROW_BYTES] = 0x12;
    assert_eq!(
        Table::parse(&no_end).unwrap_err(),
        TableError::RowAfterMd5 { row: 7 }
    );
    assert_eq!(
        Table::parse(&[0x12; TABLE_BYTES]).unwrap_err(),
        TableError::Magic {
            row: 0,
            found: 0x1212
        }
    );
}

#[test]
fn a_table_without_md5_is_accepted_as_the_bootloader_does() {
    let mut bytes = stock();
    bytes[6 * ROW_BYTES..7 * ROW_BYTES].fill(0xFF);
    assert!(Table::parse(&bytes).is_ok());
}

#[test]
fn a_layout_that_an_updater_would_destroy_itself_with_is_refused() {
    let start = || TableBuilder::new().add("otadata", Kind::OtaData, 0x2000);
    let read = |table: TableBuilder| layout(&table.build().unwrap()).unwrap_err();
    assert_eq!(
        read(TableBuilder::new().add("ota_0", Kind::Ota(0), 0x10_0000)),
        LayoutError::NoOtaData
    );
    assert_eq!(read(start()), LayoutError::NoSlots);
    // Found by fuzzing: which of the two counts?
    let twice = start().add("again", Kind::OtaData, 0x2000);
    assert_eq!(read(twice), LayoutError::OtaDataTwice);
    let gap = start()
        .add("ota_0", Kind::Ota(0), 0x10_0000)
        .add("ota_2", Kind::Ota(2), 0x10_0000);
    assert_eq!(
        read(gap),
        LayoutError::SlotGap {
            count: 2,
            missing: 1
        }
    );
    let at = |offset| Region {
        offset,
        size: 0x10_0000,
    };
    let overlap = start().add_at("ota_0", Kind::Ota(0), at(0x1_0000)).add_at(
        "ota_1",
        Kind::Ota(1),
        at(0x10_0000),
    );
    assert_eq!(read(overlap), LayoutError::Overlap { index: 0 });
    let over_table = start().add_at("ota_0", Kind::Ota(0), at(0));
    assert_eq!(read(over_table), LayoutError::Overlap { index: 0 });
    let crooked = start().add_at("ota_0", Kind::Ota(0), at(0x1_1000));
    assert_eq!(
        read(crooked),
        LayoutError::SlotAlignment {
            index: 0,
            offset: 0x1_1000
        }
    );
    // Found by fuzzing: an empty slot overlaps nothing, not even the slot around it.
    let empty = start().add_at("ota_0", Kind::Ota(0), at(0x1_0000)).add_at(
        "ota_1",
        Kind::Ota(1),
        Region {
            offset: 0x2_0000,
            size: 0,
        },
    );
    assert_eq!(
        read(empty),
        LayoutError::SlotGap {
            count: 2,
            missing: 1
        }
    );
    let small = TableBuilder::new().add("otadata", Kind::OtaData, 0x1000);
    assert_eq!(
        read(small),
        LayoutError::OtaData {
            offset: 0x9000,
            size: 0x1000
        }
    );
}

#[test]
fn sixteen_slots_fit() {
    let bytes = TableBuilder::ota(16, 0x2_0000).build().unwrap();
    let layout = layout(&bytes).unwrap();
    assert_eq!(layout.count(), 16);
    assert_eq!(layout.slots()[15].label, "ota_15");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..0x1000)) {
        let _ = Table::parse(&bytes);
        bytes.resize(0x1000, 0xFF);
        let _ = Layout::read(&mut &*bytes, 0, FLASH_BYTES);
    }
}
