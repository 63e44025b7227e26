//! The sequential test through the server: which devices count, and what follows.

use fota_proto::{
    checkin::ResetReason,
    manager::{Health, HealthVerdict, Rollout, RolloutState},
};
use fota_server::service::advance;
use serde_json::{Value, json};

use crate::support::*;

/// Enough to know what is normal, few enough for a test.
const DEVICES: usize = 300;
/// One device is updated in so much time.
const STEP_MS: i64 = 5_000;

struct Fleet {
    devices: Vec<TestDevice>,
    new: Image,
}

impl Fleet {
    /// Devices that measure errors; of one in `unwell_of` they are many.
    async fn of(server: &Server, unwell_of: usize) -> Self {
        let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
        server.release(&old).await;
        server.release(&new).await;
        let device = |number: usize| TestDevice {
            metrics: vec![("errs", if number % unwell_of == 7 { 50 } else { 3 })],
            ..TestDevice::running(&format!("d{number:03}"), &old)
        };
        let devices = (0..DEVICES).map(device).collect();
        let mut fleet = Self { devices, new };
        fleet.all_come(server).await;
        fleet
    }

    async fn all_come(&mut self, server: &Server) {
        for device in &mut self.devices {
            device.check_in(server).await;
        }
    }

    /// Updates those that are offered the release, one after the other, until the rollout stops
    /// or has gone on to its last wave; `life` says what each is like then.
    async fn play(
        &mut self,
        server: &Server,
        rollout: &Rollout,
        life: impl Fn(usize, &mut TestDevice),
    ) -> (Rollout, usize) {
        self.all_come(server).await;
        let mut updated = 0;
        for index in 0..self.devices.len() {
            let device = &mut self.devices[index];
            if device.check_in(server).await.order.is_some() {
                device.updates_to(server, &self.new).await;
                life(updated, device);
                device.check_in(server).await;
                updated += 1;
                pass(server, STEP_MS).await;
            }
            let shown = server.show_rollout(rollout.id).await.rollout;
            if shown.state == RolloutState::Paused {
                return (shown, updated);
            }
        }
        for _ in 0..5 {
            pass(server, 60_000).await;
        }
        (server.show_rollout(rollout.id).await.rollout, updated)
    }
}

async fn pass(server: &Server, ms: i64) {
    server.clock.advance_ms(ms);
    advance::tick(&server.running.state).await.expect("looks");
}

async fn start(server: &Server, plan: Value) -> Rollout {
    let request = json!({"release": "1.0.6", "to": ["all"], "rollback_on_failure": true,
        "plan": plan});
    server.rollout(request).await
}

fn plan() -> Value {
    json!({"waves": [{"percent": 20}, {"percent": 100}],
        "gates": {"sequential": {"unwell": ["errs > 10"]}}})
}

fn source<'h>(health: &'h Health, name: &str) -> &'h fota_proto::manager::HealthSource {
    let found = health.sources.iter().find(|source| source.name == name);
    found.expect("a source")
}

#[tokio::test]
async fn a_release_that_makes_a_third_unwell_by_a_metric_is_stopped_in_its_first_wave() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 100).await;
        let rollout = start(&server, plan()).await;
        assert!(
            rollout
                .sentence
                .contains("fail or have errs > 10 more often than the others"),
            "{}",
            rollout.sentence
        );
        let life = |updated: usize, device: &mut TestDevice| {
            device.metrics = vec![("errs", if updated % 3 == 1 { 99 } else { 3 })];
        };
        let (shown, updated) = fleet.play(&server, &rollout, life).await;
        assert_eq!(shown.state, RolloutState::Paused, "{shown:?}");
        assert!(updated <= 45, "{updated} devices were updated");
        let reason = shown.reason.expect("a reason");
        assert!(
            reason.contains("errs > 10), without the release "),
            "{reason}"
        );
        let health = shown.health.expect("judged");
        assert_eq!(health.verdict, HealthVerdict::Stop);
        assert_eq!(source(&health, "errs > 10").updated, health.updated_unwell);
        assert_eq!(source(&health, "failed").updated, 0);
        // Why a device that waits gets nothing says so too, with the numbers.
        fleet.devices[DEVICES - 1].check_in(&server).await;
        let why = server.get("/api/v1/devices/d299/why").await.json();
        assert!(
            why["answer"].as_str().expect("text").contains("errs > 10"),
            "{why}"
        );
        // And who was updated goes back.
        let back = shown.rollback.expect("ordered back");
        assert_eq!(back.standing as usize, updated);
    })
    .await;
}

#[tokio::test]
async fn a_good_release_goes_on_and_what_is_normal_is_not_held_against_it() {
    each_database(async |server| {
        // A twelfth is unwell whatever it runs.
        let mut fleet = Fleet::of(&server, 12).await;
        let rollout = start(&server, plan()).await;
        let (shown, updated) = fleet.play(&server, &rollout, |_, _| {}).await;
        assert_eq!(shown.state, RolloutState::Active, "{:?}", shown.reason);
        assert_eq!(shown.wave.expect("waves").number, 2);
        assert!(updated > 40, "{updated}");
        let health = shown.health.expect("judged");
        assert!(health.others_unwell > 10, "{health:?}");
        assert_ne!(health.verdict, HealthVerdict::Stop);
    })
    .await;
}

#[tokio::test]
async fn crashes_after_the_update_count_also_the_second_that_looks_like_the_first() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 100).await;
        // It stays in its first wave, and is watched as long.
        let mut plan = plan();
        plan["waves"][0]["min_time"] = json!("7d");
        let rollout = start(&server, plan).await;
        let life = |_: usize, device: &mut TestDevice| device.reset = ResetReason::Software;
        let device = &mut fleet.devices[0];
        // The first of the wave crashed before it was updated, which is not the release's fault.
        device.reset = ResetReason::Panic;
        let _ = fleet.play(&server, &rollout, life).await;
        let health = server.show_rollout(rollout.id).await.rollout.health;
        assert_eq!(source(&health.expect("judged"), "crashed").updated, 0);
        let of_release = |device: &&mut TestDevice| device.version == "1.0.6";
        let mut updated = fleet.devices.iter_mut().filter(of_release);
        let device = updated.next().expect("some");
        (device.reset, device.uptime_s) = (ResetReason::Panic, 1);
        device.check_in(&server).await;
        pass(&server, 60_000).await;
        let crashes = async || {
            let shown = server.show_rollout(rollout.id).await.rollout;
            source(&shown.health.expect("judged"), "crashed").updated
        };
        assert_eq!(crashes().await, 1);
        // A day later it has long been forgiven; unless it crashes again, for the same reason.
        server.clock.advance_ms(25 * 3_600_000);
        device.uptime_s = 25 * 3_600 + 60;
        device.check_in(&server).await;
        pass(&server, 60_000).await;
        assert_eq!(crashes().await, 0);
        device.uptime_s = 3;
        device.check_in(&server).await;
        pass(&server, 60_000).await;
        assert_eq!(crashes().await, 1);
    })
    .await;
}

#[tokio::test]
async fn the_others_are_those_that_the_rollout_means_and_of_the_same_product() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 100).await;
        fleet.devices.truncate(40);
        let tags = json!({"set": {"site": "north"}});
        for device in &fleet.devices[..20] {
            let path = format!("/api/v1/devices/{}/tags", device.id);
            server.post(&path, tags.clone()).await;
        }
        // Of the twenty one is another product, and one does not measure what the plan asks for.
        fleet.devices[18].project = "doorbell".to_owned();
        fleet.devices[19].metrics = vec![("heap", 1)];
        let plan = json!({"filter": "tag.site == north", "canary": {"names": ["d000"]},
            "gates": {"sequential": {"unwell": ["errs > 10"]}}});
        let rollout = start(&server, plan).await;
        let (shown, updated) = fleet.play(&server, &rollout, |_, _| {}).await;
        assert_eq!(updated, 1);
        let health = shown.health.expect("judged");
        assert_eq!((health.updated, health.others), (1, 17), "{health:?}");
    })
    .await;
}

#[tokio::test]
async fn a_rollout_of_which_nothing_happens_is_not_looked_at() {
    each_database(async |server| {
        let mut fleet = Fleet::of(&server, 100).await;
        fleet.devices.truncate(3);
        start(&server, json!({"waves": [{"percent": 100}]})).await;
        let due = async || {
            let state = &server.running.state;
            let plan = state.fleet.newest_plan(&state.store).await.expect("a plan");
            let now = state.now_ms();
            let due = state
                .watches
                .due(&state.store, &plan, now)
                .await
                .expect("due");
            due.len()
        };
        pass(&server, 1_000).await;
        server.clock.advance_ms(3_600_000);
        assert_eq!(due().await, 0, "an hour without anything");
        fleet.devices[0].check_in(&server).await.install();
        assert_eq!(due().await, 1, "somebody was offered it");
        pass(&server, 1_000).await;
        assert_eq!(due().await, 0);
        server.clock.advance_ms(61_000);
        assert_eq!(due().await, 1, "an attempt under way may stall");
    })
    .await;
}
