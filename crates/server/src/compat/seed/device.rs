//! What a seed device says, put as the check-in that a native device would have sent.
//!
//! | the seed says | the check-in says |
//! |---|---|
//! | takes chunks | progress: downloading |
//! | verified | progress: downloaded |
//! | `pending_reboot` | progress: installing |
//! | booted as the release | runs that version: the attempt succeeds, on the device's word |
//! | booted as another version after `pending_reboot` | outcome: rolled back at boot |
//! | boot failed after `pending_reboot` | outcome: rolled back at boot |
//! | goes back | outcome: rolled back; what runs now is unknown until its next boot report |
//! | error during an update | outcome: failed |
//! | error while only a rollback stands | outcome: the rollback is refused |
//!
//! What is *not* said stays as it was last known, so a status post cannot erase anything.

use fota_proto::{
    AttemptState, DeviceId, FailureCode,
    checkin::{End, Phase},
};
use serde::{Deserialize, Serialize};

use super::status::{Claim, StatusPost};
use crate::domain::model::{
    Attempt, Device, Outcome, Progress, Protocol, Release, Report, RollbackOrder,
};

/// What is kept of a seed device beside what is kept of every device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// The release whose manifest it was last given; its chunks come from this one, whatever is
    /// uploaded meanwhile.
    #[serde(default)]
    pub given: Option<Given>,
    /// Its last status post, joined with what earlier ones said of the same download.
    #[serde(default)]
    pub last: StatusPost,
    /// When that came.
    #[serde(default)]
    pub last_at: i64,
}

/// A manifest that a device was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    pub release: i64,
    pub attempt: i64,
    /// The release may be given another chunk size later; this download keeps its own.
    pub chunk_bytes: u32,
}

/// The facts that give a claim its meaning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'a> {
    /// The device as stored.
    pub device: Option<&'a Device>,
    /// The attempt that it works on, and its release. Where none is under way: its newest.
    pub attempt: Option<(&'a Attempt, &'a Release)>,
    /// Its rollback order that stands.
    pub rollback: Option<&'a RollbackOrder>,
}

impl Context<'_> {
    fn open(&self) -> Option<(&Attempt, &Release)> {
        self.attempt.filter(|(attempt, _)| !attempt.state.is_end())
    }

    fn restarting(&self) -> Option<(&Attempt, &Release)> {
        let is_restarting = |state| matches!(state, AttemptState::Installing | AttemptState::Trial);
        self.open()
            .filter(|(attempt, _)| is_restarting(attempt.state))
    }
}

/// The check-in of a device that only shows that it is there.
pub fn sighting(id: &DeviceId, stored: Option<&Device>) -> Report {
    Report {
        // Known where it spoke the native protocol before: the chip is the same.
        chip: stored.and_then(|device| device.chip),
        chip_revision: stored.and_then(|device| device.chip_revision),
        version: stored.and_then(|device| device.version.clone()),
        ..Report::blank(id.clone(), Protocol::Seed)
    }
}

/// The check-in that a status post stands for.
pub fn check_in(id: &DeviceId, post: &StatusPost, chunk_bytes: u32, context: &Context) -> Report {
    let mut report = sighting(id, context.device);
    match post.claim() {
        Claim::Present => {}
        Claim::Taking => {
            let bytes = |release: &Release| bytes_taken(post, release.bytes, chunk_bytes);
            report.progress = progress(context, Phase::Downloading, bytes);
        }
        Claim::Verified => {
            report.progress = progress(context, Phase::Downloaded, |release| release.bytes);
        }
        Claim::Restarting { .. } => {
            report.progress = progress(context, Phase::Installing, |release| release.bytes);
        }
        Claim::Booted { version } => booted(&mut report, version, context),
        Claim::BootFailed => {
            let attempt = context.restarting().map(|(attempt, _)| attempt);
            let detail = post.error.clone().unwrap_or_else(|| boot_count(post));
            report.outcome = attempt.map(|attempt| rolled_back(attempt, detail));
        }
        Claim::WentBack => went_back(&mut report, post, context),
        Claim::Failed { code } => report.outcome = failed(code, post, context),
    }
    report
}

/// Progress of a device that asks for chunk `number`: it has all before it.
pub fn asks_for_chunk(id: &DeviceId, bytes_before: u64, context: &Context) -> Report {
    let mut report = sighting(id, context.device);
    report.progress = progress(context, Phase::Downloading, |_| bytes_before);
    report
}

/// `chunk_received` is a count. Where only a percentage is sent, that.
fn bytes_taken(post: &StatusPost, image_bytes: u64, chunk_bytes: u32) -> u64 {
    let counted = post
        .chunk_received
        .map(|count| count.saturating_mul(u64::from(chunk_bytes)));
    let shown = post
        .progress
        .map(|percent| (image_bytes as f64 * percent / 100.0) as u64);
    counted.or(shown).unwrap_or(0).min(image_bytes)
}

fn progress(context: &Context, phase: Phase, bytes: impl Fn(&Release) -> u64) -> Option<Progress> {
    let (attempt, release) = context.open()?;
    Some(Progress {
        order: attempt.order(),
        phase,
        bytes: u32::try_from(bytes(release)).unwrap_or(u32::MAX),
    })
}

fn booted(report: &mut Report, version: Option<String>, context: &Context) {
    let restarting = context.restarting();
    let expected = restarting.map(|(_, release)| release.version.as_str());
    if let (Some((attempt, _)), Some(expected), Some(version)) = (restarting, expected, &version)
        && version != expected
    {
        let detail = format!(
            "it restarted to run {expected} and says that it runs {version}; \
             the seed's early firmware never changes that text"
        );
        report.outcome = Some(rolled_back(attempt, detail));
    }
    let said = version.or_else(|| expected.map(str::to_owned));
    if said.is_some() {
        report.version = said;
    }
}

/// "I go back" names no version. Until the next boot report nobody knows what runs; that it is
/// not the image it left is what ends a rollback order.
fn went_back(report: &mut Report, post: &StatusPost, context: &Context) {
    let left = context
        .rollback
        .and_then(|order| order.leave_version.clone());
    // An attempt that failed before it installed is not what the device goes back from.
    let ran =
        |attempt: &Attempt| !attempt.state.is_end() || attempt.state == AttemptState::Succeeded;
    let attempt = context.attempt.filter(|(attempt, _)| ran(attempt));
    let attempt = attempt.map(|(attempt, release)| (attempt, &release.version));
    let is_left = |version: &String| {
        Some(version) == left.as_ref() || attempt.is_some_and(|(_, released)| version == released)
    };
    report.version = post.new_version.clone().filter(|version| !is_left(version));
    if context.rollback.is_some() && left.is_none() && report.version.is_none() {
        // An order to leave an unknown version would stand as long as the version is unknown.
        report.version = Some("unknown".to_owned());
    }
    let why = post.error.clone().unwrap_or_else(|| boot_count(post));
    report.outcome = attempt.map(|(attempt, _)| rolled_back(attempt, why));
}

fn failed(code: FailureCode, post: &StatusPost, context: &Context) -> Option<Outcome> {
    let detail = post.error.clone().unwrap_or_default();
    let outcome = |order, end| Outcome {
        order,
        end,
        code,
        reset: None,
        detail: detail.clone(),
    };
    match (context.open(), context.rollback) {
        (Some((attempt, _)), _) => Some(outcome(attempt.order(), End::Failed)),
        (None, Some(order)) => Some(outcome(order.order(), End::Refused)),
        (None, None) => None,
    }
}

fn rolled_back(attempt: &Attempt, detail: String) -> Outcome {
    Outcome {
        order: attempt.order(),
        end: End::RolledBackBoot,
        code: FailureCode::CrashLoop,
        reset: None,
        detail,
    }
}

fn boot_count(post: &StatusPost) -> String {
    match post.boot_count {
        Some(count) => format!("the device reports {count} starts"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        model::{Plan, Release, RollbackState, Rollout, Target},
        sample,
        step::{Change, Facts, Order, note, step},
    };
    use fota_proto::RollbackCause;
    use serde_json::{Value, json};

    /// One device, one release 1.0.6 rolled out to it, and what a store would remember of both.
    struct World {
        plan: Plan,
        facts: Facts,
        now: i64,
    }

    const IMAGE_BYTES: u64 = 1_065_968;

    fn release() -> Release {
        Release {
            version: "1.0.6".into(),
            project: "app".into(),
            chip: Some(0),
            bytes: IMAGE_BYTES,
            ..sample::release(1)
        }
    }

    fn rollout() -> Rollout {
        Rollout {
            target: Target::parse(&["ESP32-001".into()]).expect("a target"),
            allow_product_change: true,
            ..sample::rollout(1, 1)
        }
    }

    impl World {
        fn new() -> Self {
            let mut plan = Plan::default();
            plan.releases.insert(1, release());
            plan.rollouts.push(rollout());
            let facts = Facts {
                next_attempt: 1,
                poll_s: 60,
                ..Facts::default()
            };
            Self {
                plan,
                facts,
                now: 0,
            }
        }

        fn id() -> DeviceId {
            "ESP32-001".parse().expect("an id")
        }

        fn context(&self) -> Context<'_> {
            let attempt = self.facts.attempts.last();
            Context {
                device: self.facts.device.as_ref(),
                attempt: attempt.map(|attempt| (attempt, &self.plan.releases[&attempt.release])),
                rollback: self.facts.rollback.as_ref(),
            }
        }

        fn apply(&mut self, step: crate::domain::step::Step) {
            self.facts.device = Some(step.device);
            for change in step.changes {
                match change {
                    Change::Begin(attempt) => self.facts.attempts.push(attempt),
                    Change::Update(attempt) => {
                        *self.facts.attempts.last_mut().expect("began") = attempt;
                    }
                    Change::EndRollback(_) => self.facts.rollback = None,
                    Change::Block { release, .. } => {
                        self.facts.blocked.insert(release);
                    }
                    Change::Queue(_) => {}
                    Change::Leave(_) | Change::Charge { .. } | Change::Waits { .. } => {}
                }
            }
        }

        /// The device posts; gives the state of its attempt.
        fn post(&mut self, status: Value) -> Option<AttemptState> {
            let body = json!({ "fota_status": status }).to_string();
            let post = StatusPost::parse(body.as_bytes()).expect("a status post");
            let report = check_in(&Self::id(), &post, 16_384, &self.context());
            self.now += 1;
            self.facts.named = self.facts.attempts.last().cloned();
            let step = note(&self.facts, &self.plan, &report, self.now);
            self.apply(step);
            self.facts.attempts.last().map(|attempt| attempt.state)
        }

        /// The device asks for its manifest; gives whether an install is ordered.
        fn is_offered(&mut self) -> bool {
            let report = sighting(&Self::id(), self.facts.device.as_ref());
            self.now += 1;
            let step = step(&self.facts, &self.plan, &report, self.now);
            let order = step.decision.order.clone();
            self.apply(step);
            matches!(order, Some(Order::Install { .. }))
        }

        fn order_back(&mut self) {
            self.facts.rollback = Some(RollbackOrder {
                id: 1,
                device: "ESP32-001".into(),
                leave_elf: None,
                leave_version: self.version(),
                release: Some(1),
                reason: "Update failed".into(),
                state: RollbackState::Standing,
                code: None,
                requested_at: 0,
                ended_at: None,
                rollout: None,
            });
        }

        fn version(&self) -> Option<String> {
            self.facts.device.as_ref()?.version.clone()
        }

        fn updated() -> Self {
            let mut world = Self::new();
            world.post(json!({"boot_status": "success", "new_version": "1.0.5"}));
            assert!(world.is_offered());
            world.post(json!({"chunk_received": 66, "total_chunks": 66, "progress": 100}));
            world.post(json!({"verified": true}));
            world.post(json!({"boot_status": "pending_reboot", "new_version": "1.0.6"}));
            world
        }
    }

    #[test]
    fn an_update_goes_through_every_state_and_succeeds_on_the_devices_word() {
        use AttemptState as S;
        let mut world = World::new();
        let boot = |version: &str| json!({"boot_status": "success", "new_version": version});
        assert_eq!(world.post(boot("1.0.5")), None);
        assert!(world.is_offered());
        let taking = json!({"chunk_received": 33, "total_chunks": 66, "progress": 50});
        assert_eq!(world.post(taking), Some(S::Downloading));
        assert_eq!(world.facts.attempts[0].bytes_done, 33 * 16_384);
        assert_eq!(world.post(json!({"verified": true})), Some(S::Downloaded));
        let restarting = json!({"boot_status": "pending_reboot", "new_version": "1.0.6"});
        assert_eq!(world.post(restarting), Some(S::Installing));
        assert_eq!(
            world.version().as_deref(),
            Some("1.0.5"),
            "not before it says so"
        );
        assert_eq!(world.post(boot("1.0.6")), Some(S::Succeeded));
        assert_eq!(world.version().as_deref(), Some("1.0.6"));
        let word = world.facts.attempts[0].detail.as_deref().expect("a note");
        assert!(word.contains("cannot prove"), "{word}");
        assert!(!world.is_offered());
    }

    #[test]
    fn a_count_beyond_the_end_is_the_end() {
        let mut world = World::new();
        world.is_offered();
        world.post(json!({"chunk_received": 67, "total_chunks": 66, "progress": 101.5}));
        assert_eq!(world.facts.attempts[0].bytes_done, IMAGE_BYTES);
    }

    #[test]
    fn coming_back_as_the_old_version_is_a_rollback_and_blocks_the_release() {
        for status in [
            json!({"boot_status": "success", "new_version": "1.0.5\r"}),
            json!({"boot_status": "failed", "boot_count": 3, "rollback": true}),
            json!({"boot_status": "failed", "boot_count": 1}),
            json!({"rollback": true, "error": "self-test"}),
        ] {
            let mut world = World::updated();
            let back = AttemptState::RolledBack(RollbackCause::Boot);
            assert_eq!(world.post(status.clone()), Some(back), "{status}");
            world.post(json!({"boot_status": "success", "new_version": "1.0.5"}));
            assert!(!world.is_offered(), "{status}");
        }
    }

    #[test]
    fn an_error_ends_the_attempt_with_its_code() {
        let mut world = World::new();
        world.is_offered();
        let failed = AttemptState::Failed(FailureCode::HashMismatch);
        assert_eq!(world.post(json!({"error": "HMAC mismatch"})), Some(failed));
        let detail = world.facts.attempts[0].detail.as_deref();
        assert_eq!(detail, Some("HMAC mismatch"));
    }

    #[test]
    fn a_rollback_stands_until_the_device_is_seen_elsewhere() {
        let mut world = World::updated();
        world.post(json!({"boot_status": "success", "new_version": "1.0.6"}));
        world.order_back();
        for status in [
            json!({"chunk_received": 3}),
            json!({"verified": true}),
            json!({"boot_status": "success", "new_version": "1.0.6"}),
            json!({"boot_status": "success"}),
            json!({}),
        ] {
            world.post(status.clone());
            assert!(world.facts.rollback.is_some(), "{status}");
        }
        world.post(json!({"boot_status": "success", "new_version": "1.0.5"}));
        assert!(world.facts.rollback.is_none());
        assert!(world.facts.blocked.contains(&1));
        assert!(!world.is_offered());
    }

    #[test]
    fn going_back_or_refusing_ends_a_rollback() {
        for status in [
            json!({"rollback": true, "error": "Update failed"}),
            json!({"rollback": true, "new_version": "1.0.6"}),
            json!({"error": "nothing to go back to"}),
        ] {
            let mut world = World::updated();
            world.post(json!({"boot_status": "success", "new_version": "1.0.6"}));
            world.order_back();
            world.post(status.clone());
            assert!(world.facts.rollback.is_none(), "{status}");
        }
    }

    #[test]
    fn a_rollback_of_an_unknown_version_ends_too() {
        let mut world = World::new();
        world.post(json!({}));
        world.order_back();
        world.post(json!({"chunk_received": 1}));
        assert!(world.facts.rollback.is_some());
        world.post(json!({"rollback": true}));
        assert!(world.facts.rollback.is_none());
    }

    #[test]
    fn a_status_post_offers_nothing() {
        let mut world = World::new();
        assert_eq!(world.post(json!({"boot_status": "success"})), None);
        assert_eq!(world.post(json!({})), None);
    }
}
