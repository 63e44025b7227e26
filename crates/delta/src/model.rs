//! What each decision of the stream is predicted from: the contexts, and the memory that learns.
//!
//! All slots are in one array; a [`Plan`] says where the tables of a profile are in it. A context
//! is hashed into its table, and collisions are let be: the mixers learn whom to believe.

use crate::{
    coder::Side,
    mix::{Opinions, SLOT_NEW, Slot, learned},
    phase::Phase,
    plan::{Plan, Table, WEIGHTS},
    refs::{Kind, UNIT_BYTES_MAX, Unit},
};

/// The shortest match.
pub(crate) const MATCH_BYTES_MIN: u32 = 2;
/// The longest match: longer ones are several.
pub(crate) const MATCH_BYTES_MAX: u32 = 1 << 14;

/// Highest bit of a number, so that every number fits and every loop ends.
const NUMBER_BITS_MAX: u32 = 26;
const _: () = assert!(crate::IMAGE_BYTES_MAX.ilog2() + 2 <= NUMBER_BITS_MAX);

/// What a number counts; each has its own slots.
#[derive(Clone, Copy)]
pub(crate) enum Number {
    Segment,
    SegmentBytes,
    Blocks,
    BlockGap,
    BlockBytes,
    BlockBytesAgain,
    BlockShift,
    BlockShiftAgain,
    GapLiteral,
    GapCopy,
    GapShift,
    MatchBytes,
    MatchBytesAgain,
    CallPlace,
    LoadWords,
}

/// How many [`Number`]s there are.
pub(crate) const NUMBERS: usize = 15;
/// Slots of each.
pub(crate) const NUMBER_SLOTS: usize = 48;

/// Where a prediction came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Unchanged,
    Learned,
    Block,
    Between,
    Page,
    Region,
}

/// A unit, as it is in the old image and as it is expected in the new one.
pub(crate) struct Expected {
    pub unit: Unit,
    pub source: Source,
    /// Where the reference is and where it leads to.
    pub place: u32,
    /// Whether the new bytes are expected to be other than the old ones.
    pub differs: bool,
    pub old: [u8; UNIT_BYTES_MAX],
    pub new: [u8; UNIT_BYTES_MAX],
}

impl Expected {
    pub const fn nothing() -> Self {
        Self {
            unit: Unit::plain(1),
            source: Source::Unchanged,
            place: 0,
            differs: false,
            old: [0; UNIT_BYTES_MAX],
            new: [0; UNIT_BYTES_MAX],
        }
    }

    fn bytes(&self) -> usize {
        usize::from(self.unit.bytes)
    }
}

/// The learning memory and the recent past.
pub(crate) struct Model<const SLOTS: usize> {
    plan: &'static Plan,
    slots: [Slot; SLOTS],
    weights: [i32; WEIGHTS],
    /// Of the last units, whether they were not as expected; the last one lowest.
    misses: u32,
    /// Units since the last miss.
    run: u32,
    /// Of the last bytes of missed units, whether they were not as expected.
    byte_misses: u32,
    /// For each source, whether its last references were as expected.
    hits: [u8; 6],
    last_difference: u8,
    /// Of the last tokens, whether they were matches.
    matches: u32,
    last_1: u8,
    last_2: u8,
}

fn hash(a: u32, b: u32, salt: u32) -> u32 {
    let mut hash =
        a.wrapping_mul(0x9E37_79B1) ^ b.wrapping_mul(0x85EB_CA6B) ^ salt.wrapping_mul(0xC2B2_AE35);
    hash ^= hash >> 15;
    hash = hash.wrapping_mul(0x2C1B_3C6D);
    hash ^ (hash >> 13)
}

impl<const SLOTS: usize> Model<SLOTS> {
    pub const fn new() -> Self {
        let plan = crate::Profile::Small.plan();
        Self {
            plan,
            slots: [SLOT_NEW; SLOTS],
            weights: plan.weights(),
            misses: 0,
            run: 0,
            byte_misses: 0,
            hits: [0; 6],
            last_difference: 0,
            matches: 0,
            last_1: 0,
            last_2: 0,
        }
    }

    /// Starts anew with another plan, whose tables must fit.
    pub fn reset(&mut self, plan: &'static Plan) {
        debug_assert!(plan.slots() <= SLOTS);
        self.plan = plan;
        self.slots.fill(SLOT_NEW);
        self.weights = plan.weights();
        (self.misses, self.run, self.byte_misses) = (0, 0, 0);
        self.hits = [0; 6];
        (self.matches, self.last_difference) = (0, 0);
        (self.last_1, self.last_2) = (0, 0);
    }

    /// A bit with one context.
    fn plain(&mut self, side: &mut impl Side, at: usize, wanted: bool) -> bool {
        let Some(slot) = self.slots.get_mut(at) else {
            return false;
        };
        let bit = side.bit(u32::from(*slot | 15), wanted);
        *slot = learned(*slot, bit);
        bit
    }

    /// A bit with several contexts, one for each table.
    fn mixed<const N: usize>(
        &mut self,
        side: &mut impl Side,
        mixer: &Mixer<N>,
        contexts: [u32; N],
        set: u32,
        wanted: bool,
    ) -> bool {
        let mut places = [0; N];
        for ((place, table), context) in places.iter_mut().zip(mixer.tables).zip(contexts) {
            *place = table.place(context).min(SLOTS - 1);
        }
        let first = mixer.weights_at + (set & mixer.sets_mask) as usize * N;
        let rest = self.weights.get_mut(first..).unwrap_or_default();
        let Some(weights) = rest.first_chunk_mut::<N>() else {
            return false;
        };
        let opinions = Opinions::weigh(places.map(|place| self.slots[place]), weights);
        let bit = side.bit(opinions.p(), wanted);
        opinions.teach(weights, bit);
        for place in places {
            self.slots[place] = learned(self.slots[place], bit);
        }
        bit
    }

    /// A number from 0: the count of its bits in unary, then the bits, of which the highest two
    /// are predicted.
    pub fn number(&mut self, side: &mut impl Side, what: Number, wanted: u32) -> u32 {
        let first = self.plan.numbers_at + what as usize * NUMBER_SLOTS;
        let wanted = wanted.saturating_add(1);
        let mut bits = 0;
        while bits < NUMBER_BITS_MAX {
            let at = first + bits.min(31) as usize;
            if !self.plain(side, at, bits < wanted.ilog2()) {
                break;
            }
            bits += 1;
        }
        let mut number = 1_u32;
        for bit in (0..bits).rev() {
            let wish = wanted >> bit & 1 == 1;
            let depth = bits - 1 - bit;
            let found = match depth {
                0 | 1 => {
                    let at = 27 + bits.min(10) * 2 - 2 + depth;
                    self.plain(side, first + at as usize, wish)
                }
                _ => side.bit(1 << 15, wish),
            };
            number = number << 1 | u32::from(found);
        }
        number - 1
    }

    /// A number of either sign.
    pub fn signed(&mut self, side: &mut impl Side, what: Number, wanted: i32) -> i32 {
        let folded = (wanted << 1 ^ wanted >> 31) as u32;
        let folded = self.number(side, what, folded);
        (folded >> 1) as i32 ^ -((folded & 1) as i32)
    }

    /// A flag with one context of its own.
    pub fn flag(&mut self, side: &mut impl Side, which: usize, wanted: bool) -> bool {
        self.plain(side, self.plan.flags_at + which, wanted)
    }

    /// Bits that nothing is known of.
    pub fn raw(side: &mut impl Side, bits: u32, wanted: u32) -> u32 {
        (0..bits).rev().fold(0, |value, bit| {
            value << 1 | u32::from(side.bit(1 << 15, wanted >> bit & 1 == 1))
        })
    }

    /// Whether the unit is as expected; if not, whether it is as in the old image.
    pub fn unit(&mut self, side: &mut impl Side, it: &Expected, wanted: [bool; 2]) -> UnitIs {
        let (kind, source) = (it.unit.kind as u32, it.source as u32);
        let differs = it.differs;
        let which = (kind * 6 + source) * 2 + u32::from(differs);
        let recent = u32::from(self.hits[it.source as usize] & 3);
        let bytes = it.bytes();
        let near = |index: usize| u32::from(it.old[index.min(bytes - 1)]);
        let opcode = near(0) | near(1) << 8 | near(2) << 16;
        let run = (u32::BITS - self.run.leading_zeros()).min(11);
        let size = bytes.min(4) as u32 - 1;
        let contexts = [
            hash(which, self.misses & 15, 21),
            hash(opcode, bytes as u32, 11),
            near(0) | (self.misses & 3) << 8 | size << 10,
            (run * 16 + (which & 15)) * 8 + recent * 2 + (self.misses & 1),
            hash(it.place, which, 13),
        ];
        let set = (kind & 7) * 2 + u32::from(differs);
        let plan = self.plan;
        let hit = self.mixed(side, &plan.hit, contexts, set, wanted[0]);
        if differs || kind > 0 {
            let history = &mut self.hits[it.source as usize];
            *history = *history << 1 | u8::from(hit);
        }
        if hit {
            self.misses <<= 1;
            self.run = (self.run + 1).min(65_535);
            self.saw(&it.new[..bytes]);
            return UnitIs::Expected;
        }
        let contexts = [which & 255, hash(which, self.misses & 7, 5)];
        if differs && self.mixed(side, &plan.same, contexts, kind, wanted[1]) {
            self.missed();
            self.saw(&it.old[..bytes]);
            return UnitIs::Old;
        }
        UnitIs::Other
    }

    /// A unit was not as expected.
    pub fn missed(&mut self) {
        self.misses = self.misses << 1 | 1;
        self.run = 0;
    }

    /// One byte of a unit that is neither as expected nor as before. `missed` says whether an
    /// earlier byte of it differed: if none did, the last one must.
    pub fn unit_byte(
        &mut self,
        side: &mut impl Side,
        it: &Expected,
        index: usize,
        missed: bool,
        wanted: u8,
    ) -> u8 {
        let kind = it.unit.kind as u32;
        let expected = it.new[index.min(UNIT_BYTES_MAX - 1)];
        let position = index as u32;
        let must_differ = index + 1 == it.bytes() && !missed;
        let contexts = [
            (kind * 8 + position.min(7)) * 8 + ((self.byte_misses & 3) << 1 | u32::from(missed)),
            u32::from(expected) | (self.byte_misses & 7) << 8,
            hash(
                kind | position << 4,
                self.byte_misses & 15 | self.run.min(15) << 4,
                7,
            ),
        ];
        let plan = self.plan;
        let same = !must_differ && self.mixed(side, &plan.byte, contexts, kind, wanted == expected);
        self.byte_misses = self.byte_misses << 1 | u32::from(!same);
        if same {
            self.saw(&[expected]);
            return expected;
        }
        let difference = wanted.wrapping_sub(expected);
        let mut node = 1_u32;
        for bit in (0..8).rev() {
            let contexts = [
                node | (kind * 4 + position.min(3)) << 8,
                hash(node, u32::from(expected) | 0x100, 8),
                hash(node, u32::from(self.last_difference) | position << 8, 9),
            ];
            let wish = difference >> bit & 1 == 1;
            let found = self.mixed(side, &plan.difference, contexts, kind, wish);
            node = node << 1 | u32::from(found);
        }
        self.last_difference = node as u8;
        let byte = expected.wrapping_add(node as u8);
        self.saw(&[byte]);
        byte
    }

    /// Whether a match comes next.
    pub fn is_match(&mut self, side: &mut impl Side, wanted: bool) -> bool {
        let contexts = [
            self.matches & 63,
            hash(self.matches & 3, u32::from(self.last_1), 77),
        ];
        let plan = self.plan;
        let is_match = self.mixed(side, &plan.token, contexts, 0, wanted);
        self.matches = self.matches << 1 | u32::from(is_match);
        is_match
    }

    /// A literal byte. `guess` is the byte at the last distance, and whether a match ended just
    /// before, so that it is known to be wrong. The caller says [`Model::saw`].
    pub fn literal(
        &mut self,
        side: &mut impl Side,
        phase: &Phase,
        guess: Option<(u8, bool)>,
        wanted: u8,
    ) -> u8 {
        let turn = |byte: u8| match phase.starts_instruction() {
            true => byte.rotate_left(4),
            false => byte,
        };
        let guess = guess.map(|(byte, known_wrong)| (turn(byte), known_wrong));
        let wanted = turn(wanted);
        let (last_1, last_2) = (u32::from(self.last_1), u32::from(self.last_2));
        let (state, before) = (phase.state(), phase.before);
        let plan = self.plan;
        let mut agrees = guess.is_some();
        let mut node = 1_u32;
        for bit in (0..8).rev() {
            let guessed = match guess {
                Some((guess, known_wrong)) if agrees => {
                    hash(node, u32::from(guess) | u32::from(known_wrong) << 8, 4)
                }
                _ => hash(node, last_2, 5),
            };
            let contexts = [
                node | state << 8,
                hash(node, last_1, 1),
                hash(node, last_1 | last_2 << 8, 2),
                guessed,
                hash(node, phase.bytes | state << 24, 12 + (before & 15)),
                hash(node, before & 0xffff | state << 24, 9),
            ];
            let set = state << 1 | u32::from(agrees);
            let found = self.mixed(side, &plan.literal, contexts, set, wanted >> bit & 1 == 1);
            agrees &= guess.is_some_and(|(guess, _)| (guess >> bit & 1 == 1) == found);
            node = node << 1 | u32::from(found);
        }
        turn(node as u8)
    }

    /// Which of the last distances a match has; none of them is `None`.
    pub fn repeat(&mut self, side: &mut impl Side, wanted: Option<usize>) -> Option<usize> {
        let wanted = wanted.map_or(0, |index| index + 1);
        let first = (self.matches >> 1 & 1) as usize * 8;
        let mut found = 0;
        while found < crate::literal::REPEATS {
            if !self.flag(side, first + found, found < wanted) {
                break;
            }
            found += 1;
        }
        found.checked_sub(1)
    }

    /// The length of a match.
    pub fn match_bytes(&mut self, side: &mut impl Side, repeats: bool, wanted: u32) -> u32 {
        let what = match repeats {
            false => Number::MatchBytes,
            true => Number::MatchBytesAgain,
        };
        let wanted = wanted.saturating_sub(MATCH_BYTES_MIN);
        self.number(side, what, wanted) + MATCH_BYTES_MIN
    }

    /// A distance that was not among the last ones: the count of its bits, then the bits.
    pub fn distance(&mut self, side: &mut impl Side, match_bytes: u32, wanted: u32) -> u32 {
        let wanted = wanted.max(1);
        let size = match_bytes.min(6) - MATCH_BYTES_MIN.min(match_bytes);
        let plan = self.plan;
        let mut node = 1_u32;
        for bit in (0..5).rev() {
            let wish = wanted.ilog2() >> bit & 1 == 1;
            let contexts = [node | size << 5, node];
            let found = self.mixed(side, &plan.distance, contexts, 0, wish);
            node = node << 1 | u32::from(found);
        }
        let bits = (node & 31).min(NUMBER_BITS_MAX);
        let (mut distance, mut low) = (1_u32, 1_u32);
        for bit in (0..bits).rev() {
            let wish = wanted >> bit & 1 == 1;
            let found = if bit + 2 >= bits {
                let place = match bits - 1 - bit {
                    0 => 0,
                    _ => 1 + (distance & 1),
                };
                let contexts = [160 + (bits - 1) * 3 + place, 32 + bits];
                self.mixed(side, &plan.distance, contexts, 0, wish)
            } else if bit < 2 {
                let contexts = [240 + low, 60 + low];
                let found = self.mixed(side, &plan.distance, contexts, 0, wish);
                low = low << 1 | u32::from(found);
                found
            } else {
                side.bit(1 << 15, wish)
            };
            distance = distance << 1 | u32::from(found);
        }
        distance
    }

    /// These bytes of the new image are known now.
    pub fn saw(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().skip(bytes.len().saturating_sub(2)) {
            (self.last_2, self.last_1) = (self.last_1, *byte);
        }
    }
}

/// How a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnitIs {
    Expected,
    Old,
    Other,
}

/// Tables and weights of one kind of decision.
pub(crate) struct Mixer<const N: usize> {
    pub tables: [Table; N],
    pub weights_at: usize,
    /// Number of weight sets less one; a power of two less one.
    pub sets_mask: u32,
}

/// Any flag that needs but one slot.
pub(crate) const FLAGS: usize = 40;
/// Whether a gap between two blocks is nothing but literals.
pub(crate) const FLAG_ALL_LITERAL: usize = 16;
/// Whether there is a global pointer.
pub(crate) const FLAG_GP: usize = 17;
/// Whether the image ends with its own digest.
pub(crate) const FLAG_DIGEST: usize = 18;
/// Whether a call or load among literals is named: see [`crate::recent::Recent::flag`].
pub(crate) const FLAG_NAMED: usize = 24;

const _: () = assert!(Kind::COUNT <= 8);
