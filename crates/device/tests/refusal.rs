//! What the device does not take, and what it says about it.

mod common;

use common::{
    IMAGE_BYTES, SLOT_BYTES, bench, exchange, firmware, order_install, runs, spec, updater,
};
use fota_device::{AnswerError, CHECK_IN_BYTES_MAX, Next, ProveError, ReceiveError};
use fota_image::{app::Chip, build::ImageBuilder};
use fota_proto::{
    FailureCode,
    checkin::{CheckIn, End},
};
use fota_sim::{
    firmware::{Behaviour, image},
    scripted::{Artifact, Ask, ScriptedServer},
};

fn refused(artifact: &Artifact) -> (End, FailureCode, String) {
    let mut bench = bench(false);
    let ops = bench.flash.ops();
    let server = ScriptedServer::new(3, Ask::Install(artifact.clone()));
    let mut updater = updater(&mut bench);
    assert_eq!(exchange(&mut updater, &server, |_| ()).0, Next::CheckIn);
    let (next, seen) = exchange(&mut updater, &server, |request| {
        let outcome = request.outcome.as_ref().unwrap();
        let detail = outcome.detail.unwrap().to_string();
        (outcome.end, FailureCode::from_number(outcome.code), detail)
    });
    assert!(matches!(next, Next::Wait { .. }));
    assert_eq!(bench.flash.ops(), ops, "nothing was written");
    seen
}

#[test]
fn an_image_larger_than_the_slot_is_refused_before_its_first_byte() {
    let spec = spec("2.0.0", Behaviour::Works).image_bytes(SLOT_BYTES as usize + 16);
    let (end, code, detail) = refused(&Artifact::new(image(&spec).unwrap()));
    assert_eq!((end, code), (End::Refused, FailureCode::NoSpace));
    assert_eq!(detail, "image is 262,160 bytes; slot ota_1 holds 262,144");
}

#[test]
fn an_image_for_another_chip_is_refused_before_its_first_byte() {
    let image = ImageBuilder::new(Chip::Esp32C3).build().unwrap();
    let (end, code, detail) = refused(&Artifact::new(image));
    assert_eq!((end, code), (End::Refused, FailureCode::WrongChip));
    assert_eq!(detail, "image is for chip id 0x0005, this is 0x0000");
}

#[test]
fn what_is_no_image_is_refused_before_its_first_byte() {
    let (end, code, detail) = refused(&Artifact::new(vec![0x55; 10_240]));
    assert_eq!((end, code), (End::Refused, FailureCode::ImageInvalid));
    assert_eq!(detail, "image begins with 0x55, an app image with 0xe9");
    let (_, code, _) = refused(&Artifact::new(vec![0xe9; 100]));
    assert_eq!(code, FailureCode::ImageInvalid);
    let (_, code, _) = refused(&Artifact::new(Vec::new()));
    assert_eq!(code, FailureCode::ImageInvalid);
}

/// The device proves what it was told to take; this is what the proof refuses.
fn unproven(artifact: &Artifact) -> (FailureCode, String) {
    let mut bench = bench(false);
    let server = ScriptedServer::new(3, Ask::Install(artifact.clone()));
    let mut updater = updater(&mut bench);
    exchange(&mut updater, &server, |_| ());
    updater.receive(artifact.bytes()).unwrap();
    let ProveError::Failed(code) = updater.prove().unwrap_err() else {
        panic!("the order has ended");
    };
    assert_eq!(updater.next(), Next::CheckIn);
    let (_, detail) = exchange(&mut updater, &server, |request| {
        let outcome = request.outcome.as_ref().unwrap();
        assert_eq!((outcome.end, outcome.code), (End::Failed, code.number()));
        outcome.detail.unwrap().to_string()
    });
    assert_eq!(runs(&bench), "1.0.0");
    let head = bench
        .flash
        .bytes(common::SLOTS[1]..common::SLOTS[1] + 16)
        .unwrap();
    assert_eq!(head, [0xff; 16], "its head was never programmed");
    (code, detail)
}

#[test]
fn a_truncated_image_is_never_bootable() {
    let mut bytes = firmware("2.0.0", Behaviour::Works).bytes().to_vec();
    bytes.truncate(100_000);
    let (code, detail) = unproven(&Artifact::new(bytes));
    assert_eq!(code, FailureCode::ImageInvalid);
    assert_eq!(
        detail,
        "truncated ESP image: 100,000 of 150,000 bytes; transfer it again"
    );
}

#[test]
fn an_image_for_another_chip_revision_is_never_bootable() {
    let image = ImageBuilder::new(Chip::Esp32).min_rev(301).build().unwrap();
    assert_eq!(
        unproven(&Artifact::new(image)).0,
        FailureCode::WrongRevision
    );
    let image = ImageBuilder::new(Chip::Esp32).max_rev(299).build().unwrap();
    assert_eq!(
        unproven(&Artifact::new(image)).0,
        FailureCode::WrongRevision
    );
}

#[test]
fn an_image_with_another_elf_digest_is_never_bootable() {
    let mut artifact = firmware("2.0.0", Behaviour::Works);
    artifact.elf.0[0] ^= 1;
    assert_eq!(unproven(&artifact).0, FailureCode::ImageInvalid);
}

#[test]
fn an_image_with_a_damaged_hash_is_never_bootable() {
    let artifact = firmware("2.0.0", Behaviour::Works);
    for at in [20_000, IMAGE_BYTES - 1, IMAGE_BYTES - 33] {
        let mut bytes = artifact.bytes().to_vec();
        bytes[at] ^= 1;
        let damaged = Artifact::new(bytes);
        assert_eq!(unproven(&damaged).0, FailureCode::ImageInvalid, "{at}");
    }
}

#[test]
fn other_bytes_than_the_ordered_ones_are_never_bootable() {
    let artifact = firmware("2.0.0", Behaviour::Works);
    let other = firmware("3.0.0", Behaviour::Works);
    let mut bench = bench(true);
    order_install(&mut bench, 3, &artifact);
    let server = bench.server.clone();
    let mut updater = updater(&mut bench);
    exchange(&mut updater, &server, |_| ());
    updater.receive(other.bytes()).unwrap();
    let error = ProveError::Failed(FailureCode::HashMismatch);
    assert_eq!(updater.prove().unwrap_err(), error);
    assert_eq!(runs(&bench), "1.0.0");
}

#[test]
fn a_body_that_is_too_long_is_not_taken() {
    let artifact = firmware("2.0.0", Behaviour::Works);
    let mut bench = bench(false);
    let server = ScriptedServer::new(3, Ask::Install(artifact.clone()));
    let mut updater = updater(&mut bench);
    assert_eq!(updater.receive(&[1]), Err(ReceiveError::NotDownloading));
    exchange(&mut updater, &server, |_| ());
    let (most, rest) = artifact.bytes().split_at(IMAGE_BYTES - 10);
    updater.receive(most).unwrap();
    assert_eq!(
        updater.receive(&[0; 11]),
        Err(ReceiveError::TooMany { surplus: 1 })
    );
    updater.receive(rest).unwrap();
    assert_eq!(updater.receive(&[]), Ok(()));
    assert_eq!(
        updater.receive(&[0]),
        Err(ReceiveError::TooMany { surplus: 1 })
    );
    assert!(updater.prove().is_ok());
}

#[test]
fn an_answer_is_only_taken_for_the_last_check_in() {
    let mut bench = bench(false);
    let server = ScriptedServer::new(3, Ask::Install(firmware("2.0.0", Behaviour::Works)));
    let mut updater = updater(&mut bench);
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    let mut answer = |updater: &mut fota_device::Updater<'_, _>, nonce| {
        let request = updater.check_in(nonce, 1, &mut buffer);
        server.answer(&minicbor::decode::<CheckIn>(request).unwrap())
    };
    let first = answer(&mut updater, 1);
    assert_eq!(updater.answer(&[]), Err(AnswerError::Malformed));
    assert_eq!(
        updater.answer(&first[..first.len() - 1]),
        Err(AnswerError::Malformed)
    );
    let second = answer(&mut updater, 2);
    assert_eq!(updater.answer(&first), Err(AnswerError::Nonce));
    assert!(matches!(updater.answer(&second), Ok(Next::Download(_))));
    assert_eq!(updater.answer(&second), Err(AnswerError::Nonce), "a replay");
}

#[test]
fn any_answer_is_survived() {
    let mut bench = bench(false);
    let server = ScriptedServer::new(3, Ask::Install(firmware("2.0.0", Behaviour::Works)));
    let mut updater = updater(&mut bench);
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    let request = updater.check_in(9, 1, &mut buffer);
    let good = server.answer(&minicbor::decode::<CheckIn>(request).unwrap());
    for at in 0..good.len() {
        for bit in 0..8 {
            updater.check_in(9, 1, &mut buffer);
            let mut damaged = good.clone();
            damaged[at] ^= 1 << bit;
            let _ = updater.answer(&damaged);
        }
    }
    drop(updater);
    assert_eq!(runs(&bench), "1.0.0");
}
