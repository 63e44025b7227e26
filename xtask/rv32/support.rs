//! A bare RV32IMC in QEMU's `virt` machine: start, serial line, exit, and how much stack and how many
//! instructions something takes.

use core::{arch::asm, fmt::Write, ptr};

const PAINT: u32 = 0xA5A5_5A5A;
/// Below this much under the stack pointer nothing is painted: the painter itself needs it. A step
/// that takes less is reported as this.
const UNPAINTED_BYTES: usize = 256;

core::arch::global_asm!(
    ".section .text.start",
    ".global _start",
    "_start:",
    "la sp, _stack_end",
    "call main",
);

unsafe extern "C" {
    static mut _stack_start: u32;
    static _code_end: u32;
}

/// The serial line.
pub struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the UART of QEMU's `virt` machine.
            unsafe { ptr::write_volatile(0x1000_0000 as *mut u8, byte) };
        }
        Ok(())
    }
}

/// Ends the machine.
pub fn exit(code: u32) -> ! {
    // SAFETY: the test device of QEMU's `virt` machine ends it.
    unsafe { ptr::write_volatile(0x10_0000 as *mut u32, code) };
    loop {}
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    let _ = writeln!(Uart, "{info}");
    exit(0x1_3333)
}

/// Instructions since the start.
pub fn instructions() -> u64 {
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
pub fn stack() -> (usize, usize) {
    let here: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mv {0}, sp", out(reg) here) };
    (here, &raw const _stack_start as usize)
}

/// Marks the free part of the stack.
pub fn paint() {
    let (here, lowest) = stack();
    let mut at = lowest;
    while at < here - UNPAINTED_BYTES {
        // SAFETY: below the stack pointer and within the stack's memory.
        unsafe { ptr::write_volatile(at as *mut u32, PAINT) };
        at += 4;
    }
}

/// Stack that was used since [`paint`], down from here.
pub fn used(from: usize) -> usize {
    let mut at = stack().1;
    // SAFETY: within the stack's memory.
    while unsafe { ptr::read_volatile(at as *const u32) } == PAINT {
        at += 4;
    }
    from - at
}

/// Bytes of code and constants of this program.
#[allow(dead_code)] // not every program tells
pub fn code_bytes() -> usize {
    &raw const _code_end as usize - 0x8000_0000
}
