//! The simulated ESP32: flash, bootloader, firmware, network and clock, and devices made of them.
#![warn(missing_docs)]

pub mod boot;
pub mod clock;
pub mod firmware;
pub mod flash;
pub mod link;
pub mod transfer;
