//! How an order ended, kept until the server has stored it.

use core::fmt::{self, Write};

use fota_proto::{
    FailureCode,
    checkin::{End, Outcome, ResetReason},
    limits::REASON_BYTES_MAX,
};

/// An outcome to repeat in every check-in until it is acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) order: u64,
    end: End,
    code: FailureCode,
    reset: Option<ResetReason>,
    detail: heapless::String<REASON_BYTES_MAX>,
    /// The otadata entry it was found in.
    pub(crate) stored: Option<usize>,
}

impl Report {
    /// One found in flash at start.
    pub(crate) fn stored(
        index: usize,
        order: u64,
        end: End,
        code: FailureCode,
        reset: ResetReason,
    ) -> Self {
        Self {
            order,
            end,
            code,
            reset: (reset != ResetReason::Unknown).then_some(reset),
            detail: heapless::String::new(),
            stored: Some(index),
        }
    }

    /// One of this start, gone with the next: the order then simply runs again.
    pub(crate) fn new(order: u64, end: End, code: FailureCode, detail: impl fmt::Display) -> Self {
        let mut text = Truncated(heapless::String::new());
        // Never fails: what does not fit is left out.
        let _ = write!(text, "{detail}");
        Self {
            order,
            end,
            code,
            reset: None,
            detail: text.0,
            stored: None,
        }
    }

    pub(crate) fn outcome(&self) -> Outcome<'_> {
        Outcome {
            order: self.order,
            end: self.end,
            code: self.code.number(),
            reset: self.reset,
            detail: (!self.detail.is_empty()).then_some(self.detail.as_str()),
        }
    }
}

/// Takes what fits and drops the rest.
struct Truncated<const N: usize>(heapless::String<N>);

impl<const N: usize> Write for Truncated<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            if self.0.push(letter).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}
