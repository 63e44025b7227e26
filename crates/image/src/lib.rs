//! The ESP-IDF formats that an update touches: the app image with its description, the
//! partition table, and `otadata` with the choice of the boot slot.
//!
//! The same code judges an upload on the server, a finished download on the device and a slot in
//! the simulated bootloader, so the three cannot disagree. It never allocates, never panics on
//! input, and knows nothing of networks or of policy: whether an image *may* be installed is
//! decided elsewhere.
//!
//! Main path: [`app::check`] reads an image from any [`app::Source`] and answers with an
//! [`app::Image`] or with the reason why a chip would refuse it. [`partition::Layout::read`] finds
//! the slots, [`otadata`] says which of them boots. [`secure_boot`] reads Espressif's signatures. [`build`] (feature `build`) makes images that
//! `esptool image-info` accepts.
#![no_std]
#![warn(missing_docs)]

#[cfg(feature = "std")]
extern crate std;

pub mod app;
#[cfg(feature = "build")]
pub mod build;
mod bytes;
pub mod otadata;
pub mod partition;
pub mod secure_boot;

pub use bytes::{Grouped, Text};
