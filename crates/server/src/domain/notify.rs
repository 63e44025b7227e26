//! Who is told of which event, and when a delivery that failed is tried again.

use std::{fmt, str::FromStr};

/// Patterns of one filter.
pub const PATTERNS_MAX: usize = 32;
/// Bytes of one pattern.
pub const PATTERN_BYTES_MAX: usize = 64;
/// Wait after the first failure; it doubles with each further one.
pub const RETRY_MIN_MS: i64 = 5_000;
/// Longest wait between two tries: a receiver that comes back is told within the hour.
pub const RETRY_MAX_MS: i64 = 60 * 60 * 1_000;
/// How long deliveries may fail without one success before the webhook is disabled: a weekend.
pub const FAILING_MAX_MS: i64 = 3 * 24 * 60 * 60 * 1_000;
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// Which kinds of events are told: `attempt.failed`, `rollout.*`, `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindFilter(Vec<String>);

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("names {0} kinds of events: give 1 to {PATTERNS_MAX}")]
    Number(usize),
    #[error("{0:?} is no kind of events: write attempt.failed, rollout.* or *")]
    Pattern(String),
}

impl KindFilter {
    /// Reads the patterns.
    ///
    /// # Errors
    /// Where there is none or one too many, or one is not a kind, a kind's beginning with `.*`, or
    /// `*`.
    pub fn new(patterns: &[String]) -> Result<Self, FilterError> {
        if !(1..=PATTERNS_MAX).contains(&patterns.len()) {
            return Err(FilterError::Number(patterns.len()));
        }
        match patterns.iter().find(|pattern| !is_pattern(pattern)) {
            Some(wrong) => Err(FilterError::Pattern(wrong.chars().take(80).collect())),
            None => Ok(Self(patterns.to_vec())),
        }
    }

    /// Whether an event of this kind is told.
    pub fn takes(&self, kind: &str) -> bool {
        self.0
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => kind.starts_with(beginning),
                None => kind == pattern,
            })
    }

    pub fn patterns(&self) -> &[String] {
        &self.0
    }
}

fn is_pattern(pattern: &str) -> bool {
    let kind = match pattern.strip_suffix('*') {
        Some("") => return true,
        Some(beginning) => match beginning.strip_suffix('.') {
            Some(kind) => kind,
            None => return false,
        },
        None => pattern,
    };
    let is_word = |word: &str| {
        let known = |letter: u8| matches!(letter, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        !word.is_empty() && word.bytes().all(known)
    };
    pattern.len() <= PATTERN_BYTES_MAX && kind.split('.').all(is_word)
}

/// As stored: patterns with commas between them.
impl fmt::Display for KindFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl FromStr for KindFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let patterns: Vec<String> = text.split(',').map(|one| one.trim().to_owned()).collect();
        Self::new(&patterns)
    }
}

/// What becomes of a webhook after a delivery that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// The same event is tried again at this time.
    Retry { at: i64 },
    /// Nothing more is delivered until an operator enables it.
    Disable { reason: String },
}

/// A delivery that failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// Since when all have failed.
    pub failing_since: i64,
    /// Tries for this event, this one too; at least 1.
    pub attempts: u32,
    /// The receiver said that it is gone for good.
    pub is_gone: bool,
    /// How long the receiver asked to be left alone.
    pub retry_after_ms: Option<i64>,
}

/// Decides; `random` is any number, from which the wait gets its own length, so that many webhooks
/// to one receiver do not come back in the same second.
pub fn after_failure(failure: &Failure, now: i64, random: u32) -> AfterFailure {
    if failure.is_gone {
        let reason = "the receiver answered 410: it does not want to be told".to_owned();
        return AfterFailure::Disable { reason };
    }
    let failing_ms = now.saturating_sub(failure.failing_since);
    if failing_ms >= FAILING_MAX_MS {
        let reason = format!(
            "deliveries have failed for {} days, the last after {} tries",
            failing_ms / DAY_MS,
            failure.attempts
        );
        return AfterFailure::Disable { reason };
    }
    let asked = failure.retry_after_ms.unwrap_or(0).clamp(0, RETRY_MAX_MS);
    let wait = backoff_ms(failure.attempts, random).max(asked);
    AfterFailure::Retry {
        at: now.saturating_add(wait),
    }
}

/// Between half of the doubled wait and the whole of it.
fn backoff_ms(attempts: u32, random: u32) -> i64 {
    let doublings = attempts.saturating_sub(1).min(30);
    let whole = RETRY_MIN_MS
        .saturating_mul(1 << doublings)
        .min(RETRY_MAX_MS);
    let half = whole / 2;
    half + i64::from(random) % (half + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(text: &str) -> KindFilter {
        text.parse().expect("a filter")
    }

    #[test]
    fn a_filter_takes_kinds_beginnings_and_all() {
        let some = filter("rollout.*, attempt.failed");
        assert!(some.takes("rollout.started") && some.takes("attempt.failed"));
        for other in [
            "attempt.failed_x",
            "attempt.offered",
            "rollouts.x",
            "rollout",
            "",
        ] {
            assert!(!some.takes(other), "{other}");
        }
        assert!(filter("*").takes("anything"));
        assert_eq!(some.to_string(), "rollout.*,attempt.failed");
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let long = "a".repeat(65);
        for wrong in [
            "", "roll*", "*.x", "A.b", "a..b", ".a", "a.", "a b", "a,", "é", &long, "**",
        ] {
            assert!(wrong.parse::<KindFilter>().is_err(), "{wrong}");
        }
        assert_eq!(KindFilter::new(&[]), Err(FilterError::Number(0)));
        let many = vec!["*".to_owned(); PATTERNS_MAX + 1];
        assert_eq!(KindFilter::new(&many), Err(FilterError::Number(33)));
    }

    fn failed(attempts: u32) -> Failure {
        Failure {
            failing_since: 0,
            attempts,
            is_gone: false,
            retry_after_ms: None,
        }
    }

    #[test]
    fn a_receiver_that_is_gone_or_away_too_long_is_not_asked_again() {
        let gone = Failure {
            is_gone: true,
            ..failed(1)
        };
        assert!(matches!(
            after_failure(&gone, 0, 0),
            AfterFailure::Disable { .. }
        ));
        let late = after_failure(&failed(80), FAILING_MAX_MS, 0);
        let reason = "deliveries have failed for 3 days, the last after 80 tries".to_owned();
        assert_eq!(late, AfterFailure::Disable { reason });
    }

    proptest! {
        #[test]
        fn a_wait_grows_and_has_bounds(attempts in 1..u32::MAX, random: u32, now in 0..FAILING_MAX_MS) {
            let AfterFailure::Retry { at } = after_failure(&failed(attempts), now, random) else {
                return Err(TestCaseError::fail("disabled too early"));
            };
            let wait = at - now;
            prop_assert!((RETRY_MIN_MS / 2..=RETRY_MAX_MS).contains(&wait), "{wait}");
            // The shortest of the next wait is the longest of this one.
            let next = backoff_ms(attempts.saturating_add(1), 0);
            prop_assert!(next >= wait.min(RETRY_MAX_MS / 2));
        }

        #[test]
        fn a_receiver_may_ask_for_time(asked in 0..i64::MAX, random: u32) {
            let asking = Failure { retry_after_ms: Some(asked), ..failed(1) };
            let AfterFailure::Retry { at } = after_failure(&asking, 0, random) else {
                return Err(TestCaseError::fail("disabled"));
            };
            prop_assert!(at >= asked.min(RETRY_MAX_MS) && at <= RETRY_MAX_MS);
        }

        #[test]
        fn a_filter_is_read_as_it_is_written(patterns in prop::collection::vec("[a-z]{1,5}(\\.[a-z_]{1,5}){0,2}(\\.\\*)?", 1..8)) {
            let filter = KindFilter::new(&patterns).expect("good");
            prop_assert_eq!(filter.to_string().parse(), Ok(filter));
        }
    }
}
