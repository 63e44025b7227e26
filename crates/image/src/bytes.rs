//! Small readers and writers that the formats share.

use core::fmt;

/// A text field of `N` bytes, NUL padded, as ESP-IDF stores names and versions.
///
/// The bytes come from outside, so nothing is assumed of them: [`Text::as_str`] stops at the first
/// NUL or at the first byte that is not UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Text<const N: usize>([u8; N]);

impl<const N: usize> Text<N> {
    /// Takes the raw field.
    pub const fn new(bytes: [u8; N]) -> Self {
        Text(bytes)
    }

    /// Copies `text`; `None` if it is longer than `N` bytes.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut bytes = [0; N];
        bytes
            .get_mut(..text.len())?
            .copy_from_slice(text.as_bytes());
        Some(Text(bytes))
    }

    /// The field as it is stored, padding included.
    pub const fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }

    /// The readable part.
    pub fn as_str(&self) -> &str {
        let until_nul = self.0.split(|byte| *byte == 0).next().unwrap_or(&[]);
        match core::str::from_utf8(until_nul) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&until_nul[..error.valid_up_to()]).unwrap_or(""),
        }
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Text([0; N])
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<const N: usize> PartialEq<str> for Text<N> {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl<const N: usize> PartialEq<&str> for Text<N> {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

/// Shows a number with thousands separators: `1,065,968`.
#[derive(Clone, Copy)]
pub struct Grouped(pub u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // u64::MAX has seven groups of three digits.
        let mut groups = [0u16; 7];
        let mut rest = self.0;
        let mut count = 0;
        while rest >= 1000 {
            groups[count] = (rest % 1000) as u16;
            rest /= 1000;
            count += 1;
        }
        write!(f, "{rest}")?;
        groups[..count]
            .iter()
            .rev()
            .try_for_each(|group| write!(f, ",{group:03}"))
    }
}

/// The `N` bytes at `offset`; zeros where `bytes` is too short, which callers exclude by their
/// own length check.
pub(crate) fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(found) = bytes.get(offset..offset + N) {
        out.copy_from_slice(found);
    }
    out
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(array(bytes, offset))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array(bytes, offset))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_065_968, "1,065,968"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(Grouped(number).to_string(), text);
        }
    }

    #[test]
    fn text_stops_at_nul_and_at_the_first_bad_byte() {
        assert_eq!(Text::new(*b"v1\0junk"), "v1");
        assert_eq!(Text::new(*b"ab\xffcd"), "ab");
        assert_eq!(Text::new(*b"full"), "full");
        assert_eq!(Text::<4>::from_text("longer"), None);
    }
}
