//! Xtensa: CALL0/4/8/12, L32R, J and branches; instructions of 2 and 3 bytes.

use super::{Kind, Unit, Walk, fits, part, put, signed, word};
use crate::layout::{Layout, is_rom};

/// What the walk has just seen, where functions start with ENTRY and have their pointers in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The walk has just started, or an instruction after which the next one is never reached.
    End,
    /// Any other instruction: what follows it is one, whatever it looks like.
    Instruction,
}

/// A unit of code with windowed calls.
pub(super) fn windowed(layout: &Layout, view: &[u8], pc: u32, walk: &mut Walk) -> Unit {
    let [first, second, third, ..] = *view else {
        return Unit::plain(view.len());
    };
    if pc & 3 == 0 {
        if is_entry(first, second) {
            walk.seen = Seen::Instruction;
            return Unit::plain(3);
        }
        let pointer = word(view, 0).filter(|value| super::is_pointer(layout, *value, pc));
        if let Some(value) = pointer.filter(|_| walk.seen != Seen::Instruction) {
            walk.seen = Seen::End;
            return Unit::reference(4, Kind::Pointer, value, 0);
        }
    }
    if first == 0 {
        walk.seen = Seen::End;
        return Unit::plain(1);
    }
    let is_end = matches!(
        (first, second, third),
        (0x90 | 0x80, 0, 0) | (0x1D | 0x0D, 0xF0, _)
    ) || first & 0x3f == 6
        || first == 0xA0 && third == 0 && second & 0xf0 == 0;
    if is_end {
        walk.seen = Seen::End;
    }
    instruction(layout, view, pc, walk.seen != Seen::Instruction)
}

pub(super) fn unit(layout: &Layout, view: &[u8], pc: u32) -> Unit {
    instruction(layout, view, pc, true)
}

pub(super) fn instruction(layout: &Layout, view: &[u8], pc: u32, may_end: bool) -> Unit {
    let [first, second, _, ..] = *view else {
        return Unit::plain(view.len());
    };
    if pc & 3 == 0 && is_entry(first, second) {
        return Unit::plain(3);
    }
    // Zeros fill up to the next function: one by one, so that the walk is in step after them.
    if first == 0 {
        return Unit::plain(1);
    }
    let bytes = if matches!(first & 15, 8..=13) { 2 } else { 3 };
    if let Some(plain) = word_ahead(layout, view, pc, bytes, may_end) {
        return plain;
    }
    let code = part(view, 3);
    let short = || pc.wrapping_add(4).wrapping_add(signed(code >> 16, 8));
    match first & 15 {
        5 => {
            let target = call_base(pc).wrapping_add(signed(code >> 6, 18) << 2);
            let holds = layout.is_address(target) || is_rom(target);
            Unit::when(holds, 3, Kind::Call, target, 0)
        }
        1 => {
            let target = load_base(pc).wrapping_add((0xFFFF_0000 | code >> 8) << 2);
            Unit::when(layout.is_address(target), 3, Kind::Load, target, 0)
        }
        6 => match first >> 4 & 3 {
            0 => {
                let target = pc.wrapping_add(4).wrapping_add(signed(code >> 6, 18));
                Unit::when(layout.is_address(target), 3, Kind::Jump, target, 0)
            }
            1 => {
                let target = pc.wrapping_add(4).wrapping_add(signed(code >> 12, 12));
                Unit::when(layout.is_address(target), 3, Kind::Branch, target, 12)
            }
            3 if first >> 6 == 0 => Unit::plain(3),
            _ => Unit::reference(3, Kind::Branch, short(), 8),
        },
        7 => Unit::reference(3, Kind::Branch, short(), 8),
        _ => Unit::plain(bytes),
    }
}

/// The first instruction of most functions; linkers put it at a word's boundary.
fn is_entry(first: u8, second: u8) -> bool {
    first == 0x36 && second & 15 == 1
}

/// Where a pointer or a function starts within the instruction, the walk was out of step: plain
/// bytes up to there.
fn word_ahead(layout: &Layout, view: &[u8], pc: u32, bytes: usize, may_end: bool) -> Option<Unit> {
    let ahead = (4 - (pc & 3)) as usize;
    if ahead >= bytes {
        return None;
    }
    let rest = view.get(ahead..)?;
    let at = pc.wrapping_add(ahead as u32);
    let is_pointer =
        may_end && word(rest, 0).is_some_and(|value| super::is_pointer(layout, value, at));
    let is_function = matches!(rest, [first, second, third, ..]
        if is_entry(*first, *second) && *third < 8);
    (is_pointer || is_function).then(|| Unit::plain(ahead))
}

fn call_base(pc: u32) -> u32 {
    (pc & !3).wrapping_add(4)
}

fn load_base(pc: u32) -> u32 {
    pc.wrapping_add(3) & !3
}

pub(super) fn write(bytes: &mut [u8], unit: &Unit, pc: u32, target: u32) -> bool {
    let code = part(bytes, 3);
    let from_next = target.wrapping_sub(pc.wrapping_add(4));
    let new = match (unit.kind, unit.extra) {
        (Kind::Call, _) => {
            let distance = target.wrapping_sub(call_base(pc));
            let is_good = distance & 3 == 0 && fits(distance, 20);
            is_good.then_some(code & 0x3f | distance >> 2 << 6)
        }
        (Kind::Load, _) => {
            let distance = target.wrapping_sub(load_base(pc));
            let is_good = distance & 3 == 0 && distance >= 0xFFFC_0000;
            is_good.then_some(code & 0xff | distance >> 2 << 8)
        }
        (Kind::Jump, _) => fits(from_next, 18).then_some(code & 0x3f | from_next << 6),
        (Kind::Branch, 12) => fits(from_next, 12).then_some(code & 0xfff | from_next << 12),
        (Kind::Branch, _) => fits(from_next, 8).then_some(code & 0xffff | from_next << 16),
        _ => None,
    };
    if let Some(new) = new {
        put(bytes, new, 3);
    }
    new.is_some()
}

pub(super) fn read(new: &[u8], unit: &Unit, pc: u32, old: &[u8]) -> Option<u32> {
    let (code, before) = (part(new, 3), part(old, 3));
    let same = |mask: u32| (code ^ before) & mask == 0;
    match unit.kind {
        Kind::Call if same(0x3f) => Some(call_base(pc).wrapping_add(signed(code >> 6, 18) << 2)),
        Kind::Load if same(0xff) => {
            Some(load_base(pc).wrapping_add((0xFFFF_0000 | code >> 8) << 2))
        }
        Kind::Jump if same(0x3f) => Some(pc.wrapping_add(4).wrapping_add(signed(code >> 6, 18))),
        _ => None,
    }
}

#[cfg(feature = "encode")]
pub(super) fn label(bytes: &mut [u8], unit: &Unit, target: u32) {
    let code = part(bytes, 3);
    match unit.kind {
        Kind::Call => put(bytes, code & 0x3f | target >> 2 << 6, 3),
        Kind::Load => put(bytes, code & 0xff | target >> 2 << 8, 3),
        Kind::Jump => put(bytes, code & 0x3f | target << 6, 3),
        _ => {}
    }
}
