//! The SHA accelerator, SHA-256 with the message in its registers, which is what ROM and
//! bootloader use ("SHA accelerator", typical mode).

use sha2::block_api::compress256;

const START: u32 = 0x10;
const CONTINUE: u32 = 0x14;
const HASH: u32 = 0x40;
const HASH_END: u32 = 0x60;
const MESSAGE: u32 = 0x80;
const MESSAGE_END: u32 = 0xC0;
/// FIPS 180-4, 5.3.3.
const INITIAL: [u32; 8] = [
    0x6A09_E667,
    0xBB67_AE85,
    0x3C6E_F372,
    0xA54F_F53A,
    0x510E_527F,
    0x9B05_688C,
    0x1F83_D9AB,
    0x5BE0_CD19,
];

/// Its state.
#[derive(Clone, Debug)]
pub struct Sha {
    hash: [u32; 8],
    message: [u8; 64],
}

impl Default for Sha {
    fn default() -> Self {
        Self {
            hash: INITIAL,
            message: [0; 64],
        }
    }
}

impl Sha {
    /// Reads a register; it is never busy.
    pub fn load(&self, offset: u32) -> u32 {
        match offset {
            HASH..HASH_END => self.hash[(offset - HASH) as usize / 4].swap_bytes(),
            _ => 0,
        }
    }

    /// Writes a register.
    pub fn store(&mut self, offset: u32, value: u32) {
        match offset {
            HASH..HASH_END => self.hash[(offset - HASH) as usize / 4] = value.swap_bytes(),
            MESSAGE..MESSAGE_END => {
                let at = (offset - MESSAGE) as usize;
                self.message[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            START => {
                self.hash = INITIAL;
                compress256(&mut self.hash, &[self.message]);
            }
            CONTINUE => compress256(&mut self.hash, &[self.message]),
            _ => {}
        }
    }
}
