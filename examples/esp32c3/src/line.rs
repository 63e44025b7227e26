//! The serial line: questions to the host, and text in between.

use core::fmt::{Arguments, Write};

use esp_hal::{
    Blocking,
    time::{Duration, Instant},
    uart::Uart,
};
use fota_proto::serial::{Ask, Deframer, Incoming, Reply, Request, SERIAL_FRAME_BYTES_MAX};

/// How long the host may think.
const REPLY_MS_MAX: u64 = 2_000;
/// How often a question is asked.
const TRIES: u32 = 3;

/// The line.
pub struct Line {
    uart: Uart<'static, Blocking>,
    tag: u8,
    deframer: Deframer<SERIAL_FRAME_BYTES_MAX>,
    frame: [u8; SERIAL_FRAME_BYTES_MAX],
}

impl Line {
    pub fn new(uart: Uart<'static, Blocking>) -> Self {
        Self {
            uart,
            tag: 0,
            deframer: Deframer::new(),
            frame: [0; SERIAL_FRAME_BYTES_MAX],
        }
    }

    /// Prints a line of text.
    pub fn say(&mut self, text: Arguments) {
        let _ = self.write_fmt(text);
        let _ = self.write_str("\r\n");
    }

    /// Asks the host; the body of its reply is put into `body`. None where it does not answer, or
    /// says why not.
    pub fn ask(&mut self, ask: &Ask, body: &mut [u8]) -> Option<usize> {
        self.tag = self.tag.wrapping_add(1);
        for _ in 0..TRIES {
            let request = Request {
                tag: self.tag,
                ask: *ask,
            };
            let length = request.encode(&mut self.frame)?.len();
            for byte in 0..length {
                let byte = self.frame[byte];
                put(&mut self.uart, &[byte]);
            }
            if let Some((status, length)) = self.reply(&request, body) {
                if status == 200 {
                    return Some(length);
                }
                let why = core::str::from_utf8(&body[..length]).unwrap_or_default();
                let _ = writeln!(self, "fota: status {status}: {why}\r");
                return None;
            }
        }
        let _ = writeln!(self, "fota: no answer\r");
        None
    }

    fn reply(&mut self, request: &Request, body: &mut [u8]) -> Option<(u16, usize)> {
        let asked_at = Instant::now();
        let mut bytes = [0; 64];
        while asked_at.elapsed() < Duration::from_millis(REPLY_MS_MAX) {
            // Bytes that were lost show as a frame that is damaged.
            let length = self.uart.read_buffered(&mut bytes).unwrap_or(0);
            for byte in &bytes[..length] {
                let Some(Incoming::Message(message)) = self.deframer.push(*byte) else {
                    continue;
                };
                let reply = Reply::parse(message).filter(|reply| reply.answers(request));
                if let Some(reply) = reply {
                    let length = reply.body.len().min(body.len());
                    body[..length].copy_from_slice(&reply.body[..length]);
                    return Some((reply.status, length));
                }
            }
        }
        None
    }

    /// Resets the chip when everything is sent.
    pub fn reset(&mut self) -> ! {
        let _ = self.uart.flush();
        esp_hal::system::software_reset()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        put(&mut self.uart, text.as_bytes());
        Ok(())
    }
}

fn put(uart: &mut Uart<Blocking>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let sent = uart.write(bytes).unwrap_or(bytes.len());
        bytes = &bytes[sent..];
    }
}
