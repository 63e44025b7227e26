//! A patch as it comes in: the image of the order is made of the one that runs. Nothing vouches
//! for a patch; each chunk that it makes is proven by the signed index before it is programmed.
//!
//! | what arrives | when | then |
//! |---|---|---|
//! | pages of the index | first, and where the image enters a span without one | proven, or dropped |
//! | the header | the first bytes of the patch | it fits, or the patch ends |
//! | the rest | while all pages are here | each chunk is proven and programmed, or the patch ends |
//! | the artifact | once the patch has ended | from the chunk on that the patch did not make |
//!
//! After a reboot the patch is decoded again from its start, and what it makes that flash already
//! holds is left alone. It is fetched again where it is short; else it was kept (see `keep`). Where
//! the rest of the artifact costs less than that, the patch is not used again.

use embedded_storage::nor_flash::MultiwriteNorFlash;
use fota_delta::{Event, HEADER_BYTES_MAX, HeaderError, PatchHeader, Profile};
use fota_image::partition::Region;
use fota_proto::{
    checkin::{Patch, PatchProfile},
    limits::{CHUNK_BYTES, PATCH_REFETCHED_BYTES_MAX},
    signed::index,
};

use crate::{
    decoder::{FlashImages, PatchDecoder},
    feed::{Feed, FeedError, PATCH_PAGES_MAX},
    flash::{BLANK, Fault, Guarded, PAGE_BYTES, SECTOR_BYTES},
    install::ReceiveError,
    job::{Job, Stage},
    keep::{Keep, NAME_BYTES},
    slot::Slot,
    trust::{Keeper, Workspace},
    updater::{Download, Updater},
};

/// Bytes that are read at once of a patch that was kept.
const PIECE_BYTES: usize = 64;

/// Why a patch is not used to its end. The order goes on with the artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchEnd {
    /// It is none, or of a later format.
    #[error("{0}")]
    Header(HeaderError),
    /// It needs more memory than there is.
    #[error("it is for 32 KB of memory; this device has 16 KB for patches")]
    Memory,
    /// Its header names another image than the release.
    #[error("it makes another image than the one that is ordered")]
    OtherImage,
    /// It starts from an image that cannot be in the running slot.
    #[error("it starts from {bytes} bytes; the running slot holds {slot_bytes}")]
    OldImage {
        /// Length of that image.
        bytes: u32,
        /// Length of the slot.
        slot_bytes: u32,
    },
    /// What it makes is not what the release names.
    #[error("it does not make the image: another old image, or damaged")]
    WrongChunk,
    /// It cannot be decoded, or asks for bytes that are in no image.
    #[error("it cannot be decoded: another old image, or damaged")]
    Damaged,
    /// It ends before the image does.
    #[error("it ends too early, after {bytes} bytes")]
    TooShort {
        /// Its length.
        bytes: u32,
    },
    /// It no longer comes, and the order no longer names it.
    #[error("it is no longer offered")]
    Withdrawn,
}

/// A patch in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patching {
    patch: Patch,
    /// Bytes of it that the decoder has; while the header is not complete, those that are here.
    taken: u32,
    is_header_read: bool,
    /// `taken` at the last order.
    taken_before: u32,
    keep: Option<Keep>,
}

/// Why a patch cannot go on now.
enum Stop {
    /// A page of the index comes first.
    Page,
    Ended(PatchEnd),
    Feed(FeedError),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Feed(FeedError::Flash(fault))
    }
}

impl From<PatchEnd> for Stop {
    fn from(end: PatchEnd) -> Self {
        Self::Ended(end)
    }
}

impl Patching {
    /// What to fetch for an image of `bytes` that is made up to `written`.
    pub(crate) fn download(&self, feed: &Feed, bytes: u32, written: u32) -> Download {
        match feed.wanted_page(bytes, written) {
            Some(span) => feed.page_download(bytes, span),
            None => Download {
                blob: self.patch.sha256,
                from: self.taken,
                to: self.patch.bytes,
                bytes: self.patch.bytes,
            },
        }
    }
}

impl<F: MultiwriteNorFlash> Updater<'_, F> {
    /// Why the patch of the order under way, or of the last one, was not used to its end; for the
    /// device's log.
    pub fn patch_end(&self) -> Option<PatchEnd> {
        self.job.as_ref().and_then(|job| job.patch_end)
    }

    /// The largest patches that can be applied; none while an order goes on without its patch,
    /// which tells the server that it did not work.
    pub(crate) fn patch_profile(&self) -> Option<PatchProfile> {
        if self.patch_end().is_some() {
            return None;
        }
        let decoder = self.trust.as_ref()?.decoder.as_ref()?;
        Some(decoder.profile())
    }

    /// Uses the patch of the order, where that costs less than the rest of the artifact. The
    /// download was just begun, with `known` bytes in flash.
    pub(crate) fn begin_patch(&mut self, slot: Slot, known: u32) -> Result<(), Fault> {
        let (Some(job), Some(trust)) = (&mut self.job, &mut self.trust) else {
            return Ok(());
        };
        let (Some(patch), None, Some(decoder)) = (job.offer, job.patch_end, &mut trust.decoder)
        else {
            return Ok(());
        };
        let is_kept = patch.bytes > PATCH_REFETCHED_BYTES_MAX;
        let keep = match is_kept {
            true => Keep::find(&mut self.flash, slot, job.bytes, patch)?,
            false => None,
        };
        if is_kept && keep.is_none() {
            return Ok(()); // A power cut could cost all of it again.
        }
        let kept = keep.map_or(0, |keep| keep.bytes());
        if !costs_less(job.bytes, known, patch.bytes, kept) {
            return Ok(());
        }
        decoder.reset();
        job.start_from(0);
        job.suspect(known);
        job.known = known;
        job.patching = Some(Patching {
            patch,
            taken: 0,
            is_header_read: false,
            taken_before: 0,
            keep,
        });
        Ok(())
    }

    /// The order came again. Where it no longer names the patch in use, and that no longer comes,
    /// nothing else will bring the rest.
    pub(crate) fn note_offer(&mut self, offer: Option<Patch>) {
        let (Some(job), Some(trust)) = (&mut self.job, &mut self.trust) else {
            return;
        };
        job.offer = offer;
        let Some(patching) = &mut job.patching else {
            return;
        };
        let is_still = patching.taken == patching.taken_before;
        patching.taken_before = patching.taken;
        if is_still && offer != Some(patching.patch) {
            job.end_patch(PatchEnd::Withdrawn, trust);
        }
    }

    pub(crate) fn receive_patch(&mut self, slot: Slot, bytes: &[u8]) -> Result<(), ReceiveError> {
        let (Some(job), Some(trust)) = (&mut self.job, &mut self.trust) else {
            return Err(ReceiveError::NotDownloading);
        };
        let (Some(mut patching), Some(decoder)) = (job.patching, &mut trust.decoder) else {
            return Err(ReceiveError::NotDownloading);
        };
        let mut apply = Apply {
            job,
            patching: &mut patching,
            flash: &mut self.flash,
            slot,
            running: self.running.region,
            workspace: trust.workspace,
            decoder: &mut **decoder,
        };
        let taken = apply.take(bytes);
        job.patching = Some(patching);
        match taken {
            Ok(()) => Ok(()),
            Err(Stop::Page) => Err(ReceiveError::PageFirst),
            Err(Stop::Feed(error)) => Err(self.not_taken(error)),
            Err(Stop::Ended(why)) => {
                let at = job.written();
                job.end_patch(why, trust);
                Err(ReceiveError::PatchEnded { at, why })
            }
        }
    }
}

/// Whether a patch costs fewer bytes than the rest of the artifact behind `known` bytes of the
/// image, pages of the index included, where `kept` bytes of it are here.
pub(crate) fn costs_less(image_bytes: u32, known: u32, patch_bytes: u32, kept: u32) -> bool {
    let known = known.min(image_bytes) / CHUNK_BYTES * CHUNK_BYTES;
    let index_bytes = index::artifact_bytes(image_bytes) - image_bytes;
    let patch = u64::from(patch_bytes.saturating_sub(kept)) + u64::from(index_bytes);
    let span = known / index::SPAN_BYTES;
    let pages_before = (0..span).map(|page| index::page_bytes(image_bytes, page) as u32);
    let index_before: u32 = pages_before.sum();
    let artifact = image_bytes - known + index_bytes - index_before;
    patch < u64::from(artifact)
}

impl Job {
    /// From here on the rest comes out of the artifact.
    fn end_patch(&mut self, why: PatchEnd, trust: &mut Keeper<'_>) {
        self.patching = None;
        self.patch_end = Some(why);
        self.page = [BLANK; PAGE_BYTES];
        let known = self.known / SECTOR_BYTES * SECTOR_BYTES;
        if known > self.written() {
            self.start_from(known);
        }
        let written = self.written();
        if let Some(feed) = &mut self.feed {
            feed.leave_patch(written, trust.workspace);
        }
    }
}

/// A patch being applied, with all that takes.
struct Apply<'a, F> {
    job: &'a mut Job,
    patching: &'a mut Patching,
    flash: &'a mut Guarded<F>,
    slot: Slot,
    running: Region,
    workspace: &'a mut Workspace,
    decoder: &'a mut dyn PatchDecoder,
}

impl<F: MultiwriteNorFlash> Apply<'_, F> {
    /// Takes what comes next: of a page, or of the patch.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        match self.wanted_page() {
            Some(span) => self.take_page(span, bytes),
            None => self.take_patch(bytes),
        }
    }

    fn wanted_page(&self) -> Option<u32> {
        let feed = self.job.feed.as_ref()?;
        feed.wanted_page(self.job.bytes, self.job.written())
    }

    fn take_page(&mut self, span: u32, bytes: &[u8]) -> Result<(), Stop> {
        let (image_bytes, written) = (self.job.bytes, self.job.written());
        let Some(feed) = &mut self.job.feed else {
            return Ok(());
        };
        let taken = feed.take_page(PATCH_PAGES_MAX, image_bytes, span, self.workspace, bytes);
        let surplus = bytes.len() - taken.map_err(Stop::Feed)?;
        if surplus > 0 {
            return Err(Stop::Feed(FeedError::TooMany(surplus as u32)));
        }
        match feed.wanted_page(image_bytes, written) {
            Some(_) => Ok(()),
            None => self.resume(),
        }
    }

    /// Goes on with what was kept of the patch, and with what the decoder still has of it.
    fn resume(&mut self) -> Result<(), Stop> {
        let mut piece = [0; PIECE_BYTES];
        while let Some(keep) = self.patching.keep
            && self.patching.taken < keep.bytes()
            && !self.is_complete()
        {
            let taken = self.patching.taken;
            let piece = &mut piece[..(keep.bytes() - taken).min(PIECE_BYTES as u32) as usize];
            keep.read(self.flash, taken, piece)?;
            self.pass(piece)?;
        }
        match self.patching.is_header_read {
            true => self.decode(&[]),
            false => Ok(()),
        }
    }

    /// Takes bytes of the patch from the network, and keeps them if they are to be kept.
    fn take_patch(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let before = self.patching.taken;
        let room = (self.patching.patch.bytes - before) as usize;
        let bytes = &bytes[..bytes.len().min(room)];
        let passed = self.pass(bytes);
        if let (Some(keep), Err(Stop::Page) | Ok(())) = (&mut self.patching.keep, &passed)
            && self.patching.is_header_read
        {
            // The header is in the page already.
            let from = keep.end().saturating_sub(before) as usize;
            let to = (self.patching.taken - before) as usize;
            if let Some(taken) = bytes.get(from..to) {
                keep.append(self.flash, &mut self.job.page, taken)?;
            }
        }
        passed
    }

    fn pass(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        if self.patching.is_header_read {
            return self.decode(bytes);
        }
        let header = self.take_header(bytes)?;
        match self.patching.is_header_read && !self.is_complete() {
            true => self.decode(&bytes[header..]),
            false => self.check_end(),
        }
    }

    /// Collects the header; gives how many of these bytes belong to it. The decoder wants it too.
    fn take_header(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        for (index, byte) in bytes.iter().enumerate() {
            let start = NAME_BYTES as usize;
            let end = start + self.patching.taken as usize;
            self.job.page[end] = *byte; // a header that is too long is an error before that
            self.patching.taken += 1;
            let header = &self.job.page[start..=end];
            match PatchHeader::parse(header) {
                Err(HeaderError::Short(_)) => {}
                Err(error) => return Err(PatchEnd::Header(error).into()),
                Ok((parsed, _)) => {
                    let mut copy = [0; HEADER_BYTES_MAX];
                    copy[..header.len()].copy_from_slice(header);
                    let length = header.len();
                    self.check_header(&parsed)?;
                    self.patching.is_header_read = true;
                    if let Some(keep) = &mut self.patching.keep {
                        keep.begin(self.patching.patch, &mut self.job.page, length);
                    }
                    self.push(&mut &copy[..length])?;
                    return Ok(index + 1);
                }
            }
        }
        Ok(bytes.len())
    }

    fn check_header(&self, header: &PatchHeader) -> Result<(), PatchEnd> {
        let (old_bytes, slot_bytes) = (header.old.map_or(0, |old| old.bytes), self.running.size);
        if header.profile == Profile::Default && self.decoder.profile() == PatchProfile::Small {
            return Err(PatchEnd::Memory);
        }
        if (header.new_sha256, header.new_bytes) != (self.job.image.0, self.job.bytes) {
            return Err(PatchEnd::OtherImage);
        }
        if old_bytes > slot_bytes {
            let bytes = old_bytes;
            return Err(PatchEnd::OldImage { bytes, slot_bytes });
        }
        Ok(())
    }

    fn decode(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let mut rest = bytes;
        let pushed = self.push(&mut rest);
        self.patching.taken += (bytes.len() - rest.len()) as u32;
        pushed.and_then(|()| self.check_end())
    }

    /// All of the patch is here: then the image is too.
    fn check_end(&self) -> Result<(), Stop> {
        let bytes = self.patching.patch.bytes;
        match self.patching.taken == bytes && !self.is_complete() {
            true => Err(PatchEnd::TooShort { bytes }.into()),
            false => Ok(()),
        }
    }

    /// Makes of these bytes what can be made of them. Some are left where a page is missing.
    fn push(&mut self, rest: &mut &[u8]) -> Result<(), Stop> {
        while !self.is_complete() {
            if self.wanted_page().is_some() {
                return Err(Stop::Page);
            }
            let mut images = FlashImages {
                flash: self.flash,
                running: self.running,
                target: self.slot.region,
                head: &self.job.head,
                written: self.job.written(),
            };
            match self.decoder.push(rest, &mut images) {
                Ok(Event::NeedInput) => break,
                Ok(Event::Chunk { offset, bytes }) => {
                    let (written, left) = (self.job.written(), self.job.bytes - self.job.written());
                    let wanted = left.min(CHUNK_BYTES) as usize;
                    let is_proven = |feed: &Feed| feed.is_chunk(self.workspace, written, bytes);
                    let is_next = (offset, bytes.len()) == (written, wanted);
                    if !is_next || !self.job.feed.as_ref().is_some_and(is_proven) {
                        return Err(PatchEnd::WrongChunk.into());
                    }
                    self.job.place_or_skip(self.flash, self.slot, bytes)?;
                }
                // It would have made the image before.
                Ok(Event::Done) | Err(_) => return Err(PatchEnd::Damaged.into()),
            }
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        !matches!(self.job.stage, Stage::Downloading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whichever_costs_less_is_taken() {
        const IMAGE_BYTES: u32 = 1_000_000; // 245 chunks: two pages, 3,920 bytes of index
        let costs_less =
            |known, patch_bytes, kept| costs_less(IMAGE_BYTES, known, patch_bytes, kept);
        assert!(costs_less(0, 2_144, 0));
        assert!(costs_less(0, IMAGE_BYTES - 1, 0));
        assert!(!costs_less(0, IMAGE_BYTES, 0));
        // Behind byte 999,424 there are 576 bytes and the page of their span, 1,872 bytes.
        assert!(!costs_less(999_424, 2_144, 0));
        // And what was kept of it costs nothing: only the index does.
        assert!(costs_less(950_272, 400_000, 399_000));
        assert!(!costs_less(950_272, 400_000, 0));
        assert!(!costs_less(u32::MAX, 1, 0));
        assert!(!costs_less(0, u32::MAX, 0));
    }
}
