//! Differential updates: makes a patch of two firmware images, and makes the new image of the old
//! one and the patch.
//!
//! When a program changes a little, most of its bytes that change are addresses: everything after
//! the change has moved. A patch says what has moved where, the decoder adjusts the instructions
//! and pointers that lead there, and what is left over is coded with a small context-mixing model.
//! Without an old image the same format is a compressed full image.
//!
//! The decoder never allocates, has no `unsafe`, computes in integers only, takes the patch in
//! pieces of any size and hands out the new image in order. It proves nothing but the digest at
//! the end: prove each chunk before you write it. It knows nothing of devices, networks or
//! signatures.
//!
//! Main path: [`DefaultDecoder::push`] reads a [`PatchHeader`], then runs the `machine` that both
//! ends share. `encode` (feature `encode`) finds the blocks, runs the same machine over them, and
//! keeps the smallest result. The format is in `docs/delta-format.md`.
//!
//! | module | holds |
//! |---|---|
//! | `header` | the first bytes of a patch |
//! | `coder` | the range decoder, and what the two ends share |
//! | `mix`, `model`, `plan` | probabilities, contexts, memory |
//! | `layout`, `refs` | where an image's bytes are in memory; instructions and pointers |
//! | `blocks`, `predict` | what has moved where, and where a reference leads to now |
//! | `follow`, `phase`, `recent` | instructions of the new image, and where its last calls lead to |
//! | `literal`, `window`, `machine` | the states of the stream |
//! | `encode` | matching, normalising, parsing, and the encoder's end |
#![no_std]
#![warn(missing_docs)]

#[cfg(any(feature = "std", test))]
extern crate std;

mod blocks;
mod coder;
mod decoder;
#[cfg(feature = "encode")]
mod encode;
mod follow;
mod header;
mod layout;
mod literal;
mod machine;
mod mix;
mod model;
mod phase;
mod plan;
mod predict;
mod recent;
mod refs;
mod window;

pub use decoder::{
    CHUNK_BYTES, DecodeError, Decoder, DefaultDecoder, Event, Images, STACK_BYTES_MAX,
    SmallDecoder, is_old,
};
#[cfg(feature = "encode")]
pub use encode::{
    EncodeError, Explanation, Options, SegmentSpent, Spent, encode, encode_esp, explain,
};
pub use header::{FORMAT_VERSION, HEADER_BYTES_MAX, HeaderError, MAGIC, OldImage, PatchHeader};
pub use plan::Profile;

/// The largest image, old or new: no ESP32 maps more flash, and 24 bits bound every count.
pub const IMAGE_BYTES_MAX: u32 = 16 * 1024 * 1024;
