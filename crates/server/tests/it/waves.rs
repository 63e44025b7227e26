//! Rollouts that drive themselves: waves, gates, limits, windows, retries, and why.

use fota_proto::{
    AttemptState, FailureCode,
    checkin::{End, Phase, Waits},
    manager::{DryRun, Group, Rollout, RolloutState, RuleVerdict, Why},
};
use fota_server::{domain::plan::bucket, service::advance};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::*;

const MINUTE: i64 = 60_000;

/// A fleet on 1.0.5, and 1.0.6 to bring to it.
struct Fleet {
    old: Image,
    new: Image,
    devices: Vec<TestDevice>,
}

impl Fleet {
    async fn of(server: &Server, devices: usize) -> Self {
        let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
        server.release(&old).await;
        server.release(&new).await;
        let mut fleet = Self {
            devices: (0..devices)
                .map(|number| TestDevice::running(&format!("d{number:02}"), &old))
                .collect(),
            old,
            new,
        };
        for device in &mut fleet.devices {
            device.check_in(server).await;
        }
        fleet
    }

    /// Each device checks in once, and takes what it is offered to its end; gives who did.
    async fn round(&mut self, server: &Server) -> Vec<String> {
        let mut updated = Vec::new();
        for device in &mut self.devices {
            if device.check_in(server).await.order.is_some() {
                device.updates_to(server, &self.new).await;
                updated.push(device.id.clone());
            }
        }
        updated
    }
}

async fn start(server: &Server, plan: Value) -> Rollout {
    let request = json!({"release": "1.0.6", "to": ["all"], "failures_max": 2, "plan": plan});
    server.rollout(request).await
}

/// Time goes by, and the server looks at its rollouts.
async fn pass(server: &Server, ms: i64) {
    server.clock.advance_ms(ms);
    look(server).await;
}

async fn look(server: &Server) {
    advance::tick(&server.running.state).await.expect("looks");
}

async fn why(server: &Server, device: &str) -> Why {
    let path = format!("/api/v1/devices/{device}/why");
    server.get(&path).await.value(StatusCode::OK)
}

async fn command(server: &Server, rollout: &Rollout, verb: &str) -> Rollout {
    let path = format!("/api/v1/rollouts/r-{}/{verb}", rollout.id);
    server.post(&path, json!({})).await.value(StatusCode::OK)
}

/// The rule that holds a device, in the newest rollout.
fn held_by(why: &Why) -> Option<&str> {
    let rules = why.rules.iter().chain(&why.rollouts[0].rules);
    let mut held = rules.filter(|rule| rule.verdict != RuleVerdict::Pass);
    held.next().map(|rule| rule.rule.as_str())
}

#[tokio::test]
async fn waves_reach_their_share_and_go_on_when_health_is_proven() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 20).await;
        let plan = json!({"waves": [{"percent": 30, "min_time": "10m"}, {"percent": 100}],
            "gates": {"soak": "5m"}});
        let rollout = start(&server, plan).await;
        let first: Vec<String> = (fleet.devices.iter().map(|device| device.id.clone()))
            .filter(|id| bucket(rollout.id, id) < 3000)
            .collect();
        assert!((1..15).contains(&first.len()), "{first:?}");
        assert_eq!(
            fleet.round(&server).await,
            first,
            "its buckets and no others"
        );
        let other = fleet
            .devices
            .iter()
            .find(|device| !first.contains(&device.id));
        let told = why(&server, &other.expect("some").id).await;
        assert_eq!(held_by(&told), Some("wave"), "{told:?}");
        assert_eq!(
            told.answer,
            format!(
                "r-{}: wave 1 of 2 is under way; this device comes with wave 2",
                rollout.id
            )
        );
        pass(&server, 9 * MINUTE).await;
        let status = server
            .show_rollout(rollout.id)
            .await
            .rollout
            .wave
            .expect("waves");
        assert_eq!((status.number, status.of), (1, 2));
        assert_eq!(status.devices, Some(first.len() as u64));
        assert_eq!(status.healthy, first.len() as u64);
        assert_eq!(status.until, Some(NOON + 10 * MINUTE));
        pass(&server, MINUTE).await;
        let status = server
            .show_rollout(rollout.id)
            .await
            .rollout
            .wave
            .expect("waves");
        assert_eq!(status.number, 2, "{status:?}");
        assert_eq!(fleet.round(&server).await.len(), 20 - first.len());
        let shown = server.show_rollout(rollout.id).await.rollout;
        assert_eq!(
            (shown.state, shown.counts.succeeded),
            (RolloutState::Complete, 20)
        );
    })
    .await;
}

#[tokio::test]
async fn so_many_canaries_go_first_whoever_they_are() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 6).await;
        let rollout = start(&server, json!({"canary": {"devices": 2}})).await;
        assert_eq!(fleet.round(&server).await, ["d00", "d01"]);
        assert_eq!(held_by(&why(&server, "d02").await), Some("wave"));
        pass(&server, 2 * MINUTE).await;
        assert_eq!(fleet.round(&server).await, ["d02", "d03", "d04", "d05"]);
        let shown = server.show_rollout(rollout.id).await.rollout;
        assert_eq!(
            shown.sentence,
            "Bring 1.0.6 to all: first 2 devices, then all, each once 90 % of those that started \
             before are proven healthy; it pauses after 2 failures."
        );
    })
    .await;
}

#[tokio::test]
async fn named_canaries_go_first_and_promote_does_not_wait() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 3).await;
        let rollout = start(&server, json!({"canary": {"names": ["d01"]}})).await;
        assert_eq!(fleet.round(&server).await, ["d01"]);
        let shown = command(&server, &rollout, "promote").await;
        assert_eq!(shown.wave.expect("waves").number, 2);
        assert_eq!(fleet.round(&server).await, ["d00", "d02"]);
        let path = format!("/api/v1/rollouts/r-{}/promote", rollout.id);
        let (code, ..) = server.post(&path, json!({})).await.problem(409);
        assert_eq!(code, "last_wave");
    })
    .await;
}

#[tokio::test]
async fn a_breach_stops_the_first_wave_and_sends_it_back_with_proof() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 8).await;
        let request = json!({"release": "1.0.6", "to": ["all"], "rollback_on_failure": true,
            "plan": {"canary": {"names": ["d00", "d01", "d02", "d03", "d04"]},
                "gates": {"failure_percent": 20, "failure_sample": 4}}});
        let rollout = server.rollout(request).await;
        let new = fleet.new.clone();
        for device in &mut fleet.devices[..3] {
            device.updates_to(&server, &new).await;
        }
        // A fourth ends: one of four is more than 20 %.
        let order = fleet.devices[3].check_in(&server).await.install();
        fleet.devices[3]
            .ends(&server, order, End::RolledBackBoot, FailureCode::CrashLoop)
            .await;
        let shown = server.show_rollout(rollout.id).await.rollout;
        assert_eq!(shown.state, RolloutState::Paused);
        assert_eq!(
            shown.reason.as_deref(),
            Some("1 of 4 failed, the limit is 20 %; the last was d03: rolled_back:boot")
        );
        let back = shown.rollback.expect("ordered");
        assert_eq!((back.standing, back.proven, back.refused), (3, 0, 0));
        assert_eq!(held_by(&why(&server, "d00").await), Some("rollback"));
        let old = fleet.old.clone();
        for device in &mut fleet.devices[..3] {
            device.check_in(&server).await.rollback();
            device.boots(&old, true);
            assert_eq!(
                device.check_in(&server).await.order,
                None,
                "never offered again"
            );
        }
        let back = server
            .show_rollout(rollout.id)
            .await
            .rollout
            .rollback
            .expect("ordered");
        assert_eq!((back.standing, back.proven, back.refused), (0, 3, 0));
        assert_eq!(fleet.round(&server).await, [""; 0], "nobody new");
    })
    .await;
}

#[tokio::test]
async fn what_an_operator_resumed_after_does_not_stop_it_again() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 4).await;
        let rollout = start(&server, json!({"waves": [{"percent": 100}]})).await;
        for device in &mut fleet.devices[..2] {
            let order = device.check_in(&server).await.install();
            device
                .ends(&server, order, End::RolledBackBoot, FailureCode::CrashLoop)
                .await;
        }
        let shown = server.show_rollout(rollout.id).await.rollout;
        assert_eq!(shown.state, RolloutState::Paused);
        command(&server, &rollout, "resume").await;
        pass(&server, MINUTE).await;
        let shown = server.show_rollout(rollout.id).await.rollout;
        assert_eq!(shown.state, RolloutState::Active);
        let order = fleet.devices[2].check_in(&server).await.install();
        fleet.devices[2]
            .ends(&server, order, End::RolledBackBoot, FailureCode::CrashLoop)
            .await;
        // One of two since then.
        fleet.devices[3].check_in(&server).await.install();
    })
    .await;
}

#[tokio::test]
async fn a_wave_without_anybody_is_passed_and_an_offline_device_blocks_nobody() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 3).await;
        // Nobody is in so small a share of three devices.
        let plan = json!({"waves": [{"percent": 0.01}, {"percent": 100}]});
        let rollout = start(&server, plan).await;
        assert_eq!(fleet.round(&server).await, [""; 0]);
        pass(&server, 0).await;
        pass(&server, 2 * MINUTE).await;
        let status = server
            .show_rollout(rollout.id)
            .await
            .rollout
            .wave
            .expect("waves");
        assert_eq!(status.number, 2);
        // One comes late; the others are not asked to wait.
        fleet.devices.truncate(2);
        assert_eq!(fleet.round(&server).await.len(), 2);
        assert_eq!(
            server.show_rollout(rollout.id).await.rollout.counts.waiting,
            1
        );
    })
    .await;
}

#[tokio::test]
async fn limits_hold_devices_until_there_is_a_place() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 4).await;
        start(
            &server,
            json!({"limits": {"parallel": 1, "starts_per_minute": 2}}),
        )
        .await;
        let order = fleet.devices[0].check_in(&server).await.install();
        let told = fleet.devices[1].check_in(&server).await;
        assert_eq!(told.order, None);
        assert_eq!(held_by(&why(&server, "d01").await), Some("parallel"));
        // The first ends, and the second starts at its next check-in.
        let (new, old) = (fleet.new.clone(), fleet.old.clone());
        let _ = (order, old);
        fleet.devices[0].updates_to(&server, &new).await;
        server.clock.advance_ms(1000);
        fleet.devices[1].updates_to(&server, &new).await;
        server.clock.advance_ms(1000);
        assert_eq!(fleet.devices[2].check_in(&server).await.order, None);
        let told = why(&server, "d02").await;
        assert_eq!(held_by(&told), Some("starts"));
        assert_eq!(told.until, Some(NOON + MINUTE));
        server.clock.advance_ms(MINUTE);
        fleet.devices[2].check_in(&server).await.install();
    })
    .await;
}

#[tokio::test]
async fn a_stalled_device_gives_its_place_up_and_takes_one_again() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 2).await;
        let plan = json!({"limits": {"parallel": 1}, "timeouts": {"stalled": "10m"}});
        start(&server, plan).await;
        let order = fleet.devices[0].check_in(&server).await.install();
        fleet.devices[0]
            .reports(&server, order, Phase::Downloading, 4096)
            .await;
        assert_eq!(fleet.devices[1].check_in(&server).await.order, None);
        pass(&server, 10 * MINUTE).await;
        assert!(
            server
                .history("d00")
                .await
                .contains(&"attempt.stalled".to_owned())
        );
        fleet.devices[1].check_in(&server).await.install();
        // The first comes back: no place is free.
        let told = fleet.devices[0]
            .reports(&server, order, Phase::Downloading, 4096)
            .await;
        assert_eq!(told.order, Some(Ordered::Cancel { id: order }));
        let new = fleet.new.clone();
        fleet.devices[1].updates_to(&server, &new).await;
        fleet.devices[0].progress = None;
        server.clock.advance_ms(2000);
        assert_eq!(fleet.devices[0].check_in(&server).await.install(), order);
    })
    .await;
}

#[tokio::test]
async fn a_budget_of_bytes_lets_no_more_through() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 3).await;
        let bytes = fleet.new.bytes.len() as u64;
        // An image in ten seconds.
        let plan = json!({"limits": {"bytes_per_s": bytes.div_ceil(10)}});
        start(&server, plan).await;
        fleet.devices[0].check_in(&server).await.install();
        for seconds in [1, 5] {
            server.clock.advance_ms(seconds * 1000);
            assert_eq!(fleet.devices[1].check_in(&server).await.order, None);
        }
        assert_eq!(held_by(&why(&server, "d01").await), Some("bytes"));
        server.clock.advance_ms(4000);
        fleet.devices[1].check_in(&server).await.install();
        assert_eq!(fleet.devices[2].check_in(&server).await.order, None);
    })
    .await;
}

#[tokio::test]
async fn a_passing_failure_is_tried_again_and_a_crash_is_not() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 2).await;
        let plan = json!({"retries": {"network": 1, "base": "10m", "max": "1h"}});
        let rollout = start(&server, plan).await;
        let device = &mut fleet.devices[0];
        let first = device.check_in(&server).await.install();
        let told = device
            .ends(&server, first, End::Failed, FailureCode::NetTimeout)
            .await;
        assert_eq!(told.order, None);
        let counts = server.show_rollout(rollout.id).await.rollout.counts;
        assert_eq!(
            (counts.failed, counts.waiting),
            (0, 2),
            "it waits for its next try"
        );
        let told = why(&server, "d00").await;
        assert_eq!(held_by(&told), Some("retry"));
        let until = told.until.expect("known") - NOON;
        assert!((10 * MINUTE..13 * MINUTE).contains(&until), "{until}");
        server.clock.advance_ms(until);
        let second = device.check_in(&server).await.install();
        assert_ne!(first, second);
        device
            .ends(&server, second, End::Failed, FailureCode::NetTimeout)
            .await;
        server.clock.advance_ms(24 * 60 * MINUTE);
        assert_eq!(
            device.check_in(&server).await.order,
            None,
            "one try more, no second"
        );
        let other = &mut fleet.devices[1];
        let order = other.check_in(&server).await.install();
        other
            .ends(&server, order, End::RolledBackBoot, FailureCode::CrashLoop)
            .await;
        server.clock.advance_ms(24 * 60 * MINUTE);
        assert_eq!(other.check_in(&server).await.order, None);
        assert_eq!(held_by(&why(&server, "d01").await), Some("attempt"));
    })
    .await;
}

#[tokio::test]
async fn a_state_that_lasts_too_long_times_out() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 1).await;
        start(&server, json!({"timeouts": {"offered": "5m"}})).await;
        fleet.devices[0].check_in(&server).await.install();
        pass(&server, 5 * MINUTE).await;
        assert_eq!(server.attempt_state("d00").await, AttemptState::TimedOut);
        assert_eq!(fleet.devices[0].check_in(&server).await.order, None);
    })
    .await;
}

#[tokio::test]
async fn outside_its_window_a_device_gets_nothing_and_knows_when() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 2).await;
        // Noon in UTC is 13:00 in Berlin.
        let plan = json!({"schedule": {"zone": "Europe/Berlin", "download": ["22:00-06:00"]}});
        start(&server, plan).await;
        assert_eq!(fleet.devices[0].check_in(&server).await.order, None);
        let told = why(&server, "d00").await;
        assert_eq!(held_by(&told), Some("download"));
        let opens = NOON + 9 * 60 * MINUTE;
        let own = told.until.expect("known");
        assert!(
            (opens..opens + 30 * MINUTE).contains(&own),
            "its own second: {}",
            own - opens
        );
        server.clock.advance_ms(own - 20_000 - NOON);
        let told = fleet.devices[0].check_in(&server).await;
        assert_eq!(
            (told.order, told.retry_after_s),
            (None, 21),
            "not a minute: then is its turn"
        );
        server.clock.advance_ms(20_000);
        fleet.devices[0].check_in(&server).await.install();
    })
    .await;
}

#[tokio::test]
async fn somebody_else_must_approve() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 1).await;
        let rollout = start(&server, json!({"approval": true})).await;
        assert_eq!(fleet.devices[0].check_in(&server).await.order, None);
        assert_eq!(held_by(&why(&server, "d00").await), Some("approval"));
        let path = format!("/api/v1/rollouts/r-{}/approve", rollout.id);
        let (code, ..) = server.post(&path, json!({})).await.problem(409);
        assert_eq!(code, "own_rollout");
        let token: Value = server
            .post(
                "/api/v1/tokens",
                json!({"name": "second", "role": "operator"}),
            )
            .await
            .value(StatusCode::CREATED);
        let token = token["secret"]
            .as_str()
            .or(token["token"].as_str())
            .expect("a token")
            .to_owned();
        let request = server
            .request_as(&token, reqwest::Method::POST, &path)
            .json(&json!({}));
        let approved: Rollout = Reply::of(request).await.value(StatusCode::OK);
        assert_eq!(approved.approved_by.as_deref(), Some("token:second"));
        fleet.devices[0].check_in(&server).await.install();
    })
    .await;
}

#[tokio::test]
async fn a_device_passes_through_what_it_must() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 1).await;
        let between = Image::new("1.0.5.1");
        server.release(&between).await;
        let rollout = start(&server, json!({"via": ["1.0.5.1"]})).await;
        let device = &mut fleet.devices[0];
        device.updates_to(&server, &between).await;
        device.updates_to(&server, &fleet.new).await;
        assert_eq!(device.check_in(&server).await.order, None);
        let shown = server.show_rollout(rollout.id).await.rollout;
        assert_eq!(
            (shown.state, shown.counts.succeeded),
            (RolloutState::Complete, 1)
        );
    })
    .await;
}

#[tokio::test]
async fn the_higher_priority_goes_first_and_nothing_older_follows() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 1).await;
        let newer = Image::new("1.0.7");
        server.release(&newer).await;
        start(&server, json!({"priority": 90})).await;
        let request = json!({"release": "1.0.7", "to": ["d00"]});
        server.rollout(request).await;
        let device = &mut fleet.devices[0];
        device.updates_to(&server, &fleet.new).await;
        device.updates_to(&server, &newer).await;
        assert_eq!(device.check_in(&server).await.order, None);
    })
    .await;
}

#[tokio::test]
async fn a_device_that_comes_back_after_months_gets_the_newest_that_stands() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 2).await;
        start(&server, json!({"waves": [{"percent": 100}]})).await;
        let order = fleet.devices[0].check_in(&server).await.install();
        fleet.devices[0]
            .reports(&server, order, Phase::Downloading, 4096)
            .await;
        for version in ["1.0.7", "1.0.8"] {
            server.release(&Image::new(version)).await;
            server.clock.advance_ms(60 * 24 * 60 * MINUTE);
            server
                .rollout(json!({"release": version, "to": ["all"]}))
                .await;
        }
        look(&server).await;
        let newest = Image::new("1.0.8");
        for device in &mut fleet.devices {
            device.updates_to(&server, &newest).await;
            assert_eq!(device.check_in(&server).await.order, None);
        }
    })
    .await;
}

#[tokio::test]
async fn a_dry_run_says_what_then_happens() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 20).await;
        let plan = json!({"waves": [{"percent": 30, "min_time": "1h"}, {"percent": 100}],
            "limits": {"parallel": 2}, "schedule": {"download": ["14:00-20:00"]}});
        let request = json!({"release": "1.0.6", "to": ["all"], "plan": plan});
        let played: DryRun = server
            .post("/api/v1/rollouts/dry-run", request.clone())
            .await
            .value(StatusCode::OK);
        let bytes = fleet.new.bytes.len() as u64;
        assert_eq!(
            (played.matched, played.played, played.bytes),
            (20, 20, 20 * bytes)
        );
        assert_eq!(
            (played.phases.len(), played.held.len()),
            (2, 0),
            "{played:?}"
        );
        let first = &played.phases[0];
        assert_eq!(first.begins_at, NOON);
        let done = first.ends_at.expect("ends");
        assert!(
            done > NOON + 120 * MINUTE,
            "not before the window: {played:?}"
        );
        let second = &played.phases[1];
        assert!(
            second.begins_at >= NOON + 180 * MINUTE,
            "an hour after the first start"
        );
        assert_eq!(first.devices + second.devices, 20);
        assert!(played.finished_at >= second.ends_at);
        // Nothing was started.
        assert_eq!(
            server.get("/api/v1/rollouts").await.json()["items"],
            json!([])
        );
        let _ = &mut fleet.devices;
        // A wave that needs more than it can have never ends.
        let endless = json!({"release": "1.0.6", "to": ["all"], "plan":
            {"schedule": {"ends_at": "2026-11-23 12:00:30"}, "limits": {"parallel": 1}}});
        let played: DryRun = server
            .post("/api/v1/rollouts/dry-run", endless)
            .await
            .value(StatusCode::OK);
        assert_eq!(played.finished_at, None, "{played:?}");
    })
    .await;
}

#[tokio::test]
async fn tags_attributes_and_groups_by_filter_say_who_is_meant() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 3).await;
        let tags = json!({"set": {"site": "north"}});
        server.post("/api/v1/devices/d01/tags", tags).await;
        server
            .post("/api/v1/groups", json!({"name": "northern"}))
            .await;
        let rule = json!({"filter": "tag.site == north or attr.site == north"});
        let group: Group = server
            .post("/api/v1/groups/northern/rule", rule)
            .await
            .value(StatusCode::OK);
        assert_eq!(group.devices, ["d01"]);
        let request = json!({"release": "1.0.6", "to": ["group:northern"],
            "plan": {"filter": "version < 1.0.6 and group == northern"}});
        let preview = server
            .post("/api/v1/rollouts/preview", request.clone())
            .await
            .json();
        assert_eq!(preview["matched"], 1);
        server.rollout(request).await;
        assert_eq!(fleet.devices[0].check_in(&server).await.order, None);
        fleet.devices[1].check_in(&server).await.install();
        // Who becomes one later joins.
        fleet.devices[2].attributes = vec![("site", "north"), ("tz", "Asia/Tokyo")];
        fleet.devices[2].check_in(&server).await.install();
        let shown = server.show_device("d02").await;
        assert_eq!(shown.attributes["tz"], "Asia/Tokyo");
        assert_eq!(shown.groups, ["northern"]);
    })
    .await;
}

#[tokio::test]
async fn a_device_that_can_hold_downloads_now_and_installs_in_its_window() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 2).await;
        let plan = json!({"schedule": {"install": ["20:00-22:00"]},
            "conditions": {"battery_min": 40}});
        start(&server, plan).await;
        // One that does not know how to hold would install at once: it waits.
        assert_eq!(fleet.devices[0].check_in(&server).await.order, None);
        assert_eq!(held_by(&why(&server, "d00").await), Some("install"));
        let device = &mut fleet.devices[1];
        device.waits = Some(Waits::Nothing);
        let told = device.check_in(&server).await;
        let order = told.install();
        assert!(told.hold, "download only");
        assert_eq!(told.conditions.expect("given").battery_min, Some(40));
        device.waits = Some(Waits::Window);
        let told = device.reports(&server, order, Phase::Downloaded, 0).await;
        assert!(told.hold);
        assert_eq!(told.retry_after_s, 60, "nothing is to be done for hours");
        server.clock.advance_ms(9 * 60 * MINUTE);
        let told = device.check_in(&server).await;
        assert_eq!((told.install(), told.hold), (order, false));
    })
    .await;
}

#[cfg(unix)]
#[tokio::test]
async fn two_nodes_on_one_database_make_the_same_offers_and_one_step_at_a_time() {
    each_database(async |first| {
        let mut fleet = Fleet::of(&first, 12).await;
        let second = first.second_node().await;
        let plan = json!({"waves": [{"percent": 40}, {"percent": 100}],
            "limits": {"parallel": 3}, "gates": {"healthy_percent": 50}});
        let rollout = start(&first, plan).await;
        let mut offered = 0;
        for (number, device) in fleet.devices.iter_mut().enumerate() {
            // Whichever it asks first, the other says the same.
            let nodes = if number % 2 == 0 {
                [&first, &second]
            } else {
                [&second, &first]
            };
            let told = device.check_in(nodes[0]).await;
            let again = device.check_in(nodes[1]).await;
            assert_eq!(
                (&again.order, again.hold),
                (&told.order, told.hold),
                "{}",
                device.id
            );
            offered += usize::from(told.order.is_some());
        }
        assert!(
            (1..=3).contains(&offered),
            "{offered}: the limit is of both together"
        );
        for server in [&first, &second] {
            fleet.round(server).await;
            server.clock.advance_ms(5 * MINUTE);
        }
        // Both look at the same moment, again and again.
        for _ in 0..3 {
            let looks = [&first, &second].map(|node| advance::tick(&node.running.state));
            let [one, two] = looks;
            let (one, two) = tokio::join!(one, two);
            one.expect("looks");
            two.expect("looks");
        }
        let path = format!("/api/v1/events?rollout=r-{}&limit=1000", rollout.id);
        let events = first.get(&path).await.json();
        let items = events["items"].as_array().expect("items").iter();
        let advanced = items.filter(|event| event["kind"] == "rollout.advanced");
        assert_eq!(advanced.count(), 1, "{events}");
        for node in [&first, &second] {
            let wave = node.show_rollout(rollout.id).await.rollout.wave;
            assert_eq!(wave.expect("waves").number, 2);
        }
        second.running.shutdown().await;
    })
    .await;
}
