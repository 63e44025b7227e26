//! The chips that an image can be made for.

use core::fmt;
use core::str::FromStr;

/// A chip of the ESP32 family, by the `chip_id` of the image header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it")]
pub enum Chip {
    Esp32,
    Esp32S2,
    Esp32C3,
    Esp32S3,
    Esp32C2,
    Esp32C6,
    Esp32H2,
    Esp32P4,
    Esp32C61,
    Esp32C5,
    Esp32H21,
    Esp32H4,
    Esp32E22,
    Esp32S31,
}

/// What differs between chips, from esptool 5.6 `targets/*.py`. Ranges are `[start, end)`.
struct Row {
    chip: Chip,
    id: u16,
    name: &'static str,
    /// Code and constants executed from flash through the cache.
    irom: (u32, u32),
    drom: (u32, u32),
    /// Where the builder puts code and data that are copied to RAM.
    #[cfg_attr(not(feature = "build"), allow(dead_code))]
    iram: u32,
    #[cfg_attr(not(feature = "build"), allow(dead_code))]
    dram: u32,
}

#[rustfmt::skip]
const ROWS: [Row; 14] = [
    row(Chip::Esp32,    0x00, "esp32",    (0x400D_0000, 0x4040_0000), (0x3F40_0000, 0x3F80_0000), 0x4008_0000, 0x3FFB_0000),
    row(Chip::Esp32S2,  0x02, "esp32s2",  (0x4008_0000, 0x40B8_0000), (0x3F00_0000, 0x3F3F_0000), 0x4002_8000, 0x3FFC_0000),
    row(Chip::Esp32C3,  0x05, "esp32c3",  (0x4200_0000, 0x4280_0000), (0x3C00_0000, 0x3C80_0000), 0x4038_0000, 0x3FC9_0000),
    row(Chip::Esp32S3,  0x09, "esp32s3",  (0x4200_0000, 0x4400_0000), (0x3C00_0000, 0x3E00_0000), 0x4037_4000, 0x3FC9_8000),
    row(Chip::Esp32C2,  0x0C, "esp32c2",  (0x4200_0000, 0x4240_0000), (0x3C00_0000, 0x3C40_0000), 0x4038_0000, 0x3FCA_8000),
    row(Chip::Esp32C6,  0x0D, "esp32c6",  (0x4200_0000, 0x4280_0000), (0x4280_0000, 0x4300_0000), 0x4080_0000, 0x4082_0000),
    row(Chip::Esp32H2,  0x10, "esp32h2",  (0x4200_0000, 0x4280_0000), (0x4280_0000, 0x4300_0000), 0x4080_0000, 0x4082_0000),
    row(Chip::Esp32P4,  0x12, "esp32p4",  (0x4000_0000, 0x4C00_0000), (0x4000_0000, 0x4C00_0000), 0x4FF0_0000, 0x4FF2_0000),
    row(Chip::Esp32C61, 0x14, "esp32c61", (0x4200_0000, 0x4280_0000), (0x4280_0000, 0x4300_0000), 0x4080_0000, 0x4082_0000),
    row(Chip::Esp32C5,  0x17, "esp32c5",  (0x4200_0000, 0x4400_0000), (0x4200_0000, 0x4400_0000), 0x4080_0000, 0x4082_0000),
    row(Chip::Esp32H21, 0x19, "esp32h21", (0x4200_0000, 0x4300_0000), (0x4200_0000, 0x4300_0000), 0x4080_0000, 0x4082_0000),
    row(Chip::Esp32H4,  0x1C, "esp32h4",  (0x4200_0000, 0x4400_0000), (0x4200_0000, 0x4400_0000), 0x4081_0000, 0x4083_0000),
    row(Chip::Esp32E22, 0x1F, "esp32e22", (0x3C00_0000, 0x4000_0000), (0x3C00_0000, 0x4000_0000), 0x3100_0000, 0x3102_0000),
    row(Chip::Esp32S31, 0x20, "esp32s31", (0x4000_0000, 0x5400_0000), (0x4000_0000, 0x5400_0000), 0x2F00_0000, 0x2F02_0000),
];

const fn row(
    chip: Chip,
    id: u16,
    name: &'static str,
    irom: (u32, u32),
    drom: (u32, u32),
    iram: u32,
    dram: u32,
) -> Row {
    Row {
        chip,
        id,
        name,
        irom,
        drom,
        iram,
        dram,
    }
}

impl Chip {
    /// Every chip we know.
    pub fn all() -> impl Iterator<Item = Chip> {
        ROWS.iter().map(|row| row.chip)
    }

    /// The chip of an image header.
    pub fn from_id(id: u16) -> Option<Chip> {
        ROWS.iter().find(|row| row.id == id).map(|row| row.chip)
    }

    /// Its number in the image header.
    pub fn id(self) -> u16 {
        self.row().id
    }

    /// Its name as esptool spells it: `esp32c3`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Whether the bootloader maps a segment at this address from flash instead of copying it.
    pub fn is_flash_mapped(self, load_addr: u32) -> bool {
        let row = self.row();
        [row.irom, row.drom]
            .iter()
            .any(|(start, end)| (*start..*end).contains(&load_addr))
    }

    /// Base addresses for the builder: constants, data, RAM code, flash code.
    #[cfg(feature = "build")]
    pub(crate) fn bases(self) -> [u32; 4] {
        let row = self.row();
        // Where one window serves code and constants, code takes its upper half.
        let irom = if row.irom.0 == row.drom.0 {
            row.irom.0 + (row.irom.1 - row.irom.0) / 2
        } else {
            row.irom.0
        };
        [row.drom.0, row.dram, row.iram, irom]
    }

    fn row(self) -> &'static Row {
        ROWS.iter().find(|row| row.chip == self).unwrap_or(&ROWS[0])
    }
}

impl fmt::Display for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A chip name that is not in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown chip name: use esp32, esp32s2, esp32s3, esp32c3, esp32c6 …")]
pub struct UnknownChipName;

impl FromStr for Chip {
    type Err = UnknownChipName;

    /// Accepts `esp32c3`, `ESP32-C3` and any case between them.
    fn from_str(text: &str) -> Result<Chip, UnknownChipName> {
        let letters = || {
            text.chars()
                .filter(|letter| *letter != '-')
                .map(|letter| letter.to_ascii_lowercase())
        };
        ROWS.iter()
            .find(|row| row.name.chars().eq(letters()))
            .map(|row| row.chip)
            .ok_or(UnknownChipName)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chip_has_one_row_and_reads_back() {
        for (index, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..index].iter().all(|other| other.chip != row.chip));
            assert_eq!(Chip::from_id(row.id), Some(row.chip));
            assert_eq!(row.chip.id(), row.id);
            assert_eq!(row.name.parse(), Ok(row.chip));
        }
        assert_eq!("ESP32-C3".parse(), Ok(Chip::Esp32C3));
        assert_eq!("esp8266".parse::<Chip>(), Err(UnknownChipName));
        assert_eq!(Chip::from_id(1), None);
    }
}
