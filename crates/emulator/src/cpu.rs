//! The processor: RV32IMC in machine mode, one instruction at a time.
//!
//! From the RISC-V unprivileged and privileged specifications. Interrupts are not delivered; an
//! exception is, to `mtvec`, so that the panic handler of what runs can tell of it.

use crate::{bus::Bus, compressed};

const MSTATUS: u16 = 0x300;
const MTVEC: u16 = 0x305;
const MEPC: u16 = 0x341;
const MCAUSE: u16 = 0x342;
const MTVAL: u16 = 0x343;
/// `mcycle`, `minstret` and the ESP32-C3's own counter `mpccr`, with the name that user mode has for it
/// (technical reference manual, "Performance counter").
const CYCLE_CSRS: [u16; 6] = [0xB00, 0xB02, 0xC00, 0xC02, 0x7E2, 0x802];
const CYCLE_HIGH_CSRS: [u16; 4] = [0xB80, 0xB82, 0xC80, 0xC82];

/// `mcause` of the exceptions that are raised here.
const ILLEGAL_INSTRUCTION: u32 = 2;
const BREAKPOINT: u32 = 3;
const LOAD_FAULT: u32 = 5;
const STORE_FAULT: u32 = 7;
const FETCH_FAULT: u32 = 1;
const ECALL: u32 = 11;

/// Why an instruction was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// As `mcause` says it.
    pub cause: u32,
    /// As `mtval` says it: the address or the instruction.
    pub value: u32,
}

/// Registers and counters.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// `x0` to `x31`; `x0` is written back to 0 after each instruction.
    pub x: [u32; 32],
    /// Of the next instruction.
    pub pc: u32,
    csrs: Vec<u32>,
    /// The last exception and where it happened, for whoever looks at a stopped machine.
    pub last_trap: Option<(u32, Trap)>,
}

impl Cpu {
    /// A processor out of reset.
    pub fn new(pc: u32) -> Self {
        Self {
            x: [0; 32],
            pc,
            csrs: vec![0; 0x1000],
            last_trap: None,
        }
    }

    /// Carries out one instruction, or enters the trap handler.
    pub fn step(&mut self, bus: &mut Bus) {
        let pc = self.pc;
        if let Err(trap) = self.execute(bus) {
            self.last_trap = Some((pc, trap));
            self.enter_trap(pc, trap);
        }
        self.x[0] = 0;
    }

    fn enter_trap(&mut self, pc: u32, trap: Trap) {
        self.csrs[usize::from(MEPC)] = pc;
        self.csrs[usize::from(MCAUSE)] = trap.cause;
        self.csrs[usize::from(MTVAL)] = trap.value;
        let status = &mut self.csrs[usize::from(MSTATUS)];
        *status = *status & !0x88 | (*status & 0x8) << 4 | 0x1800;
        self.pc = self.csrs[usize::from(MTVEC)] & !3;
    }

    fn execute(&mut self, bus: &mut Bus) -> Result<(), Trap> {
        let pc = self.pc;
        let fault = Trap {
            cause: FETCH_FAULT,
            value: pc,
        };
        let low = bus.fetch(pc).ok_or(fault)?;
        if low & 3 != 3 {
            let illegal = Trap {
                cause: ILLEGAL_INSTRUCTION,
                value: u32::from(low),
            };
            let word = compressed::expand(low).ok_or(illegal)?;
            return self.run(bus, word, pc.wrapping_add(2));
        }
        let high = bus.fetch(pc.wrapping_add(2)).ok_or(fault)?;
        let word = u32::from(high) << 16 | u32::from(low);
        self.run(bus, word, pc.wrapping_add(4))
    }

    /// `next` is where the instruction behind this one is.
    fn run(&mut self, bus: &mut Bus, word: u32, next: u32) -> Result<(), Trap> {
        let rd = field(word, 7);
        let a = self.x[field(word, 15)];
        let b = self.x[field(word, 20)];
        let mut to = next;
        match word & 0x7F {
            0x37 => self.x[rd] = word & 0xFFFF_F000,
            0x17 => self.x[rd] = self.pc.wrapping_add(word & 0xFFFF_F000),
            0x6F => {
                to = self.pc.wrapping_add(jump_offset(word));
                self.x[rd] = next;
            }
            0x67 => {
                to = a.wrapping_add(immediate(word)) & !1;
                self.x[rd] = next;
            }
            0x63 => {
                if is_taken(word, a, b)? {
                    to = self.pc.wrapping_add(branch_offset(word));
                }
            }
            0x03 => self.x[rd] = load(bus, word, a.wrapping_add(immediate(word)))?,
            0x23 => store(bus, word, a.wrapping_add(store_offset(word)), b)?,
            0x13 => self.x[rd] = arithmetic_immediate(word, a)?,
            0x33 => self.x[rd] = arithmetic(word, a, b)?,
            0x0F => {} // fences: there is one hart, and no cache
            0x73 => to = self.system(bus, word, a, next)?,
            _ => return Err(illegal(word)),
        }
        self.pc = to;
        Ok(())
    }

    fn system(&mut self, bus: &mut Bus, word: u32, a: u32, next: u32) -> Result<u32, Trap> {
        let trap = |cause| Err(Trap { cause, value: 0 });
        match (word >> 12 & 7, word >> 20) {
            (0, 0) => return trap(ECALL),
            (0, 1) => return trap(BREAKPOINT),
            (0, 0x302) => {
                let status = &mut self.csrs[usize::from(MSTATUS)];
                *status = *status & !0x8 | (*status & 0x80) >> 4 | 0x80;
                return Ok(self.csrs[usize::from(MEPC)]);
            }
            (0, 0x105) => {
                bus.wait_for_interrupt();
                return Ok(next);
            }
            (0 | 4, _) => return Err(illegal(word)),
            _ => {}
        }
        let csr = (word >> 20) as u16;
        let old = self.csr(bus, csr);
        let operand = match word >> 14 & 1 {
            1 => word >> 15 & 31,
            _ => a,
        };
        let new = match word >> 12 & 3 {
            1 => operand,
            2 => old | operand,
            _ => old & !operand,
        };
        self.csrs[usize::from(csr)] = new;
        self.x[field(word, 7)] = old;
        Ok(next)
    }

    fn csr(&self, bus: &Bus, csr: u16) -> u32 {
        match csr {
            _ if CYCLE_CSRS.contains(&csr) => bus.cycles as u32,
            _ if CYCLE_HIGH_CSRS.contains(&csr) => (bus.cycles >> 32) as u32,
            _ => self.csrs[usize::from(csr)],
        }
    }
}

fn illegal(word: u32) -> Trap {
    Trap {
        cause: ILLEGAL_INSTRUCTION,
        value: word,
    }
}

fn field(word: u32, from: u32) -> usize {
    (word >> from & 31) as usize
}

/// I-type.
fn immediate(word: u32) -> u32 {
    (word as i32 >> 20) as u32
}

/// S-type.
fn store_offset(word: u32) -> u32 {
    (word as i32 >> 20) as u32 & !31 | word >> 7 & 31
}

/// B-type.
fn branch_offset(word: u32) -> u32 {
    (word as i32 >> 31) as u32 & 0xFFFF_F000
        | (word << 4 & 0x800)
        | (word >> 20 & 0x7E0)
        | (word >> 7 & 0x1E)
}

/// J-type.
fn jump_offset(word: u32) -> u32 {
    (word as i32 >> 31) as u32 & 0xFFF0_0000
        | (word & 0xF_F000)
        | (word >> 9 & 0x800)
        | (word >> 20 & 0x7FE)
}

fn is_taken(word: u32, a: u32, b: u32) -> Result<bool, Trap> {
    Ok(match word >> 12 & 7 {
        0 => a == b,
        1 => a != b,
        4 => (a as i32) < b as i32,
        5 => a as i32 >= b as i32,
        6 => a < b,
        7 => a >= b,
        _ => return Err(illegal(word)),
    })
}

fn load(bus: &mut Bus, word: u32, at: u32) -> Result<u32, Trap> {
    let width = match word >> 12 & 7 {
        0 | 4 => 1,
        1 | 5 => 2,
        2 => 4,
        _ => return Err(illegal(word)),
    };
    let fault = Trap {
        cause: LOAD_FAULT,
        value: at,
    };
    let value = bus.load(at, width).ok_or(fault)?;
    Ok(match word >> 12 & 7 {
        0 => value as u8 as i8 as u32,
        1 => value as u16 as i16 as u32,
        _ => value,
    })
}

fn store(bus: &mut Bus, word: u32, at: u32, value: u32) -> Result<(), Trap> {
    let width = match word >> 12 & 7 {
        0 => 1,
        1 => 2,
        2 => 4,
        _ => return Err(illegal(word)),
    };
    bus.store(at, width, value).ok_or(Trap {
        cause: STORE_FAULT,
        value: at,
    })
}

fn arithmetic_immediate(word: u32, a: u32) -> Result<u32, Trap> {
    let b = immediate(word);
    let shift = b & 31;
    Ok(match (word >> 12 & 7, word >> 25) {
        (0, _) => a.wrapping_add(b),
        (2, _) => u32::from((a as i32) < b as i32),
        (3, _) => u32::from(a < b),
        (4, _) => a ^ b,
        (6, _) => a | b,
        (7, _) => a & b,
        (1, 0) => a << shift,
        (5, 0) => a >> shift,
        (5, 0x20) => (a as i32 >> shift) as u32,
        _ => return Err(illegal(word)),
    })
}

fn arithmetic(word: u32, a: u32, b: u32) -> Result<u32, Trap> {
    Ok(match (word >> 25, word >> 12 & 7) {
        (0, 0) => a.wrapping_add(b),
        (0x20, 0) => a.wrapping_sub(b),
        (0, 1) => a << (b & 31),
        (0, 2) => u32::from((a as i32) < b as i32),
        (0, 3) => u32::from(a < b),
        (0, 4) => a ^ b,
        (0, 5) => a >> (b & 31),
        (0x20, 5) => (a as i32 >> (b & 31)) as u32,
        (0, 6) => a | b,
        (0, 7) => a & b,
        (1, kind) => multiply(kind, a, b),
        _ => return Err(illegal(word)),
    })
}

/// The M extension; what a division by zero gives is in its chapter.
fn multiply(kind: u32, a: u32, b: u32) -> u32 {
    let (signed_a, signed_b) = (i64::from(a as i32), i64::from(b as i32));
    match kind {
        0 => a.wrapping_mul(b),
        1 => (signed_a.wrapping_mul(signed_b) >> 32) as u32,
        2 => (signed_a.wrapping_mul(i64::from(b)) >> 32) as u32,
        3 => ((u64::from(a) * u64::from(b)) >> 32) as u32,
        4 if b == 0 => u32::MAX,
        4 => (a as i32).wrapping_div(b as i32) as u32,
        5 => a.checked_div(b).unwrap_or(u32::MAX),
        6 if b == 0 => a,
        6 => (a as i32).wrapping_rem(b as i32) as u32,
        _ => a.checked_rem(b).unwrap_or(a),
    }
}
