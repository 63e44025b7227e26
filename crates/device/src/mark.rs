//! What the updater notes in the 20 free bytes (`seq_label`) of an otadata entry.
//!
//! ESP-IDF never uses them, the entry's CRC does not cover them and every bootloader keeps them
//! when it rewrites an entry, so they need no partition of their own. Flash bits only go from 1
//! to 0 without an erase; everything that changes during a trial is therefore a bit or a word
//! that is cleared in place by one program operation, which a power cut cannot leave half done
//! in a way that matters.
//!
//! | bytes of the label | what | written |
//! |---|---|---|
//! | 0..4 | magic `FOT1` | with the entry |
//! | 4..12 | order number, little-endian | with the entry |
//! | 12..14 | deadline of the trial, seconds | with the entry |
//! | 14 | bit 0 cleared: the image was started; bit 1: it is confirmed; bit 2: it has activated another | in place |
//! | 15 | bits 0–3, one cleared per power loss that ended a start of the trial | in place |
//! | 16 | failure code; 0 = interrupted by a power loss, try again; 0xFF = no verdict | in place or with the entry |
//! | 17 | its complement: tells a torn verdict from a whole one | with the code |
//! | 18 | high nibble [`End`], low nibble [`ResetReason`] | with the code |
//! | 19 | 0xFF until the server has stored the verdict, then 0 | in place |
//!
//! | what happened | entry | marks |
//! |---|---|---|
//! | activated, not yet booted | NEW | – |
//! | on trial | NEW (bootloader without rollback) or PENDING_VERIFY (with) | started |
//! | power lost during the trial, no rollback in the bootloader | NEW | started, one more power loss |
//! | confirmed | NEW or VALID | started, confirmed |
//! | second start without confirm | ABORTED, by us | verdict `crash_loop` with the reset reason |
//! | the same, bootloader with rollback | ABORTED, by the bootloader | verdict added by the old image |
//! | the same, but it was a power loss | ABORTED, by the bootloader | verdict 0: the order goes on |
//! | self-test failed, or deadline passed | INVALID | verdict with the code |
//! | operator's rollback | INVALID | none |

use fota_image::otadata::LABEL_BYTES;
use fota_proto::{
    FailureCode,
    checkin::{End, ResetReason},
};

/// Starts of a trial that may end by losing power before a further one counts as a crash. A
/// battery or a loose plug must not throw away a good image; an image that browns out the board
/// each time must go back.
pub const TRIAL_POWER_LOSS_MAX: u8 = 4;

/// Longest deadline of a trial that a mark can hold, seconds: 18 hours.
pub const TRIAL_DEADLINE_S_MAX: u32 = u16::MAX as u32;

/// Where the changing bytes lie in the label.
pub(crate) const TRIAL_WORD_OFFSET: u32 = 12;
pub(crate) const VERDICT_WORD_OFFSET: u32 = 16;

const MAGIC: [u8; 4] = *b"FOT1";
const NOT_STARTED: u8 = 1 << 0;
const NOT_CONFIRMED: u8 = 1 << 1;
const NOT_HANDED_OVER: u8 = 1 << 2;
const NO_VERDICT: [u8; 4] = [0xFF; 4];
const INTERRUPTED: u8 = 0;

const _: () = assert!(TRIAL_POWER_LOSS_MAX <= 8, "one bit each in one byte");
const _: () = assert!(FailureCode::ALL.len() < 0xFF, "codes fit one byte");

/// The label of an entry that this crate wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) order: u64,
    pub(crate) deadline_s: u16,
    pub(crate) started: bool,
    pub(crate) confirmed: bool,
    /// The image has activated another one with a mark. If that one has no mark now, it is torn.
    pub(crate) handed_over: bool,
    pub(crate) power_losses: u8,
    pub(crate) verdict: Verdict,
}

/// What became of the trial that the mark is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing was noted.
    Open,
    /// Power was lost: not the image's fault. Also what a torn verdict reads as, because only a
    /// power loss tears one.
    Interrupted,
    /// It ended.
    Ended {
        end: End,
        code: FailureCode,
        reset: ResetReason,
        reported: bool,
    },
}

impl Mark {
    /// A trial that has not begun.
    pub(crate) fn new(order: u64, deadline_s: u32, power_losses: u8) -> Self {
        Self {
            order,
            deadline_s: deadline_s.min(TRIAL_DEADLINE_S_MAX) as u16,
            started: false,
            confirmed: false,
            handed_over: false,
            power_losses,
            verdict: Verdict::Open,
        }
    }

    /// For an entry without a mark whose image is about to activate another one.
    pub(crate) const HANDED_OVER: Self = Self {
        order: u64::MAX,
        deadline_s: u16::MAX,
        started: true,
        confirmed: true,
        handed_over: true,
        power_losses: 0,
        verdict: Verdict::Open,
    };

    /// Reads a label; none where it is not ours.
    pub(crate) fn parse(label: &[u8; LABEL_BYTES]) -> Option<Self> {
        let (magic, rest) = label.split_first_chunk::<4>()?;
        let (order, rest) = rest.split_first_chunk::<8>()?;
        let (deadline, rest) = rest.split_first_chunk::<2>()?;
        let (bits, rest) = rest.split_first_chunk::<2>()?;
        let verdict = rest.first_chunk::<4>()?;
        (*magic == MAGIC).then(|| Self {
            order: u64::from_le_bytes(*order),
            deadline_s: u16::from_le_bytes(*deadline),
            started: bits[0] & NOT_STARTED == 0,
            confirmed: bits[0] & NOT_CONFIRMED == 0,
            handed_over: bits[0] & NOT_HANDED_OVER == 0,
            power_losses: bits[1].count_zeros() as u8,
            verdict: Verdict::parse(verdict),
        })
    }

    /// The label to store.
    pub(crate) fn label(&self) -> [u8; LABEL_BYTES] {
        let mut label = [0xFF; LABEL_BYTES];
        label[..4].copy_from_slice(&MAGIC);
        label[4..12].copy_from_slice(&self.order.to_le_bytes());
        label[12..16].copy_from_slice(&self.trial_word());
        label[16..].copy_from_slice(&self.verdict.word());
        label
    }

    /// Bytes 12..16.
    pub(crate) fn trial_word(&self) -> [u8; 4] {
        let [low, high] = self.deadline_s.to_le_bytes();
        let mut bits = 0xFF;
        if self.started {
            bits &= !NOT_STARTED;
        }
        if self.confirmed {
            bits &= !NOT_CONFIRMED;
        }
        if self.handed_over {
            bits &= !NOT_HANDED_OVER;
        }
        let losses = 0xFF_u8
            .checked_shl(self.power_losses.into())
            .unwrap_or_default();
        [low, high, bits, losses]
    }
}

impl Verdict {
    fn parse(word: &[u8; 4]) -> Self {
        let [code, complement, how, reported] = *word;
        if *word == NO_VERDICT {
            return Self::Open;
        }
        let known = FailureCode::from_number(code.into());
        match (end_of(how >> 4), reset_of(how & 0xF)) {
            (Some(end), Some(reset)) if code == !complement && code != INTERRUPTED => Self::Ended {
                end,
                code: known,
                reset,
                reported: reported != 0xFF,
            },
            _ => Self::Interrupted,
        }
    }

    /// Bytes 16..20.
    pub(crate) fn word(&self) -> [u8; 4] {
        match *self {
            Self::Open => NO_VERDICT,
            Self::Interrupted => [INTERRUPTED, !INTERRUPTED, 0xFF, 0xFF],
            Self::Ended {
                end,
                code,
                reset,
                reported,
            } => {
                let code = code.number() as u8;
                let flag = if reported { 0 } else { 0xFF };
                [code, !code, (end as u8) << 4 | reset as u8, flag]
            }
        }
    }
}

fn end_of(nibble: u8) -> Option<End> {
    let all = [
        End::Failed,
        End::RolledBackBoot,
        End::RolledBackHealth,
        End::Refused,
    ];
    all.into_iter().find(|end| *end as u8 == nibble)
}

fn reset_of(nibble: u8) -> Option<ResetReason> {
    let all = [
        ResetReason::Unknown,
        ResetReason::PowerOn,
        ResetReason::BrownOut,
        ResetReason::Software,
        ResetReason::Panic,
        ResetReason::Watchdog,
        ResetReason::DeepSleep,
        ResetReason::External,
    ];
    all.into_iter().find(|reset| *reset as u8 == nibble)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Mark> {
        let ended = |end, reset| Verdict::Ended {
            end,
            code: FailureCode::CrashLoop,
            reset,
            reported: false,
        };
        let verdicts = [
            Verdict::Open,
            Verdict::Interrupted,
            ended(End::RolledBackBoot, ResetReason::Watchdog),
            ended(End::RolledBackHealth, ResetReason::External),
        ];
        verdicts.into_iter().flat_map(|verdict| {
            (0..=TRIAL_POWER_LOSS_MAX).map(move |power_losses| Mark {
                started: power_losses > 0,
                confirmed: power_losses == 3,
                handed_over: power_losses == 4,
                verdict,
                ..Mark::new(0x0102_0304_0506_0708, 300, power_losses)
            })
        })
    }

    #[test]
    fn a_mark_reads_back() {
        for mark in all() {
            assert_eq!(Mark::parse(&mark.label()), Some(mark));
        }
        assert_eq!(Mark::parse(&[0xFF; LABEL_BYTES]), None);
        assert_eq!(Mark::parse(&[0; LABEL_BYTES]), None);
    }

    #[test]
    fn what_changes_in_place_only_clears_bits() {
        let fresh = Mark::new(7, 60, 0);
        let later = Mark {
            started: true,
            confirmed: true,
            handed_over: true,
            power_losses: TRIAL_POWER_LOSS_MAX,
            ..fresh
        };
        let cleared = |from: [u8; 4], to: [u8; 4]| from.iter().zip(to).all(|(a, b)| a & b == b);
        assert!(cleared(fresh.trial_word(), later.trial_word()));
        for mark in all() {
            assert!(cleared(NO_VERDICT, mark.verdict.word()));
            if let Verdict::Ended {
                end, code, reset, ..
            } = mark.verdict
            {
                let reported = Verdict::Ended {
                    end,
                    code,
                    reset,
                    reported: true,
                };
                assert!(cleared(mark.verdict.word(), reported.word()));
            }
        }
    }

    #[test]
    fn a_torn_verdict_is_an_interruption() {
        let whole = Verdict::Ended {
            end: End::RolledBackBoot,
            code: FailureCode::CrashLoop,
            reset: ResetReason::Panic,
            reported: false,
        };
        let word = whole.word();
        for keep in 1..3 {
            let mut torn = NO_VERDICT;
            torn[..keep].copy_from_slice(&word[..keep]);
            assert_eq!(Verdict::parse(&torn), Verdict::Interrupted);
        }
    }
}
