//! The updater of a device: takes an ordered image into the other slot, proves it, boots it on
//! trial, confirms it or goes back.
//!
//! It never allocates, never touches the network, the clock or the reset line (the caller owns
//! them), never writes the running slot, and never lets anything unproven be bootable, not even
//! for one flash operation. It works with the stock ESP-IDF bootloader built with rollback and
//! without. Where releases are signed it needs a partition of two sectors for what it trusts, and
//! can make the image out of the running one and a patch.
//!
//! Main path: [`Updater::start`] reads what the flash says and guards a trial;
//! [`Updater::check_in`] and [`Updater::answer`] talk to the server and say what is [`Next`];
//! [`Updater::receive`] takes the bytes; [`Updater::prove`] makes a [`Verified`], which alone can
//! [`Verified::activate`]. The new image calls [`Updater::confirm`] when it has passed its
//! self-test, [`Updater::reject`] when it has not.
//!
//! | module | holds |
//! |---|---|
//! | `updater` | the state machine and its two messages |
//! | `install` | order → download → proof → activation |
//! | `trust` | whom the device trusts, kept through power cuts |
//! | `feed` | an artifact as it comes in: every chunk is proven before it is programmed |
//! | `patch` | a patch as it comes in: every chunk that it makes is proven likewise |
//! | `decoder` | what applies patches, and the images as it reads them |
//! | `keep` | a large patch, kept behind the image while it is under way |
//! | `job` | what is erased and written in the slot; resume without a journal |
//! | `trial` | what a start means; confirm, reject, deadline, rollback |
//! | `choice` | changes to otadata that a power cut cannot turn against the device |
//! | `readiness` | whether now is a good time to install |
//! | `mark` | what is noted in the free bytes of an otadata entry |
//! | `flash` | the one gate that every write passes |
//!
//! # Memory
//!
//! [`Updater`], [`Workspace`], one message of 1 KiB (an answer may take the place of its check-in)
//! and the stack are under 20 KiB where releases are signed. With a [`SmallDecoder`] it is 32 KiB,
//! with a [`DefaultDecoder`] 48. `cargo xtask rv32-device` measures all of it on a RISC-V.
//!
//! # What it cannot do
//!
//! On a bootloader without rollback, an image that dies before it calls [`Updater::start`] is
//! started again for ever: call it first. Flash encryption is not supported: an erased byte must
//! read as `0xFF`. A bootloader that falls back to an image of an older security epoch, because the
//! newer one rotted in flash, is not stopped: only an eFuse could.
//!
//! # Example
//!
//! ```no_run
//! use embedded_storage::nor_flash::MultiwriteNorFlash;
//! use fota_device::{
//!     BootInfo, CHECK_IN_BYTES_MAX, Download, Next, SmallDecoder, Started, Trust, Updater,
//!     Workspace,
//! };
//!
//! use fota_proto::Sha256;
//!
//! /// What the caller brings.
//! trait Board {
//!     /// Sends the first `length` bytes of `message`; the answer takes their place.
//!     fn post_check_in(&mut self, message: &mut [u8], length: usize) -> Option<usize>;
//!     fn get_root(&mut self, version: u32, body: &mut [u8]) -> Option<usize>;
//!     fn get_blob(&mut self, name: Sha256, body: &mut [u8]) -> Option<usize>;
//!     fn get_log_proof(&mut self, of: Sha256, size: u64, body: &mut [u8]) -> Option<usize>;
//!     fn get_log_growth(&mut self, from: u64, to: u64, body: &mut [u8]) -> Option<usize>;
//!     fn fetch(&mut self, from: &Download, take: impl FnMut(&[u8]) -> bool);
//!     fn random(&mut self) -> u64;
//!     fn uptime_s(&self) -> u32;
//!     fn sleep_s(&mut self, seconds: u32);
//!     fn self_test(&mut self) -> bool;
//!     fn reset(&mut self) -> !;
//! }
//!
//! /// The first root, as `fota key root init` wrote it.
//! static ROOT: &[u8] = &[/* include_bytes!("root.cose") */];
//!
//! fn run(
//!     flash: impl MultiwriteNorFlash,
//!     boot: BootInfo,
//!     workspace: &mut Workspace,  // of a static
//!     decoder: &mut SmallDecoder, // likewise; or a DefaultDecoder, or none
//!     board: &mut impl Board,
//! ) -> ! {
//!     let trust = Trust::Root(ROOT, workspace);
//!     let mut updater = match Updater::start(flash, boot, trust) {
//!         Ok(Started::Run(updater)) => updater,
//!         Ok(Started::Reset(_)) | Err(_) => board.reset(),
//!     };
//!     updater.apply_patches_with(decoder);
//!     let mut message = [0; CHECK_IN_BYTES_MAX];
//!     let mut next = Next::CheckIn;
//!     loop {
//!         next = match next {
//!             Next::CheckIn => {
//!                 let (nonce, uptime_s) = (board.random(), board.uptime_s());
//!                 let length = updater.check_in(nonce, uptime_s, &mut message).len();
//!                 match board.post_check_in(&mut message, length) {
//!                     Some(length) => {
//!                         if updater.is_on_trial() && board.self_test() {
//!                             let _ = updater.confirm();
//!                         }
//!                         let next = updater.answer(&message[..length]);
//!                         next.unwrap_or(Next::Wait { seconds: 60 })
//!                     }
//!                     None => Next::Wait { seconds: 60 },
//!                 }
//!             }
//!             Next::FetchRoot { version } => match board.get_root(version, &mut message) {
//!                 Some(length) => {
//!                     let next = updater.root(&message[..length]);
//!                     next.unwrap_or(Next::Wait { seconds: 60 })
//!                 }
//!                 None => Next::Wait { seconds: 60 },
//!             },
//!             Next::FetchRelease { release } => match board.get_blob(release, &mut message) {
//!                 Some(length) => {
//!                     let next = updater.release(&message[..length]);
//!                     next.unwrap_or(Next::Wait { seconds: 60 })
//!                 }
//!                 None => Next::Wait { seconds: 60 },
//!             },
//!             Next::FetchLogProof { release, size } => {
//!                 match board.get_log_proof(release, size, &mut message) {
//!                     Some(length) => {
//!                         let next = updater.log_proof(&message[..length]);
//!                         next.unwrap_or(Next::Wait { seconds: 60 })
//!                     }
//!                     None => Next::Wait { seconds: 60 },
//!                 }
//!             }
//!             Next::FetchLogGrowth { from, to } => {
//!                 match board.get_log_growth(from, to, &mut message) {
//!                     Some(length) => {
//!                         let next = updater.log_growth(&message[..length]);
//!                         next.unwrap_or(Next::Wait { seconds: 60 })
//!                     }
//!                     None => Next::Wait { seconds: 60 },
//!                 }
//!             }
//!             Next::Download(part) => {
//!                 // A board that can send the request first calls `Updater::erase_ahead` then.
//!                 board.fetch(&part, |bytes| updater.receive(bytes).is_ok());
//!                 // The rest where the link was lost, what comes first, the artifact where a
//!                 // patch does not work, or Prove.
//!                 updater.next()
//!             }
//!             Next::Prove => match updater.prove().map(|verified| verified.activate()) {
//!                 Ok(Ok(_)) => board.reset(),
//!                 _ => updater.next(), // again from the start, or report why not
//!             },
//!             Next::Wait { seconds } => {
//!                 board.sleep_s(seconds);
//!                 match updater.tick(board.uptime_s()) {
//!                     Ok(Some(_)) => board.reset(),
//!                     _ => Next::CheckIn,
//!                 }
//!             }
//!             Next::Reset(_) => board.reset(),
//!         }
//!     }
//! }
//! ```
#![no_std]
#![warn(missing_docs)]

mod choice;
mod decoder;
mod feed;
mod flash;
mod install;
mod job;
mod keep;
mod mark;
mod patch;
mod readiness;
mod report;
mod slot;
mod trial;
mod trust;
mod updater;

pub use decoder::{PatchDecoder, ReadError};
pub use flash::Fault;
pub use fota_delta::{DefaultDecoder, SmallDecoder};
pub use fota_proto::limits::CHECK_IN_BYTES_MAX;
pub use install::{ActivateError, ProveError, ReceiveError, ReleaseError, Verified};
pub use mark::{TRIAL_DEADLINE_S_MAX, TRIAL_POWER_LOSS_MAX};
pub use patch::PatchEnd;
pub use readiness::{Consent, Readiness, Told};
pub use slot::FACTORY;
pub use trial::{TRIAL_DEADLINE_S_DEFAULT, TrialError};
pub use trust::{Trust, TrustError, Workspace};
pub use updater::{
    AnswerError, BootInfo, Download, Next, ResetNow, RootError, StartError, Started, Updater,
};
