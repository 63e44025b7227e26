//! The flash chip: a SPI NOR of 4 MiB, as its commands show it.
//!
//! Command bytes and times are those of the Winbond W25Q32JV data sheet ("Instruction set", "AC
//! electrical characteristics", typical), which most modules' chips share.

/// Size, and what the bootloader's header is patched to say.
pub const FLASH_BYTES: usize = 4 << 20;
const SECTOR_BYTES: u32 = 4096;
const BLOCK_32_BYTES: u32 = 32 * 1024;
const BLOCK_BYTES: u32 = 64 * 1024;
const PAGE_BYTES: u32 = 256;
/// Manufacturer Winbond, SPI NOR, 2^22 bytes.
pub const JEDEC_ID: [u8; 3] = [0xEF, 0x40, 0x16];

/// Microseconds that an operation keeps the chip busy.
const SECTOR_ERASE_US: u64 = 45_000;
const BLOCK_32_ERASE_US: u64 = 120_000;
const BLOCK_ERASE_US: u64 = 150_000;
const CHIP_ERASE_US: u64 = 10_000_000;
const PAGE_PROGRAM_US: u64 = 400;
/// A first byte, and tenths of a microsecond for each further one, where that is less than a page:
/// the ROM programs 32 bytes at a time.
const BYTE_PROGRAM_US: u64 = 30;
const NEXT_BYTE_PROGRAM_TENTHS: u64 = 25;

/// Write enable latch, in the first status register.
const STATUS_WRITE_ENABLED: u8 = 2;

/// What was done to the chip since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wear {
    /// Sectors erased, those of blocks among them.
    pub sectors_erased: u64,
    /// Program operations, of a page at most.
    pub programs: u64,
    /// Bytes that were to be programmed with a 1 where the flash held a 0: a bug of whoever did.
    pub bits_not_set: u64,
}

/// The chip and what is in it.
#[derive(Clone, Debug)]
pub struct Flash {
    /// What is in it; 0xFF is erased.
    pub bytes: Vec<u8>,
    status: [u8; 3],
    /// What was done to it.
    pub wear: Wear,
    /// Every erase and program operation: where, and how many bytes; none if nobody asked.
    pub log: Option<Vec<(u32, u32)>>,
}

impl Default for Flash {
    fn default() -> Self {
        Self::new()
    }
}

impl Flash {
    /// An erased chip.
    pub fn new() -> Self {
        Self {
            bytes: vec![0xFF; FLASH_BYTES],
            status: [0; 3],
            wear: Wear::default(),
            log: None,
        }
    }

    /// What a programming station writes: no rules, no wear.
    ///
    /// # Panics
    ///
    /// If it does not fit.
    pub fn load(&mut self, at: u32, bytes: &[u8]) {
        self.bytes[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    /// What the cache shows: up to the end of a page of the MMU.
    pub fn mapped(&self, at: u32) -> Option<&[u8]> {
        let end = (at as usize / BLOCK_BYTES as usize + 1) * BLOCK_BYTES as usize;
        self.bytes.get(at as usize..end)
    }

    /// Carries out `command`: takes `data`, fills `answer`, and says how many microseconds it took.
    pub fn command(&mut self, command: u8, at: u32, data: &[u8], answer: &mut [u8]) -> u64 {
        match command {
            0x06 => self.status[0] |= STATUS_WRITE_ENABLED,
            0x04 => self.status[0] &= !STATUS_WRITE_ENABLED,
            0x05 => answer.fill(self.status[0]),
            0x35 => answer.fill(self.status[1]),
            0x15 => answer.fill(self.status[2]),
            0x01 => self.write_status(0, data),
            0x31 => self.write_status(1, data),
            0x11 => self.write_status(2, data),
            0x9F => copy(&JEDEC_ID, answer),
            0x03 | 0x0B | 0x3B | 0x6B | 0xBB | 0xEB => self.read(at, answer),
            0x02 | 0x32 => return self.program(at, data),
            0x20 => return self.erase(at, SECTOR_BYTES, SECTOR_ERASE_US),
            0x52 => return self.erase(at, BLOCK_32_BYTES, BLOCK_32_ERASE_US),
            0xD8 => return self.erase(at, BLOCK_BYTES, BLOCK_ERASE_US),
            0x60 | 0xC7 => return self.erase(0, FLASH_BYTES as u32, CHIP_ERASE_US),
            // Power down and up, reset, the unique number, SFDP: a chip that has none answers so.
            _ => answer.fill(0xFF),
        }
        0
    }

    fn write_status(&mut self, from: usize, data: &[u8]) {
        if self.take_write_enable() {
            copy(data, &mut self.status[from..]);
            self.status[0] &= !3;
        }
    }

    fn read(&self, at: u32, answer: &mut [u8]) {
        let from = at as usize % FLASH_BYTES;
        copy(&self.bytes[from..], answer);
    }

    /// Programs within one page, beyond whose end it wraps; a 0 stays a 0.
    fn program(&mut self, at: u32, data: &[u8]) -> u64 {
        if !self.take_write_enable() {
            return 0;
        }
        let page = at / PAGE_BYTES * PAGE_BYTES;
        for (index, byte) in data.iter().enumerate() {
            let offset = page + (at + index as u32) % PAGE_BYTES;
            let target = &mut self.bytes[offset as usize % FLASH_BYTES];
            self.wear.bits_not_set += u64::from(*byte & !*target != 0);
            *target &= byte;
        }
        self.wear.programs += 1;
        self.note(at, data.len() as u32);
        let bytes = BYTE_PROGRAM_US + data.len() as u64 * NEXT_BYTE_PROGRAM_TENTHS / 10;
        bytes.min(PAGE_PROGRAM_US)
    }

    fn erase(&mut self, at: u32, bytes: u32, took_us: u64) -> u64 {
        if !self.take_write_enable() {
            return 0;
        }
        let from = (at / bytes * bytes) as usize % FLASH_BYTES;
        self.bytes[from..from + bytes as usize].fill(0xFF);
        self.wear.sectors_erased += u64::from(bytes / SECTOR_BYTES);
        self.note(from as u32, bytes);
        took_us
    }

    /// An operation that changes anything needs the latch, and clears it.
    fn take_write_enable(&mut self) -> bool {
        let enabled = self.status[0] & STATUS_WRITE_ENABLED != 0;
        self.status[0] &= !STATUS_WRITE_ENABLED;
        enabled
    }

    fn note(&mut self, at: u32, bytes: u32) {
        if let Some(log) = &mut self.log {
            log.push((at, bytes));
        }
    }
}

/// As much as fits.
fn copy(from: &[u8], to: &mut [u8]) {
    let bytes = from.len().min(to.len());
    to[..bytes].copy_from_slice(&from[..bytes]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programming_only_clears_bits_and_needs_the_latch() {
        let mut flash = Flash::new();
        assert_eq!(flash.command(0x02, 0x1000, &[0], &mut []), 0);
        assert_eq!(flash.bytes[0x1000], 0xFF, "without write enable");
        for byte in [0xF0, 0x3C] {
            flash.command(0x06, 0, &[], &mut []);
            flash.command(0x02, 0x1000, &[byte], &mut []);
        }
        assert_eq!(flash.bytes[0x1000], 0x30);
        assert_eq!(flash.wear.bits_not_set, 1, "0x3C over 0xF0 sets two bits");
        flash.command(0x06, 0, &[], &mut []);
        let took = flash.command(0x20, 0x1234, &[], &mut []);
        assert_eq!((flash.bytes[0x1000], took), (0xFF, SECTOR_ERASE_US));
    }

    #[test]
    fn a_page_ends_where_it_ends() {
        let mut flash = Flash::new();
        flash.command(0x06, 0, &[], &mut []);
        flash.command(0x02, 0x10FF, &[1, 2], &mut []);
        assert_eq!((flash.bytes[0x10FF], flash.bytes[0x1100]), (1, 0xFF));
        assert_eq!(flash.bytes[0x1000], 2, "it wraps within its page");
    }
}
