//! As much of ELF32 as the ROM's file needs: what to load where, and names of functions.

const HEADER_BYTES: usize = 52;
const PROGRAM_LOAD: u32 = 1;
const SECTION_BYTES: u32 = 1;
const SECTION_SYMBOLS: u32 = 2;
const SYMBOL_BYTES: usize = 16;

/// Why a file is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// It has another format.
    #[error("not an ELF file of a 32-bit little-endian machine")]
    NotElf32,
    /// It ends within something that it names.
    #[error("the file ends at {0} bytes, within something that it names")]
    Truncated(usize),
}

/// A file in memory.
#[derive(Clone, Debug)]
pub struct Elf<'a> {
    file: &'a [u8],
    /// The entry point.
    pub entry: u32,
}

/// Bytes with their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Of a segment, where they are stored: for data, the ROM that it is copied from. Of a section,
    /// where the program finds them.
    pub address: u32,
    /// What is to be stored.
    pub bytes: &'a [u8],
}

impl<'a> Elf<'a> {
    /// Looks at the header only.
    pub fn parse(file: &'a [u8]) -> Result<Self, ElfError> {
        if file.len() < HEADER_BYTES || !file.starts_with(b"\x7FELF\x01\x01") {
            return Err(ElfError::NotElf32);
        }
        let entry = word(file, 24)?;
        Ok(Self { file, entry })
    }

    /// What is to be loaded.
    pub fn segments(&self) -> Result<Vec<Segment<'a>>, ElfError> {
        let (table, size) = (word(self.file, 28)?, half(self.file, 42)?);
        let count = half(self.file, 44)?;
        let mut segments = Vec::new();
        for index in 0..count {
            let at = table as usize + index * size;
            if word(self.file, at)? != PROGRAM_LOAD {
                continue;
            }
            let (from, bytes) = (word(self.file, at + 4)?, word(self.file, at + 16)?);
            segments.push(Segment {
                address: word(self.file, at + 12)?,
                bytes: range(self.file, from as usize, bytes as usize)?,
            });
        }
        Ok(segments)
    }

    /// Bytes of the sections that have an address, those that no segment loads among them.
    pub fn sections(&self) -> Result<Vec<Segment<'a>>, ElfError> {
        let mut sections = Vec::new();
        for at in self.section_headers()? {
            let address = word(self.file, at + 12)?;
            if word(self.file, at + 4)? == SECTION_BYTES && address != 0 {
                sections.push(Segment {
                    address,
                    bytes: self.section_bytes(at)?,
                });
            }
        }
        Ok(sections)
    }

    /// Names with their addresses.
    pub fn symbols(&self) -> Result<Vec<(String, u32)>, ElfError> {
        let headers = self.section_headers()?;
        let mut names = Vec::new();
        for at in &headers {
            if word(self.file, at + 4)? != SECTION_SYMBOLS {
                continue;
            }
            let link = word(self.file, at + 24)? as usize;
            let texts = headers.get(link).ok_or(ElfError::Truncated(link))?;
            let texts = self.section_bytes(*texts)?;
            for symbol in self.section_bytes(*at)?.chunks_exact(SYMBOL_BYTES) {
                let text = texts.get(word(symbol, 0)? as usize..).unwrap_or_default();
                let name = text.split(|byte| *byte == 0).next().unwrap_or_default();
                let name = String::from_utf8_lossy(name).into_owned();
                names.push((name, word(symbol, 4)?));
            }
        }
        Ok(names)
    }

    /// Where the headers of the sections are in the file.
    fn section_headers(&self) -> Result<Vec<usize>, ElfError> {
        let (table, size) = (word(self.file, 32)? as usize, half(self.file, 46)?);
        let count = half(self.file, 48)?;
        Ok((0..count).map(|index| table + index * size).collect())
    }

    fn section_bytes(&self, header: usize) -> Result<&'a [u8], ElfError> {
        let (from, bytes) = (word(self.file, header + 16)?, word(self.file, header + 20)?);
        range(self.file, from as usize, bytes as usize)
    }
}

fn range(file: &[u8], from: usize, bytes: usize) -> Result<&[u8], ElfError> {
    file.get(from..from.saturating_add(bytes))
        .ok_or(ElfError::Truncated(file.len()))
}

fn word(file: &[u8], at: usize) -> Result<u32, ElfError> {
    let bytes = range(file, at, 4)?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn half(file: &[u8], at: usize) -> Result<usize, ElfError> {
    let bytes = range(file, at, 2)?;
    Ok(usize::from(u16::from_le_bytes([bytes[0], bytes[1]])))
}
