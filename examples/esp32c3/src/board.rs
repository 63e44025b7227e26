//! What the updater wants to know of the chip, and what a panic does.

use core::{fmt::Write, ptr};

use esp_hal::{
    efuse,
    peripherals::UART0,
    rng::Rng,
    rtc_cntl::SocResetReason,
    system,
    time::{Duration, Instant},
};
use fota_device::BootInfo;
use fota_image::app::Chip;
use fota_proto::{DeviceId, checkin::ResetReason};

const FLASH_BYTES: u32 = 4 << 20;
const TABLE_OFFSET: u32 = 0x8000;
/// Entries of the flash MMU, one for each 64 KiB of the cache's window of 8 MiB; the low byte is the
/// page of the flash (ESP32-C3 technical reference manual, "Flash MMU").
const MMU_TABLE: u32 = 0x600C_5000;
const WINDOW_BYTES: u32 = 8 << 20;

/// Says that the last reset was after a panic. RTC memory is kept, unless power was lost.
#[esp_hal::ram(unstable(rtc_fast, persistent))]
static mut PANICKED: u32 = 0;
const PANICKED_MARK: u32 = 0x464F_5441;

pub fn boot_info() -> BootInfo {
    let mut name = Name([0; 16], 0);
    let mac = efuse::base_mac_address();
    let _ = name.write_str("c3-");
    for byte in mac.as_bytes() {
        let _ = write!(name, "{byte:02x}");
    }
    let name = core::str::from_utf8(&name.0[..name.1]).unwrap_or("c3");
    let device: DeviceId = name.parse().expect("c3 and hex digits are an id");
    let revision = efuse::chip_revision();
    BootInfo {
        device,
        chip: Chip::Esp32C3,
        chip_revision: Some(u16::from(revision.major) * 100 + u16::from(revision.minor)),
        hardware: None,
        table_offset: TABLE_OFFSET,
        flash_bytes: FLASH_BYTES,
        running_offset: running_offset(),
        reset: reset_reason(),
    }
}

/// Where in the flash this function is: the partition that runs, whatever otadata says.
#[inline(never)]
fn running_offset() -> u32 {
    let address = running_offset as *const () as u32;
    let entry = MMU_TABLE + (address % WINDOW_BYTES >> 16) * 4;
    // SAFETY: an aligned register that reading does not change.
    let page = unsafe { ptr::read_volatile(entry as *const u32) } & 0xFF;
    page << 16 | address & 0xFFFF
}

fn reset_reason() -> ResetReason {
    // SAFETY: nothing else runs yet.
    let panicked = unsafe { ptr::replace(&raw mut PANICKED, 0) } == PANICKED_MARK;
    match system::reset_reason() {
        Some(SocResetReason::ChipPowerOn) => ResetReason::PowerOn,
        Some(SocResetReason::SysBrownOut) => ResetReason::BrownOut,
        Some(SocResetReason::CoreSw | SocResetReason::Cpu0Sw) if panicked => ResetReason::Panic,
        Some(SocResetReason::CoreSw | SocResetReason::Cpu0Sw) => ResetReason::Software,
        Some(SocResetReason::CoreDeepSleep) => ResetReason::DeepSleep,
        Some(SocResetReason::CoreUsbUart | SocResetReason::CoreUsbJtag) => ResetReason::External,
        Some(
            SocResetReason::CoreMwdt0
            | SocResetReason::CoreMwdt1
            | SocResetReason::CoreRtcWdt
            | SocResetReason::Cpu0Mwdt0
            | SocResetReason::Cpu0Mwdt1
            | SocResetReason::Cpu0RtcWdt
            | SocResetReason::SysRtcWdt
            | SocResetReason::SysSuperWdt,
        ) => ResetReason::Watchdog,
        _ => ResetReason::Unknown,
    }
}

/// Not secret, not repeated: the chip mixes noise into it even without a radio.
pub fn random() -> u64 {
    let rng = Rng::new();
    u64::from(rng.random()) << 32 | u64::from(rng.random())
}

pub fn uptime_s() -> u32 {
    Instant::now().duration_since_epoch().as_secs() as u32
}

pub fn sleep_s(seconds: u32) {
    let from = Instant::now();
    while from.elapsed() < Duration::from_secs(seconds.into()) {}
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    let _ = writeln!(Raw, "{info}\r");
    // SAFETY: nothing else runs any more.
    unsafe { ptr::write_volatile(&raw mut PANICKED, PANICKED_MARK) };
    system::software_reset()
}

/// The serial line, whoever held it.
struct Raw;

impl Write for Raw {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            // The FIFO has 128 bytes.
            while UART0::regs().status().read().txfifo_cnt().bits() > 120 {}
            // SAFETY: any byte may be sent.
            UART0::regs()
                .fifo()
                .write(|w| unsafe { w.rxfifo_rd_byte().bits(byte) });
        }
        Ok(())
    }
}

/// A short text.
struct Name([u8; 16], usize);

impl Write for Name {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = self
            .0
            .get_mut(self.1..self.1 + text.len())
            .ok_or(core::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.1 += text.len();
        Ok(())
    }
}
