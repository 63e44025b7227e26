//! The two images in memory: what kind they are, where their bytes belong.

use std::vec::Vec;

use sha2::{Digest, Sha256};

use crate::{
    Images,
    layout::{Instructions, Layout, Target},
    refs::{self, VIEW_BYTES, Walk, word},
};

/// An old and a new image that are to be told apart.
pub(super) struct Pair<'a> {
    pub old: &'a [u8],
    pub new: &'a [u8],
    /// The number of the [`Target`].
    pub target: u8,
    pub base: u32,
    pub old_layout: Layout,
    pub new_layout: Layout,
    /// Whether the new image ends with its own digest.
    pub has_digest: bool,
}

impl<'a> Pair<'a> {
    pub fn of(old: &'a [u8], new: &'a [u8]) -> Self {
        let (target, base) = match old.is_empty() {
            true => (0, 0),
            false => target_of(old, new),
        };
        let mut old_layout = layout(target, base, old);
        let mut new_layout = layout(target, base, new);
        let gp = gp_of(old, &old_layout).zip(gp_of(new, &new_layout));
        (old_layout.gp, new_layout.gp) = gp.unwrap_or_default();
        Self {
            old,
            new,
            target,
            base,
            old_layout,
            new_layout,
            has_digest: has_digest(new),
        }
    }

    /// Bytes of the new image that are coded.
    pub fn coded_bytes(&self) -> usize {
        self.new.len() - if self.has_digest { 32 } else { 0 }
    }
}

pub(super) fn has_digest(image: &[u8]) -> bool {
    let Some((coded, digest)) = image.split_last_chunk::<32>() else {
        return false;
    };
    !coded.is_empty() && Sha256::digest(coded).as_slice() == digest
}

fn layout(target: u8, base: u32, image: &[u8]) -> Layout {
    let mut read = |offset: u32| -> Result<u32, core::convert::Infallible> {
        Ok(word(image, offset as usize).unwrap_or(0))
    };
    let Ok(layout) = Layout::read(Target::of(target), base, image.len() as u32, &mut read);
    layout
}

/// What both images are; different ones have nothing in common but bytes.
fn target_of(old: &[u8], new: &[u8]) -> (u8, u32) {
    let (is_old, is_new) = (esp_target(old), esp_target(new));
    match (is_old, is_new) {
        (Some(old), Some(new)) if old == new => (old, 0),
        (None, None) => thumb_base(old).map_or((0, 0), |base| (THUMB, base)),
        _ => (0, 0),
    }
}

const THUMB: u8 = 8;

/// By the chip of an app image's header. An ESP8266 image has no chip: the first 32 bits after
/// its short header are an address.
fn esp_target(image: &[u8]) -> Option<u8> {
    let header = image.first_chunk::<24>().filter(|it| it[0] == 0xE9)?;
    let entry = word(header, 4)?;
    // The ESP8266 boots from its first bank of RAM.
    if (0x4010_0000..0x4011_0000).contains(&entry) && word(header, 8)? >= 0x3F00_0000 {
        return Some(4);
    }
    match u16::from_le_bytes([header[12], header[13]]) {
        0 => Some(1),
        2 => Some(2),
        9 => Some(3),
        5 | 12 => Some(5),
        13 | 16 | 20 | 23 => Some(6),
        18 => Some(7),
        _ => None,
    }
}

/// Where a Cortex-M image is, by its own pointers: at the base at which the most of them lead to
/// the start of a function. None if it has no vector table.
fn thumb_base(image: &[u8]) -> Option<u32> {
    const STEP: u32 = 0x400;
    /// A PUSH with LR, or PUSH.W.
    fn is_prologue(at: &[u8]) -> bool {
        matches!(at, [_, 0xB5, ..] | [0x2D, 0xE9, ..])
    }
    let (stack, reset) = (word(image, 0)?, word(image, 4)?);
    let is_vector = (0x2000_0000..0x2010_0000).contains(&stack) && reset & 1 == 1;
    if !is_vector || reset >= 0x2000_0000 {
        return None;
    }
    let bytes = image.len() as u32;
    let mut pointers: Vec<u32> = (0..image.len() / 4)
        .filter_map(|at| word(image, at * 4))
        .filter(|it| it & 1 == 1 && it.abs_diff(reset) < bytes)
        .collect();
    pointers.sort_unstable();
    pointers.dedup();
    let hits = |base: u32| {
        let leads = |pointer: &&u32| {
            let at = (**pointer & !1).checked_sub(base);
            let rest = at.and_then(|at| image.get(at as usize..));
            rest.is_some_and(is_prologue)
        };
        pointers.iter().filter(leads).count()
    };
    let lowest = (reset.saturating_sub(bytes) & !(STEP - 1)) + STEP;
    let bases = (lowest..=reset).step_by(STEP as usize);
    let best = bases.max_by_key(|base| (hits(*base), core::cmp::Reverse(*base)))?;
    (hits(best) >= 8).then_some(best)
}

/// The global pointer of a RISC-V program, from the AUIPC or LUI with ADDI that sets it.
fn gp_of(image: &[u8], layout: &Layout) -> Option<u32> {
    if layout.target.instructions != Instructions::RiscV {
        return None;
    }
    let code = layout
        .segments()
        .iter()
        .filter(|it| layout.is_code(it.address));
    for segment in code {
        let (start, end) = (segment.offset, segment.offset + segment.bytes);
        for at in (start..end.saturating_sub(8)).step_by(2) {
            let first = word(image, at as usize)?;
            let second = word(image, at as usize + 4)?;
            if second & 0xFFFFF != 0x18193 || !matches!(first & 0xfff, 0x197 | 0x1b7) {
                continue;
            }
            let pc = segment.address.wrapping_add(at - start);
            let base = if first & 0x7f == 0x17 { pc } else { 0 };
            let low = (second as i32 >> 20) as u32;
            let gp = base.wrapping_add(first & 0xFFFF_F000).wrapping_add(low);
            let fits = gp.wrapping_sub(layout.target.ram.0) < 1 << 20;
            return fits.then_some(gp);
        }
    }
    None
}

/// Calls `each` for every unit of an image.
pub(super) fn walk(image: &[u8], layout: &Layout, mut each: impl FnMut(usize, &refs::Unit)) {
    let mut walk = Walk::new(layout.gp);
    let mut at = 0;
    while at < image.len() {
        let view = &image[at..image.len().min(at + VIEW_BYTES)];
        let unit = refs::unit(layout, view, at as u32, &mut walk);
        each(at, &unit);
        at += usize::from(unit.bytes);
    }
}

/// Images in memory.
pub(super) struct Slices<'a> {
    pub old: &'a [u8],
    pub new: &'a [u8],
}

/// A read beyond the end of an image.
#[derive(Debug)]
pub(super) struct OutOfImage;

impl Images for Slices<'_> {
    type Error = OutOfImage;

    fn read_old(&mut self, offset: u32, to: &mut [u8]) -> Result<(), OutOfImage> {
        copy(self.old, offset, to)
    }

    fn read_new(&mut self, offset: u32, to: &mut [u8]) -> Result<(), OutOfImage> {
        copy(self.new, offset, to)
    }
}

fn copy(image: &[u8], offset: u32, to: &mut [u8]) -> Result<(), OutOfImage> {
    let part = image
        .get(offset as usize..)
        .and_then(|rest| rest.get(..to.len()));
    to.copy_from_slice(part.ok_or(OutOfImage)?);
    Ok(())
}
