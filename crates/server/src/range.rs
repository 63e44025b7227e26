//! The `Range` header of a download (RFC 9110 section 14).

/// What to answer to a `Range` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200 with everything: no usable range was asked for.
    Whole,
    /// 206 with bytes `start..=end`; `start <= end < length`.
    Part {
        /// First byte.
        start: u64,
        /// Last byte.
        end: u64,
    },
    /// 416: the range begins behind the end.
    Unsatisfiable,
}

/// Reads a `Range` header for a body of `length` bytes.
///
/// One range of bytes is honoured, with its end clamped to the length. Anything that is not one
/// well-formed byte range, several ranges included, is answered with the whole body: RFC 9110
/// section 14.2 tells a server to ignore a header that it does not understand, and lets it ignore
/// any.
pub fn parse(header: &str, length: u64) -> Answer {
    let Some((unit, range)) = header.split_once('=') else {
        return Answer::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Answer::Whole;
    }
    let Some((first, last)) = range.trim().split_once('-') else {
        return Answer::Whole;
    };
    match (number(first), number(last)) {
        (Number::None, Number::Of(suffix)) => from_end(suffix, length),
        (Number::Of(start), Number::None) => clamp(start, u64::MAX, length),
        (Number::Of(start), Number::Of(end)) if start <= end => clamp(start, end, length),
        _ => Answer::Whole,
    }
}

enum Number {
    None,
    Of(u64),
    Junk,
}

/// Digits only; a number too large for any file counts as the largest.
fn number(text: &str) -> Number {
    if text.is_empty() {
        return Number::None;
    }
    if !text.bytes().all(|digit| digit.is_ascii_digit()) {
        return Number::Junk;
    }
    Number::Of(text.parse().unwrap_or(u64::MAX))
}

fn from_end(suffix: u64, length: u64) -> Answer {
    if suffix == 0 || length == 0 {
        return Answer::Unsatisfiable;
    }
    Answer::Part {
        start: length.saturating_sub(suffix),
        end: length - 1,
    }
}

fn clamp(start: u64, end: u64, length: u64) -> Answer {
    if start >= length {
        return Answer::Unsatisfiable;
    }
    Answer::Part {
        start,
        end: end.min(length - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let part = |start, end| Answer::Part { start, end };
        let table = [
            ("bytes=0-0", part(0, 0)),
            ("bytes=0-", part(0, 99)),
            ("bytes=10-19", part(10, 19)),
            ("Bytes=10-19", part(10, 19)),
            ("bytes=90-1000", part(90, 99)),
            ("bytes=0-99999999999999999999999", part(0, 99)),
            ("bytes=99-", part(99, 99)),
            ("bytes=-1", part(99, 99)),
            ("bytes=-1000", part(0, 99)),
            ("bytes=100-", Answer::Unsatisfiable),
            ("bytes=99999999999999999999999-", Answer::Unsatisfiable),
            ("bytes=-0", Answer::Unsatisfiable),
            ("bytes=20-10", Answer::Whole),
            ("bytes=0-1,5-6", Answer::Whole),
            ("bytes=", Answer::Whole),
            ("bytes=-", Answer::Whole),
            ("bytes=a-b", Answer::Whole),
            ("bytes=+1-2", Answer::Whole),
            ("bytes=1 -2", Answer::Whole),
            ("lines=0-1", Answer::Whole),
            ("", Answer::Whole),
            ("=", Answer::Whole),
        ];
        for (header, answer) in table {
            assert_eq!(parse(header, 100), answer, "{header:?}");
        }
        assert_eq!(parse("bytes=0-", 0), Answer::Unsatisfiable);
        assert_eq!(parse("bytes=-5", 0), Answer::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_and_never_behind_the_end(header in "(bytes=)?[0-9a-z, -]{0,24}", length: u64) {
            if let Answer::Part { start, end } = parse(&header, length) {
                prop_assert!(start <= end && end < length);
            }
        }
    }
}
