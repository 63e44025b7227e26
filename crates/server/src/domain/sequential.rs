//! Whether a release makes devices fail more often: looked at after every device, with error rates
//! that hold however often one looks.
//!
//! A fixed test that is repeated until it cries wolf does so for certain. This one is a test
//! martingale: it bets on "fails more often" against "does not"; where there is nothing to win, the
//! chance that the stake ever grows to `1/α` is at most `α` (Ville's inequality). The bets are a
//! mixture over several rises of the failure ratio, so that a disaster is seen after a few devices
//! and a small rise after more. For each rise the likelihood ratio of `p + rise` to `p` has a mean
//! of at most 1 under every failure ratio up to `p`, so this holds for "at most `p`", not just for
//! `p` itself; and it depends on the counts alone, not on their order.
//!
//! The ratio `p` that is normal comes from devices that were not updated: to stop, the upper end of
//! its confidence interval (Chernoff's bound); to go on, the lower end.
//!
//! The operating characteristics, from `the_error_rates_are_as_stated`, which prints them (1,000
//! runs each, looked at after every device, at most 2,000 of them; rates and tolerance as in
//! [`Rates::default`]; medians of those that stopped or went on):
//!
//! | fails normally | updated fail | devices watched without | stopped | went on | devices to stop | to go on |
//! |--:|--:|--:|--:|--:|--:|--:|
//! | 1 % | 1 % | 500 | 0 % | 99.9 % | – | 170 |
//! | 1 % | 1 % | 5,000 | 0 % | 100 % | – | 152 |
//! | 5 % | 5 % | 1,000 | 0.1 % | 92 % | – | 659 |
//! | 1 % | 6 % | 1,000 | 99.7 % | 0.3 % | 298 | – |
//! | 1 % | 11 % | 1,000 | 100 % | 0 % | 64 | – |
//! | 1 % | 31 % | 1,000 | 100 % | 0 % | 12 | – |
//! | 1 % | 100 % | 1,000 | 100 % | 0 % | 3 | – |
//! | 5 % | 10 % | 1,000 | 56 % | 0.2 % | 865 | – |
//! | 5 % | 15 % | 1,000 | 100 % | 0 % | 177 | – |

/// Failures among devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// How many are judged.
    pub devices: u64,
    /// Of these, how many failed.
    pub failures: u64,
}

/// How sure to be of what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Chance to stop a release that is no worse, at most.
    pub false_stop: f64,
    /// Chance to pass a release that is worse by `tolerance` or more, at most.
    pub false_go: f64,
    /// The rise of the failure ratio that is not to pass, such as 0.05 for five points.
    pub tolerance: f64,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            false_stop: 0.01,
            false_go: 0.01,
            tolerance: 0.05,
        }
    }
}

/// What the counts say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is not worse by the tolerance: go on.
    Go,
    /// It is worse: stop.
    Stop,
    /// Not known yet: more devices.
    More,
}

/// What was found, with the figures that an operator is shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finding {
    /// What follows.
    pub verdict: Verdict,
    /// The failure ratio that counts as normal.
    pub normal: f64,
    /// How strongly the counts speak for "worse": 1 is not at all, `2 / false_stop` stops.
    pub against: f64,
    /// How strongly they speak for "not worse by the tolerance": `2 / false_go` goes on.
    pub in_favour: f64,
}

/// Where no devices were watched without the update, this ratio is normal.
pub const NORMAL_WITHOUT_CONTROL: f64 = 0.01;
/// No ratio below this counts as normal: links fail, and no fleet is perfect.
const NORMAL_MIN: f64 = 0.002;
/// Above this nothing is normal, and no bet is left.
const NORMAL_MAX: f64 = 0.9;

/// Rises that are bet on, of the failure ratio, and their shares of the stake.
const RISES: [(f64, f64); 6] = [
    (0.02, 0.1),
    (0.05, 0.25),
    (0.1, 0.2),
    (0.2, 0.2),
    (0.4, 0.15),
    (0.8, 0.1),
];

/// Judges the updated devices by those that were not.
pub fn judge(updated: Sample, control: Sample, rates: &Rates) -> Finding {
    // Half of each chance of error is spent on the estimate of what is normal.
    let normal = highest(control, rates.false_stop / 2.0);
    let against = against(updated, normal);
    let worse = lowest(control, rates.false_go / 2.0) + rates.tolerance;
    let in_favour = in_favour(updated, ratio(control), worse);
    let verdict = if against >= 2.0 / rates.false_stop {
        Verdict::Stop
    } else if in_favour >= 2.0 / rates.false_go {
        Verdict::Go
    } else {
        Verdict::More
    };
    Finding {
        verdict,
        normal,
        against,
        in_favour,
    }
}

fn ratio(control: Sample) -> f64 {
    match control.devices {
        0 => NORMAL_WITHOUT_CONTROL,
        devices => failures(control) / devices as f64,
    }
}

/// Upper end of the confidence interval of the ratio: the largest `p` that still gives so few
/// failures with a chance of `error` (Chernoff: `devices · KL(ratio ‖ p) ≤ ln(1/error)`).
fn highest(control: Sample, error: f64) -> f64 {
    if control.devices == 0 {
        return NORMAL_WITHOUT_CONTROL;
    }
    bound(control, 1.0, error).clamp(NORMAL_MIN, NORMAL_MAX)
}

/// The lower end.
fn lowest(control: Sample, error: f64) -> f64 {
    match control.devices {
        0 => 0.0,
        _ => bound(control, 0.0, error),
    }
}

/// The `p` between the ratio and `end` that is as far away as the limit allows.
fn bound(control: Sample, end: f64, error: f64) -> f64 {
    let ratio = ratio(control);
    let limit = (1.0 / error).ln() / control.devices as f64;
    let (mut inside, mut outside) = (ratio, end);
    for _ in 0..50 {
        let middle = f64::midpoint(inside, outside);
        match divergence(ratio, middle) <= limit {
            true => inside = middle,
            false => outside = middle,
        }
    }
    inside
}

/// Kullback-Leibler divergence of two coins.
fn divergence(p: f64, q: f64) -> f64 {
    let term = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    term(p, q) + term(1.0 - p, 1.0 - q)
}

/// The stake of who bets on more failures than normal.
fn against(updated: Sample, normal: f64) -> f64 {
    let bets = RISES.into_iter().map(|(rise, share)| {
        let raised = (normal + rise).min(0.99).max(normal);
        share * likelihood_ratio(updated, raised, normal)
    });
    bets.sum()
}

/// The stake of who bets on a ratio as normal, or a better one, against one that is `worse`.
fn in_favour(updated: Sample, normal: f64, worse: f64) -> f64 {
    let worse = worse.min(0.99);
    let bet = |ratio: f64| 0.5 * likelihood_ratio(updated, ratio.clamp(1e-4, worse), worse);
    bet(normal) + bet(normal / 4.0)
}

/// How much likelier the counts are under one ratio than under another.
fn likelihood_ratio(sample: Sample, under: f64, than: f64) -> f64 {
    let (failed, good) = (failures(sample), sample.devices as f64 - failures(sample));
    let log = failed * (under / than).ln() + good * ((1.0 - under) / (1.0 - than)).ln();
    // Nobody needs to know it more exactly than this, and infinity is no number to show.
    log.min(100.0).exp()
}

fn failures(sample: Sample) -> f64 {
    sample.failures.min(sample.devices) as f64
}

#[cfg(test)]
mod tests;
