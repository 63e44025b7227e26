//! What a download costs in bytes and requests, recorded from real devices and a real server.

use std::time::Duration;

use fota_sim::{
    board::factory_flash,
    firmware::Spec,
    link::SimLink,
    transfer::{Pace, record_native},
};

use crate::{
    signed::{bundle, key, root},
    world::{IMAGE_BYTES, World, build, image},
};

#[tokio::test]
async fn native_path_sends_at_most_1_02_of_the_image() {
    let world = World::start().await;
    let releaser = key(2);
    let root = root(&world, 1, &releaser).await;
    let added = world.client.add_root(root.clone().into()).await;
    added.expect("taken");
    let release = world.upload(&bundle(&image("1.0.6"), 6, &releaser)).await;
    world.roll_out(&release, 300).await;
    let factory = factory_flash(&build(&Spec::new("1.0.5"))).expect("fits");
    let id = "d1".parse().expect("an id");
    let bytes = IMAGE_BYTES as u32;
    let trace = record_native(world.address, id, root.into(), factory, bytes).await;
    let trace = trace.expect("recorded");
    assert_eq!(trace.image_requests(), 1, "one stream, no ranges");
    let pace = Pace {
        per_report: Duration::from_secs(5),
        reports_max: 20,
        ..Pace::default()
    };
    for link in SimLink::ALL {
        let cost = trace.replay(link, pace);
        let ratio = cost.body_bytes as f64 / IMAGE_BYTES as f64;
        assert!((1.0..=1.02).contains(&ratio), "{}: {ratio}", link.name);
    }
}
