use std::time::Duration;

use fota_proto::{AttemptState, checkin::ResetReason};
use fota_sim::{
    link::{Fault, SimLink},
    transfer::{Exchange, Recorder},
};
use tokio::time::timeout;

use crate::world::{IMAGE_BYTES, World, config, device, image};

/// One 4 KiB sector may have been only partly written when the power went.
const REPEATED_BYTES_MAX: u64 = 4096;

/// Where the link is cut, in percent of the image.
const CUTS: [u64; 3] = [1, 40, 99];

/// One cut at `at`; gives the requests for the image as the server saw them, and how many image
/// bytes came over the link.
async fn cut_once(at: u64, reboot: bool) -> (Vec<Exchange>, u64) {
    let world = World::start().await;
    let release = world.upload(&image("1.0.6")).await;
    let rollout = world.roll_out(&release, 300).await;
    let recorder = Recorder::start(world.address).await.expect("a proxy");
    let offline = Duration::from_millis(500);
    let link = SimLink::new("test", 2_000_000, 0).live(10.0);
    let link = link.with_faults([Fault::Cut { at, offline }]);
    let url = format!("http://{}", recorder.address());
    let mut device = device(&url, config("d1"), link, true);
    let counters = device.counters();
    if reboot {
        // Power is lost a moment after the link: whatever was only in RAM is gone.
        let until_cut = async {
            while counters.lost_links() == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            _ = device.live_once() => panic!("restarted before the cut"),
            () = until_cut => {}
        }
    }
    let lives = async { while device.live_once().await.is_ok() {} };
    let attempt = tokio::select! {
        () = lives => panic!("does not boot"),
        attempt = world.attempt_ended(rollout, "d1") => attempt,
    };
    assert_eq!(
        attempt.state,
        AttemptState::Succeeded,
        "{:?}",
        attempt.explanation
    );
    assert_eq!(attempt.requests, 2, "the server's own count");
    let mut requests = recorder.take();
    requests.retain(|exchange| exchange.target.contains("/blobs/"));
    (requests, counters.image_bytes())
}

#[tokio::test]
async fn interrupted_download_resumes_at_offset() {
    for percent in CUTS {
        for reboot in [false, true] {
            let at = IMAGE_BYTES as u64 * percent / 100;
            let (requests, arrived) = cut_once(at, reboot).await;
            let [first, second] = &requests[..] else {
                panic!("{percent} %: {} requests", requests.len());
            };
            assert_eq!(first.range_start, 0);
            let repeated = at
                .checked_sub(second.range_start)
                .expect("nothing is skipped");
            let max = if reboot { REPEATED_BYTES_MAX } else { 0 };
            assert!(
                repeated <= max,
                "{percent} %, reboot {reboot}: {repeated} bytes repeated"
            );
            let rest = IMAGE_BYTES as u64 - second.range_start;
            assert_eq!(
                second.answer_body, rest,
                "the server sent the rest and no more"
            );
            assert_eq!(arrived, IMAGE_BYTES as u64 + repeated);
        }
    }
}

#[tokio::test]
async fn a_stalled_download_goes_on_in_the_same_request() {
    let world = World::start().await;
    let release = world.upload(&image("1.0.6")).await;
    let rollout = world.roll_out(&release, 300).await;
    let stall = Fault::Stall {
        at: 500_000,
        delay: Duration::from_secs(5),
    };
    let link = SimLink::NONE.live(10.0).with_faults([stall]);
    let device = device(&world.url(), config("d1"), link, true);
    let counters = device.counters();
    let life = tokio::spawn(device.run());
    let attempt = world.attempt_ended(rollout, "d1").await;
    assert_eq!(attempt.state, AttemptState::Succeeded);
    assert_eq!((counters.downloads(), counters.lost_links()), (1, 0));
    life.abort();
}

#[tokio::test]
async fn power_lost_before_the_first_check_in_of_a_trial_does_not_end_it() {
    let world = World::start().await;
    let release = world.upload(&image("1.0.6")).await;
    let rollout = world.roll_out(&release, 300).await;
    let mut device = device(&world.url(), config("d1"), SimLink::NONE.live(10.0), false);
    device
        .live_once()
        .await
        .expect("boots, downloads, restarts");
    // The new image starts, and loses power before it reaches the server.
    let start = timeout(Duration::from_millis(110), device.live_once()).await;
    drop(start);
    device.reset(ResetReason::PowerOn);
    let lives = async { while device.live_once().await.is_ok() {} };
    let attempt = tokio::select! {
        () = lives => panic!("does not boot"),
        attempt = world.attempt_ended(rollout, "d1") => attempt,
    };
    assert_eq!(
        attempt.state,
        AttemptState::Succeeded,
        "{:?}",
        attempt.explanation
    );
}
