//! References: the places in code and data that hold an address.
//!
//! The old image is walked in *units*: an instruction, a pair of instructions that make one
//! address, a pointer, or a few plain bytes. When code moves, what changes in it is the references,
//! and where they lead follows from the moves; see [`crate::predict`].

pub(crate) mod riscv;
mod thumb;
mod xtensa;

use crate::layout::{Instructions, Layout};
pub(crate) use riscv::Walk;

/// The longest unit: a RISC-V pair with three instructions of 4 bytes between, and one spare.
pub(crate) const UNIT_BYTES_MAX: usize = 24;
/// How many bytes a walk looks ahead at most.
pub(crate) const VIEW_BYTES: usize = 40;

/// The kind of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// No reference.
    None,
    /// A pointer of 32 bits.
    Pointer,
    /// A call.
    Call,
    /// Xtensa L32R; RISC-V LUI with the instruction that adds the low bits.
    Load,
    /// A jump.
    Jump,
    /// A conditional branch.
    Branch,
    /// RISC-V AUIPC with the instruction that adds the low bits.
    Pair,
    /// RISC-V: the low bits of an address whose high bits came earlier.
    Low,
}

impl Kind {
    pub const COUNT: usize = 8;
}

/// A few bytes that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub bytes: u8,
    pub kind: Kind,
    /// The address that it leads to.
    pub target: u32,
    /// What [`write`] needs besides: the width of a branch, or where the second half of a pair is.
    pub extra: u8,
}

impl Unit {
    pub const fn plain(bytes: usize) -> Self {
        Self {
            bytes: bytes as u8,
            kind: Kind::None,
            target: 0,
            extra: 0,
        }
    }

    const fn reference(bytes: usize, kind: Kind, target: u32, extra: u8) -> Self {
        Self {
            bytes: bytes as u8,
            kind,
            target,
            extra,
        }
    }

    /// A reference if `holds`, else as many plain bytes.
    fn when(holds: bool, bytes: usize, kind: Kind, target: u32, extra: u8) -> Self {
        match holds {
            true => Self::reference(bytes, kind, target, extra),
            false => Self::plain(bytes),
        }
    }
}

/// The unit at the start of `view`, which is at `offset` of the old image. `view` ends where the
/// copy or the image ends, or after [`VIEW_BYTES`]; it is not empty.
pub(crate) fn unit(layout: &Layout, view: &[u8], offset: u32, walk: &mut Walk) -> Unit {
    let unit = match layout.address(offset) {
        Some(pc) => unit_at(layout, view, pc, walk),
        None => Unit::plain(4),
    };
    let bytes = usize::from(unit.bytes).clamp(1, UNIT_BYTES_MAX);
    if bytes > view.len() {
        return Unit::plain(view.len());
    }
    unit
}

fn unit_at(layout: &Layout, view: &[u8], pc: u32, walk: &mut Walk) -> Unit {
    let instructions = layout.target.instructions;
    if layout.target.is_windowed() && layout.is_code(pc) {
        return xtensa::windowed(layout, view, pc, walk);
    }
    if let Some(pointer) = pointer(layout, view, pc) {
        return pointer;
    }
    let is_data = !layout.is_code(pc) && instructions != Instructions::Thumb;
    let packed = || unaligned_pointer(layout, view, pc);
    if let Some(unit) = is_data.then(packed).flatten() {
        return unit;
    }
    let to_word = (4 - (pc & 3)) as usize;
    match instructions {
        Instructions::None => Unit::plain(to_word),
        Instructions::Xtensa | Instructions::RiscV if !layout.is_code(pc) => Unit::plain(to_word),
        Instructions::Xtensa => xtensa::unit(layout, view, pc),
        Instructions::RiscV => riscv::unit(layout, view, pc, walk),
        Instructions::Thumb => thumb::unit(layout, view, pc),
    }
}

/// An aligned word that is an address.
fn pointer(layout: &Layout, view: &[u8], pc: u32) -> Option<Unit> {
    let value = word(view, 0).filter(|_| pc & 3 == 0)?;
    let is_lui = layout.target.instructions == Instructions::RiscV
        && matches!(value & 0x7f, 0x37 | 0x17)
        && value & 0xFFFF_F000 != 0;
    let holds = is_pointer(layout, value, pc) && !(is_lui && riscv::is_used(view));
    holds.then(|| Unit::reference(4, Kind::Pointer, value, 0))
}

/// Whether a word at `pc` is a pointer. Among Xtensa instructions, one into code leads to a
/// function, and functions are aligned; other words that look so are instructions.
fn is_pointer(layout: &Layout, value: u32, pc: u32) -> bool {
    let is_aligned = value & 3 == 0
        || !layout.target.is_windowed()
        || !layout.is_code(pc)
        || !layout.is_code(value);
    is_aligned && layout.is_address(value)
}

/// In data, structures may be packed: looks at the next few bytes up to a word's boundary.
fn unaligned_pointer(layout: &Layout, view: &[u8], pc: u32) -> Option<Unit> {
    if view.len() < 7 {
        return None;
    }
    for ahead in 0..4_u32 {
        let at = pc.wrapping_add(ahead);
        if at & 3 == 0 {
            if ahead > 0 {
                return None;
            }
            continue;
        }
        let value = word(view, ahead as usize)?;
        if layout.offset(value).is_some() {
            return Some(match ahead {
                0 => Unit::reference(4, Kind::Pointer, value, 0),
                _ => Unit::plain(ahead as usize),
            });
        }
    }
    None
}

/// Writes into `bytes`, which hold the old unit, the same unit at `pc` that leads to `target`.
/// Says whether it can lead there; if not, `bytes` are as before.
pub(crate) fn write(bytes: &mut [u8], unit: &Unit, pc: u32, target: u32, layout: &Layout) -> bool {
    if unit.kind == Kind::Pointer {
        put(bytes, target, 4);
        return true;
    }
    match layout.target.instructions {
        Instructions::None => false,
        Instructions::Xtensa => xtensa::write(bytes, unit, pc, target),
        Instructions::RiscV => riscv::write(bytes, unit, pc, target, layout.gp),
        Instructions::Thumb => thumb::write(bytes, unit, pc, target),
    }
}

/// Where the new unit leads to, if its other bits are those of the `old` one.
pub(crate) fn read(new: &[u8], unit: &Unit, pc: u32, old: &[u8], layout: &Layout) -> Option<u32> {
    if unit.kind == Kind::Pointer {
        return word(new, 0);
    }
    match layout.target.instructions {
        Instructions::None => None,
        Instructions::Xtensa => xtensa::read(new, unit, pc, old),
        Instructions::RiscV => riscv::read(new, unit, pc, old),
        Instructions::Thumb => thumb::read(new, unit, pc, old),
    }
}

/// The call or load that the whole instruction `bytes` at `pc` is.
pub(crate) fn instruction(layout: &Layout, bytes: &[u8], pc: u32) -> Unit {
    match layout.target.instructions {
        Instructions::None => Unit::plain(1),
        Instructions::Xtensa => xtensa::instruction(layout, bytes, pc, false),
        Instructions::RiscV => riscv::call(layout, bytes, pc),
        Instructions::Thumb => thumb::unit(layout, bytes, pc),
    }
}

/// The little-endian word at `at`.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*word))
}

/// The first `count` bytes, little-endian; bytes that are not there are 0.
fn part(bytes: &[u8], count: usize) -> u32 {
    bytes
        .iter()
        .take(count)
        .rev()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn put(bytes: &mut [u8], value: u32, count: usize) {
    for (place, byte) in bytes.iter_mut().take(count).zip(value.to_le_bytes()) {
        *place = byte;
    }
}

/// The low `bits` bits as a number with a sign.
fn signed(value: u32, bits: u32) -> u32 {
    ((value << (32 - bits)) as i32 >> (32 - bits)) as u32
}

/// Whether a distance fits into `bits` bits with a sign.
fn fits(distance: u32, bits: u32) -> bool {
    signed(distance, bits) == distance
}

/// Writes into `bytes`, a unit with a reference, where it leads to instead of how far: code that
/// only moved then looks the same.
#[cfg(feature = "encode")]
pub(crate) fn label(bytes: &mut [u8], unit: &Unit, target: u32, layout: &Layout) {
    if unit.kind == Kind::Pointer {
        return put(bytes, target, 4);
    }
    match layout.target.instructions {
        Instructions::None => {}
        Instructions::Xtensa => xtensa::label(bytes, unit, target),
        Instructions::RiscV => riscv::label(bytes, unit, target),
        Instructions::Thumb => thumb::label(bytes, target),
    }
}
