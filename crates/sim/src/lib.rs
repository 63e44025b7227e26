//! The simulated ESP32: flash, bootloader, firmware, network and clock, and devices made of them.
#![warn(missing_docs)]

pub mod bench;
pub mod board;
pub mod boot;
pub mod clock;
pub mod console;
pub mod decoder;
pub mod device;
pub mod firmware;
pub mod flash;
pub mod fleet;
pub mod link;
pub mod powercut;
mod program;
pub mod scripted;
pub mod seed_device;
pub mod signing;
pub mod transfer;
pub mod virtual_fleet;
