//! A device program as large as a real one, for patches of it: an updater with and without
//! signatures, the patch decoder, a form of output, and one sentence that `HOTFIX_TEXT` changes.
//!
//! It is made to be compared, not to be run: its serial line is two words of memory.
#![no_std]
#![no_main]

use core::{fmt::Write, ptr};

use embedded_storage::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use fota_delta::{DefaultDecoder, Event, Images};
use fota_device::{BootInfo, CHECK_IN_BYTES_MAX, Next, Started, Trust, Updater, Workspace};
use fota_image::app::Chip;
use fota_proto::checkin::ResetReason;

/// What a hotfix changes.
const GREETING: &str = match option_env!("HOTFIX_TEXT") {
    Some(text) => text,
    None => "pump controller: started",
};

core::arch::global_asm!(
    ".section .text.start,\"ax\"",
    ".global _start",
    "_start:",
    "la sp, _stack_end",
    "call main",
);

/// What ESP-IDF calls the application description; the tool that makes the image fills in the
/// digest of the program file.
#[repr(C)]
struct Description {
    magic: u32,
    epoch: u32,
    reserved: [u32; 2],
    version: [u8; 32],
    project: [u8; 32],
    time: [u8; 16],
    date: [u8; 16],
    idf: [u8; 32],
    elf_sha256: [u8; 32],
    rest: [u32; 20],
}

#[used]
#[unsafe(link_section = ".flash.appdesc")]
static DESCRIPTION: Description = Description {
    magic: fota_image::app::DESC_MAGIC,
    epoch: 0,
    reserved: [0; 2],
    version: padded(b"1.0.0"),
    project: padded(b"pump"),
    time: [0; 16],
    date: [0; 16],
    idf: padded(b"none"),
    elf_sha256: [0; 32],
    rest: [0; 20],
};

const fn padded(text: &[u8]) -> [u8; 32] {
    let mut padded = [0; 32];
    let mut at = 0;
    while at < text.len() {
        padded[at] = text[at];
        at += 1;
    }
    padded
}

/// The serial line: one word in, one word out.
struct Serial;

impl Serial {
    fn byte() -> u8 {
        // SAFETY: the UART of an ESP32-C3.
        unsafe { ptr::read_volatile(0x6000_0000 as *const u32) as u8 }
    }

    fn fill(bytes: &mut [u8]) {
        bytes.fill_with(Self::byte);
    }
}

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the UART of an ESP32-C3.
            unsafe { ptr::write_volatile(0x6000_0000 as *mut u32, u32::from(byte)) };
        }
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    let _ = writeln!(Serial, "stopped: {info}");
    loop {}
}

/// Flash behind the serial line.
struct Flash;

#[derive(Debug)]
struct Never;

impl NorFlashError for Never {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::Other
    }
}

impl ErrorType for Flash {
    type Error = Never;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 4;

    fn read(&mut self, _: u32, bytes: &mut [u8]) -> Result<(), Never> {
        Serial::fill(bytes);
        Ok(())
    }

    fn capacity(&self) -> usize {
        4 << 20
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 4096;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Never> {
        let _ = writeln!(Serial, "erase {from:#x} to {to:#x}");
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Never> {
        let _ = writeln!(Serial, "write {} bytes at {offset:#x}", bytes.len());
        Ok(())
    }
}

impl MultiwriteNorFlash for Flash {}

impl Images for Flash {
    type Error = Never;

    fn read_old(&mut self, offset: u32, to: &mut [u8]) -> Result<(), Never> {
        ReadNorFlash::read(self, offset, to)
    }

    fn read_new(&mut self, offset: u32, to: &mut [u8]) -> Result<(), Never> {
        ReadNorFlash::read(self, offset, to)
    }
}

static mut WORKSPACE: Workspace = Workspace::new();
static mut DECODER: DefaultDecoder = DefaultDecoder::new();

fn boot_info() -> BootInfo {
    BootInfo {
        device: "ESP32-001".parse().expect("a plain name"),
        chip: Chip::Esp32C3,
        chip_revision: Some(300),
        hardware: Some(2),
        table_offset: 0x8000,
        flash_bytes: 4 << 20,
        running_offset: 0x1_0000,
        reset: ResetReason::PowerOn,
    }
}

#[inline(never)]
fn update(trust: Trust<'static>) {
    let Ok(Started::Run(mut updater)) = Updater::start(Flash, boot_info(), trust) else {
        let _ = writeln!(Serial, "updates: not started");
        return;
    };
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    let check_in = updater.check_in(7, 1, &mut buffer).len();
    let _ = writeln!(Serial, "check-in: {check_in} bytes");
    let mut message = [0; 1024];
    Serial::fill(&mut message);
    let mut next = updater.answer(&message).ok();
    if let Some(Next::FetchRelease { .. }) = next {
        Serial::fill(&mut message);
        next = updater.release(&message).ok();
    }
    let Some(Next::Download(part)) = next else {
        let _ = writeln!(Serial, "nothing to download");
        return;
    };
    let mut at = part.from;
    while at < part.to {
        Serial::fill(&mut message);
        if let Err(error) = updater.receive(&message) {
            let _ = writeln!(Serial, "download: {error:?} at {at}");
            return;
        }
        at += message.len() as u32;
    }
    match updater.prove().map(|verified| verified.activate()) {
        Ok(_) => {
            let _ = writeln!(Serial, "restart");
        }
        Err(error) => {
            let _ = writeln!(Serial, "not proven: {error:?}");
        }
    }
}

#[inline(never)]
fn patch(decoder: &mut DefaultDecoder) {
    let mut piece = [0; 256];
    loop {
        Serial::fill(&mut piece);
        let mut rest = &piece[..];
        match decoder.push(&mut rest, &mut Flash) {
            Ok(Event::NeedInput) => {}
            Ok(Event::Chunk { offset, bytes }) => {
                let _ = writeln!(Serial, "{} bytes at {offset}", bytes.len());
            }
            Ok(Event::Done) => return,
            Err(error) => {
                let _ = writeln!(Serial, "patch: {error:?}");
                return;
            }
        }
    }
}

/// What a small feature adds.
#[cfg(feature = "more")]
#[inline(never)]
fn pressure() {
    let mut samples = [0_u8; 16];
    Serial::fill(&mut samples);
    let sum: u32 = samples.iter().map(|it| u32::from(*it)).sum();
    let (least, most) = (samples.iter().min(), samples.iter().max());
    let _ = writeln!(
        Serial,
        "pressure: mean {} of {least:?} to {most:?}",
        sum / 16
    );
    if sum > 3_000 {
        let _ = writeln!(Serial, "pressure: too high, valve opens");
    }
}

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    let _ = writeln!(Serial, "{GREETING}");
    // SAFETY: there is one thread, and each is borrowed once.
    let (workspace, decoder) = unsafe { (&mut *&raw mut WORKSPACE, &mut *&raw mut DECODER) };
    let mut root = [0; 512];
    Serial::fill(&mut root);
    if Serial::byte() == 0 {
        update(Trust::Anybody);
    }
    // SAFETY: as above; the bytes live as long as the program.
    let root: &'static [u8] = unsafe { core::slice::from_raw_parts(root.as_ptr(), root.len()) };
    update(Trust::Root(root, workspace));
    loop {
        #[cfg(feature = "more")]
        pressure();
        patch(decoder);
    }
}
