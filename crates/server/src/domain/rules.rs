//! Whether a rollout offers its release to a device now: a chain of rules. The first that does not
//! pass decides, and `fota device why` shows all of them.
//!
//! For a device that has no attempt, or one that is to be tried again ([`FIRST`]):
//!
//! | rule | not passed |
//! |---|---|
//! | `withdrawn` | the release was withdrawn; older rollouts are asked |
//! | `paused`, `approval` | waits for a person |
//! | `dates` | waits for the start; after the end nothing is offered |
//! | `pinned` | held by an operator, or pinned to another release; then older rollouts are asked |
//! | `fits` | left out: other chip, revision, product, or no room |
//! | `installed`, `blocked`, `trusted` | left out |
//! | `via` | must pass through an earlier release, which is then what is offered |
//! | `wave` | waits for its wave |
//! | `download` | waits for the window, and in it for its own second |
//! | `install` | as `download`, for a device that cannot hold what it downloaded |
//! | `parallel`, `starts`, `bytes` | waits for a free place |
//!
//! For an attempt that is under way ([`AGAIN`]): `withdrawn`, `blocked`, `held` (a breach holds it
//! back), `pinned`, `trusted`, `download`, and where it stalled the limits again.

use std::borrow::Cow;

use fota_proto::{AttemptState, SkipReason};

use super::{
    filter::version_order,
    fit::fits,
    model::{Attempt, Device, Pin, Plan, Release, Rollout, Standing},
    plan::{Reach, bucket, share},
    step::Facts,
    trust::takes,
    window::{Gate, Schedule, Zone, own_start},
};

/// The name of the attribute or tag that gives a device's time zone.
const ZONE: &str = "tz";
/// The stretch in which starts are counted.
pub const STARTS_MS: i64 = 60_000;

/// A device and a rollout that names it.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub plan: &'a Plan,
    pub facts: &'a Facts,
    pub device: &'a Device,
    pub rollout: &'a Rollout,
    /// What the rollout brings in the end.
    pub release: &'a Release,
    /// The attempt that is under way, or that failed or led here and is followed by another.
    pub attempt: Option<&'a Attempt>,
    pub now: i64,
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing against it.
    Pass(Cow<'static, str>),
    /// Not now.
    Hold(Hold),
    /// The device is left out, or its attempt ends.
    End(End),
    /// The rollout has nothing for the device: older ones are asked.
    Leave(Cow<'static, str>),
}

/// How it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub state: AttemptState,
    pub detail: String,
    /// Whether older rollouts are asked.
    pub others: bool,
}

/// Why not now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub sentence: String,
    /// When it may be over by itself.
    pub until: Option<i64>,
    /// Whether it lies in what others do at the moment.
    pub by_load: bool,
}

/// A rule and its name.
pub type Rule = (&'static str, fn(&Asked) -> Verdict);

/// The rules for an offer, in their order.
pub const FIRST: &[Rule] = &[
    ("withdrawn", withdrawn),
    ("paused", paused),
    ("approval", approval),
    ("dates", dates),
    ("pinned", pinned),
    ("fits", fits_device),
    ("installed", installed),
    ("blocked", blocked),
    ("trusted", trusted),
    ("via", via),
    ("wave", wave),
    ("retry", retry),
    ("download", first_download),
    ("install", first_install),
    ("parallel", parallel),
    ("starts", starts),
    ("bytes", bytes),
];

/// The rules for an attempt that is under way.
pub const AGAIN: &[Rule] = &[
    ("withdrawn", again_withdrawn),
    ("blocked", again_blocked),
    ("held", held),
    ("pinned", again_pinned),
    ("trusted", again_trusted),
    ("download", again_download),
    ("install", first_install),
    ("parallel", again_parallel),
    ("bytes", again_bytes),
];

/// The first rule that does not pass; none where all do.
pub fn first_against(rules: &[Rule], asked: &Asked) -> Option<(&'static str, Verdict)> {
    let mut said = rules.iter().map(|(name, rule)| (*name, rule(asked)));
    said.find(|(_, verdict)| !matches!(verdict, Verdict::Pass(_)))
}

fn pass(sentence: impl Into<Cow<'static, str>>) -> Verdict {
    Verdict::Pass(sentence.into())
}

fn hold(sentence: impl Into<String>, until: Option<i64>) -> Verdict {
    let (sentence, by_load) = (sentence.into(), false);
    Verdict::Hold(Hold {
        sentence,
        until,
        by_load,
    })
}

fn hold_by_load(sentence: String, until: Option<i64>) -> Verdict {
    Verdict::Hold(Hold {
        sentence,
        until,
        by_load: true,
    })
}

/// Left out; where `others`, older rollouts are asked.
fn skip(reason: SkipReason, detail: String, others: bool) -> Verdict {
    Verdict::End(End {
        state: AttemptState::Skipped(reason),
        detail,
        others,
    })
}

fn withdrawn(asked: &Asked) -> Verdict {
    match asked.release.yanked {
        true => Verdict::Leave("the release was withdrawn".into()),
        false => pass("the release stands"),
    }
}

fn paused(asked: &Asked) -> Verdict {
    if asked.rollout.standing != Standing::Paused {
        return pass("the rollout is active");
    }
    let why = asked.rollout.reason.as_deref().unwrap_or("no reason given");
    hold(format!("the rollout is paused ({why}): resume it"), None)
}

fn approval(asked: &Asked) -> Verdict {
    let rollout = asked.rollout;
    if rollout.needs_approval() {
        let by = &rollout.created_by;
        let text = format!("somebody else than {by} must approve it: `fota rollout approve`");
        return hold(text, None);
    }
    match &rollout.approved_by {
        Some(by) => pass(format!("{by} approved it")),
        None => pass("no approval is asked for"),
    }
}

fn dates(asked: &Asked) -> Verdict {
    let schedule = &asked.rollout.plan.download;
    if let Some(start) = schedule.starts_at.filter(|start| asked.now < *start) {
        return hold("it has not started yet", Some(start));
    }
    match schedule.ends_at {
        Some(end) if asked.now >= end => hold("its end has come", None),
        Some(_) => pass("it has started and not ended"),
        None => pass("it has no end"),
    }
}

fn pinned(asked: &Asked) -> Verdict {
    match &asked.facts.pin {
        None => pass("it is not pinned"),
        Some(pin) if pin.lets(asked.release.id) => pass("it is pinned to this release"),
        // What it is pinned to may be what an older rollout brings.
        Some(pin) if pin.release.is_some() => Verdict::Leave(pin_text(asked, pin).into()),
        Some(pin) => hold(pin_text(asked, pin), None),
    }
}

fn again_pinned(asked: &Asked) -> Verdict {
    match &asked.facts.pin {
        Some(pin) if !pin.lets(asked.release.id) => hold(pin_text(asked, pin), None),
        _ => pass("no pin is against it"),
    }
}

fn pin_text(asked: &Asked, pin: &Pin) -> String {
    let release = pin.release.and_then(|id| asked.plan.releases.get(&id));
    let to = match (release, pin.release) {
        (Some(release), _) => format!("it is pinned to {}", release.version),
        (None, Some(id)) => format!("it is pinned to release {id}"),
        (None, None) => "an operator holds it".to_owned(),
    };
    let why = match pin.reason.as_str() {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    format!("{to}{why}: unpin it")
}

fn fits_device(asked: &Asked) -> Verdict {
    match fits(
        asked.device,
        asked.release,
        asked.rollout.allow_product_change,
    ) {
        Ok(()) => pass("chip, product and size fit"),
        Err((reason, detail)) => skip(reason, detail, reason != SkipReason::NoSpace),
    }
}

fn installed(asked: &Asked) -> Verdict {
    match asked.device.running().is(asked.release) {
        true => skip(SkipReason::AlreadyInstalled, String::new(), false),
        false => pass("it runs another image"),
    }
}

fn blocked(asked: &Asked) -> Verdict {
    match asked.facts.blocked.contains(&asked.release.id) {
        true => skip(SkipReason::BlockedRelease, String::new(), false),
        false => pass("it has not gone back from this release"),
    }
}

fn trusted(asked: &Asked) -> Verdict {
    match takes(asked.device, asked.plan, asked.release, asked.now) {
        Ok(()) => pass("the device takes releases signed so"),
        Err((reason, detail)) => skip(reason, detail, true),
    }
}

/// The release that the device must pass through next on its way.
pub fn next_release<'a>(asked: &Asked<'a>) -> Result<&'a Release, String> {
    let Some(version) = asked.rollout.plan.via.iter().find(|version| {
        let runs = asked.device.version.as_deref();
        runs.is_none_or(|runs| version_order(runs, version).is_lt())
    }) else {
        return Ok(asked.release);
    };
    let allow = asked.rollout.allow_product_change;
    let usable = |release: &&Release| {
        release.version == *version
            && !release.yanked
            && fits(asked.device, release, allow).is_ok()
            && takes(asked.device, asked.plan, release, asked.now).is_ok()
            && !asked.facts.blocked.contains(&release.id)
    };
    let found = asked.plan.releases.values().rev().find(usable);
    found.ok_or_else(|| {
        format!("it must pass through {version}, and no such release fits it: upload one")
    })
}

fn via(asked: &Asked) -> Verdict {
    match next_release(asked) {
        Err(why) => hold(why, None),
        Ok(next) if next.id == asked.release.id => pass("it may go to the release at once"),
        Ok(next) => pass(format!("it passes through {} first", next.version)),
    }
}

/// The wave that brings the device in, where one that was reached does.
pub fn wave_for(asked: &Asked) -> Result<u32, u32> {
    let rollout = asked.rollout;
    if let Some(attempt) = asked.attempt {
        // Who is in stays in.
        return Ok(attempt.wave);
    }
    let id = asked.device.id.as_str();
    let own = rollout.plan.wave_of(id, bucket(rollout.id, id));
    if own <= rollout.wave {
        return Ok(own);
    }
    match rollout.plan.wave(rollout.wave).reach {
        Reach::First(devices) if asked.facts.load(rollout.id).firsts < u64::from(devices) => {
            Ok(rollout.wave)
        }
        _ => Err(own),
    }
}

fn wave(asked: &Asked) -> Verdict {
    let rollout = asked.rollout;
    let (reached, of) = (rollout.wave + 1, rollout.plan.waves.len());
    match wave_for(asked) {
        Ok(wave) => pass(format!("wave {} of {of} has begun", wave + 1)),
        Err(own) => {
            let text = format!(
                "wave {reached} of {of} is under way; this device comes with wave {}",
                own + 1
            );
            hold(text, None)
        }
    }
}

fn retry(asked: &Asked) -> Verdict {
    let due = asked.attempt.and_then(|attempt| attempt.retry_at);
    match due {
        Some(due) if asked.now < due => hold("it failed and is tried again later", Some(due)),
        Some(_) => pass("it failed and may be tried again"),
        None => pass("it has not failed"),
    }
}

/// The device's time zone: what it says, else what an operator said, else the plan's.
pub fn zone(asked: &Asked) -> Zone {
    let said = asked.device.attributes.get(ZONE);
    let said = said.or_else(|| asked.facts.tags.get(ZONE));
    let parsed = said.and_then(|name| name.parse().ok());
    parsed.unwrap_or_else(|| asked.rollout.plan.zone.clone())
}

/// When the device may start, where it may not now: not before its own second in the window.
fn opens(asked: &Asked, schedule: &Schedule, salt: &str) -> Result<(), Option<i64>> {
    match schedule.gate(asked.now, &zone(asked)) {
        Gate::Closed { opens_at } => Err(opens_at),
        Gate::Open { since, until } => {
            let own = own_start(since, until, own_share(asked, salt));
            match asked.now < own {
                true => Err(Some(own)),
                false => Ok(()),
            }
        }
    }
}

fn own_share(asked: &Asked, salt: &str) -> u32 {
    share(salt, asked.rollout.id, &asked.device.id)
}

/// The moment at which a device that waits until `opens_at` may start: its own second.
fn own_second(asked: &Asked, schedule: &Schedule, salt: &str, opens_at: i64) -> i64 {
    match schedule.gate(opens_at, &zone(asked)) {
        Gate::Open { since, until } => own_start(since, until, own_share(asked, salt)),
        Gate::Closed { .. } => opens_at,
    }
}

fn window(asked: &Asked, schedule: &Schedule, salt: &str, verb: &str) -> Verdict {
    if schedule.is_any_time() {
        return pass(format!("it may {verb} at any time"));
    }
    let opens_at = match opens(asked, schedule, salt) {
        Ok(()) => return pass(format!("it may {verb} now")),
        Err(opens_at) => opens_at,
    };
    let until = opens_at.map(|at| own_second(asked, schedule, salt, at));
    let zone = zone(asked);
    hold(format!("it may not {verb} now (its zone is {zone})"), until)
}

fn first_download(asked: &Asked) -> Verdict {
    window(asked, &asked.rollout.plan.download, "download", "download")
}

fn first_install(asked: &Asked) -> Verdict {
    let Some(install) = &asked.rollout.plan.install else {
        return pass("it may install what it has");
    };
    match asked.device.waits {
        Some(_) => pass("it holds what it has until the install window"),
        // It would install at once.
        None => window(asked, install, "install", "install"),
    }
}

/// Whether the device is to hold what it has, and until when.
pub fn holds_install(asked: &Asked) -> Option<Option<i64>> {
    let install = asked.rollout.plan.install.as_ref()?;
    let opens_at = opens(asked, install, "install").err()?;
    Some(opens_at.map(|at| own_second(asked, install, "install", at)))
}

fn parallel(asked: &Asked) -> Verdict {
    let Some(max) = asked.rollout.plan.limits.parallel else {
        return pass("no limit of devices at a time");
    };
    let live = asked.facts.load(asked.rollout.id).live;
    match live < u64::from(max) {
        true => pass(format!("{live} of {max} places are taken")),
        false => hold_by_load(
            format!("{live} of {max} places are taken: it waits for one"),
            None,
        ),
    }
}

fn starts(asked: &Asked) -> Verdict {
    let Some(max) = asked.rollout.plan.limits.starts_per_minute else {
        return pass("no limit of starts a minute");
    };
    let load = asked.facts.load(asked.rollout.id);
    match load.starts < u64::from(max) {
        true => pass(format!("{} of {max} starts this minute", load.starts)),
        false => hold_by_load(
            format!("{} of {max} starts this minute", load.starts),
            load.oldest_start.map(|at| at + STARTS_MS),
        ),
    }
}

fn bytes(asked: &Asked) -> Verdict {
    let full = |budget: &&Budget| budget.free_at > asked.now;
    match asked.facts.budgets_of(asked.rollout.id).find(full) {
        None => pass("no budget of bytes is used up"),
        Some(budget) => hold_by_load(
            format!(
                "the budget of {} bytes a second of {} is used up for now",
                budget.bytes_per_s, budget.name
            ),
            Some(budget.free_at),
        ),
    }
}

fn again_withdrawn(asked: &Asked) -> Verdict {
    let release = asked.under_way();
    match release.yanked {
        true => Verdict::End(End {
            state: AttemptState::Aborted,
            detail: "the release was withdrawn".to_owned(),
            others: true,
        }),
        false => pass("the release stands"),
    }
}

fn again_blocked(asked: &Asked) -> Verdict {
    match asked.facts.blocked.contains(&asked.under_way().id) {
        true => Verdict::End(End {
            state: AttemptState::Aborted,
            detail: "the release is blocked on this device".to_owned(),
            others: false,
        }),
        false => pass("it has not gone back from this release"),
    }
}

fn held(asked: &Asked) -> Verdict {
    if !asked.rollout.held {
        return pass("nothing holds it back");
    }
    let why = asked.rollout.reason.as_deref().unwrap_or("too many failed");
    hold(format!("the rollout is held back ({why}): resume it"), None)
}

fn again_trusted(asked: &Asked) -> Verdict {
    match takes(asked.device, asked.plan, asked.under_way(), asked.now) {
        Ok(()) => pass("the device takes releases signed so"),
        Err((reason, detail)) => skip(reason, detail, true),
    }
}

fn again_download(asked: &Asked) -> Verdict {
    let state = asked.attempt.map(|attempt| attempt.state);
    if state.is_some_and(|state| !takes_bytes(state)) {
        return pass("it has all bytes");
    }
    let schedule = &asked.rollout.plan.download;
    match schedule.gate(asked.now, &zone(asked)) {
        Gate::Open { .. } => pass("it may download now"),
        Gate::Closed { opens_at } => {
            let until = opens_at.map(|at| own_second(asked, schedule, "download", at));
            hold("its download goes on when the window opens", until)
        }
    }
}

fn takes_bytes(state: AttemptState) -> bool {
    matches!(state, AttemptState::Offered | AttemptState::Downloading)
}

/// A stalled attempt gave its place up: it waits for one again.
fn if_stalled(asked: &Asked, rule: fn(&Asked) -> Verdict) -> Verdict {
    match asked.attempt.is_some_and(|attempt| attempt.stalled) {
        true => rule(asked),
        false => pass("it has its place"),
    }
}

fn again_parallel(asked: &Asked) -> Verdict {
    if_stalled(asked, parallel)
}

fn again_bytes(asked: &Asked) -> Verdict {
    if_stalled(asked, bytes)
}

impl<'a> Asked<'a> {
    /// The release that the attempt brings.
    fn under_way(&self) -> &'a Release {
        let brought = self.attempt.map(|attempt| attempt.release);
        let brought = brought.and_then(|id| self.plan.releases.get(&id));
        brought.unwrap_or(self.release)
    }
}

/// What others do in a rollout at the moment, read in the transaction that decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Attempts under way that have not stalled.
    pub live: u64,
    /// Offers of the last [`STARTS_MS`].
    pub starts: u64,
    /// When the oldest of these was made.
    pub oldest_start: Option<i64>,
    /// Attempts that the first wave brought in, where that takes the first to come.
    pub firsts: u64,
    /// Until when a device that its wave has reached waits for its turn, as far as known.
    pub waits_until: i64,
}

/// Bytes per second that may be sent on average. Each offer moves `free_at` on by the time that
/// its bytes take at that rate, and none is made before `free_at`: over any stretch of time at
/// most the rate and one image are offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// As it is stored: `server`, `group NAME`, `rollout r-7`.
    pub name: String,
    pub bytes_per_s: u64,
    pub free_at: i64,
    /// The rollout that it belongs to; none where it counts for all.
    pub rollout: Option<i64>,
}

impl Budget {
    /// When it is free again after an offer of so many bytes at `now`.
    pub fn charged(&self, bytes: u64, now: i64) -> i64 {
        let rate = self.bytes_per_s.max(1);
        let ms = bytes.saturating_mul(1000).div_ceil(rate);
        let ms = i64::try_from(ms).unwrap_or(i64::MAX);
        self.free_at.max(now).saturating_add(ms)
    }
}
