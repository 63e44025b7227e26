//! The boot choice in otadata, changed so that a power cut at any point leaves an authentic image
//! to boot.
//!
//! | change | flash operations | what boots if power fails in between |
//! |---|---|---|
//! | [`Choice::retire`] | CRC word to 0 | the entry as it was, or as if it were not there |
//! | [`Choice::replace`] | retire, erase, bytes 0..28, read back, CRC, read back | as if the entry were not there |
//! | [`Choice::clear`] | one word of the label, bits to 0 | the same |
//!
//! Two rules make the middle column true. The CRC comes last, because it covers the sequence
//! number only: a torn write of the whole entry could be bootable with a wrong state. And an entry
//! is retired before its sector is erased, because a torn erase could bring a given-up entry back
//! to life by setting bits of its state.

use embedded_storage::nor_flash::MultiwriteNorFlash;
use fota_image::{
    otadata::{
        self, CRC_OFFSET, ENTRY_BYTES, Entry, SECTOR_BYTES as ENTRY_SECTOR_BYTES, SEQ_EMPTY, State,
    },
    partition::Layout,
};

use crate::{
    flash::{Fault, Guarded},
    mark::{Mark, TRIAL_WORD_OFFSET},
    slot::FACTORY,
};

const LABEL_OFFSET: u32 = 4;
/// What a retired entry has for its CRC. It is right for one sequence number, 0x9226F562, which
/// takes more than two thousand million updates to reach.
const RETIRED_CRC: u32 = 0;

/// Both entries as they are in flash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    at: u32,
    slots: u8,
    entries: [Entry; 2],
}

impl Choice {
    /// Any content of otadata reads as a choice: damaged entries are unusable ones.
    pub(crate) fn read<F>(flash: &mut Guarded<F>, layout: &Layout) -> Result<Self, Fault>
    where
        F: MultiwriteNorFlash,
    {
        let mut choice = Self {
            at: layout.otadata.offset,
            slots: layout.count(),
            entries: [Entry::EMPTY; 2],
        };
        choice.reread(flash, 0)?;
        choice.reread(flash, 1)?;
        Ok(choice)
    }

    pub(crate) fn entry(&self, index: usize) -> &Entry {
        &self.entries[index]
    }

    /// The slot that an entry names.
    pub(crate) fn slot(&self, index: usize) -> u8 {
        otadata::slot_of(self.entries[index].seq, self.slots)
    }

    /// The entry that the bootloader follows.
    pub(crate) fn active(&self) -> Option<usize> {
        otadata::active(&self.entries)
    }

    /// The usable entry of a slot, the active one first.
    pub(crate) fn usable_of(&self, slot: u8) -> Option<usize> {
        let of_slot = |index: &usize| self.entries[*index].usable() && self.slot(*index) == slot;
        let active = self.active().filter(of_slot);
        active.or_else(|| (0..2).find(of_slot))
    }

    /// Our mark in an entry. An entry with a wrong CRC was retired or torn: its label says nothing.
    pub(crate) fn mark(&self, index: usize) -> Option<Mark> {
        let entry = &self.entries[index];
        let whole = !entry.is_empty() && entry.is_crc_right();
        whole.then(|| Mark::parse(&entry.label)).flatten()
    }

    /// Whether a slot was given up by an entry that is still there.
    pub(crate) fn is_rejected(&self, slot: u8) -> bool {
        (0..2).any(|index| {
            let entry = &self.entries[index];
            entry.state.is_given_up()
                && !entry.is_empty()
                && entry.is_crc_right()
                && self.slot(index) == slot
        })
    }

    /// Makes an entry unusable for good, by one program operation.
    pub(crate) fn retire<F>(&mut self, flash: &mut Guarded<F>, index: usize) -> Result<(), Fault>
    where
        F: MultiwriteNorFlash,
    {
        let at = self.sector(index) + CRC_OFFSET as u32;
        let done = flash.program_checked(at, &RETIRED_CRC.to_le_bytes());
        self.reread(flash, index)?;
        done
    }

    /// Writes an entry over another, the CRC last.
    pub(crate) fn replace<F>(
        &mut self,
        flash: &mut Guarded<F>,
        index: usize,
        entry: &Entry,
    ) -> Result<(), Fault>
    where
        F: MultiwriteNorFlash,
    {
        let at = self.sector(index);
        if !self.entries[index].is_empty() && self.entries[index].is_crc_right() {
            self.retire(flash, index)?;
        }
        // Also where it reads as blank: cells of a torn erase may do so only now.
        flash.erase(at, ENTRY_SECTOR_BYTES)?;
        let bytes = entry.to_bytes();
        let (body, crc) = bytes.split_at(CRC_OFFSET);
        let done = flash
            .program_checked(at, body)
            .and_then(|()| flash.program_checked(at + CRC_OFFSET as u32, crc));
        self.reread(flash, index)?;
        done
    }

    /// Clears bits in a word of an entry's label; `offset` is the word's place in the label.
    pub(crate) fn clear<F>(
        &mut self,
        flash: &mut Guarded<F>,
        index: usize,
        offset: u32,
        word: [u8; 4],
    ) -> Result<(), Fault>
    where
        F: MultiwriteNorFlash,
    {
        let at = self.sector(index) + LABEL_OFFSET + offset;
        // Bits that are already cleared stay so, whatever a damaged label holds.
        let mut found = [0; 4];
        flash.read(at, &mut found)?;
        let word = u32::from_le_bytes(word) & u32::from_le_bytes(found);
        let done = flash.program_checked(at, &word.to_le_bytes());
        self.reread(flash, index)?;
        done
    }

    /// Notes beside the new entry at `free` that one with a mark is written there. Without this, a
    /// bootloader with rollback that loses power while it rewrites the new entry can leave one
    /// that boots and looks like another tool's, confirmed: nobody would take a bad image back.
    pub(crate) fn hand_over<F>(&mut self, flash: &mut Guarded<F>, free: usize) -> Result<(), Fault>
    where
        F: MultiwriteNorFlash,
    {
        let index = 1 - free;
        let label = self.entries[index].label;
        if label == Entry::EMPTY.label {
            let at = self.sector(index) + LABEL_OFFSET;
            let done = flash.program_checked(at, &Mark::HANDED_OVER.label());
            self.reread(flash, index)?;
            return done;
        }
        let Some(mark) = Mark::parse(&label).filter(|mark| !mark.handed_over) else {
            return Ok(()); // Noted before, or some other use of the label: leave it alone.
        };
        let mark = Mark {
            handed_over: true,
            ..mark
        };
        self.clear(flash, index, TRIAL_WORD_OFFSET, mark.trial_word())
    }

    /// Whether an entry without a mark was written with one.
    pub(crate) fn has_lost_its_mark(&self, index: usize) -> bool {
        let other = Mark::parse(&self.entries[1 - index].label);
        self.entries[index].label != Entry::EMPTY.label
            || other.is_some_and(|other| other.handed_over)
    }

    /// Makes the running image the one that boots when every other entry is gone, and says which
    /// entry is free for a new image whose slot is `target`.
    ///
    /// Normally this only reads. It writes where otadata and what runs disagree: a damaged entry,
    /// a bootloader that fell back, a device flashed over USB.
    pub(crate) fn anchor<F>(
        &mut self,
        flash: &mut Guarded<F>,
        running: u8,
        target: u8,
    ) -> Result<usize, Fault>
    where
        F: MultiwriteNorFlash,
    {
        if running == FACTORY {
            // The factory app boots where no entry is usable.
            for index in 0..2 {
                if self.entries[index].usable() {
                    self.retire(flash, index)?;
                }
            }
            return Ok(0);
        }
        let kept = match self.usable_of(running) {
            Some(index) => index,
            None => self.add_running(flash, running)?,
        };
        let free = 1 - kept;
        if self.next_seq(target) == SEQ_EMPTY {
            return self.renumber(flash, running, kept);
        }
        Ok(free)
    }

    /// Retires every entry of a slot whose content is about to change, also one that only reads as
    /// unusable: a torn program can leave cells that read as right the next time.
    pub(crate) fn retire_slot<F>(&mut self, flash: &mut Guarded<F>, slot: u8) -> Result<(), Fault>
    where
        F: MultiwriteNorFlash,
    {
        for index in 0..2 {
            let entry = &self.entries[index];
            let is_alive = !entry.is_empty() && entry.crc != RETIRED_CRC;
            if is_alive && self.slot(index) == slot {
                self.retire(flash, index)?;
            }
        }
        Ok(())
    }

    /// The entry of the running image that the bootloader has followed and that reads as damaged now.
    /// Where none can be, the bootloader fell back.
    pub(crate) fn damaged_of(&self, running: u8) -> Option<usize> {
        (0..2).find(|index| {
            let entry = &self.entries[*index];
            let is_damaged = !entry.is_crc_right() && entry.crc != RETIRED_CRC;
            let was_followed = !entry.is_empty() && !entry.state.is_given_up();
            is_damaged && was_followed && self.slot(*index) == running
        })
    }

    /// The sequence number that makes a slot boot.
    pub(crate) fn next_seq(&self, slot: u8) -> u32 {
        let current = self.active().map(|index| self.entries[index].seq);
        otadata::next_seq(current, slot, self.slots)
    }

    fn add_running<F>(&mut self, flash: &mut Guarded<F>, running: u8) -> Result<usize, Fault>
    where
        F: MultiwriteNorFlash,
    {
        let mut seq = self.next_seq(running);
        if seq == SEQ_EMPTY {
            // A damaged entry at the end of the numbers, for a slot that does not boot anyway.
            self.retire(flash, 0)?;
            self.retire(flash, 1)?;
            seq = self.next_seq(running);
        }
        // The active entry, if any, goes last: until then the bootloader does what it did today.
        let index = self.active().map_or(0, |active| 1 - active);
        let entry = Entry {
            // What is to be noted beside a new image: see `hand_over`.
            label: Mark::HANDED_OVER.label(),
            ..Entry::new(seq, State::Valid)
        };
        self.replace(flash, index, &entry)?;
        Ok(index)
    }

    /// Starts the numbers again where none is left above the running entry.
    fn renumber<F>(
        &mut self,
        flash: &mut Guarded<F>,
        running: u8,
        kept: usize,
    ) -> Result<usize, Fault>
    where
        F: MultiwriteNorFlash,
    {
        let first = otadata::next_seq(None, running, self.slots);
        self.replace(flash, 1 - kept, &Entry::new(first, State::Valid))?;
        self.retire(flash, kept)?;
        Ok(kept)
    }

    fn sector(&self, index: usize) -> u32 {
        self.at + index as u32 * ENTRY_SECTOR_BYTES
    }

    fn reread<F>(&mut self, flash: &mut Guarded<F>, index: usize) -> Result<(), Fault>
    where
        F: MultiwriteNorFlash,
    {
        let mut bytes = [0; ENTRY_BYTES];
        flash.read(self.sector(index), &mut bytes)?;
        self.entries[index] = Entry::parse(&bytes);
        Ok(())
    }
}
