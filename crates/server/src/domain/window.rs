//! When something may happen: from, until, recurring windows in a time zone, days without.
//!
//! What counts is what a clock on the wall shows where the device is. At a change to summer time an
//! hour is skipped: a window that would begin in it begins with the change. At the change back an
//! hour comes twice: a window in it opens twice.
//!
//! The zones are those of the IANA database, built in, so every node knows the same ones and none
//! asks its machine.

use std::{fmt, str::FromStr, sync::OnceLock};

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, DateTime, Weekday},
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

/// Windows in one schedule.
pub const WINDOWS_MAX: usize = 32;
/// Stretches of days without updates in one schedule.
pub const BLACKOUTS_MAX: usize = 64;
/// How far ahead an opening is looked for, days: what opens later counts as never.
pub const HORIZON_DAYS: i64 = 400;
/// Devices do not start all at once when a window opens, but within so long, or half the window.
pub const SPREAD_MS_MAX: i64 = 30 * 60 * 1000;

const DAY_MINUTES: u16 = 24 * 60;
/// How far back the beginning of an open window is looked for, days.
const LOOK_BACK_DAYS: i64 = 8;

/// A time zone by its IANA name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// A text that names no zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time zone: give an IANA name such as Europe/Berlin, or UTC")]
pub struct ZoneError(String);

impl Zone {
    /// The zone of a device that told none.
    pub const UTC: Self = Self(TimeZone::UTC);

    /// The moment of a date as people write it, `2026-12-01 22:00`, on a clock of this zone, or
    /// of a text with its own offset. An hour that comes twice is taken the first time.
    pub fn moment(&self, text: &str) -> Option<i64> {
        if let Ok(at) = text.parse::<Timestamp>() {
            return Some(at.as_millisecond());
        }
        let time: DateTime = text.parse().ok()?;
        let at = self.0.to_ambiguous_timestamp(time).compatible().ok()?;
        Some(at.as_millisecond())
    }

    /// What a clock of this zone shows then: `2026-12-01 22:00`.
    pub fn clock(&self, at_ms: i64) -> String {
        let time = self.0.to_datetime(timestamp(at_ms));
        time.strftime("%Y-%m-%d %H:%M").to_string()
    }
}

impl FromStr for Zone {
    type Err = ZoneError;

    fn from_str(name: &str) -> Result<Self, ZoneError> {
        static BUNDLED: OnceLock<TimeZoneDatabase> = OnceLock::new();
        let zones = BUNDLED.get_or_init(TimeZoneDatabase::bundled);
        let zone = zones.get(name);
        zone.map(Self)
            .map_err(|_| ZoneError(name.chars().take(64).collect()))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

/// A stretch of each of some days, such as `mon-fri 22:00-06:00`: where it ends before it begins,
/// it ends on the next day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    days: Days,
    /// Minutes of the day, from 0.
    from: u16,
    /// To 1,440, not included.
    to: u16,
}

/// Days of the week, as bits from Monday on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Days(u8);

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A text that is no window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no window: {problem}; write it like `22:00-06:00`, `sat,sun 08:00-20:00` or \
     `mon-fri 01:00-05:00`"
)]
pub struct WindowError {
    text: String,
    problem: &'static str,
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let bad = |problem| WindowError {
            text: text.chars().take(64).collect(),
            problem,
        };
        let (days, times) = match text.trim().split_once(char::is_whitespace) {
            Some((days, times)) => (
                Days::parse(days).ok_or_else(|| bad("the days are wrong"))?,
                times.trim(),
            ),
            None => (Days(0x7f), text.trim()),
        };
        let times = times.split_once('-').and_then(|(from, to)| {
            let (from, to) = (minute_of_day(from)?, minute_of_day(to)?);
            Some((from, to))
        });
        let (from, to) = times.ok_or_else(|| bad("the times are wrong"))?;
        if from == to || from == DAY_MINUTES {
            return Err(bad("it is empty"));
        }
        Ok(Self { days, from, to })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != Days(0x7f) {
            write!(f, "{} ", self.days)?;
        }
        let ((from_h, from_m), (to_h, to_m)) = (
            (self.from / 60, self.from % 60),
            (self.to / 60, self.to % 60),
        );
        write!(f, "{from_h:02}:{from_m:02}-{to_h:02}:{to_m:02}")
    }
}

impl Days {
    fn parse(text: &str) -> Option<Self> {
        let day = |name: &str| DAYS.iter().position(|day| *day == name);
        let mut bits = 0;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (mut at, last) = (day(first)?, day(last)?);
            loop {
                bits |= 1 << at;
                if at == last {
                    break;
                }
                at = (at + 1) % DAYS.len();
            }
        }
        Some(Self(bits))
    }

    fn has(self, day: Weekday) -> bool {
        self.0 & (1 << day.to_monday_zero_offset()) != 0
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = (0..DAYS.len()).filter(|at| self.0 & (1 << at) != 0);
        let names = names.map(|at| DAYS[at]).collect::<Vec<_>>();
        f.write_str(&names.join(","))
    }
}

/// `HH:MM`, `24:00` included.
fn minute_of_day(text: &str) -> Option<u16> {
    let (hour, minute) = text.trim().split_once(':')?;
    let two = |digits: &str| match digits.len() == 2 && digits.bytes().all(|d| d.is_ascii_digit()) {
        true => digits.parse::<u16>().ok(),
        false => None,
    };
    let (hour, minute) = (two(hour)?, two(minute)?);
    let whole = hour * 60 + minute;
    (minute < 60 && whole <= DAY_MINUTES).then_some(whole)
}

impl Window {
    fn is_open(&self, at: DateTime) -> bool {
        let minute = at.hour() as u16 * 60 + at.minute() as u16;
        let today = at.date().weekday();
        if self.from < self.to {
            return self.days.has(today) && (self.from..self.to).contains(&minute);
        }
        let began_today = self.days.has(today) && minute >= self.from;
        let began_yesterday = self.days.has(today.previous()) && minute < self.to;
        began_today || began_yesterday
    }
}

/// Days without, such as `2026-12-24..2027-01-01`, both included; or a single one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blackout {
    first: Date,
    last: Date,
}

/// A text that is no blackout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no blackout: write a day, `2026-12-24`, or two, `2026-12-24..2027-01-01`")]
pub struct BlackoutError(String);

impl FromStr for Blackout {
    type Err = BlackoutError;

    fn from_str(text: &str) -> Result<Self, BlackoutError> {
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        let day = |text: &str| text.trim().parse::<Date>().ok();
        let bad = || BlackoutError(text.chars().take(64).collect());
        let (first, last) = day(first).zip(day(last)).ok_or_else(bad)?;
        match first <= last {
            true => Ok(Self { first, last }),
            false => Err(bad()),
        }
    }
}

impl fmt::Display for Blackout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}..{}", self.first, self.last),
        }
    }
}

/// When something may happen. Without windows: at any time between start and end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Not before, milliseconds since 1970.
    pub starts_at: Option<i64>,
    /// No more from here on.
    pub ends_at: Option<i64>,
    /// At most [`WINDOWS_MAX`].
    pub windows: Vec<Window>,
    /// At most [`BLACKOUTS_MAX`].
    pub blackouts: Vec<Blackout>,
}

/// Whether it may happen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Yes.
    Open {
        /// Since when, or since longer ago than anybody needs to know.
        since: i64,
        /// Until when; none where no end is near.
        until: Option<i64>,
    },
    /// No.
    Closed {
        /// When it opens; none for never, or not within [`HORIZON_DAYS`].
        opens_at: Option<i64>,
    },
}

impl Schedule {
    /// Whether anything is restricted at all.
    pub fn is_any_time(&self) -> bool {
        *self == Self::default()
    }

    /// What holds at `now_ms` for a device in `zone`.
    pub fn gate(&self, now_ms: i64, zone: &Zone) -> Gate {
        if self.is_any_time() {
            let (since, until) = (i64::MIN, None);
            return Gate::Open { since, until };
        }
        let changes_at = self.next_change(now_ms, zone);
        match self.is_open(now_ms, zone) {
            true => Gate::Open {
                since: self.open_since(now_ms, zone),
                until: changes_at,
            },
            false => Gate::Closed {
                opens_at: changes_at,
            },
        }
    }

    fn is_open(&self, at_ms: i64, zone: &Zone) -> bool {
        let has_begun = self.starts_at.is_none_or(|start| at_ms >= start);
        let has_not_ended = self.ends_at.is_none_or(|end| at_ms < end);
        if !(has_begun && has_not_ended) {
            return false;
        }
        let local = zone.0.to_datetime(timestamp(at_ms));
        let is_black = |black: &Blackout| (black.first..=black.last).contains(&local.date());
        let in_window =
            self.windows.is_empty() || self.windows.iter().any(|window| window.is_open(local));
        in_window && !self.blackouts.iter().any(is_black)
    }

    /// When open turns to closed or closed to open.
    fn next_change(&self, now_ms: i64, zone: &Zone) -> Option<i64> {
        let is_open = self.is_open(now_ms, zone);
        let today = zone.0.to_datetime(timestamp(now_ms)).date();
        // Most changes are near; only long blackouts and far starts ask for more.
        [LOOK_BACK_DAYS, HORIZON_DAYS].into_iter().find_map(|days| {
            let moments = self.moments(today, -1, days, zone);
            let mut later = moments.into_iter().filter(|at| *at > now_ms);
            later.find(|at| self.is_open(*at, zone) != is_open)
        })
    }

    fn open_since(&self, now_ms: i64, zone: &Zone) -> i64 {
        let today = zone.0.to_datetime(timestamp(now_ms)).date();
        let moments = self.moments(today, -LOOK_BACK_DAYS, 2, zone);
        let mut since = None;
        for at in moments.into_iter().rev().filter(|at| *at <= now_ms) {
            if !self.is_open(at, zone) {
                break;
            }
            since = Some(at);
        }
        since.unwrap_or(now_ms)
    }

    /// All moments at which something may change on the days `from` to `to` around `today`, in
    /// order. Between two of them nothing changes.
    fn moments(&self, today: Date, from: i64, to: i64, zone: &Zone) -> Vec<i64> {
        let day = |offset: i64| today.saturating_add(offset.days());
        let (first, last) = (day(from), day(to));
        let mut moments = Vec::new();
        let mut minutes = vec![0];
        for window in &self.windows {
            minutes.extend([window.from, window.to]);
        }
        minutes.retain(|minute| *minute < DAY_MINUTES);
        let mut date = first;
        while date <= last {
            for minute in &minutes {
                let time = date.at((minute / 60) as i8, (minute % 60) as i8, 0, 0);
                instants(zone, time, &mut moments);
            }
            match date.tomorrow() {
                Ok(next) => date = next,
                Err(_) => break,
            }
        }
        let (Some(begin), Some(end)) =
            (moments.iter().min().copied(), moments.iter().max().copied())
        else {
            return moments;
        };
        let transitions = zone.0.following(timestamp(begin));
        let transitions = transitions.map(|change| change.timestamp().as_millisecond());
        moments.extend(transitions.take_while(|at| *at < end));
        moments.extend(self.starts_at.into_iter().chain(self.ends_at));
        moments.sort_unstable();
        moments.dedup();
        moments
    }
}

/// When the wall clock shows `time`: once; twice; or never, when an hour is skipped.
fn instants(zone: &Zone, time: DateTime, moments: &mut Vec<i64>) {
    let offsets = match zone.0.to_ambiguous_timestamp(time).offset() {
        AmbiguousOffset::Unambiguous { offset } => [Some(offset), None],
        AmbiguousOffset::Fold { before, after } => [Some(before), Some(after)],
        AmbiguousOffset::Gap { .. } => [None, None],
    };
    let at = |offset: jiff::tz::Offset| offset.to_timestamp(time).ok();
    let known = offsets.into_iter().flatten().filter_map(at);
    moments.extend(known.map(|at| at.as_millisecond()));
}

/// Times that are beyond the calendar are taken as its ends.
fn timestamp(at_ms: i64) -> Timestamp {
    let fallback = if at_ms < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    Timestamp::from_millisecond(at_ms).unwrap_or(fallback)
}

/// When a device of its own may start in an open window, so that no herd comes when it opens:
/// `share` is a stable random number of that device.
pub fn own_start(since: i64, until: Option<i64>, share: u32) -> i64 {
    let length = until.map_or(SPREAD_MS_MAX, |until| until.saturating_sub(since) / 2);
    let spread = length.clamp(0, SPREAD_MS_MAX);
    since.saturating_add(((spread as i128 * share as i128) >> 32) as i64)
}

#[cfg(test)]
mod tests;
