//! One flash in two hands: the simulated device's and the test's.

use std::sync::{Arc, Mutex, PoisonError};

use embedded_storage::nor_flash::{ErrorType, MultiwriteNorFlash, NorFlash, ReadNorFlash};
use fota_image::app::Source;

use super::{FlashError, SimFlash};

/// A handle to a [`SimFlash`]; clones reach the same chip.
#[derive(Clone, Debug, Default)]
pub struct SharedFlash(Arc<Mutex<SimFlash>>);

impl SharedFlash {
    /// Shares a flash.
    pub fn new(flash: SimFlash) -> Self {
        SharedFlash(Arc::new(Mutex::new(flash)))
    }

    /// Does something with the flash; nobody else can meanwhile.
    pub fn with<T>(&self, work: impl FnOnce(&mut SimFlash) -> T) -> T {
        // A panic of another holder is a failed test already; its flash may still be looked at.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An independent copy of the flash as it is now.
    pub fn fork(&self) -> SimFlash {
        self.with(|flash| flash.clone())
    }
}

impl ErrorType for SharedFlash {
    type Error = FlashError;
}

impl ReadNorFlash for SharedFlash {
    const READ_SIZE: usize = SimFlash::READ_SIZE;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        self.with(|flash| ReadNorFlash::read(flash, offset, bytes))
    }

    fn capacity(&self) -> usize {
        self.with(|flash| flash.capacity())
    }
}

impl NorFlash for SharedFlash {
    const WRITE_SIZE: usize = SimFlash::WRITE_SIZE;
    const ERASE_SIZE: usize = SimFlash::ERASE_SIZE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        self.with(|flash| flash.erase(from, to))
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        self.with(|flash| flash.write(offset, bytes))
    }
}

impl MultiwriteNorFlash for SharedFlash {}

impl Source for SharedFlash {
    type Error = FlashError;

    fn read(&mut self, offset: u32, buf: &mut [u8]) -> Result<(), FlashError> {
        ReadNorFlash::read(self, offset, buf)
    }
}
