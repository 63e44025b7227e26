//! Frames: 0x00, the message and its CRC-32 without zeros (COBS), 0x00.
//!
//! COBS is that of Cheshire and Baker, "Consistent overhead byte stuffing" (1999): no byte of a
//! frame is zero, so a zero ends it whatever was lost before. The CRC is that of Ethernet and zip.

/// Bytes of the CRC-32 behind a message.
pub(super) const CHECK_BYTES: usize = 4;
/// The CRC-32 over a message and its own CRC-32.
const RESIDUE: u32 = 0x2144_DF1C;
/// A code of COBS says how far away the next zero is; this one, that there is none so near.
const CODE_MAX: u8 = 0xFF;

/// Writes one frame.
pub(super) struct Framer<'o> {
    out: &'o mut [u8],
    len: usize,
    code_at: usize,
    crc: u32,
}

impl<'o> Framer<'o> {
    /// None if there is not even room for an empty one.
    pub(super) fn new(out: &'o mut [u8]) -> Option<Self> {
        *out.get_mut(..2)?.first_mut()? = 0;
        Some(Self {
            out,
            len: 2,
            code_at: 1,
            crc: u32::MAX,
        })
    }

    /// Appends bytes of the message.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.crc = crc(self.crc, bytes);
        bytes.iter().try_for_each(|byte| self.stuff(*byte))
    }

    /// Appends the check and gives the frame.
    pub(super) fn finish(mut self) -> Option<&'o [u8]> {
        let check = (!self.crc).to_le_bytes();
        check.iter().try_for_each(|byte| self.stuff(*byte))?;
        self.close_code()?;
        *self.out.get_mut(self.len)? = 0;
        let out = self.out;
        out.get(..self.len + 1)
            .filter(|frame| frame.len() <= super::SERIAL_FRAME_BYTES_MAX)
    }

    fn stuff(&mut self, byte: u8) -> Option<()> {
        if byte != 0 {
            *self.out.get_mut(self.len)? = byte;
            self.len += 1;
            if self.len - self.code_at < usize::from(CODE_MAX) {
                return Some(());
            }
        }
        self.close_code()?;
        self.code_at = self.len;
        self.len += 1;
        Some(())
    }

    fn close_code(&mut self) -> Option<()> {
        *self.out.get_mut(self.code_at)? = (self.len - self.code_at) as u8;
        Some(())
    }
}

/// What was between two zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A message that arrived whole.
    Message(&'a [u8]),
    /// Something else: what the device prints, or what is left of a frame that was damaged.
    Text(&'a [u8]),
}

/// Finds frames among the bytes of a line. `N` is the longest frame that it can take,
/// [`SERIAL_FRAME_BYTES_MAX`](super::SERIAL_FRAME_BYTES_MAX) for all there are.
#[derive(Clone, Debug)]
pub struct Deframer<const N: usize> {
    buffer: [u8; N],
    len: usize,
    /// The buffer was handed out before a zero came: what is behind it is text too.
    is_text: bool,
}

impl<const N: usize> Deframer<N> {
    /// At the start of a line.
    pub const fn new() -> Self {
        Self {
            buffer: [0; N],
            len: 0,
            is_text: false,
        }
    }

    /// Takes the next byte.
    pub fn push(&mut self, byte: u8) -> Option<Incoming<'_>> {
        if byte != 0 {
            // There is room: a full buffer is handed out at once.
            self.buffer[self.len] = byte;
            self.len += 1;
            return (self.len == N).then(|| self.hand_out_text(true));
        }
        if self.len == 0 {
            self.is_text = false;
            return None;
        }
        if self.is_text || !is_message(&self.buffer[..self.len]) {
            return Some(self.hand_out_text(false));
        }
        let len = unstuff(&mut self.buffer[..self.len]);
        self.len = 0;
        Some(Incoming::Message(&self.buffer[..len - CHECK_BYTES]))
    }

    /// What came since the last zero, for a host that will not wait for one: a device that prints
    /// and never asks sends none.
    pub fn take_text(&mut self) -> &[u8] {
        let len = self.len;
        self.is_text |= len > 0;
        self.len = 0;
        &self.buffer[..len]
    }

    fn hand_out_text(&mut self, is_text: bool) -> Incoming<'_> {
        self.is_text = is_text;
        let len = core::mem::take(&mut self.len);
        Incoming::Text(&self.buffer[..len])
    }
}

impl<const N: usize> Default for Deframer<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether these bytes, none of which is zero, are a message and its check.
fn is_message(stuffed: &[u8]) -> bool {
    let (mut crc, mut bytes, mut rest) = (u32::MAX, 0, stuffed);
    while let Some((&code, behind)) = rest.split_first() {
        let run = usize::from(code) - 1;
        let Some((run, behind)) = behind.split_at_checked(run) else {
            return false;
        };
        crc = self::crc(crc, run);
        bytes += run.len();
        if code != CODE_MAX && !behind.is_empty() {
            crc = self::crc(crc, &[0]);
            bytes += 1;
        }
        rest = behind;
    }
    bytes >= CHECK_BYTES && !crc == RESIDUE
}

/// Puts the zeros back, in place; [`is_message`] has said that the codes are right.
fn unstuff(stuffed: &mut [u8]) -> usize {
    let (mut from, mut to) = (0, 0);
    while from < stuffed.len() {
        let code = stuffed[from];
        let end = from + usize::from(code);
        stuffed.copy_within(from + 1..end, to);
        to += usize::from(code) - 1;
        from = end;
        if code != CODE_MAX && from < stuffed.len() {
            stuffed[to] = 0;
            to += 1;
        }
    }
    to
}

/// CRC-32 with four bits at a time: 64 bytes of table.
fn crc(mut crc: u32, bytes: &[u8]) -> u32 {
    for byte in bytes {
        crc ^= u32::from(*byte);
        crc = crc >> 4 ^ CRC_OF_NIBBLE[(crc & 15) as usize];
        crc = crc >> 4 ^ CRC_OF_NIBBLE[(crc & 15) as usize];
    }
    crc
}

const CRC_OF_NIBBLE: [u32; 16] = {
    let mut table = [0; 16];
    let mut nibble = 0;
    while nibble < 16 {
        let (mut crc, mut bit) = (nibble, 0);
        while bit < 4 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 };
            bit += 1;
        }
        table[nibble as usize] = crc;
        nibble += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::crc;

    #[test]
    fn the_check_is_that_of_ethernet() {
        // "check" of the catalogue of CRC algorithms, CRC-32/ISO-HDLC.
        assert_eq!(!crc(u32::MAX, b"123456789"), 0xCBF4_3926);
    }
}
