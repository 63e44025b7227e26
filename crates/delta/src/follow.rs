//! Follows the instructions of the new image as it is made.

use crate::{
    layout::Layout,
    phase::Phase,
    recent::Recent,
    refs::{Kind, Unit},
};

/// What is known of the end of the new image.
pub(crate) struct Follow {
    pub phase: Phase,
    pub recent: Recent,
    /// Address less offset in the segment that is being made, up to the offset `until`.
    shift: Option<u32>,
    until: u32,
}

impl Follow {
    pub const fn new() -> Self {
        Self {
            phase: Phase::new(),
            recent: Recent::new(),
            shift: None,
            until: 0,
        }
    }

    /// What comes next is at `offset` of the new image: its address.
    pub fn enter(&mut self, layout: &Layout, offset: u32) -> Option<u32> {
        if offset >= self.until {
            self.shift = layout.address(offset).map(|it| it.wrapping_sub(offset));
            self.until = layout.next_edge(offset);
            self.phase.enter(layout.is_in_code(offset));
        }
        let address = self.shift.map(|it| it.wrapping_add(offset));
        if !self.phase.is_code {
            self.phase.count = address.unwrap_or(0) & 3;
        }
        address
    }

    /// A byte at `offset` that is a literal or of a match.
    pub fn byte(&mut self, layout: &Layout, offset: u32, byte: u8) {
        let address = self.enter(layout, offset);
        if !self.phase.is_code {
            return;
        }
        if let Some(whole) = self.phase.byte(layout.target.instructions, byte)
            && let Some(address) = address
        {
            self.recent.saw(layout, whole, address.wrapping_add(1));
        }
    }

    /// A unit of a copy at `offset`, and where it leads to if that is known.
    pub fn unit(
        &mut self,
        layout: &Layout,
        offset: u32,
        bytes: &[u8],
        unit: &Unit,
        found: Option<u32>,
    ) {
        self.enter(layout, offset);
        if !self.phase.is_code {
            return;
        }
        match (unit.kind, found) {
            (Kind::None, _) => self.phase.plain(layout.target.instructions, bytes),
            (kind, found) => {
                self.phase.whole(bytes.first().copied().unwrap_or(0));
                if let Some(target) = found {
                    self.recent.leads(kind, target);
                }
            }
        }
    }
}
