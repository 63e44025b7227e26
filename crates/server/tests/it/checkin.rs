//! `POST /d/v1/check-in`: the loop, state by state.

use fota_proto::{
    AttemptState, FailureCode, RollbackCause, SkipReason,
    checkin::{End, Held, Phase},
    manager::RolloutState,
};
use serde_json::json;
use sha2::Digest;

use crate::support::*;

fn rolled_back(cause: RollbackCause) -> AttemptState {
    AttemptState::RolledBack(cause)
}

#[tokio::test]
async fn an_update_goes_through_all_states_and_succeeds_by_the_running_image() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let bytes = story.new.bytes.len() as u32;
        let told = story.device.check_in(&server).await;
        let order = told.install();
        assert_eq!(told.retry_after_s, 2, "an order is under way");
        assert_eq!(
            told.order,
            Some(Ordered::Install {
                id: order,
                image: story.new.sha256,
                elf: story.new.elf,
                resume_from: 0,
                trial_deadline_s: 300
            })
        );
        assert_eq!(
            server.attempt_state("ESP32-001").await,
            AttemptState::Offered
        );
        for (phase, done, state) in [
            (Phase::Downloading, 4096, AttemptState::Downloading),
            (Phase::Downloaded, bytes, AttemptState::Downloaded),
            (Phase::Installing, bytes, AttemptState::Installing),
        ] {
            let told = story.device.reports(&server, order, phase, done).await;
            assert_eq!(told.install(), order, "the same number is the same order");
            assert_eq!(server.attempt_state("ESP32-001").await, state);
        }
        story.device.boots(&story.new, false);
        assert_eq!(
            story.device.check_in(&server).await.order,
            None,
            "nothing during the trial"
        );
        assert_eq!(server.attempt_state("ESP32-001").await, AttemptState::Trial);
        story.device.confirmed = true;
        let told = story.device.check_in(&server).await;
        assert_eq!((told.order, told.retry_after_s), (None, 60));
        let device = server.show_device("ESP32-001").await;
        let attempt = device.attempt.expect("an attempt");
        assert_eq!(
            (attempt.state, attempt.percent),
            (AttemptState::Succeeded, 100)
        );
        assert_eq!(attempt.from_version.as_deref(), Some("1.0.5"));
        assert_eq!(device.rollback_version.as_deref(), Some("1.0.5"));
        let detail = server.show_rollout(story.rollout.id).await;
        assert_eq!(detail.rollout.state, RolloutState::Complete);
        assert_eq!(detail.rollout.counts.succeeded, 1);
        let kinds = server.history("ESP32-001").await;
        let expected = [
            "device.seen",
            "attempt.offered",
            "attempt.downloading",
            "attempt.downloaded",
            "attempt.installing",
            "device.running",
            "attempt.trial",
            "attempt.succeeded",
        ];
        assert_eq!(kinds, expected);
    })
    .await;
}

#[tokio::test]
async fn the_same_check_in_twice_gives_the_same_answer_and_changes_nothing() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let first = story.device.check_in(&server).await;
        let events = server.history("ESP32-001").await;
        let second = story.device.check_in(&server).await;
        assert_eq!(first, second);
        assert_eq!(server.history("ESP32-001").await, events);
    })
    .await;
}

#[tokio::test]
async fn an_attempt_never_goes_backwards() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let order = story.device.check_in(&server).await.install();
        story
            .device
            .reports(&server, order, Phase::Downloaded, 100)
            .await;
        story
            .device
            .reports(&server, order, Phase::Downloading, 50)
            .await;
        assert_eq!(
            server.attempt_state("ESP32-001").await,
            AttemptState::Downloaded
        );
    })
    .await;
}

#[tokio::test]
async fn progress_never_passes_100_percent() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let order = story.device.check_in(&server).await.install();
        story
            .device
            .reports(&server, order, Phase::Downloading, u32::MAX)
            .await;
        let attempt = server
            .show_device("ESP32-001")
            .await
            .attempt
            .expect("an attempt");
        assert_eq!(
            (attempt.percent, attempt.bytes_done),
            (100, attempt.bytes_total)
        );
    })
    .await;
}

/// Bug museum 11: the seed's server offered the bad version again and the device went to and fro.
#[tokio::test]
async fn rolled_back_release_not_reoffered() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        story.device.updates_to(&server, &story.new).await;
        let request = json!({"to": ["ESP32-001"], "reason": "too warm"});
        server.post("/api/v1/rollbacks", request).await;
        story.device.check_in(&server).await.rollback();
        story.device.boots(&story.old, true);
        assert_eq!(story.device.check_in(&server).await.order, None);
        // Neither the old rollout, nor a retry of it, nor a new one.
        let retry = format!("/api/v1/rollouts/r-{}/retry", story.rollout.id);
        server.post(&retry, json!({})).await;
        assert_eq!(story.device.check_in(&server).await.order, None);
        server
            .rollout(json!({"release": "1.0.6", "to": ["ESP32-001"]}))
            .await;
        assert_eq!(story.device.check_in(&server).await.order, None);
        let device = server.show_device("ESP32-001").await;
        assert_eq!(device.blocked, ["1.0.6"]);
        // Unless the operator says so.
        let unblock = json!({"release": "1.0.6"});
        server
            .post("/api/v1/devices/ESP32-001/unblock", unblock)
            .await;
        server
            .rollout(json!({"release": "1.0.6", "to": ["ESP32-001"]}))
            .await;
        story.device.check_in(&server).await.install();
    })
    .await;
}

/// Bug museum 12: the seed's device writes its version file before it reboots.
#[tokio::test]
async fn version_file_lie_is_detected() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let order = story.device.check_in(&server).await.install();
        story
            .device
            .reports(&server, order, Phase::Installing, 0)
            .await;
        story.device.progress = None;
        story.device.version = "1.0.6".to_owned();
        story.device.check_in(&server).await;
        let device = server.show_device("ESP32-001").await;
        assert_eq!(
            device.warning.as_deref(),
            Some("reports 1.0.6 but runs the 1.0.5 image")
        );
        assert_eq!(
            device.version.as_deref(),
            Some("1.0.5"),
            "what runs, not what is claimed"
        );
        let attempt = device.attempt.expect("an attempt");
        assert_eq!(attempt.state, AttemptState::Failed(FailureCode::VersionLie));
        assert!(
            attempt
                .explanation
                .expect("told")
                .contains("runs another image")
        );
    })
    .await;
}

/// Bug museum 17, the server's side: whatever the device manages to say about a boot loop.
#[tokio::test]
async fn boot_loop_ends_in_old_version_and_is_reported() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let order = story.device.check_in(&server).await.install();
        story
            .device
            .reports(&server, order, Phase::Installing, 0)
            .await;
        story.device.other = Some(story.new.clone());
        story.device.other_rejected = true;
        let told = story
            .device
            .ends(&server, order, End::RolledBackBoot, FailureCode::CrashLoop)
            .await;
        assert_eq!(told.order, None, "not offered again");
        let device = server.show_device("ESP32-001").await;
        assert_eq!(device.version.as_deref(), Some("1.0.5"));
        assert_eq!(device.blocked, ["1.0.6"]);
        let attempt = device.attempt.expect("an attempt");
        assert_eq!(attempt.state, rolled_back(RollbackCause::Boot));
        assert!(
            attempt
                .explanation
                .expect("told")
                .contains("reset: panic or exception")
        );
        assert_eq!(
            server
                .show_rollout(story.rollout.id)
                .await
                .rollout
                .counts
                .rolled_back,
            1
        );
    })
    .await;
}

#[tokio::test]
async fn a_silent_return_from_trial_is_a_boot_rollback() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let order = story.device.check_in(&server).await.install();
        story
            .device
            .reports(&server, order, Phase::Installing, 0)
            .await;
        let mut old = story.device.clone();
        story.device.boots(&story.new, false);
        story.device.check_in(&server).await;
        old.progress = None;
        assert_eq!(old.check_in(&server).await.order, None);
        assert_eq!(
            server.attempt_state("ESP32-001").await,
            rolled_back(RollbackCause::Boot)
        );
    })
    .await;
}

#[tokio::test]
async fn a_rejected_slot_proves_a_boot_rollback_without_a_word() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let order = story.device.check_in(&server).await.install();
        story
            .device
            .reports(&server, order, Phase::Installing, 0)
            .await;
        story.device.progress = None;
        story.device.other = Some(story.new.clone());
        story.device.other_rejected = true;
        assert_eq!(story.device.check_in(&server).await.order, None);
        assert_eq!(
            server.attempt_state("ESP32-001").await,
            rolled_back(RollbackCause::Boot)
        );
    })
    .await;
}

/// The power may fail between the report "installing" and the switch: a good release must not be
/// blocked for that. A device that comes back a second time without a word is another matter.
#[tokio::test]
async fn a_power_cut_while_installing_costs_one_more_try() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let order = story.device.check_in(&server).await.install();
        story
            .device
            .reports(&server, order, Phase::Installing, 0)
            .await;
        story.device.progress = None;
        for _ in 0..5 {
            assert_eq!(story.device.check_in(&server).await.install(), order);
        }
        assert_eq!(
            server.attempt_state("ESP32-001").await,
            AttemptState::Installing
        );
        story
            .device
            .reports(&server, order, Phase::Installing, 0)
            .await;
        story.device.progress = None;
        assert_eq!(story.device.check_in(&server).await.order, None);
        assert_eq!(
            server.attempt_state("ESP32-001").await,
            rolled_back(RollbackCause::Boot)
        );
    })
    .await;
}

#[tokio::test]
async fn a_health_rollback_blocks_the_release_too() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let order = story.device.check_in(&server).await.install();
        let (end, code) = (End::RolledBackHealth, FailureCode::NotConfirmed);
        assert_eq!(
            story.device.ends(&server, order, end, code).await.order,
            None
        );
        assert_eq!(
            server.attempt_state("ESP32-001").await,
            rolled_back(RollbackCause::Health)
        );
        assert_eq!(server.show_device("ESP32-001").await.blocked, ["1.0.6"]);
    })
    .await;
}

#[tokio::test]
async fn a_failed_attempt_is_not_offered_again_until_it_is_retried() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let order = story.device.check_in(&server).await.install();
        let told = story
            .device
            .ends(&server, order, End::Failed, FailureCode::HashMismatch)
            .await;
        assert_eq!(told.order, None);
        assert_eq!(story.device.check_in(&server).await.order, None);
        let retry = format!("/api/v1/rollouts/{}/retry", story.rollout.id);
        server.post(&retry, json!({})).await;
        let again = story.device.check_in(&server).await.install();
        assert_ne!(again, order, "a new attempt has a new number");
        // The old outcome, sent again because its acknowledgement was lost, changes nothing.
        story.device.outcome = Some((order, End::Failed, FailureCode::HashMismatch, ""));
        let told = story.device.check_in(&server).await;
        assert_eq!((told.acknowledged, told.install()), (Some(order), again));
    })
    .await;
}

#[tokio::test]
async fn a_download_resumes_at_the_longest_prefix_that_is_proven() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let claim = |bytes: usize| {
            let digest: [u8; 32] = sha2::Sha256::digest(&story.new.bytes[16..bytes]).into();
            Held {
                bytes: bytes as u32,
                digest: digest[..8].try_into().expect("eight"),
            }
        };
        let lie = Held {
            bytes: 40_960,
            digest: [7; 8],
        };
        story.device.held = vec![claim(4096), claim(20_480), lie];
        let told = story.device.check_in(&server).await;
        let Some(Ordered::Install { resume_from, .. }) = told.order else {
            panic!("no install order: {told:?}")
        };
        assert_eq!(resume_from, 20_480);
    })
    .await;
}

#[tokio::test]
async fn a_newer_rollout_takes_the_device_over() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let first = story.device.check_in(&server).await.install();
        story
            .device
            .reports(&server, first, Phase::Downloading, 100)
            .await;
        let newer = Image::new("1.0.7");
        server.release(&newer).await;
        server
            .rollout(json!({"release": "1.0.7", "to": ["ESP32-001"]}))
            .await;
        let second = story.device.check_in(&server).await.install();
        assert_ne!(first, second);
        let detail = server.show_rollout(story.rollout.id).await;
        assert_eq!(detail.attempts[0].state, AttemptState::Superseded);
        // The device had not heard: its word about the old order changes nothing.
        let told = story
            .device
            .reports(&server, first, Phase::Downloaded, 100)
            .await;
        assert_eq!(told.install(), second);
    })
    .await;
}

#[tokio::test]
async fn an_older_rollout_is_never_a_downgrade() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let newer = Image::new("1.0.7");
        server.release(&newer).await;
        server
            .rollout(json!({"release": "1.0.7", "to": ["ESP32-001"]}))
            .await;
        story.device.updates_to(&server, &newer).await;
        assert_eq!(story.device.check_in(&server).await.order, None);
        // Not even where the newer one went wrong on this device.
        let mut other = TestDevice::running("ESP32-002", &story.old);
        server
            .rollout(json!({"release": "1.0.7", "to": ["ESP32-002"]}))
            .await;
        let order = other.check_in(&server).await.install();
        let told = other
            .ends(&server, order, End::RolledBackBoot, FailureCode::CrashLoop)
            .await;
        assert_eq!(told.order, None);
    })
    .await;
}

#[tokio::test]
async fn what_does_not_fit_is_left_out_with_the_reason() {
    each_database(async |server| {
        let story = Story::begin(&server).await;
        let mut wrong_chip = TestDevice::running("wrong-chip", &story.old);
        wrong_chip.chip = fota_image::app::Chip::Esp32S3;
        let mut wrong_project = TestDevice::running("wrong-project", &story.old);
        wrong_project.project = "kettle".to_owned();
        let mut small = TestDevice::running("small", &story.old);
        small.slot_bytes = 4096;
        let mut done = TestDevice::running("done", &story.new);
        for (device, reason) in [
            (&mut wrong_chip, SkipReason::IncompatibleChip),
            (&mut wrong_project, SkipReason::IncompatibleProduct),
            (&mut small, SkipReason::NoSpace),
            (&mut done, SkipReason::AlreadyInstalled),
        ] {
            assert_eq!(device.check_in(&server).await.order, None);
            let state = server.attempt_state(&device.id).await;
            assert_eq!(state, AttemptState::Skipped(reason), "{}", device.id);
        }
        assert_eq!(
            server
                .show_rollout(story.rollout.id)
                .await
                .rollout
                .counts
                .skipped,
            4
        );
    })
    .await;
}

#[tokio::test]
async fn a_product_change_must_be_asked_for() {
    each_database(async |server| {
        let story = Story::begin(&server).await;
        let mut device = TestDevice::running("kettle-1", &story.old);
        device.project = "kettle".to_owned();
        let request = json!({"release": "1.0.6", "to": ["kettle-1"], "allow_product_change": true});
        server.rollout(request).await;
        device.check_in(&server).await.install();
    })
    .await;
}

#[tokio::test]
async fn a_yanked_release_is_withdrawn_from_a_download() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let order = story.device.check_in(&server).await.install();
        let yank = format!("/api/v1/releases/{}/yank", story.release.id);
        server.post(&yank, json!({"reason": "burns toast"})).await;
        let told = story
            .device
            .reports(&server, order, Phase::Downloading, 4096)
            .await;
        assert_eq!(told.order, Some(Ordered::Cancel { id: order }));
        assert_eq!(
            server.attempt_state("ESP32-001").await,
            AttemptState::Aborted
        );
    })
    .await;
}

#[tokio::test]
async fn a_device_that_says_nothing_new_is_answered_from_memory_and_seen_all_the_same() {
    each_database(async |server| {
        let image = Image::new("1.0.5");
        let mut device = TestDevice::running("ESP32-001", &image);
        let told = device.check_in(&server).await;
        assert_eq!((told.order, told.retry_after_s), (None, 60));
        server.clock.advance_ms(1000 * 1000);
        let seen = server.show_device("ESP32-001").await;
        assert_eq!(seen.presence, fota_proto::manager::Presence::Offline);
        device.check_in(&server).await;
        let seen = server.show_device("ESP32-001").await;
        assert_eq!(seen.presence, fota_proto::manager::Presence::Online);
        assert_eq!(seen.last_seen, NOON + 1000 * 1000);
        assert_eq!(seen.first_seen, NOON);
    })
    .await;
}

/// Bug museum 10: in the seed such a device is booked under another's name.
#[tokio::test]
async fn a_check_in_without_an_id_is_refused_by_name() {
    each_database(async |server| {
        let image = Image::new("1.0.5");
        for id in ["", "all", "../../etc/passwd", "a b"] {
            let reply = post_cbor(&server, TestDevice::running(id, &image).message()).await;
            let (code, field, _) = reply.problem(400);
            assert_eq!(
                (code.as_str(), field.as_deref()),
                ("field_invalid", Some("device"))
            );
        }
        let page = server.get("/api/v1/devices").await.json();
        assert_eq!(page["items"], json!([]));
    })
    .await;
}
