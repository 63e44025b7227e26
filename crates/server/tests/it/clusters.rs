//! `GET /api/v1/rollouts/{id}/clusters` and `GET /api/v1/clusters`.

use fota_image::app::Chip;
use fota_proto::{FailureCode, checkin::End, notify::RolloutClusters};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::*;

async fn clusters(server: &Server, id: i64) -> RolloutClusters {
    let path = format!("/api/v1/rollouts/r-{id}/clusters");
    server.get(&path).await.value(StatusCode::OK)
}

#[tokio::test]
async fn what_the_failures_have_in_common_is_told() {
    each_database(async |server| {
        let (older, old, new) = (
            Image::new("1.0.4"),
            Image::new("1.0.5"),
            Image::new("1.0.6"),
        );
        server.release(&new).await;
        let rollout = server
            .rollout(json!({"release": "1.0.6", "to": ["all"]}))
            .await;
        let found = clusters(&server, rollout.id).await;
        assert_eq!(
            (found.devices, found.failed, found.clusters.len()),
            (0, 0, 0)
        );
        for number in 0..12 {
            let mut device = TestDevice::running(&format!("good-{number}"), &old);
            device.updates_to(&server, &new).await;
        }
        for number in 0..6 {
            let mut device = TestDevice::running(&format!("bad-{number}"), &older);
            let order = device.check_in(&server).await.install();
            device
                .ends(&server, order, End::Failed, FailureCode::HashMismatch)
                .await;
        }
        // Still under way, and left out: neither is looked at.
        TestDevice::running("slow", &older).check_in(&server).await;
        let mut other = TestDevice::running("other", &older);
        other.chip = Chip::Esp32S3;
        other.check_in(&server).await;
        let found = clusters(&server, rollout.id).await;
        assert_eq!((found.devices, found.failed, found.partial), (18, 6, false));
        assert_eq!(found.states[0].state, "failed:hash_mismatch");
        let [cluster] = &found.clusters[..] else {
            panic!("{found:?}");
        };
        assert_eq!(
            cluster.text,
            "6 of 6 devices coming from 1.0.4 failed with hash_mismatch (reset: panic); \
             elsewhere 0 of 12"
        );
        assert_eq!(
            (cluster.chip.as_deref(), cluster.reset.as_deref()),
            (None, Some("panic"))
        );
        assert!(
            cluster.score > 11.0 && cluster.score < 12.0,
            "{}",
            cluster.score
        );
    })
    .await;
}

#[tokio::test]
async fn a_weak_signal_is_told_over_all_rollouts_of_the_last_days() {
    each_database(async |server| {
        let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
        server.release(&new).await;
        let request = json!({"release": "1.0.6", "to": ["all"]});
        server.rollout(request).await;
        for number in 0..20 {
            let mut device = TestDevice::running(&format!("d{number}"), &old);
            let is_weak = number < 6;
            device.metrics = vec![("rssi", if is_weak { -91 } else { -55 })];
            if !is_weak {
                device.updates_to(&server, &new).await;
                continue;
            }
            let order = device.check_in(&server).await.install();
            device
                .ends(&server, order, End::Failed, FailureCode::NetTimeout)
                .await;
        }
        let recent = async || -> RolloutClusters {
            let reply = server.get("/api/v1/clusters?days=2").await;
            reply.value(StatusCode::OK)
        };
        let found = recent().await;
        assert_eq!(
            (found.rollout, found.days, found.failed),
            (None, Some(2), 6)
        );
        let text = &found.clusters[0].text;
        assert!(text.contains("6 of 6 devices with a weak signal"), "{text}");
        assert_eq!(found.clusters[0].signal.as_deref(), Some("weak"));
        server.clock.advance_ms(3 * 24 * 3_600_000);
        assert_eq!(recent().await.devices, 0, "that was three days ago");
    })
    .await;
}
