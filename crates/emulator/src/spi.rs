//! The SPI1 controller, which carries the commands of the processor to the flash.
//!
//! Registers of the `esp32c3` crate's `spi1`: `CMD` starts an operation and reads 0 when it is done.

use crate::flash::{Flash, JEDEC_ID};

/// Registers up to the end of the data buffer.
pub const WORDS: usize = 0x98 / 4;
// Indices of 32-bit registers.
const ADDR: usize = 1;
const USER: usize = 0x18 / 4;
const USER1: usize = 0x1C / 4;
const USER2: usize = 0x20 / 4;
const MOSI_BITS: usize = 0x24 / 4;
const MISO_BITS: usize = 0x28 / 4;
const RD_STATUS: usize = 0x2C / 4;
const DATA: usize = 0x58 / 4;
/// Bytes of the data buffer.
const DATA_BYTES: usize = 64;
/// An address of three bytes; more bits are mode bits behind it.
const ADDRESS_BITS: u32 = 24;

/// Carries out what a write to `CMD` asks for; gives the microseconds that it took.
pub fn run(asked: u32, registers: &mut [u32], flash: &mut Flash) -> u64 {
    let at = registers[ADDR] & 0xFF_FFFF;
    let bytes = (registers[ADDR] >> 24) as usize;
    let mut one = [0; 1];
    match asked & 0xFFFC_0000 {
        0x8000_0000 => {
            let mut answer = [0; DATA_BYTES];
            let answer = &mut answer[..bytes.min(DATA_BYTES)];
            let took = flash.command(0x03, at, &[], answer);
            put(registers, answer);
            took
        }
        0x4000_0000 => flash.command(0x06, 0, &[], &mut []),
        0x2000_0000 => flash.command(0x04, 0, &[], &mut []),
        0x1000_0000 => {
            put(registers, &JEDEC_ID);
            0
        }
        0x0800_0000 => {
            let took = flash.command(0x05, 0, &[], &mut one);
            registers[RD_STATUS] = registers[RD_STATUS] & !0xFF | u32::from(one[0]);
            took
        }
        0x0400_0000 => {
            let status = registers[RD_STATUS].to_le_bytes();
            flash.command(0x01, 0, &status[..2], &mut [])
        }
        0x0200_0000 => {
            let data = take(registers);
            flash.command(0x02, at, &data[..bytes.min(DATA_BYTES)], &mut [])
        }
        0x0100_0000 => flash.command(0x20, at, &[], &mut []),
        0x0080_0000 => flash.command(0xD8, at, &[], &mut []),
        0x0040_0000 => flash.command(0xC7, 0, &[], &mut []),
        0x0004_0000 => user(registers, flash),
        _ => 0,
    }
}

/// An operation whose phases `USER` names.
fn user(registers: &mut [u32], flash: &mut Flash) -> u64 {
    let phases = registers[USER];
    let has = |bit: u32| phases >> bit & 1 == 1;
    // The ROM's `SPI_read_data` leaves the command phase out of its reads, in the two-line mode that
    // the bootloader sets (USER 0x700000c0, USER2 0xbb), and the chip reads.
    if !has(31) && !has(30) {
        return 0;
    }
    let command = registers[USER2] as u8;
    let address_bits = (registers[USER1] >> 26) + 1;
    let at = match has(30) {
        true => registers[ADDR] >> address_bits.saturating_sub(ADDRESS_BITS).min(8) & 0xFF_FFFF,
        false => 0,
    };
    let length = |register: usize| ((registers[register] & 0x3FF) as usize + 1).div_ceil(8);
    let out = if has(27) { length(MOSI_BITS) } else { 0 };
    let back = if has(28) { length(MISO_BITS) } else { 0 };
    let data = take(registers);
    let mut answer = [0; DATA_BYTES];
    let answer = &mut answer[..back.min(DATA_BYTES)];
    let took = flash.command(command, at, &data[..out.min(DATA_BYTES)], answer);
    if back > 0 {
        put(registers, answer);
    }
    took
}

fn take(registers: &[u32]) -> [u8; DATA_BYTES] {
    let mut bytes = [0; DATA_BYTES];
    for (four, word) in bytes.chunks_exact_mut(4).zip(&registers[DATA..]) {
        four.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn put(registers: &mut [u32], bytes: &[u8]) {
    for (index, byte) in bytes.iter().enumerate() {
        let word = &mut registers[DATA + index / 4];
        let shift = 8 * (index % 4);
        *word = *word & !(0xFF << shift) | u32::from(*byte) << shift;
    }
}
