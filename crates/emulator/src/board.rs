//! Espressif's files, and a flash as a programming station writes it.

use std::{env, fs, io, path::PathBuf};

use sha2::{Digest, Sha256};

use crate::{
    elf::{Elf, ElfError},
    flash::Flash,
    machine::Machine,
};

/// Names the folder of the sources of the `espflash` crate, whose `resources` hold the files.
const FOLDER_VARIABLE: &str = "FOTA_ESPFLASH";
const ROM: &str = "resources/roms/esp32c3_rev300_rom.elf";
const BOOTLOADER: &str = "resources/bootloaders/esp32c3-bootloader.bin";

/// Byte of an image's header with the flash's size in its upper half; 2 is 4 MiB, at 80 MHz.
const FLASH_SIZE_AT: usize = 3;
const FLASH_4_MIB_80_MHZ: u8 = 0x2F;
const HASH_BYTES: usize = 32;

/// Why there are no files.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Nobody said where they are.
    #[error(
        "{FOLDER_VARIABLE} names no folder with the sources of the espflash crate: run \
         `cargo xtask emulator`, which fetches it"
    )]
    NotNamed,
    /// One cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
}

/// The mask ROM and the second-stage bootloader.
#[derive(Clone, Debug)]
pub struct Files {
    rom: Vec<u8>,
    bootloader: Vec<u8>,
}

impl Files {
    /// Reads them out of the folder that `FOTA_ESPFLASH` names.
    pub fn read() -> Result<Self, FilesError> {
        let folder = env::var_os(FOLDER_VARIABLE).filter(|value| !value.is_empty());
        let folder = PathBuf::from(folder.ok_or(FilesError::NotNamed)?);
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|error| FilesError::Unreadable {
                path: path.display().to_string(),
                error,
            })
        };
        Ok(Self {
            rom: read(ROM)?,
            bootloader: read(BOOTLOADER)?,
        })
    }

    /// The ROM.
    pub fn rom(&self) -> Result<Elf<'_>, ElfError> {
        Elf::parse(&self.rom)
    }

    /// The bootloader for 4 MiB of flash. As it comes its header says 2 MiB, and it refuses a table
    /// with partitions behind them; its hash is made anew.
    pub fn bootloader(&self) -> Vec<u8> {
        let mut image = self.bootloader.clone();
        image[FLASH_SIZE_AT] = FLASH_4_MIB_80_MHZ;
        let body = image.len() - HASH_BYTES;
        let hash = Sha256::digest(&image[..body]);
        image[body..].copy_from_slice(&hash);
        image
    }
}

/// What is written at the factory.
#[derive(Clone, Copy, Debug)]
pub struct Board<'a> {
    /// Partition table, for 0x8000.
    pub table: &'a [u8],
    /// Images and where they begin.
    pub images: &'a [(u32, &'a [u8])],
}

impl Board<'_> {
    /// Where ESP-IDF puts the table.
    pub const TABLE_OFFSET: u32 = 0x8000;

    /// A chip with this flash, just given power.
    pub fn power_on(&self, files: &Files) -> Result<Machine, ElfError> {
        let mut flash = Flash::new();
        flash.load(0, &files.bootloader());
        flash.load(Self::TABLE_OFFSET, self.table);
        for (at, image) in self.images {
            flash.load(*at, image);
        }
        Machine::new(flash, &files.rom()?)
    }
}
