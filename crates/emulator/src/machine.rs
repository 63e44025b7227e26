//! The chip: runs, resets, and tells what it printed.

use std::mem;

use crate::{
    bus::Bus,
    cpu::{Cpu, Trap},
    elf::{Elf, ElfError},
    flash::Flash,
    peripherals::Reset,
};

/// Where the processor begins: the first instruction of the ROM.
const RESET_VECTOR: u32 = 0x4000_0000;
/// Symbols around the table of [`load_rom_store`], and the length of a row.
const ROM_STORE_TABLE: &str = "_rom_store_table";
const ROM_STORE_TABLE_END: &str = "_data_end";
const ROM_STORE_ROW_BYTES: usize = 16;
/// The register by the calling convention.
const STACK_POINTER: usize = 2;
/// The upper byte of an address of code in flash.
const FLASH_CODE: u32 = 0x42;
/// Instructions between two looks at the reset line.
const SLICE: u64 = 1_000;

/// An ESP32-C3 with its flash chip and a serial line.
#[derive(Clone, Debug)]
pub struct Machine {
    cpu: Cpu,
    bus: Bus,
    /// Resets since power was given, by their reasons.
    pub resets: Vec<Reset>,
    lowest_stack: Option<u32>,
}

impl Machine {
    /// A chip that has just been given power. `rom` is the file of its mask ROM.
    pub fn new(flash: Flash, rom: &Elf) -> Result<Self, ElfError> {
        let mut bus = Bus::new(flash);
        for segment in rom.segments()?.into_iter().chain(rom.sections()?) {
            bus.load_rom(segment.address, segment.bytes);
        }
        load_rom_store(&mut bus, rom)?;
        Ok(Self {
            cpu: Cpu::new(RESET_VECTOR),
            bus,
            resets: Vec::new(),
            lowest_stack: None,
        })
    }

    /// Runs for about this many instructions; true if the chip was reset meanwhile.
    pub fn run(&mut self, instructions: u64) -> bool {
        let mut left = instructions;
        while left > 0 {
            for _ in 0..SLICE.min(left) {
                self.cpu.step(&mut self.bus);
                self.bus.cycles += 1;
                self.watch_stack();
                if self.bus.peripherals.reset.is_some() {
                    break;
                }
            }
            left = left.saturating_sub(SLICE);
            if let Some(reason) = self.bus.peripherals.reset {
                self.resets.push(reason);
                self.restart(reason);
                return true;
            }
        }
        false
    }

    /// Takes the power away and gives it again: RAM is lost, flash is kept.
    pub fn power_cycle(&mut self) {
        self.bus.lose_power();
        self.restart(Reset::PowerOn);
    }

    /// What the chip sent since this was last asked.
    pub fn take_sent(&mut self) -> Vec<u8> {
        mem::take(&mut self.bus.peripherals.uart.sent)
    }

    /// Sends bytes to the chip; they arrive at the baud rate that it has set.
    pub fn receive(&mut self, bytes: &[u8]) {
        let now = self.bus.cycles;
        self.bus.peripherals.uart.receive(bytes, now);
    }

    /// Bytes that the chip lost because its receive FIFO was full.
    pub fn lost_bytes(&self) -> u64 {
        self.bus.peripherals.uart.lost
    }

    /// The flash chip.
    pub fn flash(&self) -> &Flash {
        &self.bus.flash
    }

    /// The flash chip, for a programming station.
    pub fn flash_mut(&mut self) -> &mut Flash {
        &mut self.bus.flash
    }

    /// Microseconds of the chip's own time.
    pub fn time_us(&self) -> u64 {
        self.bus.cycles / crate::CYCLES_PER_US
    }

    /// Where it is.
    pub fn pc(&self) -> u32 {
        self.cpu.pc
    }

    /// A register.
    pub fn register(&self, index: usize) -> u32 {
        self.cpu.x[index & 31]
    }

    /// The last exception and where it happened.
    pub fn last_trap(&self) -> Option<(u32, Trap)> {
        self.cpu.last_trap
    }

    /// The lowest stack pointer that code in flash has had: only apps run from there.
    pub fn lowest_stack(&self) -> Option<u32> {
        self.lowest_stack
    }

    fn watch_stack(&mut self) {
        let pointer = self.cpu.x[STACK_POINTER];
        let low = self.lowest_stack.unwrap_or(u32::MAX);
        if pointer < low && pointer != 0 && self.cpu.pc >> 24 == FLASH_CODE {
            self.lowest_stack = Some(pointer);
        }
    }

    fn restart(&mut self, reason: Reset) {
        self.bus.peripherals.restart(reason);
        self.cpu = Cpu::new(RESET_VECTOR);
    }
}

/// What the ROM's variables begin with. Its start-up code copies it from places that a table names
/// in rows of start, end, source and 0; the file keeps the bytes only in sections at `start`.
fn load_rom_store(bus: &mut Bus, rom: &Elf) -> Result<(), ElfError> {
    let symbols = rom.symbols()?;
    let symbol = |name: &str| symbols.iter().find(|symbol| symbol.0 == name);
    let (Some((_, from)), Some((_, to))) = (symbol(ROM_STORE_TABLE), symbol(ROM_STORE_TABLE_END))
    else {
        return Ok(());
    };
    let sections = rom.sections()?;
    for row in (*from..*to).step_by(ROM_STORE_ROW_BYTES) {
        let (Some(start), Some(source)) = (bus.load(row, 4), bus.load(row + 8, 4)) else {
            continue;
        };
        for section in sections.iter().filter(|section| section.address == start) {
            bus.load_rom(source, section.bytes);
        }
    }
    Ok(())
}
