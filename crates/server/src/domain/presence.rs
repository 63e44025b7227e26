//! Whether a device is there: how long ago it was seen, in its own poll intervals.

use fota_proto::manager::Presence;

/// A check-in may be late by one interval before anybody should notice.
const ONLINE_INTERVALS: i64 = 2;
/// Three times that: a device that is out for this long has lost its network or its power.
const LATE_INTERVALS: i64 = 6;

pub fn presence(last_seen: i64, now: i64, poll_s: u32) -> Presence {
    let interval_ms = i64::from(poll_s.max(1)) * 1000;
    let age_ms = now.saturating_sub(last_seen);
    if age_ms <= ONLINE_INTERVALS * interval_ms {
        Presence::Online
    } else if age_ms <= LATE_INTERVALS * interval_ms {
        Presence::Late
    } else {
        Presence::Offline
    }
}

/// Seen after the first and not after the second moment: which sightings give this presence.
pub fn seen_between(wanted: Presence, now: i64, poll_s: u32) -> (i64, i64) {
    let interval_ms = i64::from(poll_s.max(1)) * 1000;
    let online = now.saturating_sub(ONLINE_INTERVALS * interval_ms);
    let late = now.saturating_sub(LATE_INTERVALS * interval_ms);
    match wanted {
        Presence::Online => (online - 1, i64::MAX),
        Presence::Late => (late - 1, online - 1),
        Presence::Offline => (-1, late - 1),
    }
}

/// Stretches of a day in which it is noted whether a device was heard.
pub const HALF_HOURS: u32 = 48;
const HALF_HOUR_MS: i64 = 30 * 60 * 1000;

/// The number of the half hour, counted from 1970.
pub fn half_hour(at: i64) -> i64 {
    at.div_euclid(HALF_HOUR_MS)
}

/// The last [`HALF_HOURS`] half hours, oldest first, as `1` where the device was heard and `0`
/// where not. `newest` is the half hour of the lowest bit.
pub fn heard(newest: i64, bits: i64, now: i64) -> String {
    let passed = half_hour(now).saturating_sub(newest).max(0);
    let shown =
        u32::try_from(passed).map_or(0, |passed| (bits as u64).checked_shl(passed).unwrap_or(0));
    let bit = |back: u32| if shown >> back & 1 == 1 { '1' } else { '0' };
    (0..HALF_HOURS).rev().map(bit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_moves_on_with_time() {
        let now = 1_000 * HALF_HOUR_MS + 5;
        let told = heard(1_000, 0b101, now);
        assert_eq!(told.len(), HALF_HOURS as usize);
        assert!(told.ends_with("00101"), "{told}");
        assert!(heard(1_000, 0b101, now + HALF_HOUR_MS).ends_with("001010"));
        assert_eq!(heard(1_000, 0b101, now + 90 * HALF_HOUR_MS), "0".repeat(48));
        assert_eq!(heard(0, 0, now), "0".repeat(48));
        assert_eq!(heard(1_000, (1 << 48) - 1, now), "1".repeat(48));
    }

    #[test]
    fn a_device_is_late_after_two_intervals_and_offline_after_six() {
        let at = |age_s: i64| presence(0, age_s * 1000, 60);
        assert_eq!([at(0), at(120)], [Presence::Online; 2]);
        assert_eq!([at(121), at(360)], [Presence::Late; 2]);
        assert_eq!(at(361), Presence::Offline);
    }

    #[test]
    fn what_was_seen_between_has_that_presence() {
        let now = 1_000_000;
        for wanted in [Presence::Online, Presence::Late, Presence::Offline] {
            let (after, until) = seen_between(wanted, now, 60);
            for seen in [after + 1, until.min(now)] {
                assert_eq!(presence(seen, now, 60), wanted, "seen at {seen}");
            }
        }
    }
}
