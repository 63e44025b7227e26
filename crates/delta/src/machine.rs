//! The machine that both ends run: the encoder with its wishes, the decoder with what it is sent.
//!
//! | state | what a step does | then |
//! |---|---|---|
//! | `Start` | the kind of image, how many segments and blocks | `Segment`, `Block` or `Next` |
//! | `Segment` | one segment of the new image | the next one; `Block` or `Next` |
//! | `Block` | one block: gap, length, shift | the next one; `Next` |
//! | `Next` | nothing is coded: a block is due, or a gap, or the end | `Copy`, `Gap` or `Tail` |
//! | `Gap` | literals and a copy within a gap | `Literal` |
//! | `Literal` | one byte, or the head of a match | `Literal`, `Match`, `Copy` or `Next` |
//! | `Match` | nothing is coded: some bytes of a match are copied | `Match` or `Literal` |
//! | `Copy` | whether one unit is as expected | `Copy`, `Byte` or `Next` |
//! | `Byte` | one byte of a unit that is not | `Byte` or `Copy` |
//! | `Tail` | nothing is coded: the digest at the end of an ESP image | `Done` |
//!
//! A step takes at most [`crate::coder::STEP_INPUT_BYTES_MAX`] bytes of the patch and reads at most
//! a few hundred bytes of the images. No step leaves everything as it was, so the number of steps
//! is bounded by the length of the new image.

mod literals;

use sha2::{Digest, Sha256};

use crate::{
    CHUNK_BYTES, Images,
    blocks::{Block, Blocks},
    coder::{GapOp, Part, STEP_INPUT_BYTES_MAX, Side, Start},
    follow::Follow,
    layout::{Instructions, Layout, SEGMENTS_MAX, Segment, Target},
    literal::Literal,
    model::{Expected, FLAG_ALL_LITERAL, FLAG_DIGEST, FLAG_GP, Model, Number, UnitIs},
    plan::Profile,
    predict::{Predictor, mapped},
    refs::{self, Kind, UNIT_BYTES_MAX, Unit, Walk},
    window::Window,
};

/// `Block` makes the most decisions of all steps: three numbers, each of at most 27 flags, two
/// predicted bits and 24 raw ones. A decision takes at most two bytes, a raw one an eighth.
const _: () = assert!(3 * (2 * (27 + 2) + 4) <= STEP_INPUT_BYTES_MAX);

/// How far before a copy the walk starts, so that it is in step when the copy does.
const SYNC_BYTES: u32 = 48;
const DIGEST_BYTES: u32 = 32;
/// A chunk and the end of a unit, or of the digest, that does not fit into it.
const BUFFER_BYTES: usize = CHUNK_BYTES + DIGEST_BYTES as usize;
const _: () = assert!(UNIT_BYTES_MAX <= DIGEST_BYTES as usize);
/// Bytes of a match that one step copies.
const MATCH_STEP_BYTES: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Start,
    Segment(usize),
    Block(usize),
    Next,
    Gap,
    Literal,
    Match,
    Copy,
    Byte(usize),
    Tail,
    Done,
}

/// What a step has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    More,
    /// A chunk is complete: take it and call [`Machine::next_chunk`].
    Chunk,
    /// The image is complete; the last chunk is in the buffer.
    Done,
}

/// Why a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault<E> {
    /// The patch says something that cannot be.
    Damaged(&'static str),
    Read(E),
}

/// Everything that decoding needs. The parameters are those of a [`Profile`].
pub(crate) struct Machine<const SLOTS: usize, const BLOCKS: usize, const PAGES: usize> {
    profile: Profile,
    old_bytes: u32,
    new_bytes: u32,
    /// Bytes that are coded; the rest is a digest that is computed.
    coded_bytes: u32,
    at: At,
    starts: Start,
    old_layout: Layout,
    new_layout: Layout,
    model: Model<SLOTS>,
    predictor: Predictor<PAGES>,
    blocks: Blocks<BLOCKS>,
    next_block: usize,
    /// End of the last copy, in the old image.
    old_cursor: u32,
    literal: Literal,
    follow: Follow,
    literal_end: u32,
    /// What is copied after the literals: from, and up to where, in the old image.
    copy_at: u32,
    copy_end: u32,
    /// Where the walk is in step.
    synced_at: u32,
    walk: Walk,
    expected: Expected,
    /// Address of the unit in the new image, and what the blocks say of its target.
    unit_pc: Option<u32>,
    unit_mapped: Option<(u32, bool)>,
    unit_missed: bool,
    window: Window,
    buffer: [u8; BUFFER_BYTES],
    buffered: usize,
    /// Offset in the new image of the buffer's start.
    chunk_at: u32,
    sha256: Option<Sha256>,
    hashed: usize,
}

impl<const SLOTS: usize, const BLOCKS: usize, const PAGES: usize> Machine<SLOTS, BLOCKS, PAGES> {
    /// A machine that [`Machine::reset`] makes ready.
    pub const fn new() -> Self {
        Self {
            profile: Profile::Small,
            old_bytes: 0,
            new_bytes: 0,
            coded_bytes: 0,
            at: At::Done,
            starts: Start::NOTHING,
            old_layout: Layout::empty(),
            new_layout: Layout::empty(),
            model: Model::new(),
            predictor: Predictor::new(),
            blocks: Blocks::new(),
            next_block: 0,
            old_cursor: 0,
            literal: Literal::new(),
            follow: Follow::new(),
            literal_end: 0,
            copy_at: 0,
            copy_end: 0,
            synced_at: 0,
            walk: Walk::new(0),
            expected: Expected::nothing(),
            unit_pc: None,
            unit_mapped: None,
            unit_missed: false,
            window: Window::new(),
            buffer: [0; BUFFER_BYTES],
            buffered: 0,
            chunk_at: 0,
            sha256: None,
            hashed: 0,
        }
    }

    /// Starts anew, in place: a copy of the whole would not fit a small stack.
    pub fn reset(&mut self, profile: Profile, old_bytes: u32, new_bytes: u32) {
        self.profile = profile;
        (self.old_bytes, self.new_bytes) = (old_bytes, new_bytes);
        self.coded_bytes = new_bytes;
        self.at = At::Start;
        self.model.reset(profile.plan());
        self.predictor.reset(profile.pages());
        self.blocks.clear();
        (self.next_block, self.old_cursor) = (0, 0);
        self.literal = Literal::new();
        self.follow = Follow::new();
        (self.literal_end, self.copy_at, self.copy_end) = (0, 0, 0);
        self.window.forget();
        (self.buffered, self.chunk_at, self.hashed) = (0, 0, 0);
        self.sha256 = None;
    }

    /// The chunk that is complete, and its offset in the new image.
    pub fn chunk(&self) -> (u32, &[u8]) {
        let bytes = self.buffered.min(CHUNK_BYTES);
        (self.chunk_at, &self.buffer[..bytes])
    }

    /// The chunk was taken: what is beyond it starts the next one.
    pub fn next_chunk(&mut self) {
        self.hash();
        let taken = self.buffered.min(CHUNK_BYTES);
        self.buffer.copy_within(taken..self.buffered, 0);
        self.buffered -= taken;
        self.hashed -= taken;
        self.chunk_at += taken as u32;
    }

    /// SHA-256 of all that was made so far.
    pub fn sha256(&mut self) -> [u8; 32] {
        self.hash();
        let sha256 = self.sha256.get_or_insert_default();
        sha256.clone().finalize().into()
    }

    fn hash(&mut self) {
        let sha256 = self.sha256.get_or_insert_default();
        sha256.update(&self.buffer[self.hashed..self.buffered]);
        self.hashed = self.buffered;
    }

    /// The segments of the new image, as far as they are known.
    #[cfg(feature = "encode")]
    pub fn new_segments(&self) -> &[Segment] {
        self.new_layout.segments()
    }

    /// How many blocks the patch lists.
    #[cfg(feature = "encode")]
    pub fn block_count(&self) -> usize {
        self.starts.blocks as usize
    }

    /// Offset in the new image of the next byte.
    pub fn new_at(&self) -> u32 {
        self.chunk_at + self.buffered as u32
    }

    /// One step.
    pub fn step<S: Side, I: Images>(
        &mut self,
        side: &mut S,
        images: &mut I,
    ) -> Result<Progress, Fault<I::Error>> {
        match self.at {
            At::Start => self.start(side, images)?,
            At::Segment(index) => self.segment(side, index)?,
            At::Block(index) => self.block(side, index)?,
            At::Next => self.next(),
            At::Gap => self.gap(side)?,
            At::Literal => self.literal(side, images)?,
            At::Match => self.match_bytes(images)?,
            At::Copy => self.unit(side, images)?,
            At::Byte(index) => self.unit_byte(side, index),
            At::Tail => self.tail(),
            At::Done => return Ok(Progress::Done),
        }
        Ok(match self.buffered {
            CHUNK_BYTES.. => Progress::Chunk,
            _ => Progress::More,
        })
    }

    fn start<S: Side, I: Images>(
        &mut self,
        side: &mut S,
        images: &mut I,
    ) -> Result<(), Fault<I::Error>> {
        side.part(Part::Layout, 0);
        let wish = side.start();
        let number = Model::<SLOTS>::raw(side, 8, u32::from(wish.target)) as u8;
        let target = Target::of(number);
        let base = match target.is_flat() {
            true => Model::<SLOTS>::raw(side, 32, wish.base),
            false => 0,
        };
        let mut word = |offset| {
            let mut bytes = [0; 4];
            images.read_old(offset, &mut bytes)?;
            Ok(u32::from_le_bytes(bytes))
        };
        let old_layout = Layout::read(target, base, self.old_bytes, &mut word);
        self.old_layout = old_layout.map_err(Fault::Read)?;
        self.new_layout = Layout::of(target);
        if target.instructions == Instructions::RiscV
            && self.model.flag(side, FLAG_GP, wish.gp[0] != 0)
        {
            let first = target.ram.0;
            let gp = Model::<SLOTS>::raw(side, 20, wish.gp[0].wrapping_sub(first));
            self.old_layout.gp = first.wrapping_add(gp);
            let moved = wish.gp[1].wrapping_sub(wish.gp[0]) as i32;
            let moved = self.model.signed(side, Number::Segment, moved);
            self.new_layout.gp = self.old_layout.gp.wrapping_add(moved as u32);
        }
        let segments = self.model.number(side, Number::Segment, wish.segments);
        if segments as usize > SEGMENTS_MAX {
            return Err(Fault::Damaged(
                "it has more segments than an image can have",
            ));
        }
        let blocks = self.model.number(side, Number::Blocks, wish.blocks);
        if blocks as usize > self.profile.blocks_max().min(BLOCKS) {
            return Err(Fault::Damaged("it has more blocks than its profile allows"));
        }
        let has_digest = self.model.flag(side, FLAG_DIGEST, wish.has_digest);
        if has_digest {
            let coded_bytes = self.new_bytes.checked_sub(DIGEST_BYTES);
            self.coded_bytes = coded_bytes.ok_or(Fault::Damaged("the image has no digest"))?;
        }
        self.starts = Start {
            segments,
            blocks,
            ..wish
        };
        self.at = At::Segment(0);
        Ok(())
    }

    /// A segment of the new image, as its difference to the same one of the old image.
    fn segment<E>(&mut self, side: &mut impl Side, index: usize) -> Result<(), Fault<E>> {
        if index >= self.starts.segments as usize {
            self.at = At::Block(0);
            return Ok(());
        }
        let wish = side.segment(index);
        let nothing = Segment::default();
        let old = self.old_layout.segments();
        let same = old.get(index).unwrap_or(&nothing);
        let end_of = |segments: &[Segment]| {
            let before = index.checked_sub(1).and_then(|index| segments.get(index));
            before.map_or(0, |it| it.offset.wrapping_add(it.bytes))
        };
        let old_gap = same.offset.wrapping_sub(end_of(old));
        let new_end = end_of(self.new_layout.segments());
        let expected = [new_end.wrapping_add(old_gap), same.address, same.bytes];
        let wishes = [wish.offset, wish.address, wish.bytes];
        let whats = [Number::Segment, Number::Segment, Number::SegmentBytes];
        let mut found = [0_u32; 3];
        for index in 0..3 {
            let difference = wishes[index].wrapping_sub(expected[index]) as i32;
            // An address can be anywhere: far ones are not worth more than a bad prediction.
            let difference = self.model.signed(side, whats[index], difference);
            found[index] = expected[index].wrapping_add(difference as u32);
        }
        let [offset, address, bytes] = found;
        self.new_layout.push(Segment {
            offset,
            bytes,
            address,
        });
        self.at = At::Segment(index + 1);
        Ok(())
    }

    fn block<E>(&mut self, side: &mut impl Side, index: usize) -> Result<(), Fault<E>> {
        if index >= self.starts.blocks as usize {
            self.at = At::Next;
            return Ok(());
        }
        side.part(Part::Operations, 0);
        let wish = side.block(index);
        let before = match index.checked_sub(1) {
            Some(index) => self.blocks.get(index).unwrap_or_default(),
            None => Block::default(),
        };
        let new_end = before.new_offset + before.bytes;
        let old_end = before.old_offset + before.bytes;
        let gap = wish.new_offset.wrapping_sub(new_end);
        let gap = self.model.number(side, Number::BlockGap, gap);
        let what = match gap {
            0 => Number::BlockBytesAgain,
            _ => Number::BlockBytes,
        };
        let bytes = self.model.number(side, what, wish.bytes);
        let what = match gap {
            0 => Number::BlockShiftAgain,
            _ => Number::BlockShift,
        };
        let expected = old_end.wrapping_add(gap);
        let shift = wish.old_offset.wrapping_sub(expected) as i32;
        let shift = self.model.signed(side, what, shift);
        let block = Block {
            new_offset: new_end + gap,
            old_offset: expected.wrapping_add(shift as u32),
            bytes,
        };
        let fits = self.is_in_old(block.old_offset, bytes)
            && block.bytes > 0
            && block.new_offset + bytes <= self.coded_bytes;
        if !fits {
            return Err(Fault::Damaged("a block is outside of the images"));
        }
        self.blocks.push(block);
        self.at = At::Block(index + 1);
        Ok(())
    }

    /// Numbers are below 2^27, so that no sum of three overflows.
    fn is_in_old(&self, offset: u32, bytes: u32) -> bool {
        let end = offset.checked_add(bytes);
        end.is_some_and(|end| end <= self.old_bytes)
    }

    fn next(&mut self) {
        let at = self.new_at();
        let due = self.blocks.get(self.next_block);
        match due {
            _ if at >= self.coded_bytes => self.at = At::Tail,
            Some(block) if block.new_offset == at => {
                self.next_block += 1;
                self.literal_end = at;
                self.copy_at = block.old_offset;
                self.copy_end = block.old_offset + block.bytes;
                self.at = At::Literal;
            }
            _ => self.at = At::Gap,
        }
    }

    fn gap<E>(&mut self, side: &mut impl Side) -> Result<(), Fault<E>> {
        let at = self.new_at();
        side.part(Part::Operations, at);
        let due = self.blocks.get(self.next_block);
        let left = due.map_or(self.coded_bytes, |block| block.new_offset) - at;
        let wish = side.gap_op(at);
        let has_old = self.old_bytes > 0;
        let all_literal = !has_old || self.model.flag(side, FLAG_ALL_LITERAL, wish.all_literal);
        let op = match all_literal {
            true => GapOp {
                literal_bytes: left,
                old_offset: self.old_cursor,
                ..GapOp::default()
            },
            false => self.gap_op(side, wish),
        };
        let bytes = op.literal_bytes + op.copy_bytes;
        if bytes == 0 || bytes > left || !self.is_in_old(op.old_offset, op.copy_bytes) {
            return Err(Fault::Damaged("a copy is outside of the images"));
        }
        self.literal_end = at + op.literal_bytes;
        (self.copy_at, self.copy_end) = (op.old_offset, op.old_offset + op.copy_bytes);
        self.at = At::Literal;
        if op.literal_bytes > 0 {
            self.start_literals(at);
        }
        Ok(())
    }

    fn gap_op(&mut self, side: &mut impl Side, wish: GapOp) -> GapOp {
        let literal_bytes = self
            .model
            .number(side, Number::GapLiteral, wish.literal_bytes);
        let copy_bytes = self.model.number(side, Number::GapCopy, wish.copy_bytes);
        let expected = self.old_cursor.wrapping_add(literal_bytes);
        let shift = wish.old_offset.wrapping_sub(expected) as i32;
        let shift = self.model.signed(side, Number::GapShift, shift);
        GapOp {
            all_literal: false,
            literal_bytes,
            copy_bytes,
            old_offset: expected.wrapping_add(shift as u32),
        }
    }

    fn start_copy<I: Images>(&mut self, images: &mut I) -> Result<(), Fault<I::Error>> {
        self.at = At::Copy;
        self.walk = Walk::new(self.old_layout.gp);
        self.synced_at = self.copy_at;
        if self.copy_at == self.copy_end {
            return Ok(());
        }
        let start_of = |it: &&Segment| self.copy_at.wrapping_sub(it.offset) < it.bytes;
        let Some(segment) = self.old_layout.segments().iter().find(start_of) else {
            return Ok(());
        };
        let mut at = (self.copy_at.saturating_sub(SYNC_BYTES) & !3).max(segment.offset);
        while at < self.copy_at {
            let view = self
                .window
                .view(images, at, self.old_bytes)
                .map_err(Fault::Read)?;
            let unit = refs::unit(&self.old_layout, view, at, &mut self.walk);
            at += u32::from(unit.bytes);
        }
        self.synced_at = at;
        Ok(())
    }

    /// One unit of a copy.
    fn unit<S: Side, I: Images>(
        &mut self,
        side: &mut S,
        images: &mut I,
    ) -> Result<(), Fault<I::Error>> {
        if self.copy_at >= self.copy_end {
            self.old_cursor = self.copy_end;
            self.at = At::Next;
            return Ok(());
        }
        self.expect(images)?;
        let at = self.new_at();
        let unit = self.expected.unit;
        let bytes = usize::from(unit.bytes);
        side.part(Part::Unit(unit.kind as u8), at);
        let wanted = match S::KNOWS {
            true => [&self.expected.new, &self.expected.old].map(|expected| {
                let mut bytes = expected[..bytes].iter().zip(at..);
                bytes.all(|(byte, at)| side.byte(at) == *byte)
            }),
            false => [false; 2],
        };
        match self.model.unit(side, &self.expected, wanted) {
            UnitIs::Expected => self.unit_done(),
            UnitIs::Old => {
                self.expected.new = self.expected.old;
                self.unit_done();
            }
            UnitIs::Other => {
                self.unit_missed = false;
                self.at = At::Byte(0);
            }
        }
        Ok(())
    }

    fn unit_byte(&mut self, side: &mut impl Side, index: usize) {
        let wish = side.byte(self.new_at() + index as u32);
        let missed = self.unit_missed;
        let byte = self
            .model
            .unit_byte(side, &self.expected, index, missed, wish);
        self.unit_missed |= byte != self.expected.new[index];
        self.expected.new[index] = byte;
        self.at = At::Byte(index + 1);
        if index + 1 >= usize::from(self.expected.unit.bytes) {
            self.model.missed();
            self.at = At::Copy;
            self.unit_done();
        }
    }

    /// Finds the next unit, and what it should be in the new image.
    fn expect<I: Images>(&mut self, images: &mut I) -> Result<(), Fault<I::Error>> {
        let at = self.copy_at;
        let view = self
            .window
            .view(images, at, self.copy_end)
            .map_err(Fault::Read)?;
        let unit = match self.synced_at.checked_sub(at) {
            Some(plain @ 1..) => Unit::plain((plain as usize).min(view.len()).min(UNIT_BYTES_MAX)),
            _ => refs::unit(&self.old_layout, view, at, &mut self.walk),
        };
        let bytes = usize::from(unit.bytes);
        self.expected.old[..bytes].copy_from_slice(&view[..bytes]);
        self.expected.new[..bytes].copy_from_slice(&view[..bytes]);
        self.expected.unit = unit;
        self.expected.source = crate::model::Source::Unchanged;
        (self.expected.place, self.expected.differs) = (0, false);
        self.unit_pc = None;
        if unit.kind == Kind::None {
            self.expect_header(at, bytes);
            return Ok(());
        }
        self.unit_pc = self.new_layout.address_near(self.new_at());
        if let Some(pc) = self.unit_pc {
            let (old, new) = (&self.old_layout, &self.new_layout);
            self.unit_mapped = mapped(&self.blocks, old, new, unit.target);
            let (target, source) = self.predictor.target(unit.target, self.unit_mapped);
            self.expected.source = source;
            let place = old.segment_of_offset(at) << 4 | old.segment_of_address(unit.target);
            self.expected.place = place << 2 | unit.target & 3;
            refs::write(&mut self.expected.new[..bytes], &unit, pc, target, new);
            self.expected.differs = self.expected.new[..bytes] != self.expected.old[..bytes];
        }
        Ok(())
    }

    /// The headers of the segments are in the patch already.
    fn expect_header(&mut self, old_at: u32, bytes: usize) {
        if self.old_layout.segments().is_empty() || self.old_layout.address(old_at).is_some() {
            return;
        }
        let at = self.new_at();
        for segment in self.new_layout.segments() {
            let header = [segment.address.to_le_bytes(), segment.bytes.to_le_bytes()];
            for (index, byte) in header.as_flattened().iter().enumerate() {
                let offset = segment.offset.wrapping_sub(8).wrapping_add(index as u32);
                let place = offset.wrapping_sub(at) as usize;
                if place < bytes {
                    self.expected.new[place] = *byte;
                    self.expected.differs |= *byte != self.expected.old[place];
                }
            }
        }
    }

    /// The unit is known: learns from it and goes on.
    fn unit_done(&mut self) {
        let unit = self.expected.unit;
        let bytes = usize::from(unit.bytes);
        let (new, old) = (&self.expected.new[..bytes], &self.expected.old[..bytes]);
        let pc = self.unit_pc.filter(|_| unit.kind != Kind::Low);
        let found = pc.and_then(|pc| refs::read(new, &unit, pc, old, &self.new_layout));
        if let Some(found) = found {
            self.predictor.learn(unit.target, found, self.unit_mapped);
        }
        let new_at = self.chunk_at + self.buffered as u32;
        let layout = &self.new_layout;
        self.follow.unit(layout, new_at, new, &unit, found);
        append(&mut self.buffer, &mut self.buffered, new);
        self.copy_at += u32::from(unit.bytes);
    }

    fn tail(&mut self) {
        if self.coded_bytes < self.new_bytes {
            let digest = self.sha256();
            self.emit(&digest);
            self.coded_bytes = self.new_bytes;
        }
        self.at = At::Done;
    }

    fn emit(&mut self, bytes: &[u8]) {
        for (byte, at) in bytes.iter().zip(self.new_at()..) {
            self.follow.byte(&self.new_layout, at, *byte);
        }
        self.model.saw(bytes);
        append(&mut self.buffer, &mut self.buffered, bytes);
    }
}

/// Appends to the buffer. There is room: a step makes no more than fits behind a chunk, and a full
/// chunk is taken before the next step.
fn append(buffer: &mut [u8; BUFFER_BYTES], buffered: &mut usize, bytes: &[u8]) {
    let end = *buffered + bytes.len();
    if let Some(room) = buffer.get_mut(*buffered..end) {
        room.copy_from_slice(bytes);
        *buffered = end;
    }
}
