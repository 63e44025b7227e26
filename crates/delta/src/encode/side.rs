//! The encoder's end of the stream: what it wants next.

use super::{
    divide::Division,
    images::Pair,
    lz::{Finder, Parse},
    range::RangeEncoder,
};
use crate::{
    blocks::Block,
    coder::{GapOp, Side, Start},
    layout::Segment,
    literal::REPEATS,
    model::Token,
};

/// Something that takes bits.
pub(super) struct Wishes<'a> {
    pair: &'a Pair<'a>,
    division: Division,
    next_gap: usize,
    finder: Finder<'a>,
    parse: Parse,
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
        let end = at + bytes_max;
        self.parse.token(&mut self.finder, at, end, repeats[0])
    }

    fn byte(&self, new_offset: u32) -> u8 {
        self.pair.new.get(new_offset as usize).copied().unwrap_or(0)
    }
}
