//! An artifact as it comes in: pages of the index and what they prove, in one stream. A chunk is
//! programmed only after its hash is found in a page whose hash the signed release names.
//!
//! | what arrives | when | then |
//! |---|---|---|
//! | a page | at the start of its span, or alone where a download goes on inside a span | it is proven, or dropped |
//! | a chunk | behind its page | it is proven and programmed, or dropped |

use embedded_storage::nor_flash::MultiwriteNorFlash;
use fota_proto::{Sha256, signed::index};

use crate::{
    flash::{Fault, Guarded, SECTOR_BYTES},
    job::Job,
    slot::Slot,
    trust::Workspace,
    updater::Download,
};

/// Wrong chunks or pages in one order before it ends: a link that damages bytes is tried again,
/// one that never brings the right ones is not.
pub(crate) const REJECTED_MAX: u8 = 16;

/// Pages of the index that are held while an artifact comes in.
const ARTIFACT_PAGES_MAX: u32 = 1;
/// Pages of the index that are held while a patch is applied: its chunks come from the decoder, so
/// that there is room for two more.
pub(crate) const PATCH_PAGES_MAX: u32 = 1 + (SECTOR_BYTES as usize / index::PAGE_BYTES) as u32;

/// What has arrived and is not yet proven.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Feed {
    artifact: Sha256,
    /// The first span of which the page is held, or under way.
    span: u32,
    /// Pages from that one on that are held and proven.
    pages: u32,
    /// Bytes of the page behind them.
    page_filled: usize,
    pub(crate) chunk_filled: usize,
    pub(crate) rejected: u8,
}

/// Why bytes of an artifact were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FeedError {
    /// They are not what the release names; nothing of them was programmed.
    NotAuthentic,
    /// More than was asked for.
    TooMany(u32),
    /// The flash.
    Flash(Fault),
}

impl From<Fault> for FeedError {
    fn from(fault: Fault) -> Self {
        Self::Flash(fault)
    }
}

impl Feed {
    pub(crate) fn new(artifact: Sha256) -> Self {
        Self {
            artifact,
            span: 0,
            pages: 0,
            page_filled: 0,
            chunk_filled: 0,
            rejected: 0,
        }
    }

    /// Bytes of the chunk under way are lost; its page stays where it is still the right one.
    pub(crate) fn restart(&mut self) {
        self.chunk_filled = 0;
    }

    fn has_page(&self, span: u32) -> bool {
        self.pages > 0 && (self.span..self.span + self.pages).contains(&span)
    }

    /// What to fetch for an image of `bytes` that is programmed up to `written`.
    pub(crate) fn download(&self, bytes: u32, written: u32) -> Download {
        let span = written / index::SPAN_BYTES;
        let whole = index::artifact_bytes(bytes);
        if self.has_page(span) {
            let position = written + self.chunk_filled as u32;
            // The last byte of a span is still in front of the next page.
            let from = index::artifact_offset(bytes, written) + (position - written);
            return self.part(from, whole, bytes);
        }
        let page = self.page_download(bytes, span);
        match written.is_multiple_of(index::SPAN_BYTES) {
            true => self.part(page.from, whole, bytes),
            false => page,
        }
    }

    /// What to fetch of a page on its own.
    pub(crate) fn page_download(&self, bytes: u32, span: u32) -> Download {
        let known = match span == self.span + self.pages {
            true => self.page_filled,
            false => 0,
        };
        let page = index::page_offset(span);
        let to = page + index::page_bytes(bytes, span) as u32;
        self.part(page + known as u32, to, bytes)
    }

    fn part(&self, from: u32, to: u32, image_bytes: u32) -> Download {
        Download {
            blob: self.artifact,
            from,
            to,
            bytes: index::artifact_bytes(image_bytes),
        }
    }

    /// The span of which the page is to be fetched before a patch can go on from `written`: as many
    /// are held as there is room for.
    pub(crate) fn wanted_page(&self, bytes: u32, written: u32) -> Option<u32> {
        let span = written / index::SPAN_BYTES;
        if !self.has_page(span) {
            return Some(span);
        }
        let next = self.span + self.pages;
        (self.pages < PATCH_PAGES_MAX && next < index::pages(bytes)).then_some(next)
    }

    /// Makes room for chunks of the artifact: only the page of `written` stays.
    pub(crate) fn leave_patch(&mut self, written: u32, workspace: &mut Workspace) {
        let span = written / index::SPAN_BYTES;
        let is_held = self.has_page(span);
        if is_held && span > self.span {
            let at = (span - self.span - 1) as usize * index::PAGE_BYTES;
            let page = &workspace.chunk[at..at + index::PAGE_BYTES];
            workspace.page.copy_from_slice(page);
        }
        (self.span, self.pages) = (span, is_held.into());
        (self.page_filled, self.chunk_filled) = (0, 0);
    }

    /// Takes bytes of a page; gives how many. It joins those that are held while there are fewer
    /// than `room`, and else takes their place.
    pub(crate) fn take_page(
        &mut self,
        room: u32,
        image_bytes: u32,
        span: u32,
        workspace: &mut Workspace,
        bytes: &[u8],
    ) -> Result<usize, FeedError> {
        if span != self.span + self.pages || self.pages >= room {
            (self.span, self.pages, self.page_filled) = (span, 0, 0);
        }
        let wanted = index::page_bytes(image_bytes, span);
        let taken = bytes.len().min(wanted - self.page_filled);
        let page = workspace.page_mut(self.pages);
        page[self.page_filled..][..taken].copy_from_slice(&bytes[..taken]);
        self.page_filled += taken;
        if self.page_filled < wanted {
            return Ok(taken);
        }
        self.page_filled = 0;
        let is_proven = index::hash(&page[..wanted]) == *workspace.page_hash(span);
        match is_proven {
            true => {
                self.pages += 1;
                Ok(taken)
            }
            false => Err(FeedError::NotAuthentic),
        }
    }

    /// Whether these bytes are the chunk at `written`.
    pub(crate) fn is_chunk(&self, workspace: &Workspace, written: u32, bytes: &[u8]) -> bool {
        let span = written / index::SPAN_BYTES;
        if !self.has_page(span) {
            return false;
        }
        let number = (written % index::SPAN_BYTES / SECTOR_BYTES) as usize;
        let at = number * index::HASH_BYTES;
        let page = workspace.page(span - self.span);
        index::hash(bytes) == page[at..at + index::HASH_BYTES]
    }

    /// Takes bytes of a chunk; gives how many, and whether it is whole and proven.
    fn take_chunk(
        &mut self,
        image_bytes: u32,
        written: u32,
        workspace: &mut Workspace,
        bytes: &[u8],
    ) -> Result<(usize, Option<usize>), FeedError> {
        let wanted = (image_bytes - written).min(SECTOR_BYTES) as usize;
        let taken = bytes.len().min(wanted - self.chunk_filled);
        workspace.chunk[self.chunk_filled..][..taken].copy_from_slice(&bytes[..taken]);
        self.chunk_filled += taken;
        if self.chunk_filled < wanted {
            return Ok((taken, None));
        }
        self.chunk_filled = 0;
        match self.is_chunk(workspace, written, &workspace.chunk[..wanted]) {
            true => Ok((taken, Some(wanted))),
            false => Err(FeedError::NotAuthentic),
        }
    }
}

impl Job {
    /// Takes the next bytes of the artifact.
    pub(crate) fn take_proven<F: MultiwriteNorFlash>(
        &mut self,
        flash: &mut Guarded<F>,
        slot: Slot,
        workspace: &mut Workspace,
        bytes: &[u8],
    ) -> Result<(), FeedError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (written, Some(feed)) = (self.written(), &mut self.feed) else {
                return Err(FeedError::TooMany(rest.len() as u32));
            };
            if written == self.bytes {
                return Err(FeedError::TooMany(rest.len() as u32));
            }
            let span = written / index::SPAN_BYTES;
            if !feed.has_page(span) {
                let taken =
                    feed.take_page(ARTIFACT_PAGES_MAX, self.bytes, span, workspace, rest)?;
                rest = &rest[taken..];
                let was_alone = !written.is_multiple_of(index::SPAN_BYTES);
                if was_alone && feed.has_page(span) && !rest.is_empty() {
                    // What follows a page in the artifact is the start of its span.
                    return Err(FeedError::TooMany(rest.len() as u32));
                }
                continue;
            }
            let (taken, whole) = feed.take_chunk(self.bytes, written, workspace, rest)?;
            rest = &rest[taken..];
            if let Some(bytes) = whole {
                self.place(flash, slot, &workspace.chunk[..bytes])?;
            }
        }
        Ok(())
    }
}
