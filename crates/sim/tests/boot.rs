//! The bootloader model against recorded runs of the real one (rollback off), and against rules
//! written down a second time (rollback on).

use fota_image::build::ImageBuilder;
use fota_image::otadata::{Entry, SECTOR_BYTES, State, crc};
use fota_image::partition::{Kind, TABLE_OFFSET, TableBuilder};
use fota_sim::boot::{BootModel, NoBoot, Slot};
use fota_sim::flash::{FlashError, SimFlash, Tear};

use embedded_storage::nor_flash::NorFlash;
use fota_image::app::Chip;
use proptest::prelude::*;

const SLOT_BYTES: u32 = 0x2_0000;
const OTADATA: u32 = 0xD000;
const SLOTS: [u32; 3] = [0x1_0000, 0x3_0000, 0x5_0000];
const RECORDED: &str = include_str!("data/boot-matrix-rollback-off.csv");

/// A table of `slots` slots, each with an image of its own.
fn flash(table: &TableBuilder, images: &[(u32, &str)]) -> SimFlash {
    let mut flash = SimFlash::default();
    flash.load(TABLE_OFFSET, &table.build().unwrap()).unwrap();
    for (offset, version) in images {
        let image = ImageBuilder::new(Chip::Esp32C3).version(version).size(1024);
        flash.load(*offset, &image.build().unwrap()).unwrap();
    }
    flash
}

fn two_slots(entries: [Option<Entry>; 2]) -> SimFlash {
    let table = TableBuilder::two_ota(SLOT_BYTES);
    let mut flash = flash(&table, &[(SLOTS[0], "a"), (SLOTS[1], "b")]);
    store(&mut flash, entries);
    flash
}

fn store(flash: &mut SimFlash, entries: [Option<Entry>; 2]) {
    for (index, entry) in (0..).zip(entries) {
        let bytes = entry.map_or([0xFF; 32], |entry| entry.to_bytes());
        flash.load(OTADATA + index * SECTOR_BYTES, &bytes).unwrap();
    }
}

fn stored(flash: &SimFlash) -> [Option<Entry>; 2] {
    [0, 1].map(|index| {
        let offset = OTADATA + index * SECTOR_BYTES;
        let bytes = flash.bytes(offset..offset + 32).unwrap();
        let entry = Entry::parse(&bytes.try_into().unwrap());
        (!entry.is_empty()).then_some(entry)
    })
}

fn boot(rollback: bool, flash: &mut SimFlash) -> Slot {
    BootModel::new(rollback).boot(flash).unwrap().slot
}

fn parse_slot(text: &str) -> Slot {
    Slot::Ota(text.strip_prefix("ota_").unwrap().parse().unwrap())
}

/// `2:-1`, `2:UNDEFINED`, `-` or `empty`.
fn parse_entry(text: &str) -> Option<Entry> {
    let (seq, state) = text.split_once(':')?;
    let state = match state {
        "NEW" => State::New,
        "PENDING_VERIFY" => State::PendingVerify,
        "VALID" => State::Valid,
        "INVALID" => State::Invalid,
        "ABORTED" => State::Aborted,
        "UNDEFINED" => State::Undefined,
        number => State::from_u32(number.parse::<i32>().unwrap() as u32),
    };
    Some(Entry::new(seq.parse().unwrap(), state))
}

#[test]
fn rollback_off_does_what_the_real_bootloader_did_in_49_states() {
    let mut states = 0;
    for line in RECORDED.lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        let [before0, before1, boots, after0, after1] = columns[..] else {
            panic!("five columns expected: {line}");
        };
        let mut flash = two_slots([before0, before1].map(parse_entry));
        assert_eq!(boot(false, &mut flash), parse_slot(boots), "{line}");
        assert_eq!(stored(&flash), [after0, after1].map(parse_entry), "{line}");
        states += 1;
    }
    assert_eq!(states, 49);
}

const STATES: [Option<State>; 7] = [
    None,
    Some(State::Undefined),
    Some(State::New),
    Some(State::PendingVerify),
    Some(State::Valid),
    Some(State::Invalid),
    Some(State::Aborted),
];

/// Rollback on, for sequence numbers 1 and 2 and no factory app, as a table: state of entry 0,
/// state of entry 1, what boots, both states afterwards. `-` erased, U undefined, N new, P pending,
/// V valid, I invalid, A aborted.
///
/// Written by hand from the rules in the ESP-IDF documentation, not from the model: a P anywhere
/// becomes A first; I and A never boot; of two that may boot, the second (sequence number 2) does;
/// it becomes P if it was N; with nothing left, ota_0 boots, and only two erased entries are filled.
#[rustfmt::skip]
const ROLLBACK_ON: [(&str, &str); 49] = [
    ("--", "0 V-"), ("-U", "1 -U"), ("-N", "1 -P"), ("-P", "0 -A"), ("-V", "1 -V"), ("-I", "0 -I"), ("-A", "0 -A"),
    ("U-", "0 U-"), ("UU", "1 UU"), ("UN", "1 UP"), ("UP", "0 UA"), ("UV", "1 UV"), ("UI", "0 UI"), ("UA", "0 UA"),
    ("N-", "0 P-"), ("NU", "1 NU"), ("NN", "1 NP"), ("NP", "0 PA"), ("NV", "1 NV"), ("NI", "0 PI"), ("NA", "0 PA"),
    ("P-", "0 A-"), ("PU", "1 AU"), ("PN", "1 AP"), ("PP", "0 AA"), ("PV", "1 AV"), ("PI", "0 AI"), ("PA", "0 AA"),
    ("V-", "0 V-"), ("VU", "1 VU"), ("VN", "1 VP"), ("VP", "0 VA"), ("VV", "1 VV"), ("VI", "0 VI"), ("VA", "0 VA"),
    ("I-", "0 I-"), ("IU", "1 IU"), ("IN", "1 IP"), ("IP", "0 IA"), ("IV", "1 IV"), ("II", "0 II"), ("IA", "0 IA"),
    ("A-", "0 A-"), ("AU", "1 AU"), ("AN", "1 AP"), ("AP", "0 AA"), ("AV", "1 AV"), ("AI", "0 AI"), ("AA", "0 AA"),
];

fn entries_of(letters: &str) -> [Option<Entry>; 2] {
    let mut seq = 0;
    let entries = letters.chars().map(|letter| {
        seq += 1;
        let state = STATES["-UNPVIA".find(letter).unwrap()];
        state.map(|state| Entry::new(seq, state))
    });
    entries.collect::<Vec<_>>().try_into().unwrap()
}

#[test]
fn rollback_on_follows_the_rules_in_49_states() {
    let mut seen: Vec<&str> = ROLLBACK_ON.iter().map(|(before, _)| *before).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 49);
    for (before, expected) in ROLLBACK_ON {
        let (slot, after) = expected.split_once(' ').unwrap();
        let mut flash = two_slots(entries_of(before));
        let booted = boot(true, &mut flash);
        assert_eq!(booted, Slot::Ota(slot.parse().unwrap()), "{before}");
        assert_eq!(stored(&flash), entries_of(after), "{before}");
    }
}

#[test]
fn a_new_image_gets_one_boot_and_its_label_is_kept() {
    let mut new = Entry::new(2, State::New);
    new.label = *b"attempt 7 of release";
    let mut flash = two_slots([Some(Entry::new(1, State::Valid)), Some(new)]);
    assert_eq!(boot(true, &mut flash), Slot::Ota(1));
    let pending = stored(&flash)[1].unwrap();
    assert_eq!(
        (pending.state, pending.label),
        (State::PendingVerify, new.label)
    );
    assert_eq!(boot(true, &mut flash), Slot::Ota(0));
    let aborted = stored(&flash)[1].unwrap();
    assert_eq!((aborted.state, aborted.label), (State::Aborted, new.label));
    assert_eq!(boot(true, &mut flash), Slot::Ota(0));
}

#[test]
fn a_damaged_active_image_falls_back_and_otadata_still_names_it() {
    for rollback in [false, true] {
        let entries = [1, 2].map(|seq| Some(Entry::new(seq, State::Valid)));
        let mut flash = two_slots(entries);
        flash.erase(SLOTS[1], SLOTS[1] + 0x1000).unwrap();
        let booted = BootModel::new(rollback).boot(&mut flash).unwrap();
        assert_eq!((booted.slot, booted.is_fallback), (Slot::Ota(0), true));
        assert_eq!(stored(&flash), entries);
        flash.erase(SLOTS[0], SLOTS[0] + 0x1000).unwrap();
        let error = BootModel::new(rollback).boot(&mut flash).unwrap_err();
        assert_eq!(error, NoBoot::NoImage);
    }
}

#[test]
fn the_fallback_goes_down_to_the_factory_app_and_then_up() {
    let table = TableBuilder::new()
        .add("nvs", Kind::Nvs, 0x4000)
        .add("otadata", Kind::OtaData, 0x2000)
        .add("factory", Kind::Factory, SLOT_BYTES)
        .add("ota_0", Kind::Ota(0), SLOT_BYTES)
        .add("ota_1", Kind::Ota(1), SLOT_BYTES)
        .add("ota_2", Kind::Ota(2), SLOT_BYTES)
        .add("test", Kind::Test, SLOT_BYTES);
    let places = [0x1_0000, 0x3_0000, 0x5_0000, 0x7_0000, 0x9_0000].map(|offset| (offset, "x"));
    let mut flash = flash(&table, &places);
    store(&mut flash, [Some(Entry::new(2, State::Valid)), None]);
    let order = [
        Slot::Ota(1),
        Slot::Ota(0),
        Slot::Factory,
        Slot::Ota(2),
        Slot::Test,
    ];
    for expected in order {
        let booted = BootModel::new(false).boot(&mut flash).unwrap();
        assert_eq!(booted.slot, expected);
        flash
            .erase(booted.region.offset, booted.region.offset + 0x1000)
            .unwrap();
    }
    assert_eq!(BootModel::new(false).boot(&mut flash), Err(NoBoot::NoImage));
}

#[test]
fn with_a_factory_app_erased_otadata_boots_it_and_stays_erased() {
    let table = TableBuilder::factory_two_ota();
    let mut flash = flash(&table, &[(0x1_0000, "factory"), (0x11_0000, "a")]);
    assert_eq!(boot(true, &mut flash), Slot::Factory);
    assert_eq!(stored(&flash), [None, None]);
    // Two damaged entries are not two erased ones, and end at the factory app as well.
    let damaged = Entry {
        crc: 0,
        ..Entry::new(1, State::Valid)
    };
    store(&mut flash, [Some(damaged), Some(damaged)]);
    assert_eq!(boot(true, &mut flash), Slot::Factory);
}

#[test]
fn damaged_entries_without_a_factory_app_try_every_slot_and_are_left_alone() {
    let damaged = |seq| {
        Some(Entry {
            crc: !crc(seq),
            ..Entry::new(seq, State::Valid)
        })
    };
    let mut flash = two_slots([damaged(1), damaged(2)]);
    let booted = BootModel::new(false).boot(&mut flash).unwrap();
    assert_eq!(booted.slot, Slot::Ota(0));
    assert_eq!(stored(&flash), [damaged(1), damaged(2)]);
}

#[test]
fn three_slots_take_turns() {
    let table = TableBuilder::ota(3, SLOT_BYTES);
    let mut flash = flash(&table, &SLOTS.map(|offset| (offset, "x")));
    for seq in 1..10 {
        store(&mut flash, [None, Some(Entry::new(seq, State::Valid))]);
        let expected = Slot::Ota(((seq - 1) % 3) as u8);
        assert_eq!(boot(false, &mut flash), expected);
    }
}

#[test]
fn an_image_for_another_chip_does_not_boot() {
    let mut flash = two_slots([None, None]);
    let boot = |chip, flash: &mut SimFlash| {
        let chip = Some(chip);
        BootModel {
            chip,
            ..BootModel::new(false)
        }
        .boot(flash)
    };
    assert_eq!(boot(Chip::Esp32S3, &mut flash), Err(NoBoot::NoImage));
    assert!(boot(Chip::Esp32C3, &mut flash).is_ok());
}

#[test]
fn a_damaged_table_boots_nothing() {
    let mut flash = two_slots([None, None]);
    flash.load(TABLE_OFFSET + 5, &[0x55]).unwrap();
    assert!(matches!(
        BootModel::new(false).boot(&mut flash),
        Err(NoBoot::Table(_))
    ));
}

#[test]
fn a_cut_in_the_bootloaders_own_writes_never_ends_without_a_boot() {
    let valid = Some(Entry::new(1, State::Valid));
    let starts = [
        [valid, Some(Entry::new(2, State::New))],
        [valid, Some(Entry::new(2, State::PendingVerify))],
        [None, None],
    ];
    let tears = (0..20).flat_map(|seed| {
        [
            Tear::Random(seed),
            Tear::RandomBytes(seed),
            Tear::RandomWords(seed),
        ]
    });
    let tears: Vec<Tear> = [Tear::Before, Tear::After, Tear::Prefix(8), Tear::Prefix(28)]
        .into_iter()
        .chain(tears)
        .collect();
    for start in starts {
        for op in 0..2 {
            for tear in &tears {
                let mut flash = two_slots(start);
                flash.cut_at(op, *tear);
                let cut = BootModel::new(true).boot(&mut flash);
                assert_eq!(cut, Err(NoBoot::PowerLost), "{start:?} {op} {tear:?}");
                assert_eq!(flash.write(0, &[0; 4]), Err(FlashError::PowerLost));
                flash.power_on();
                BootModel::new(true).boot(&mut flash).unwrap();
            }
        }
    }
}

proptest! {
    /// Whatever a torn write, a stray app or a worn sector leaves in otadata: with two good images
    /// one of them boots, and once both entries had their only boot otadata changes no more.
    #[test]
    fn any_otadata_boots_a_good_image(
        words: [u32; 16], states in [0u32..8, 0u32..8], small in any::<[bool; 2]>(), rollback: bool,
    ) {
        let entry = |index: usize| {
            let word = |place: usize| words[index * 8 + place];
            let bytes: Vec<u8> = (0..8).flat_map(|place| word(place).to_le_bytes()).collect();
            let torn = Entry::parse(&bytes.try_into().unwrap());
            // Half of the entries have a right CRC, or nothing but the empty case would be seen.
            let whole = Entry::new(torn.seq % 64, State::from_u32(states[index]));
            Some(if small[index] { whole } else { torn })
        };
        let mut flash = two_slots([entry(0), entry(1)]);
        for _ in 0..3 {
            boot(rollback, &mut flash);
        }
        let settled = stored(&flash);
        let slot = boot(rollback, &mut flash);
        prop_assert_eq!(stored(&flash), settled);
        prop_assert_eq!(boot(rollback, &mut flash), slot);
    }
}
