//! The registers: plain storage, except where reading or writing one does something.
//!
//! Offsets and bits are those of the `esp32c3` crate, which Espressif's register descriptions are
//! generated into. A register that is not named here keeps what is written to it, which is enough
//! for clock, pad and power set-up; watchdogs never bite and no interrupt is ever raised.

use crate::{flash::Flash, sha::Sha, spi, uart::Uart};

const BASE: u32 = 0x6000_0000;
const WORDS: usize = 0xD_1000 / 4;

const UART0: u32 = 0x6000_0000;
const UART0_END: u32 = UART0 + 0x1000;
const SPI1: u32 = 0x6000_2000;
const SPI1_CMD: u32 = SPI1;
const GPIO_STRAP: u32 = 0x6000_4038;
const RTC_CNTL: u32 = 0x6000_8000;
const RTC_CNTL_END: u32 = RTC_CNTL + 0x200;
const RTC_OPTIONS0: u32 = RTC_CNTL;
const RTC_TIME_LOW0: u32 = RTC_CNTL + 0x10;
const RTC_TIME_HIGH0: u32 = RTC_CNTL + 0x14;
const RTC_RESET_STATE: u32 = RTC_CNTL + 0x38;
const EFUSE: u32 = 0x6000_8800;
const EFUSE_MAC_LOW: u32 = EFUSE + 0x44;
const EFUSE_MAC_HIGH: u32 = EFUSE + 0x48;
const EFUSE_WAFER_LOW: u32 = EFUSE + 0x50;
const EFUSE_WAFER_HIGH: u32 = EFUSE + 0x58;
const EFUSE_CMD: u32 = EFUSE + 0x1D4;
const I2C_ANA_CONF0: u32 = 0x6000_E040;
const TIMG: [u32; 2] = [0x6001_F000, 0x6002_0000];
const TIMG_CALIBRATION: u32 = 0x68;
const TIMG_CALIBRATION_VALUE: u32 = 0x6C;
const SYSTIMER: u32 = 0x6002_3000;
const SYSTIMER_END: u32 = SYSTIMER + 0x100;
const SYSTIMER_UNIT0: u32 = SYSTIMER + 0x04;
const SYSTIMER_UNIT1: u32 = SYSTIMER + 0x08;
const RANDOM: u32 = 0x6002_60B0;
const SHA: u32 = 0x6003_B000;
const SHA_END: u32 = SHA + 0x100;
const USB_EP1_CONF: u32 = 0x6004_3004;
const SYSTEM_CLOCK: u32 = 0x600C_0058;
const EXTMEM: u32 = 0x600C_4000;
const MMU: u32 = 0x600C_5000;
const MMU_ENTRIES: u32 = 128;
/// Bit of an MMU entry that maps nothing.
const MMU_INVALID: u32 = 1 << 8;
const MMU_PAGE_BITS: u32 = 16;

/// Straps of a chip that boots from flash: the ROM prints them as `boot:0xc`.
const STRAP_FLASH_BOOT: u32 = 0xC;
/// Bits of `RTC_CNTL_OPTIONS0` that reset the system and the processor.
const SYSTEM_RESET: u32 = 1 << 31;
const CPU_RESET: u32 = 1 << 5;
/// `BBPLL_CAL_DONE`: the PLL is calibrated as soon as it is asked.
const PLL_CALIBRATED: u32 = 1 << 24;
/// `RTC_CALI_RDY`.
const CALIBRATION_READY: u32 = 1 << 15;
/// Cycles of the 40 MHz crystal in one of the slow clock, which is 136 kHz.
const CRYSTAL_CYCLES: u32 = 40_000_000 / 136_000;
/// The processor runs at 160 MHz all the time, the system timer at 16 MHz.
pub const CYCLES_PER_US: u64 = 160;
const CYCLES_PER_TICK: u64 = 10;
const CYCLES_PER_SLOW_TICK: u64 = 160_000_000 / 136_000;
/// Who looks at the system timer so often and at no other register waits for a time to come; from
/// then on each look takes so many cycles, 50 µs, or a second would take a second here too.
const IDLE_LOOKS: u32 = 100;
const IDLE_CYCLES: u64 = 50 * CYCLES_PER_US;
/// `VALUE_VALID` of a unit of the system timer.
const TIMER_VALUE_VALID: u32 = 1 << 29;

/// A locally administered address.
const MAC: u64 = 0x024F_5441_0001;

/// Chip revision v0.3, the oldest that ESP-IDF's bootloader takes by default.
pub const CHIP_REVISION: (u32, u32) = (0, 3);

/// Why the chip starts, as `RTC_CNTL_RESET_STATE` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// It was given power.
    PowerOn = 1,
    /// Software reset the system.
    Software = 3,
    /// Software reset the processor only.
    SoftwareCpu = 12,
}

/// All registers.
#[derive(Clone, Debug)]
pub struct Peripherals {
    words: Vec<u32>,
    sha: Sha,
    /// The serial line.
    pub uart: Uart,
    /// A reset that was asked for and has not happened yet.
    pub reset: Option<Reset>,
    random: u64,
    /// What the system timer showed when it was asked last.
    ticks: u64,
    /// How often it was asked since another register was used.
    looks: u32,
}

impl Peripherals {
    /// As they are when power is given.
    pub fn new() -> Self {
        let mut this = Self {
            words: vec![0; WORDS],
            sha: Sha::default(),
            uart: Uart::default(),
            reset: None,
            random: 0x9E37_79B9_7F4A_7C15,
            ticks: 0,
            looks: 0,
        };
        this.restart(Reset::PowerOn);
        this
    }

    /// As they are after a reset: the RTC domain keeps what it held unless power was lost.
    pub fn restart(&mut self, reason: Reset) {
        let rtc = index(RTC_CNTL)..index(RTC_CNTL_END);
        let kept: Vec<u32> = self.words[rtc.clone()].to_vec();
        self.words.fill(0);
        if reason != Reset::PowerOn {
            self.words[rtc].copy_from_slice(&kept);
        }
        for entry in 0..MMU_ENTRIES {
            self.words[index(MMU + 4 * entry)] = MMU_INVALID;
        }
        // Crystal of 40 MHz, which is the only one that the chip takes.
        self.words[index(SYSTEM_CLOCK)] = 40 << 12 | 1;
        self.words[index(GPIO_STRAP)] = STRAP_FLASH_BOOT;
        self.words[index(RTC_RESET_STATE)] = reason as u32;
        self.words[index(RTC_OPTIONS0)] &= !(SYSTEM_RESET | CPU_RESET);
        let (major, minor) = CHIP_REVISION;
        self.words[index(EFUSE_MAC_LOW)] = MAC as u32;
        self.words[index(EFUSE_MAC_HIGH)] = (MAC >> 32) as u32;
        self.words[index(EFUSE_WAFER_LOW)] = (minor & 7) << 18;
        self.words[index(EFUSE_WAFER_HIGH)] = minor >> 3 << 23 | major << 24;
        self.sha = Sha::default();
        self.uart.restart();
        self.reset = None;
    }

    /// Where in the flash this offset into a window of the cache is.
    pub fn mapped(&self, offset: u32) -> Option<u32> {
        let entry = self.words[index(MMU) + (offset >> MMU_PAGE_BITS) as usize];
        let page = entry & 0xFF;
        let within = offset & ((1 << MMU_PAGE_BITS) - 1);
        (entry & MMU_INVALID == 0).then_some(page << MMU_PAGE_BITS | within)
    }

    /// What was last written to a register.
    pub fn plain(&self, at: u32) -> Option<u32> {
        self.words.get(index(at)).copied()
    }

    /// Reads a register.
    pub fn load(&mut self, at: u32, cycles: &mut u64) -> Option<u32> {
        let plain = self.plain(at)?;
        if !(SYSTIMER..SYSTIMER_END).contains(&at) {
            self.looks = 0;
        }
        Some(match at {
            UART0..UART0_END => self.uart.load(at - UART0, plain, cycles),
            SPI1_CMD | EFUSE_CMD => 0,
            RTC_TIME_LOW0 => (*cycles / CYCLES_PER_SLOW_TICK) as u32,
            RTC_TIME_HIGH0 => ((*cycles / CYCLES_PER_SLOW_TICK) >> 32) as u32,
            I2C_ANA_CONF0 => plain | PLL_CALIBRATED,
            SYSTIMER..SYSTIMER_END => system_timer(at - SYSTIMER, plain, self.ticks),
            RANDOM => self.random(),
            SHA..SHA_END => self.sha.load(at - SHA),
            // Room for a byte to the USB serial port, whose bytes nobody reads.
            USB_EP1_CONF => 2,
            EXTMEM..0x600C_4100 => cache_control(at - EXTMEM, plain),
            _ if TIMG.contains(&(at & !0xFFF)) => self.timer_group(at, plain, *cycles),
            _ => plain,
        })
    }

    /// Writes a register.
    pub fn store(
        &mut self,
        at: u32,
        value: u32,
        flash: &mut Flash,
        cycles: &mut u64,
    ) -> Option<()> {
        *self.words.get_mut(index(at))? = value;
        match at {
            SYSTIMER_UNIT0 | SYSTIMER_UNIT1 => self.look_at_timer(cycles),
            UART0..UART0_END => self.uart.store(at - UART0, value, cycles),
            SPI1_CMD => {
                let registers = &mut self.words[index(SPI1)..index(SPI1) + spi::WORDS];
                *cycles += spi::run(value, registers, flash) * CYCLES_PER_US;
            }
            RTC_OPTIONS0 if value & SYSTEM_RESET != 0 => self.reset = Some(Reset::Software),
            RTC_OPTIONS0 if value & CPU_RESET != 0 => self.reset = Some(Reset::SoftwareCpu),
            SHA..SHA_END => self.sha.store(at - SHA, value),
            _ => {}
        }
        Some(())
    }

    /// The value is kept until it is asked for again.
    fn look_at_timer(&mut self, cycles: &mut u64) {
        self.looks += 1;
        if self.looks > IDLE_LOOKS {
            *cycles += IDLE_CYCLES;
        }
        self.ticks = *cycles / CYCLES_PER_TICK;
    }

    fn timer_group(&self, at: u32, plain: u32, cycles: u64) -> u32 {
        match at & 0xFFF {
            TIMG_CALIBRATION => plain | CALIBRATION_READY,
            TIMG_CALIBRATION_VALUE => {
                let asked = self.words[index(at & !0xFFF | TIMG_CALIBRATION)];
                ((asked >> 16 & 0x7FFF) * CRYSTAL_CYCLES) << 7 | 1
            }
            0x04 => (cycles / CYCLES_PER_TICK) as u32,
            0x08 => ((cycles / CYCLES_PER_TICK) >> 32) as u32,
            0x0C => plain & !(1 << 31),
            _ => plain,
        }
    }

    /// SplitMix64: what the chip takes from its noise, repeatable here.
    fn random(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ (word >> 31)) as u32
    }
}

impl Default for Peripherals {
    fn default() -> Self {
        Self::new()
    }
}

const fn index(at: u32) -> usize {
    (at.wrapping_sub(BASE) / 4) as usize
}

fn system_timer(offset: u32, plain: u32, ticks: u64) -> u32 {
    match offset {
        0x04 | 0x08 => plain | TIMER_VALUE_VALID,
        0x40 | 0x48 => (ticks >> 32) as u32 & 0xF_FFFF,
        0x44 | 0x4C => ticks as u32,
        _ => plain,
    }
}

/// Every operation of the cache is done as soon as it is asked for.
fn cache_control(offset: u32, plain: u32) -> u32 {
    match offset {
        0x1C => plain & !3 | 4,                // lock: LOCK_DONE
        0x28 | 0x34 => plain & !1 | 2,         // invalidate and preload: DONE
        0x40 => plain | 8,                     // autoload: DONE
        0xB0 => 1,                             // the state machine is idle
        0xCC => plain & !4 | (plain & 1) << 2, // freeze: DONE
        _ => plain,
    }
}
