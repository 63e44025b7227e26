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

#[cfg(test)]
mod tests {
    use super::*;

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
