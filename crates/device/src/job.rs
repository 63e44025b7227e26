//! A download on its way into the slot: what is erased, what is written, where it can resume.
//!
//! Nothing is kept in flash for a resume. The order of flash operations leaves a trace that can be
//! found again:
//!
//! ```text
//!  slot    | head |  programmed  | partly | blank sector | blank or old bytes … |
//!          0      16             r-4096   r              ^ erased_to
//! ```
//!
//! *Invariant*: at every moment, also inside an erase that a power cut tears, the sector behind
//! the one being programmed is blank, unless the image ends before it. So the next piece is erased
//! when programming enters the last blank sector, before its first page.
//!
//! After a reboot each run of blank sectors, starting at `r`, is a place where the download may
//! have stopped: `r` if the sector before it is complete, `r - 4096` if it is not. Their digests go
//! to the server (see [`Held`]), which knows the image and names the longest true prefix. A wrong
//! guess costs bytes, never truth: what boots is proven by the whole SHA-256.
//!
//! After a power loss the last operation is *suspect*: cells that it left between 0 and 1 may read as
//! right now and as wrong when the image is to boot. What it can have written is written again, and
//! what it can have erased is erased again, however it reads.

use embedded_storage::nor_flash::MultiwriteNorFlash;
use fota_proto::{
    Sha256,
    checkin::{Held, Install, Patch},
    limits::{HEAD_BYTES, HELD_DIGEST_BYTES, HELD_MAX},
    list::List,
};
use sha2::Digest;

use crate::{
    feed::Feed,
    flash::{BLANK, BLOCK_BYTES, Fault, Guarded, PAGE_BYTES, SECTOR_BYTES, WORD_BYTES, is_blank},
    mark::TRIAL_POWER_LOSS_MAX,
    patch::{PatchEnd, Patching},
    readiness::Asks,
    slot::Slot,
    updater::Download,
};

/// From where a download stopped, what an erase can have been at work on that lost its power: the
/// sector behind the blank one that is kept ahead.
const SUSPECT_BYTES: u32 = 3 * SECTOR_BYTES;

/// Where an install stands.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Waiting for the signed release that the order names.
    Judging,
    /// Waiting for the proof that this release is in the server's log.
    Logging,
    /// Waiting for the proof that this log only grew.
    Growing,
    /// Waiting for the server to say which of these prefixes are true; `known` is, or is 0.
    Locating {
        held: List<Held, HELD_MAX>,
        known: u32,
    },
    /// Taking bytes.
    Downloading,
    /// All bytes are in flash; nothing is proven.
    Complete,
    /// The boot choice names it; only a reset is missing.
    Activated,
}

/// An install that this device is carrying out.
pub(crate) struct Job {
    pub(crate) order: u64,
    pub(crate) image: Sha256,
    pub(crate) bytes: u32,
    pub(crate) head: [u8; HEAD_BYTES],
    pub(crate) elf: Sha256,
    pub(crate) deadline_s: u32,
    pub(crate) asks: Asks,
    pub(crate) stage: Stage,
    /// The signed release that the order names, and what it says of itself once it is read.
    pub(crate) release: Option<Sha256>,
    pub(crate) sequence: u32,
    pub(crate) epoch: u32,
    /// Starts of the trial that may end by losing power.
    pub(crate) power_losses_max: u8,
    /// How the bytes come in where each chunk is proven first.
    pub(crate) feed: Option<Feed>,
    /// The patch that the order names, and how far it is where it is in use.
    pub(crate) offer: Option<Patch>,
    pub(crate) patching: Option<Patching>,
    /// Why a patch is no longer used for this order.
    pub(crate) patch_end: Option<PatchEnd>,
    /// Bytes of the image that were in flash when the download began, by the server's word.
    pub(crate) known: u32,
    /// Bytes were taken over from before a reboot, so a wrong digest may be their fault.
    pub(crate) resumed: bool,
    /// The head in flash was programmed by this job.
    pub(crate) head_is_ours: bool,
    /// Power was lost before this start, perhaps in the last operation on the slot.
    is_suspect: bool,
    /// From here on as far as an erase reaches, flash is not believed to be blank or written, however
    /// it reads.
    suspect_from: u32,
    /// Programmed so far; the start of a page.
    written: u32,
    /// Everything from `written` to here is blank.
    erased_to: u32,
    /// Bytes of the page at `written` that are not programmed yet. Where a patch is kept, bytes of
    /// that: a proven chunk goes to flash as it is.
    pub(crate) page: [u8; PAGE_BYTES],
    filled: usize,
}

impl Job {
    /// A download from the start. After a power loss, what was last done to the slot is `suspect`.
    pub(crate) fn new(order: u64, install: &Install, is_suspect: bool) -> Self {
        Self {
            order,
            image: install.image,
            bytes: install.bytes,
            head: install.head,
            elf: install.elf,
            deadline_s: install.trial_deadline_s,
            asks: Asks::of(install),
            stage: Stage::Downloading,
            release: install.release,
            sequence: 0,
            epoch: 0,
            power_losses_max: TRIAL_POWER_LOSS_MAX,
            feed: None,
            offer: install.patch,
            patching: None,
            patch_end: None,
            known: 0,
            resumed: false,
            head_is_ours: false,
            is_suspect,
            suspect_from: 0,
            written: 0,
            erased_to: 0,
            page: [BLANK; PAGE_BYTES],
            filled: 0,
        }
    }

    pub(crate) fn is_for(&self, order: u64, install: &Install) -> bool {
        (self.order, self.image, self.bytes) == (order, install.image, install.bytes)
            && self.release == install.release
    }

    /// The next byte of the image that is wanted.
    pub(crate) fn position(&self) -> u32 {
        match self.stage {
            Stage::Judging | Stage::Logging | Stage::Growing => 0,
            Stage::Locating { known, .. } => known,
            Stage::Downloading => {
                let unproven = self.feed.map_or(0, |feed| feed.chunk_filled);
                self.written + (self.filled + unproven) as u32
            }
            Stage::Complete | Stage::Activated => self.bytes,
        }
    }

    /// Programmed so far; with a feed the start of a chunk, or the end.
    pub(crate) fn written(&self) -> u32 {
        self.written
    }

    /// What to fetch next.
    pub(crate) fn download(&self) -> Download {
        match (&self.patching, &self.feed) {
            (Some(patching), Some(feed)) => patching.download(feed, self.bytes, self.written),
            (None, Some(feed)) => feed.download(self.bytes, self.written),
            (_, None) => Download {
                blob: self.image,
                from: self.position(),
                to: self.bytes,
                bytes: self.bytes,
            },
        }
    }

    /// Looks at what the slot already holds: the whole image, or prefixes to ask about.
    pub(crate) fn locate<F: MultiwriteNorFlash>(
        &mut self,
        flash: &mut Guarded<F>,
        slot: Slot,
    ) -> Result<(), Fault> {
        let mut head = [0; HEAD_BYTES];
        flash.read(slot.region.offset, &mut head)?;
        // A head may also be torn: then programming it again completes it.
        let can_become = head.iter().zip(self.head).all(|(is, to)| is & to == to);
        // The head comes last: behind one that has begun, all else was whole.
        let may_be_whole = can_become && !(self.is_suspect && is_blank(&head));
        if may_be_whole && self.is_whole(flash, slot)? {
            self.stage = Stage::Complete;
            return Ok(());
        }
        if is_blank(&head) {
            self.ask_beyond(flash, slot, 0)?;
        }
        Ok(())
    }

    /// Takes the server's word on the prefixes it was asked about: the longest true one.
    pub(crate) fn learn<F: MultiwriteNorFlash>(
        &mut self,
        flash: &mut Guarded<F>,
        slot: Slot,
        resume_from: u32,
    ) -> Result<(), Fault> {
        let Stage::Locating { held, known } = &self.stage else {
            return Ok(());
        };
        let longest = held.last().map_or(0, |held| held.bytes);
        let is_full = held.len() == HELD_MAX;
        let known = resume_from.min(longest).max(*known);
        match known == longest && is_full {
            true => self.ask_beyond(flash, slot, known)?,
            false => self.start_from(known),
        }
        Ok(())
    }

    /// Asks the server about prefixes longer than `known`, which is true. Where there are none,
    /// the download goes on from there.
    fn ask_beyond<F: MultiwriteNorFlash>(
        &mut self,
        flash: &mut Guarded<F>,
        slot: Slot,
        known: u32,
    ) -> Result<(), Fault> {
        let held = claims(flash, slot, self.bytes, known, self.is_suspect)?;
        match held.is_empty() {
            true => self.start_from(known),
            false => self.stage = Stage::Locating { held, known },
        }
        Ok(())
    }

    /// Downloads from `known`, rounded down to a sector.
    pub(crate) fn start_from(&mut self, known: u32) {
        let from = known.min(self.bytes) / SECTOR_BYTES * SECTOR_BYTES;
        self.stage = Stage::Downloading;
        self.patching = None;
        (self.resumed, self.head_is_ours) = (from > 0, false);
        (self.written, self.erased_to) = (from, from);
        self.suspect(from);
        (self.page, self.filled) = ([BLANK; PAGE_BYTES], 0);
        if let Some(feed) = &mut self.feed {
            feed.restart();
        }
    }

    /// The download goes on from here: what lies behind is suspect after a power loss.
    pub(crate) fn suspect(&mut self, from: u32) {
        self.suspect_from = from;
    }

    /// Whether some of what lies there may be neither blank nor written.
    fn is_suspect_at(&self, at: u32, bytes: u32) -> bool {
        let end = self.suspect_from + SUSPECT_BYTES;
        self.is_suspect && at < end && self.suspect_from < at + bytes
    }

    /// Takes the next bytes of the image; the caller has checked that they are not too many.
    pub(crate) fn take<F: MultiwriteNorFlash>(
        &mut self,
        flash: &mut Guarded<F>,
        slot: Slot,
        bytes: &[u8],
    ) -> Result<(), Fault> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(PAGE_BYTES - self.filled));
            self.page[self.filled..][..now.len()].copy_from_slice(now);
            self.filled += now.len();
            rest = later;
            let is_last = self.position() == self.bytes;
            if self.filled == PAGE_BYTES || is_last {
                let (page, filled) = (self.page, self.filled);
                self.filled = 0;
                self.write_page(flash, slot, &page[..filled])?;
            }
        }
        Ok(())
    }

    /// Programs a chunk that is proven, or the end of the image.
    pub(crate) fn place<F: MultiwriteNorFlash>(
        &mut self,
        flash: &mut Guarded<F>,
        slot: Slot,
        chunk: &[u8],
    ) -> Result<(), Fault> {
        chunk
            .chunks(PAGE_BYTES)
            .try_for_each(|page| self.write_page(flash, slot, page))
    }

    /// The same where flash may hold the chunk already: then nothing is erased or programmed.
    pub(crate) fn place_or_skip<F: MultiwriteNorFlash>(
        &mut self,
        flash: &mut Guarded<F>,
        slot: Slot,
        chunk: &[u8],
    ) -> Result<(), Fault> {
        let at = slot.region.offset + self.written;
        let head = if self.written == 0 { HEAD_BYTES } else { 0 };
        let head = head.min(chunk.len());
        let is_there = !self.is_suspect_at(self.written, chunk.len() as u32)
            && flash.is_blank(at, head as u32)?
            && flash.holds(at + head as u32, &chunk[head..])?;
        if !is_there {
            return self.place(flash, slot, chunk);
        }
        self.advance(chunk.len());
        self.erased_to = self
            .erased_to
            .max(self.written.next_multiple_of(SECTOR_BYTES));
        Ok(())
    }

    fn write_page<F: MultiwriteNorFlash>(
        &mut self,
        flash: &mut Guarded<F>,
        slot: Slot,
        page: &[u8],
    ) -> Result<(), Fault> {
        self.erase_ahead(flash, slot)?;
        // The head never comes from the stream: see `Updater::prove`.
        let head = if self.written == 0 { HEAD_BYTES } else { 0 };
        let at = slot.region.offset + self.written;
        let (words, rest) = page.split_at(page.len() / WORD_BYTES * WORD_BYTES);
        if let Some(words @ [_, ..]) = words.get(head..) {
            flash.program(at + head as u32, words)?;
        }
        if !rest.is_empty() {
            let mut word = [BLANK; WORD_BYTES];
            word[..rest.len()].copy_from_slice(rest);
            flash.program(at + words.len() as u32, &word)?;
        }
        self.advance(page.len());
        Ok(())
    }

    fn advance(&mut self, bytes: usize) {
        self.written += bytes as u32;
        if self.written == self.bytes {
            self.stage = Stage::Complete;
        }
    }

    /// Keeps the invariant of this module: the sector of `written` and the one behind it are blank.
    pub(crate) fn erase_ahead<F: MultiwriteNorFlash>(
        &mut self,
        flash: &mut Guarded<F>,
        slot: Slot,
    ) -> Result<(), Fault> {
        let end = self.bytes.next_multiple_of(SECTOR_BYTES);
        let ahead = (self.written / SECTOR_BYTES + 2) * SECTOR_BYTES;
        while self.erased_to < ahead.min(end) {
            let at = slot.region.offset + self.erased_to;
            let is_block = at.is_multiple_of(BLOCK_BYTES) && end - self.erased_to >= BLOCK_BYTES;
            let unit = if is_block { BLOCK_BYTES } else { SECTOR_BYTES };
            // Saves wear and time on a fresh slot and after a resume.
            if self.is_suspect_at(self.erased_to, unit) || !flash.is_blank(at, unit)? {
                flash.erase(at, unit)?;
            }
            self.erased_to += unit;
        }
        Ok(())
    }

    fn is_whole<F: MultiwriteNorFlash>(
        &self,
        flash: &mut Guarded<F>,
        slot: Slot,
    ) -> Result<bool, Fault> {
        let last = (self.bytes - 1) / SECTOR_BYTES * SECTOR_BYTES;
        if flash.is_blank(slot.region.offset + last, SECTOR_BYTES)? {
            return Ok(false);
        }
        Ok(digest(flash, slot, Some(&self.head), self.bytes)? == self.image)
    }
}

/// SHA-256 of the first `bytes` of a slot, with `head` in place of the first bytes in flash.
pub(crate) fn digest<F: MultiwriteNorFlash>(
    flash: &mut Guarded<F>,
    slot: Slot,
    head: Option<&[u8; HEAD_BYTES]>,
    bytes: u32,
) -> Result<Sha256, Fault> {
    let mut hasher = sha2::Sha256::new();
    let mut done = 0;
    if let Some(head) = head {
        hasher.update(head);
        done = HEAD_BYTES as u32;
    }
    let mut buffer = [0; PAGE_BYTES];
    while done < bytes {
        let part = &mut buffer[..(bytes - done).min(PAGE_BYTES as u32) as usize];
        flash.read(slot.region.offset + done, part)?;
        hasher.update(&*part);
        done += part.len() as u32;
    }
    Ok(Sha256(hasher.finalize().into()))
}

/// Places beyond `known` where a download of `bytes` may have stopped, nearest first, with the
/// digest of what lies before each. One pass over the slot, with three hasher states. The sector in
/// front of a blank one is left out where it is suspect.
fn claims<F: MultiwriteNorFlash>(
    flash: &mut Guarded<F>,
    slot: Slot,
    bytes: u32,
    known: u32,
    is_suspect: bool,
) -> Result<List<Held, HELD_MAX>, Fault> {
    let mut held = List::new();
    let mut claim = |bytes: u32, hasher: &sha2::Sha256| {
        if bytes <= known || held.last().is_some_and(|last: &Held| bytes <= last.bytes) {
            return true;
        }
        let whole: [u8; 32] = hasher.clone().finalize().into();
        let mut digest = [0; HELD_DIGEST_BYTES];
        digest.copy_from_slice(&whole[..HELD_DIGEST_BYTES]);
        held.push(Held { bytes, digest }).is_ok()
    };
    let last = (bytes - 1) / SECTOR_BYTES * SECTOR_BYTES;
    let mut here = sha2::Sha256::new();
    let mut before = here.clone();
    let mut was_blank = false;
    for start in (0..=last).step_by(SECTOR_BYTES as usize) {
        let mut after = here.clone();
        let blank = hash_sector(flash, slot, start, &mut after)?;
        if start == 0 && blank {
            break; // Nothing was ever downloaded here.
        }
        let stopped_here = (blank && !was_blank) || (!blank && start == last);
        if stopped_here {
            let room = claim(start.saturating_sub(SECTOR_BYTES), &before)
                && ((blank && is_suspect) || claim(start, &here));
            if !room {
                break;
            }
        }
        (before, here, was_blank) = (here, after, blank);
    }
    Ok(held)
}

/// Hashes a sector without the head, and says whether it is blank without it.
fn hash_sector<F: MultiwriteNorFlash>(
    flash: &mut Guarded<F>,
    slot: Slot,
    start: u32,
    hasher: &mut sha2::Sha256,
) -> Result<bool, Fault> {
    let mut buffer = [0; PAGE_BYTES];
    let mut blank = true;
    for page in (0..SECTOR_BYTES).step_by(PAGE_BYTES) {
        let skip = if start + page == 0 { HEAD_BYTES } else { 0 };
        flash.read(slot.region.offset + start + page, &mut buffer)?;
        blank &= is_blank(&buffer[skip..]);
        hasher.update(&buffer[skip..]);
    }
    Ok(blank)
}
