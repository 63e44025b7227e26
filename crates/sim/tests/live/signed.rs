//! The whole signed path: a maker's keys, the real server, devices that trust nobody else.

use std::sync::Arc;

use fota_proto::{
    AttemptState,
    list::List,
    log::LogHead,
    manager::{Release, RollbackRequest},
    signed::{
        Alg, Form, PublicKey, Role, Root,
        bundle::Bundle,
        sign::{P256Key, Signer, encode, sign},
    },
};
use fota_sim::{
    device::{DeviceConfig, SimTrust},
    signing::Maker,
};

use crate::world::{World, config, device, fast_link, image};

pub fn key(number: u8) -> P256Key {
    P256Key::new(&[number; 32]).expect("a valid secret")
}

/// A root of this version: one root key, one release key, the server's online key.
pub async fn root(world: &World, version: u32, releaser: &P256Key) -> Vec<u8> {
    let info = world.client.server().await.expect("answers");
    let online: Vec<u8> = (0..65)
        .map(|i| u8::from_str_radix(&info.online_key[2 * i..][..2], 16).expect("hex"))
        .collect();
    let online = PublicKey::new(Alg::Esp256, &online).expect("65 bytes");
    let own = key(1);
    let mut keys = List::new();
    for key in [own.public(), releaser.public(), online] {
        keys.push(key).expect("fits");
    }
    let roles = [0, 1, 2].map(|index| {
        let mut keys = List::new();
        keys.push(index).expect("fits");
        Role { threshold: 1, keys }
    });
    let root = Root::new(version, keys, roles).expect("consistent");
    sign(Form::Sign, &encode(&root).expect("fits"), &[&own]).expect("fits")
}

async fn upload(world: &World, version: &str, sequence: u32, releaser: &P256Key) -> Release {
    let bundle = bundle(&image(version), sequence, releaser);
    world.upload(&bundle).await
}

/// An image with its release of this sequence.
pub fn bundle(image: &[u8], sequence: u32, releaser: &P256Key) -> Vec<u8> {
    let signed = Maker::new(1).release_by(image, sequence, 1, releaser);
    let signed = signed.expect("an image");
    let bundle = Bundle {
        release: &signed.release,
        image,
    };
    [&bundle.head()[..], image].concat()
}

#[tokio::test]
async fn devices_take_signed_releases_from_root_to_root() {
    let world = World::start().await;
    let (first_releaser, second_releaser) = (key(2), key(3));
    let first = root(&world, 1, &first_releaser).await;
    world
        .client
        .add_root(first.clone().into())
        .await
        .expect("taken");
    let release = upload(&world, "1.0.6", 6, &first_releaser).await;
    let rollout = world.roll_out(&release, 300).await;
    let trusts = [
        ("built-in", SimTrust::Root(Arc::from(&first[..]))),
        ("first-use", SimTrust::FirstUse),
        ("anybody", SimTrust::Anybody),
    ];
    for (id, trust) in trusts.clone() {
        let config = DeviceConfig {
            trust,
            ..config(id)
        };
        tokio::spawn(device(&world.url(), config, fast_link(), true).run());
    }
    for (id, _) in &trusts {
        let ended = world.attempt_ended(rollout, id).await;
        assert_eq!(ended.state, AttemptState::Succeeded, "{id}: {ended:?}");
    }
    // They follow a rotation, and take what the new key has signed.
    let second = root(&world, 2, &second_releaser).await;
    world.client.add_root(second.into()).await.expect("follows");
    let release = upload(&world, "1.0.7", 7, &second_releaser).await;
    let rollout = world.roll_out(&release, 300).await;
    for (id, _) in &trusts {
        let ended = world.attempt_ended(rollout, id).await;
        assert_eq!(ended.state, AttemptState::Succeeded, "{id}: {ended:?}");
    }
    for id in ["built-in", "first-use"] {
        let shown = world
            .until("the newest root and log", async |world| {
                let shown = world.device(id).await?;
                (shown.log?.size == 2 && shown.root_version == Some(2)).then_some(shown)
            })
            .await;
        assert_eq!((shown.epoch, shown.warning), (Some(1), None));
    }
    let log = world.client.log_entries().await.expect("answers");
    assert_eq!(log.len(), 2);
    // The head that a device reports is the one that its entries make.
    let head = world.device("built-in").await.and_then(|device| device.log);
    let mut frontier = fota_proto::log::Frontier::default();
    log.iter().for_each(|entry| frontier.push(entry.digest));
    let head = head.map(|head| LogHead {
        size: head.size,
        root: head.root,
    });
    assert_eq!(head, Some(frontier.head()));
}

/// What came over USB is of epoch 0: an order back to it would be refused, and is not given.
#[tokio::test]
async fn nothing_below_the_epoch_is_ordered_back() {
    let world = World::start().await;
    let releaser = key(2);
    let first = root(&world, 1, &releaser).await;
    world.client.add_root(first.into()).await.expect("taken");
    let release = upload(&world, "1.0.6", 6, &releaser).await;
    let rollout = world.roll_out(&release, 300).await;
    let config = DeviceConfig {
        trust: SimTrust::FirstUse,
        ..config("ESP32-001")
    };
    tokio::spawn(device(&world.url(), config, fast_link(), true).run());
    world.attempt_ended(rollout, "ESP32-001").await;
    world
        .until("the epoch", async |world| {
            (world.device("ESP32-001").await?.epoch == Some(1)).then_some(())
        })
        .await;
    let request = RollbackRequest {
        to: vec!["ESP32-001".to_owned()],
        release: None,
        reason: "a test".to_owned(),
    };
    let accepted = world.client.roll_back(&request).await.expect("answers");
    assert_eq!(accepted.excluded[0].reason, "below_security_epoch");
}
