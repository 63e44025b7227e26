//! The device protocol over a serial line, byte for byte in `docs/serial.md`.
//!
//! A device without a network of its own asks whoever holds the other end of its line, and `fota
//! serial` passes that on to a server. The device asks, the host answers; nothing is sent unasked,
//! so a device may be deaf while it writes its flash. Between the frames the line carries the text
//! that the device prints, its ROM's and its bootloader's among it.
//!
//! Main path on either side: [`Deframer::push`] takes the bytes as they come and gives
//! [`Incoming`] messages; [`Request`] and [`Reply`] parse and encode them.

mod frame;

use crate::{Sha256, limits::SEALED_BYTES_MAX};

use frame::Framer;
pub use frame::{Deframer, Incoming};

/// Most bytes of a blob in one reply: a device has to hold them while it writes its flash.
pub const SERIAL_DATA_BYTES_MAX: usize = 1024;
/// Longest message, bytes: the longest request, a sealed check-in.
pub const SERIAL_MESSAGE_BYTES_MAX: usize = HEAD_BYTES + SEALED_BYTES_MAX;
/// Longest frame, bytes: a message, its check, a byte for each 254, and the zeros around it.
pub const SERIAL_FRAME_BYTES_MAX: usize =
    2 + (SERIAL_MESSAGE_BYTES_MAX + frame::CHECK_BYTES) * 255 / 254 + 1;

/// Kind and tag.
const HEAD_BYTES: usize = 2;
const STATUS_BYTES: usize = 2;
/// Set in the kind of a reply.
const REPLY: u8 = 0x80;

const _: () = assert!(
    HEAD_BYTES + STATUS_BYTES + SERIAL_DATA_BYTES_MAX <= SERIAL_MESSAGE_BYTES_MAX,
    "the longest reply is a message"
);

/// What a device asks for. Numbers on the line are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask<'a> {
    /// 1: posts a check-in, plain or sealed.
    CheckIn(&'a [u8]),
    /// 2: posts an enrolment.
    Enrol(&'a [u8]),
    /// 3: a root, by its version.
    Root(u32),
    /// 4: bytes of a blob, the first of those from `from` to before `to`; at most
    /// [`SERIAL_DATA_BYTES_MAX`] come at a time. A `to` of 0 is the end of the blob.
    Blob {
        /// Its name.
        blob: Sha256,
        /// The first byte.
        from: u32,
        /// The first byte that is not wanted.
        to: u32,
    },
    /// 5: the proof that the log of that size holds a release.
    LogProof {
        /// Which.
        release: Sha256,
        /// Entries of the log.
        size: u64,
    },
    /// 6: the proof that the log only grew.
    LogGrowth {
        /// Entries then.
        from: u64,
        /// Entries now.
        to: u64,
    },
}

impl Ask<'_> {
    const fn kind(&self) -> u8 {
        match self {
            Ask::CheckIn(_) => 1,
            Ask::Enrol(_) => 2,
            Ask::Root(_) => 3,
            Ask::Blob { .. } => 4,
            Ask::LogProof { .. } => 5,
            Ask::LogGrowth { .. } => 6,
        }
    }
}

/// What a device sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Repeated in the reply; another one for each new question, the same if it is asked again.
    pub tag: u8,
    /// The question.
    pub ask: Ask<'a>,
}

impl<'a> Request<'a> {
    /// Writes the frame and gives it; none if it has no room in `out`, or is longer than
    /// [`SERIAL_FRAME_BYTES_MAX`].
    pub fn encode<'o>(&self, out: &'o mut [u8]) -> Option<&'o [u8]> {
        let mut frame = Framer::new(out)?;
        frame.put(&[self.ask.kind(), self.tag])?;
        match &self.ask {
            Ask::CheckIn(message) | Ask::Enrol(message) => frame.put(message)?,
            Ask::Root(version) => frame.put(&version.to_le_bytes())?,
            Ask::Blob { blob, from, to } => {
                frame.put(&blob.0)?;
                frame.put(&from.to_le_bytes())?;
                frame.put(&to.to_le_bytes())?;
            }
            Ask::LogProof { release, size } => {
                frame.put(&release.0)?;
                frame.put(&size.to_le_bytes())?;
            }
            Ask::LogGrowth { from, to } => {
                frame.put(&from.to_le_bytes())?;
                frame.put(&to.to_le_bytes())?;
            }
        }
        frame.finish()
    }

    /// The request in a message; none if it is no request that this version knows.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let (&[kind, tag], body) = message.split_first_chunk()?;
        let mut fields = Fields(body);
        let ask = match kind {
            1 => Ask::CheckIn(fields.rest()),
            2 => Ask::Enrol(fields.rest()),
            3 => Ask::Root(u32::from_le_bytes(fields.take()?)),
            4 => Ask::Blob {
                blob: Sha256(fields.take()?),
                from: u32::from_le_bytes(fields.take()?),
                to: u32::from_le_bytes(fields.take()?),
            },
            5 => Ask::LogProof {
                release: Sha256(fields.take()?),
                size: u64::from_le_bytes(fields.take()?),
            },
            6 => Ask::LogGrowth {
                from: u64::from_le_bytes(fields.take()?),
                to: u64::from_le_bytes(fields.take()?),
            },
            _ => return None,
        };
        fields.0.is_empty().then_some(Self { tag, ask })
    }

    /// The reply to this request.
    pub fn reply<'b>(&self, status: u16, body: &'b [u8]) -> Reply<'b> {
        Reply {
            kind: self.ask.kind(),
            tag: self.tag,
            status,
            body,
        }
    }
}

/// What the host answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    kind: u8,
    tag: u8,
    /// As in HTTP: 200 if all is well; 0 if the server was not reached.
    pub status: u16,
    /// The bytes that were asked for; a reason in words where all is not well.
    pub body: &'a [u8],
}

impl<'a> Reply<'a> {
    /// Writes the frame and gives it; none if it has no room in `out`.
    pub fn encode<'o>(&self, out: &'o mut [u8]) -> Option<&'o [u8]> {
        let mut frame = Framer::new(out)?;
        frame.put(&[self.kind | REPLY, self.tag])?;
        frame.put(&self.status.to_le_bytes())?;
        frame.put(self.body)?;
        frame.finish()
    }

    /// The reply in a message; none if it is no reply.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let (&[kind, tag], rest) = message.split_first_chunk()?;
        let (status, body) = rest.split_first_chunk()?;
        (kind & REPLY != 0).then_some(Self {
            kind: kind & !REPLY,
            tag,
            status: u16::from_le_bytes(*status),
            body,
        })
    }

    /// Whether it answers this request, and not an earlier one that was given up.
    pub fn answers(&self, request: &Request) -> bool {
        (self.kind, self.tag) == (request.ask.kind(), request.tag)
    }
}

/// The fields of a message, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.0)
    }
}
