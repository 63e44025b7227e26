//! What must hold whatever a device reports, in whatever order.

use std::collections::BTreeMap;

use fota_proto::{
    FailureCode,
    checkin::{ResetReason, SlotState},
};
use proptest::{collection::vec, prelude::*, sample::select};

use fota_proto::checkin::Phase;

use super::*;
use crate::domain::{
    model::{OrderId, Outcome, Progress, Protocol, Rollout, Signed, Slot, Standing, install_order},
    sample::{self, elf},
};

const DEVICE: &str = "ESP32-001";

fn release(id: i64) -> Release {
    Release {
        // Release 4 is for another chip.
        chip: Some(if id == 4 { 9 } else { 5 }),
        // Release 1 is not signed, and 3 expires at once.
        signed: (id > 1).then(|| Signed {
            epoch: id as u32 / 2,
            expires: (id == 3).then_some(0),
            ..sample::signed(id)
        }),
        ..sample::release(id)
    }
}

fn rollout(id: i64, release: i64, standing: Standing, held: bool) -> Rollout {
    Rollout {
        standing,
        held,
        ..sample::rollout(id, release)
    }
}

fn rollback(id: i64, leave: i64) -> RollbackOrder {
    RollbackOrder {
        id,
        device: DEVICE.to_owned(),
        leave_elf: Some(elf(leave)),
        leave_version: None,
        release: Some(leave),
        reason: "operator".to_owned(),
        state: RollbackState::Standing,
        code: None,
        requested_at: 0,
        ended_at: None,
        rollout: None,
    }
}

/// Release 0 is an image that the server does not know.
fn running() -> impl Strategy<Value = (i64, i64)> {
    // The version text mostly agrees with the image.
    (
        0..4i64,
        prop_oneof![4 => Just(None), 1 => (0..4i64).prop_map(Some)],
    )
        .prop_map(|(runs, claims)| (runs, claims.unwrap_or(runs)))
}

fn order_number() -> impl Strategy<Value = u64> {
    0..12u64
}

fn report() -> impl Strategy<Value = Report> {
    use fota_proto::checkin::End::*;
    let phases = [
        Phase::Downloading,
        Phase::Downloaded,
        Phase::Installing,
        Phase::Trial,
    ];
    let progress = (order_number(), select(phases.to_vec()), 0..2000u32);
    let ends = [Failed, RolledBackBoot, RolledBackHealth, Refused];
    let outcome = (order_number(), select(ends.to_vec()));
    let states = [SlotState::Empty, SlotState::Image, SlotState::Rejected];
    let other = (select(states.to_vec()), 0..4i64);
    let trust = (proptest::option::of(0..2u32), proptest::option::of(0..4u32));
    let parts = (
        running(),
        trust,
        any::<bool>(),
        proptest::option::of(progress),
        proptest::option::weighted(0.3, outcome),
        other,
    );
    parts.prop_map(
        |((runs, claims), (root, epoch), confirmed, progress, outcome, (state, held))| Report {
            chip: Some(5),
            chip_revision: Some(3),
            elf: Some(elf(runs)),
            version: Some(format!("1.0.{claims}")),
            project: Some("thermostat".to_owned()),
            confirmed: Some(confirmed),
            slot: Some(0),
            slots: vec![Slot {
                slot: 1,
                bytes: 4096,
                state,
                elf: Some(elf(held)),
                version: None,
            }],
            progress: progress.map(|(order, phase, bytes)| Progress {
                order,
                phase,
                bytes,
            }),
            outcome: outcome.map(|(order, end)| Outcome {
                order,
                end,
                code: FailureCode::CrashLoop,
                reset: Some(ResetReason::Panic),
                detail: String::new(),
            }),
            trust: Trust {
                root,
                epoch,
                log: None,
            },
            ..Report::blank(DEVICE.parse().expect("an id"), Protocol::Native)
        },
    )
}

fn plan() -> impl Strategy<Value = Plan> {
    let standing = prop_oneof![3 => Just(Standing::Active), 1 => Just(Standing::Paused)];
    let one = (1..5i64, standing, any::<bool>());
    (vec(one, 0..4), any::<bool>()).prop_map(|(rollouts, yank)| {
        let mut releases: BTreeMap<i64, Release> = (1..5).map(|id| (id, release(id))).collect();
        releases.get_mut(&3).expect("made").yanked = yank;
        let numbered = rollouts.into_iter().zip(1..).collect::<Vec<_>>();
        let rollouts = numbered.into_iter().rev();
        Plan {
            generation: 1,
            releases,
            rollouts: rollouts
                .map(|((release, standing, held), id)| {
                    let is_held = held && standing == Standing::Paused;
                    rollout(id, release, standing, is_held)
                })
                .collect(),
            ..Plan::default()
        }
    })
}

/// The database, as far as one device goes.
#[derive(Clone, Default)]
struct World {
    facts: Facts,
    attempts: BTreeMap<i64, Attempt>,
}

impl World {
    fn new() -> Self {
        let facts = Facts {
            next_attempt: 1,
            poll_s: 60,
            ..Facts::default()
        };
        Self {
            facts,
            ..Self::default()
        }
    }

    fn facts(&self, plan: &Plan, report: &Report) -> Facts {
        let stands =
            |attempt: &&Attempt| !attempt.state.is_end() || plan.rollout(attempt.rollout).is_some();
        let named = report.outcome.as_ref().and_then(|outcome| {
            let OrderId::Install(id) = OrderId::of(outcome.order) else {
                return None;
            };
            self.attempts.get(&id).cloned()
        });
        Facts {
            attempts: self.attempts.values().filter(stands).cloned().collect(),
            named,
            next_attempt: self.attempts.len() as i64 + 1,
            ..self.facts.clone()
        }
    }

    /// A device names no order before it was given.
    fn known_orders(&self, mut report: Report) -> Report {
        let given = |order: u64| match OrderId::of(order) {
            OrderId::Install(id) => self.attempts.contains_key(&id),
            OrderId::Rollback(_) => true,
        };
        report.outcome = report.outcome.filter(|outcome| given(outcome.order));
        report.progress = report.progress.filter(|progress| given(progress.order));
        report
    }

    fn apply(&mut self, step: &Step) {
        self.facts.device = Some(step.device.clone());
        for change in &step.changes {
            match change {
                Change::Begin(attempt) => {
                    assert!(self.attempts.insert(attempt.id, attempt.clone()).is_none());
                }
                Change::Update(after) => {
                    let before = self
                        .attempts
                        .insert(after.id, after.clone())
                        .expect("known");
                    let forward = before.state.may_become(after.state);
                    let same = before.state == after.state && !before.state.is_end();
                    assert!(forward || same, "{} -> {}", before.state, after.state);
                }
                Change::EndRollback(order) => {
                    assert_ne!(order.state, RollbackState::Standing);
                    self.facts.rollback = None;
                }
                Change::Block { release, .. } => assert!(self.facts.blocked.insert(*release)),
                Change::Queue(_) => {}
                Change::Leave(_) | Change::Charge { .. } | Change::Waits { .. } => {
                    unreachable!("no plan here tries again or limits: {change:?}")
                }
            }
        }
    }
}

/// What happens to one device.
#[derive(Clone, Debug)]
enum Event {
    Report(Box<Report>),
    RollbackOrdered(i64),
    PlanChanged(Plan),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => report().prop_map(|report| Event::Report(Box::new(report))),
        1 => (1..4i64).prop_map(Event::RollbackOrdered),
        1 => plan().prop_map(Event::PlanChanged),
    ]
}

fn check_step(world: &World, plan: &Plan, report: &Report, step: &Step) {
    let runs = report.running();
    match &step.decision.order {
        Some(Order::Install { release, .. }) => {
            let release = &plan.releases[release];
            assert!(
                !world.facts.blocked.contains(&release.id),
                "blocked, but offered"
            );
            assert!(
                !release.yanked || is_installing(world),
                "withdrawn, but offered"
            );
            assert!(!runs.is(release), "it runs it already");
            assert!(!report.on_trial(), "no order during a trial");
            assert_eq!(release.chip, report.chip);
            if report.trust.needs_signature() && !is_installing(world) {
                check_trust(plan, report, release);
            }
        }
        Some(Order::Rollback { order, .. }) => assert!(runs.is_left_by(order)),
        Some(Order::Cancel { .. }) | None => {}
    }
    if let Some(standing) = &world.facts.rollback {
        let obeys = matches!(step.decision.order, Some(Order::Rollback { .. }));
        assert!(
            !runs.is_left_by(standing) || obeys,
            "an order that stands is given"
        );
    }
    let busy = world
        .attempts
        .values()
        .filter(|attempt| !attempt.state.is_end());
    let early = busy.filter(|attempt| {
        !matches!(
            attempt.state,
            AttemptState::Installing | AttemptState::Trial
        )
    });
    if matches!(step.decision.order, Some(Order::Install { .. })) {
        assert!(early.count() <= 1, "two downloads at once");
    }
}

/// The rules of a device that trusts a root, written down once more.
fn check_trust(plan: &Plan, report: &Report, release: &Release) {
    let signed = release.signed.as_ref().expect("not signed, but offered");
    assert!(signed.expires.is_none(), "expired, but offered");
    let floor = report.trust.epoch.unwrap_or(0);
    assert!(signed.epoch >= floor, "below its epoch, but offered");
    let runs = plan.running(report.running());
    if let Some(running) = runs.and_then(|runs| runs.signed.as_ref()) {
        assert!(signed.sequence > running.sequence, "older, but offered");
    }
}

fn is_installing(world: &World) -> bool {
    let mut attempts = world.attempts.values();
    attempts.any(|attempt| attempt.state == AttemptState::Installing)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_device_reports_the_truths_hold(first in plan(), events in vec(event(), 1..20)) {
        let (mut plan, mut world) = (first, World::new());
        let (mut rollbacks, mut generation) = (0, 1);
        for event in events {
            let report = match event {
                Event::Report(report) => world.known_orders(*report),
                Event::RollbackOrdered(leave) => {
                    rollbacks += 1;
                    world.facts.rollback.get_or_insert(rollback(rollbacks, leave));
                    continue;
                }
                Event::PlanChanged(next) => {
                    plan = renumbered(next, generation * 10);
                    generation += 1;
                    continue;
                }
            };
            let facts = world.facts(&plan, &report);
            let once = step(&facts, &plan, &report, 1);
            world.apply(&once);
            check_step(&world, &plan, &report, &once);
            // A lost answer: the same again changes nothing and is answered alike.
            let again = step(&world.facts(&plan, &report), &plan, &report, 2);
            prop_assert_eq!(&again.changes, &Vec::new());
            prop_assert_eq!(&again.events, &Vec::new());
            prop_assert_eq!(again.decision, once.decision);
        }
    }
}

/// Rollouts of a new plan are new ones: ids are never used again.
fn renumbered(mut plan: Plan, base: i64) -> Plan {
    for rollout in &mut plan.rollouts {
        rollout.id += base;
    }
    plan
}

#[test]
fn install_and_rollback_numbers_never_meet() {
    for id in [1, 2, 1_000_000, i64::MAX] {
        assert_eq!(OrderId::of(install_order(id)), OrderId::Install(id));
        assert_eq!(OrderId::of(rollback(id, 1).order()), OrderId::Rollback(id));
    }
}
