//! One update by the device crate on a bare RV32IMC, as an ESP32-C3 would do it, and what each
//! step took.
//!
//! `xtask/src/rv32_device.rs` puts this beside what `crates/sim/examples/rv32_transcript.rs` wrote,
//! and runs it in QEMU. Flash is an array: its time is not measured here.
#![no_std]
#![no_main]

mod support;

use core::fmt::Write;

use embedded_storage::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use fota_device::{
    BootInfo, CHECK_IN_BYTES_MAX, DefaultDecoder, Next, PatchDecoder, ResetNow, SmallDecoder, Started,
    Trust, Updater, Workspace,
};
use fota_image::app::Chip;
use fota_proto::checkin::ResetReason;

use support::{Uart, exit, instructions, paint, stack, used};

const FLASH_BYTES: usize = include_bytes!("../flash.bin").len();
/// What it is told lies apart from what is measured.
macro_rules! told {
    ($name:ident, $file:literal) => {
        #[unsafe(link_section = ".told")]
        static $name: [u8; include_bytes!($file).len()] = *include_bytes!($file);
    };
}

told!(FACTORY, "../flash.bin");
told!(ROOT, "../root.bin");
told!(ANSWER_PLAIN, "../answer-plain.bin");
told!(ANSWER_SIGNED, "../answer-signed.bin");
#[cfg(feature = "patches")]
told!(ANSWER_SMALL, "../answer-small.bin");
#[cfg(feature = "patches")]
told!(ANSWER_DEFAULT, "../answer-default.bin");
#[cfg(feature = "patches")]
told!(PATCH_SMALL, "../patch-small.bin");
#[cfg(feature = "patches")]
told!(PATCH_DEFAULT, "../patch-default.bin");
told!(RELEASE, "../release.bin");
told!(IMAGE, "../image.bin");
told!(ARTIFACT, "../artifact.bin");

static mut FLASH: [u8; FLASH_BYTES] = [0; FLASH_BYTES];
static mut WORKSPACE: Workspace = Workspace::new();
#[cfg(feature = "patches")]
static mut SMALL: SmallDecoder = SmallDecoder::new();
#[cfg(feature = "patches")]
static mut DEFAULT: DefaultDecoder = DefaultDecoder::new();

const NONCE: u64 = 7;
/// Bytes of a packet, about.
const PIECE_BYTES: usize = 1400;

/// Flash in memory; out of range is a panic, and ends the run.
struct Ram(&'static mut [u8; FLASH_BYTES]);

#[derive(Debug)]
struct Never;

impl NorFlashError for Never {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::Other
    }
}

impl ErrorType for Ram {
    type Error = Never;
}

impl ReadNorFlash for Ram {
    const READ_SIZE: usize = 4;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Never> {
        bytes.copy_from_slice(&self.0[offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn capacity(&self) -> usize {
        FLASH_BYTES
    }
}

impl NorFlash for Ram {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 4096;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Never> {
        self.0[from as usize..to as usize].fill(0xFF);
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Never> {
        let there = &mut self.0[offset as usize..][..bytes.len()];
        there.iter_mut().zip(bytes).for_each(|(to, from)| *to &= from);
        Ok(())
    }
}

impl MultiwriteNorFlash for Ram {}

#[inline(never)]
fn step<R>(path: &str, name: &str, act: impl FnOnce() -> R) -> R {
    paint();
    let (from, _) = stack();
    let start = instructions();
    let result = act();
    let took = instructions() - start;
    let stack = used(from);
    let _ = writeln!(Uart, "{path} {name} stack {stack} instructions {took}");
    result
}

fn boot_info() -> BootInfo {
    BootInfo {
        device: "ESP32-001".parse().expect("a plain name"),
        chip: Chip::Esp32,
        chip_revision: Some(300),
        hardware: Some(2),
        table_offset: 0x8000,
        flash_bytes: 4 << 20,
        running_offset: 0x1_0000,
        reset: ResetReason::PowerOn,
    }
}

fn factory() -> Ram {
    // SAFETY: there is one thread, and the one before has ended.
    let flash = unsafe { &mut *&raw mut FLASH };
    flash.copy_from_slice(&FACTORY);
    Ram(flash)
}

/// What one path has, and what it is told.
struct Path {
    name: &'static str,
    trust: Trust<'static>,
    decoder: Option<&'static mut dyn PatchDecoder>,
    answer: &'static [u8],
    /// What it downloads: the image, the artifact, the index and a patch.
    blobs: [&'static [u8]; 2],
}

#[inline(never)]
fn update(path: Path) {
    let Path { name, trust, decoder, answer, blobs } = path;
    let flash = factory();
    let started = step(name, "start", || Updater::start(flash, boot_info(), trust));
    let Ok(Started::Run(mut updater)) = started else {
        panic!("not started");
    };
    if let Some(decoder) = decoder {
        updater.apply_patches_with(decoder);
    }
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    step(name, "check_in", || updater.check_in(NONCE, 1, &mut buffer).len());
    let mut next = step(name, "answer", || updater.answer(answer)).expect("an answer");
    if let Next::FetchRelease { .. } = next {
        next = step(name, "release", || updater.release(&RELEASE)).expect("a release");
    }
    let mut downloaded = 0;
    while let Next::Download(part) = next {
        let blob = blobs.iter().find(|blob| blob.len() == part.bytes as usize).expect("a blob");
        let body = &blob[part.from as usize..part.to as usize];
        downloaded += body.len();
        step(name, "receive", || {
            for piece in body.chunks(PIECE_BYTES) {
                updater.receive(piece).expect("the right bytes");
            }
        });
        next = updater.next();
    }
    let verified = step(name, "prove", || updater.prove()).expect("proven");
    let _: ResetNow = step(name, "activate", || verified.activate()).expect("activated");
    let updater = size_of::<Updater<'static, Ram>>();
    let _ = writeln!(Uart, "{name} updater {updater} downloaded {downloaded}");
}

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    // SAFETY: there is one thread, and the update before has ended.
    let trust = || Trust::Root(&ROOT, unsafe { &mut *&raw mut WORKSPACE });
    update(Path {
        name: "plain",
        trust: Trust::Anybody,
        decoder: None,
        answer: &ANSWER_PLAIN,
        blobs: [&IMAGE, &IMAGE],
    });
    update(Path {
        name: "signed",
        trust: trust(),
        decoder: None,
        answer: &ANSWER_SIGNED,
        blobs: [&ARTIFACT, &ARTIFACT],
    });
    #[cfg(feature = "patches")]
    by_patches(trust);
    let code = support::code_bytes();
    let (workspace, message) = (size_of::<Workspace>(), CHECK_IN_BYTES_MAX);
    let (small, default) = (size_of::<SmallDecoder>(), size_of::<DefaultDecoder>());
    let updater = size_of::<Updater<'static, Ram>>();
    let _ = writeln!(
        Uart,
        "all code {code} updater {updater} workspace {workspace} message {message} small {small} \
         default {default}"
    );
    exit(0x5555)
}

#[cfg(feature = "patches")]
fn by_patches(trust: impl Fn() -> Trust<'static>) {
    // SAFETY: there is one thread, and each is borrowed once.
    let (small, default) = unsafe { (&mut *&raw mut SMALL, &mut *&raw mut DEFAULT) };
    update(Path {
        name: "small",
        trust: trust(),
        decoder: Some(small),
        answer: &ANSWER_SMALL,
        blobs: [&ARTIFACT, &PATCH_SMALL],
    });
    update(Path {
        name: "default",
        trust: trust(),
        decoder: Some(default),
        answer: &ANSWER_DEFAULT,
        blobs: [&ARTIFACT, &PATCH_DEFAULT],
    });
}
