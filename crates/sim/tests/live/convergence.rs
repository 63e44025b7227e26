use std::time::Duration;

use fota_proto::{AttemptState, manager::RolloutState};
use fota_sim::link::{Fault, SimLink};

use crate::world::{IMAGE_BYTES, World, config, device, image};

/// What goes wrong on device `number`, by position in the image.
fn faults(number: u64) -> Vec<Fault> {
    let at = |percent: u64| IMAGE_BYTES as u64 * percent / 100;
    let cut = |percent| Fault::Cut {
        at: at(percent),
        offline: Duration::from_secs(2),
    };
    let stall = |percent| Fault::Stall {
        at: at(percent),
        delay: Duration::from_secs(3),
    };
    match number % 4 {
        0 => vec![],
        1 => vec![cut(number * 7)],
        2 => vec![cut(10), cut(20), cut(90), stall(95)],
        _ => vec![stall(number * 5), cut(99)],
    }
}

/// Twelve devices with broken links, half of them with a bootloader that does not roll back, and a
/// server that is killed once on the way: all end on the new release.
#[tokio::test]
async fn twelve_devices_with_faults_converge() {
    let mut world = World::start().await;
    let release = world.upload(&image("1.0.6")).await;
    let rollout = world.roll_out(&release, 300).await;
    let mut lives = tokio::task::JoinSet::new();
    let mut boards = Vec::new();
    for number in 1..=12 {
        let link = SimLink::new("test", 1_500_000, 20).live(10.0);
        let link = link.with_faults(faults(number));
        let id = format!("ESP32-{number:03}");
        let device = device(&world.url(), config(&id), link, number % 2 == 0);
        boards.push(device.board().clone());
        lives.spawn(device.run());
    }
    world
        .until("the first success", async |world| {
            let detail = world.client.rollout(rollout).await.ok()?;
            (detail.rollout.counts.succeeded > 0).then_some(())
        })
        .await;
    world.kill();
    world.revive().await;
    let detail = world
        .until("everybody's end", async |world| {
            let detail = world.client.rollout(rollout).await.ok()?;
            (detail.rollout.state == RolloutState::Complete).then_some(detail)
        })
        .await;
    assert_eq!(detail.rollout.counts.succeeded, 12);
    let states: Vec<_> = detail
        .attempts
        .iter()
        .map(|attempt| attempt.state)
        .collect();
    assert_eq!(states, [AttemptState::Succeeded; 12]);
    for board in boards {
        assert_eq!(board.flash().with(|flash| flash.violations()), 0);
    }
}
