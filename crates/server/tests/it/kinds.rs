//! A question about the fleet, asked kind by kind, has the answer that asking every device gives.

use std::collections::BTreeMap;

use fota_image::app::Chip;
use fota_proto::{
    SkipReason,
    manager::{FleetSummary, Presence, Preview, RolloutRequest},
};
use fota_server::{
    domain::{
        filter::Filter,
        fit::fits,
        model::{Device, Plan, Protocol, Report, Slot, Target, Traited, Trust},
        plan::bucket,
        presence::presence,
        step::{Facts, join_groups},
        trust::takes,
    },
    service::{checkin::check_in, population, preview, rollouts},
    store::{Copies, Tx},
};
use serde_json::json;

use crate::support::*;

/// SplitMix64 (Steele, Lea and Flood).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

const IDS: usize = 40;
const GROUPS: [&str; 3] = ["hall", "roof", "rule"];
const RULES: [&str; 5] = [
    "version == 1.0.5",
    "id == d-7 or attr.site == north",
    "group == hall and not id =~ \"d-1*\"",
    "tag.ring == beta",
    "protocol == seed",
];
const FILTERS: [Option<&str>; 12] = [
    None,
    None,
    Some("version < 1.0.6"),
    Some("project == thermostat and not group == hall"),
    Some("group == rule"),
    Some("not group == rule and chip == esp32c3"),
    Some("tag.ring == beta or attr.site == north"),
    Some("id == d-3"),
    Some("id in (d-3, d-9, d-99) and version == 1.0.5"),
    Some("id =~ \"d-1*\" and not protocol == seed"),
    Some("not (id =~ \"d-1*\" or group == roof)"),
    Some("has attr.site and version >= 1.0.4"),
];
const TARGETS: [&[&str]; 9] = [
    &["all"],
    &["all", "d-99"],
    &["seed:all"],
    &["group:hall"],
    &["group:rule"],
    &["group:hall", "group:rule", "d-3", "d-98"],
    &["group:roof", "seed:all", "d-1", "d-2", "d-3"],
    &["d-4", "d-5", "d-97"],
    &["group:rule", "d-12"],
];

fn name(number: usize) -> String {
    format!("d-{number}")
}

fn report(random: &mut Random, images: &[Image]) -> Report {
    let image = &images[random.below(images.len())];
    let protocol = random.of(&[Protocol::Native, Protocol::Native, Protocol::Seed]);
    let is_native = protocol == Protocol::Native;
    let site = random.of(&[None, Some("north"), Some("south")]);
    let slot = |slot, bytes| Slot {
        slot,
        ..Slot::with_room(bytes)
    };
    let room = random.of(&[0x18_0000, 0x18_0000, 1000]);
    let device = name(random.below(IDS)).parse().expect("an id");
    Report {
        chip: is_native.then(|| random.of(&[Chip::Esp32C3, Chip::Esp32S3]).id()),
        chip_revision: is_native.then_some(3),
        elf: is_native.then_some(image.elf),
        version: Some(image.version.clone()),
        project: is_native.then(|| random.of(&[PROJECT, PROJECT, "lamp"]).to_owned()),
        confirmed: is_native.then_some(true),
        slot: is_native.then_some(0),
        slots: match is_native {
            true => vec![slot(0, 0x18_0000), slot(1, room)],
            false => Vec::new(),
        },
        trust: Trust {
            root: random.of(&[None, None, Some(1)]),
            epoch: None,
            log: None,
        },
        attributes: site
            .map(|site| ("site".to_owned(), site.to_owned()))
            .into_iter()
            .collect(),
        ..Report::blank(device, protocol)
    }
}

/// Something happens: a device comes, says something else, is put into a group, tagged, blocked.
async fn happens(server: &Server, random: &mut Random, images: &[Image]) {
    let id = name(random.below(IDS + 5));
    let group = random.of(&GROUPS);
    match random.below(12) {
        0 => {
            let tags = format!("/api/v1/devices/{id}/tags");
            let ring = random.of(&["alpha", "beta"]);
            server.post(&tags, json!({"set": {"ring": ring}})).await;
        }
        1 => {
            let tags = format!("/api/v1/devices/{id}/tags");
            server.post(&tags, json!({"remove": ["ring"]})).await;
        }
        2 | 3 => {
            let devices = format!("/api/v1/groups/{group}/devices");
            server.post(&devices, json!({"add": [id]})).await;
        }
        4 => {
            let device = format!("/api/v1/groups/{group}/devices/{id}");
            server.delete(&device).await;
        }
        5 => {
            let rule = json!({"filter": random.of(&RULES)});
            server.post("/api/v1/groups/rule/rule", rule).await;
        }
        6 => {
            let mut tx = server.running.state.store.write().await.expect("a turn");
            if tx.device(&id).await.expect("reads").is_some() {
                tx.block(&id, 3, "test", NOON).await.expect("stored");
                tx.commit().await.expect("stored");
            }
        }
        7 if random.below(4) == 0 => {
            // The group goes with its members, and an empty one comes in its place.
            server.delete(&format!("/api/v1/groups/{group}")).await;
            server.post("/api/v1/groups", json!({"name": group})).await;
        }
        _ => {
            server.clock.advance_ms(random.below(40_000) as i64);
            let report = report(random, images);
            let decided = check_in(&server.running.state, &report).await;
            decided.expect("answers");
        }
    }
}

/// A device that is named, seen or not.
struct Member {
    id: String,
    device: Option<Device>,
}

/// Every device is asked.
async fn named(tx: &mut Tx, plan: &Plan, target: &Target, filter: Option<&Filter>) -> Vec<Member> {
    let mut members = Vec::new();
    for id in (0..IDS + 100).map(name) {
        let groups = tx.groups_of(&id).await.expect("reads");
        let device = tx.device(&id).await.expect("reads");
        let is_named = match &device {
            None => filter.is_none() && target.includes(&id, Protocol::Native, &groups),
            Some(device) => {
                let mut facts = Facts {
                    groups,
                    tags: tx.tags(&id).await.expect("reads"),
                    ..Facts::default()
                };
                join_groups(&mut facts, plan, device);
                let traits = Traited {
                    device,
                    groups: &facts.groups,
                    tags: &facts.tags,
                };
                target.includes(&id, device.protocol, &facts.groups)
                    && filter.is_none_or(|filter| filter.matches(&traits))
            }
        };
        // "All" means devices that were seen.
        let is_named = is_named && (device.is_some() || is_listed(target, &id, tx).await);
        if is_named {
            members.push(Member { id, device });
        }
    }
    members
}

async fn is_listed(target: &Target, id: &str, tx: &mut Tx) -> bool {
    let groups = tx.groups_of(id).await.expect("reads");
    let is_member = groups.iter().any(|group| target.groups.contains(group));
    target.devices.contains(id) || is_member
}

/// Compares what the server says of a target and a filter with what asking every device gives.
async fn compare(server: &Server, random: &mut Random, what: &str) {
    let (to, filter) = (random.of(&TARGETS), random.of(&FILTERS));
    let what = format!("{what}: to {to:?}, filter {filter:?}");
    let waves = json!([{"percent": 30}, {"percent": 70}, {"percent": 100}]);
    let plan = match filter {
        Some(filter) => json!({"filter": filter, "waves": waves}),
        None => json!({"waves": waves}),
    };
    let request: RolloutRequest =
        serde_json::from_value(json!({"release": "id:3", "to": to, "plan": plan})).expect("valid");
    let state = &server.running.state;
    let shown = preview::preview(state, &request).await;
    let shown = shown.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let mut tx = state.store.read().await.expect("reads");
    let plan = state.fleet.plan(&mut tx).await.expect("reads");
    let checked = rollouts::check(&server.running.state, &mut tx, &request).await;
    let checked = checked.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let members = named(
        &mut tx,
        &plan,
        &checked.target,
        checked.plan.filter.as_ref(),
    )
    .await;
    expect_preview(&mut tx, server, &plan, &members, &shown, &what).await;
    let mut rollout = rollouts::draft(checked, &request, "test", NOON);
    rollout.id = 1 + random.below(1000) as i64;
    rollout.wave = random.below(3) as u32;
    let tally = population::tally(&mut tx, &plan, &rollout).await;
    let tally = tally.expect("reads");
    let seen = members.iter().filter(|member| member.device.is_some());
    let named = if to == ["all", "d-99"] && filter.is_none() {
        seen.clone().count()
    } else {
        members.len()
    };
    assert_eq!(
        (tally.named, tally.seen),
        (named as u64, seen.clone().count() as u64),
        "{what}"
    );
    let of_wave = seen.filter(|member| {
        let bucket = bucket(rollout.id, &member.id);
        rollout.plan.wave_of(&member.id, bucket) == rollout.wave
    });
    let reached = population::wave_devices(&mut tx, &plan, &rollout).await;
    assert_eq!(reached.expect("reads"), of_wave.count() as u64, "{what}");
}

async fn expect_preview(
    tx: &mut Tx,
    server: &Server,
    plan: &Plan,
    members: &[Member],
    shown: &Preview,
    what: &str,
) {
    let (now, poll_s) = (server.clock.now_ms(), server.running.state.config.poll_s);
    let release = &plan.releases[&3];
    let (mut matched, mut online, mut excluded) = (0, 0, Vec::new());
    for member in members {
        let Some(device) = &member.device else {
            matched += 1;
            continue;
        };
        let blocked = tx.blocked(&member.id).await.expect("reads");
        let reason = match (
            fits(device, release, false),
            takes(device, plan, release, now),
        ) {
            (Err((reason, _)), _) => Some(reason),
            _ if device.running().is(release) => Some(SkipReason::AlreadyInstalled),
            (_, Err((reason, _))) => Some(reason),
            _ => blocked.contains(&3).then_some(SkipReason::BlockedRelease),
        };
        match reason {
            Some(reason) => excluded.push((member.id.clone(), reason.to_string())),
            None => {
                matched += 1;
                let presence = presence(device.last_seen, now, poll_s);
                online += u64::from(presence == Presence::Online);
            }
        }
    }
    excluded.sort();
    let names = shown.excluded.iter();
    let names: Vec<_> = names
        .map(|one| (one.device.clone(), one.reason.clone()))
        .collect();
    assert_eq!((shown.matched, shown.online), (matched, online), "{what}");
    assert_eq!(names, excluded, "{what}");
    let counted: u64 = shown.reasons.iter().map(|reason| reason.devices).sum();
    assert_eq!(counted, excluded.len() as u64, "{what}");
}

/// The summary, and that each kind that a device has is there with their number, and no other.
async fn expect_summary(server: &Server, what: &str) {
    let summary: FleetSummary = server
        .get("/api/v1/fleet/summary")
        .await
        .value(reqwest::StatusCode::OK);
    let state = &server.running.state;
    let mut tx = state.store.read().await.expect("reads");
    let (mut total, mut versions) = ([0; 3], BTreeMap::<String, u64>::new());
    for id in (0..IDS).map(name) {
        let Some(device) = tx.device(&id).await.expect("reads") else {
            continue;
        };
        let presence = presence(device.last_seen, server.clock.now_ms(), state.config.poll_s);
        total[presence as usize] += 1;
        let version = device.version.unwrap_or_else(|| "unknown".to_owned());
        *versions.entry(version).or_default() += 1;
    }
    let shown = [summary.online, summary.late, summary.offline];
    assert_eq!(shown, total, "{what}");
    let shown = summary.versions.into_iter();
    let shown: BTreeMap<_, _> = shown.map(|it| (it.version, it.devices)).collect();
    assert_eq!(shown, versions, "{what}");
    let mut kinds = BTreeMap::new();
    let every = tx.each_kind(|number, _, devices| {
        kinds.insert(number, devices);
    });
    every.await.expect("reads");
    let counted = tx.cohorts(0, 0).await.expect("reads").into_iter();
    let counted: BTreeMap<_, _> = counted.map(|(kind, of)| (kind, of.devices)).collect();
    assert_eq!(kinds, counted, "{what}");
}

async fn releases(server: &Server) -> Vec<Image> {
    let images = ["1.0.4", "1.0.5", "1.0.6"].map(Image::new);
    for image in &images {
        server.release(image).await;
    }
    for group in GROUPS {
        server.post("/api/v1/groups", json!({"name": group})).await;
    }
    images.to_vec()
}

#[tokio::test]
async fn counting_by_kind_is_counting_every_device() {
    for seed in 1..=3 {
        each_database(async |server| {
            let images = releases(&server).await;
            let mut random = Random(seed);
            for step in 0..120 {
                happens(&server, &mut random, &images).await;
                if step % 10 == 9 {
                    let what = format!("seed {seed}, step {step}");
                    for _ in 0..4 {
                        compare(&server, &mut random, &what).await;
                    }
                    expect_summary(&server, &what).await;
                }
            }
        })
        .await;
    }
}

/// What an older server stored has no kinds yet: they are there after the start.
#[tokio::test]
async fn kinds_are_worked_out_at_the_first_start_after_an_upgrade() {
    each_database(async |server| {
        let images = releases(&server).await;
        let mut random = Random(9);
        for _ in 0..150 {
            happens(&server, &mut random, &images).await;
        }
        server
            .running
            .state
            .fleet
            .flush(&server.running.state.store)
            .await
            .expect("stored");
        server.sql("UPDATE sighting SET kind = 0").await;
        server.sql("DELETE FROM kind").await;
        let server = server.restart().await;
        for _ in 0..20 {
            compare(&server, &mut random, "after an upgrade").await;
        }
        expect_summary(&server, "after an upgrade").await;
    })
    .await;
}

/// The measured fleet of `fota bench fleet` is made of such copies.
#[tokio::test]
async fn a_copy_has_the_rows_that_its_own_check_in_makes() {
    each_database(async |server| {
        let images = releases(&server).await;
        let mut report = report(&mut Random(5), &images);
        for id in ["own", "bench"] {
            report.device = id.parse().expect("an id");
            let decided = check_in(&server.running.state, &report).await;
            decided.expect("answers");
            let devices = json!({"add": [id]});
            server.post("/api/v1/groups/hall/devices", devices).await;
            let tags = format!("/api/v1/devices/{id}/tags");
            server.post(&tags, json!({"set": {"ring": "beta"}})).await;
        }
        let mut tx = server.running.state.store.write().await.expect("a turn");
        let copies = Copies {
            of: "bench",
            number: 3,
            now: NOON,
            seen_within_ms: 1,
        };
        tx.copy_device(&copies).await.expect("stored");
        let own = rows(&mut tx, "own").await;
        assert_eq!(rows(&mut tx, "bench-3").await, own);
        let counted = tx.cohorts(0, 0).await.expect("reads").into_values();
        let counted: Vec<_> = counted.map(|cohort| cohort.devices).collect();
        assert_eq!(counted, [5]);
        assert_eq!(tx.count_devices().await.expect("reads"), 5);
    })
    .await;
}

/// All that is stored of a device, but for its id.
async fn rows(tx: &mut Tx, id: &str) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut device = tx.device(id).await.expect("reads").expect("there");
    device.id.clear();
    let (groups, tags) = (tx.groups_of(id).await, tx.tags(id).await);
    (device, groups.expect("reads"), tags.expect("reads"))
}
