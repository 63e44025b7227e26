//! The nouns as the server stores them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use fota_proto::{
    AttemptState, DeviceId, FailureCode, Sha256,
    checkin::{End, PatchProfile, Phase, ResetReason, SlotState, Waits},
    limits::HEAD_BYTES,
    log::LogHead,
};

use super::{
    delta::{Delta, Offered},
    filter::{Field, Filter, Traits},
    fit::chip_name,
    health::has_restarted,
    log::Tree,
    plan::RolloutPlan,
};

/// The language a device speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `POST /d/v1/check-in`.
    Native,
    /// The seed's API: no digest of what runs, only a version text.
    Seed,
}

impl Protocol {
    /// Its name in the API, in filters and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Seed => "seed",
        }
    }
}

/// A release as stored; never changed but for `yanked`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    pub id: i64,
    pub version: String,
    pub project: String,
    /// ESP chip id; none for a file that is no image (`lab`).
    pub chip: Option<u16>,
    pub bytes: u64,
    pub sha256: Sha256,
    /// The first bytes, which a device writes last.
    pub head: [u8; HEAD_BYTES],
    pub elf: Option<Sha256>,
    pub idf_version: Option<String>,
    pub secure_version: u32,
    pub chip_revision_min: u16,
    pub chip_revision_max: Option<u16>,
    pub notes: String,
    pub lab: bool,
    pub yanked: bool,
    /// Chunk size that an upload through the seed's API named.
    pub seed_chunk_bytes: Option<u32>,
    pub uploaded_at: i64,
    /// What the release keys have said of it.
    pub signed: Option<Signed>,
}

/// The signed release that stands for a stored one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// SHA-256 of its envelope, and its blob.
    pub digest: Sha256,
    /// SHA-256 of the image with its index, and its blob.
    pub artifact: Sha256,
    pub sequence: u32,
    pub epoch: u32,
    /// Seconds since the Unix epoch, as signed.
    pub expires: Option<u64>,
    pub support_until: Option<u64>,
    pub advisory: Option<String>,
    pub self_test_deadline_s: Option<u16>,
    /// Ids of the keys that signed it.
    pub signed_by: Vec<String>,
    /// Whether the newest root still counts those keys.
    pub trusted: bool,
}

/// What a device says it trusts; nothing from one that speaks the seed's API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Trust {
    /// Version of its root; 0 while it waits for a first one, none where it takes unsigned
    /// answers.
    pub root: Option<u32>,
    /// Security epoch below which it starts nothing.
    pub epoch: Option<u32>,
    /// The head of the release log that it saw last.
    pub log: Option<LogHead>,
}

impl Trust {
    /// Whether the device takes signed releases only.
    pub fn needs_signature(&self) -> bool {
        self.root.is_some_and(|version| version > 0)
    }
}

/// A device as last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub id: String,
    pub protocol: Protocol,
    pub chip: Option<u16>,
    pub chip_revision: Option<u16>,
    pub project: Option<String>,
    pub version: Option<String>,
    pub elf: Option<Sha256>,
    pub confirmed: Option<bool>,
    pub slot: Option<u8>,
    pub slots: Vec<Slot>,
    pub rollback_slot: Option<u8>,
    pub reset: Option<ResetReason>,
    pub warning: Option<String>,
    pub trust: Trust,
    /// The largest patches that it can apply; none where it takes whole images only.
    pub patches: Option<PatchProfile>,
    /// What it says of itself for filters and schedules.
    pub attributes: BTreeMap<String, String>,
    /// What its application measured last.
    pub metrics: BTreeMap<String, i32>,
    /// Why it does not install now; none from a device that does not know to hold.
    pub waits: Option<Waits>,
    /// When it was last seen to have restarted by panic or watchdog.
    pub crashed_at: Option<i64>,
    pub first_seen: i64,
    pub last_seen: i64,
}

/// A device as a filter sees it.
#[derive(Clone, Copy, Debug)]
pub struct Traited<'a> {
    pub device: &'a Device,
    pub groups: &'a [String],
    pub tags: &'a BTreeMap<String, String>,
}

impl Traits for Traited<'_> {
    fn any(&self, field: &Field, holds: &mut dyn FnMut(&str) -> bool) -> bool {
        let device = self.device;
        match field {
            Field::Id => holds(&device.id),
            Field::Version => device.version.as_deref().is_some_and(holds),
            Field::Project => device.project.as_deref().is_some_and(holds),
            Field::Chip => device.chip.is_some_and(|chip| holds(&chip_name(chip))),
            Field::Group => self.groups.iter().any(|group| holds(group)),
            Field::Protocol => holds(device.protocol.name()),
            Field::Tag(name) => self.tags.get(name).is_some_and(|value| holds(value)),
            Field::Attribute(name) => {
                let value = device.attributes.get(name);
                value.is_some_and(|value| holds(value))
            }
        }
    }
}

impl Device {
    /// A device of which nothing is known but how it speaks.
    pub fn blank(protocol: Protocol) -> Self {
        Self {
            id: String::new(),
            protocol,
            chip: None,
            chip_revision: None,
            project: None,
            version: None,
            elf: None,
            confirmed: None,
            slot: None,
            slots: Vec::new(),
            rollback_slot: None,
            reset: None,
            warning: None,
            trust: Trust::default(),
            patches: None,
            attributes: BTreeMap::new(),
            metrics: BTreeMap::new(),
            waits: None,
            crashed_at: None,
            first_seen: 0,
            last_seen: 0,
        }
    }

    /// Whether a rollback order has something to boot; nobody knows for a seed device, so it may
    /// be asked.
    pub fn rollback_available(&self) -> bool {
        self.rollback_slot.is_some() || self.protocol == Protocol::Seed
    }

    /// Version in the slot that a rollback order would boot.
    pub fn rollback_version(&self) -> Option<&str> {
        let slot = self.rollback_slot?;
        let found = self.slots.iter().find(|held| held.slot == slot)?;
        found.version.as_deref()
    }

    /// What the device runs.
    pub fn running(&self) -> Running<'_> {
        Running {
            elf: self.elf,
            version: self.version.as_deref(),
        }
    }
}

/// One application slot of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub slot: u8,
    pub bytes: u32,
    pub state: SlotState,
    pub elf: Option<Sha256>,
    pub version: Option<String>,
}

impl Slot {
    /// A slot of which only its size is known.
    pub fn with_room(bytes: u32) -> Self {
        Self {
            slot: 0,
            bytes,
            state: SlotState::Empty,
            elf: None,
            version: None,
        }
    }
}

/// What one check-in says, whatever protocol it came by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub device: DeviceId,
    pub protocol: Protocol,
    pub chip: Option<u16>,
    pub chip_revision: Option<u16>,
    /// Digest of the image that runs; none from a device that cannot tell.
    pub elf: Option<Sha256>,
    pub version: Option<String>,
    pub project: Option<String>,
    pub confirmed: Option<bool>,
    pub slot: Option<u8>,
    pub slots: Vec<Slot>,
    pub rollback_slot: Option<u8>,
    pub progress: Option<Progress>,
    pub outcome: Option<Outcome>,
    pub reset: Option<ResetReason>,
    /// Seconds since that reset; none from a device that cannot tell.
    pub uptime_s: Option<u32>,
    pub trust: Trust,
    /// The largest patches that it can apply.
    pub patches: Option<PatchProfile>,
    pub attributes: BTreeMap<String, String>,
    pub metrics: BTreeMap<String, i32>,
    pub waits: Option<Waits>,
}

impl Report {
    /// The check-in of a device that says nothing of itself.
    pub fn blank(device: DeviceId, protocol: Protocol) -> Self {
        Self {
            device,
            protocol,
            chip: None,
            chip_revision: None,
            elf: None,
            version: None,
            project: None,
            confirmed: None,
            slot: None,
            slots: Vec::new(),
            rollback_slot: None,
            progress: None,
            outcome: None,
            reset: None,
            uptime_s: None,
            trust: Trust::default(),
            patches: None,
            attributes: BTreeMap::new(),
            metrics: BTreeMap::new(),
            waits: None,
        }
    }

    /// What the device runs.
    pub fn running(&self) -> Running<'_> {
        Running {
            elf: self.elf,
            version: self.version.as_deref(),
        }
    }

    /// Whether it crashed since it was heard of, as far as its uptime tells.
    pub fn has_crashed_since(&self, heard_at: i64, now: i64) -> bool {
        let has_restarted = |uptime_s| has_restarted(uptime_s, heard_at, now);
        self.is_after_crash() && self.uptime_s.is_some_and(has_restarted)
    }

    /// Whether its last reset was none that a healthy image makes.
    pub fn is_after_crash(&self) -> bool {
        matches!(self.reset, Some(ResetReason::Panic | ResetReason::Watchdog))
    }

    /// Whether the new image runs unconfirmed.
    pub fn on_trial(&self) -> bool {
        self.confirmed == Some(false)
    }
}

/// Identity of a running image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running<'a> {
    pub elf: Option<Sha256>,
    pub version: Option<&'a str>,
}

impl Running<'_> {
    /// Whether this is the release. The digest decides where there is one; a device of the seed's
    /// API has only its version text.
    pub fn is(&self, release: &Release) -> bool {
        match self.elf {
            Some(elf) => release.elf == Some(elf),
            None => self.version == Some(release.version.as_str()),
        }
    }

    /// Whether this is the image that a rollback order is to leave.
    pub fn is_left_by(&self, order: &RollbackOrder) -> bool {
        match order.leave_elf {
            Some(leave) => self.elf == Some(leave),
            None => self.version == order.leave_version.as_deref(),
        }
    }
}

/// What a device is doing about its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub order: u64,
    pub phase: Phase,
    pub bytes: u32,
}

/// How an order ended on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub order: u64,
    pub end: End,
    pub code: FailureCode,
    pub reset: Option<ResetReason>,
    pub detail: String,
}

/// The target "every device that speaks the seed's API".
pub const SEED_DEVICES: &str = "seed:all";

/// What a rollout is aimed at.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Target {
    pub all: bool,
    /// Every device that speaks the seed's API, now or later: what an upload there is meant for.
    pub seed: bool,
    pub groups: BTreeSet<String>,
    pub devices: BTreeSet<String>,
}

impl Target {
    pub fn includes(&self, device: &str, protocol: Protocol, groups: &[String]) -> bool {
        self.all
            || (self.seed && protocol == Protocol::Seed)
            || self.devices.contains(device)
            || groups.iter().any(|group| self.groups.contains(group))
    }
}

/// A text of a request that names no target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetError(pub String);

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text) = self;
        write!(
            f,
            "{text:?} is no target: give `all`, `seed:all`, `group:NAME`, or a device id \
             (1 to 64 of A-Z a-z 0-9 . _ : -)"
        )
    }
}

impl Target {
    /// Reads the targets of a request: `all`, `seed:all`, `group:NAME`, or device ids.
    pub fn parse(texts: &[String]) -> Result<Self, TargetError> {
        let mut target = Self::default();
        for text in texts {
            let bad = || TargetError(text.chars().take(80).collect());
            if text == "all" {
                target.all = true;
            } else if text == SEED_DEVICES {
                target.seed = true;
            } else if let Some(group) = text.strip_prefix("group:") {
                let name = DeviceId::from_str(group).map_err(|_| bad())?;
                target.groups.insert(name.to_string());
            } else {
                let id = DeviceId::from_str(text).map_err(|_| bad())?;
                target.devices.insert(id.to_string());
            }
        }
        Ok(target)
    }

    /// The targets as in a request, sorted.
    pub fn to_texts(&self) -> Vec<String> {
        let all = self.all.then(|| "all".to_owned());
        let seed = self.seed.then(|| SEED_DEVICES.to_owned());
        let groups = self.groups.iter().map(|name| format!("group:{name}"));
        all.into_iter()
            .chain(seed)
            .chain(groups)
            .chain(self.devices.iter().cloned())
            .collect()
    }

    /// The targets for people: at most a few of them.
    pub fn shown(&self) -> String {
        const SHOWN_MAX: usize = 5;
        let mut texts = self.to_texts();
        if let Some(more @ 1..) = texts.len().checked_sub(SHOWN_MAX) {
            texts.truncate(SHOWN_MAX);
            texts.push(format!("{more} more"));
        }
        texts.join(", ")
    }
}

/// Whether a rollout offers, as stored; `complete` follows from the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It offers its release.
    Active,
    /// It starts no new attempts.
    Paused,
    /// An operator ended it.
    Aborted,
    /// A newer rollout of the same product to the same targets took its place.
    Superseded,
}

/// What an operator has pinned a device to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pin {
    /// The release that it may take; none: it takes no release.
    pub release: Option<i64>,
    pub reason: String,
    pub at: i64,
}

impl Pin {
    /// Whether the device may take the release.
    pub fn lets(&self, release: i64) -> bool {
        self.release == Some(release)
    }
}

/// A rollout as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    pub id: i64,
    pub release: i64,
    pub target: Target,
    pub standing: Standing,
    /// Paused because it breached its failure limit: attempts that have not begun to install
    /// are held back too.
    pub held: bool,
    pub reason: Option<String>,
    pub failures_max: Option<u32>,
    pub rollback_on_failure: bool,
    pub trial_deadline_s: u32,
    pub allow_product_change: bool,
    pub idempotency_key: Option<String>,
    pub created_at: i64,
    pub plan: Arc<RolloutPlan>,
    /// Number of the wave that it has reached, from 0.
    pub wave: u32,
    /// When that wave began.
    pub wave_since: i64,
    /// Devices known then that the wave reaches and none before it did; none until counted.
    pub wave_devices: Option<u64>,
    /// Who started it, as the audit log names them.
    pub created_by: String,
    /// Who approved it.
    pub approved_by: Option<String>,
    /// Failures that an operator has seen and resumed it after: its gates count from there.
    pub forgiven: u64,
}

impl Rollout {
    /// Whether it waits for somebody to approve it.
    pub fn needs_approval(&self) -> bool {
        self.plan.approval && self.approved_by.is_none()
    }
}

/// One device in one rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub id: i64,
    pub rollout: i64,
    pub device: String,
    pub release: i64,
    /// Whether it is the one that counts: a retry leaves it behind as history.
    pub current: bool,
    pub from_version: Option<String>,
    pub from_elf: Option<Sha256>,
    pub state: AttemptState,
    /// What the device or the server added to the state.
    pub detail: Option<String>,
    pub bytes_done: u64,
    pub bytes_total: u64,
    pub bytes_sent: u64,
    pub requests: u64,
    /// How often the device came as far as switching its boot slot.
    pub installs: u32,
    /// Whether it was seen on its old image since, without a word why.
    pub back: bool,
    /// The patch that it was offered; it keeps it.
    pub patch: Option<Offered>,
    /// The wave that brought the device in, from 0.
    pub wave: u32,
    /// Which try of the device in this rollout it is, from 1.
    pub tries: u32,
    /// Where it failed for a passing reason: when the device is offered it again.
    pub retry_at: Option<i64>,
    /// Whether it was found without progress for too long: it holds no place of the limits.
    pub stalled: bool,
    pub created_at: i64,
    pub updated_at: i64,
}

impl Attempt {
    /// The number of its order on the wire.
    pub fn order(&self) -> u64 {
        install_order(self.id)
    }
}

/// Where a rollback order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollbackState {
    Standing,
    Done,
    Refused,
}

/// An order for one device to leave an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackOrder {
    pub id: i64,
    pub device: String,
    pub leave_elf: Option<Sha256>,
    pub leave_version: Option<String>,
    /// The release that is left, where it is one of ours.
    pub release: Option<i64>,
    pub reason: String,
    pub state: RollbackState,
    pub code: Option<FailureCode>,
    pub requested_at: i64,
    pub ended_at: Option<i64>,
    /// The rollout that ordered it because it breached a gate; none where a person did.
    pub rollout: Option<i64>,
}

impl RollbackOrder {
    /// Its number on the wire.
    pub fn order(&self) -> u64 {
        rollback_order(self.id)
    }
}

/// Numbers of install orders are even, of rollback orders odd, so that one number is one order.
pub fn install_order(attempt: i64) -> u64 {
    attempt.unsigned_abs() << 1
}

fn rollback_order(id: i64) -> u64 {
    (id.unsigned_abs() << 1) | 1
}

/// What a number on the wire stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderId {
    Install(i64),
    Rollback(i64),
}

impl OrderId {
    pub fn of(number: u64) -> Self {
        // At most 63 bits remain, so the conversion holds.
        let id = i64::try_from(number >> 1).unwrap_or(i64::MAX);
        if number & 1 == 0 {
            Self::Install(id)
        } else {
            Self::Rollback(id)
        }
    }
}

/// A line of history about to be written.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NewEvent {
    pub kind: String,
    pub device: Option<String>,
    pub rollout: Option<i64>,
    pub release: Option<i64>,
    pub actor: &'static str,
    pub text: String,
    pub state: Option<AttemptState>,
}

/// What all check-ins share: the releases, and the rollouts that may offer.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Changes whenever any of this changes.
    pub generation: i64,
    pub releases: BTreeMap<i64, Release>,
    /// Active and paused rollouts, newest first.
    pub rollouts: Vec<Rollout>,
    /// Version of the newest root.
    pub root: Option<u32>,
    /// The release log.
    pub log: Arc<Tree>,
    /// Patches to the releases of those rollouts, by release.
    pub deltas: BTreeMap<i64, Vec<Delta>>,
    /// Groups that are a filter, or have a budget.
    pub groups: Vec<GroupRule>,
}

/// What a group is besides a list of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRule {
    pub name: String,
    /// Devices of which it holds are in the group too.
    pub filter: Option<Filter>,
    /// Bytes that may go to it each second, on average.
    pub bytes_per_s: Option<u64>,
}

impl Plan {
    pub fn rollout(&self, id: i64) -> Option<&Rollout> {
        self.rollouts.iter().find(|rollout| rollout.id == id)
    }

    /// Patches to the release.
    pub fn deltas(&self, release: i64) -> &[Delta] {
        self.deltas.get(&release).map_or(&[], Vec::as_slice)
    }

    /// Groups whose rule holds of a device, beside those that it is listed in.
    pub fn joined<'a>(&'a self, device: &'a Traited) -> impl Iterator<Item = &'a str> {
        let holds = |rule: &&GroupRule| {
            let filter = rule.filter.as_ref();
            filter.is_some_and(|filter| filter.matches(device))
                && !device.groups.contains(&rule.name)
        };
        let joined = self.groups.iter().filter(holds);
        joined.map(|rule| rule.name.as_str())
    }

    /// The release that carries this ELF digest.
    pub fn by_elf(&self, elf: Sha256) -> Option<&Release> {
        let mut releases = self.releases.values();
        releases.find(|release| release.elf == Some(elf))
    }

    /// The release that the device runs.
    pub fn running(&self, running: Running<'_>) -> Option<&Release> {
        let mut newest_first = self.releases.values().rev();
        newest_first.find(|release| running.is(release))
    }
}
