//! Where the last calls and loads of the new image lead to: new code calls the same functions and
//! reads the same constants over and over, and how it says so differs with each place.

use crate::{
    layout::{Instructions, Layout},
    phase::Phase,
    refs::{self, Kind, Unit},
};

/// Functions that are remembered.
pub(crate) const CALLS: usize = 32;
/// A load is named by how many words it is from the last one, up to so many less one.
#[cfg(feature = "encode")]
pub(crate) const LOAD_WORDS_MAX: i32 = 64;

/// The last targets, and how well they have served.
pub(crate) struct Recent {
    /// Different addresses, the last one first.
    calls: [u32; CALLS],
    load: u32,
    /// For calls and loads, whether the last ones were named; the last one lowest.
    named: [u8; 2],
}

/// An instruction that has begun and is a call or load.
#[derive(Clone, Copy)]
pub(crate) struct Begun {
    pub kind: Kind,
    /// Bytes that it still needs.
    pub more: u32,
    /// Its address, its bytes so far, and how many.
    pub pc: u32,
    pub bytes: u32,
    pub count: u32,
}

impl Recent {
    pub const fn new() -> Self {
        Self {
            calls: [0; CALLS],
            load: 0,
            named: [0; 2],
        }
    }

    /// Remembers where an instruction leads to that ends before the address `next`.
    pub fn saw(&mut self, layout: &Layout, (bytes, count): (u32, u32), next: u32) {
        let may_lead = match layout.target.instructions {
            Instructions::Xtensa => count == 3 && matches!(bytes & 15, 1 | 5),
            _ => count == 4,
        };
        if !may_lead {
            return;
        }
        let bytes = bytes.to_le_bytes();
        let pc = next.wrapping_sub(count);
        let unit = refs::instruction(layout, &bytes[..count as usize], pc);
        self.leads(unit.kind, unit.target);
    }

    /// A call or load that leads to `target`.
    pub fn leads(&mut self, kind: Kind, target: u32) {
        match kind {
            Kind::Call => {
                let known = self.calls.iter().position(|it| *it == target);
                self.calls.copy_within(0..known.unwrap_or(CALLS - 1), 1);
                self.calls[0] = target;
            }
            Kind::Load => self.load = target,
            _ => {}
        }
    }

    /// Which flag says whether the instruction is named: by kind and the last three times.
    pub fn flag(&self, kind: Kind) -> usize {
        let index = usize::from(kind == Kind::Load);
        index * 8 + usize::from(self.named[index] & 7)
    }

    pub fn was_named(&mut self, kind: Kind, named: bool) {
        let history = &mut self.named[usize::from(kind == Kind::Load)];
        *history = *history << 1 | u8::from(named);
    }

    /// The instructions that it may be, if it is one of the last calls.
    pub fn calls<'a>(
        &'a self,
        layout: &'a Layout,
        begun: &'a Begun,
    ) -> impl Iterator<Item = [u8; 4]> + 'a {
        let calls = self.calls.iter();
        calls.filter_map(|target| begun.leading(layout, *target))
    }

    /// The load of a word `words` words after the last one.
    pub fn load(&self, layout: &Layout, begun: &Begun, words: i32) -> Option<[u8; 4]> {
        begun.leading(layout, self.load.wrapping_add((words as u32) << 2))
    }

    /// How many words after the last load the target of this one is, if that can be named.
    #[cfg(feature = "encode")]
    pub fn load_words(&self, layout: &Layout, begun: &Begun, bytes: &[u8]) -> Option<i32> {
        let unit = refs::instruction(layout, bytes, begun.pc);
        let words = unit.target.wrapping_sub(self.load) as i32 >> 2;
        let is_near = unit.kind == Kind::Load && words.abs() < LOAD_WORDS_MAX;
        is_near.then_some(words)
    }
}

impl Begun {
    /// The call or load that has begun at `phase`, whose next byte is at `address`.
    pub fn of(phase: &Phase, layout: &Layout, address: u32) -> Option<Self> {
        if !phase.is_code {
            return None;
        }
        let (bytes, count) = (phase.bytes, phase.count);
        let (kind, more) = match (layout.target.instructions, count) {
            (Instructions::Xtensa, 1) if bytes & 15 == 5 => (Kind::Call, 2),
            (Instructions::Xtensa, 1) if bytes & 15 == 1 => (Kind::Load, 2),
            // JAL with the usual return address.
            (Instructions::RiscV, 1) if bytes == 0xEF => (Kind::Call, 3),
            (Instructions::Thumb, 2) if bytes >> 11 == 0x1e => (Kind::Call, 2),
            _ => return None,
        };
        Some(Self {
            kind,
            more,
            pc: address.wrapping_sub(count),
            bytes,
            count,
        })
    }

    /// The whole instruction if it leads to `target`; none if it would have begun otherwise.
    fn leading(&self, layout: &Layout, target: u32) -> Option<[u8; 4]> {
        let rest = match layout.target.instructions {
            Instructions::Thumb => 0xF800_0000, // BL
            _ => 0,
        };
        let mut bytes = (self.bytes | rest).to_le_bytes();
        let unit = Unit {
            bytes: 4,
            kind: self.kind,
            target,
            extra: 0,
        };
        let can = refs::write(&mut bytes, &unit, self.pc, target, layout);
        let begins = (u32::from_le_bytes(bytes) ^ self.bytes) << (32 - self.count * 8) == 0;
        (can && begins).then_some(bytes)
    }
}
