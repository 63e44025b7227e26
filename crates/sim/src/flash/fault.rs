//! What a power cut leaves behind.

/// How far the operation came that was running when the power failed.
///
/// No data sheet promises more than that other pages stay as they were, so every model is an
/// assumption; a test should try several. The random ones give the same result for the same seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tear {
    /// Nothing happened yet.
    Before,
    /// It was complete.
    After,
    /// The first bytes are done, the rest is as before.
    Prefix(usize),
    /// Each bit is done or not.
    Random(u64),
    /// Each byte is done or not.
    RandomBytes(u64),
    /// Each 32-bit word is done or not.
    RandomWords(u64),
}

impl Tear {
    /// Turns `bytes`, which hold what was there, into what is there after the cut of an operation
    /// that was to make them `target`.
    pub(super) fn apply(self, bytes: &mut [u8], target: &[u8]) {
        match self {
            Tear::Before => {}
            Tear::After => bytes.copy_from_slice(target),
            Tear::Prefix(len) => {
                let len = len.min(bytes.len());
                bytes[..len].copy_from_slice(&target[..len]);
            }
            Tear::Random(seed) => {
                let mut dice = Dice(seed);
                mix(bytes, target, || dice.next() as u8);
            }
            Tear::RandomBytes(seed) => {
                let mut dice = Dice(seed);
                mix(bytes, target, || dice.all_or_nothing());
            }
            Tear::RandomWords(seed) => {
                let mut dice = Dice(seed);
                for (bytes, target) in bytes.chunks_mut(4).zip(target.chunks(4)) {
                    let done = dice.all_or_nothing();
                    mix(bytes, target, || done);
                }
            }
        }
    }
}

/// Takes from `target` the bits that `done` gives for each byte.
fn mix(bytes: &mut [u8], target: &[u8], mut done: impl FnMut() -> u8) {
    for (byte, target) in bytes.iter_mut().zip(target) {
        let done = done();
        *byte = (*byte & !done) | (target & done);
    }
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    fn all_or_nothing(&mut self) -> u8 {
        match self.next() % 2 {
            0 => 0,
            _ => 0xFF,
        }
    }
}
