//! What literals will cost, before it is known which bytes are literals: by a model of its own,
//! which sees all bytes of the literal regions one by one.

use std::{boxed::Box, vec::Vec};

use super::{images::Pair, side::named};
use crate::{Profile, coder::Side, follow::Follow, model::Model, recent::Begun};

/// A call or load that is named costs about so much, in 1/16 of a bit.
const NAMED_COST: u32 = 80;

/// The model, and how far it has seen the new image.
pub(super) struct Literals {
    model: Box<Model<{ Profile::Default.slots() }>>,
    follow: Follow,
    at: u32,
}

impl Literals {
    pub fn new() -> Self {
        let mut model = Box::new(Model::new());
        model.reset(Profile::Default.plan());
        Self {
            model,
            follow: Follow::new(),
            at: 0,
        }
    }

    /// The cost of each byte of the new image from `start` to `end` as a literal, in 1/16 of a
    /// bit. Regions are asked for in order.
    pub fn costs(&mut self, pair: &Pair, start: u32, end: u32) -> Vec<u32> {
        for at in self.at..start {
            self.pass(pair, at);
        }
        self.at = end;
        let mut costs = Vec::with_capacity((end - start) as usize);
        let mut named_until = start;
        for at in start..end {
            let mut cost = Cost(0);
            let byte = pair.new[at as usize];
            self.model
                .literal(&mut cost, &self.follow.phase, None, byte);
            if at < named_until {
                costs.push(0);
            } else if let Some(more) = self.named(pair, at).filter(|more| at + more <= end) {
                costs.push(NAMED_COST);
                named_until = at + more;
            } else {
                costs.push(cost.0);
            }
            self.pass(pair, at);
        }
        costs
    }

    /// How many bytes from `at` on are named at once.
    fn named(&self, pair: &Pair, at: u32) -> Option<u32> {
        let layout = &pair.new_layout;
        let begun = Begun::of(&self.follow.phase, layout, layout.address(at)?)?;
        named(pair.new, &self.follow.recent, layout, &begun, at).map(|_| begun.more)
    }

    fn pass(&mut self, pair: &Pair, at: u32) {
        let byte = pair.new[at as usize];
        self.follow.byte(&pair.new_layout, at, byte);
        self.model.saw(&[byte]);
    }
}

/// Adds up what bits cost, in 1/16 of a bit.
struct Cost(u32);

impl Side for Cost {
    const KNOWS: bool = true;

    fn bit(&mut self, p: u32, wanted: bool) -> bool {
        let share = if wanted { p } else { 65_536 - p };
        self.0 += u32::from(COSTS[(share >> 6) as usize & 1023]);
        wanted
    }
}

/// Of a probability in 1/1024.
static COSTS: [u16; 1024] = costs();

/// -16 log2 of the middle of each step, in integers: the same on every machine.
const fn costs() -> [u16; 1024] {
    let mut table = [0; 1024];
    let mut index = 0;
    while index < 1024 {
        // The logarithm's bits behind the point, by squaring.
        let mut value = (index as u64 * 2 + 1) << 20; // in 1/2^31
        let mut log = 0_u16; // of 2^31 / value, in 1/32
        while value < 1 << 30 {
            value <<= 1;
            log += 32;
        }
        let mut bit = 16;
        while bit > 0 {
            // value is in 1/2 .. 1 of 2^31.
            value = (value * value) >> 31;
            if value < 1 << 30 {
                value <<= 1;
                log += bit;
            }
            bit /= 2;
        }
        table[index] = log.div_ceil(2);
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_costs_its_logarithm() {
        for (share, cost) in [
            (32_768, 16),
            (16_384, 32),
            (49_152, 7),
            (65_535, 0),
            (96, 150),
        ] {
            let mut sum = Cost(0);
            sum.bit(share, true);
            assert!(sum.0.abs_diff(cost) <= 1, "{share} costs {}", sum.0);
        }
    }
}
