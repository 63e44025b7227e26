//! The binary range decoder, and what it shares with the encoder.

use crate::{
    blocks::Block,
    layout::{Layout, Segment},
    literal::REPEATS,
    recent::{Begun, Recent},
};

/// Bytes of patch that one step of the machine may take at most. No decision takes more than two
/// bytes; [`crate::machine`] counts how many a step makes.
pub(crate) const STEP_INPUT_BYTES_MAX: usize = 192;

const INPUT_BYTES: usize = 256;
const _: () = assert!(INPUT_BYTES >= STEP_INPUT_BYTES_MAX + 4 && INPUT_BYTES.is_power_of_two());

/// Below this the range is widened by another byte.
pub(crate) const RANGE_MIN: u32 = 1 << 24;

/// The place of a copy or of literals within a gap between two blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GapOp {
    /// Nothing but literals up to the next block.
    pub all_literal: bool,
    pub literal_bytes: u32,
    pub copy_bytes: u32,
    pub old_offset: u32,
}

/// A piece of a literal region: one byte, or a match `distance` bytes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Token {
    /// 0 for a literal.
    pub match_bytes: u32,
    pub distance: u32,
}

/// What is in front of the first block: the kind of image and its segments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start {
    pub target: u8,
    pub base: u32,
    pub gp: [u32; 2],
    pub segments: u32,
    pub blocks: u32,
    /// The last 32 bytes are the SHA-256 of those before.
    pub has_digest: bool,
}

impl Start {
    pub const NOTHING: Self = Self {
        target: 0,
        base: 0,
        gp: [0; 2],
        segments: 0,
        blocks: 0,
        has_digest: false,
    };
}

/// What a bit is spent on, for `explain`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Part {
    #[default]
    Layout,
    Operations,
    /// A copied unit, by the kind of its reference.
    Unit(u8),
    Literal,
    Match,
    /// A call or load among literals, by where it leads to.
    Named,
}

/// One end of the stream. The machine is the same at both ends: it asks for each decision with
/// what is wanted, which only the encoder knows, and gets what was decided.
pub(crate) trait Side {
    /// Whether it knows what it wants: the decoder does not.
    const KNOWS: bool;

    /// Codes one bit; `p` is the probability of 1, in 1/65536 and neither 0 nor 65536.
    fn bit(&mut self, p: u32, wanted: bool) -> bool;

    /// What the next bits are for.
    fn part(&mut self, _part: Part, _new_offset: u32) {}

    /// The rest are the encoder's wishes; the decoder has none.
    fn start(&self) -> Start {
        Start::default()
    }
    fn segment(&self, _index: usize) -> Segment {
        Segment::default()
    }
    fn block(&self, _index: usize) -> Block {
        Block::default()
    }
    fn gap_op(&mut self, _new_offset: u32) -> GapOp {
        GapOp::default()
    }
    fn token(&mut self, _at: u32, _bytes_max: u32, _repeats: &[u32; REPEATS]) -> Token {
        Token::default()
    }
    /// The place of a call, or the words to a load, if the rest of it, which starts at
    /// `new_offset`, is to be named.
    fn named(
        &mut self,
        _recent: &Recent,
        _layout: &Layout,
        _begun: &Begun,
        _new_offset: u32,
    ) -> Option<i32> {
        None
    }
    fn byte(&self, _new_offset: u32) -> u8 {
        0
    }
}

/// The decoder's end. It holds a few bytes of patch, so that a step never has to stop half-way.
pub(crate) struct RangeDecoder {
    range: u32,
    code: u32,
    input: [u8; INPUT_BYTES],
    first: usize,
    count: usize,
    /// Bytes of the payload that the caller has yet to bring.
    payload_left: u32,
    is_primed: bool,
}

impl RangeDecoder {
    pub const fn new(payload_bytes: u32) -> Self {
        Self {
            range: u32::MAX,
            code: 0,
            input: [0; INPUT_BYTES],
            first: 0,
            count: 0,
            payload_left: payload_bytes,
            is_primed: false,
        }
    }

    /// Takes what fits from the front of `patch`.
    pub fn take(&mut self, patch: &mut &[u8]) {
        let room = INPUT_BYTES - self.count;
        let left = usize::try_from(self.payload_left).unwrap_or(usize::MAX);
        let (taken, rest) = patch.split_at(patch.len().min(room).min(left));
        for byte in taken {
            self.input[(self.first + self.count) % INPUT_BYTES] = *byte;
            self.count += 1;
        }
        self.payload_left -= taken.len() as u32; // at most `left`
        *patch = rest;
    }

    /// Whether a whole step can be made with what is here.
    pub fn is_ready(&self) -> bool {
        self.count >= STEP_INPUT_BYTES_MAX + 4 || self.payload_left == 0
    }

    /// Bytes of the payload that no step has needed and that are still to come.
    pub fn unused_bytes(&self) -> u32 {
        self.payload_left + self.count as u32
    }

    /// Past the end of the payload there are zeros: the encoder leaves them out.
    fn next(&mut self) -> u32 {
        if self.count == 0 {
            return 0;
        }
        let byte = self.input[self.first % INPUT_BYTES];
        self.first = (self.first + 1) % INPUT_BYTES;
        self.count -= 1;
        u32::from(byte)
    }
}

impl Side for RangeDecoder {
    const KNOWS: bool = false;

    fn bit(&mut self, p: u32, _wanted: bool) -> bool {
        if !self.is_primed {
            self.is_primed = true;
            for _ in 0..4 {
                self.code = self.code << 8 | self.next();
            }
        }
        let bound = share(self.range, p);
        let bit = self.code < bound;
        if bit {
            self.range = bound;
        } else {
            self.code -= bound;
            self.range -= bound;
        }
        while self.range < RANGE_MIN {
            self.code = self.code << 8 | self.next();
            self.range <<= 8;
        }
        bit
    }
}

/// The part of the range that stands for 1.
pub(crate) fn share(range: u32, p: u32) -> u32 {
    ((u64::from(range) * u64::from(p)) >> 16) as u32
}
