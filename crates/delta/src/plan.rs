//! The two memory profiles: how large each table is and where it lies.

use crate::model::{FLAGS, Mixer, NUMBER_SLOTS, NUMBERS};

/// How much memory a patch asks of its decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// At most 16 KB in all; patches are some per cent larger.
    Small,
    /// At most 32 KB in all.
    #[default]
    Default,
}

impl Profile {
    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Default),
            1 => Some(Self::Small),
            _ => None,
        }
    }

    #[cfg(feature = "encode")]
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Default => 0,
            Self::Small => 1,
        }
    }

    /// The most blocks that a patch lists.
    pub const fn blocks_max(self) -> usize {
        match self {
            Self::Default => 512,
            Self::Small => 76,
        }
    }

    /// Pages of addresses whose moves are remembered; a power of two.
    pub(crate) const fn pages(self) -> usize {
        match self {
            Self::Default => 256,
            Self::Small => 32,
        }
    }

    pub(crate) const fn plan(self) -> &'static Plan {
        match self {
            Self::Default => &DEFAULT,
            Self::Small => &SMALL,
        }
    }

    /// Slots of all tables together.
    pub(crate) const fn slots(self) -> usize {
        self.plan().slots
    }
}

/// A table: `mask + 1` slots from `at` on.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    at: u16,
    mask: u16,
}

impl Table {
    pub fn place(self, context: u32) -> usize {
        usize::from(self.at) + (context as usize & usize::from(self.mask))
    }
}

/// Where everything of a profile is.
pub(crate) struct Plan {
    pub hit: Mixer<5>,
    pub same: Mixer<2>,
    pub byte: Mixer<3>,
    pub difference: Mixer<3>,
    pub literal: Mixer<6>,
    pub token: Mixer<2>,
    pub distance: Mixer<2>,
    pub numbers_at: usize,
    pub flags_at: usize,
    slots: usize,
}

/// Weights of all mixers, in the order of [`Plan`].
pub(crate) const WEIGHTS: usize = 16 * 5 + 8 * 2 + 8 * 3 + 8 * 3 + 16 * 6 + 2 + 2;

static DEFAULT: Plan = Plan::new(
    [10, 8, 8, 8, 9],
    [7, 8],
    [9, 8, 8],
    [8, 8, 8],
    [10, 8, 8, 8, 8, 8],
    [6, 8],
    [8, 6],
);
static SMALL: Plan = Plan::new(
    [8, 7, 6, 7, 6],
    [6, 5],
    [7, 6, 6],
    [8, 6, 6],
    [7, 6, 6, 6, 6, 6],
    [5, 6],
    [8, 6],
);

impl Plan {
    /// Tables of 2^n slots each, one after the other.
    const fn new(
        hit: [u8; 5],
        same: [u8; 2],
        byte: [u8; 3],
        difference: [u8; 3],
        literal: [u8; 6],
        token: [u8; 2],
        distance: [u8; 2],
    ) -> Self {
        let mut lay = Lay {
            slots: 0,
            weights: 0,
        };
        let hit = lay.mixer(hit, 16);
        let same = lay.mixer(same, 8);
        let byte = lay.mixer(byte, 8);
        let difference = lay.mixer(difference, 8);
        let literal = lay.mixer(literal, 16);
        let token = lay.mixer(token, 1);
        let distance = lay.mixer(distance, 1);
        let numbers_at = lay.slots;
        let flags_at = numbers_at + NUMBERS * NUMBER_SLOTS;
        let slots = flags_at + FLAGS;
        assert!(lay.weights == WEIGHTS && slots <= u16::MAX as usize);
        Self {
            hit,
            same,
            byte,
            difference,
            literal,
            token,
            distance,
            numbers_at,
            flags_at,
            slots,
        }
    }

    pub const fn slots(&self) -> usize {
        self.slots
    }

    /// What each mixer starts with: the inputs alike, and a little more than their mean.
    pub const fn weights(&self) -> [i32; WEIGHTS] {
        let mut weights = [(1 << 16) * 2 / 5; WEIGHTS];
        let pairs = [
            self.same.weights_at,
            self.token.weights_at,
            self.distance.weights_at,
        ];
        let counts = [16, 2, 2];
        let mut pair = 0;
        while pair < pairs.len() {
            let mut at = 0;
            while at < counts[pair] {
                weights[pairs[pair] + at] = 1 << 15;
                at += 1;
            }
            pair += 1;
        }
        weights
    }
}

struct Lay {
    slots: usize,
    weights: usize,
}

impl Lay {
    const fn mixer<const N: usize>(&mut self, sizes: [u8; N], sets: u32) -> Mixer<N> {
        let mut tables = [Table { at: 0, mask: 0 }; N];
        let mut index = 0;
        while index < N {
            let size = 1 << sizes[index];
            tables[index] = Table {
                at: self.slots as u16,
                mask: (size - 1) as u16,
            };
            self.slots += size;
            index += 1;
        }
        let weights_at = self.weights;
        self.weights += N * sets as usize;
        Mixer {
            tables,
            weights_at,
            sets_mask: sets - 1,
        }
    }
}
