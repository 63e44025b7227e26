//! The decoder: takes a patch as it comes, and gives the new image chunk by chunk.

use sha2::{Digest, Sha256};

use crate::{
    OldImage, PatchHeader, Profile,
    coder::RangeDecoder,
    header::{HEADER_BYTES_MAX, HeaderError},
    machine::{Fault, Machine, Progress},
};

/// Bytes of a chunk. Each but the last has as many, and starts at a multiple of it.
pub const CHUNK_BYTES: usize = 4096;

/// The two images, which are usually in flash.
pub trait Images {
    /// What a failed read says.
    type Error;

    /// Reads the old image from `offset` on. The decoder asks for nothing beyond the end that the
    /// header gives.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read_old(&mut self, offset: u32, to: &mut [u8]) -> Result<(), Self::Error>;

    /// Reads what the decoder has handed out, from `offset` of the new image on. It asks for
    /// whole chunks that were taken, never for the one that it is about to hand out. Bytes that
    /// the caller holds back from flash must be answered from where they are.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read_new(&mut self, offset: u32, to: &mut [u8]) -> Result<(), Self::Error>;
}

/// What the decoder has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// All that was given is used up: more of the patch is needed.
    NeedInput,
    /// The next bytes of the new image: [`CHUNK_BYTES`] of them, fewer at the end. Check them,
    /// write them, and call again.
    Chunk {
        /// Where they belong in the new image.
        offset: u32,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// The whole image was handed out, and has the digest that the header gives.
    Done,
}

/// Why decoding ended. Nothing more comes of this patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError<E> {
    /// The patch is none, or none for this decoder.
    #[error(transparent)]
    Header(HeaderError),
    /// The patch needs the larger decoder.
    #[error(
        "the patch needs {needed} slots of memory, this decoder has {here}: encode it with --profile small"
    )]
    Memory {
        /// What the patch's profile has.
        needed: usize,
        /// What this decoder has.
        here: usize,
    },
    /// The patch says something that cannot be.
    #[error("the patch is damaged, or the old image is not the one it was made for: {0}")]
    Damaged(&'static str),
    /// The result is not what the header promised.
    #[error(
        "the result is not the image that the patch names: it was applied to another old image, or damaged"
    )]
    Digest,
    /// The payload is longer than what it says.
    #[error("the patch is damaged: {0} bytes are left over")]
    LeftOver(u32),
    /// A read of the old or the new image failed.
    #[error("an image cannot be read")]
    Read(E),
    /// It has failed before.
    #[error("decoding has failed before: start again")]
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    Body,
    /// A chunk was handed out, and is taken with the next call.
    Taken,
    /// The same with the last one.
    Last,
    Done,
    Failed,
}

/// A decoder for patches up to a profile: see [`DefaultDecoder`] and [`SmallDecoder`].
///
/// It is large: keep it in a `static` on a device, never on the stack. The parameters are the
/// slots, blocks and pages of a [`Profile`].
pub struct Decoder<const SLOTS: usize, const BLOCKS: usize, const PAGES: usize> {
    state: State,
    start: [u8; HEADER_BYTES_MAX],
    start_bytes: usize,
    new_sha256: [u8; 32],
    range: RangeDecoder,
    machine: Machine<SLOTS, BLOCKS, PAGES>,
}

/// Decodes every patch, in at most 32 KB with its stack.
pub type DefaultDecoder = Decoder<
    { Profile::Default.slots() },
    { Profile::Default.blocks_max() },
    { Profile::Default.pages() },
>;

/// Decodes patches of the small profile, in at most 16 KB with its stack.
pub type SmallDecoder = Decoder<
    { Profile::Small.slots() },
    { Profile::Small.blocks_max() },
    { Profile::Small.pages() },
>;

/// Stack that decoding takes on a 32-bit machine, rounded up; CI measures it.
pub const STACK_BYTES_MAX: usize = 1280;
const _: () = assert!(size_of::<DefaultDecoder>() + STACK_BYTES_MAX <= 32 * 1024);
const _: () = assert!(size_of::<SmallDecoder>() + STACK_BYTES_MAX <= 16 * 1024);

impl<const SLOTS: usize, const BLOCKS: usize, const PAGES: usize> Default
    for Decoder<SLOTS, BLOCKS, PAGES>
{
    fn default() -> Self {
        Self::new()
    }
}

impl<const SLOTS: usize, const BLOCKS: usize, const PAGES: usize> Decoder<SLOTS, BLOCKS, PAGES> {
    /// A decoder at the start of a patch. `const`, so that it can be a `static`.
    pub const fn new() -> Self {
        Self {
            state: State::Header,
            start: [0; HEADER_BYTES_MAX],
            start_bytes: 0,
            new_sha256: [0; 32],
            range: RangeDecoder::new(0),
            machine: Machine::new(),
        }
    }

    /// Forgets everything, for the next patch or for the same one from its start.
    pub fn reset(&mut self) {
        self.state = State::Header;
        self.start_bytes = 0;
    }

    /// Goes on until there is something to say, with `patch`, the bytes of the patch that come
    /// next, in pieces of any size. What is not used is left in it: give it again, with what
    /// follows, after a chunk.
    ///
    /// # Errors
    /// The patch or the old image is wrong, or an image cannot be read. The chunks that were
    /// handed out before are then worth nothing unless they are proven otherwise.
    pub fn push<I: Images>(
        &mut self,
        patch: &mut &[u8],
        images: &mut I,
    ) -> Result<Event<'_>, DecodeError<I::Error>> {
        match self.advance(patch, images) {
            Ok(State::Taken | State::Last) => {
                let (offset, bytes) = self.machine.chunk();
                Ok(Event::Chunk { offset, bytes })
            }
            Ok(State::Done) => Ok(Event::Done),
            Ok(_) => Ok(Event::NeedInput),
            Err(error) => {
                self.state = State::Failed;
                Err(error)
            }
        }
    }

    fn advance<I: Images>(
        &mut self,
        patch: &mut &[u8],
        images: &mut I,
    ) -> Result<State, DecodeError<I::Error>> {
        match self.state {
            State::Header => {
                if !self.read_header(patch)? {
                    return Ok(State::Header);
                }
                self.state = State::Body;
            }
            State::Taken | State::Last => {
                self.machine.next_chunk();
                self.state = match self.state {
                    State::Taken => State::Body,
                    _ => State::Done,
                };
            }
            State::Body | State::Done => {}
            State::Failed => return Err(DecodeError::Failed),
        }
        if self.state == State::Body {
            self.state = self.run(patch, images)?;
        }
        if self.state == State::Done {
            self.check()?;
        }
        Ok(self.state)
    }

    /// Collects the header; says whether it is complete.
    fn read_header<E>(&mut self, patch: &mut &[u8]) -> Result<bool, DecodeError<E>> {
        loop {
            match PatchHeader::parse(&self.start[..self.start_bytes]) {
                Ok((header, _)) => {
                    self.begin(&header)?;
                    return Ok(true);
                }
                Err(HeaderError::Short(_)) => {}
                Err(error) => return Err(DecodeError::Header(error)),
            }
            let Some((byte, rest)) = patch.split_first() else {
                return Ok(false);
            };
            // A header that is as long as it can be is never too short.
            let Some(place) = self.start.get_mut(self.start_bytes) else {
                return Err(DecodeError::Header(HeaderError::Length));
            };
            *place = *byte;
            self.start_bytes += 1;
            *patch = rest;
        }
    }

    fn begin<E>(&mut self, header: &PatchHeader) -> Result<(), DecodeError<E>> {
        let needed = header.profile.slots();
        if needed > SLOTS {
            return Err(DecodeError::Memory {
                needed,
                here: SLOTS,
            });
        }
        let old_bytes = header.old.map_or(0, |old| old.bytes);
        self.range = RangeDecoder::new(header.payload_bytes);
        self.machine
            .reset(header.profile, old_bytes, header.new_bytes);
        self.new_sha256 = header.new_sha256;
        Ok(())
    }

    fn run<I: Images>(
        &mut self,
        patch: &mut &[u8],
        images: &mut I,
    ) -> Result<State, DecodeError<I::Error>> {
        loop {
            if !self.range.is_ready() {
                self.range.take(patch);
                if !self.range.is_ready() {
                    return Ok(State::Body);
                }
            }
            match self.machine.step(&mut self.range, images) {
                Ok(Progress::More) => {}
                Ok(Progress::Chunk) => return Ok(State::Taken),
                Ok(Progress::Done) if self.machine.chunk().1.is_empty() => return Ok(State::Done),
                Ok(Progress::Done) => return Ok(State::Last),
                Err(Fault::Damaged(what)) => return Err(DecodeError::Damaged(what)),
                Err(Fault::Read(error)) => return Err(DecodeError::Read(error)),
            }
        }
    }

    fn check<E>(&mut self) -> Result<(), DecodeError<E>> {
        if self.machine.sha256() != self.new_sha256 {
            return Err(DecodeError::Digest);
        }
        match self.range.unused_bytes() {
            0 => Ok(()),
            left => Err(DecodeError::LeftOver(left)),
        }
    }
}

/// Whether the old image is the one that a patch needs. Reads all of it.
///
/// # Errors
/// If it cannot be read.
pub fn is_old<I: Images>(images: &mut I, wanted: &OldImage) -> Result<bool, I::Error> {
    let mut sha256 = Sha256::new();
    let mut buffer = [0; 256];
    let mut at = 0;
    while at < wanted.bytes {
        let count = (wanted.bytes - at).min(buffer.len() as u32);
        let bytes = &mut buffer[..count as usize];
        images.read_old(at, bytes)?;
        sha256.update(&*bytes);
        at += count;
    }
    Ok(sha256.finalize().as_slice() == wanted.sha256)
}
