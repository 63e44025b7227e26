//! Updates by patches: what the device makes of them, and of wrong ones.

mod common;

use common::{patched::*, *};
use fota_delta::{HEADER_BYTES_MAX, HeaderError, PatchHeader, Profile};
use fota_device::{Next, PatchEnd, ReceiveError, Started, Updater, Workspace};
use fota_proto::{
    checkin::{CheckIn, PatchProfile},
    limits::{CHECK_IN_BYTES_MAX, PATCH_REFETCHED_BYTES_MAX},
    signed::index,
};
use fota_sim::{
    bench::{FIRST_SLOT_OFFSET, trust},
    decoder::SimDecoder,
    flash::SimFlash,
    scripted::{Artifact, Ask, Offer, ScriptedServer},
};

/// Short, for the tests that try everything.
const SHORT_BYTES: usize = 24 * 1024;

/// Two versions and a device with the first.
fn pair(image_bytes: usize, patches: PatchProfile) -> (Patched, Artifact) {
    let device = Patched::new(image_bytes, SLOT_BYTES, Some(patches));
    (device, version("2.0.0", image_bytes))
}

#[test]
fn a_patch_costs_its_bytes_and_those_of_the_index() {
    use {PatchProfile as Has, Profile as Is};
    for (is, has) in [
        (Is::Small, Has::Small),
        (Is::Small, Has::Default),
        (Is::Default, Has::Default),
    ] {
        let (mut device, new) = pair(IMAGE_BYTES, has);
        let new = new.patched(Some(device.old.bytes()), is);
        assert_eq!(device.update(&new), undisturbed(&new), "{is:?} on {has:?}");
        assert_eq!(device.bench.patch_ends, []);
    }
}

#[test]
fn a_compressed_image_needs_no_old_one() {
    // Noise does not compress, and a patch that costs more is not used: this image ends in zeros.
    let mut device = Patched::new(SHORT_BYTES, SLOT_BYTES, Some(PatchProfile::Small));
    let builder = fota_image::build::ImageBuilder::new(fota_image::app::Chip::Esp32);
    let builder = builder.version("2.0.0").project("acme");
    let builder = builder.content(&[0; 60_000]).size(80_000);
    let new = Artifact::new(builder.build().unwrap()).patched(None, Profile::Small);
    assert!(patch_bytes(&new) < 25_000);
    assert_eq!(device.update(&new), undisturbed(&new));
    assert_eq!(device.bench.patch_ends, []);
}

#[test]
fn a_patch_that_costs_more_than_the_artifact_is_not_used() {
    let (mut device, new) = pair(IMAGE_BYTES, PatchProfile::Small);
    let new = new.patched(None, Profile::Small); // noise does not compress
    assert_eq!(device.update(&new), artifact_from(&new, 0));
}

/// Starts the device and hands its updater to `act`.
fn with_updater<R>(
    device: &mut Patched,
    act: impl FnOnce(&mut Updater<'_, &mut SimFlash>, &ScriptedServer) -> R,
) -> R {
    let bench = &mut device.bench;
    bench.flash.unprotect_all();
    let boot = bench.bootloader.boot(&mut bench.flash).unwrap();
    let info = bench.boot_info(&boot);
    let (root, mut workspace) = (bench.root.clone(), Box::new(Workspace::new()));
    let mut decoder = bench.patches.map(SimDecoder::new);
    let trust = trust(root.as_deref(), &mut workspace);
    let Started::Run(mut updater) = Updater::start(&mut bench.flash, info, trust).unwrap() else {
        panic!("given up");
    };
    if let Some(decoder) = &mut decoder {
        updater.apply_patches_with(decoder);
    }
    act(&mut updater, &bench.server)
}

/// A check-in that says it can apply patches, and the answer; then the release.
fn begin(updater: &mut Updater<'_, &mut SimFlash>, server: &ScriptedServer) -> Next {
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    let request = updater.check_in(7, 1, &mut buffer);
    let request: CheckIn = minicbor::decode(request).unwrap();
    let patches = Some(PatchProfile::Default);
    let answer = server.answer(&CheckIn { patches, ..request });
    let Ask::Install(new) = &server.ask else {
        panic!("no order");
    };
    match updater.answer(&answer).unwrap() {
        Next::FetchRelease { release } => updater.release(new.blob(&release).unwrap()).unwrap(),
        next => next,
    }
}

#[test]
fn a_device_without_memory_for_patches_is_offered_none_and_takes_none() {
    let mut device = Patched::new(IMAGE_BYTES, SLOT_BYTES, None);
    let new = version("2.0.0", IMAGE_BYTES).patched(Some(device.old.bytes()), Profile::Small);
    assert_eq!(device.clone().update(&new), artifact_from(&new, 0));
    device.order(&new);
    with_updater(&mut device, |updater, server| {
        let Next::Download(part) = begin(updater, server) else {
            panic!("no download");
        };
        let whole = artifact_from(&new, 0) as u32;
        assert_eq!((part.from, part.to, part.bytes), (0, whole, whole));
    });
}

#[test]
fn one_flipped_bit_in_the_old_image_costs_the_artifact_from_its_chunk_on() {
    let old_bytes = IMAGE_BYTES as u32;
    let head = fota_proto::limits::HEAD_BYTES as u32;
    for at in [head + 300, old_bytes / 2, old_bytes - 100] {
        let (mut device, new) = pair(IMAGE_BYTES, PatchProfile::Default);
        let new = new.patched(Some(device.old.bytes()), Profile::Default);
        device.bench.rots = vec![FIRST_SLOT_OFFSET + at];
        let took = device.update(&new);
        assert_eq!(device.bench.patch_ends.len(), 1, "{at}");
        // What is at the end of the old image is a chunk earlier or later in the new one.
        let most = patch_bytes(&new) + artifact_from(&new, at - at.min(4096)) + index_bytes(&new);
        println!(
            "a bit flips at {at}: {took} bytes, artifact {}",
            artifact_from(&new, 0)
        );
        assert!(took <= most, "{at}: {took}, at most {most}");
    }
}

#[test]
fn a_patch_for_another_old_image_costs_itself_and_the_artifact() {
    let (mut device, new) = pair(IMAGE_BYTES, PatchProfile::Default);
    let other = spec("1.0.0", fota_sim::firmware::Behaviour::Works).seed(2);
    let other = fota_sim::firmware::image(&other.image_bytes(IMAGE_BYTES)).unwrap();
    let same_noise = fota_sim::firmware::Spec::new("2.0.0")
        .image_bytes(IMAGE_BYTES)
        .seed(2);
    let same_noise = fota_sim::firmware::image(&same_noise).unwrap();
    let options = fota_delta::Options {
        profile: Profile::Default,
    };
    // It makes another image, and says that it makes this one.
    let mut patch = fota_delta::encode(Some(&other), &same_noise, &options).unwrap();
    let (header, _) = PatchHeader::parse(&patch).unwrap();
    let place = patch
        .windows(32)
        .position(|part| part == header.new_sha256)
        .unwrap();
    patch[place..place + 32].copy_from_slice(&new.sha256.0);
    let new = new.offering(patch);
    let took = device.update(&new);
    let most = undisturbed(&new) + artifact_from(&new, 0);
    assert!(took <= most, "{took}, at most {most}");
    assert_eq!(device.bench.patch_ends.len(), 1);
}

#[test]
fn a_damaged_byte_anywhere_in_a_patch_leads_to_the_right_image() {
    let (device, new) = pair(SHORT_BYTES, PatchProfile::Default);
    let good = patch(Some(&device.old), &new, Profile::Default);
    let mut ends = 0;
    for place in 0..good.len() {
        for flip in [0x01, 0x80, 0xFF] {
            let mut bad = good.clone();
            bad[place] ^= flip;
            let new = new.clone().offering(bad);
            let mut device = device.clone();
            let took = device.update(&new);
            let most = undisturbed(&new) + artifact_from(&new, 0);
            assert!(
                took <= most,
                "byte {place} ^ {flip:#x}: {took}, at most {most}"
            );
            ends += device.bench.patch_ends.len();
        }
    }
    println!("{} damaged patches, {ends} given up", 3 * good.len());
    // The digest of the old image is not looked at, and the last bits say little.
    assert!(ends >= 3 * (good.len() - 32 - 4), "{ends}");
}

/// Carries out an order with this patch, which must end for this reason.
fn ends(device: &Patched, new: &Artifact, patch: Vec<u8>) -> PatchEnd {
    let mut device = device.clone();
    let new = new.clone().offering(patch);
    let took = device.update(&new);
    assert!(took <= undisturbed(&new) + artifact_from(&new, 0), "{took}");
    assert_eq!(device.bench.patch_ends.len(), 1);
    device.bench.patch_ends[0]
}

#[test]
fn a_header_that_does_not_fit_ends_the_patch_within_itself() {
    let (device, new) = pair(SHORT_BYTES, PatchProfile::Small);
    let old = Some(&device.old);
    let whole = patch(old, &new, Profile::Small);
    let other = version("3.0.0", SHORT_BYTES);
    let shorter = version("3.0.0", SHORT_BYTES - 4096);
    let end = |patch| ends(&device, &new, patch);
    assert_eq!(end(patch(old, &new, Profile::Default)), PatchEnd::Memory);
    assert_eq!(
        end(patch(old, &other, Profile::Small)),
        PatchEnd::OtherImage
    );
    assert_eq!(
        end(patch(old, &shorter, Profile::Small)),
        PatchEnd::OtherImage
    );
    let mut bad = whole.clone();
    bad[0] = 0xE9;
    let magic = PatchEnd::Header(HeaderError::Magic([0xE9, bad[1]]));
    assert_eq!(end(bad), magic);
    let mut bad = whole.clone();
    bad[2] = 2;
    assert_eq!(end(bad), PatchEnd::Header(HeaderError::Version(2)));
    let mut bad = whole.clone();
    bad[4..8].fill(0xFF);
    assert_eq!(end(bad), PatchEnd::Header(HeaderError::Length));
    let long = version("1.0.0", SLOT_BYTES as usize + 4096);
    let slot_bytes = SLOT_BYTES;
    let bytes = slot_bytes + 4096;
    let longer = patch(Some(&long), &new, Profile::Small);
    assert_eq!(end(longer), PatchEnd::OldImage { bytes, slot_bytes });
}

#[test]
fn a_patch_that_ends_too_early_or_too_late_leads_to_the_right_image() {
    let (device, new) = pair(SHORT_BYTES, PatchProfile::Small);
    let whole = patch(Some(&device.old), &new, Profile::Small);
    for bytes in 1..whole.len() {
        let end = ends(&device, &new, whole[..bytes].to_vec());
        let short = PatchEnd::TooShort {
            bytes: bytes as u32,
        };
        assert_eq!(end, short);
    }
    // What is behind its end is never asked for, or not looked at.
    let mut long = whole.clone();
    long.extend([0xA5; 700]);
    let new = new.offering(long);
    let took = device.clone().update(&new);
    assert!(took <= undisturbed(&new), "{took}");
    // A payload that is as long as can be.
    let mut endless = whole;
    let (header, length) = PatchHeader::parse(&endless).unwrap();
    let at = length - 64 - if header.payload_bytes < 128 { 1 } else { 2 };
    endless.splice(at..length - 64, [0x80, 0x80, 0x80, 0x08]);
    endless.extend(vec![0x5A; 20_000]);
    let new = new.offering(endless);
    let took = device.clone().update(&new);
    assert!(took <= undisturbed(&new) + artifact_from(&new, 0), "{took}");
}

#[test]
fn a_body_that_is_longer_than_asked_for_ends_nothing() {
    let (mut device, new) = pair(SHORT_BYTES, PatchProfile::Small);
    let new = new.patched(Some(device.old.bytes()), Profile::Small);
    device.order(&new);
    with_updater(&mut device, |updater, server| {
        let Ask::Install(new) = &server.ask else {
            panic!("no order");
        };
        let Next::Download(page) = begin(updater, server) else {
            panic!("no page");
        };
        let artifact = new.blob(&page.blob).unwrap();
        let surplus = artifact.len() as u32 - page.to;
        let taken = updater.receive(artifact);
        assert_eq!(taken, Err(ReceiveError::TooMany { surplus }));
        let Next::Download(part) = updater.next() else {
            panic!("no patch");
        };
        let Offer { patch, bytes } = &**new.patch.as_ref().unwrap();
        assert_eq!(
            (part.blob, part.from, part.to),
            (patch.sha256, 0, patch.bytes)
        );
        let longer = [&bytes[..], &[7; 5_000]].concat();
        assert_eq!(updater.receive(&longer), Ok(()));
        assert_eq!(updater.next(), Next::Prove);
        assert!(updater.prove().is_ok());
    });
}

#[test]
fn a_wrong_page_is_asked_for_again_and_not_for_ever() {
    let (mut device, new) = pair(SHORT_BYTES, PatchProfile::Small);
    device.order(&new.patched(Some(device.old.bytes()), Profile::Small));
    with_updater(&mut device, |updater, server| {
        let Next::Download(page) = begin(updater, server) else {
            panic!("no page");
        };
        let wrong = vec![7; (page.to - page.from) as usize];
        for _ in 1..16 {
            let error = updater.receive(&wrong);
            assert_eq!(error, Err(ReceiveError::NotAuthentic { at: 0 }));
            assert_eq!(updater.next(), Next::Download(page));
        }
        assert!(updater.receive(&wrong).is_err());
        assert_eq!(updater.next(), Next::CheckIn);
    });
}

#[test]
fn a_patch_that_is_withdrawn_while_it_comes_ends_when_it_no_longer_does() {
    let (mut device, new) = pair(SHORT_BYTES, PatchProfile::Small);
    let new = new.patched(Some(device.old.bytes()), Profile::Small);
    device.order(&new);
    with_updater(&mut device, |updater, server| {
        let Ask::Install(new) = &server.ask else {
            panic!("no order");
        };
        let mut without = server.clone();
        let mut unpatched = new.clone();
        unpatched.patch = None;
        without.ask = Ask::Install(unpatched);
        let Next::Download(page) = begin(updater, server) else {
            panic!("no page");
        };
        let artifact = new.blob(&page.blob).unwrap();
        updater
            .receive(&artifact[page.from as usize..page.to as usize])
            .unwrap();
        let patch = &new.patch.as_ref().unwrap().bytes;
        updater.receive(&patch[..100]).unwrap();
        let is_patch =
            |next| matches!(next, Next::Download(part) if part.bytes == patch.len() as u32);
        assert!(
            is_patch(begin(updater, &without)),
            "bytes came since the order before"
        );
        assert!(is_patch(begin(updater, server)), "it is offered again");
        let Next::Download(part) = begin(updater, &without) else {
            panic!("no artifact");
        };
        assert_eq!(part.blob, page.blob);
        assert_eq!(updater.patch_end(), Some(PatchEnd::Withdrawn));
    });
}

#[test]
fn pages_of_the_index_come_first_or_where_there_is_no_room_for_them() {
    // Two pages, three, and four: the fourth is fetched in the middle of the patch.
    for (image_bytes, pages) in [(600_000, 2), (1_100_000, 3), (1_580_000, 4)] {
        let mut device = Patched::new(image_bytes, 0x1C_0000, Some(PatchProfile::Default));
        let new = version("2.0.0", image_bytes).patched(Some(device.old.bytes()), Profile::Default);
        assert_eq!(index::pages(image_bytes as u32), pages);
        let took = device.update(&new);
        // A piece is dropped where a page comes first; what was taken of it is not fetched again.
        let dropped = if pages > 3 { LOST_BYTES } else { 0 };
        let wanted = undisturbed(&new);
        println!("{pages} pages: {took} bytes, {} dropped", took - wanted);
        assert!(
            (wanted..=wanted + dropped).contains(&took),
            "{took}, wanted {wanted}"
        );
        assert_eq!(device.bench.patch_ends, []);
    }
}

#[test]
fn a_patch_that_fails_in_a_later_span_goes_on_there() {
    let image_bytes = 1_580_000;
    let device = Patched::new(image_bytes, 0x1C_0000, Some(PatchProfile::Default));
    let new = version("2.0.0", image_bytes).patched(Some(device.old.bytes()), Profile::Default);
    for at in [600_000, 1_570_000] {
        let mut device = device.clone();
        device.bench.rots = vec![FIRST_SLOT_OFFSET + at];
        let took = device.update(&new);
        let most = undisturbed(&new) + artifact_from(&new, at - 4096) + LOST_BYTES;
        assert!(took <= most, "{took}, at most {most}");
        assert_eq!(device.bench.patch_ends.len(), 1);
    }
}

#[test]
fn a_large_patch_without_room_behind_the_image_is_not_used() {
    let image_bytes = SLOT_BYTES as usize - 40_000;
    let (mut device, _) = pair(100_000, PatchProfile::Small);
    let new = version("2.0.0", image_bytes).patched(Some(device.old.bytes()), Profile::Small);
    assert!(patch_bytes(&new) > u64::from(PATCH_REFETCHED_BYTES_MAX));
    assert_eq!(device.update(&new), artifact_from(&new, 0));
}

#[test]
fn a_header_fits_the_page_that_it_is_collected_in() {
    const { assert!(HEADER_BYTES_MAX + 32 <= 256) };
}
