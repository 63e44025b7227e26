//! What Espressif's real ESP32-C3 bootloader does, run by the real mask ROM: the 49 states of
//! `otadata` and damaged images. It must be what was recorded, and what the model in `fota-sim`
//! does, on which the power-cut tests stand.
//!
//! Needs `FOTA_ESPFLASH`, which `cargo xtask emulator` sets; without it the tests say that they were
//! skipped.

use fota_emulator::{Board, Files, Machine};
use fota_image::{
    app::{self, Chip},
    build::ImageBuilder,
    otadata::{Entry, SECTOR_BYTES, State},
    partition::TableBuilder,
};
use fota_sim::{
    boot::{BootModel, Slot},
    flash::SimFlash,
};
use sha2::{Digest, Sha256};

const RECORDED: &str = include_str!("../../sim/tests/data/boot-matrix-rollback-off.csv");
const SLOT_BYTES: u32 = 0x18_0000;
const OTADATA: u32 = 0xD000;
const SLOTS: [u32; 2] = [0x1_0000, 0x19_0000];
/// What the app in each slot prints.
const NAMES: [&str; 2] = ["app in ota_0\n", "app in ota_1\n"];
/// A boot takes about two million instructions.
const INSTRUCTIONS_MAX: u64 = 50_000_000;

/// An image whose code prints `text` and stays there.
fn app(text: &str) -> Vec<u8> {
    let builder = ImageBuilder::new(Chip::Esp32C3).project(text.trim());
    let mut image = builder.build().unwrap();
    let code: Vec<u8> = printer(text).flat_map(u32::to_le_bytes).collect();
    // The third segment is the RAM code, at whose start the entry point is.
    let at = app::check_bytes(&image).unwrap().segments[2].file_offset as usize;
    image[at..at + code.len()].copy_from_slice(&code);
    seal(&mut image);
    image
}

/// RV32: the UART's FIFO is at 0x60000000.
fn printer(text: &str) -> impl Iterator<Item = u32> {
    let lui_t0 = 0x6000_02B7;
    let jump_to_itself = 0x0000_006F;
    let put = |byte: u8| {
        let li_t1 = u32::from(byte) << 20 | 0x0000_0313;
        let sw_t1_t0 = 0x0062_A023;
        [li_t1, sw_t1_t0]
    };
    [lui_t0]
        .into_iter()
        .chain(text.bytes().flat_map(put).collect::<Vec<_>>())
        .chain([jump_to_itself])
}

/// Makes checksum and hash of a changed image anew.
fn seal(image: &mut [u8]) {
    let body = image.len() - 32;
    image[body - 1] = 0xEF;
    let mut at = 24;
    for _ in 0..image[1] {
        let bytes = u32::from_le_bytes(image[at + 4..at + 8].try_into().unwrap()) as usize;
        let sum = image[at + 8..at + 8 + bytes].iter().fold(0, |a, b| a ^ b);
        image[body - 1] ^= sum;
        at += 8 + bytes;
    }
    let hash = Sha256::digest(&image[..body]);
    image[body..].copy_from_slice(&hash);
}

/// A chip with both apps, and the same flash for the model.
struct Bench {
    machine: Machine,
    model: SimFlash,
}

impl Bench {
    fn new() -> Option<Self> {
        let files = match Files::read() {
            Ok(files) => files,
            Err(error) => {
                println!("skipped: {error}");
                return None;
            }
        };
        let table = TableBuilder::two_ota(SLOT_BYTES).build().unwrap();
        let images = NAMES.map(app);
        let board = Board {
            table: &table,
            images: &[(SLOTS[0], &images[0]), (SLOTS[1], &images[1])],
        };
        let mut machine = board.power_on(&files).unwrap();
        let mut model = SimFlash::default();
        model.load(0, &machine.flash().bytes).unwrap();
        machine.flash_mut().log = Some(Vec::new());
        Some(Self { machine, model })
    }

    fn fork(&self) -> Self {
        Self {
            machine: self.machine.clone(),
            model: self.model.clone(),
        }
    }

    fn load(&mut self, at: u32, bytes: &[u8]) {
        self.machine.flash_mut().load(at, bytes);
        self.model.load(at, bytes).unwrap();
    }

    /// Which slot booted, on the chip and by the model, and the check that both left the same flash.
    fn boot(&mut self, what: &str) -> Slot {
        let real = run(&mut self.machine);
        let model = BootModel {
            chip: Some(Chip::Esp32C3),
            ..BootModel::new(false)
        };
        let modelled = model.boot(&mut self.model).unwrap().slot;
        assert_eq!(real, modelled, "{what}: the model boots another slot");
        let flash = &self.machine.flash().bytes;
        let expected = self.model.bytes(0..flash.len() as u32).unwrap();
        let differs = flash.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{what}: the model leaves another flash");
        real
    }

    fn entry(&self, index: u32) -> Option<Entry> {
        let at = (OTADATA + index * SECTOR_BYTES) as usize;
        let bytes = &self.machine.flash().bytes[at..at + 32];
        let entry = Entry::parse(bytes.try_into().unwrap());
        (!entry.is_empty()).then_some(entry)
    }
}

fn run(machine: &mut Machine) -> Slot {
    let mut told = String::new();
    for _ in 0..INSTRUCTIONS_MAX / 100_000 {
        machine.run(100_000);
        told.push_str(&String::from_utf8_lossy(&machine.take_sent()));
        for (index, name) in (0..).zip(NAMES) {
            if told.contains(name) {
                return Slot::Ota(index);
            }
        }
    }
    panic!("no app started:\n{told}");
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
fn the_real_bootloader_does_what_was_recorded_and_what_the_model_does_in_49_states() {
    let Some(bench) = Bench::new() else { return };
    let mut states = 0;
    for line in RECORDED.lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        let [before0, before1, boots, after0, after1] = columns[..] else {
            panic!("five columns expected: {line}");
        };
        let mut bench = bench.fork();
        for (index, before) in (0..).zip([before0, before1]) {
            let bytes = parse_entry(before).map_or([0xFF; 32], |entry| entry.to_bytes());
            bench.load(OTADATA + index * SECTOR_BYTES, &bytes);
        }
        let slot = boots.strip_prefix("ota_").unwrap().parse().unwrap();
        assert_eq!(bench.boot(line), Slot::Ota(slot), "{line}");
        let after = [after0, after1].map(parse_entry);
        assert_eq!([bench.entry(0), bench.entry(1)], after, "{line}");
        // What it did once it does for good: the next start changes nothing.
        bench.machine.power_cycle();
        assert_eq!(bench.boot(line), Slot::Ota(slot), "{line}: started again");
        assert_eq!([bench.entry(0), bench.entry(1)], after, "{line}: again");
        states += 1;
    }
    assert_eq!(states, 49);
    println!("49 states of otadata: ROM and bootloader do what was recorded");
}

/// Beyond the recorded states: what a torn write or a foreign writer may leave.
#[test]
fn the_model_agrees_on_damaged_otadata() {
    let Some(bench) = Bench::new() else { return };
    let odd: Vec<(&str, Vec<u8>)> = vec![
        (
            "a crc that is wrong",
            broken(2, State::Valid, |bytes| bytes[28] ^= 1),
        ),
        (
            "a crc that is missing",
            broken(2, State::New, |bytes| bytes[28..].fill(0xFF)),
        ),
        (
            "a state that nobody knows",
            broken(2, State::Valid, |bytes| bytes[24] = 9),
        ),
        (
            "marks in the free bytes",
            broken(2, State::Valid, |bytes| bytes[4..24].fill(7)),
        ),
        ("seq 0", Entry::new(0, State::Valid).to_bytes().to_vec()),
        (
            "a high seq",
            Entry::new(0xFFFF_FFFE, State::Valid).to_bytes().to_vec(),
        ),
        ("zeros", vec![0; 32]),
    ];
    let others = [
        vec![0xFF; 32],
        Entry::new(1, State::Valid).to_bytes().to_vec(),
        Entry::new(3, State::Aborted).to_bytes().to_vec(),
        broken(1, State::Valid, |bytes| bytes[31] ^= 0x80),
    ];
    for (what, bytes) in &odd {
        for (index, other) in others.iter().enumerate() {
            for first in [0, 1] {
                let mut bench = bench.fork();
                bench.load(OTADATA + first * SECTOR_BYTES, bytes);
                bench.load(OTADATA + (1 - first) * SECTOR_BYTES, other);
                bench.boot(&format!("{what} in sector {first}, beside case {index}"));
            }
        }
    }
}

fn broken(seq: u32, state: State, damage: impl FnOnce(&mut [u8; 32])) -> Vec<u8> {
    let mut bytes = Entry::new(seq, state).to_bytes();
    damage(&mut bytes);
    bytes.to_vec()
}

#[test]
fn a_damaged_image_falls_back_and_leaves_otadata_alone() {
    let Some(bench) = Bench::new() else { return };
    for at in [0, 8, 40, 4096, 65_536 - 40, 65_536 - 1] {
        let mut bench = bench.fork();
        let entry = Entry::new(2, State::Valid).to_bytes();
        bench.load(OTADATA + SECTOR_BYTES, &entry);
        let damaged = bench.machine.flash().bytes[(SLOTS[1] + at) as usize] ^ 0x10;
        bench.load(SLOTS[1] + at, &[damaged]);
        assert_eq!(bench.boot(&format!("byte {at}")), Slot::Ota(0), "byte {at}");
        let wear = bench.machine.flash().log.clone();
        assert_eq!(wear, Some(Vec::new()), "byte {at}: the flash was written");
    }
}

#[test]
fn a_head_of_erased_bytes_is_no_image() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let entry = Entry::new(2, State::New).to_bytes();
    bench.load(OTADATA + SECTOR_BYTES, &entry);
    bench.load(SLOTS[1], &[0xFF; 16]);
    assert_eq!(bench.boot("erased head"), Slot::Ota(0));
}
