//! Finds matches for literals in both images, and the cheapest way to use them.

use std::vec::Vec;

use super::matcher::common;
use crate::{coder::Token, model::MATCH_BYTES_MAX};

/// Candidates that are looked at for each byte.
const DEPTH: usize = 64;
/// The shortest match with a new distance.
const NEW_MATCH_MIN: usize = 3;
/// Up to this length, shorter uses of a match are tried as well.
const EVERY_LENGTH_MAX: usize = 512;
/// A literal region is parsed in parts of at most this many bytes, which bounds the memory.
pub(super) const PART_BYTES: usize = 1 << 16;
const NOBODY: u32 = u32::MAX;

/// Costs are in 1/16 of a bit.
/// What a literal costs besides its bits: that it is none of a match.
const LITERAL_COST: u32 = 8;
const REPEAT_COST: u32 = 56;
const NEW_COST: u32 = 40;

/// Where each four and each three bytes were seen, in the old image and the new one after it.
pub(super) struct Finder<'a> {
    old: &'a [u8],
    new: &'a [u8],
    by_4: Vec<u32>,
    by_3: Vec<u32>,
    before: Vec<u32>,
    inserted: usize,
}

impl<'a> Finder<'a> {
    pub fn new(old: &'a [u8], new: &'a [u8]) -> Self {
        Self {
            old,
            new,
            by_4: std::vec![NOBODY; 1 << 18],
            by_3: std::vec![NOBODY; 1 << 16],
            before: std::vec![NOBODY; old.len() + new.len()],
            inserted: 0,
        }
    }

    /// What follows a place: up to the end of its image.
    fn rest(&self, at: usize) -> &'a [u8] {
        match at.checked_sub(self.old.len()) {
            None => &self.old[at..],
            Some(at) => &self.new[at..],
        }
    }

    /// Bytes that are the same at two places; the earlier one may run from the old image into
    /// the new.
    fn common(&self, from: usize, at: usize, bytes_max: usize) -> usize {
        let wanted = self.rest(at);
        let wanted = &wanted[..wanted.len().min(bytes_max)];
        let first = self.rest(from);
        let same = common(first, wanted);
        if same == first.len() && from < self.old.len() {
            return same + common(self.new, &wanted[same..]);
        }
        same
    }

    fn insert_up_to(&mut self, end: usize) {
        while self.inserted < end {
            let at = self.inserted;
            self.inserted += 1;
            let Some(four) = self.rest(at).first_chunk::<4>() else {
                continue;
            };
            let place = hash_4(*four);
            self.before[at] = self.by_4[place];
            self.by_4[place] = at as u32;
            self.by_3[hash_3(*four)] = at as u32;
        }
    }

    /// Matches for what is at `at`, each longer than the one before: length and distance.
    fn find(&mut self, at: usize, bytes_max: usize, found: &mut Vec<(usize, usize)>) {
        found.clear();
        self.insert_up_to(at);
        let Some(four) = self.rest(at).first_chunk::<4>().copied() else {
            return;
        };
        let mut best = 2;
        let recent = self.by_3[hash_3(four)];
        if recent != NOBODY && bytes_max >= 3 {
            let bytes = self.common(recent as usize, at, bytes_max);
            if bytes > best {
                best = bytes;
                found.push((bytes, at - recent as usize));
            }
        }
        let mut from = self.by_4[hash_4(four)];
        for _ in 0..DEPTH {
            if from == NOBODY || best >= bytes_max || bytes_max < 4 {
                break;
            }
            let bytes = self.common(from as usize, at, bytes_max);
            if bytes > best {
                best = bytes;
                found.push((bytes, at - from as usize));
            }
            from = self.before[from as usize];
        }
    }
}

fn hash_4(bytes: [u8; 4]) -> usize {
    (u32::from_le_bytes(bytes).wrapping_mul(0x9E37_79B1) >> 14) as usize
}

fn hash_3(bytes: [u8; 4]) -> usize {
    let value = u32::from_le_bytes(bytes) & 0x00FF_FFFF;
    (value.wrapping_mul(0x9E37_79B1) >> 16) as usize
}

/// The tokens of the region that is being coded.
#[derive(Default)]
pub(super) struct Parse {
    /// Those that are left, the next one last.
    tokens: Vec<Token>,
}

impl Parse {
    /// Whether the tokens have to be found: [`Parse::find`].
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Finds the tokens from `at` on, as many bytes as there are costs of literals.
    pub fn find(&mut self, finder: &mut Finder, at: u32, repeat: u32, costs: &[u32]) {
        let at = finder.old.len() + at as usize;
        self.tokens = cheapest(finder, at, repeat as usize, costs);
    }

    /// The next token.
    pub fn next(&mut self) -> Token {
        self.tokens.pop().unwrap_or_default()
    }

    /// Takes the next `count` tokens if all of them are literals.
    pub fn take_literals(&mut self, count: usize) -> bool {
        let Some(left) = self.tokens.len().checked_sub(count) else {
            return false;
        };
        let all = self.tokens[left..].iter().all(|it| it.match_bytes == 0);
        if all {
            self.tokens.truncate(left);
        }
        all
    }
}

/// A way to a byte: what it costs and how its last token goes.
#[derive(Clone, Copy)]
struct Step {
    cost: u32,
    bytes: u32,
    distance: u32,
    /// The distance that is the last one there.
    repeat: u32,
}

/// The cheapest tokens from `at` on, the first one last. `costs` are those of the literals.
fn cheapest(finder: &mut Finder, at: usize, repeat: usize, costs: &[u32]) -> Vec<Token> {
    let bytes = costs.len();
    let nowhere = Step {
        cost: u32::MAX,
        bytes: 0,
        distance: 0,
        repeat: 0,
    };
    let mut steps = std::vec![nowhere; bytes + 1];
    (steps[0].cost, steps[0].repeat) = (0, repeat as u32);
    let mut found = Vec::new();
    for index in 0..bytes {
        let here = steps[index];
        let bytes_max = (bytes - index).min(MATCH_BYTES_MAX as usize);
        let literal = Step {
            cost: here.cost + costs[index] + LITERAL_COST,
            bytes: 1,
            distance: 0,
            repeat: here.repeat,
        };
        improve(&mut steps[index + 1], literal);
        let place = at + index;
        let repeat = here.repeat as usize;
        if repeat > 0 && repeat <= place {
            let same = finder.common(place - repeat, place, bytes_max);
            let cost = here.cost + REPEAT_COST;
            offer(&mut steps, index, 2..=same, repeat, cost);
        }
        finder.find(place, bytes_max, &mut found);
        let mut shortest = NEW_MATCH_MIN;
        for (longest, distance) in found.iter().copied() {
            let cost = here.cost + NEW_COST + distance_cost(distance);
            offer(&mut steps, index, shortest..=longest, distance, cost);
            shortest = shortest.max(longest + 1);
        }
    }
    trace(&steps)
}

fn offer(
    steps: &mut [Step],
    index: usize,
    lengths: core::ops::RangeInclusive<usize>,
    distance: usize,
    cost: u32,
) {
    let longest = *lengths.end();
    let every = *lengths.start()..=longest.min(EVERY_LENGTH_MAX);
    let whole = (longest > EVERY_LENGTH_MAX).then_some(longest);
    for bytes in every.chain(whole) {
        let step = Step {
            cost: cost + length_cost(bytes),
            bytes: bytes as u32,
            distance: distance as u32,
            repeat: distance as u32,
        };
        improve(&mut steps[index + bytes], step);
    }
}

fn improve(step: &mut Step, other: Step) {
    if other.cost < step.cost {
        *step = other;
    }
}

fn trace(steps: &[Step]) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = steps.len() - 1;
    while at > 0 {
        let step = steps[at];
        tokens.push(match step.distance {
            0 => Token::default(),
            distance => Token {
                match_bytes: step.bytes,
                distance,
            },
        });
        at -= step.bytes as usize;
    }
    tokens
}

fn length_cost(bytes: usize) -> u32 {
    16 + log2_16(bytes - 1) * 8 / 5
}

fn distance_cost(distance: usize) -> u32 {
    32 + log2_16(distance)
}

/// 16 × log2, with two bits behind the point.
fn log2_16(value: usize) -> u32 {
    let value = value.max(1) as u32;
    let bits = value.ilog2();
    let rest = if bits >= 2 {
        value >> (bits - 2) & 3
    } else {
        value << (2 - bits) & 3
    };
    bits * 16 + [0, 5, 9, 13][rest as usize]
}
