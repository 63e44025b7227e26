//! Decodes a real patch on a bare RV32IMC, as an ESP32-C3 would, and says what it took.
//!
//! `xtask/src/rv32_delta.rs` puts this beside two images and two patches and runs it in QEMU.
#![no_std]
#![no_main]

mod support;

use core::fmt::Write;

use fota_delta::{Decoder, DefaultDecoder, Event, Images, SmallDecoder};

use support::{Uart, exit, instructions, paint, stack, used};

static OLD: &[u8] = include_bytes!("../old.bin");
static NEW: &[u8] = include_bytes!("../new.bin");
static PATCH: &[u8] = include_bytes!("../default.patch");
static PATCH_SMALL: &[u8] = include_bytes!("../small.patch");

static mut DECODER: DefaultDecoder = DefaultDecoder::new();
static mut DECODER_SMALL: SmallDecoder = SmallDecoder::new();

/// Bytes of a packet, about.
const PIECE_BYTES: usize = 1400;

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
