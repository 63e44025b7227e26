//! Thumb: BL and B.W; instructions of 2 and 4 bytes.

use super::{Kind, Unit, fits, part, put, signed};
use crate::layout::Layout;

pub(super) fn unit(layout: &Layout, view: &[u8], pc: u32) -> Unit {
    let [_, second, ..] = *view else {
        return Unit::plain(view.len());
    };
    if second >> 3 < 0x1d {
        return Unit::plain(2);
    }
    if view.len() < 4 {
        return Unit::plain(view.len());
    }
    let code = part(view, 4);
    let target = pc.wrapping_add(4).wrapping_add(distance(code));
    let holds = is_branch(code) && layout.is_address(target);
    Unit::when(holds, 4, Kind::Call, target, 0)
}

fn is_branch(code: u32) -> bool {
    code & 0xF800 == 0xF000 && matches!(code >> 16 & 0xD000, 0xD000 | 0x9000)
}

fn distance(code: u32) -> u32 {
    let (high, low) = (code & 0xffff, code >> 16);
    let sign = high >> 10 & 1;
    let first = low >> 13 & 1 ^ sign ^ 1;
    let second = low >> 11 & 1 ^ sign ^ 1;
    let bits = sign << 24 | first << 23 | second << 22 | (high & 0x3ff) << 12 | (low & 0x7ff) << 1;
    signed(bits, 25)
}

fn with_distance(code: u32, distance: u32) -> u32 {
    let sign = distance >> 24 & 1;
    let first = distance >> 23 & 1 ^ sign ^ 1;
    let second = distance >> 22 & 1 ^ sign ^ 1;
    let high = code & 0xF800 | sign << 10 | distance >> 12 & 0x3ff;
    let low = code >> 16 & 0xD000 | first << 13 | second << 11 | distance >> 1 & 0x7ff;
    high | low << 16
}

pub(super) fn write(bytes: &mut [u8], unit: &Unit, pc: u32, target: u32) -> bool {
    let distance = target.wrapping_sub(pc.wrapping_add(4));
    let is_good = unit.kind == Kind::Call && fits(distance, 25);
    if is_good {
        put(bytes, with_distance(part(bytes, 4), distance), 4);
    }
    is_good
}

pub(super) fn read(new: &[u8], unit: &Unit, pc: u32, old: &[u8]) -> Option<u32> {
    let (code, before) = (part(new, 4), part(old, 4));
    let is_good = unit.kind == Kind::Call && (code ^ before) & 0xD000_F800 == 0;
    is_good.then(|| pc.wrapping_add(4).wrapping_add(distance(code)))
}

#[cfg(feature = "encode")]
pub(super) fn label(bytes: &mut [u8], target: u32) {
    put(bytes, with_distance(part(bytes, 4), target), 4);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_keeps_its_distance() {
        for wanted in [0_u32, 2, 0x7fe, 0x1000, 0xFF_FFFE, 0xFF00_0000, 0xFFFF_FFFE] {
            let code = with_distance(0xD000_F000, wanted);
            assert!(is_branch(code));
            assert_eq!(distance(code), wanted, "{wanted:#x}");
        }
    }
}
