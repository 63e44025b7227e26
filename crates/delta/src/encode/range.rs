//! The encoder's end of the range coder.

use std::vec::Vec;

use crate::coder::{RANGE_MIN, share};

/// Makes the bytes that [`crate::coder::RangeDecoder`] reads.
pub(super) struct RangeEncoder {
    low: u64,
    range: u32,
    /// The last byte that a carry may still change, and how many 0xFF follow it.
    pending: u8,
    pending_ones: usize,
    bytes: Vec<u8>,
}

impl RangeEncoder {
    pub fn new() -> Self {
        Self {
            low: 0,
            range: u32::MAX,
            pending: 0,
            pending_ones: 0,
            bytes: Vec::new(),
        }
    }

    pub fn bit(&mut self, p: u32, bit: bool) {
        let bound = share(self.range, p);
        if bit {
            self.range = bound;
        } else {
            self.low += u64::from(bound);
            self.range -= bound;
        }
        while self.range < RANGE_MIN {
            self.range <<= 8;
            self.shift();
        }
    }

    fn shift(&mut self) {
        let carry = (self.low >> 32) as u8;
        if self.low < 0xFF00_0000 || carry == 1 {
            self.bytes.push(self.pending.wrapping_add(carry));
            let ones = core::iter::repeat_n(0xFF_u8.wrapping_add(carry), self.pending_ones);
            self.bytes.extend(ones);
            self.pending_ones = 0;
            self.pending = (self.low >> 24) as u8;
        } else {
            self.pending_ones += 1;
        }
        self.low = (self.low & 0x00FF_FFFF) << 8;
    }

    /// The bytes, without the zeros at their end: the decoder reads zeros there.
    pub fn finish(mut self) -> Vec<u8> {
        // Of all that is in the range, what ends with the most zeros.
        let end = self.low + u64::from(self.range);
        for zeros in (0..=32).rev() {
            let mask = (1_u64 << zeros) - 1;
            let value = (self.low + mask) & !mask;
            if value < end {
                self.low = value;
                break;
            }
        }
        for _ in 0..5 {
            self.shift();
        }
        let is_zero = |byte: &u8| *byte == 0;
        while self.bytes.last().is_some_and(is_zero) {
            self.bytes.pop();
        }
        // The first byte is where a carry would go; there never is one.
        if !self.bytes.is_empty() {
            self.bytes.remove(0);
        }
        self.bytes
    }
}
