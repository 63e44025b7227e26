//! Where in an instruction the next byte of the new image is, from the bytes before it alone.
//!
//! The first byte of an instruction says how long it is, so new code can be told apart without
//! looking ahead. The walk may be out of step behind data; then it only predicts worse.

use crate::layout::Instructions;

/// The instruction that the next byte belongs to. In data, only the place within a word.
#[derive(Clone, Copy)]
pub(crate) struct Phase {
    /// Bytes of it that are there already, the first one lowest, and how many.
    pub bytes: u32,
    pub count: u32,
    /// The first bytes of those before it, the last one lowest.
    pub before: u32,
    pub is_code: bool,
}

impl Phase {
    pub const fn new() -> Self {
        Self {
            bytes: 0,
            count: 0,
            before: 0,
            is_code: false,
        }
    }

    /// What comes next is in code, or is not.
    pub fn enter(&mut self, is_code: bool) {
        if is_code != self.is_code {
            self.is_code = is_code;
            (self.bytes, self.count) = (0, 0);
        }
    }

    /// A whole instruction that starts with `first`: the next byte starts another.
    pub fn whole(&mut self, first: u8) {
        self.before = self.before << 8 | u32::from(first);
        (self.bytes, self.count) = (0, 0);
    }

    /// The next byte of code. Gives the instruction that it ends: its bytes, and how many.
    pub fn byte(&mut self, instructions: Instructions, byte: u8) -> Option<(u32, u32)> {
        self.bytes |= u32::from(byte) << (self.count * 8);
        self.count += 1;
        if self.count < self.instruction_bytes(instructions) {
            return None;
        }
        let whole = (self.bytes, self.count);
        self.whole(whole.0 as u8);
        Some(whole)
    }

    /// How long the instruction is, as far as its first bytes say.
    fn instruction_bytes(&self, instructions: Instructions) -> u32 {
        let is_long = self.count >= 2 && self.bytes >> 11 & 31 >= 0x1d;
        match instructions {
            Instructions::Thumb if is_long => 4,
            Instructions::Thumb => 2,
            _ => bytes_after(instructions, self.bytes as u8),
        }
    }

    /// Bytes of code that are a unit of a copy.
    pub fn plain(&mut self, instructions: Instructions, bytes: &[u8]) {
        // Most are one instruction.
        let first = bytes.first().copied().unwrap_or(0);
        if self.count == 0 && bytes.len() as u32 == bytes_after(instructions, first) {
            return self.whole(first);
        }
        for byte in bytes {
            self.byte(instructions, *byte);
        }
    }

    /// A number from 0 to 7: how many bytes are there, and whether it is data.
    pub fn state(&self) -> u32 {
        self.count.min(3) | u32::from(!self.is_code) << 2
    }

    /// Whether the byte is the first one of an instruction: its low half tells more and comes first.
    pub fn starts_instruction(&self) -> bool {
        self.is_code && self.count == 0
    }
}

/// How long an instruction is that starts with `first`; 0 if that does not say it.
fn bytes_after(instructions: Instructions, first: u8) -> u32 {
    match instructions {
        Instructions::None => 1,
        Instructions::Xtensa if first == 0 => 1,
        Instructions::Xtensa if matches!(first & 15, 8..=13) => 2,
        Instructions::Xtensa => 3,
        Instructions::RiscV if first & 3 == 3 => 4,
        Instructions::RiscV => 2,
        Instructions::Thumb => 0,
    }
}
