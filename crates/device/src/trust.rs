//! Whom the device trusts, kept so that no power cut can take it away: the root it follows, the
//! security epoch it does not go below, and which releases its slots hold.
//!
//! Two sectors of a partition of its own (type 0x40, subtype 0, see `fota_image`). Each holds a
//! whole record; a change erases the older one and writes it anew, the header last:
//!
//! ```text
//! 0    4  "FTR1"
//! 4    4  generation, rising with each change; little-endian
//! 8    4  length of the root, 0 for none
//! 16   8  first bytes of the SHA-256 over bytes 0..16, the facts and the root
//! 32   …  the facts, CBOR in 256 bytes
//! 288  …  the root, as it was signed
//! ```
//!
//! The record with the higher generation and a right digest counts. Until the new header is whole
//! that is the old record, whatever a torn erase or write leaves behind.

use core::ops::Range;

use embedded_storage::nor_flash::MultiwriteNorFlash;
use fota_image::partition::Region;
use fota_proto::{
    DeviceId, Sha256,
    checkin::{Answer, LogHead},
    limits::{CHALLENGE_BYTES, SLOTS_MAX},
    list::List,
    log,
    signed::{Envelope, OBJECT_BYTES_MAX, Release, Root, SignedError, index},
};
use minicbor::{Decode, Encode};
use sha2::Digest;

use crate::{
    decoder::PatchDecoder,
    flash::{BLANK, Fault, Guarded, PAGE_BYTES, SECTOR_BYTES},
    updater::AnswerError,
};

const MAGIC: [u8; 4] = *b"FTR1";
const HEADER_BYTES: usize = 32;
const DIGESTED_BYTES: usize = 16;
const FACTS_BYTES: usize = 256;
const ROOT_OFFSET: u32 = (HEADER_BYTES + FACTS_BYTES) as u32;
/// Page hashes of the largest image.
const PAGES_BYTES: usize = 32 * index::HASH_BYTES;

const _: () = assert!(ROOT_OFFSET as usize + OBJECT_BYTES_MAX <= SECTOR_BYTES as usize);
const _: () = assert!(
    PAGES_BYTES
        == index::pages(fota_proto::limits::IMAGE_BYTES_MAX as u32) as usize * index::HASH_BYTES
);

/// Where an updater that proves every chunk keeps what it proves with, 6.6 KB: put it into a
/// `static`, so that it is never on the stack.
pub struct Workspace {
    pub(crate) pages: [u8; PAGES_BYTES],
    pub(crate) page: [u8; index::PAGE_BYTES],
    pub(crate) chunk: [u8; SECTOR_BYTES as usize],
}

impl Workspace {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            pages: [0; PAGES_BYTES],
            page: [0; index::PAGE_BYTES],
            chunk: [0; SECTOR_BYTES as usize],
        }
    }

    /// The hash of the page of a span.
    pub(crate) fn page_hash(&self, span: u32) -> &[u8] {
        let at = span as usize * index::HASH_BYTES;
        &self.pages[at..at + index::HASH_BYTES]
    }

    /// The place of a page. The first has its own; while a patch is applied, further ones are where
    /// the chunk of an artifact would be.
    pub(crate) fn page(&self, number: u32) -> &[u8] {
        match further(number) {
            None => &self.page,
            Some(at) => &self.chunk[at],
        }
    }

    pub(crate) fn page_mut(&mut self, number: u32) -> &mut [u8] {
        match further(number) {
            None => &mut self.page,
            Some(at) => &mut self.chunk[at],
        }
    }
}

fn further(number: u32) -> Option<Range<usize>> {
    let at = number.checked_sub(1)? as usize * index::PAGE_BYTES;
    Some(at..at + index::PAGE_BYTES)
}

impl Default for Workspace {
    fn default() -> Self {
        Self::new()
    }
}

/// By whose word a device acts.
pub enum Trust<'w> {
    /// Whoever answers. For development: nothing stops a stolen server or a stranger on the wire.
    Anybody,
    /// The first root that a server shows, from then on only that one and what follows it. For
    /// devices that are set up in a place that is trusted.
    FirstUse(&'w mut Workspace),
    /// This root, as it was signed, and what follows it.
    Root(&'w [u8], &'w mut Workspace),
}

/// A release that a slot may hold, by the ELF digest of its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(crate) struct Known {
    #[n(0)]
    pub(crate) elf: Sha256,
    #[n(1)]
    pub(crate) sequence: u32,
    #[n(2)]
    pub(crate) epoch: u32,
}

/// What is remembered beside the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Facts {
    /// Security epoch below which nothing is started any more.
    #[n(0)]
    pub(crate) epoch: u32,
    #[n(1)]
    pub(crate) known: List<Known, SLOTS_MAX>,
    /// The longest head of the release log that was shown and follows from those before.
    #[n(2)]
    pub(crate) log: Option<LogHead>,
}

impl Facts {
    pub(crate) fn of(&self, elf: Sha256) -> Option<&Known> {
        self.known.iter().find(|known| known.elf == elf)
    }

    /// With `new` among the known, in place of the first that is not `keep`.
    pub(crate) fn with(&self, new: Known, keep: Sha256) -> Self {
        let mut facts = Self {
            known: List::new(),
            ..self.clone()
        };
        let others = self.known.iter().filter(|known| known.elf != new.elf);
        let is_full = others.clone().count() == SLOTS_MAX;
        let mut dropped = !is_full;
        for known in others {
            if !dropped && known.elf != keep {
                dropped = true;
                continue;
            }
            let _ = facts.known.push(*known); // there is room: one was dropped, or not full
        }
        let _ = facts.known.push(new);
        facts
    }
}

/// Why a device cannot be started with the trust it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Nowhere to keep it.
    #[error(
        "the partition table has no partition of type 0x40, subtype 0 for what this device trusts: \
         add one of 8,192 bytes"
    )]
    NoPartition,
    /// The root in the firmware.
    #[error("the root in this firmware: {0}")]
    Root(SignedError),
}

/// What an answer turned out to be.
pub(crate) enum Opened<'a> {
    /// From the server, for this device.
    Payload(&'a [u8]),
    /// A newer root is needed before anything else.
    NewerRoot(u32),
    /// This device waits for a first root, and the server has none to show yet. What it says of
    /// itself can be believed: it only makes the device speak again.
    NoRoot {
        retry_after_s: u32,
        challenge: Option<[u8; CHALLENGE_BYTES]>,
    },
}

/// The trust of a running updater.
pub(crate) struct Keeper<'w> {
    anchor: Option<&'w [u8]>,
    pub(crate) workspace: &'w mut Workspace,
    /// What applies patches, where the caller brought it.
    pub(crate) decoder: Option<&'w mut (dyn PatchDecoder + 'static)>,
    at: u32,
    /// The sector with the newest record.
    sector: Option<u32>,
    generation: u32,
    /// Length of the root in that record.
    root_bytes: usize,
    /// Version of the root that is followed; 0 before there is one.
    pub(crate) root_version: u32,
    /// The root is the one in the firmware and not the stored one.
    is_anchor: bool,
    pub(crate) facts: Facts,
    /// The head of the release log in the last answer.
    pub(crate) head: Option<LogHead>,
    /// A head was shown that does not follow from the one that is kept.
    pub(crate) is_forked: bool,
    /// Seconds of uptime at the last check-in that was answered by the server itself.
    pub(crate) fresh_at_s: u32,
}

impl<'w> Keeper<'w> {
    /// Reads what is stored.
    pub(crate) fn read<F: MultiwriteNorFlash>(
        flash: &mut Guarded<F>,
        region: Option<Region>,
        anchor: Option<&'w [u8]>,
        workspace: &'w mut Workspace,
    ) -> Result<Result<Self, TrustError>, Fault> {
        let Some(region) = region else {
            return Ok(Err(TrustError::NoPartition));
        };
        let anchor_version = match anchor.map(version_of).transpose() {
            Ok(version) => version.unwrap_or(0),
            Err(error) => return Ok(Err(TrustError::Root(error))),
        };
        let mut keeper = Self {
            anchor,
            workspace,
            decoder: None,
            at: region.offset,
            sector: None,
            generation: 0,
            root_bytes: 0,
            root_version: 0,
            is_anchor: false,
            facts: Facts::default(),
            head: None,
            is_forked: false,
            fresh_at_s: 0,
        };
        for sector in 0..2 {
            keeper.take_record(flash, sector)?;
        }
        if keeper.root_bytes > 0 {
            let version = keeper.with_stored_root(flash, |bytes| version_of(bytes).unwrap_or(0))?;
            keeper.root_version = version;
        }
        // Firmware that was installed as trusted may bring a newer root.
        if anchor_version > keeper.root_version {
            (keeper.root_version, keeper.is_anchor) = (anchor_version, true);
        }
        Ok(Ok(keeper))
    }

    fn take_record<F: MultiwriteNorFlash>(
        &mut self,
        flash: &mut Guarded<F>,
        sector: u32,
    ) -> Result<(), Fault> {
        let at = self.at + sector * SECTOR_BYTES;
        let mut header = [0; HEADER_BYTES];
        flash.read(at, &mut header)?;
        let word = |index: usize| {
            u32::from_le_bytes([
                header[index],
                header[index + 1],
                header[index + 2],
                header[index + 3],
            ])
        };
        let (generation, root_bytes) = (word(4), word(8) as usize);
        let is_newer = self.sector.is_none() || generation > self.generation;
        if header[..4] != MAGIC || root_bytes > OBJECT_BYTES_MAX || !is_newer {
            return Ok(());
        }
        let mut hasher = sha2::Sha256::new();
        hasher.update(&header[..DIGESTED_BYTES]);
        let mut facts = [0; FACTS_BYTES];
        flash.read(at + HEADER_BYTES as u32, &mut facts)?;
        hasher.update(facts);
        for_each_part(flash, at + ROOT_OFFSET, root_bytes, |part| {
            hasher.update(part);
        })?;
        let digest: [u8; 32] = hasher.finalize().into();
        if digest[..8] != header[16..24] {
            return Ok(());
        }
        let Ok(facts) = minicbor::decode(&facts) else {
            return Ok(());
        };
        self.facts = facts;
        (self.sector, self.generation) = (Some(sector), generation);
        self.root_bytes = root_bytes;
        Ok(())
    }

    /// Writes a record with these facts, and with `root` in place of the stored one.
    pub(crate) fn store<F: MultiwriteNorFlash>(
        &mut self,
        flash: &mut Guarded<F>,
        facts: Facts,
        root: Option<&[u8]>,
    ) -> Result<(), Fault> {
        let sector = self.sector.map_or(0, |sector| 1 - sector);
        let at = self.at + sector * SECTOR_BYTES;
        flash.erase(at, SECTOR_BYTES)?;
        let root_bytes = root.map_or(self.root_bytes, <[u8]>::len);
        let mut header = [BLANK; HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        header[4..8].copy_from_slice(&(self.generation + 1).to_le_bytes());
        header[8..12].copy_from_slice(&(root_bytes as u32).to_le_bytes());
        let mut hasher = sha2::Sha256::new();
        hasher.update(&header[..DIGESTED_BYTES]);
        let mut page = [0; FACTS_BYTES];
        let fits = fota_proto::checkin::encode(&facts, &mut page).is_some();
        debug_assert!(fits, "four releases and a head fit 256 bytes");
        hasher.update(page);
        program(flash, at + HEADER_BYTES as u32, &page)?;
        let from = self.at + self.sector.unwrap_or(0) * SECTOR_BYTES + ROOT_OFFSET;
        let mut done = 0;
        while done < root_bytes {
            let mut part = [BLANK; PAGE_BYTES];
            let bytes = (root_bytes - done).min(PAGE_BYTES);
            match root {
                Some(root) => part[..bytes].copy_from_slice(&root[done..done + bytes]),
                None => flash.read(from + done as u32, &mut part[..bytes])?,
            }
            hasher.update(&part[..bytes]);
            let span = bytes.next_multiple_of(4);
            program(flash, at + ROOT_OFFSET + done as u32, &part[..span])?;
            done += bytes;
        }
        let digest: [u8; 32] = hasher.finalize().into();
        header[16..24].copy_from_slice(&digest[..8]);
        program(flash, at, &header)?;
        (self.sector, self.generation) = (Some(sector), self.generation + 1);
        (self.root_bytes, self.facts) = (root_bytes, facts);
        Ok(())
    }

    /// Whether an answer is the server's and for this device, or a newer root must come first.
    ///
    /// A root proves itself by the keys of the one before, so a hint of a newer one is followed
    /// even where the answer cannot be verified: its online key may be the one that was replaced.
    #[inline(never)]
    pub(crate) fn open<'a, F: MultiwriteNorFlash>(
        &self,
        flash: &mut Guarded<F>,
        device: &DeviceId,
        bytes: &'a [u8],
    ) -> Result<Opened<'a>, AnswerError> {
        let payload = match Envelope::parse(bytes) {
            Ok(envelope) => envelope.payload,
            Err(_) => bytes, // a server without a root of its own
        };
        let answer: Answer = minicbor::decode(payload).map_err(|_| AnswerError::Malformed)?;
        let newest = answer.root.unwrap_or(0);
        if self.root_version == 0 {
            return match newest {
                0 => Ok(Opened::NoRoot {
                    retry_after_s: answer.retry_after_s,
                    challenge: answer.challenge,
                }),
                first => Ok(Opened::NewerRoot(first)),
            };
        }
        if newest > self.root_version {
            return Ok(Opened::NewerRoot(self.root_version + 1));
        }
        self.with_root(flash, |root| root.answer(bytes).map(drop))?
            .map_err(AnswerError::Untrusted)?;
        match answer.device == Some(device.as_str()) {
            true => Ok(Opened::Payload(payload)),
            false => Err(AnswerError::OtherDevice),
        }
    }

    /// Notes the head of the log in an answer. The first one is kept; a later one takes its place
    /// only by a proof (see [`Keeper::grow`]).
    pub(crate) fn note_head(&mut self, head: Option<LogHead>) {
        self.head = head;
        self.facts.log = self.facts.log.or(head);
        if let (Some(known), Some(head)) = (self.facts.log, head) {
            let is_other = head.size == known.size && head.root != known.root;
            self.is_forked |= is_other || head.size < known.size;
        }
    }

    /// The two heads between which a proof is wanted, where the log has grown.
    pub(crate) fn growth(&self) -> Option<(LogHead, LogHead)> {
        let (known, head) = (self.facts.log?, self.head?);
        (known.size < head.size).then_some((known, head))
    }

    /// Keeps the newer head where the proof leads to it. Where it does not, the older one stays,
    /// and is what check-ins repeat: whoever compares finds the fork. Updates go on: a server that
    /// was restored from a backup must still reach its devices.
    pub(crate) fn grow(&mut self, path: &[Sha256]) {
        let Some((known, head)) = self.growth() else {
            return;
        };
        match log::verify_consistency(known, head, path) {
            true => self.facts.log = Some(head),
            false => self.is_forked = true,
        }
    }

    /// Takes a root: the first one where there is none yet, else the one that follows.
    #[inline(never)]
    pub(crate) fn adopt<F: MultiwriteNorFlash>(
        &mut self,
        flash: &mut Guarded<F>,
        bytes: &[u8],
    ) -> Result<Result<(), SignedError>, Fault> {
        let version = match self.root_version {
            0 => Root::first(bytes).map(|root| root.version),
            _ => self.with_root(flash, |root| root.succeed(bytes).map(|root| root.version))?,
        };
        let version = match version {
            Ok(version) => version,
            Err(error) => return Ok(Err(error)),
        };
        self.store(flash, self.facts.clone(), Some(bytes))?;
        (self.root_version, self.is_anchor) = (version, false);
        Ok(Ok(()))
    }

    /// The release in these bytes, where the release keys have signed it.
    #[inline(never)]
    pub(crate) fn release<'r, F: MultiwriteNorFlash>(
        &self,
        flash: &mut Guarded<F>,
        bytes: &'r [u8],
    ) -> Result<Result<Release<'r>, SignedError>, Fault> {
        self.with_root(flash, |root| {
            let release = root.release(bytes)?;
            match root.product.is_none_or(|scope| scope == release.product) {
                true => Ok(release),
                false => Err(SignedError::Field {
                    what: "release",
                    field: "product (outside the root's)",
                }),
            }
        })
    }

    fn with_root<F: MultiwriteNorFlash, R>(
        &self,
        flash: &mut Guarded<F>,
        look: impl FnOnce(&Root<'_>) -> Result<R, SignedError>,
    ) -> Result<Result<R, SignedError>, Fault> {
        let parse = |bytes: &[u8]| {
            let envelope = Envelope::parse(bytes)?;
            look(&Root::parse(envelope.payload)?)
        };
        match (self.is_anchor, self.anchor) {
            (true, Some(anchor)) => Ok(parse(anchor)),
            _ => self.with_stored_root(flash, parse),
        }
    }

    fn with_stored_root<F: MultiwriteNorFlash, R>(
        &self,
        flash: &mut Guarded<F>,
        look: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, Fault> {
        let mut root = [0; OBJECT_BYTES_MAX];
        let at = self.at + self.sector.unwrap_or(0) * SECTOR_BYTES + ROOT_OFFSET;
        let root = &mut root[..self.root_bytes];
        flash.read(at, root)?;
        Ok(look(root))
    }
}

fn version_of(bytes: &[u8]) -> Result<u32, SignedError> {
    Ok(Root::parse(Envelope::parse(bytes)?.payload)?.version)
}

/// Programs within pages, and reads back.
fn program<F: MultiwriteNorFlash>(
    flash: &mut Guarded<F>,
    at: u32,
    bytes: &[u8],
) -> Result<(), Fault> {
    let mut done = 0;
    while done < bytes.len() {
        let here = at + done as u32;
        let room = PAGE_BYTES - here as usize % PAGE_BYTES;
        let part = &bytes[done..bytes.len().min(done + room)];
        flash.program_checked(here, part)?;
        done += part.len();
    }
    Ok(())
}

fn for_each_part<F: MultiwriteNorFlash>(
    flash: &mut Guarded<F>,
    at: u32,
    bytes: usize,
    mut look: impl FnMut(&[u8]),
) -> Result<(), Fault> {
    let mut buffer = [0; 64];
    for done in (0..bytes).step_by(buffer.len()) {
        let part = &mut buffer[..(bytes - done).min(64)];
        flash.read(at + done as u32, part)?;
        look(part);
    }
    Ok(())
}
