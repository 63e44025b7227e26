//! What a literal region remembers: the last distances, and a few bytes around the last one.

/// Distances that a match can name without saying them.
pub(crate) const REPEATS: usize = 4;
/// Bytes that are read at once to guess literals from.
pub(crate) const PEEK_BYTES: usize = 32;

/// The state of matches and literals.
pub(crate) struct Literal {
    pub repeats: [u32; REPEATS],
    /// Bytes of a match that are still to be copied.
    pub match_left: u32,
    /// A match ended just before: what follows it is not what followed its source.
    pub after_match: bool,
    peeked: [u8; PEEK_BYTES],
    peeked_at: u32,
    peeked_bytes: u32,
}

impl Literal {
    pub const fn new() -> Self {
        Self {
            repeats: [0; REPEATS],
            match_left: 0,
            after_match: false,
            peeked: [0; PEEK_BYTES],
            peeked_at: 0,
            peeked_bytes: 0,
        }
    }

    /// Makes `distance` the last one; `from` is its place if it was among the last.
    pub fn used(&mut self, distance: u32, from: Option<usize>) {
        let end = from.unwrap_or(REPEATS - 1).min(REPEATS - 1);
        self.repeats.copy_within(0..end, 1);
        self.repeats[0] = distance;
    }

    /// A byte of the two images that was read before.
    pub fn peeked(&self, at: u32) -> Option<u8> {
        let index = at.wrapping_sub(self.peeked_at);
        (index < self.peeked_bytes).then(|| self.peeked[index as usize % PEEK_BYTES])
    }

    /// Remembers what was read at `at`.
    pub fn peek(&mut self, at: u32, bytes: &[u8]) {
        let count = bytes.len().min(PEEK_BYTES);
        self.peeked[..count].copy_from_slice(&bytes[..count]);
        self.peeked_at = at;
        self.peeked_bytes = count as u32;
    }
}
