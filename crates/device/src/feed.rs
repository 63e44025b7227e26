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

/// What has arrived and is not yet proven.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Feed {
    artifact: Sha256,
    /// The span that the page in the workspace is for.
    span: u32,
    page_filled: usize,
    page_is_proven: bool,
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
            page_filled: 0,
            page_is_proven: false,
            chunk_filled: 0,
            rejected: 0,
        }
    }

    /// Bytes of the chunk under way are lost; its page stays where it is still the right one.
    pub(crate) fn restart(&mut self) {
        self.chunk_filled = 0;
    }

    fn has_page(&self, span: u32) -> bool {
        self.page_is_proven && self.span == span
    }

    /// What to fetch for an image of `bytes` that is programmed up to `written`.
    pub(crate) fn download(&self, bytes: u32, written: u32) -> Download {
        let span = written / index::SPAN_BYTES;
        let whole = index::artifact_bytes(bytes);
        let (from, to) = match self.has_page(span) {
            true => {
                let position = written + self.chunk_filled as u32;
                // The last byte of a span is still in front of the next page.
                let from = index::artifact_offset(bytes, written) + (position - written);
                (from, whole)
            }
            false => {
                let known = if self.span == span {
                    self.page_filled
                } else {
                    0
                };
                let page = index::page_offset(span);
                let to = match written.is_multiple_of(index::SPAN_BYTES) {
                    true => whole,
                    false => page + index::page_bytes(bytes, span) as u32,
                };
                (page + known as u32, to)
            }
        };
        Download {
            blob: self.artifact,
            from,
            to,
            bytes: whole,
        }
    }

    /// Takes bytes of a page; gives how many.
    fn take_page(
        &mut self,
        image_bytes: u32,
        span: u32,
        workspace: &mut Workspace,
        bytes: &[u8],
    ) -> Result<usize, FeedError> {
        if self.span != span {
            (self.span, self.page_filled) = (span, 0);
        }
        self.page_is_proven = false;
        let wanted = index::page_bytes(image_bytes, span);
        let taken = bytes.len().min(wanted - self.page_filled);
        workspace.page[self.page_filled..][..taken].copy_from_slice(&bytes[..taken]);
        self.page_filled += taken;
        if self.page_filled < wanted {
            return Ok(taken);
        }
        let at = span as usize * index::HASH_BYTES;
        let proof = &workspace.pages[at..at + index::HASH_BYTES];
        self.page_is_proven = index::hash(&workspace.page[..wanted]) == *proof;
        match self.page_is_proven {
            true => Ok(taken),
            false => {
                self.page_filled = 0;
                Err(FeedError::NotAuthentic)
            }
        }
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
        let number = (written % index::SPAN_BYTES / SECTOR_BYTES) as usize;
        let at = number * index::HASH_BYTES;
        let proof = &workspace.page[at..at + index::HASH_BYTES];
        match index::hash(&workspace.chunk[..wanted]) == *proof {
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
                let taken = feed.take_page(self.bytes, span, workspace, rest)?;
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
                self.take(flash, slot, &workspace.chunk[..bytes])?;
            }
        }
        Ok(())
    }
}
