//! RISC-V with compressed instructions: JAL, C.J, branches, AUIPC and LUI pairs, low halves.

use super::{Kind, UNIT_BYTES_MAX, Unit, fits, part, put, signed, word, xtensa::Seen};
use crate::layout::Layout;

/// What a walk knows of the units before. For RISC-V, the high bits that LUI and AUIPC left in
/// registers: one LUI may serve several loads and stores.
#[derive(Clone)]
pub(crate) struct Walk {
    high: [u32; 32],
    /// A bit for each register whose content is known.
    known: u32,
    /// For Xtensa, whether data may come next.
    pub seen: Seen,
}

/// The register of the global pointer.
const GP: u32 = 3;
/// Instructions after AUIPC or LUI in which its second half is looked for.
const AHEAD: usize = 4;

impl Walk {
    pub const fn new(gp: u32) -> Self {
        let mut high = [0; 32];
        high[GP as usize] = gp;
        let known = if gp == 0 { 0 } else { 1 << GP };
        Self {
            high,
            known,
            seen: Seen::End,
        }
    }

    fn get(&self, register: u32) -> Option<u32> {
        let register = register & 31;
        (self.known >> register & 1 == 1).then(|| self.high[register as usize])
    }

    fn set(&mut self, register: u32, high: u32) {
        let register = register & 31;
        if register != GP {
            self.high[register as usize] = high;
            self.known |= 1 << register;
        }
    }

    fn forget(&mut self, register: u32) {
        if register & 31 != GP {
            self.known &= !(1 << (register & 31));
        }
    }
}

pub(super) fn unit(layout: &Layout, view: &[u8], pc: u32, walk: &mut Walk) -> Unit {
    if pc & 1 == 1 {
        return Unit::plain(1);
    }
    if view.len() < 2 {
        return Unit::plain(view.len());
    }
    if view[0] & 3 != 3 {
        let code = part(view, 2);
        forget_compressed(code, walk);
        return compressed(layout, code, pc);
    }
    let Some(code) = word(view, 0) else {
        return Unit::plain(view.len());
    };
    let unit = match code & 0x7f {
        0x6f => {
            let target = pc.wrapping_add(jal(code));
            Unit::when(layout.is_address_or_rom(target), 4, Kind::Call, target, 0)
        }
        0x63 => {
            let target = pc.wrapping_add(branch(code));
            Unit::when(layout.is_address(target), 4, Kind::Branch, target, 4)
        }
        0x17 | 0x37 => match pair(layout, view, pc) {
            Some(pair) => {
                remember_pair(view, pc, &pair, walk);
                return pair;
            }
            None => Unit::plain(4),
        },
        _ if pc & 3 == 2 && word(view, 2).is_some_and(|next| layout.offset(next).is_some()) => {
            return Unit::plain(2); // a pointer comes next: this is no instruction
        }
        _ => low(layout, code, walk).unwrap_or(Unit::plain(4)),
    };
    if matches!(code & 0x7f, 0x13 | 0x33 | 0x03 | 0x37 | 0x17 | 0x6f | 0x67) {
        walk.forget(code >> 7);
    }
    unit
}

/// The call that the whole instruction at `pc` is.
pub(super) fn call(layout: &Layout, bytes: &[u8], pc: u32) -> Unit {
    let code = part(bytes, 4);
    if bytes.len() < 4 || code & 0x7f != 0x6f {
        return Unit::plain(bytes.len());
    }
    let target = pc.wrapping_add(jal(code));
    Unit::when(layout.is_address_or_rom(target), 4, Kind::Call, target, 0)
}

fn compressed(layout: &Layout, code: u32, pc: u32) -> Unit {
    let (kind, target) = match (code & 3, code >> 13) {
        (1, 1 | 5) => (Kind::Jump, pc.wrapping_add(compressed_jump(code))),
        (1, 6 | 7) => (Kind::Branch, pc.wrapping_add(compressed_branch(code))),
        _ => return Unit::plain(2),
    };
    Unit::when(layout.is_address(target), 2, kind, target, 2)
}

fn forget_compressed(code: u32, walk: &mut Walk) {
    match (code & 3, code >> 13) {
        (0, 0 | 2) => walk.forget(8 + (code >> 2 & 7)),
        (1, 0 | 2 | 3) | (2, 0 | 2 | 4) => walk.forget(code >> 7),
        (1, 4) => walk.forget(8 + (code >> 7 & 7)),
        _ => {}
    }
}

/// Whether an instruction adds 12 low bits to a register: ADDI, loads, JALR, stores.
fn adds_low(code: u32) -> bool {
    matches!(code & 0x7f, 0x13 | 0x03 | 0x67 | 0x23 | 0x07 | 0x27)
}

/// Those with the low bits in two places.
fn is_store(code: u32) -> bool {
    matches!(code & 0x7f, 0x23 | 0x27)
}

fn low_bits(code: u32) -> u32 {
    match is_store(code) {
        true => signed(code >> 25 << 5 | code >> 7 & 31, 12),
        false => signed(code >> 20, 12),
    }
}

fn with_low_bits(code: u32, low: u32) -> u32 {
    let low = low & 0xfff;
    match is_store(code) {
        true => code & 0x01FF_F07F | low >> 5 << 25 | (low & 31) << 7,
        false => code & 0x000F_FFFF | low << 20,
    }
}

/// Where after an AUIPC or LUI the instruction is that uses its register, and that instruction.
fn second_half(view: &[u8], instructions: usize) -> Option<(usize, u32)> {
    let register = part(view, 4) >> 7 & 31;
    let mut at = 4;
    for _ in 0..instructions {
        if *view.get(at)? & 3 != 3 {
            at += 2;
            continue;
        }
        let code = word(view, at)?;
        if code >> 15 & 31 == register && adds_low(code) {
            return Some((at, code));
        }
        at += 4;
    }
    None
}

/// Whether what looks like a LUI and like a pointer is a LUI.
pub(super) fn is_used(view: &[u8]) -> bool {
    second_half(view, AHEAD + 1).is_some()
}

fn pair(layout: &Layout, view: &[u8], pc: u32) -> Option<Unit> {
    let code = word(view, 0)?;
    let (at, second) = second_half(view, AHEAD)?;
    if second & 0x7f == 0x13 && second >> 12 & 7 != 0 {
        return None; // a shift or a comparison
    }
    let is_relative = code & 0x7f == 0x17;
    let base = if is_relative { pc } else { 0 };
    let target = base
        .wrapping_add(code & 0xFFFF_F000)
        .wrapping_add(low_bits(second));
    let kind = if is_relative { Kind::Pair } else { Kind::Load };
    let holds = layout.is_address_or_rom(target) && at + 4 <= UNIT_BYTES_MAX;
    holds.then(|| Unit::reference(at + 4, kind, target, at as u8))
}

fn remember_pair(view: &[u8], pc: u32, pair: &Unit, walk: &mut Walk) {
    let code = part(view, 4);
    let base = if pair.kind == Kind::Pair { pc } else { 0 };
    walk.set(code >> 7, base.wrapping_add(code & 0xFFFF_F000));
    let second = word(view, usize::from(pair.extra)).unwrap_or(0);
    if matches!(second & 0x7f, 0x13 | 0x03 | 0x67) {
        walk.forget(second >> 7);
    }
}

/// An instruction with low bits whose register holds known high bits.
fn low(layout: &Layout, code: u32, walk: &Walk) -> Option<Unit> {
    let register = code >> 15 & 31;
    let high = walk.get(register)?;
    if !adds_low(code) || code & 0x7f == 0x13 && code >> 12 & 7 != 0 {
        return None;
    }
    let target = high.wrapping_add(low_bits(code));
    let by_gp = u8::from(register == GP);
    let holds = layout.is_address_or_rom(target);
    holds.then(|| Unit::reference(4, Kind::Low, target, by_gp))
}

pub(super) fn write(bytes: &mut [u8], unit: &Unit, pc: u32, target: u32, gp: u32) -> bool {
    let distance = target.wrapping_sub(pc);
    let code = part(bytes, 4);
    let half = code & 0xffff;
    match (unit.kind, unit.extra) {
        (Kind::Call, _) if fits(distance, 21) => put(bytes, with_jal(code, distance), 4),
        (Kind::Jump, _) if fits(distance, 12) => {
            put(bytes, with_compressed_jump(half, distance), 2);
        }
        (Kind::Branch, 2) if fits(distance, 9) => {
            put(bytes, with_compressed_branch(half, distance), 2);
        }
        (Kind::Branch, 4) if fits(distance, 13) => put(bytes, with_branch(code, distance), 4),
        (Kind::Low, 1) if gp != 0 && fits(target.wrapping_sub(gp), 12) => {
            put(bytes, with_low_bits(code, target.wrapping_sub(gp)), 4);
        }
        (Kind::Low, 0) => put(bytes, with_low_bits(code, target), 4),
        (Kind::Pair | Kind::Load, at) => {
            let value = if unit.kind == Kind::Pair {
                distance
            } else {
                target
            };
            let high = value.wrapping_add(0x800) & 0xFFFF_F000;
            put(bytes, code & 0xfff | high, 4);
            if let Some(rest) = bytes.get_mut(usize::from(at)..) {
                put(rest, with_low_bits(part(rest, 4), value), 4);
            }
        }
        _ => return false,
    }
    true
}

pub(super) fn read(new: &[u8], unit: &Unit, pc: u32, old: &[u8]) -> Option<u32> {
    let (code, before) = (part(new, 4), part(old, 4));
    if (code ^ before) & 0xfff != 0 {
        return None;
    }
    match unit.kind {
        Kind::Call => Some(pc.wrapping_add(jal(code))),
        Kind::Pair | Kind::Load => {
            let second = word(new, usize::from(unit.extra))?;
            if (second ^ word(old, usize::from(unit.extra))?) & 0x7f != 0 {
                return None;
            }
            let base = if unit.kind == Kind::Pair { pc } else { 0 };
            let high = base.wrapping_add(code & 0xFFFF_F000);
            Some(high.wrapping_add(low_bits(second)))
        }
        _ => None,
    }
}

#[cfg(feature = "encode")]
pub(super) fn label(bytes: &mut [u8], unit: &Unit, target: u32) {
    let code = part(bytes, 4);
    match unit.kind {
        Kind::Call => put(bytes, code & 0xfff | target >> 1 << 12, 4),
        Kind::Low => put(bytes, with_low_bits(code, target), 4),
        Kind::Pair | Kind::Load => {
            let as_load = Unit {
                kind: Kind::Load,
                ..*unit
            };
            write(bytes, &as_load, 0, target, 0);
        }
        _ => {}
    }
}

fn jal(code: u32) -> u32 {
    let bits = code >> 31 << 20
        | (code >> 12 & 0xff) << 12
        | (code >> 20 & 1) << 11
        | (code >> 21 & 0x3ff) << 1;
    signed(bits, 21)
}

fn with_jal(code: u32, distance: u32) -> u32 {
    code & 0xfff
        | (distance >> 20 & 1) << 31
        | (distance >> 1 & 0x3ff) << 21
        | (distance >> 11 & 1) << 20
        | (distance >> 12 & 0xff) << 12
}

fn branch(code: u32) -> u32 {
    let bits =
        code >> 31 << 12 | (code >> 7 & 1) << 11 | (code >> 25 & 0x3f) << 5 | (code >> 8 & 15) << 1;
    signed(bits, 13)
}

fn with_branch(code: u32, distance: u32) -> u32 {
    code & 0x01FF_F07F
        | (distance >> 12 & 1) << 31
        | (distance >> 5 & 0x3f) << 25
        | (distance >> 1 & 15) << 8
        | (distance >> 11 & 1) << 7
}

fn compressed_jump(code: u32) -> u32 {
    let bits = (code >> 12 & 1) << 11
        | (code >> 11 & 1) << 4
        | (code >> 9 & 3) << 8
        | (code >> 8 & 1) << 10
        | (code >> 7 & 1) << 6
        | (code >> 6 & 1) << 7
        | (code >> 3 & 7) << 1
        | (code >> 2 & 1) << 5;
    signed(bits, 12)
}

fn with_compressed_jump(code: u32, distance: u32) -> u32 {
    code & 0xE003
        | (distance >> 11 & 1) << 12
        | (distance >> 4 & 1) << 11
        | (distance >> 8 & 3) << 9
        | (distance >> 10 & 1) << 8
        | (distance >> 6 & 1) << 7
        | (distance >> 7 & 1) << 6
        | (distance >> 1 & 7) << 3
        | (distance >> 5 & 1) << 2
}

fn compressed_branch(code: u32) -> u32 {
    let bits = (code >> 12 & 1) << 8
        | (code >> 10 & 3) << 3
        | (code >> 5 & 3) << 6
        | (code >> 3 & 3) << 1
        | (code >> 2 & 1) << 5;
    signed(bits, 9)
}

fn with_compressed_branch(code: u32, distance: u32) -> u32 {
    code & 0xE383
        | (distance >> 8 & 1) << 12
        | (distance >> 3 & 3) << 10
        | (distance >> 6 & 3) << 5
        | (distance >> 1 & 3) << 3
        | (distance >> 5 & 1) << 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for step in 0..4096_u32 {
            let wanted = signed(step << 1, 13);
            assert_eq!(branch(with_branch(0x63, wanted)), wanted);
            assert_eq!(jal(with_jal(0x6f, wanted << 8)), wanted << 8);
            let short = signed(step << 1, 12);
            assert_eq!(compressed_jump(with_compressed_jump(0xA001, short)), short);
            let short = signed(step << 1, 9);
            let code = with_compressed_branch(0xC001, short);
            assert_eq!(compressed_branch(code), short);
            let low = signed(step, 12);
            for code in [0x13, 0x23] {
                assert_eq!(low_bits(with_low_bits(code, low)), low);
            }
        }
    }
}
