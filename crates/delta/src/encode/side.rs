//! The encoder's end of the stream: what it wants next.

use super::{
    cost::Literals,
    divide::Division,
    images::Pair,
    lz::{Finder, PART_BYTES, Parse},
    range::RangeEncoder,
};
use crate::{
    blocks::Block,
    coder::{GapOp, Side, Start, Token},
    layout::{Layout, Segment},
    literal::REPEATS,
    recent::{Begun, Recent},
    refs::Kind,
};

/// Something that takes bits.
pub(super) struct Wishes<'a> {
    pair: &'a Pair<'a>,
    division: Division,
    next_gap: usize,
    finder: Finder<'a>,
    parse: Parse,
    literals: Literals,
    coder: RangeEncoder,
}

impl<'a> Wishes<'a> {
    pub fn new(pair: &'a Pair, division: Division, coder: RangeEncoder) -> Self {
        Self {
            pair,
            division,
            next_gap: 0,
            finder: Finder::new(pair.old, pair.new),
            parse: Parse::default(),
            literals: Literals::new(),
            coder,
        }
    }

    pub fn into_coder(self) -> RangeEncoder {
        self.coder
    }
}

impl Side for Wishes<'_> {
    const KNOWS: bool = true;

    fn bit(&mut self, p: u32, wanted: bool) -> bool {
        self.coder.bit(p, wanted);
        wanted
    }

    fn start(&self) -> Start {
        let (old, new) = (&self.pair.old_layout, &self.pair.new_layout);
        Start {
            target: self.pair.target,
            base: self.pair.base,
            gp: [old.gp, new.gp],
            segments: new.segments().len() as u32,
            blocks: self.division.blocks.len() as u32,
            has_digest: self.pair.has_digest,
        }
    }

    fn segment(&self, index: usize) -> Segment {
        self.pair.new_layout.segments()[index]
    }

    fn block(&self, index: usize) -> Block {
        self.division.blocks[index]
    }

    fn gap_op(&mut self, new_offset: u32) -> GapOp {
        let (at, op) = self.division.gap_ops[self.next_gap];
        debug_assert_eq!(at, new_offset, "gaps come in order");
        self.next_gap += 1;
        op
    }

    fn token(&mut self, at: u32, bytes_max: u32, repeats: &[u32; REPEATS]) -> Token {
        if self.parse.is_empty() {
            let end = at + bytes_max.min(PART_BYTES as u32);
            let costs = self.literals.costs(self.pair, at, end);
            self.parse.find(&mut self.finder, at, repeats[0], &costs);
        }
        self.parse.next()
    }

    fn named(
        &mut self,
        recent: &Recent,
        layout: &Layout,
        begun: &Begun,
        new_offset: u32,
    ) -> Option<i32> {
        let wish = named(self.pair.new, recent, layout, begun, new_offset)?;
        let more = begun.more as usize - 1;
        self.parse.take_literals(more).then_some(wish)
    }

    fn byte(&self, new_offset: u32) -> u8 {
        self.pair.new.get(new_offset as usize).copied().unwrap_or(0)
    }
}

/// How a call or load, the rest of which starts at `new_offset`, is named.
pub(super) fn named(
    new: &[u8],
    recent: &Recent,
    layout: &Layout,
    begun: &Begun,
    new_offset: u32,
) -> Option<i32> {
    let first = (new_offset - begun.count) as usize;
    let wanted = new.get(first..first + (begun.count + begun.more) as usize)?;
    let is_wanted = |bytes: &[u8; 4]| bytes.starts_with(wanted);
    if begun.kind == Kind::Call {
        let place = recent.calls(layout, begun).position(|it| is_wanted(&it))?;
        return i32::try_from(place).ok();
    }
    let words = recent.load_words(layout, begun, wanted)?;
    let bytes = recent.load(layout, begun, words);
    bytes.is_some_and(|it| is_wanted(&it)).then_some(words)
}
