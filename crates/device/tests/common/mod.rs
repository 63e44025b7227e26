//! What the tests of the updater share.
#![allow(dead_code)] // each test file uses its part

pub mod patched;

use embedded_storage::nor_flash::MultiwriteNorFlash;
use fota_device::{BootInfo, CHECK_IN_BYTES_MAX, Next, Started, Trust, Updater};
use fota_image::{
    app::Chip,
    otadata::{ENTRY_BYTES, Entry},
};
use fota_proto::{
    Sha256,
    checkin::{CheckIn, ResetReason},
};
use fota_sim::{
    bench::Bench,
    firmware::{Behaviour, Spec, image},
    flash::SimFlash,
    scripted::{Artifact, Ask, ScriptedServer},
};

pub const SLOT_BYTES: u32 = 0x4_0000;
pub const SLOTS: [u32; 2] = [0x1_0000, 0x1_0000 + SLOT_BYTES];
pub const OTADATA: [u32; 2] = [0xd000, 0xe000];
pub const IMAGE_BYTES: usize = 150_000;

pub fn spec(version: &str, behaviour: Behaviour) -> Spec {
    let seed = version.bytes().map(u64::from).sum();
    Spec::new(version)
        .image_bytes(IMAGE_BYTES)
        .behaviour(behaviour)
        .seed(seed)
}

pub fn firmware(version: &str, behaviour: Behaviour) -> Artifact {
    Artifact::new(image(&spec(version, behaviour)).unwrap())
}

/// A device that runs 1.0.0 from `ota_0`, as it comes from the factory.
pub fn bench(rollback: bool) -> Bench {
    let old = firmware("1.0.0", Behaviour::Works);
    let mut bench = Bench::new(old.bytes(), SLOT_BYTES, rollback).unwrap();
    bench.run(1).unwrap();
    bench
}

/// A device that was updated to 2.0.0 in `ota_1` and can go back.
pub fn updated(rollback: bool) -> Bench {
    let mut bench = bench(rollback);
    order_install(&mut bench, 1, &firmware("2.0.0", Behaviour::Works));
    bench.run(2).unwrap();
    assert_eq!(runs(&bench), "2.0.0");
    bench
}

pub fn order_install(bench: &mut Bench, order: u64, artifact: &Artifact) {
    bench.server = ScriptedServer::new(order, Ask::Install(artifact.clone()));
}

pub fn order_leave(bench: &mut Bench, order: u64, elf: Sha256) {
    bench.server = ScriptedServer::new(order, Ask::Leave(elf));
}

/// The version that would boot now.
pub fn runs(bench: &Bench) -> String {
    let mut flash = bench.flash.clone();
    let boot = bench.bootloader.boot(&mut flash).unwrap();
    boot.image.desc.unwrap().version.as_str().to_string()
}

pub fn entry(flash: &SimFlash, index: usize) -> Entry {
    let at = OTADATA[index];
    let bytes = flash.bytes(at..at + ENTRY_BYTES as u32).unwrap();
    Entry::parse(&bytes.try_into().unwrap())
}

pub fn put_entry(flash: &mut SimFlash, index: usize, entry: &Entry) {
    flash.load(OTADATA[index], &entry.to_bytes()).unwrap();
}

pub fn boot_info(running_offset: u32, reset: ResetReason) -> BootInfo {
    BootInfo {
        device: "ESP32-001".parse().unwrap(),
        chip: Chip::Esp32,
        chip_revision: Some(300),
        hardware: None,
        table_offset: 0x8000,
        flash_bytes: 4 << 20,
        running_offset,
        reset,
    }
}

/// The updater of the image that the bench would boot now.
pub fn updater(bench: &mut Bench) -> Updater<'static, &mut SimFlash> {
    bench.flash.unprotect_all();
    let boot = bench.bootloader.boot(&mut bench.flash).unwrap();
    let info = bench.boot_info(&boot);
    match Updater::start(&mut bench.flash, info, Trust::Anybody).unwrap() {
        Started::Run(updater) => updater,
        Started::Reset(_) => panic!("the image was given up"),
    }
}

/// One check-in with a server, and what the device said in it.
pub fn exchange<R>(
    updater: &mut Updater<'_, &mut SimFlash>,
    server: &ScriptedServer,
    look: impl FnOnce(&CheckIn) -> R,
) -> (Next, R) {
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    let request = updater.check_in(77, 1, &mut buffer);
    let request: CheckIn = minicbor::decode(request).unwrap();
    let seen = look(&request);
    let answer = server.answer(&request);
    (updater.answer(&answer).unwrap(), seen)
}

/// One check-in of an updater on any flash.
pub fn exchange_with<F: MultiwriteNorFlash>(
    updater: &mut Updater<'_, F>,
    server: &ScriptedServer,
) -> Next {
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    let request = updater.check_in(78, 1, &mut buffer);
    let answer = server.answer(&minicbor::decode(request).unwrap());
    updater.answer(&answer).unwrap()
}
