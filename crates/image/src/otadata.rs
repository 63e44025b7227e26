//! `otadata`: two entries, each in a flash sector of its own, that say which slot boots.
//!
//! | bytes of an entry | what |
//! |---|---|
//! | 0..4 | sequence number; slot = `(seq - 1) % slots`; all ones = empty |
//! | 4..24 | label; ESP-IDF leaves it erased and keeps it |
//! | 24..28 | [`State`] |
//! | 28..32 | CRC of the sequence number **alone** |
//!
//! State and label are not protected by the CRC: whoever reads them must expect any value.

use crate::bytes::{array, u32_at};

/// Length of an entry.
pub const ENTRY_BYTES: usize = 32;
/// Each entry begins a sector of this length.
pub const SECTOR_BYTES: u32 = 4096;
/// Length of the label inside an entry.
pub const LABEL_BYTES: usize = 20;
/// Where the state lies inside an entry.
pub const STATE_OFFSET: usize = 24;
/// Where the CRC lies inside an entry.
pub const CRC_OFFSET: usize = 28;
/// Sequence number of an erased entry.
pub const SEQ_EMPTY: u32 = u32::MAX;

/// What is known about the image that an entry boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Written and never booted. A bootloader with rollback makes it `PendingVerify`.
    New,
    /// Booted once and not confirmed. A bootloader with rollback makes it `Aborted` at next boot.
    PendingVerify,
    /// Confirmed.
    Valid,
    /// Given up by the app itself.
    Invalid,
    /// Given up by the bootloader.
    Aborted,
    /// Erased: bootloaders without rollback support leave it so.
    Undefined,
    /// Any other value; boots like `Undefined`.
    Other(u32),
}

impl State {
    /// Reads the stored number.
    pub const fn from_u32(value: u32) -> State {
        match value {
            0 => State::New,
            1 => State::PendingVerify,
            2 => State::Valid,
            3 => State::Invalid,
            4 => State::Aborted,
            u32::MAX => State::Undefined,
            other => State::Other(other),
        }
    }

    /// The number to store.
    pub const fn to_u32(self) -> u32 {
        match self {
            State::New => 0,
            State::PendingVerify => 1,
            State::Valid => 2,
            State::Invalid => 3,
            State::Aborted => 4,
            State::Undefined => u32::MAX,
            State::Other(other) => other,
        }
    }

    /// Whether an entry in this state must not boot.
    pub const fn is_given_up(self) -> bool {
        matches!(self, State::Invalid | State::Aborted)
    }
}

/// One entry, as stored; its CRC may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Sequence number.
    pub seq: u32,
    /// Free for the app; both kinds of bootloader keep it.
    pub label: [u8; LABEL_BYTES],
    /// State of the image.
    pub state: State,
    /// Stored CRC.
    pub crc: u32,
}

impl Entry {
    /// An erased entry.
    pub const EMPTY: Entry = Entry {
        seq: SEQ_EMPTY,
        label: [0xFF; LABEL_BYTES],
        state: State::Undefined,
        crc: u32::MAX,
    };

    /// An entry with its CRC and an erased label.
    pub const fn new(seq: u32, state: State) -> Entry {
        Entry {
            seq,
            label: [0xFF; LABEL_BYTES],
            state,
            crc: crc(seq),
        }
    }

    /// Reads an entry; every 32 bytes are one.
    pub fn parse(bytes: &[u8; ENTRY_BYTES]) -> Entry {
        Entry {
            seq: u32_at(bytes, 0),
            label: array(bytes, 4),
            state: State::from_u32(u32_at(bytes, STATE_OFFSET)),
            crc: u32_at(bytes, CRC_OFFSET),
        }
    }

    /// The bytes to store.
    pub fn to_bytes(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0xFF; ENTRY_BYTES];
        bytes[..4].copy_from_slice(&self.seq.to_le_bytes());
        bytes[4..STATE_OFFSET].copy_from_slice(&self.label);
        bytes[STATE_OFFSET..CRC_OFFSET].copy_from_slice(&self.state.to_u32().to_le_bytes());
        bytes[CRC_OFFSET..].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    /// Whether nothing was written, by the sequence number alone.
    pub fn is_empty(&self) -> bool {
        self.seq == SEQ_EMPTY
    }

    /// Whether the CRC belongs to the sequence number.
    pub fn is_crc_right(&self) -> bool {
        self.crc == crc(self.seq)
    }

    /// Whether the entry may boot: written, whole and not given up.
    ///
    /// Sequence number 0 with a right CRC is usable for the bootloader too, which then boots the
    /// slot `u32::MAX % n`; see [`slot_of`].
    pub fn usable(&self) -> bool {
        !self.is_empty() && !self.state.is_given_up() && self.is_crc_right()
    }

    /// What the bootloader calls invalid before it looks at the CRC.
    pub fn is_empty_or_given_up(&self) -> bool {
        self.is_empty() || self.state.is_given_up()
    }
}

/// CRC of a sequence number: polynomial 0xEDB88320, reflected, starting from **zero** and inverted
/// at the end; what the chip's `crc32_le(UINT32_MAX, seq, 4)` gives, and not the CRC-32 of zip.
pub const fn crc(seq: u32) -> u32 {
    let mut register = seq;
    let mut bit = 0;
    while bit < 32 {
        let carry = register & 1;
        register >>= 1;
        if carry == 1 {
            register ^= 0xEDB8_8320;
        }
        bit += 1;
    }
    !register
}

/// The entry that boots: the usable one with the larger sequence number, the first on a tie.
pub fn active(entries: &[Entry; 2]) -> Option<usize> {
    match (entries[0].usable(), entries[1].usable()) {
        (true, true) => Some(usize::from(entries[1].seq > entries[0].seq)),
        (true, false) => Some(0),
        (false, true) => Some(1),
        (false, false) => None,
    }
}

/// The slot that a sequence number boots, of `slots`; 0 if there is none to choose from.
pub const fn slot_of(seq: u32, slots: u8) -> u8 {
    match slots {
        0 => 0,
        // The remainder is below `slots`, so it fits.
        _ => (seq.wrapping_sub(1) % slots as u32) as u8,
    }
}

/// The sequence number that makes `slot` boot when `current` boots now: the smallest one that is
/// not below `current`. It equals `current` if that slot boots already.
///
/// At the very end of the numbers (4 billion updates, or a damaged entry whose CRC happens to be
/// right) the answer is [`SEQ_EMPTY`], whose entry is not [`Entry::usable`]: nothing is switched.
pub const fn next_seq(current: Option<u32>, slot: u8, slots: u8) -> u32 {
    let Some(current) = current else {
        return slot as u32 + 1;
    };
    if slots == 0 {
        return SEQ_EMPTY;
    }
    let (current, slots) = (current as u64, slots as u64);
    let first = (slot as u64 + 1) % slots;
    let rounds = current.saturating_sub(first).div_ceil(slots);
    let next = first + rounds * slots;
    match next < SEQ_EMPTY as u64 {
        true => next as u32,
        false => SEQ_EMPTY,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn crc_is_the_one_of_the_chip() {
        for (seq, expected) in [
            (1, 0x4743_989A),
            (2, 0x55F6_3774),
            (3, 0xED4A_5011),
            (4, 0x709D_68A8),
            (SEQ_EMPTY, 0x2144_DF1C),
        ] {
            assert_eq!(crc(seq), expected, "seq {seq}");
        }
    }

    #[test]
    fn an_entry_boots_unless_empty_damaged_or_given_up() {
        assert!(!Entry::EMPTY.usable());
        assert!(!Entry::new(SEQ_EMPTY, State::Valid).usable());
        for state in [
            State::New,
            State::PendingVerify,
            State::Valid,
            State::Undefined,
        ] {
            assert!(Entry::new(1, state).usable());
        }
        assert!(Entry::new(1, State::Other(7)).usable());
        assert!(!Entry::new(1, State::Invalid).usable());
        assert!(!Entry::new(1, State::Aborted).usable());
        let damaged = Entry {
            crc: 0,
            ..Entry::new(1, State::Valid)
        };
        assert!(!damaged.usable());
    }

    #[test]
    fn the_larger_sequence_number_is_active_and_the_first_wins_a_tie() {
        let entry = |seq| Entry::new(seq, State::Valid);
        assert_eq!(active(&[entry(1), entry(2)]), Some(1));
        assert_eq!(active(&[entry(3), entry(2)]), Some(0));
        assert_eq!(active(&[entry(3), entry(3)]), Some(0));
        assert_eq!(active(&[Entry::EMPTY, entry(2)]), Some(1));
        assert_eq!(active(&[Entry::EMPTY; 2]), None);
    }

    #[test]
    fn next_seq_at_the_edges() {
        assert_eq!(next_seq(None, 0, 2), 1);
        assert_eq!(next_seq(None, 1, 2), 2);
        assert_eq!(next_seq(Some(1), 1, 2), 2);
        assert_eq!(next_seq(Some(2), 0, 2), 3);
        assert_eq!(next_seq(Some(2), 1, 2), 2, "already active");
        assert_eq!(next_seq(Some(5), 0, 1), 5);
        assert_eq!(next_seq(Some(SEQ_EMPTY - 1), 0, 2), SEQ_EMPTY);
        assert_eq!(next_seq(Some(1), 0, 0), SEQ_EMPTY);
    }

    /// ESP-IDF's loop: count rounds until the candidate is not below the current number.
    fn next_seq_by_counting(current: u32, slot: u32, slots: u32) -> u32 {
        let mut round = 0;
        while current > (slot + 1) % slots + round * slots {
            round += 1;
        }
        (slot + 1) % slots + round * slots
    }

    proptest! {
        #[test]
        fn next_seq_is_what_counting_gives(current in 1u32..10_000, slots in 1u8..=16, slot in 0u8..16) {
            let slot = slot % slots;
            let next = next_seq(Some(current), slot, slots);
            prop_assert_eq!(next, next_seq_by_counting(current, slot.into(), slots.into()));
            prop_assert_eq!(slot_of(next, slots), slot);
        }

        #[test]
        fn every_32_bytes_are_an_entry_that_reads_back(bytes: [u8; ENTRY_BYTES]) {
            prop_assert_eq!(Entry::parse(&bytes).to_bytes(), bytes);
        }
    }
}
