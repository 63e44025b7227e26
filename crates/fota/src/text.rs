//! Texts for people: tables, sizes, ages, durations. No I/O.

use std::time::Duration;

pub use fota_image::Grouped;

/// Bytes of a chunk in the figures that are shown beside an upload.
pub const CHUNK_BYTES: u64 = 16 * 1024;

/// Rows under a heading, columns as wide as their longest cell, two blanks between them.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let all = || std::iter::once(&heading).chain(rows);
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| all().map(|row| width(&row[column])).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in all() {
        let mut line = String::new();
        for (cell, wide) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(wide - width(cell) + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn width(cell: &str) -> usize {
    console::measure_text_width(cell)
}

/// Lines of `name  value`, the values under each other.
pub fn facts(facts: &[(&str, String)]) -> String {
    let wide = facts.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    facts
        .iter()
        .map(|(name, value)| format!("{name:wide$}  {value}\n"))
        .collect()
}

/// Printable form of a text that came from outside: a device must not paint our terminal.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// How long ago, in one unit: `2s`, `4min`, `3h`, `5d`.
pub fn age(from_ms: i64, now_ms: i64) -> String {
    let seconds = now_ms.saturating_sub(from_ms).max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}min", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Bytes per second for people: `142 kB/s`.
pub fn rate(bytes_per_s: f64) -> String {
    match bytes_per_s {
        rate if rate >= 1e6 => format!("{:.1} MB/s", rate / 1e6),
        rate if rate >= 1e3 => format!("{:.0} kB/s", rate / 1e3),
        rate => format!("{rate:.0} B/s"),
    }
}

/// A duration as people write it: `500ms`, `30s`, `10m`, `2h`, `1d`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let wrong = || format!("{text:?} is no duration: write for example 30s, 10m or 2h");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    // A year is more than anybody waits; it also keeps deadlines far from overflow.
    let ms = number
        .checked_mul(unit_ms)
        .filter(|ms| *ms <= 365 * 86_400_000);
    ms.map(Duration::from_millis).ok_or_else(wrong)
}

/// A duration in one or two units: `10m`, `1m30s`, `45s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds % 3600 / 60, seconds % 60) {
        (0, 0, 0) if !duration.is_zero() => format!("{}ms", duration.as_millis()),
        (0, 0, s) => format!("{s}s"),
        (0, m, 0) => format!("{m}m"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, 0, _) => format!("{h}h"),
        (h, m, _) => format!("{h}h{m}m"),
    }
}

/// UTC as `2026-05-01 12:33:26`.
pub fn time(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (h, m, s) = (rest / 3600, rest % 3600 / 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}")
}

/// The day of a Unix time in seconds, `2030-12-31`.
pub fn day(seconds: u64) -> String {
    let days = i64::try_from(seconds / 86_400).unwrap_or(i64::MAX / 2);
    // Further than any calendar; the number says more than a date would.
    if days > 3_652_058 {
        return format!("{seconds} s");
    }
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Gregorian date of a day since 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// A day as `2030-12-31`, in seconds since the Unix epoch at its start in UTC.
pub fn parse_time(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no date: write for example 2030-12-31");
    let mut parts = text.split('-').map(str::parse::<i64>);
    let (Some(Ok(year)), Some(Ok(month)), Some(Ok(day)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong());
    };
    if !(1970..=9999).contains(&year) {
        return Err(wrong());
    }
    // The day is some days from this; the one whose date it is, is it.
    let about = (year - 1970) * 146_097 / 400 + (month - 1) * 30 + day;
    let found = (about - 40..about + 40).find(|days| date(*days) == (year, month, day));
    let days = found.ok_or_else(wrong)?;
    u64::try_from(days * 86_400).map_err(|_| wrong())
}

/// `1 device`, `3 devices`.
pub fn count(n: u64, one: &str) -> String {
    match n {
        1 => format!("1 {one}"),
        _ => format!("{n} {one}s"),
    }
}

/// Bytes that may be fewer than none: a patch that did not work costs some.
pub fn signed_bytes(bytes: i64) -> String {
    let sign = if bytes < 0 { "-" } else { "" };
    format!("{sign}{}", Grouped(bytes.unsigned_abs()))
}

/// What patches spared, as a sentence.
pub fn spared(bytes: i64) -> String {
    format!("patches spared {} bytes", signed_bytes(bytes))
}

/// What a rollout sent, and what patches spared it.
pub fn sent(bytes: u64, spared_bytes: i64) -> String {
    let sent = format!("{} bytes", Grouped(bytes));
    match spared_bytes {
        0 => sent,
        bytes => format!("{sent}; {}", spared(bytes)),
    }
}

/// One word of a command line, quoted where a shell would cut it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@%+=".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        let cases = [
            ("300", "5m"),
            ("90s", "1m30s"),
            ("10m", "10m"),
            ("2h", "2h"),
        ];
        for (text, shown) in cases {
            assert_eq!(duration(parse_duration(text).expect("valid")), shown);
        }
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "x", "10 parsecs", "-5", "99999999999d", "1.5h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_utc_dates() {
        assert_eq!(time(0), "1970-01-01 00:00:00");
        assert_eq!(time(1_709_164_799_999), "2024-02-28 23:59:59");
        assert_eq!(time(1_709_251_199_000), "2024-02-29 23:59:59");
        assert_eq!(time(-1), "1969-12-31 23:59:59");
    }

    #[test]
    fn days_are_read_as_they_are_written() {
        for day in (0..2_932_896).step_by(97) {
            let text = &time(day * 86_400_000)[..10];
            assert_eq!(parse_time(text), Ok(day as u64 * 86_400), "{text}");
        }
        for bad in [
            "",
            "2030",
            "2030-02-30",
            "2030-13-01",
            "1969-12-31",
            "2030-01-01-1",
        ] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_table_lines_up_and_has_no_blanks_at_the_end() {
        let rows = [vec!["ä".into(), "1".into()], vec!["long".into(), "".into()]];
        assert_eq!(table(&["A", "B"], &rows), "A     B\nä     1\nlong\n");
    }

    #[test]
    fn ages_have_one_unit() {
        let now = 10_000_000_000;
        let cases = [
            (2, "2s"),
            (61, "1min"),
            (3 * 3600 + 5, "3h"),
            (200_000, "2d"),
            (-9, "0s"),
        ];
        for (seconds, shown) in cases {
            assert_eq!(age(now - seconds * 1000, now), shown);
        }
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("build/app.bin"), "build/app.bin");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn text_from_a_device_cannot_move_the_cursor() {
        assert_eq!(plain("a\x1b[2Jb\r"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
