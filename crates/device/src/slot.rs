//! The places an image can be: the slots and the factory partition, and what they hold.

use embedded_storage::nor_flash::MultiwriteNorFlash;
use fota_image::{
    Text,
    app::{self, AppDesc, CheckError, DESC_BYTES, DESC_OFFSET, Window},
    partition::{Layout, Region},
};
use fota_proto::Sha256;

use crate::{
    choice::Choice,
    flash::{Fault, Guarded},
    updater::BootInfo,
};

/// The number that stands for the factory partition in a check-in.
pub const FACTORY: u8 = 255;

/// A place that can hold an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) number: u8,
    pub(crate) region: Region,
}

/// What an image says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) elf: Sha256,
    pub(crate) version: Text<32>,
}

impl Content {
    /// An image of an old ESP-IDF says nothing; it is known by an ELF digest of zeros.
    pub(crate) fn new(desc: Option<AppDesc>) -> Self {
        match desc {
            Some(desc) => Self {
                elf: Sha256(desc.app_elf_sha256),
                version: desc.version,
            },
            None => Self {
                elf: Sha256([0; 32]),
                version: Text::default(),
            },
        }
    }
}

impl Slot {
    /// The place that contains a flash offset.
    pub(crate) fn at(layout: &Layout, offset: u32) -> Option<Self> {
        let factory = layout
            .factory
            .filter(|region| (region.offset..region.end()).contains(&offset));
        let factory = factory.map(|region| Self {
            number: FACTORY,
            region,
        });
        let slot = layout.slot_at(offset).map(|slot| Self {
            number: slot.index,
            region: slot.region(),
        });
        slot.or(factory)
    }

    /// The place with a number.
    pub(crate) fn numbered(layout: &Layout, number: u8) -> Option<Self> {
        let region = match number {
            FACTORY => layout.factory?,
            _ => layout.slot(number)?.region(),
        };
        Some(Self { number, region })
    }

    /// Where the next image goes: the slot after the running one, `ota_0` after factory.
    pub(crate) fn target(layout: &Layout, running: u8) -> Option<Self> {
        let next = match running {
            FACTORY => 0,
            _ => (running + 1) % layout.count(),
        };
        Self::numbered(layout, next).filter(|slot| slot.number != running)
    }

    /// What the image that runs says of itself, and of which project it is; its bytes were proven
    /// by the bootloader.
    pub(crate) fn read_desc<F>(&self, flash: &mut Guarded<F>) -> Result<(Content, Text<32>), Fault>
    where
        F: MultiwriteNorFlash,
    {
        let mut bytes = [0; DESC_BYTES];
        flash.read(self.region.offset + DESC_OFFSET as u32, &mut bytes)?;
        let desc = AppDesc::parse(&bytes);
        let project = desc.map_or_else(Text::default, |desc| desc.project_name);
        Ok((Content::new(desc), project))
    }

    /// What the slot holds, if that is an image this chip would boot. Reads it whole.
    pub(crate) fn check<F>(
        &self,
        flash: &mut Guarded<F>,
        boot: &BootInfo,
    ) -> Result<Option<Content>, Fault>
    where
        F: MultiwriteNorFlash,
    {
        let mut window = Window {
            source: flash,
            base: self.region.offset,
        };
        let image = match app::check(&mut window, self.region.size) {
            Ok(image) => image,
            Err(CheckError::Image(_)) => return Ok(None),
            Err(CheckError::Read { error, .. }) => return Err(error),
        };
        let header = &image.header;
        let revision_fits = boot
            .chip_revision
            .is_none_or(|revision| header.allows_revision(revision));
        let fits = header.chip == Some(boot.chip) && revision_fits;
        Ok(fits.then(|| Content::new(image.desc)))
    }
}

/// Where the bootloader goes if the entry of the running image were not there, and it is not the
/// running image again. Whether a valid image is there is for the caller to see.
pub(crate) fn fallback(layout: &Layout, choice: &Choice, running: u8) -> Option<Slot> {
    let own = choice.usable_of(running)?;
    let other = 1 - own;
    let number = match choice.entry(other).usable() {
        true => choice.slot(other),
        false => FACTORY,
    };
    Slot::numbered(layout, number).filter(|slot| slot.number != running)
}
