//! `/api/v1/rollouts`: starting, watching and ending them.

use fota_proto::{
    AttemptState, FailureCode,
    checkin::{End, Phase},
    manager::{RolloutDetail, RolloutState},
};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn a_preview_says_who_would_be_reached_and_who_not() {
    each_database(async |server| {
        let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
        server.release(&old).await;
        server.release(&new).await;
        for id in ["a", "b"] {
            TestDevice::running(id, &old).check_in(&server).await;
        }
        TestDevice::running("c", &new).check_in(&server).await;
        server.clock.advance_ms(10 * 60 * 1000);
        TestDevice::running("b", &old).check_in(&server).await;
        let request = json!({"release": "1.0.6", "to": ["all"]});
        let preview = server
            .post("/api/v1/rollouts/preview", request)
            .await
            .json();
        let excluded = json!([{"device": "c", "reason": "already_installed"}]);
        let reasons = json!([{"devices": 1, "reason": "already_installed"}]);
        let expected = json!({"matched": 2, "online": 1, "excluded": excluded,
            "reasons": reasons,
            "sentence": "Bring 1.0.6 to all: all at once; it goes on whatever fails."});
        assert_eq!(preview, expected);
        assert_eq!(
            server.get("/api/v1/rollouts").await.json()["items"],
            json!([])
        );
    })
    .await;
}

#[tokio::test]
async fn a_rollout_covers_devices_that_come_later() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        story.device.updates_to(&server, &story.new).await;
        let state = server.show_rollout(story.rollout.id).await.rollout.state;
        assert_eq!(state, RolloutState::Complete);
        let mut late = TestDevice::running("late", &story.old);
        late.check_in(&server).await.install();
        let detail = server.show_rollout(story.rollout.id).await;
        assert_eq!(detail.rollout.state, RolloutState::Active);
        assert_eq!(
            (
                detail.rollout.counts.succeeded,
                detail.rollout.counts.updating
            ),
            (1, 1)
        );
    })
    .await;
}

#[tokio::test]
async fn a_group_and_named_devices_are_reached_and_nobody_else() {
    each_database(async |server| {
        let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
        server.release(&new).await;
        server
            .post("/api/v1/groups", json!({"name": "kitchen"}))
            .await;
        server
            .post(
                "/api/v1/groups/kitchen/devices",
                json!({"add": ["k1", "k2"]}),
            )
            .await;
        let request = json!({"release": "1.0.6", "to": ["group:kitchen", "hall"]});
        let rollout = server.rollout(request).await;
        assert_eq!(rollout.counts.waiting, 3);
        assert_eq!(rollout.to, ["group:kitchen", "hall"]);
        for id in ["k1", "hall"] {
            TestDevice::running(id, &old)
                .check_in(&server)
                .await
                .install();
        }
        let mut stranger = TestDevice::running("cellar", &old);
        assert_eq!(stranger.check_in(&server).await.order, None);
        // Who joins the group is reached from then on.
        server
            .post("/api/v1/groups/kitchen/devices", json!({"add": ["cellar"]}))
            .await;
        stranger.check_in(&server).await.install();
        let detail = server.show_rollout(rollout.id).await;
        let names: Vec<_> = detail
            .attempts
            .iter()
            .map(|attempt| attempt.device.as_str())
            .collect();
        assert_eq!(names, ["cellar", "hall", "k1", "k2"]);
        assert_eq!(detail.attempts[3].state, AttemptState::Waiting);
        assert_eq!(detail.rollout.state, RolloutState::Active);
    })
    .await;
}

#[tokio::test]
async fn a_paused_rollout_starts_nothing_new_and_lets_the_rest_go_on() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let order = story.device.check_in(&server).await.install();
        let path = format!("/api/v1/rollouts/r-{}/pause", story.rollout.id);
        let paused = server.post(&path, json!({"reason": "lunch"})).await.json();
        assert_eq!(
            (&paused["state"], &paused["reason"]),
            (&json!("paused"), &json!("lunch"))
        );
        let mut other = TestDevice::running("other", &story.old);
        assert_eq!(other.check_in(&server).await.order, None);
        assert_eq!(story.device.check_in(&server).await.install(), order);
        let path = format!("/api/v1/rollouts/r-{}/resume", story.rollout.id);
        server.post(&path, json!({})).await;
        other.check_in(&server).await.install();
    })
    .await;
}

#[tokio::test]
async fn an_aborted_rollout_cancels_downloads_and_lets_installs_end() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let order = story.device.check_in(&server).await.install();
        story
            .device
            .reports(&server, order, Phase::Downloading, 4096)
            .await;
        let mut far = TestDevice::running("far", &story.old);
        let far_order = far.check_in(&server).await.install();
        far.reports(&server, far_order, Phase::Installing, 0).await;
        let path = format!("/api/v1/rollouts/r-{}/abort", story.rollout.id);
        let aborted = server.post(&path, json!({"reason": "no"})).await.json();
        assert_eq!(aborted["state"], "aborted");
        let told = story.device.check_in(&server).await;
        assert_eq!(told.order, Some(Ordered::Cancel { id: order }));
        far.boots(&story.new, true);
        far.check_in(&server).await;
        assert_eq!(server.attempt_state("far").await, AttemptState::Succeeded);
        // What has ended stays ended.
        for verb in ["pause", "resume", "retry"] {
            let path = format!("/api/v1/rollouts/r-{}/{verb}", story.rollout.id);
            let (code, _, _) = server.post(&path, json!({})).await.problem(409);
            assert_eq!(code, "rollout_ended", "{verb}");
        }
        let counts = server.show_rollout(story.rollout.id).await.rollout.counts;
        assert_eq!((counts.ended, counts.succeeded, counts.waiting), (1, 1, 0));
    })
    .await;
}

#[tokio::test]
async fn too_many_failures_pause_it_and_hold_back_the_rest() {
    each_database(async |server| {
        let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
        server.release(&old).await;
        server.release(&new).await;
        let request = json!({"release": "1.0.6", "to": ["all"], "failures_max": 2,
            "rollback_on_failure": true});
        let mut devices: Vec<TestDevice> = ["a", "b", "c", "d", "e"]
            .map(|id| TestDevice::running(id, &old))
            .into();
        let rollout = server.rollout(request).await;
        devices[0].updates_to(&server, &new).await;
        let order = devices[3].check_in(&server).await.install();
        devices[3]
            .reports(&server, order, Phase::Downloading, 4096)
            .await;
        for device in &mut devices[1..3] {
            let order = device.check_in(&server).await.install();
            device
                .ends(&server, order, End::RolledBackBoot, FailureCode::CrashLoop)
                .await;
        }
        let shown = server.show_rollout(rollout.id).await.rollout;
        assert_eq!(shown.state, RolloutState::Paused);
        let reason = shown.reason.expect("told");
        assert_eq!(
            reason,
            "2 failed, the limit is 2; the last was c: rolled_back:boot"
        );
        // Nobody new, nobody under way, and who has it goes back.
        assert_eq!(devices[4].check_in(&server).await.order, None);
        let told = devices[3].check_in(&server).await;
        assert_eq!(told.order, Some(Ordered::Cancel { id: order }));
        devices[0].check_in(&server).await.rollback();
        // The operator knows better.
        let path = format!("/api/v1/rollouts/{}/resume", rollout.id);
        server.post(&path, json!({})).await;
        assert_eq!(devices[3].check_in(&server).await.install(), order);
        devices[4].check_in(&server).await.install();
    })
    .await;
}

#[tokio::test]
async fn an_operators_rollback_is_no_failure_of_the_release() {
    each_database(async |server| {
        let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
        server.release(&new).await;
        let request = json!({"release": "1.0.6", "to": ["all"], "failures_max": 1});
        let rollout = server.rollout(request).await;
        let mut device = TestDevice::running("a", &old);
        let order = device.check_in(&server).await.install();
        device.reports(&server, order, Phase::Installing, 0).await;
        device.boots(&new, false);
        device.check_in(&server).await;
        server
            .post("/api/v1/rollbacks", json!({"to": ["a"], "reason": "no"}))
            .await;
        device.check_in(&server).await.rollback();
        device.boots(&old, true);
        device.check_in(&server).await;
        assert_eq!(
            server.attempt_state("a").await.to_string(),
            "rolled_back:operator"
        );
        let state = server.show_rollout(rollout.id).await.rollout.state;
        assert_eq!(state, RolloutState::Complete);
    })
    .await;
}

#[tokio::test]
async fn the_same_key_twice_is_one_rollout() {
    each_database(async |server| {
        server.release(&Image::new("1.0.5")).await;
        server.release(&Image::new("1.0.6")).await;
        let request = json!({"release": "1.0.6", "to": ["all"], "idempotency_key": "k"});
        let first = server.rollout(request.clone()).await;
        let second = server.rollout(request).await;
        assert_eq!(first.id, second.id);
        let other = json!({"release": "1.0.5", "to": ["all"], "idempotency_key": "k"});
        let (code, field, _) = server.post("/api/v1/rollouts", other).await.problem(409);
        assert_eq!(code, "idempotency_key_reused");
        assert_eq!(field.as_deref(), Some("idempotency_key"));
    })
    .await;
}

#[tokio::test]
async fn a_rollout_to_the_same_targets_takes_the_older_ones_place() {
    each_database(async |server| {
        let story = Story::begin(&server).await;
        server.release(&Image::new("1.0.7")).await;
        let newer = server
            .rollout(json!({"release": "1.0.7", "to": ["all"]}))
            .await;
        let older = server.show_rollout(story.rollout.id).await.rollout;
        assert_eq!(older.state, RolloutState::Complete);
        assert_eq!(older.reason, Some(format!("superseded by r-{}", newer.id)));
        assert_eq!((older.counts.waiting, older.counts.ended), (0, 1));
    })
    .await;
}

#[tokio::test]
async fn both_spellings_of_an_id_work_and_others_are_refused() {
    each_database(async |server| {
        let story = Story::begin(&server).await;
        for id in [
            format!("r-{}", story.rollout.id),
            story.rollout.id.to_string(),
        ] {
            let path = format!("/api/v1/rollouts/{id}");
            let detail: RolloutDetail = server.get(&path).await.value(StatusCode::OK);
            assert_eq!(detail.rollout.id, story.rollout.id);
        }
        let (code, field, _) = server.get("/api/v1/rollouts/r-99").await.problem(404);
        assert_eq!((code.as_str(), field.as_deref()), ("not_found", Some("id")));
        server.get("/api/v1/rollouts/x").await.problem(400);
    })
    .await;
}

/// Bug museum 9: the seed keeps everything in memory.
#[tokio::test]
async fn server_restart_mid_rollout_resumes() {
    async fn restarts(server: Server) {
        let mut story = Story::begin(&server).await;
        let order = story.device.check_in(&server).await.install();
        story
            .device
            .reports(&server, order, Phase::Downloading, 4096)
            .await;
        let server = server.restart().await;
        let told = story
            .device
            .reports(&server, order, Phase::Downloading, 8192)
            .await;
        assert_eq!(told.install(), order, "the order stands under its number");
        let bytes = story.new.bytes.len() as u32;
        story
            .device
            .reports(&server, order, Phase::Installing, bytes)
            .await;
        let server = server.restart().await;
        story.device.boots(&story.new, false);
        story.device.check_in(&server).await;
        let server = server.restart().await;
        story.device.confirmed = true;
        story.device.check_in(&server).await;
        assert_eq!(
            server.attempt_state("ESP32-001").await,
            AttemptState::Succeeded
        );
        let blob = server
            .get(&format!("/api/v1/releases/{}/image", story.release.id))
            .await;
        assert_eq!(blob.body, story.new.bytes);
    }
    each_database(restarts).await;
}
