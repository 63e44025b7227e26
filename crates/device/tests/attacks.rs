//! What an attacker between the device and its server, or in the server's place, can try. The
//! device must stay on an authentic image every time, and take the right one afterwards.

mod common;

use common::*;
use fota_device::{
    AnswerError, CHECK_IN_BYTES_MAX, Next, ReceiveError, ReleaseError, RootError, Started, Trust,
    Updater, Workspace,
};
use fota_image::app::Chip;
use fota_proto::{
    FailureCode, Sha256,
    checkin::{Action, Answer, CheckIn, End},
    limits::CHUNK_BYTES,
    list::List,
    log::{self, Frontier, Inclusion, LogHead},
    signed::{Form, SignedError, index, sign::sign},
};
use fota_sim::{
    bench::{Bench, trust},
    firmware::{Behaviour, image},
    flash::SimFlash,
    scripted::{Artifact, Ask, ScriptedServer},
    signing::Maker,
};

const MAKER: u8 = 1;
const STRANGER: u8 = 9;

/// A device with a root in its firmware, and its maker.
fn device() -> (Bench, Maker) {
    let maker = Maker::new(MAKER);
    let mut bench = bench(true);
    bench.root = Some(maker.roots()[0].clone().into());
    bench.server = ScriptedServer::new(1, Ask::Nothing).signing(&maker);
    (bench, maker)
}

fn release(maker: &Maker, version: &str, sequence: u32) -> Artifact {
    let artifact = firmware(version, Behaviour::Works);
    artifact.signed(maker, sequence, 0).unwrap()
}

fn order(bench: &mut Bench, maker: &Maker, number: u64, artifact: &Artifact) {
    bench.server = ScriptedServer::new(number, Ask::Install(artifact.clone())).signing(maker);
}

/// Carries out an order until nothing is left to do.
fn run(bench: &mut Bench) {
    bench.run(6).unwrap();
}

/// An order that must be refused with this code, and nothing changes.
fn refused(bench: &mut Bench, code: FailureCode) {
    let before = runs(bench);
    bench.outcomes.clear();
    run(bench);
    assert_eq!(runs(bench), before);
    let codes: Vec<_> = bench.outcomes.iter().map(|seen| seen.code).collect();
    assert_eq!(codes.first(), Some(&code), "{codes:?}");
}

/// And then the right release goes through.
fn recovers(bench: &mut Bench, maker: &Maker) {
    order(bench, maker, 99, &release(maker, "9.0.0", 9));
    run(bench);
    assert_eq!(runs(bench), "9.0.0");
}

/// Starts the device and hands its updater to `act`.
fn with_updater<R>(
    bench: &mut Bench,
    act: impl FnOnce(&mut Updater<'_, &mut SimFlash>, &ScriptedServer) -> R,
) -> R {
    bench.flash.unprotect_all();
    let boot = bench.bootloader.boot(&mut bench.flash).unwrap();
    let info = bench.boot_info(&boot);
    let (root, mut workspace) = (bench.root.clone(), Box::new(Workspace::new()));
    let trust = trust(root.as_deref(), &mut workspace);
    let Started::Run(mut updater) = Updater::start(&mut bench.flash, info, trust).unwrap() else {
        panic!("given up");
    };
    act(&mut updater, &bench.server)
}

/// Asks for what to do with this nonce; gives the check-in and the answer.
fn ask(
    updater: &mut Updater<'_, &mut SimFlash>,
    server: &ScriptedServer,
    nonce: u64,
) -> (Vec<u8>, Vec<u8>) {
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    let request = updater.check_in(nonce, 1, &mut buffer).to_vec();
    let answer = server.answer(&minicbor::decode::<CheckIn>(&request).unwrap());
    (request, answer)
}

#[test]
fn a_signed_release_is_installed_and_an_order_without_one_is_not() {
    let (mut bench, maker) = device();
    order(&mut bench, &maker, 1, &firmware("2.0.0", Behaviour::Works));
    refused(&mut bench, FailureCode::NotSigned);
    recovers(&mut bench, &maker);
}

#[test]
fn an_arbitrary_image_is_refused() {
    let (mut bench, maker) = device();
    let stranger = Maker::new(STRANGER);
    let artifact = release(&stranger, "6.6.6", 6);
    order(&mut bench, &maker, 1, &artifact);
    refused(&mut bench, FailureCode::SignatureInvalid);
    recovers(&mut bench, &maker);
}

#[test]
fn a_downgrade_is_refused() {
    let (mut bench, maker) = device();
    order(&mut bench, &maker, 1, &release(&maker, "2.0.0", 20));
    run(&mut bench);
    assert_eq!(runs(&bench), "2.0.0");
    for (number, sequence) in [(2, 19), (3, 20)] {
        let version = format!("1.9.{number}");
        order(
            &mut bench,
            &maker,
            number,
            &release(&maker, &version, sequence),
        );
        refused(&mut bench, FailureCode::DowngradeRefused);
    }
    let newer = release(&maker, "2.0.1", 21);
    order(&mut bench, &maker, 4, &newer);
    run(&mut bench);
    assert_eq!(runs(&bench), "2.0.1");
}

#[test]
fn nothing_below_the_security_epoch_is_installed_or_gone_back_to() {
    let (mut bench, maker) = device();
    let second = firmware("2.0.0", Behaviour::Works);
    let second = second.signed(&maker, 20, 3).unwrap();
    order(&mut bench, &maker, 1, &second);
    run(&mut bench);
    assert_eq!(runs(&bench), "2.0.0");
    let third = firmware("3.0.0", Behaviour::Works);
    order(&mut bench, &maker, 2, &third.signed(&maker, 30, 2).unwrap());
    refused(&mut bench, FailureCode::AntiRollback);
    bench.server = ScriptedServer::new(3, Ask::Leave(second.elf)).signing(&maker);
    refused(&mut bench, FailureCode::AntiRollback);
    assert_eq!(runs(&bench), "2.0.0");
}

#[test]
fn a_replayed_answer_is_refused() {
    let (mut bench, maker) = device();
    order(&mut bench, &maker, 1, &release(&maker, "2.0.0", 2));
    with_updater(&mut bench, |updater, server| {
        let (_, old) = ask(updater, server, 1);
        let (_, new) = ask(updater, server, 2);
        assert_eq!(updater.answer(&old), Err(AnswerError::Nonce));
        assert!(matches!(
            updater.answer(&new),
            Ok(Next::FetchRelease { .. })
        ));
        // Nor is the same one taken twice.
        assert_eq!(updater.answer(&new), Err(AnswerError::Nonce));
    });
}

#[test]
fn another_devices_answer_is_refused() {
    let (mut bench, maker) = device();
    order(&mut bench, &maker, 1, &release(&maker, "2.0.0", 2));
    with_updater(&mut bench, |updater, server| {
        let (request, _) = ask(updater, server, 7);
        let request: CheckIn = minicbor::decode(&request).unwrap();
        let other = CheckIn {
            device: "ESP32-002",
            ..request
        };
        let answer = server.answer(&other);
        assert_eq!(updater.answer(&answer), Err(AnswerError::OtherDevice));
        assert_eq!(updater.next(), Next::CheckIn);
    });
}

#[test]
fn an_answer_of_nobody_is_refused_whole() {
    let (mut bench, maker) = device();
    order(&mut bench, &maker, 1, &release(&maker, "2.0.0", 2));
    with_updater(&mut bench, |updater, server| {
        // Unsigned; signed by a stranger; signed by the release key, which has another role.
        let (request, good) = ask(updater, server, 7);
        let request: CheckIn = minicbor::decode(&request).unwrap();
        let plain = ScriptedServer {
            maker: None,
            ..server.clone()
        };
        assert!(updater.answer(&plain.answer(&request)).is_err());
        let envelope = fota_proto::signed::Envelope::parse(&good).unwrap();
        let stranger = Maker::new(STRANGER);
        for signer in [stranger.online(), maker.releaser()] {
            let bad = sign(Form::Sign1, envelope.payload, &[signer]).unwrap();
            let error = updater.answer(&bad).unwrap_err();
            assert!(matches!(error, AnswerError::Untrusted(_)), "{error}");
        }
        let error = updater.answer(envelope.payload).unwrap_err();
        assert!(matches!(error, AnswerError::Untrusted(_)), "{error}");
        // The nonce is still open for the right one.
        assert!(updater.answer(&good).is_ok());
    });
}

#[test]
fn a_freeze_is_seen_without_a_clock() {
    let (mut bench, _) = device();
    with_updater(&mut bench, |updater, server| {
        let (_, first) = ask(updater, server, 1);
        updater.answer(&first).unwrap(); // "nothing for you", signed
        assert_eq!(updater.stale_s(1), Some(0));
        // From now on somebody plays back that answer, or is silent.
        for day in 1..10 {
            let mut buffer = [0; CHECK_IN_BYTES_MAX];
            let uptime_s = day * 86_400;
            let _ = updater.check_in(u64::from(day) + 1, uptime_s, &mut buffer);
            assert_eq!(updater.answer(&first), Err(AnswerError::Nonce));
        }
        assert_eq!(updater.stale_s(9 * 86_400), Some(9 * 86_400 - 1));
    });
}

#[test]
fn a_mix_of_two_releases_is_refused() {
    let (mut bench, maker) = device();
    let (second, third) = (release(&maker, "2.0.0", 2), release(&maker, "3.0.0", 3));
    // The order names one image, the signed release another.
    let mut mixed = second.clone();
    mixed.signed = third.signed.clone();
    order(&mut bench, &maker, 1, &mixed);
    refused(&mut bench, FailureCode::SignatureInvalid);
    // The artifact of another release: the first page is not the one that was signed.
    let mut swapped = second.clone();
    let signed = swapped.signed.as_mut().unwrap();
    signed.artifact = third.signed.unwrap().artifact;
    order(&mut bench, &maker, 2, &swapped);
    never_programs(&mut bench, |_| 0);
    recovers(&mut bench, &maker);
}

/// Downloads from the server as it is until the order ends, and checks how much was programmed.
fn never_programs(bench: &mut Bench, programmed: impl Fn(&Artifact) -> u32) {
    let Ask::Install(artifact) = bench.server.ask.clone() else {
        panic!("no order");
    };
    let mut code = None;
    with_updater(bench, |updater, server| {
        let (_, answer) = ask(updater, server, 1);
        let mut next = updater.answer(&answer).unwrap();
        for turn in 2.. {
            next = match next {
                Next::FetchRelease { release } => {
                    updater.release(artifact.blob(&release).unwrap()).unwrap()
                }
                Next::Download(part) => {
                    let blob = artifact.blob(&part.blob).unwrap();
                    let end = blob.len().min(part.to as usize);
                    let received = updater.receive(&blob[part.from as usize..end]);
                    let page_alone = part.to < blob.len() as u32;
                    if !page_alone {
                        let at = programmed(&artifact);
                        assert_eq!(received, Err(ReceiveError::NotAuthentic { at }));
                    }
                    updater.next()
                }
                Next::CheckIn => {
                    let (request, answer) = ask(updater, server, turn);
                    let request: CheckIn = minicbor::decode(&request).unwrap();
                    if let Some(outcome) = request.outcome {
                        code = Some(outcome.code);
                        break;
                    }
                    updater.answer(&answer).unwrap() // it asks where to go on
                }
                other => panic!("{other:?}"),
            };
        }
    });
    assert_eq!(code, Some(FailureCode::HashMismatch.number()));
}

/// A release whose artifact was changed on the way.
fn damaged(maker: &Maker, version: &str, sequence: u32, damage: impl Fn(&mut Vec<u8>)) -> Artifact {
    let mut artifact = release(maker, version, sequence);
    let signed = artifact.signed.as_mut().unwrap();
    let mut bytes = signed.artifact.to_vec();
    damage(&mut bytes);
    signed.artifact = bytes.into();
    artifact
}

#[test]
fn swapped_chunks_are_refused_before_they_are_programmed() {
    let (mut bench, maker) = device();
    let page = index::page_bytes(IMAGE_BYTES as u32, 0);
    let chunk = CHUNK_BYTES as usize;
    let artifact = damaged(&maker, "2.0.0", 2, |bytes| {
        let (third, fourth) = (page + 2 * chunk, page + 3 * chunk);
        for byte in 0..chunk {
            bytes.swap(third + byte, fourth + byte);
        }
    });
    order(&mut bench, &maker, 1, &artifact);
    never_programs(&mut bench, |_| 2 * CHUNK_BYTES);
    recovers(&mut bench, &maker);
}

#[test]
fn a_truncated_index_is_refused() {
    let (mut bench, maker) = device();
    let artifact = damaged(&maker, "2.0.0", 2, |bytes| drop(bytes.drain(16..32)));
    order(&mut bench, &maker, 1, &artifact);
    never_programs(&mut bench, |_| 0);
    recovers(&mut bench, &maker);
}

#[test]
fn one_flipped_bit_is_found_at_its_chunk() {
    let (mut bench, maker) = device();
    let page = index::page_bytes(IMAGE_BYTES as u32, 0);
    for number in [0, 1, IMAGE_BYTES as u32 / CHUNK_BYTES] {
        let at = page + (number * CHUNK_BYTES) as usize + 99;
        let artifact = damaged(&maker, "2.0.0", 2, |bytes| bytes[at] ^= 0x10);
        order(&mut bench, &maker, u64::from(number) + 1, &artifact);
        never_programs(&mut bench, |_| number * CHUNK_BYTES);
    }
    recovers(&mut bench, &maker);
}

#[test]
fn endless_data_is_cut_off() {
    let (mut bench, maker) = device();
    order(&mut bench, &maker, 1, &release(&maker, "2.0.0", 2));
    let Ask::Install(artifact) = bench.server.ask.clone() else {
        panic!("no order");
    };
    with_updater(&mut bench, |updater, server| {
        let (_, answer) = ask(updater, server, 1);
        let Next::FetchRelease { release } = updater.answer(&answer).unwrap() else {
            panic!("no release asked for");
        };
        // A release without end is no release, whatever it begins with.
        let mut endless = artifact.blob(&release).unwrap().to_vec();
        endless.resize(1 << 20, 0);
        assert_eq!(updater.release(&endless), Err(ReleaseError::OtherBytes));
        let next = updater.release(artifact.blob(&release).unwrap()).unwrap();
        let Next::Download(part) = next else {
            panic!("{next:?}");
        };
        let mut endless = artifact.blob(&part.blob).unwrap().to_vec();
        endless.resize(endless.len() + 50_000, 0xA5);
        let surplus = ReceiveError::TooMany { surplus: 50_000 };
        assert_eq!(updater.receive(&endless), Err(surplus));
        assert_eq!(updater.next(), Next::Prove);
    });
}

#[test]
fn a_release_for_another_chip_is_refused() {
    let (mut bench, maker) = device();
    let mut spec = spec("2.0.0", Behaviour::Works);
    spec.chip = Chip::Esp32S3;
    let artifact = Artifact::new(image(&spec).unwrap());
    let artifact = artifact.signed(&maker, 2, 0).unwrap();
    order(&mut bench, &maker, 1, &artifact);
    refused(&mut bench, FailureCode::WrongChip);
    recovers(&mut bench, &maker);
}

#[test]
fn a_release_of_another_product_is_refused() {
    let (mut bench, maker) = device();
    let mut spec = spec("2.0.0", Behaviour::Works);
    spec.project = "toaster".to_owned();
    let artifact = Artifact::new(image(&spec).unwrap());
    let artifact = artifact.signed(&maker, 2, 0).unwrap();
    order(&mut bench, &maker, 1, &artifact);
    refused(&mut bench, FailureCode::WrongProduct);
    recovers(&mut bench, &maker);
}

#[test]
fn replayed_or_reordered_chunks_are_refused() {
    let (mut bench, maker) = device();
    let page = index::page_bytes(IMAGE_BYTES as u32, 0);
    let chunk = CHUNK_BYTES as usize;
    // The second chunk is sent twice, and everything behind it comes one chunk late.
    let artifact = damaged(&maker, "2.0.0", 2, |bytes| {
        let second = bytes[page + chunk..page + 2 * chunk].to_vec();
        bytes.splice(page + 2 * chunk..page + 2 * chunk, second);
    });
    order(&mut bench, &maker, 1, &artifact);
    never_programs(&mut bench, |_| 2 * CHUNK_BYTES);
    recovers(&mut bench, &maker);
}

#[test]
fn roots_rotate_one_after_another_and_the_old_keys_are_out() {
    let (mut bench, first) = device();
    let second = first.rotated(2);
    let third = second.rotated(3);
    // The device has slept through the second root: it takes both, in order.
    order(&mut bench, &third, 1, &release(&third, "2.0.0", 2));
    run(&mut bench);
    assert_eq!(runs(&bench), "2.0.0");
    with_updater(&mut bench, |updater, _| {
        assert_eq!(updater.root_version(), Some(3), "kept over the restart");
        // Skipped, repeated and older roots change nothing.
        for root in third.roots() {
            let error = updater.root(root).unwrap_err();
            assert!(matches!(error, RootError::Untrusted(_)), "{error}");
        }
        let fork = second.rotated(7);
        assert!(
            updater.root(&fork.roots()[2]).is_err(),
            "third of another line"
        );
        assert_eq!(updater.root_version(), Some(3));
    });
    // Revoked: the release key of before signs nothing any more, for whichever server.
    let old = firmware("6.6.6", Behaviour::Works);
    let signed = first.release_by(old.bytes(), 66, 0, first.releaser());
    let mut artifact = old;
    artifact.signed = Some(signed.unwrap());
    order(&mut bench, &third, 2, &artifact);
    refused(&mut bench, FailureCode::SignatureInvalid);
    recovers(&mut bench, &third);
}

#[test]
fn a_root_without_the_old_threshold_is_refused() {
    let (mut bench, first) = device();
    let second = first.rotated(2);
    let envelope = fota_proto::signed::Envelope::parse(&second.roots()[1]).unwrap();
    with_updater(&mut bench, |updater, _| {
        // All signatures of the new keys and one of the old: one is missing.
        let mut short = envelope.clone();
        let mut signatures = fota_proto::list::List::new();
        for signature in envelope.signatures.iter().skip(1) {
            signatures.push(*signature).unwrap();
        }
        short.signatures = signatures;
        let mut buffer = [0; 1024];
        let bytes = fota_proto::checkin::encode(&short, &mut buffer).unwrap();
        let threshold = RootError::Untrusted(SignedError::Threshold {
            role: fota_proto::signed::RoleName::Root,
            found: 1,
            threshold: 2,
        });
        assert_eq!(updater.root(bytes), Err(threshold));
        assert_eq!(updater.root_version(), Some(1));
    });
}

#[test]
fn a_stolen_online_key_installs_nothing() {
    let (mut bench, maker) = device();
    // The thief answers as the server, signs as the server, and has an image of his own.
    let mine = firmware("6.6.6", Behaviour::Works);
    let signed = maker
        .release_by(mine.bytes(), 66, 9, maker.online())
        .unwrap();
    let mut artifact = mine;
    artifact.signed = Some(signed);
    order(&mut bench, &maker, 1, &artifact);
    refused(&mut bench, FailureCode::SignatureInvalid);
    recovers(&mut bench, &maker);
}

#[test]
fn a_stolen_release_key_is_rotated_out() {
    let (mut bench, maker) = device();
    let stolen = maker.clone();
    let safe = maker.rotated(4);
    // The owner's next answer carries the new root; from then on the thief's releases are nothing.
    bench.server = ScriptedServer::new(1, Ask::Nothing).signing(&safe);
    run(&mut bench);
    order(&mut bench, &safe, 2, &release(&stolen, "6.6.6", 66));
    refused(&mut bench, FailureCode::SignatureInvalid);
    // Nor does the thief's own server reach the device, with the old online key.
    let server = ScriptedServer::new(3, Ask::Install(release(&stolen, "6.6.6", 66)));
    bench.server = server.signing(&stolen);
    with_updater(&mut bench, |updater, server| {
        let (_, answer) = ask(updater, server, 5);
        let error = updater.answer(&answer).unwrap_err();
        assert!(matches!(error, AnswerError::Untrusted(_)), "{error}");
    });
    recovers(&mut bench, &safe);
}

#[test]
fn a_rollback_needs_a_signed_order() {
    let (mut bench, maker) = device();
    let second = release(&maker, "2.0.0", 2);
    order(&mut bench, &maker, 1, &second);
    run(&mut bench);
    let stranger = Maker::new(STRANGER);
    bench.server = ScriptedServer::new(2, Ask::Leave(second.elf)).signing(&stranger);
    with_updater(&mut bench, |updater, server| {
        let (_, answer) = ask(updater, server, 5);
        assert!(updater.answer(&answer).is_err());
    });
    assert_eq!(runs(&bench), "2.0.0");
    bench.server = ScriptedServer::new(2, Ask::Leave(second.elf)).signing(&maker);
    run(&mut bench);
    assert_eq!(runs(&bench), "1.0.0");
}

#[test]
fn the_first_root_that_is_seen_is_kept() {
    let (mut bench, maker) = device();
    let stranger = Maker::new(STRANGER);
    let mut workspace = Box::new(Workspace::new());
    for (server, version, other) in [(&maker, 0, None), (&stranger, 1, Some(()))] {
        bench.flash.unprotect_all();
        let boot = bench.bootloader.boot(&mut bench.flash).unwrap();
        let info = bench.boot_info(&boot);
        let trust = Trust::FirstUse(&mut workspace);
        let started = Updater::start(&mut bench.flash, info, trust).unwrap();
        let Started::Run(mut updater) = started else {
            panic!("given up");
        };
        assert_eq!(updater.root_version(), Some(version));
        let scripted = ScriptedServer::new(1, Ask::Nothing).signing(server);
        let (_, answer) = ask(&mut updater, &scripted, 1);
        match other {
            None => {
                let next = updater.answer(&answer).unwrap();
                assert_eq!(next, Next::FetchRoot { version: 1 });
                assert_eq!(updater.root(&server.roots()[0]).unwrap(), Next::CheckIn);
            }
            Some(()) => assert!(matches!(
                updater.answer(&answer),
                Err(AnswerError::Untrusted(_))
            )),
        }
    }
}

#[test]
fn nothing_is_signed_by_a_payload_that_merely_looks_right() {
    // A release signed by the online key in an answer's place, and the other way round.
    let (mut bench, maker) = device();
    let artifact = release(&maker, "2.0.0", 2);
    order(&mut bench, &maker, 1, &artifact);
    with_updater(&mut bench, |updater, server| {
        let (_, answer) = ask(updater, server, 5);
        let envelope = fota_proto::signed::Envelope::parse(&answer).unwrap();
        let parsed: Answer = minicbor::decode(envelope.payload).unwrap();
        assert!(matches!(
            parsed.order.map(|order| order.action),
            Some(Action::Install(_))
        ));
        let release = artifact.signed.as_ref().unwrap();
        assert!(updater.answer(&release.release).is_err());
        let elf = Sha256([0; 32]);
        assert_ne!(artifact.elf, elf);
        assert!(maker.online().public() != maker.releaser().public());
    });
    assert!(bench.outcomes.iter().all(|seen| seen.end != End::Failed));
}

/// The head of a log of these entries.
fn log_of(entries: &[Sha256]) -> LogHead {
    let mut log = Frontier::default();
    entries.iter().for_each(|entry| log.push(*entry));
    log.head()
}

fn encoded<T: minicbor::Encode<()>>(message: &T) -> Vec<u8> {
    let mut buffer = [0; 1024];
    fota_proto::checkin::encode(message, &mut buffer)
        .unwrap()
        .to_vec()
}

/// The proof that an entry of a log of two is there.
fn inclusion(index: u64, beside: Sha256) -> Vec<u8> {
    let mut path = List::new();
    path.push(log::leaf_hash(beside)).unwrap();
    encoded(&Inclusion { index, path })
}

/// Goes on with an order up to the question about the log.
fn asked_for_log(
    updater: &mut Updater<'_, &mut SimFlash>,
    server: &ScriptedServer,
    artifact: &Artifact,
    nonce: u64,
) -> Next {
    let (_, answer) = ask(updater, server, nonce);
    let Next::FetchRelease { release } = updater.answer(&answer).unwrap() else {
        panic!("no release asked for");
    };
    updater.release(artifact.blob(&release).unwrap()).unwrap()
}

#[test]
fn a_release_that_is_not_in_the_log_is_refused() {
    let (mut bench, maker) = device();
    let artifact = release(&maker, "2.0.0", 2);
    let (entry, other) = (artifact.signed.as_ref().unwrap().digest, Sha256([7; 32]));
    order(&mut bench, &maker, 1, &artifact);
    bench.server.log = Some(log_of(&[other, other]));
    with_updater(&mut bench, |updater, server| {
        let asked = Next::FetchLogProof {
            release: entry,
            size: 2,
        };
        assert_eq!(asked_for_log(updater, server, &artifact, 1), asked);
        assert_eq!(updater.log_proof(b"junk"), Err(ReleaseError::OtherBytes));
        assert_eq!(updater.next(), asked, "a broken proof is asked for again");
        let proof = inclusion(1, other);
        assert_eq!(updater.log_proof(&proof).unwrap(), Next::CheckIn);
        let (request, _) = ask(updater, server, 2);
        let request: CheckIn = minicbor::decode(&request).unwrap();
        let code = request.outcome.map(|outcome| outcome.code);
        assert_eq!(code, Some(FailureCode::NotLogged.number()));
    });
    // In the log, it goes through; and a server that showed a log cannot do without one.
    order(&mut bench, &maker, 2, &artifact);
    bench.server.log = Some(log_of(&[other, entry]));
    with_updater(&mut bench, |updater, server| {
        asked_for_log(updater, server, &artifact, 1);
        let next = updater.log_proof(&inclusion(1, other)).unwrap();
        assert!(matches!(next, Next::Download(_)), "{next:?}");
        let silent = ScriptedServer {
            order: 3,
            log: None,
            ..server.clone()
        };
        let next = asked_for_log(updater, &silent, &artifact, 2);
        assert_eq!(next, Next::CheckIn, "refused");
    });
}

#[test]
fn a_fork_of_the_log_is_noted_and_the_known_head_is_kept() {
    let (mut bench, maker) = device();
    let artifact = release(&maker, "2.0.0", 2);
    let (entry, other) = (artifact.signed.as_ref().unwrap().digest, Sha256([7; 32]));
    let known = log_of(&[other]);
    for (first, forked) in [(other, false), (Sha256([8; 32]), true)] {
        order(&mut bench, &maker, 1, &artifact);
        let grown = log_of(&[first, entry]);
        bench.server.log = Some(grown);
        with_updater(&mut bench, |updater, server| {
            let before = ScriptedServer {
                ask: Ask::Nothing,
                log: Some(known),
                ..server.clone()
            };
            let (_, answer) = ask(updater, &before, 1);
            updater.answer(&answer).unwrap();
            asked_for_log(updater, server, &artifact, 2);
            let next = updater.log_proof(&inclusion(1, first)).unwrap();
            assert_eq!(next, Next::FetchLogGrowth { from: 1, to: 2 });
            let mut path = log::Path::new();
            path.push(log::leaf_hash(entry)).unwrap();
            let next = updater.log_growth(&encoded(&path)).unwrap();
            assert!(matches!(next, Next::Download(_)), "the update goes on");
            assert_eq!(updater.log_is_forked(), forked);
            let (request, _) = ask(updater, server, 3);
            let request: CheckIn = minicbor::decode(&request).unwrap();
            assert_eq!(request.log, Some(if forked { known } else { grown }));
        });
    }
}
