//! Decodes a real patch on a bare RV32IMC, as an ESP32-C3 would, and says what it took.
//!
//! `xtask/src/rv32_delta.rs` puts this beside two images and two patches and runs it in QEMU.
#![no_std]
#![no_main]

use core::{arch::asm, fmt::Write, ptr};

use fota_delta::{Decoder, DefaultDecoder, Event, Images, SmallDecoder};

static OLD: &[u8] = include_bytes!("../old.bin");
static NEW: &[u8] = include_bytes!("../new.bin");
static PATCH: &[u8] = include_bytes!("../default.patch");
static PATCH_SMALL: &[u8] = include_bytes!("../small.patch");

static mut DECODER: DefaultDecoder = DefaultDecoder::new();
static mut DECODER_SMALL: SmallDecoder = SmallDecoder::new();

/// Bytes of a packet, about.
const PIECE_BYTES: usize = 1400;
const PAINT: u32 = 0xA5A5_5A5A;

core::arch::global_asm!(
    ".section .text.start",
    ".global _start",
    "_start:",
    "la sp, _stack_end",
    "call main",
);

unsafe extern "C" {
    static mut _stack_start: u32;
}

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the UART of QEMU's `virt` machine.
            unsafe { ptr::write_volatile(0x1000_0000 as *mut u8, byte) };
        }
        Ok(())
    }
}

fn exit(code: u32) -> ! {
    // SAFETY: the test device of QEMU's `virt` machine ends it.
    unsafe { ptr::write_volatile(0x10_0000 as *mut u32, code) };
    loop {}
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    let _ = writeln!(Uart, "{info}");
    exit(0x1_3333)
}

/// The new image is compared as it comes, so what was handed out is what is there.
struct Flash {
    made: usize,
    reads: usize,
}

impl Images for Flash {
    type Error = ();

    fn read_old(&mut self, offset: u32, to: &mut [u8]) -> Result<(), ()> {
        self.reads += 1;
        let part = OLD.get(offset as usize..).and_then(|rest| rest.get(..to.len()));
        to.copy_from_slice(part.ok_or(())?);
        Ok(())
    }

    fn read_new(&mut self, offset: u32, to: &mut [u8]) -> Result<(), ()> {
        self.reads += 1;
        let part = NEW[..self.made].get(offset as usize..).and_then(|rest| rest.get(..to.len()));
        to.copy_from_slice(part.ok_or(())?);
        Ok(())
    }
}

fn instructions() -> u64 {
    let (mut high, mut low, mut again): (u32, u32, u32);
    loop {
        // SAFETY: reads counters.
        unsafe {
            asm!("csrr {0}, minstreth", "csrr {1}, minstret", "csrr {2}, minstreth",
                out(reg) high, out(reg) low, out(reg) again);
        }
        if high == again {
            return u64::from(high) << 32 | u64::from(low);
        }
    }
}

/// The place of the stack now, and the lowest word that may be written.
fn stack() -> (usize, usize) {
    let here: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mv {0}, sp", out(reg) here) };
    (here, &raw const _stack_start as usize)
}

fn paint() {
    let (here, lowest) = stack();
    let mut at = lowest;
    while at < here - 256 {
        // SAFETY: below the stack pointer and within the stack's memory.
        unsafe { ptr::write_volatile(at as *mut u32, PAINT) };
        at += 4;
    }
}

fn used(from: usize) -> usize {
    let mut at = stack().1;
    // SAFETY: within the stack's memory.
    while unsafe { ptr::read_volatile(at as *const u32) } == PAINT {
        at += 4;
    }
    from - at
}

#[inline(never)]
fn decode<const S: usize, const B: usize, const P: usize>(
    decoder: &mut Decoder<S, B, P>,
    patch: &[u8],
) -> usize {
    let mut flash = Flash { made: 0, reads: 0 };
    for piece in patch.chunks(PIECE_BYTES) {
        let mut piece = piece;
        loop {
            match decoder.push(&mut piece, &mut flash) {
                Ok(Event::NeedInput) => break,
                Ok(Event::Chunk { offset, bytes }) => {
                    let at = offset as usize;
                    assert!(NEW[at..at + bytes.len()] == *bytes, "differs in {at}");
                    flash.made += bytes.len();
                }
                Ok(Event::Done) => {
                    assert!(flash.made == NEW.len());
                    return flash.reads;
                }
                Err(error) => panic!("{error:?} after {}", flash.made),
            }
        }
    }
    panic!("the patch has ended after {}", flash.made)
}

fn measure<const S: usize, const B: usize, const P: usize>(
    name: &str,
    decoder: &mut Decoder<S, B, P>,
    patch: &[u8],
) {
    paint();
    let (from, _) = stack();
    let start = instructions();
    let reads = decode(decoder, patch);
    let took = instructions() - start;
    let stack = used(from);
    let state = size_of::<Decoder<S, B, P>>();
    let _ = writeln!(
        Uart,
        "{name} patch {} image {} state {state} stack {stack} instructions {took} reads {reads}",
        patch.len(),
        NEW.len(),
    );
}

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    // SAFETY: there is one thread, and each is borrowed once.
    let (decoder, small) = unsafe { (&mut *&raw mut DECODER, &mut *&raw mut DECODER_SMALL) };
    measure("default", decoder, PATCH);
    measure("small", small, PATCH_SMALL);
    exit(0x5555)
}
