//! What makes an image out of a patch, as the updater uses it: the caller brings one for the memory
//! it has, or none, and a build that brings none holds no code of it.

use embedded_storage::nor_flash::MultiwriteNorFlash;
use fota_delta::{DecodeError, Decoder, DefaultDecoder, Event, Images};
use fota_image::partition::Region;
use fota_proto::{checkin::PatchProfile, limits::HEAD_BYTES};

use crate::flash::{Fault, Guarded};

/// What applies patches: a [`DefaultDecoder`] or a [`SmallDecoder`](crate::SmallDecoder), or what
/// makes one when it is needed. The updater holds a pointer, so that it is the same type with and
/// without.
pub trait PatchDecoder: Send {
    /// The largest patches that it can apply.
    fn profile(&self) -> PatchProfile;

    /// Forgets everything: a patch comes from its start.
    fn reset(&mut self);

    /// As [`Decoder::push`].
    ///
    /// # Errors
    /// As there; nothing more comes of this patch.
    fn push(
        &mut self,
        patch: &mut &[u8],
        images: &mut dyn Images<Error = ReadError>,
    ) -> Result<Event<'_>, DecodeError<ReadError>>;
}

impl<const SLOTS: usize, const BLOCKS: usize, const PAGES: usize> PatchDecoder
    for Decoder<SLOTS, BLOCKS, PAGES>
{
    fn profile(&self) -> PatchProfile {
        // The parameters of a decoder are a matter of its crate; its size follows from them.
        match size_of::<Self>() >= size_of::<DefaultDecoder>() {
            true => PatchProfile::Default,
            false => PatchProfile::Small,
        }
    }

    fn reset(&mut self) {
        Decoder::reset(self);
    }

    fn push(
        &mut self,
        patch: &mut &[u8],
        images: &mut dyn Images<Error = ReadError>,
    ) -> Result<Event<'_>, DecodeError<ReadError>> {
        Decoder::push(self, patch, &mut Behind(images))
    }
}

/// `Decoder::push` wants a type of known size.
struct Behind<'a>(&'a mut dyn Images<Error = ReadError>);

impl Images for Behind<'_> {
    type Error = ReadError;

    fn read_old(&mut self, offset: u32, to: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_old(offset, to)
    }

    fn read_new(&mut self, offset: u32, to: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_new(offset, to)
    }
}

/// Why an image could not be read for a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The flash.
    Flash(Fault),
    /// The patch asks for bytes that are in no image: it was made for something else.
    Beyond,
}

/// The image that runs, and as much of the new one as is programmed.
pub(crate) struct FlashImages<'a, F> {
    pub(crate) flash: &'a mut Guarded<F>,
    pub(crate) running: Region,
    pub(crate) target: Region,
    /// The new image's first bytes, which are not in flash until all is proven.
    pub(crate) head: &'a [u8; HEAD_BYTES],
    pub(crate) written: u32,
}

impl<F: MultiwriteNorFlash> Images for FlashImages<'_, F> {
    type Error = ReadError;

    fn read_old(&mut self, offset: u32, to: &mut [u8]) -> Result<(), ReadError> {
        if !is_within(offset, to.len(), self.running.size) {
            return Err(ReadError::Beyond);
        }
        let read = self.flash.read(self.running.offset + offset, to);
        read.map_err(ReadError::Flash)
    }

    fn read_new(&mut self, offset: u32, to: &mut [u8]) -> Result<(), ReadError> {
        if !is_within(offset, to.len(), self.written) {
            return Err(ReadError::Beyond);
        }
        let read = self.flash.read(self.target.offset + offset, to);
        read.map_err(ReadError::Flash)?;
        let head = self.head.iter().skip(offset as usize);
        to.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
        Ok(())
    }
}

fn is_within(offset: u32, bytes: usize, end: u32) -> bool {
    u64::from(offset) + bytes as u64 <= u64::from(end)
}
