use std::time::Duration;

use fota_image::app::Chip;
use fota_proto::{AttemptState, RollbackCause, Sha256};
use fota_sim::{
    board::Board,
    console::Console,
    firmware::{Behaviour, Spec},
    link::SimLink,
};
use sha2::Digest;

use crate::world::{
    IMAGE_BYTES, World, build, config, device, device_saying, fast_link, image, said,
};

/// SHA-256 of the first bytes of a slot.
fn slot_digest(board: &Board, slot: usize, image_bytes: usize) -> Sha256 {
    let region = Board::slots()[slot];
    let range = region.offset..region.offset + image_bytes as u32;
    let bytes = board
        .flash()
        .with(|flash| flash.bytes(range))
        .expect("inside");
    Sha256(sha2::Sha256::digest(bytes).into())
}

#[tokio::test]
async fn upload_during_a_download_does_not_mix_images() {
    let world = World::start().await;
    let first = world.upload(&image("1.0.6")).await;
    world.roll_out(&first, 300).await;
    // About a second for an image, so that what follows happens in the middle of it.
    let link = SimLink::new("test", 1_000_000, 0).live(10.0);
    let device = device(&world.url(), config("d1"), link, true);
    let (board, counters) = (device.board().clone(), device.counters());
    let life = tokio::spawn(device.run());
    world
        .until("half of the download", async |_| {
            (counters.image_bytes() > IMAGE_BYTES as u64 / 2).then_some(())
        })
        .await;
    let second = world.upload(&image("1.0.7")).await;
    let third = world
        .upload(&build(&Spec::new("1.0.8").image_bytes(IMAGE_BYTES).seed(3)))
        .await;
    let rollout = world.roll_out(&second, 300).await;
    let attempt = world.attempt_ended(rollout, "d1").await;
    assert_eq!(
        attempt.state,
        AttemptState::Succeeded,
        "{:?}",
        attempt.explanation
    );
    let device = world.device("d1").await.expect("known");
    assert_eq!(
        device.elf_sha256, second.elf_sha256,
        "what runs is the second image"
    );
    let running = usize::from(device.slot.expect("a slot"));
    assert_eq!(
        slot_digest(&board, running, IMAGE_BYTES),
        second.sha256,
        "bit by bit"
    );
    let other = slot_digest(&board, 1 - running, IMAGE_BYTES);
    assert_ne!(other, third.sha256, "nobody rolled the third one out");
    assert_eq!(board.flash().with(|flash| flash.violations()), 0);
    life.abort();
}

async fn crashes(rollback: bool) {
    let world = World::start().await;
    let bad = Spec::new("1.0.6").behaviour(Behaviour::CrashesAtBoot);
    let release = world.upload(&build(&bad)).await;
    let rollout = world.roll_out(&release, 300).await;
    let device = device(&world.url(), config("d1"), fast_link(), rollback);
    let counters = device.counters();
    let life = tokio::spawn(device.run());
    let attempt = world.attempt_ended(rollout, "d1").await;
    assert_eq!(attempt.state, AttemptState::RolledBack(RollbackCause::Boot));
    let explanation = attempt.explanation.expect("a reason");
    assert!(explanation.contains("panic"), "{explanation}");
    let device = world.device("d1").await.expect("known");
    assert_eq!(device.version.as_deref(), Some("1.0.5"));
    assert_eq!(device.blocked, ["1.0.6"]);
    // It is not offered again: three more polls bring no download.
    let (downloads, check_ins) = (counters.downloads(), counters.check_ins());
    world
        .until("three more polls", async |_| {
            (counters.check_ins() >= check_ins + 3).then_some(())
        })
        .await;
    assert_eq!(counters.downloads(), downloads);
    life.abort();
}

#[tokio::test]
async fn boot_loop_ends_in_old_version_and_is_reported() {
    crashes(true).await;
    // Without the bootloader's help the updater's own mark ends it.
    crashes(false).await;
}

async fn goes_back_for_health(behaviour: Behaviour) {
    for rollback in [true, false] {
        let world = World::start().await;
        let bad = Spec::new("1.0.6").behaviour(behaviour.clone());
        let release = world.upload(&build(&bad)).await;
        let rollout = world.roll_out(&release, 8).await;
        let life = tokio::spawn(device(&world.url(), config("d1"), fast_link(), rollback).run());
        let attempt = world.attempt_ended(rollout, "d1").await;
        assert_eq!(
            attempt.state,
            AttemptState::RolledBack(RollbackCause::Health)
        );
        let explanation = attempt.explanation.expect("a reason");
        assert!(
            explanation.contains("unfit or missed its deadline"),
            "{explanation}"
        );
        let device = world.device("d1").await.expect("known");
        assert_eq!(device.version.as_deref(), Some("1.0.5"));
        life.abort();
    }
}

#[tokio::test]
async fn an_image_that_never_confirms_goes_back_at_its_deadline() {
    goes_back_for_health(Behaviour::NeverConfirms).await;
}

#[tokio::test]
async fn an_image_that_never_reaches_the_server_goes_back_at_its_deadline() {
    goes_back_for_health(Behaviour::NeverConnects).await;
}

#[tokio::test]
async fn an_image_that_finds_itself_unfit_goes_back() {
    goes_back_for_health(Behaviour::FailsSelfTest).await;
}

#[tokio::test]
async fn an_operator_order_brings_the_old_image_back_without_a_download() {
    let world = World::start().await;
    let release = world.upload(&image("1.0.6")).await;
    let rollout = world.roll_out(&release, 300).await;
    let device = device(&world.url(), config("d1"), fast_link(), true);
    let counters = device.counters();
    let life = tokio::spawn(device.run());
    world.attempt_ended(rollout, "d1").await;
    let downloads = counters.downloads();
    world.roll_back("d1").await;
    world
        .until("the old version", async |world| {
            let device = world.device("d1").await?;
            (device.version.as_deref() == Some("1.0.5")).then_some(())
        })
        .await;
    assert_eq!(counters.downloads(), downloads);
    life.abort();
}

#[tokio::test]
async fn a_version_text_that_lies_is_shown_next_to_what_runs() {
    let world = World::start().await;
    world.upload(&build(&Spec::new("9.9.9"))).await;
    let claims = "9.9.9".to_owned();
    let liar = Spec::new("1.0.6").behaviour(Behaviour::LiesAboutVersion { claims });
    let release = world.upload(&build(&liar)).await;
    world.roll_out(&release, 300).await;
    let life = tokio::spawn(device(&world.url(), config("d1"), fast_link(), true).run());
    let device = world
        .until("a warning", async |world| {
            world
                .device("d1")
                .await
                .filter(|device| device.warning.is_some())
        })
        .await;
    assert_eq!(device.elf_sha256, release.elf_sha256);
    let warning = device.warning.expect("a warning");
    assert!(
        warning.contains("9.9.9") && warning.contains("1.0.6"),
        "{warning}"
    );
    life.abort();
}

#[tokio::test]
async fn an_image_for_another_chip_is_not_offered() {
    let world = World::start().await;
    let other = Spec {
        chip: Chip::Esp32C3,
        ..Spec::new("1.0.6")
    };
    let release = world.upload(&build(&other)).await;
    let rollout = world.roll_out(&release, 300).await;
    let (console, lines) = Console::kept();
    let device = device_saying(&world.url(), config("d1"), fast_link(), true, console);
    let life = tokio::spawn(device.run());
    let attempt = world.attempt_ended(rollout, "d1").await;
    assert_eq!(attempt.state.to_string(), "skipped:incompatible_chip");
    assert!(!said(&lines, "download"));
    life.abort();
}

#[tokio::test]
async fn server_restart_mid_rollout_resumes() {
    let mut world = World::start().await;
    let release = world.upload(&image("1.0.6")).await;
    let rollout = world.roll_out(&release, 300).await;
    let mut counters = Vec::new();
    let mut lives = tokio::task::JoinSet::new();
    for id in ["d1", "d2", "d3", "d4"] {
        let link = SimLink::new("test", 800_000, 0).live(10.0);
        let device = device(&world.url(), config(id), link, true);
        counters.push(device.counters());
        lives.spawn(device.run());
    }
    let slowest = || {
        counters
            .iter()
            .map(|one| one.image_bytes())
            .min()
            .unwrap_or(0)
    };
    let third = IMAGE_BYTES as u64 / 3;
    world
        .until("a third of every download", async |_| {
            (slowest() > third).then_some(())
        })
        .await;
    world.kill();
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.revive().await;
    for id in ["d1", "d2", "d3", "d4"] {
        let attempt = world.attempt_ended(rollout, id).await;
        assert_eq!(
            attempt.state,
            AttemptState::Succeeded,
            "{id}: {:?}",
            attempt.explanation
        );
    }
    for one in &counters {
        let repeated = one.image_bytes() - IMAGE_BYTES as u64;
        assert_eq!(repeated, 0, "the link was lost, the power was not");
    }
}
