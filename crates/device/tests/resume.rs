//! A download that is interrupted goes on where it was, with nothing noted in flash.

mod common;

use common::{IMAGE_BYTES, bench, exchange, firmware, order_install, runs, spec, updated, updater};
use fota_device::{Next, ProveError};
use fota_image::app::Chip;
use fota_image::build::ImageBuilder;
use fota_proto::{FailureCode, checkin::End, limits::CHUNK_BYTES};
use fota_sim::{
    bench::{Bench, LinkCut},
    firmware::{Behaviour, image},
    scripted::{Artifact, Ask, ScriptedServer},
};

/// What is in RAM until it is programmed.
const PAGE_BYTES: u64 = 256;

fn extra_bytes(mut bench: Bench, artifact: &Artifact, link_cuts: Vec<LinkCut>) -> u64 {
    let before = bench.downloaded_bytes;
    let starts = 2 + link_cuts.iter().filter(|cut| cut.reboots).count() as u32;
    order_install(&mut bench, 2, artifact);
    bench.link_cuts = link_cuts;
    bench.run(starts).unwrap();
    assert_eq!(runs(&bench), artifact.version);
    assert_eq!(bench.link_cuts, [], "every cut happened");
    assert_eq!(bench.outcomes, []);
    // A blank sector of the image need not be fetched if the slot has it: then it is fewer.
    (bench.downloaded_bytes - before).saturating_sub(artifact.bytes().len() as u64)
}

#[test]
fn interrupted_download_resumes_at_offset() {
    let percent = |part: usize| (IMAGE_BYTES * part / 100) as u32;
    let artifact = firmware("3.0.0", Behaviour::Works);
    for (fresh, old) in [(true, bench(false)), (false, updated(false))] {
        for part in [1, 40, 99] {
            let cut = |reboots| LinkCut {
                at: percent(part),
                reboots,
            };
            assert_eq!(extra_bytes(old.clone(), &artifact, vec![cut(false)]), 0);
            let extra = extra_bytes(old.clone(), &artifact, vec![cut(true)]);
            println!("reboot at {part} %, slot blank {fresh}: {extra} extra bytes");
            assert!(extra <= u64::from(CHUNK_BYTES), "{part} %: {extra}");
        }
    }
}

#[test]
fn a_reboot_anywhere_costs_at_most_one_chunk_and_a_page() {
    let old = updated(true);
    let artifact = firmware("3.0.0", Behaviour::Works);
    let mut worst = 0;
    let places = (0..IMAGE_BYTES as u32).step_by(1_237).chain([
        1,
        16,
        255,
        256,
        257,
        4_095,
        4_096,
        4_097,
        8_192,
        65_535,
        65_536,
        65_537,
        131_072,
        IMAGE_BYTES as u32 - 1,
        IMAGE_BYTES as u32,
    ]);
    for at in places {
        let extra = extra_bytes(old.clone(), &artifact, vec![LinkCut { at, reboots: true }]);
        assert!(
            extra <= u64::from(CHUNK_BYTES) + PAGE_BYTES,
            "reboot at {at}: {extra} extra bytes"
        );
        worst = worst.max(extra);
    }
    println!("reboot anywhere: at most {worst} extra bytes");
}

#[test]
fn many_reboots_cost_a_chunk_and_a_page_each() {
    let artifact = firmware("3.0.0", Behaviour::Works);
    let cuts: Vec<_> = (1..12)
        .map(|n| LinkCut {
            at: n * 12_345,
            reboots: n % 3 != 0,
        })
        .collect();
    let reboots = cuts.iter().filter(|cut| cut.reboots).count() as u64;
    let extra = extra_bytes(updated(false), &artifact, cuts);
    assert!(
        extra <= reboots * (u64::from(CHUNK_BYTES) + PAGE_BYTES),
        "{extra}"
    );
}

/// Sectors of 0xFF in the image look like places where a download stopped.
#[test]
fn blank_sectors_in_the_image_do_not_mislead() {
    let mut content = Vec::new();
    for part in 0..14 {
        content.extend(vec![part; 4096]);
        content.extend(vec![0xFF; 8192]);
    }
    let builder = ImageBuilder::new(Chip::Esp32)
        .version("4.0.0")
        .content(&content);
    let artifact = Artifact::new(builder.size(200_000).build().unwrap());
    for at in (3_000..200_000).step_by(7_001) {
        let extra = extra_bytes(
            updated(false),
            &artifact,
            vec![LinkCut { at, reboots: true }],
        );
        assert!(
            extra <= 3 * u64::from(CHUNK_BYTES),
            "reboot at {at}: {extra} extra bytes"
        );
    }
}

#[test]
fn a_wrong_resume_starts_over_once_and_then_gives_up() {
    let mut bench = bench(false);
    let artifact = firmware("2.0.0", Behaviour::Works);
    order_install(&mut bench, 1, &artifact);
    bench.link_cuts = vec![LinkCut {
        at: 60_000,
        reboots: true,
    }];
    bench.start().unwrap();
    // The first sector turns bad, and a server without the image says that all is well.
    let damaged = vec![0; 64];
    bench
        .flash
        .load(common::SLOTS[1] + 5_000, &damaged)
        .unwrap();
    let server = bench.server.clone();
    let mut updater = updater(&mut bench);
    assert_eq!(exchange(&mut updater, &server, |_| ()).0, Next::CheckIn);
    let mut wrong = server.clone();
    wrong.ask = Ask::Install(artifact.clone());
    let resumed = answer_with_resume(&mut updater, &wrong, 49_152 + 8_192);
    assert!(
        matches!(resumed, Next::Download(part) if part.from == 57_344),
        "{resumed:?}"
    );
    updater.receive(&artifact.bytes()[57_344..]).unwrap();
    assert_eq!(updater.prove().unwrap_err(), ProveError::StartedOver);
    assert!(matches!(updater.next(), Next::Download(part) if part.from == 0));
    let mut other = artifact.bytes().to_vec();
    other[100_000] ^= 1;
    updater.receive(&other).unwrap();
    let code = FailureCode::HashMismatch;
    assert_eq!(updater.prove().unwrap_err(), ProveError::Failed(code));
    assert_eq!(updater.next(), Next::CheckIn);
    let (next, outcome) = exchange(&mut updater, &server, |request| {
        request
            .outcome
            .as_ref()
            .map(|outcome| (outcome.order, outcome.end, outcome.code))
    });
    assert_eq!(outcome, Some((1, End::Failed, code.number())));
    assert!(matches!(next, Next::Wait { .. }));
    // The same number is the same order: it is not tried again.
    assert!(matches!(
        exchange(&mut updater, &server, |_| ()).0,
        Next::Wait { .. }
    ));
    assert_eq!(runs(&bench), "1.0.0");
}

fn answer_with_resume(
    updater: &mut fota_device::Updater<'_, &mut fota_sim::flash::SimFlash>,
    server: &ScriptedServer,
    resume_from: u32,
) -> Next {
    use fota_proto::checkin::{self, Action, Answer, CheckIn};
    let mut buffer = [0; 1024];
    let request = updater.check_in(5, 1, &mut buffer);
    let request: CheckIn = minicbor::decode(request).unwrap();
    let bytes = server.answer(&request);
    let mut answer: Answer = minicbor::decode(&bytes).unwrap();
    let Some(Action::Install(install)) = answer.order.as_mut().map(|order| &mut order.action)
    else {
        panic!("an install stands");
    };
    install.resume_from = resume_from;
    let mut buffer = [0; 1024];
    let bytes = checkin::encode(&answer, &mut buffer).unwrap();
    updater.answer(bytes).unwrap()
}

#[test]
fn the_order_of_another_image_finds_its_common_prefix() {
    // Two images that share their first 60 KiB: only the head differs by luck of the entry point.
    let first = image(&spec("2.0.0", Behaviour::Works)).unwrap();
    let mut second = first.clone();
    second[100_000] ^= 1;
    let (first, second) = (Artifact::new(first), Artifact::new(second));
    let mut bench = bench(false);
    order_install(&mut bench, 1, &first);
    bench.link_cuts = vec![LinkCut {
        at: 60_000,
        reboots: true,
    }];
    bench.start().unwrap();
    let server = ScriptedServer::new(2, Ask::Install(second));
    let mut updater = updater(&mut bench);
    assert_eq!(exchange(&mut updater, &server, |_| ()).0, Next::CheckIn);
    let next = exchange(&mut updater, &server, |_| ()).0;
    assert!(
        matches!(next, Next::Download(part) if part.from == 57_344),
        "{next:?}"
    );
}
