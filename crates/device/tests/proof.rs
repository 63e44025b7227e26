//! Nothing unverified is ever bootable, looked at after every single flash operation.

mod common;

use std::cell::RefCell;

use common::{OTADATA, SLOT_BYTES, SLOTS, bench, exchange_with, firmware, updated};
use embedded_storage::nor_flash::{ErrorType, MultiwriteNorFlash, NorFlash, ReadNorFlash};
use fota_device::{Next, ProveError, ReceiveError, Started, Trust, Updater};
use fota_image::{
    app::{self, Window},
    otadata::{ENTRY_BYTES, Entry},
};
use fota_proto::{FailureCode, Sha256, checkin::ResetReason};
use fota_sim::{
    bench::Bench,
    firmware::Behaviour,
    flash::{FlashError, Op, OpKind, SimFlash},
    scripted::{Artifact, Ask, ScriptedServer},
};

/// A flash that is looked at after each write and erase.
struct Watched<'a, L> {
    flash: &'a RefCell<SimFlash>,
    look: L,
}

impl<L> ErrorType for Watched<'_, L> {
    type Error = FlashError;
}

impl<L> ReadNorFlash for Watched<'_, L> {
    const READ_SIZE: usize = 4;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        assert_eq!(
            offset % 4 + bytes.len() as u32 % 4,
            0,
            "the driver reads words"
        );
        ReadNorFlash::read(&mut *self.flash.borrow_mut(), offset, bytes)
    }

    fn capacity(&self) -> usize {
        self.flash.borrow().capacity()
    }
}

impl<L: FnMut(&SimFlash)> NorFlash for Watched<'_, L> {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 4096;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        self.flash.borrow_mut().erase(from, to)?;
        (self.look)(&self.flash.borrow());
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        self.flash.borrow_mut().write(offset, bytes)?;
        (self.look)(&self.flash.borrow());
        Ok(())
    }
}

impl<L: FnMut(&SimFlash)> MultiwriteNorFlash for Watched<'_, L> {}

/// The digest of the image in a slot, if a bootloader would take it for one.
fn bootable(flash: &SimFlash, slot: u32) -> Option<Sha256> {
    let mut window = Window {
        source: flash.clone(),
        base: slot,
    };
    let image = app::check(&mut window, SLOT_BYTES).ok()?;
    Some(Sha256(image.sha256))
}

fn named_slots(flash: &SimFlash) -> Vec<u32> {
    let entries = OTADATA.map(|at| {
        let bytes = flash.bytes(at..at + ENTRY_BYTES as u32).unwrap();
        Entry::parse(&bytes.try_into().unwrap())
    });
    let usable = entries.into_iter().filter(Entry::usable);
    usable
        .map(|entry| SLOTS[(entry.seq as usize - 1) % 2])
        .collect()
}

/// An install into the slot that does not run, with whatever is in it before.
fn install_watched(bench: Bench, artifact: &Artifact, running: usize, body: &[u8]) -> u32 {
    let target = SLOTS[1 - running];
    let before = bootable(&bench.flash, target);
    let flash = RefCell::new(bench.flash);
    let proving = RefCell::new(false);
    let mut looks = 0;
    let watched = Watched {
        flash: &flash,
        look: |flash: &SimFlash| {
            looks += 1;
            let there = bootable(flash, target);
            if let Some(there) = there.filter(|there| Some(*there) != before) {
                assert!(*proving.borrow(), "bootable before the proof");
                assert_eq!(there, artifact.sha256, "only the ordered image");
            }
            for slot in named_slots(flash) {
                assert!(
                    bootable(flash, slot).is_some(),
                    "otadata names what would not boot"
                );
            }
        },
    };
    let info = common::boot_info(SLOTS[running], ResetReason::PowerOn);
    let Ok(Started::Run(mut updater)) = Updater::start(watched, info, Trust::Anybody) else {
        panic!("it runs");
    };
    let server = ScriptedServer::new(9, Ask::Install(artifact.clone()));
    let next = exchange_with(&mut updater, &server);
    assert!(matches!(next, Next::Download(_)), "{next:?}");
    body.chunks(1_111)
        .for_each(|part| updater.receive(part).unwrap());
    *proving.borrow_mut() = true;
    if let Ok(verified) = updater.prove() {
        let _ = verified.activate().unwrap();
    }
    drop(updater);
    looks
}

#[test]
fn an_image_is_bootable_only_after_its_proof() {
    let artifact = firmware("3.0.0", Behaviour::Works);
    let looks = install_watched(bench(false), &artifact, 0, artifact.bytes())
        + install_watched(updated(true), &artifact, 1, artifact.bytes());
    println!("looked after {looks} flash operations");
}

#[test]
fn other_bytes_are_never_bootable() {
    let artifact = firmware("3.0.0", Behaviour::Works);
    let other = firmware("4.0.0", Behaviour::Works);
    install_watched(updated(false), &artifact, 1, other.bytes());
    let mut flipped = artifact.bytes().to_vec();
    flipped[77_777] ^= 4;
    install_watched(updated(true), &artifact, 1, &flipped);
}

/// A flash with a worn place: what is written there does not stay, and the driver does not notice.
struct Worn<'a> {
    flash: &'a mut SimFlash,
    place: u32,
}

impl ErrorType for Worn<'_> {
    type Error = FlashError;
}

impl ReadNorFlash for Worn<'_> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        ReadNorFlash::read(self.flash, offset, bytes)
    }

    fn capacity(&self) -> usize {
        self.flash.capacity()
    }
}

impl NorFlash for Worn<'_> {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 4096;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        self.flash.erase(from, to)
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        let mut bytes = bytes.to_vec();
        if let Some(byte) = self
            .place
            .checked_sub(offset)
            .and_then(|at| bytes.get_mut(at as usize))
        {
            let there = self.flash.bytes(self.place..self.place + 1)?;
            *byte = there[0];
        }
        self.flash.write(offset, &bytes)
    }
}

impl MultiwriteNorFlash for Worn<'_> {}

/// When the worn place was found.
#[derive(Debug, PartialEq)]
enum When {
    /// Before the first byte of the download.
    AtOrder,
    Later,
}

/// What comes of an install on a flash that is worn at `place`.
fn install_worn(place: u32) -> (Bench, When, Result<(), FailureCode>) {
    let mut bench = updated(false);
    let artifact = firmware("3.0.0", Behaviour::Works);
    let worn = Worn {
        flash: &mut bench.flash,
        place,
    };
    let info = common::boot_info(SLOTS[1], ResetReason::PowerOn);
    let Ok(Started::Run(mut updater)) = Updater::start(worn, info, Trust::Anybody) else {
        panic!("it runs");
    };
    let server = ScriptedServer::new(9, Ask::Install(artifact.clone()));
    let (when, result) = match exchange_with(&mut updater, &server) {
        Next::Download(_) => {
            updater.receive(artifact.bytes()).unwrap();
            let result = match updater.prove() {
                Ok(verified) => verified
                    .activate()
                    .map(drop)
                    .map_err(|_| FailureCode::FlashWrite),
                Err(ProveError::Failed(code)) => Err(code),
                Err(error) => panic!("{error}"),
            };
            (When::Later, result)
        }
        next => {
            assert_eq!(next, Next::CheckIn, "the order has ended");
            assert_eq!(updater.receive(&[0]), Err(ReceiveError::NotDownloading));
            (When::AtOrder, Err(FailureCode::FlashWrite))
        }
    };
    drop(updater);
    (bench, when, result)
}

#[test]
fn worn_flash_is_found_before_the_switch() {
    let write = Err(FailureCode::FlashWrite);
    for (place, when, expected) in [
        (SLOTS[0], When::AtOrder, write),
        (SLOTS[0] + 5, When::Later, write),
        (
            SLOTS[0] + 100_000,
            When::Later,
            Err(FailureCode::HashMismatch),
        ),
        (OTADATA[0], When::Later, write),
        (OTADATA[0] + 5, When::Later, write),
        (OTADATA[0] + 24, When::Later, write),
        (OTADATA[0] + 29, When::AtOrder, write),
    ] {
        let (bench, found, result) = install_worn(place);
        assert_eq!((found, result), (when, expected), "worn at {place:#x}");
        assert_eq!(common::runs(&bench), "2.0.0", "worn at {place:#x}");
        assert!(bootable(&bench.flash, SLOTS[1]).is_some());
    }
}

/// A flash in which programming one place disturbs another.
struct Disturbed<'a> {
    flash: &'a mut SimFlash,
    place: u32,
    other: u32,
}

impl ErrorType for Disturbed<'_> {
    type Error = FlashError;
}

impl ReadNorFlash for Disturbed<'_> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        ReadNorFlash::read(self.flash, offset, bytes)
    }

    fn capacity(&self) -> usize {
        self.flash.capacity()
    }
}

impl NorFlash for Disturbed<'_> {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 4096;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        self.flash.erase(from, to)
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        self.flash.write(offset, bytes)?;
        if offset == self.place && bytes[0] == app::MAGIC {
            let there = self.flash.bytes(self.other..self.other + 1)?;
            self.flash.load(self.other, &[there[0] ^ 0x10])?;
        }
        Ok(())
    }
}

impl MultiwriteNorFlash for Disturbed<'_> {}

#[test]
fn what_changes_while_the_head_is_programmed_is_found() {
    let mut bench = updated(false);
    let artifact = firmware("3.0.0", Behaviour::Works);
    let disturbed = Disturbed {
        flash: &mut bench.flash,
        place: SLOTS[0],
        other: SLOTS[0] + 120_000,
    };
    let info = common::boot_info(SLOTS[1], ResetReason::PowerOn);
    let Ok(Started::Run(mut updater)) = Updater::start(disturbed, info, Trust::Anybody) else {
        panic!("it runs");
    };
    let server = ScriptedServer::new(9, Ask::Install(artifact.clone()));
    exchange_with(&mut updater, &server);
    updater.receive(artifact.bytes()).unwrap();
    let error = ProveError::Failed(FailureCode::HashMismatch);
    assert_eq!(updater.prove().unwrap_err(), error);
    drop(updater);
    assert_eq!(common::runs(&bench), "2.0.0");
    let head = bench.flash.bytes(SLOTS[0]..SLOTS[0] + 16).unwrap();
    assert_eq!(head, [0; 16], "and its head is gone again");
}

#[test]
fn an_old_image_loses_its_head_before_its_slot_is_erased() {
    let mut bench = updated(false);
    bench.flash.start_log();
    common::order_install(&mut bench, 9, &firmware("3.0.0", Behaviour::Works));
    bench.start().unwrap();
    let in_slot = |op: &&Op| op.offset >= SLOTS[0];
    let first = bench.flash.log().iter().find(in_slot).unwrap();
    let kind = OpKind::Program;
    assert_eq!((first.kind, first.offset), (kind, SLOTS[0]));
}

#[test]
fn the_updater_is_small() {
    let bytes = size_of::<Updater<'static, &mut SimFlash>>();
    println!("size of Updater: {bytes} bytes, a page of 256 included");
    // With both messages of 1 KiB each and a receive buffer of the caller's: under 8 KiB.
    assert!(bytes <= 2560, "{bytes}");
    assert!(bytes + 2 * fota_device::CHECK_IN_BYTES_MAX + 2048 <= 8 * 1024);
}
