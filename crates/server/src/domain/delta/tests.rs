//! What must hold whatever the server has and whoever asks.

use fota_proto::checkin::SlotState;
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::domain::{
    model::{Slot, Trust},
    sample,
};

const IMAGE_BYTES: u64 = 1_000_000;
const TO: i64 = 9;

fn digest(number: i64) -> Sha256 {
    Sha256([number as u8; 32])
}

fn release(id: i64) -> Release {
    Release {
        bytes: IMAGE_BYTES,
        signed: Some(sample::signed(id)),
        ..sample::release(id)
    }
}

fn profile() -> impl Strategy<Value = PatchProfile> {
    select(vec![PatchProfile::Small, PatchProfile::Default])
}

/// Lengths around both limits: of a patch that is kept, and of what is shorter than the image.
fn patch_bytes() -> impl Strategy<Value = u32> {
    let limit = PATCH_REFETCHED_BYTES_MAX;
    let image = IMAGE_BYTES as u32;
    prop_oneof![1..2 * limit, limit - 2..limit + 2, image - 2..image + 2]
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![
        3 => patch_bytes().prop_map(|bytes| State::Ready(Patch { sha256: digest(bytes.into()), bytes })),
        1 => select(vec![State::Queued, State::Making, State::Failed, State::Useless]),
    ]
}

fn delta() -> impl Strategy<Value = Delta> {
    let parts = (
        select(vec![TO, TO, TO, 8]),
        option::of(1..4_i64),
        profile(),
        state(),
        0..2 * WAIT_MS,
    );
    parts.prop_map(|(release, from, profile, state, queued_at)| Delta {
        id: 1,
        release,
        from,
        profile,
        state,
        queued_at,
    })
}

/// At most one of a kind, as the database sees to.
fn deltas() -> impl Strategy<Value = Vec<Delta>> {
    vec(delta(), 0..12).prop_map(|mut deltas| {
        let key = |delta: &Delta| (delta.release, delta.from, delta.profile);
        deltas.sort_by_key(key);
        deltas.dedup_by_key(|delta| key(delta));
        deltas
    })
}

fn a_taker() -> impl Strategy<Value = Taker> {
    let sector = CHUNK_BYTES;
    let kept = PATCH_REFETCHED_BYTES_MAX + 1 + sector;
    let exact = ((IMAGE_BYTES as u32).div_ceil(sector) + kept.div_ceil(sector)) * sector;
    let slots = prop_oneof![
        Just(0_u32),
        exact - 2..exact + 2,
        IMAGE_BYTES as u32..2 * IMAGE_BYTES as u32,
        Just(u32::MAX)
    ];
    (profile(), option::of(1..4_i64), slots).prop_map(|(profile, runs, slot_bytes)| Taker {
        profile,
        runs,
        slot_bytes,
    })
}

/// The rules, written down once more.
fn may_be_offered(taker: Taker, delta: &Delta) -> Option<Patch> {
    let State::Ready(patch) = delta.state else {
        return None;
    };
    let is_from = match delta.from {
        None => true,
        Some(from) => taker.runs == Some(from),
    };
    let can_decode = taker.profile == PatchProfile::Default || delta.profile == PatchProfile::Small;
    let room = patch.bytes <= 32 * 1024
        || IMAGE_BYTES.div_ceil(4096) + (u64::from(patch.bytes) + 4096).div_ceil(4096)
            <= u64::from(taker.slot_bytes) / 4096;
    (delta.release == TO && is_from && can_decode && room).then_some(patch)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_choice_is_the_shortest_that_the_device_can_go(
        taker in a_taker(), deltas in deltas(), now in 0..4 * WAIT_MS
    ) {
        let release = release(TO);
        let usable = deltas.iter().filter_map(|delta| may_be_offered(taker, delta));
        let shortest = usable.map(|patch| patch.bytes).min();
        match choose(taker, &release, &deltas, now) {
            Choice::Artifact => prop_assert!(shortest.is_none_or(|bytes| u64::from(bytes) >= IMAGE_BYTES)),
            Choice::Patch(patch) => {
                prop_assert_eq!(Some(patch.bytes), shortest);
                prop_assert!(wire_bytes(&release, patch) < artifact_bytes(&release));
            }
            Choice::Wait { until } => {
                prop_assert!(now < until);
                let waits_for = deltas.iter().find(|delta| {
                    delta.release == TO && delta.state.is_pending() && delta.queued_at + WAIT_MS == until
                });
                prop_assert!(waits_for.is_some());
            }
        }
    }

    #[test]
    fn nobody_waits_for_ever(taker in a_taker(), deltas in deltas()) {
        let release = release(TO);
        let last = deltas.iter().map(|delta| delta.queued_at).max().unwrap_or(0);
        let choice = choose(taker, &release, &deltas, last + WAIT_MS);
        prop_assert!(!matches!(choice, Choice::Wait { .. }), "{:?}", choice);
    }

    #[test]
    fn the_order_of_what_is_stored_changes_nothing(
        taker in a_taker(), deltas in deltas(), now in 0..4 * WAIT_MS
    ) {
        let release = release(TO);
        let mut other = deltas.clone();
        other.reverse();
        prop_assert_eq!(choose(taker, &release, &deltas, now), choose(taker, &release, &other, now));
    }

    #[test]
    fn what_is_missing_is_asked_for_once(taker in a_taker(), mut deltas in deltas()) {
        let release = release(TO);
        deltas.retain(|delta| delta.release == TO);
        if let Some(wanted) = missing(taker, &release, &deltas) {
            prop_assert_eq!(wanted.profile, taker.profile);
            prop_assert!(wanted.from.is_none() || wanted.from == taker.runs);
            deltas.push(Delta {
                id: 0, release: wanted.release, from: wanted.from, profile: wanted.profile,
                state: State::Queued, queued_at: 0,
            });
            prop_assert_eq!(choose(taker, &release, &deltas, 0), Choice::Wait { until: WAIT_MS });
        }
        prop_assert_eq!(missing(taker, &release, &deltas), None);
    }
}

fn ready(from: Option<i64>, bytes: u32) -> Delta {
    Delta {
        id: 1,
        release: TO,
        from,
        profile: PatchProfile::Default,
        state: State::Ready(Patch {
            sha256: digest(bytes.into()),
            bytes,
        }),
        queued_at: 0,
    }
}

const TAKER: Taker = Taker {
    profile: PatchProfile::Default,
    runs: Some(1),
    slot_bytes: u32::MAX,
};

#[test]
fn a_device_waits_for_the_patch_from_what_it_runs_and_not_for_another() {
    let release = release(TO);
    let (ready_one, full) = (ready(Some(1), 2000), ready(None, 600_000));
    let pending = |delta: &Delta, state| Delta {
        state,
        ..delta.clone()
    };
    let queued = pending(&ready_one, State::Queued);
    let wait = Choice::Wait { until: WAIT_MS };
    let choose = |deltas: &[Delta], now| choose(TAKER, &release, deltas, now);
    assert_eq!(choose(&[queued.clone(), full.clone()], 5), wait);
    let full_patch = Choice::Patch(Patch {
        sha256: digest(600_000),
        bytes: 600_000,
    });
    assert_eq!(choose(&[queued, full.clone()], WAIT_MS), full_patch);
    // It has what it wanted: what else is being made is of no use.
    let making = pending(&full, State::Making);
    let best = choose(&[ready_one.clone(), making.clone()], 5);
    assert!(matches!(best, Choice::Patch(patch) if patch.bytes == 2000));
    for end in [State::Failed, State::Useless] {
        let none = pending(&ready_one, end);
        assert_eq!(choose(&[none.clone(), making.clone()], 5), wait);
        assert_eq!(choose(&[none.clone(), full.clone()], 5), full_patch);
        assert_eq!(choose(&[none], 5), Choice::Artifact);
    }
}

#[test]
fn who_cannot_prove_what_comes_out_is_no_taker() {
    let mut plan = Plan::default();
    for id in [1, TO] {
        plan.releases.insert(id, release(id));
    }
    let slot = |slot, bytes| Slot {
        slot,
        bytes,
        state: SlotState::Image,
        elf: None,
        version: None,
    };
    let device = Device {
        id: "d".to_owned(),
        protocol: Protocol::Native,
        chip: Some(5),
        chip_revision: None,
        project: None,
        version: None,
        elf: Some(digest(0x81)),
        confirmed: Some(true),
        slot: Some(0),
        slots: vec![
            slot(0, 1_100_000),
            slot(1, 2_000_000),
            slot(2, 1_500_000),
            slot(3, 64),
        ],
        rollback_slot: None,
        reset: None,
        warning: None,
        trust: Trust {
            root: Some(1),
            ..Trust::default()
        },
        patches: Some(PatchProfile::Small),
        attributes: Default::default(),
        metrics: Default::default(),
        waits: None,
        crashed_at: None,
        first_seen: 0,
        last_seen: 0,
    };
    let to = release(TO);
    let expected = Taker {
        profile: PatchProfile::Small,
        runs: Some(1),
        slot_bytes: 1_500_000,
    };
    assert_eq!(taker(&device, &plan, &to), Some(expected));
    let unsigned = Release {
        signed: None,
        ..release(TO)
    };
    assert_eq!(taker(&device, &plan, &unsigned), None);
    let none = |change: fn(&mut Device)| {
        let mut device = device.clone();
        change(&mut device);
        taker(&device, &plan, &to)
    };
    assert_eq!(none(|device| device.patches = None), None);
    assert_eq!(none(|device| device.trust.root = None), None);
    assert_eq!(none(|device| device.trust.root = Some(0)), None);
    assert_eq!(none(|device| device.protocol = Protocol::Seed), None);
    let stranger = none(|device| device.elf = Some(digest(0x77)));
    assert_eq!(stranger.and_then(|taker| taker.runs), None);
}
