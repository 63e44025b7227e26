//! UART0. What is sent leaves at once; what is received comes at the baud rate, into a FIFO of 128
//! bytes that loses what finds no room, as on the chip.

use std::collections::VecDeque;

const FIFO: u32 = 0x00;
const INT_RAW: u32 = 0x04;
const INT_ST: u32 = 0x08;
const INT_CLR: u32 = 0x10;
const CLKDIV: u32 = 0x14;
const STATUS: u32 = 0x1C;
const CONF0: u32 = 0x20;
const MEM_RX_STATUS: u32 = 0x68;
const FSM_STATUS: u32 = 0x6C;
const CLK_CONF: u32 = 0x78;
const ID: u32 = 0x80;

/// `INT_RAW`: the FIFO overflowed; everything is sent; the transmit FIFO is empty.
const OVERFLOWED: u32 = 1 << 4;
const SENT: u32 = 1 << 14 | 1 << 1;
const RX_FIFO_RESET: u32 = 1 << 17;
const FIFO_BYTES: usize = 128;
/// Start bit, eight of data, stop bit.
const BITS_PER_BYTE: u64 = 10;

/// Its two lines.
#[derive(Clone, Debug, Default)]
pub struct Uart {
    /// Bytes that the chip sent and nobody took yet.
    pub sent: Vec<u8>,
    /// Bytes on their way to the chip.
    coming: VecDeque<u8>,
    /// When the first of them is there.
    next_at: u64,
    fifo: VecDeque<u8>,
    overflowed: bool,
    /// Bytes that found no room in the FIFO.
    pub lost: u64,
    cycles_per_byte: u64,
    clock_conf: u32,
    divider: u32,
}

impl Uart {
    /// The chip was reset; what is on the line goes on coming.
    pub fn restart(&mut self) {
        self.fifo.clear();
        self.overflowed = false;
        self.set_rate(694, 0);
    }

    /// Bytes for the chip: they come one after the other, beginning now.
    pub fn receive(&mut self, bytes: &[u8], now: u64) {
        if self.coming.is_empty() {
            self.next_at = now + self.cycles_per_byte;
        }
        self.coming.extend(bytes);
    }

    /// Reads a register.
    pub fn load(&mut self, offset: u32, plain: u32, cycles: &mut u64) -> u32 {
        self.arrive(*cycles);
        match offset {
            FIFO => u32::from(self.fifo.pop_front().unwrap_or_default()),
            STATUS => {
                self.skip_to_next(cycles);
                // The three lines and RTS, DTR are high; the transmit FIFO is empty.
                0xE000_E000 | self.fifo.len() as u32
            }
            INT_RAW | INT_ST => SENT | if self.overflowed { OVERFLOWED } else { 0 },
            MEM_RX_STATUS => (self.fifo.len() as u32 & 0x3FF) << 11,
            FSM_STATUS => 0,
            ID => plain & !(1 << 31),
            _ => plain,
        }
    }

    /// Writes a register.
    pub fn store(&mut self, offset: u32, value: u32, cycles: &mut u64) {
        self.arrive(*cycles);
        match offset {
            FIFO => self.sent.push(value as u8),
            INT_CLR if value & OVERFLOWED != 0 => self.overflowed = false,
            CONF0 if value & RX_FIFO_RESET != 0 => self.fifo.clear(),
            CLKDIV => self.set_rate(value, self.clock_conf),
            CLK_CONF => self.set_rate(self.divider, value),
            _ => {}
        }
    }

    /// From `CLKDIV` (bits 0–11, sixteenths in 20–23) and `CLK_CONF` (source in 20–21, its divider
    /// less one in 12–19): 1 is the 80 MHz bus, 3 the 40 MHz crystal, 2 the 17.5 MHz oscillator.
    fn set_rate(&mut self, divider: u32, clock_conf: u32) {
        self.divider = divider;
        self.clock_conf = clock_conf;
        let source_mhz_tenths: u64 = match clock_conf >> 20 & 3 {
            2 => 175,
            3 => 400,
            _ => 800,
        };
        let before = u64::from(clock_conf >> 12 & 0xFF) + 1;
        let sixteenths = u64::from(divider & 0xFFF) * 16 + u64::from(divider >> 20 & 15);
        let cycles_per_bit = sixteenths.max(16) * before * 1_600 / 16 / source_mhz_tenths;
        self.cycles_per_byte = cycles_per_bit * BITS_PER_BYTE;
    }

    fn arrive(&mut self, now: u64) {
        while self.next_at <= now {
            let Some(byte) = self.coming.pop_front() else {
                return;
            };
            self.next_at += self.cycles_per_byte;
            if self.fifo.len() < FIFO_BYTES {
                self.fifo.push_back(byte);
            } else {
                self.overflowed = true;
                self.lost += 1;
            }
        }
    }

    /// Whoever looks at an empty FIFO while a byte is on the line waits for it: the wait is skipped.
    fn skip_to_next(&mut self, cycles: &mut u64) {
        if self.fifo.is_empty() && !self.coming.is_empty() {
            *cycles = (*cycles).max(self.next_at);
            self.arrive(*cycles);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 115,200 baud from the 80 MHz bus: 694 and 7/16 (the ROM's setting).
    const BYTE_CYCLES: u64 = 160_000_000 / 11_520;

    fn uart() -> Uart {
        let mut uart = Uart::default();
        uart.restart();
        uart
    }

    #[test]
    fn bytes_come_at_the_baud_rate() {
        let mut uart = uart();
        let mut now = 0;
        uart.receive(&[b'x'; 10], now);
        now += 5 * BYTE_CYCLES + BYTE_CYCLES / 2;
        assert_eq!(uart.load(STATUS, 0, &mut now) & 0x3FF, 5);
        assert_eq!(uart.load(FIFO, 0, &mut now), u32::from(b'x'));
        assert_eq!(uart.load(STATUS, 0, &mut now) & 0x3FF, 4);
    }

    #[test]
    fn who_does_not_read_loses_what_the_fifo_cannot_hold() {
        let mut uart = uart();
        let mut now = 0;
        uart.receive(&[b'x'; 200], now);
        now += 300 * BYTE_CYCLES;
        assert_eq!(uart.load(STATUS, 0, &mut now) & 0x3FF, 128);
        assert_eq!(uart.lost, 72);
        assert_ne!(uart.load(INT_RAW, 0, &mut now) & OVERFLOWED, 0);
    }

    #[test]
    fn who_waits_for_a_byte_has_it_at_once() {
        let mut uart = uart();
        let mut now = 0;
        uart.receive(b"x", now);
        assert_eq!(uart.load(STATUS, 0, &mut now) & 0x3FF, 1);
        assert!(now.abs_diff(BYTE_CYCLES) < 100, "{now}");
    }
}
