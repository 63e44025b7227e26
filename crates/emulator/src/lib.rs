//! An ESP32-C3 that runs on a desk: enough of it to start Espressif's real mask ROM and
//! second-stage bootloader, and the firmware behind them.
//!
//! It is a tool of the tests and ships nowhere. It is written from the RISC-V specification, the
//! ESP32-C3 technical reference manual and the register names of the `esp32c3` crate. It has no
//! interrupts, no radio, no DMA, no watchdog and no timing beyond what flash and serial line take;
//! what it runs keeps nothing secret from it and nothing safe.
//!
//! Main path: [`Machine::new`] with a [`Flash`] and the ROM; [`Machine::run`] until something that
//! the caller waits for was [printed](Machine::take_sent).
//!
//! | module | holds |
//! |---|---|
//! | `cpu`, `compressed` | RV32IMC |
//! | `bus` | what an address reaches |
//! | `peripherals`, `uart`, `spi`, `sha` | registers |
//! | `flash` | the flash chip |
//! | `elf` | program headers and symbols of the ROM |
//! | `machine` | the chip, and what a reset does |
//! | `board` | Espressif's files and a flash with a bootloader, a table and images |
#![warn(missing_docs)]

mod board;
mod bus;
mod compressed;
mod cpu;
mod elf;
mod flash;
mod machine;
mod peripherals;
mod sha;
mod spi;
mod uart;

pub use board::{Board, Files, FilesError};
pub use cpu::Trap;
pub use elf::{Elf, ElfError};
pub use flash::{FLASH_BYTES, Flash, Wear};
pub use machine::Machine;
pub use peripherals::{CHIP_REVISION, CYCLES_PER_US, Reset};
