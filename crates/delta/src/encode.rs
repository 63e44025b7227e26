//! Makes patches.
//!
//! Matching finds what stayed together ([`matcher`]); with those moves known, both images are
//! written with absolute labels instead of references ([`normal`]) and matched again, which joins
//! what references had torn apart. Each round is coded in full, and the smallest is kept.

mod cost;
mod divide;
mod esp;
mod explain;
mod images;
mod lz;
mod matcher;
mod normal;
mod range;
mod side;

use std::vec::Vec;

use sha2::{Digest, Sha256};

use crate::{
    IMAGE_BYTES_MAX, OldImage, PatchHeader, Profile,
    coder::Side,
    machine::{Machine, Progress},
};
use divide::Division;
pub use esp::encode_esp;
pub use explain::{Explanation, SegmentSpent, Spent, explain};
use images::{Pair, Slices};
use matcher::Op;
use range::RangeEncoder;
use side::Wishes;

/// Rounds of matching after the first.
const ROUNDS: usize = 2;

/// How a patch is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How much memory the decoder has.
    pub profile: Profile,
}

/// Why no patch can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// An image is too large.
    #[error("the {which} image is {bytes} bytes; a patch can have {IMAGE_BYTES_MAX} at most")]
    TooLarge {
        /// `old` or `new`.
        which: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// The old image does not end with its digest, by which esp_delta_ota knows it.
    #[error(
        "the old image does not end with its SHA-256, by which esp_delta_ota knows it: make it \
         without `--dont-append-digest`"
    )]
    NoDigest,
}

/// The machine of the encoder: large enough for every profile.
pub(crate) type FullMachine = Machine<
    { Profile::Default.slots() },
    { Profile::Default.blocks_max() },
    { Profile::Default.pages() },
>;

/// Makes the patch that turns `old` into `new`, or without `old` the compressed full image. The
/// same inputs give the same bytes on every machine.
///
/// # Errors
/// If an image is larger than [`IMAGE_BYTES_MAX`].
pub fn encode(old: Option<&[u8]>, new: &[u8], options: &Options) -> Result<Vec<u8>, EncodeError> {
    // An empty old image is none: it has nothing to copy.
    let old = old.filter(|old| !old.is_empty());
    check_lengths(old.unwrap_or_default(), new)?;
    let pair = Pair::of(old.unwrap_or_default(), new);
    let payload = best_payload(&pair, options);
    let digest = |image: &[u8]| Sha256::digest(image).into();
    let header = PatchHeader {
        profile: options.profile,
        new_bytes: new.len() as u32,
        new_sha256: digest(new),
        old: old.map(|old| OldImage {
            bytes: old.len() as u32,
            sha256: digest(old),
        }),
        payload_bytes: payload.len() as u32,
    };
    let mut patch = Vec::with_capacity(payload.len() + 128);
    header.write(&mut patch);
    patch.extend(payload);
    Ok(patch)
}

fn check_lengths(old: &[u8], new: &[u8]) -> Result<(), EncodeError> {
    for (which, image) in [("old", old), ("new", new)] {
        if image.len() > IMAGE_BYTES_MAX as usize {
            let bytes = image.len();
            return Err(EncodeError::TooLarge { which, bytes });
        }
    }
    Ok(())
}

fn best_payload(pair: &Pair, options: &Options) -> Vec<u8> {
    let mut machine = std::boxed::Box::new(FullMachine::new());
    let mut ops = matcher::find(pair.old, pair.new, matcher::GAIN_MIN[0]);
    let mut best: Option<(Vec<u8>, Vec<Op>)> = None;
    for round in 0..=ROUNDS {
        let payload = payload(pair, &ops, options, &mut machine);
        if best
            .as_ref()
            .is_none_or(|(best, _)| payload.len() < best.len())
        {
            best = Some((payload, ops));
        }
        let moves = best.as_ref().map(|(_, ops)| ops.as_slice());
        if round == ROUNDS || pair.old.is_empty() {
            break;
        }
        let (old, new) = normal::images(pair, moves.unwrap_or_default());
        ops = matcher::find(&old, &new, matcher::GAIN_MIN[1]);
    }
    best.map(|(payload, _)| payload).unwrap_or_default()
}

/// Codes `ops` in full.
fn payload(pair: &Pair, ops: &[Op], options: &Options, machine: &mut FullMachine) -> Vec<u8> {
    let division = Division::of(pair, ops, options.profile);
    let mut wishes = Wishes::new(pair, division, RangeEncoder::new());
    run(pair, options.profile, machine, &mut wishes);
    wishes.into_coder().finish()
}

/// Runs the machine over a pair of images, with whatever end of the stream.
fn run(pair: &Pair, profile: Profile, machine: &mut FullMachine, side: &mut impl Side) {
    let mut images = Slices {
        old: pair.old,
        new: pair.new,
    };
    machine.reset(profile, pair.old.len() as u32, pair.new.len() as u32);
    loop {
        match machine.step(side, &mut images) {
            Ok(Progress::More) => {}
            Ok(Progress::Chunk) => machine.next_chunk(),
            Ok(Progress::Done) => return,
            Err(fault) => unreachable!("the encoder wishes only what can be: {fault:?}"),
        }
    }
}
