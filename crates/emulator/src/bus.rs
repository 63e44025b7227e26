//! What an address reaches: memories, the flash through its MMU, or a register.
//!
//! The map is that of the ESP32-C3 technical reference manual, "System and memory".

use crate::{flash::Flash, peripherals::Peripherals};

/// Mask ROM, as instructions; data reads of its upper part come through [`ROM_DATA`].
const ROM: u32 = 0x4000_0000;
const ROM_BYTES: usize = 0x6_0000;
const ROM_DATA: u32 = 0x3FF0_0000;
/// Where in the ROM the data window begins.
const ROM_DATA_OFFSET: u32 = 0x4_0000;
/// Internal SRAM 0, instructions only: the cache of the flash, and what a program puts there.
const SRAM0: u32 = 0x4037_C000;
const SRAM0_BYTES: usize = 0x4000;
/// Internal SRAM 1, through both buses.
const SRAM1: u32 = 0x4038_0000;
const SRAM1_DATA: u32 = 0x3FC8_0000;
const SRAM1_BYTES: usize = 0x6_0000;
const RTC_FAST: u32 = 0x5000_0000;
const RTC_FAST_BYTES: usize = 0x2000;
/// Windows of 8 MiB through which the cache shows the flash.
const FLASH: u32 = 0x4200_0000;
const FLASH_DATA: u32 = 0x3C00_0000;
const FLASH_WINDOW_BYTES: u32 = 0x80_0000;
const PERIPHERALS: u32 = 0x6000_0000;

/// Cycles that an idle processor passes in one `wfi`: nothing raises an interrupt here.
const WAIT_CYCLES: u64 = 1_000;

/// Memories and registers.
#[derive(Clone, Debug)]
pub struct Bus {
    rom: Vec<u8>,
    sram0: Vec<u8>,
    sram1: Vec<u8>,
    rtc_fast: Vec<u8>,
    /// The flash chip; what is in it survives resets.
    pub flash: Flash,
    /// Everything else.
    pub peripherals: Peripherals,
    /// Processor cycles since power was given; one instruction is one.
    pub cycles: u64,
}

impl Bus {
    /// A chip with this flash and an empty ROM.
    pub fn new(flash: Flash) -> Self {
        Self {
            rom: vec![0; ROM_BYTES],
            sram0: vec![0; SRAM0_BYTES],
            sram1: vec![0; SRAM1_BYTES],
            rtc_fast: vec![0; RTC_FAST_BYTES],
            flash,
            peripherals: Peripherals::new(),
            cycles: 0,
        }
    }

    /// Puts bytes where the factory put them; what is not in the ROM is left out.
    pub fn load_rom(&mut self, at: u32, bytes: &[u8]) {
        let offset = match at {
            ROM_DATA..0x3FF2_0000 => at - ROM_DATA + ROM_DATA_OFFSET,
            ROM..0x4006_0000 => at - ROM,
            _ => return,
        };
        let target = self.rom.get_mut(offset as usize..);
        if let Some(target) = target.and_then(|rest| rest.get_mut(..bytes.len())) {
            target.copy_from_slice(bytes);
        }
    }

    /// Half an instruction.
    pub fn fetch(&self, at: u32) -> Option<u16> {
        let bytes = self.memory(at)?.get(..2)?;
        Some(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// A value of `width` bytes, zero-extended.
    pub fn load(&mut self, at: u32, width: usize) -> Option<u32> {
        if at >> 24 == PERIPHERALS >> 24 {
            let word = self.peripherals.load(at & !3, &mut self.cycles)?;
            let value = word >> (8 * (at & 3));
            return Some(match width {
                1 => value & 0xFF,
                2 => value & 0xFFFF,
                _ => value,
            });
        }
        let bytes = self.memory(at)?.get(..width)?;
        Some(match *bytes {
            [a] => u32::from(a),
            [a, b] => u32::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => return None,
        })
    }

    /// Stores the low `width` bytes of `value`.
    pub fn store(&mut self, at: u32, width: usize, value: u32) -> Option<()> {
        if at >> 24 == PERIPHERALS >> 24 {
            return self.store_register(at, width, value);
        }
        let target = self.memory_mut(at)?.get_mut(..width)?;
        target.copy_from_slice(&value.to_le_bytes()[..width]);
        Some(())
    }

    /// RAM as it is when power comes back: other than it was.
    pub fn lose_power(&mut self) {
        for memory in [&mut self.sram0, &mut self.sram1, &mut self.rtc_fast] {
            memory.fill(0xA5);
        }
    }

    /// Nothing to do: time passes.
    pub fn wait_for_interrupt(&mut self) {
        self.cycles += WAIT_CYCLES;
    }

    fn store_register(&mut self, at: u32, width: usize, value: u32) -> Option<()> {
        let word = match width {
            4 => value,
            _ => {
                let old = self.peripherals.plain(at & !3)?;
                let mask = match width {
                    1 => 0xFF_u32,
                    _ => 0xFFFF,
                } << (8 * (at & 3));
                old & !mask | value << (8 * (at & 3)) & mask
            }
        };
        self.peripherals
            .store(at & !3, word, &mut self.flash, &mut self.cycles)
    }

    /// Memory from this address on.
    fn memory(&self, at: u32) -> Option<&[u8]> {
        match at {
            ROM..0x4006_0000 => self.rom.get((at - ROM) as usize..),
            SRAM1..0x403E_0000 => self.sram1.get((at - SRAM1) as usize..),
            SRAM1_DATA..0x3FCE_0000 => self.sram1.get((at - SRAM1_DATA) as usize..),
            FLASH..0x4280_0000 | FLASH_DATA..0x3C80_0000 => {
                let offset = at & (FLASH_WINDOW_BYTES - 1);
                self.flash.mapped(self.peripherals.mapped(offset)?)
            }
            SRAM0..0x4038_0000 => self.sram0.get((at - SRAM0) as usize..),
            ROM_DATA..0x3FF2_0000 => self.rom.get((at - ROM_DATA + ROM_DATA_OFFSET) as usize..),
            RTC_FAST..0x5000_2000 => self.rtc_fast.get((at - RTC_FAST) as usize..),
            _ => None,
        }
    }

    fn memory_mut(&mut self, at: u32) -> Option<&mut [u8]> {
        match at {
            SRAM1..0x403E_0000 => self.sram1.get_mut((at - SRAM1) as usize..),
            SRAM1_DATA..0x3FCE_0000 => self.sram1.get_mut((at - SRAM1_DATA) as usize..),
            SRAM0..0x4038_0000 => self.sram0.get_mut((at - SRAM0) as usize..),
            RTC_FAST..0x5000_2000 => self.rtc_fast.get_mut((at - RTC_FAST) as usize..),
            _ => None,
        }
    }
}
