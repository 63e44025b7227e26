//! `/api/v1/rollbacks`: an order is a level, not an edge.

use fota_proto::{
    AttemptState, FailureCode,
    checkin::{End, Phase},
    manager::RollbackState,
};
use serde_json::json;

use crate::support::*;

async fn updated(server: &Server) -> Story {
    let mut story = Story::begin(server).await;
    story.device.updates_to(server, &story.new).await;
    story
}

/// Bug museums 3 and 4: in the seed a status post erases the order, and a lost reply loses it.
#[tokio::test]
async fn an_order_stands_until_the_device_is_seen_on_another_image() {
    async fn stands(server: Server) {
        let mut story = updated(&server).await;
        let request = json!({"to": ["ESP32-001"], "reason": "Update failed"});
        let accepted = server.post("/api/v1/rollbacks", request).await.json();
        assert_eq!(accepted["orders"][0]["state"], "standing");
        let order = story.device.check_in(&server).await;
        let id = order.rollback();
        assert_eq!(
            order.order,
            Some(Ordered::Rollback {
                id,
                leave: story.new.elf,
                reason: "Update failed".to_owned()
            })
        );
        for _ in 0..3 {
            story
                .device
                .reports(&server, 4711, Phase::Downloading, 1)
                .await;
            assert_eq!(story.device.check_in(&server).await.rollback(), id);
        }
        let server = server.restart().await;
        assert_eq!(story.device.check_in(&server).await.rollback(), id);
        story.device.boots(&story.old, true);
        assert_eq!(story.device.check_in(&server).await.order, None);
        let device = server.show_device("ESP32-001").await;
        assert_eq!(device.rollback.expect("told").state, RollbackState::Done);
        // History is not rewritten: the update did succeed.
        let attempt = device.attempt.expect("an attempt");
        assert_eq!(attempt.state, AttemptState::Succeeded);
        let kinds = server.history("ESP32-001").await;
        assert_eq!(kinds.last().map(String::as_str), Some("rollback.done"));
    }
    each_database(stands).await;
}

#[tokio::test]
async fn all_reaches_each_device_that_has_something_to_go_back_to() {
    each_database(async |server| {
        let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
        server.release(&new).await;
        for id in ["a", "b"] {
            let mut device = TestDevice::running(id, &old);
            device.boots(&new, true);
            device.check_in(&server).await;
        }
        TestDevice::running("fresh", &new).check_in(&server).await;
        TestDevice::running("other", &old).check_in(&server).await;
        let request = json!({"to": ["all"], "release": "1.0.6", "reason": "no"});
        let accepted = server.post("/api/v1/rollbacks", request).await.json();
        let reached: Vec<_> = accepted["orders"]
            .as_array()
            .expect("a list")
            .iter()
            .collect();
        assert_eq!(reached.len(), 2, "{accepted}");
        let excluded = json!([
            {"device": "fresh", "reason": "no_rollback_target"},
            {"device": "other", "reason": "runs_another_release"},
        ]);
        assert_eq!(accepted["excluded"], excluded);
    })
    .await;
}

/// Bug museum 18.
#[tokio::test]
async fn no_rollback_target_gives_clear_refusal() {
    each_database(async |server| {
        let old = Image::new("1.0.5");
        server.release(&old).await;
        let mut device = TestDevice::running("fresh", &old);
        device.check_in(&server).await;
        let request = json!({"to": ["fresh"], "reason": "no"});
        let accepted = server
            .post("/api/v1/rollbacks", request.clone())
            .await
            .json();
        assert_eq!(accepted["orders"], json!([]));
        let excluded = json!([{"device": "fresh", "reason": "no_rollback_target"}]);
        assert_eq!(accepted["excluded"], excluded);
        assert_eq!(device.check_in(&server).await.order, None);
        // A device whose other slot turns out to be bad says so, and the order ends.
        device.other = Some(Image::new("1.0.4"));
        device.check_in(&server).await;
        server.post("/api/v1/rollbacks", request).await;
        let id = device.check_in(&server).await.rollback();
        let told = device
            .ends(&server, id, End::Refused, FailureCode::NoRollbackTarget)
            .await;
        assert_eq!(told.order, None);
        let shown = server.show_device("fresh").await;
        let order = shown.rollback.expect("told");
        assert_eq!(order.state, RollbackState::Refused);
        assert_eq!(order.code.as_deref(), Some("no_rollback_target"));
        assert_eq!(shown.blocked, [""; 0], "it still runs it");
        let page = server.get("/api/v1/devices/fresh/events").await.json();
        let last = page["items"]
            .as_array()
            .and_then(|items| items.last())
            .expect("events");
        let text = last["text"].as_str().expect("text");
        assert!(
            text.contains("there is no other valid image to go back to"),
            "{text}"
        );
    })
    .await;
}

#[tokio::test]
async fn asking_twice_gives_the_order_that_stands() {
    each_database(async |server| {
        let mut story = updated(&server).await;
        let request = json!({"to": ["ESP32-001"], "reason": "once"});
        server.post("/api/v1/rollbacks", request).await;
        let id = story.device.check_in(&server).await.rollback();
        let request = json!({"to": ["ESP32-001"], "reason": "twice"});
        let accepted = server.post("/api/v1/rollbacks", request).await.json();
        assert_eq!(accepted["orders"][0]["reason"], "once");
        assert_eq!(story.device.check_in(&server).await.rollback(), id);
    })
    .await;
}

#[tokio::test]
async fn a_rollback_comes_before_an_update() {
    each_database(async |server| {
        let mut story = updated(&server).await;
        server.release(&Image::new("1.0.7")).await;
        server
            .rollout(json!({"release": "1.0.7", "to": ["all"]}))
            .await;
        server
            .post("/api/v1/rollbacks", json!({"to": ["all"], "reason": "no"}))
            .await;
        story.device.check_in(&server).await.rollback();
        story.device.boots(&story.old, true);
        story.device.check_in(&server).await.install();
    })
    .await;
}

#[tokio::test]
async fn a_rollback_during_the_trial_is_the_operators() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let order = story.device.check_in(&server).await.install();
        story
            .device
            .reports(&server, order, Phase::Installing, 0)
            .await;
        story.device.boots(&story.new, false);
        story.device.check_in(&server).await;
        server
            .post("/api/v1/rollbacks", json!({"to": ["all"], "reason": "no"}))
            .await;
        story.device.check_in(&server).await.rollback();
        story.device.boots(&story.old, true);
        // Whatever the device makes of it.
        let told = story
            .device
            .ends(&server, order, End::RolledBackBoot, FailureCode::CrashLoop)
            .await;
        assert_eq!(told.order, None);
        assert_eq!(
            server.attempt_state("ESP32-001").await.to_string(),
            "rolled_back:operator"
        );
    })
    .await;
}
