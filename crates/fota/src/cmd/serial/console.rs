//! What a device prints, line by line, without what could upset a terminal.

use serde_json::{Value, json};

use crate::output::Output;

/// Longest line, bytes: noise has no ends of lines.
const LINE_BYTES_MAX: usize = 512;

/// The line that is being printed.
pub struct Console<'a> {
    pub out: &'a Output,
    /// Standard output is the line to the device: nothing else may go there.
    stdout_is_taken: bool,
    line: Vec<u8>,
}

impl<'a> Console<'a> {
    /// Nothing was printed yet.
    pub fn new(out: &'a Output, stdout_is_taken: bool) -> Self {
        Self {
            out,
            stdout_is_taken,
            line: Vec::new(),
        }
    }

    /// Takes what was printed and shows the lines that it completes.
    pub fn show(&mut self, text: &[u8]) {
        for byte in text {
            match byte {
                b'\n' => self.flush(),
                _ => self.line.push(*byte),
            }
            if self.line.len() == LINE_BYTES_MAX {
                self.flush();
            }
        }
    }

    /// Shows what there is of the line.
    pub fn flush(&mut self) {
        let line = printable(&self.line);
        self.line.clear();
        match (line.is_empty(), self.stdout_is_taken) {
            (true, _) => {}
            (_, true) => self.out.say(&line),
            (_, false) => self.out.answer(&format!("{line}\n")),
        }
        if !line.is_empty() {
            self.document(&json!({"text": line}));
        }
    }

    /// Tells programs.
    pub fn document(&self, value: &Value) {
        if !self.stdout_is_taken {
            self.out.document("fota.serial/1", value);
        }
    }
}

/// The line without colours, which ESP-IDF's log has, and with a mark for what is no text.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut rest = text.trim_end();
    let mut plain = String::new();
    while let Some((before, sequence)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        let parameters = |c: char| c.is_ascii_digit() || c == ';';
        let behind = sequence.trim_start_matches(parameters);
        let mut behind = behind.chars();
        behind.next();
        rest = behind.as_str();
    }
    plain.push_str(rest);
    crate::text::plain(&plain)
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn colours_go_and_controls_are_marked() {
        let line = b"\x1b[0;32mI (31) boot: chip revision: v0.3\x1b[0m\r";
        assert_eq!(printable(line), "I (31) boot: chip revision: v0.3");
        assert_eq!(
            printable(b"a\x07b\xFF\x1b[2J\x1b"),
            "a\u{fffd}b\u{fffd}\u{fffd}"
        );
        assert_eq!(printable(b""), "");
    }
}
