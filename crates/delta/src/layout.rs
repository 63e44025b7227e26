//! Where the bytes of an image are in the address space of its chip.
//!
//! The layout of the old image is read from the old image; that of the new one is in the patch, as
//! differences to the old one. Nothing here has to be true: a wrong layout only predicts badly.

/// The most segments that are read; ESP-IDF allows 16 in an image, and an ESP8266 has two images.
pub(crate) const SEGMENTS_MAX: usize = 18;

/// What kind of instructions an image has, and where its chip has memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub instructions: Instructions,
    /// Addresses of memory that holds data at run time.
    pub ram: (u32, u32),
    /// Addresses that hold instructions.
    pub code: (u32, u32),
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instructions {
    None,
    Xtensa,
    RiscV,
    Thumb,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Any bytes.
    None,
    /// An ESP-IDF app image with its 24-byte header.
    Esp,
    /// ESP8266: a loader at 0, the app at 0x1000, headers of 8 bytes.
    Esp8266,
    /// One segment at an address that the patch gives.
    Flat,
}

const XTENSA: (u32, u32) = (0x4000_0000, 0x5000_0000);
const RISCV: (u32, u32) = (0x4000_0000, 0x4300_0000);

/// By the number in the patch. tidy: table
const TARGETS: [Target; 9] = [
    target(Instructions::None, Format::None, (0, 0), (0, 0)),
    // 1: ESP32
    target(
        Instructions::Xtensa,
        Format::Esp,
        (0x3FFA_E000, 0x4000_0000),
        XTENSA,
    ),
    // 2: ESP32-S2
    target(
        Instructions::Xtensa,
        Format::Esp,
        (0x3FFB_0000, 0x4000_0000),
        XTENSA,
    ),
    // 3: ESP32-S3
    target(
        Instructions::Xtensa,
        Format::Esp,
        (0x3FC8_8000, 0x3FD0_0000),
        XTENSA,
    ),
    // 4: ESP8266
    target(
        Instructions::Xtensa,
        Format::Esp8266,
        (0x3FFE_8000, 0x4000_0000),
        XTENSA,
    ),
    // 5: ESP32-C2, C3
    target(
        Instructions::RiscV,
        Format::Esp,
        (0x3FC8_0000, 0x3FCE_0000),
        RISCV,
    ),
    // 6: ESP32-C5, C6, C61, H2
    target(
        Instructions::RiscV,
        Format::Esp,
        (0x4080_0000, 0x4088_0000),
        RISCV,
    ),
    // 7: ESP32-P4
    target(
        Instructions::RiscV,
        Format::Esp,
        (0x4FF0_0000, 0x4FFC_0000),
        (0x4000_0000, 0x5000_0000),
    ),
    // 8: a Cortex-M
    target(
        Instructions::Thumb,
        Format::Flat,
        (0x2000_0000, 0x2008_0000),
        (0, u32::MAX),
    ),
];

const fn target(
    instructions: Instructions,
    format: Format,
    ram: (u32, u32),
    code: (u32, u32),
) -> Target {
    Target {
        instructions,
        ram,
        code,
        format,
    }
}

impl Target {
    /// The target that a patch names; an unknown one has no instructions.
    pub fn of(number: u8) -> Self {
        *TARGETS.get(usize::from(number)).unwrap_or(&TARGETS[0])
    }

    /// Whether functions start with ENTRY, at a word's boundary: the windowed calls of Xtensa.
    pub fn is_windowed(&self) -> bool {
        self.instructions == Instructions::Xtensa && self.format == Format::Esp
    }

    pub fn is_flat(&self) -> bool {
        self.format == Format::Flat
    }
}

/// A run of bytes of an image and its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Offset in the image.
    pub offset: u32,
    pub bytes: u32,
    pub address: u32,
}

/// The segments of an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub target: Target,
    /// The global pointer of a RISC-V program, 0 if there is none.
    pub gp: u32,
    segments: [Segment; SEGMENTS_MAX],
    count: usize,
    /// The lowest and the highest address of a segment: most words are neither near.
    lowest: u32,
    highest: u32,
}

/// What a reader reports when it does not work.
pub(crate) type ReadWord<'a, E> = &'a mut dyn FnMut(u32) -> Result<u32, E>;

impl Layout {
    pub const fn empty() -> Self {
        Self {
            target: TARGETS[0],
            gp: 0,
            segments: [Segment {
                offset: 0,
                bytes: 0,
                address: 0,
            }; SEGMENTS_MAX],
            count: 0,
            lowest: u32::MAX,
            highest: 0,
        }
    }

    /// No segments yet.
    pub fn of(target: Target) -> Self {
        Self {
            target,
            ..Self::empty()
        }
    }

    /// Reads the segment headers of an image of `bytes` bytes; `word` gives the little-endian
    /// word at an offset.
    pub fn read<E>(target: Target, base: u32, bytes: u32, word: ReadWord<E>) -> Result<Self, E> {
        let mut layout = Self::of(target);
        match target.format {
            Format::None => {}
            Format::Flat => layout.push(Segment {
                offset: 0,
                bytes,
                address: base,
            }),
            Format::Esp => layout.read_image(0, 24, bytes, word)?,
            Format::Esp8266 => {
                // The loader has one segment; what follows it in its 4 KiB is padding.
                if bytes > 0x1000 + 8 && word(0x1000)? & 0xff == 0xE9 {
                    layout.read_segment(8, bytes, word)?;
                    layout.read_image(0x1000, 8, bytes, word)?;
                } else {
                    layout.read_image(0, 8, bytes, word)?;
                }
            }
        }
        Ok(layout)
    }

    fn read_image<E>(
        &mut self,
        start: u32,
        header_bytes: u32,
        bytes: u32,
        word: ReadWord<E>,
    ) -> Result<(), E> {
        if bytes < start + header_bytes {
            return Ok(());
        }
        let mut at = start + header_bytes;
        for _ in 0..(word(start)? >> 8 & 0xff).min(16) {
            let Some(end) = self.read_segment(at, bytes, word)? else {
                break;
            };
            at = end;
        }
        Ok(())
    }

    /// The segment whose header is at `at`; gives its end.
    fn read_segment<E>(
        &mut self,
        at: u32,
        bytes: u32,
        word: ReadWord<E>,
    ) -> Result<Option<u32>, E> {
        let Some(offset) = at.checked_add(8).filter(|offset| *offset <= bytes) else {
            return Ok(None);
        };
        let (address, length) = (word(at)?, word(at + 4)?);
        let length = length.min(bytes - offset);
        self.push(Segment {
            offset,
            bytes: length,
            address,
        });
        Ok(Some(offset + length))
    }

    /// Adds a segment; more than there is room for are let be.
    pub fn push(&mut self, segment: Segment) {
        if let Some(place) = self.segments.get_mut(self.count) {
            *place = segment;
            self.count += 1;
            self.lowest = self.lowest.min(segment.address);
            let last = segment.address.saturating_add(segment.bytes);
            self.highest = self.highest.max(last);
        }
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments[..self.count.min(SEGMENTS_MAX)]
    }

    /// The address of a byte of the image.
    pub fn address(&self, offset: u32) -> Option<u32> {
        self.address_within(offset, 0)
    }

    /// Whether a byte is in a segment that starts in code.
    pub fn is_in_code(&self, offset: u32) -> bool {
        let mut segments = self.segments().iter();
        let segment = segments.find(|it| offset.wrapping_sub(it.offset) < it.bytes);
        segment.is_some_and(|it| self.is_code(it.address))
    }

    /// The next offset after `offset` at which a segment starts or ends: up to there, bytes are in
    /// the same segment.
    pub fn next_edge(&self, offset: u32) -> u32 {
        let edges = self.segments().iter();
        let edges = edges.flat_map(|it| [it.offset, it.offset.saturating_add(it.bytes)]);
        let after = edges.filter(|edge| *edge > offset);
        after.min().unwrap_or(u32::MAX)
    }

    /// The same, also for the `slack` bytes after a segment.
    fn address_within(&self, offset: u32, slack: u32) -> Option<u32> {
        let segment = self.segments().iter().find(|segment| {
            offset
                .checked_sub(segment.offset)
                .is_some_and(|at| at < segment.bytes.saturating_add(slack))
        })?;
        Some(segment.address.wrapping_add(offset - segment.offset))
    }

    /// The address of a byte or of what may follow a segment: its end is an address as well.
    pub fn address_near(&self, offset: u32) -> Option<u32> {
        self.address(offset)
            .or_else(|| self.address_within(offset, 17))
    }

    /// The byte of the image at an address.
    pub fn offset(&self, address: u32) -> Option<u32> {
        if address < self.lowest.max(0x1_0000) || address >= self.highest {
            return None;
        }
        let segment = self
            .segments()
            .iter()
            .find(|segment| address.wrapping_sub(segment.address) < segment.bytes)?;
        Some(segment.offset + (address - segment.address))
    }

    /// A number for the segment of an address, the same for all that are in none.
    pub fn segment_of_address(&self, address: u32) -> u32 {
        let holds = |it: &Segment| address.wrapping_sub(it.address) < it.bytes;
        let place = self.segments().iter().position(holds);
        place.map_or(0, |index| (index as u32 & 7) + 1)
    }

    /// The same for an offset.
    pub fn segment_of_offset(&self, offset: u32) -> u32 {
        let holds = |it: &Segment| offset.wrapping_sub(it.offset) < it.bytes;
        let place = self.segments().iter().position(holds);
        place.map_or(0, |index| (index as u32 & 7) + 1)
    }

    /// Whether an address can be meant: in the image or in memory.
    pub fn is_address(&self, address: u32) -> bool {
        let (first, end) = self.target.ram;
        (first..end).contains(&address) || self.offset(address).is_some()
    }

    /// The same with the mask ROM, whose addresses never move.
    pub fn is_address_or_rom(&self, address: u32) -> bool {
        self.is_address(address)
            || self.target.instructions != Instructions::Thumb && is_rom(address)
    }

    pub fn is_code(&self, address: u32) -> bool {
        let (first, end) = self.target.code;
        (first..end).contains(&address)
    }
}

pub(crate) fn is_rom(address: u32) -> bool {
    (0x4000_0000..0x4007_0000).contains(&address)
}
