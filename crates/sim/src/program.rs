//! The code of a simulated firmware: no program, but bytes that look like one to whoever compares
//! two versions. Functions call each other and load addresses; a version differs from another in a
//! few functions, and everything behind those has moved.
//!
//! | part | made of |
//! |---|---|
//! | a pool | addresses of other functions, in front of the function that loads them |
//! | a function | short and long instructions from a small stock, calls, loads from the pool |
//! | an edit | some functions of a version have another end, longer or shorter |

use fota_image::app::Chip;

/// Functions in which a version differs from what all versions have in common.
const EDITS: u64 = 6;
/// Bytes left free for what edits add.
const SLACK_BYTES: usize = 2048;
/// Less than this is no room for a program.
pub const BYTES_MIN: usize = 16 * 1024;

/// Fills `code`, which lies at `address`, with the program of a version.
pub fn fill(chip: Chip, seed: u64, version: &str, address: u32, code: &mut [u8]) {
    let set = match chip {
        Chip::Esp32 | Chip::Esp32S2 | Chip::Esp32S3 => &XTENSA,
        _ => &RISC_V,
    };
    let functions = functions(set, seed, version, code.len() - SLACK_BYTES);
    let starts = starts(set, &functions, address);
    code.fill(0);
    for (function, start) in functions.iter().zip(&starts) {
        let mut bytes = Vec::new();
        function.write(set, *start, &starts, &mut bytes);
        let at = (*start - address) as usize - 4 * function.pool.len();
        let Some(room) = code.get_mut(at..) else {
            break;
        };
        let taken = room.len().min(bytes.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
    }
}

/// How a family of chips writes what a program does.
struct Set {
    /// The first and the last instruction of a function.
    ends: [&'static [u8]; 2],
    /// Common instructions, the most common first.
    stock: [&'static [u8]; 8],
    /// A call of `target` at `at`.
    call: fn(at: u32, target: u32) -> [u8; 4],
    /// A load of the word at `from`.
    load: fn(at: u32, from: u32) -> [u8; 4],
    /// Bytes of such a call or load.
    far_bytes: usize,
}

const XTENSA: Set = Set {
    ends: [&[0x36, 0x41, 0x00], &[0x1d, 0xf0]],
    stock: [
        &[0x0c, 0x0a],
        &[0x20, 0xa2, 0x20],
        &[0x88, 0x02],
        &[0x1b, 0xaa],
        &[0x22, 0xa0, 0x10],
        &[0x16, 0x8a, 0x00],
        &[0x99, 0x11],
        &[0x80, 0x88, 0x11],
    ],
    call: |at, target| {
        let offset = target.wrapping_sub((at & !3) + 4) >> 2;
        ((offset & 0x3_ffff) << 6 | 0x25).to_le_bytes()
    },
    load: |at, from| {
        let offset = from.wrapping_sub((at + 3) & !3) >> 2;
        ((offset & 0xffff) << 8 | 0xa1).to_le_bytes()
    },
    far_bytes: 3,
};

const RISC_V: Set = Set {
    ends: [
        &[0x41, 0x11, 0x06, 0xc6],
        &[0xb2, 0x40, 0x41, 0x01, 0x82, 0x80],
    ],
    stock: [
        &[0x01, 0x45],
        &[0x13, 0x05, 0x05, 0x01],
        &[0xaa, 0x85],
        &[0x05, 0x05],
        &[0x03, 0x25, 0x45, 0x00],
        &[0x63, 0x04, 0x05, 0x00],
        &[0x08, 0xc1],
        &[0xb3, 0x05, 0xb5, 0x00],
    ],
    // jal ra, target
    call: |at, target| {
        let offset = target.wrapping_sub(at);
        let bits = |from: u32, count: u32| (offset >> from) & ((1 << count) - 1);
        (bits(20, 1) << 31 | bits(1, 10) << 21 | bits(11, 1) << 20 | bits(12, 8) << 12 | 0xef)
            .to_le_bytes()
    },
    // lui a0, the page of the word
    load: |_, from| ((from & 0xffff_f000) | 0x537).to_le_bytes(),
    far_bytes: 4,
};

/// An instruction of a function.
#[derive(Clone, Copy)]
enum Step {
    Stock(usize),
    Call(usize),
    Load(usize),
}

struct Function {
    /// Functions whose addresses it loads.
    pool: Vec<usize>,
    steps: Vec<Step>,
}

impl Function {
    fn made(seed: u64, number: usize, of: usize) -> Self {
        let mut dice = Dice::new(&[seed, number as u64]);
        let pool: Vec<usize> = (0..dice.below(4)).map(|_| dice.below(of)).collect();
        let count = 8 + dice.below(60);
        let steps = (0..count).map(|_| dice.step(of, pool.len())).collect();
        Self { pool, steps }
    }

    /// Another end, longer or shorter.
    fn edited(mut self, dice: &mut Dice, of: usize) -> Self {
        self.steps
            .truncate(self.steps.len().saturating_sub(dice.below(6)));
        let more = dice.below(12);
        let pool = self.pool.len();
        self.steps.extend((0..more).map(|_| dice.step(of, pool)));
        self
    }

    fn bytes(&self, set: &Set) -> usize {
        let step = |step: &Step| match step {
            Step::Stock(index) => set.stock[*index].len(),
            Step::Call(_) | Step::Load(_) => set.far_bytes,
        };
        let steps: usize = self.steps.iter().map(step).sum();
        let ends: usize = set.ends.iter().map(|end| end.len()).sum();
        (4 * self.pool.len() + ends + steps).next_multiple_of(4)
    }

    fn write(&self, set: &Set, start: u32, starts: &[u32], bytes: &mut Vec<u8>) {
        let pool_bytes = 4 * self.pool.len() as u32;
        let pool = start - pool_bytes;
        for target in &self.pool {
            bytes.extend(starts[*target].to_le_bytes());
        }
        bytes.extend(set.ends[0]);
        for step in &self.steps {
            let at = pool + bytes.len() as u32;
            match step {
                Step::Stock(index) => bytes.extend(set.stock[*index]),
                Step::Call(target) => {
                    bytes.extend(&(set.call)(at, starts[*target])[..set.far_bytes]);
                }
                Step::Load(word) => {
                    let from = pool + 4 * *word as u32;
                    bytes.extend(&(set.load)(at, from)[..set.far_bytes]);
                }
            }
        }
        bytes.extend(set.ends[1]);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
}

/// The functions of a version; as many as all versions have.
fn functions(set: &Set, seed: u64, version: &str, room: usize) -> Vec<Function> {
    // Whom a function calls depends on how many there are: a guess that fits is good enough.
    let of = room / 100;
    let (mut functions, mut bytes) = (Vec::new(), 0);
    for number in 0..of {
        let function = Function::made(seed, number, of);
        bytes += function.bytes(set);
        functions.push(if bytes <= room {
            function
        } else {
            Function::empty()
        });
    }
    let mut dice = Dice::new(&[seed, text_number(version)]);
    for _ in 0..EDITS {
        let number = dice.below(of);
        let function = std::mem::replace(&mut functions[number], Function::empty());
        functions[number] = function.edited(&mut dice, of);
    }
    functions
}

impl Function {
    fn empty() -> Self {
        let (pool, steps) = (Vec::new(), Vec::new());
        Self { pool, steps }
    }
}

/// Where the functions begin, behind their pools.
fn starts(set: &Set, functions: &[Function], address: u32) -> Vec<u32> {
    let mut at = address;
    let start = |function: &Function| {
        let start = at + 4 * function.pool.len() as u32;
        at += function.bytes(set) as u32;
        start
    };
    functions.iter().map(start).collect()
}

fn text_number(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |number, byte| {
        (number ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn new(seeds: &[u64]) -> Self {
        let mix = |dice: Self, seed: &u64| {
            let mut dice = Self(dice.0 ^ seed);
            Self(dice.next())
        };
        seeds.iter().fold(Self(0xF07A_C0DE), mix)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        match limit {
            0 => 0,
            limit => (self.next() % limit as u64) as usize,
        }
    }

    fn step(&mut self, functions: usize, pool: usize) -> Step {
        match self.below(16) {
            0 | 1 => Step::Call(self.below(functions)),
            2 if pool > 0 => Step::Load(self.below(pool)),
            // The smaller of two: the first ones are the most common.
            _ => Step::Stock(self.below(8).min(self.below(8))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firmware::{self, Spec};
    use fota_delta::{Options, encode};

    fn image(chip: Chip, version: &str) -> Vec<u8> {
        let spec = Spec::new(version).image_bytes(400_000);
        firmware::image(&Spec { chip, ..spec }).expect("builds")
    }

    /// When this was written: 526 bytes for the ESP32 and 3,925 for the ESP32-C3, of 400,000.
    #[test]
    fn versions_share_most_of_their_code_although_little_stays_in_its_place() {
        for chip in [Chip::Esp32, Chip::Esp32C3] {
            let (old, new) = (image(chip, "1.0.5"), image(chip, "1.0.6"));
            assert_eq!(old, image(chip, "1.0.5"), "the same each time");
            let same = old.iter().zip(&new).filter(|(old, new)| old == new).count();
            assert!(same < 300_000, "{same} bytes are the same in place");
            let used = new.iter().filter(|byte| **byte != 0).count();
            assert!(used > 250_000, "only {used} bytes are used");
            let patch = encode(Some(&old), &new, &Options::default()).expect("encodes");
            let alone = encode(None, &new, &Options::default()).expect("encodes");
            let (patch, alone) = (patch.len(), alone.len());
            assert!(patch < alone / 20, "{patch} of {alone}");
        }
    }

    #[test]
    fn any_room_is_filled() {
        for bytes in [BYTES_MIN, BYTES_MIN + 4, 1_000_000] {
            let mut code = vec![0xff; bytes];
            fill(Chip::Esp32, 0, "1.0.5", 0x400d_0020, &mut code);
            assert!(code.iter().filter(|byte| **byte == 0xff).count() < bytes / 20);
        }
    }
}
