//! Probabilities in integers: slots that learn, and mixers that weigh what several slots say.
//!
//! A *slot* is a 12-bit probability with a 4-bit count of how often it was asked, so it learns
//! quickly at first and slowly later. A mixer adds the slots' opinions in the logistic domain
//! ([`stretch`]), each with a weight that learns too, and [`squash`] makes a 16-bit probability of
//! the sum. Nothing here may depend on the machine: both sides must compute the same bits.

/// 12 bits of probability that the bit is 1, 4 bits of count.
pub type Slot = u16;

/// A slot that has seen nothing.
pub const SLOT_NEW: Slot = 0x8000;

/// The most opinions that a mixer weighs.
pub const INPUTS_MAX: usize = 6;

/// From here on a slot that was asked often learns nothing from a 1, and down from here from a 0.
const SURE: Slot = 4087 << 4 | 15;
const SURE_NOT: Slot = 8 << 4 | 15;

/// One over (count + 1.6), in 1/65536.
const RATE: [i32; 16] = [
    40960, 25206, 18204, 14246, 11702, 9929, 8623, 7620, 6826, 6182, 5649, 5201, 4818, 4488, 4201,
    3947,
];

/// `65536 / (1 + exp(-x / 4))` for x = 0 … 45, rounded, at most 65535.
const SIGMOID: [u16; 46] = [
    32768, 36843, 40793, 44511, 47911, 50941, 53581, 55834, 57724, 59287, 60565, 61598, 62428,
    63090, 63615, 64030, 64357, 64614, 64816, 64974, 65097, 65194, 65269, 65328, 65374, 65410,
    65438, 65459, 65476, 65489, 65500, 65508, 65514, 65519, 65523, 65526, 65528, 65530, 65531,
    65532, 65533, 65534, 65534, 65535, 65535, 65535,
];

/// Opinions are clamped to ±8, in 1/256.
const STRETCH_MAX: i32 = 2047;
/// Weights are clamped to ±2.67 in 1/65536, so that six products of 11 bits fit 32.
const WEIGHT_MAX: i32 = 174_800;

/// How quickly weights learn, in 1/1024.
const RATE_OF_WEIGHTS: i32 = 12;
/// A smaller error, in 1/65536, teaches the weights nothing.
const ERROR_MIN: i32 = 32;

const _: () = assert!((WEIGHT_MAX as i64) * (STRETCH_MAX as i64) * 6 < i32::MAX as i64);

/// The logistic function: `x` in 1/256 gives a probability in 1/65536, from 1 to 65535.
pub const fn squash(x: i32) -> u32 {
    let size = x.unsigned_abs();
    let (knot, part) = ((size >> 6) as usize, size & 63);
    let p = if knot >= 44 {
        65_535
    } else {
        let (low, high) = (SIGMOID[knot] as u32, SIGMOID[knot + 1] as u32);
        low + (((high - low) * part) >> 6)
    };
    if x < 0 { 65_536 - p } else { p }
}

/// The inverse of [`squash`] for a 12-bit probability: the smallest `x` that reaches it.
static STRETCH: [i16; 4096] = stretch_table();

const fn stretch_table() -> [i16; 4096] {
    let mut table = [0; 4096];
    let (mut x, mut p) = (-STRETCH_MAX, 0);
    while p < 4096 {
        while x < STRETCH_MAX && squash(x) < ((p as u32) << 4 | 8) {
            x += 1;
        }
        table[p] = x as i16;
        p += 1;
    }
    table
}

/// What a slot says, in the logistic domain.
pub fn stretch(slot: Slot) -> i32 {
    i32::from(STRETCH[usize::from(slot >> 4)])
}

/// The slot after it has seen `bit`.
pub fn learned(slot: Slot, bit: bool) -> Slot {
    // Most slots are as sure as they can be: they would stay as they are.
    let is_sure = slot & 15 == 15 && if bit { slot >= SURE } else { slot <= SURE_NOT };
    if is_sure {
        return slot;
    }
    let (p, count) = (i32::from(slot >> 4), slot & 15);
    let wanted = if bit { 4095 } else { 0 };
    let step = (wanted - p) * RATE[usize::from(count)];
    // To the nearest: a slot stops 8 or so before the ends. What is surer than that comes from
    // the weights; steps that reach the ends were measured to cost a little.
    let step = if step >= 0 {
        (step + 32_768) >> 16
    } else {
        -((32_768 - step) >> 16)
    };
    ((p + step).clamp(1, 4094) as u16) << 4 | (count + 1).min(15)
}

/// The opinions on one bit and their weighted sum.
pub struct Opinions<const N: usize> {
    stretched: [i32; N],
    p: u32,
}

impl<const N: usize> Opinions<N> {
    /// Weighs what the slots say.
    pub fn weigh(slots: [Slot; N], weights: &[i32; N]) -> Self {
        const { assert!(N <= INPUTS_MAX) };
        let mut stretched = [0; N];
        let mut sum = 0;
        for index in 0..N {
            stretched[index] = stretch(slots[index]);
            sum += stretched[index] * weights[index];
        }
        let p = squash(sum >> 16);
        Self { stretched, p }
    }

    /// Probability that the bit is 1, in 1/65536.
    pub fn p(&self) -> u32 {
        self.p
    }

    /// Teaches the weights, unless the bit was as good as certain: that is so for most bits, and
    /// there is little to learn from them.
    pub fn teach(&self, weights: &mut [i32; N], bit: bool) {
        let error = if bit { 65_535 } else { 0 } - self.p as i32;
        if error.abs() < ERROR_MIN {
            return;
        }
        for (weight, input) in weights.iter_mut().zip(self.stretched) {
            let step = (error * input * RATE_OF_WEIGHTS + (1 << 17)) >> 18;
            *weight = (*weight + step).clamp(-WEIGHT_MAX, WEIGHT_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squash_rises_from_end_to_end_and_stretch_undoes_it() {
        let all: std::vec::Vec<u32> = (-4000..=4000).map(squash).collect();
        assert!(all.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!((all[0], all[4000], all[8000]), (1, 32_768, 65_535));
        for p in 64..4032_u16 {
            let back = squash(stretch(p << 4));
            assert!(back.abs_diff(u32::from(p) << 4) < 80, "{p} gives {back}");
        }
    }

    #[test]
    fn a_slot_learns_what_it_sees_and_never_is_certain() {
        for bit in [false, true] {
            let mut slot = SLOT_NEW;
            for _ in 0..1_000 {
                slot = learned(slot, bit);
            }
            assert_eq!(slot >> 4, if bit { 4087 } else { 8 });
            assert_eq!(slot & 15, 15);
        }
    }

    #[test]
    fn no_sum_overflows() {
        let mut weights = [WEIGHT_MAX; INPUTS_MAX];
        let opinions = Opinions::weigh([4095 << 4; INPUTS_MAX], &weights);
        opinions.teach(&mut weights, false);
        assert_eq!(opinions.p(), 65_535);
    }
}
