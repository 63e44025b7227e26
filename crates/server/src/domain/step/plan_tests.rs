//! What must hold under any plan, whatever the devices do and in whatever order they come.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fota_proto::{
    FailureCode,
    checkin::{Phase, ResetReason},
    manager,
};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

use super::*;
use crate::domain::{
    model::{Outcome, Progress, Protocol, Rollout, Slot},
    plan::{self, Reach, RolloutPlan},
    rollout,
    rules::STARTS_MS,
    sample::{self, elf},
    wave::{self, Counted, WaveCount},
    window::{Gate, Zone},
};

const DEVICES: usize = 6;
const POLL_MS: i64 = 60_000;
const BYTES: u64 = 1000;
/// Once nothing fails any more devices come so often, and it takes so many times at most: three weeks, for one
/// device at a time in a window of an hour a day.
const ROUND_MS: i64 = 20 * 60 * 1000;
const ROUNDS_MAX: usize = 1512;
/// Monday, 23 November 2026, noon.
const NOON: i64 = 1_795_435_200_000;

fn release(id: i64) -> Release {
    Release {
        bytes: BYTES,
        ..sample::release(id)
    }
}

fn id(device: usize) -> String {
    format!("d{device}")
}

/// Budgets: their names, their bytes a second, and which devices they are for.
type Budgets = Vec<(&'static str, u64, fn(usize) -> bool)>;

/// The whole server in memory: what the store would hold, and devices that are what they report.
struct World {
    plan: Plan,
    /// As another node has read it from the database.
    other: Plan,
    now: i64,
    attempts: BTreeMap<i64, Attempt>,
    devices: Vec<Option<Device>>,
    blocked: BTreeSet<(usize, i64)>,
    moments: BTreeMap<String, i64>,
    waits_until: i64,
    /// Budgets beside that of the rollout.
    budgets: Budgets,
    /// What each runs, and what it does about its order.
    runs: Vec<(i64, bool)>,
    progress: Vec<Option<(u64, Phase)>>,
    /// The release that each is bringing into its other slot.
    takes: Vec<i64>,
    /// When which device was offered something.
    offers: Vec<(i64, usize)>,
}

/// The release that everybody is to have in the end, and the one that a plan may lead through.
const LAST: i64 = 3;
const VIA: i64 = 2;

impl World {
    fn new(given: Value, budgets: Budgets) -> Self {
        let given: manager::RolloutPlan = serde_json::from_value(given).expect("a plan");
        let rollout = Rollout {
            created_at: NOON,
            plan: Arc::new(RolloutPlan::check(&given).expect("valid")),
            wave_since: NOON,
            ..sample::rollout(1, LAST)
        };
        let plan = Plan {
            generation: 1,
            releases: [1, VIA, LAST].map(|id| (id, release(id))).into(),
            rollouts: vec![rollout],
            ..Plan::default()
        };
        let mut other = plan.clone();
        let stored = serde_json::to_string(other.rollouts[0].plan.given()).expect("JSON");
        let read = serde_json::from_str(&stored).expect("a plan");
        other.rollouts[0].plan = Arc::new(RolloutPlan::check(&read).expect("valid"));
        Self {
            plan,
            other,
            now: NOON,
            attempts: BTreeMap::new(),
            devices: vec![None; DEVICES],
            blocked: BTreeSet::new(),
            moments: BTreeMap::new(),
            waits_until: 0,
            budgets,
            takes: vec![LAST; DEVICES],
            runs: vec![(1, true); DEVICES],
            progress: vec![None; DEVICES],
            offers: Vec::new(),
        }
    }

    fn rollout(&self) -> &Rollout {
        &self.plan.rollouts[0]
    }

    fn current(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.values().filter(|attempt| attempt.current)
    }

    fn live(&self) -> usize {
        let live = |attempt: &&Attempt| !attempt.state.is_end() && !attempt.stalled;
        self.current().filter(live).count()
    }

    fn facts(&self, device: usize) -> Facts {
        let name = id(device);
        let starts: Vec<i64> = self
            .offers
            .iter()
            .map(|(at, _)| *at)
            .filter(|at| *at > self.now - STARTS_MS)
            .collect();
        let firsts = self.current().filter(|attempt| attempt.wave == 0);
        let load = Load {
            live: self.live() as u64,
            starts: starts.len() as u64,
            oldest_start: starts.first().copied(),
            firsts: firsts.count() as u64,
            waits_until: self.waits_until,
        };
        let bytes_per_s = self.rollout().plan.limits.bytes_per_s;
        let budget = |name: &str, bytes_per_s, rollout| Budget {
            name: name.to_owned(),
            bytes_per_s,
            free_at: self.moments.get(name).copied().unwrap_or(0),
            rollout,
        };
        let own = bytes_per_s
            .into_iter()
            .map(|rate| budget("rollout r-1", rate, Some(1)));
        let of_device = self.budgets.iter().filter(|(_, _, is_for)| is_for(device));
        let others = of_device.map(|(name, rate, _)| budget(name, *rate, None));
        let budgets = own.chain(others);
        Facts {
            device: self.devices[device].clone(),
            attempts: self
                .current()
                .filter(|attempt| attempt.device == name)
                .cloned()
                .collect(),
            blocked: self
                .blocked
                .iter()
                .filter(|(of, _)| *of == device)
                .map(|(_, id)| *id)
                .collect(),
            loads: [(1, load)].into(),
            budgets: budgets.collect(),
            next_attempt: self.attempts.len() as i64 + 1,
            poll_s: 60,
            ..Facts::default()
        }
    }

    fn report(&self, device: usize, outcome: Option<Outcome>) -> Report {
        let (runs, confirmed) = self.runs[device];
        Report {
            chip: Some(5),
            chip_revision: Some(3),
            elf: Some(elf(runs)),
            version: Some(format!("1.0.{runs}")),
            project: Some("thermostat".to_owned()),
            confirmed: Some(confirmed),
            slot: Some(0),
            slots: vec![Slot {
                slot: 1,
                bytes: 4096,
                state: fota_proto::checkin::SlotState::Empty,
                elf: None,
                version: None,
            }],
            progress: self.progress[device].map(|(order, phase)| Progress {
                order,
                phase,
                bytes: 500,
            }),
            outcome,
            reset: Some(ResetReason::PowerOn),
            waits: Some(Waits::Nothing),
            ..Report::blank(id(device).parse().expect("an id"), Protocol::Native)
        }
    }

    /// A device checks in; what was decided is checked and stored.
    fn check_in(&mut self, device: usize, outcome: Option<Outcome>) -> Option<(u64, bool)> {
        let report = self.report(device, outcome);
        let facts = self.facts(device);
        let done = step(&facts, &self.plan, &report, self.now);
        // Another node, that has read the plan for itself, says the same.
        assert_eq!(step(&facts, &self.other, &report, self.now), done);
        self.apply(device, &done);
        // Said twice it changes nothing, and the answer is the same.
        let again = step(&self.facts(device), &self.plan, &report, self.now);
        assert_eq!(again.changes, [], "{done:?}");
        assert_eq!(again.decision.order, done.decision.order);
        match done.decision.order {
            Some(Order::Install {
                id, release, hold, ..
            }) => {
                self.may_install(device, id, release, hold);
                self.takes[device] = release;
                Some((id, hold))
            }
            _ => None,
        }
    }

    fn apply(&mut self, device: usize, done: &Step) {
        self.devices[device] = Some(done.device.clone());
        for change in &done.changes {
            match change {
                Change::Begin(attempt) => {
                    if attempt.state == AttemptState::Offered {
                        self.offers.push((self.now, device));
                    }
                    assert!(self.attempts.insert(attempt.id, attempt.clone()).is_none());
                }
                Change::Update(attempt) => drop(self.attempts.insert(attempt.id, attempt.clone())),
                Change::Block { release, .. } => {
                    self.blocked.insert((device, *release));
                }
                Change::Queue(wanted) => unreachable!("no device here takes patches: {wanted:?}"),
                Change::Leave(id) => self.attempts.get_mut(id).expect("known").current = false,
                Change::Charge { budget, free_at } => {
                    self.moments.insert(budget.clone(), *free_at);
                }
                Change::Waits { until, .. } => self.waits_until = self.waits_until.max(*until),
                Change::EndRollback(_) => unreachable!("nobody ordered one"),
            }
        }
        self.limits_hold();
    }

    fn limits_hold(&self) {
        let limits = &self.rollout().plan.limits;
        if let Some(max) = limits.parallel {
            assert!(
                self.live() <= max as usize,
                "{} of {max} at a time",
                self.live()
            );
        }
        if let Some(max) = limits.starts_per_minute {
            for (last, _) in &self.offers {
                let within = self
                    .offers
                    .iter()
                    .filter(|(at, _)| *at > last - STARTS_MS && at <= last);
                assert!(
                    within.count() <= max as usize,
                    "more than {max} in a minute"
                );
            }
        }
        if let Some(rate) = limits.bytes_per_s {
            self.budget_holds("the rollout", rate, |_| true);
        }
        for (name, rate, is_for) in &self.budgets {
            self.budget_holds(name, *rate, is_for);
        }
    }

    fn budget_holds(&self, name: &str, rate: u64, is_for: impl Fn(usize) -> bool) {
        let charged = self.offers.iter().filter(|(_, device)| is_for(*device));
        let charged: Vec<i64> = charged.map(|(at, _)| *at).collect();
        for (index, first) in charged.iter().enumerate() {
            for (behind, last) in charged[index..].iter().enumerate() {
                let offered = (behind as u64 + 1) * BYTES;
                let allowed = rate * (last - first).unsigned_abs() / 1000 + BYTES;
                assert!(
                    offered <= allowed,
                    "{name}: {offered} bytes, {allowed} allowed"
                );
            }
        }
    }

    fn may_install(&self, device: usize, order: u64, release: i64, hold: bool) {
        assert!(!self.blocked.contains(&(device, release)), "blocked");
        let rollout = self.rollout();
        let is_early = self.runs[device].0 < VIA && !rollout.plan.via.is_empty();
        let next = if is_early { VIA } else { LAST };
        assert_eq!(release, next, "d{device} passes through what it must");
        let attempt = self
            .current()
            .find(|attempt| attempt.order() == order)
            .expect("known");
        let is_open = |schedule: &crate::domain::window::Schedule| {
            matches!(schedule.gate(self.now, &Zone::UTC), Gate::Open { .. })
        };
        let takes_bytes = matches!(
            attempt.state,
            AttemptState::Offered | AttemptState::Downloading
        );
        assert!(
            !takes_bytes || is_open(&rollout.plan.download),
            "outside the window"
        );
        let may_activate = rollout.plan.install.as_ref().is_none_or(is_open);
        assert!(hold || may_activate, "installs outside its window");
        let own = rollout
            .plan
            .wave_of(&id(device), plan::bucket(1, &id(device)));
        let is_first = matches!(rollout.plan.wave(0).reach, Reach::First(_)) && attempt.wave == 0;
        assert!(own <= rollout.wave || is_first, "wave {own} has not begun");
    }

    /// The server looks at its rollout.
    fn look(&mut self) {
        let mut counted = Counted {
            waits_until: self.waits_until,
            ..Counted::default()
        };
        let mut count = WaveCount::default();
        for attempt in self.current() {
            let ok = attempt.state == AttemptState::Succeeded;
            let bad = crate::domain::attempt::is_failure(attempt.state);
            counted.ended += u64::from(ok || bad && attempt.retry_at.is_none());
            if attempt.wave != self.rollout().wave || !(ok || bad || !attempt.state.is_end()) {
                continue;
            }
            let first = count
                .first_start
                .map_or(attempt.created_at, |at| at.min(attempt.created_at));
            count.first_start = Some(first);
            let live = !attempt.state.is_end();
            count.started += u64::from(!(live && attempt.stalled));
            count.healthy += u64::from(ok);
            count.live += u64::from(live && !attempt.stalled);
        }
        counted.wave = count;
        let now = self.now;
        let rollout = &mut self.plan.rollouts[0];
        let of_wave = |device: &usize| {
            rollout
                .plan
                .wave_of(&id(*device), plan::bucket(1, &id(*device)))
                == rollout.wave
        };
        let known = match rollout.plan.wave(rollout.wave).reach {
            Reach::First(devices) => devices as usize,
            _ => (0..DEVICES).filter(of_wave).count(),
        };
        rollout.wave_devices = Some(known as u64);
        let stalled_ms = rollout.plan.stalled_ms();
        if let wave::Verdict::Advance { .. } = wave::judge(rollout, &counted, POLL_MS, now) {
            rollout.wave += 1;
            rollout.wave_since = now;
        }
        self.other.rollouts[0].wave = rollout.wave;
        for attempt in self.attempts.values_mut() {
            let idle = now - attempt.updated_at >= stalled_ms;
            attempt.stalled |= idle && attempt.current && !attempt.state.is_end();
        }
    }

    /// A device does what it is told, a step at a time.
    fn goes_on(&mut self, device: usize) {
        if let (runs, false) = self.runs[device] {
            self.runs[device] = (runs, true);
            self.check_in(device, None);
            return;
        }
        let Some((order, hold)) = self.check_in(device, None) else {
            self.progress[device] = None;
            return;
        };
        let phase = match self.progress[device] {
            Some((of, phase)) if of == order => phase,
            _ => {
                self.progress[device] = Some((order, Phase::Downloading));
                return;
            }
        };
        match phase {
            Phase::Downloading => self.progress[device] = Some((order, Phase::Downloaded)),
            Phase::Downloaded if hold => {}
            Phase::Downloaded => self.progress[device] = Some((order, Phase::Installing)),
            Phase::Installing | Phase::Trial => {
                self.progress[device] = None;
                self.runs[device] = (self.takes[device], false);
            }
        }
    }

    fn fails(&mut self, device: usize, code: FailureCode, end: End) {
        let Some((order, _)) = self.progress[device].take() else {
            return;
        };
        let outcome = Outcome {
            order,
            end,
            code,
            reset: None,
            detail: String::new(),
        };
        self.check_in(device, Some(outcome));
    }
}

/// What happens.
#[derive(Clone, Debug)]
enum Happens {
    Comes(usize),
    Fails(usize, FailureCode, End),
    Passes(i64),
    Look,
}

fn happens() -> impl Strategy<Value = Happens> {
    let faults = select(vec![
        (FailureCode::NetTimeout, End::Failed),
        (FailureCode::HashMismatch, End::Failed),
        (FailureCode::CrashLoop, End::RolledBackBoot),
    ]);
    prop_oneof![
        8 => (0..DEVICES).prop_map(Happens::Comes),
        1 => (0..DEVICES, faults).prop_map(|(device, (code, end))| Happens::Fails(device, code, end)),
        3 => select(vec![1_000, 20_000, 60_000, 600_000, 7_200_000]).prop_map(Happens::Passes),
        2 => Just(Happens::Look),
    ]
}

fn any_plan() -> impl Strategy<Value = Value> {
    let waves = select(vec![
        json!({}),
        json!({"waves": [{"percent": 30}, {"percent": 60}, {"percent": 100}]}),
        json!({"canary": {"devices": 2}}),
        json!({"canary": {"names": ["d3"]}, "waves": [{"percent": 50, "min_time": "10m"}, {"percent": 100}]}),
    ]);
    let limits = select(vec![
        json!({}),
        json!({"parallel": 1}),
        json!({"parallel": 2, "starts_per_minute": 1}),
        json!({"starts_per_minute": 3}),
        json!({"bytes_per_s": 10}),
    ]);
    let schedule = select(vec![
        json!({}),
        json!({"download": ["13:00-15:00", "20:00-06:00"]}),
        json!({"install": ["18:00-19:00"]}),
        json!({"download": ["00:00-12:30"], "install": ["02:00-04:00"]}),
    ]);
    let via = select(vec![json!([]), json!(["1.0.2"])]);
    (waves, limits, schedule, via).prop_map(|(waves, limits, schedule, via)| {
        let mut plan = waves;
        plan["limits"] = limits;
        plan["schedule"] = schedule;
        plan["via"] = via;
        plan["retries"] = json!({"base": "1m", "max": "10m"});
        plan["gates"] = json!({"healthy_percent": 50});
        plan
    })
}

fn any_budgets() -> impl Strategy<Value = Budgets> {
    let all: Budgets = vec![
        ("server", 7, |_| true),
        ("group even", 3, |device| device % 2 == 0),
    ];
    proptest::sample::subsequence(all, 0..=2)
}

impl World {
    /// Whether a device can get nothing more: it has the release, or failed for good on its way.
    fn is_done(&self, device: usize) -> bool {
        let name = id(device);
        let failed = self.current().any(|attempt| {
            let is_failure = crate::domain::attempt::is_failure(attempt.state);
            attempt.device == name && is_failure && attempt.retry_at.is_none()
        });
        self.runs[device] == (LAST, true) || failed
    }

    /// Whether a wave waits for more healthy devices than it can still get, which is for a person
    /// to judge.
    fn waits_for_a_person(&self) -> bool {
        let of_wave = |attempt: &&Attempt| attempt.wave == self.rollout().wave;
        let started = self.current().filter(of_wave).count();
        let healthy = self.current().filter(of_wave);
        let healthy = healthy.filter(|attempt| attempt.state == AttemptState::Succeeded);
        let is_last = self.rollout().wave >= self.rollout().plan.last_wave();
        !is_last && started > 0 && self.live() == 0 && healthy.count() * 2 < started
    }

    /// Faults are over: every device comes, until nobody can get more.
    fn comes_to_rest(&mut self) -> Result<(), TestCaseError> {
        for round in 0.. {
            (0..DEVICES).for_each(|device| self.goes_on(device));
            self.look();
            if (0..DEVICES).all(|device| self.is_done(device)) {
                return Ok(());
            }
            if round % 40 == 39 && self.waits_for_a_person() {
                crate::service::advance::next_wave(&mut self.plan.rollouts[0], self.now);
                self.other.rollouts[0].wave = self.rollout().wave;
            }
            self.now += ROUND_MS;
            let left = (0..DEVICES).filter(|device| !self.is_done(*device));
            let left: Vec<usize> = left.collect();
            let wave = self.rollout().wave;
            prop_assert!(round < ROUNDS_MAX, "{left:?} do not end, in wave {wave}");
        }
        Ok(())
    }

    /// What an operator is shown: done, and nobody waits.
    fn ends_as_declared(&self) -> Result<(), TestCaseError> {
        let mut states: BTreeMap<String, u64> = BTreeMap::new();
        for attempt in self.current() {
            *states.entry(attempt.state.to_string()).or_default() += 1;
        }
        let parse = |(state, devices): (&String, &u64)| (state.parse().expect("a state"), *devices);
        let tally = rollout::Tally {
            named: DEVICES as u64,
            seen: DEVICES as u64,
            attempts: states.iter().map(parse).collect(),
        };
        let state = rollout::state(self.rollout(), &tally);
        prop_assert_eq!(state, manager::RolloutState::Complete, "{:?}", states);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_plan_is_broken_and_every_plan_ends(
        given in any_plan(),
        budgets in any_budgets(),
        happens in vec(happens(), 0..120),
    ) {
        let mut world = World::new(given, budgets);
        for event in happens {
            match event {
                Happens::Comes(device) => world.goes_on(device),
                Happens::Fails(device, code, end) => world.fails(device, code, end),
                Happens::Passes(ms) => world.now += ms,
                Happens::Look => world.look(),
            }
        }
        world.comes_to_rest()?;
        world.ends_as_declared()?;
    }

    #[test]
    fn one_device_that_fails_for_good_keeps_nobody_else_from_the_release(
        given in any_plan(),
        budgets in any_budgets(),
        unlucky in 0..DEVICES,
    ) {
        let mut world = World::new(given, budgets);
        // It crashes whatever it is offered.
        for _ in 0..ROUNDS_MAX {
            world.goes_on(unlucky);
            world.look();
            world.now += ROUND_MS;
            if world.progress[unlucky].is_some() {
                world.fails(unlucky, FailureCode::CrashLoop, End::RolledBackBoot);
                break;
            }
            (0..DEVICES).for_each(|device| if device != unlucky { world.goes_on(device) });
        }
        world.comes_to_rest()?;
        let has_it = (0..DEVICES).filter(|device| world.runs[*device] == (LAST, true));
        prop_assert_eq!(has_it.count(), DEVICES - 1);
        world.ends_as_declared()?;
    }
}
