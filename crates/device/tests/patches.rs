//! Updates by patches: what the device makes of them, and of wrong ones.

mod common;

use common::*;
use fota_delta::Profile;
use fota_proto::{checkin::PatchProfile, signed::index};
use fota_sim::{
    bench::Bench,
    firmware::{Spec, image},
    scripted::{Artifact, Ask, ScriptedServer},
    signing::Maker,
};

const MAKER: u8 = 1;
/// Enough for a release with a patch: two starts.
const STARTS_MAX: u32 = 4;

/// A version of a firmware: the same noise, so that little differs between two of them.
fn version(number: &str, image_bytes: usize) -> Artifact {
    let spec = Spec::new(number).image_bytes(image_bytes).seed(1);
    Artifact::new(image(&spec).unwrap())
}

/// A device that runs 1.0.0 and trusts its maker.
fn device(image_bytes: usize, slot_bytes: u32, patches: Option<PatchProfile>) -> (Bench, Maker) {
    let maker = Maker::new(MAKER);
    let old = version("1.0.0", image_bytes);
    let mut bench = Bench::new(old.bytes(), slot_bytes, true).unwrap();
    bench.root = Some(maker.roots()[0].clone().into());
    bench.patches = patches;
    (bench, maker)
}

fn order(bench: &mut Bench, maker: &Maker, artifact: Artifact) {
    let artifact = artifact.signed(maker, 2, 0).unwrap();
    bench.server = ScriptedServer::new(1, Ask::Install(artifact)).signing(maker);
    bench.downloaded_bytes = 0;
    bench.patch_ends.clear();
}

fn index_bytes(artifact: &Artifact) -> u64 {
    let bytes = artifact.bytes().len() as u32;
    u64::from(index::artifact_bytes(bytes) - bytes)
}

#[test]
fn a_patch_makes_the_image_for_its_bytes_and_those_of_the_index() {
    for (profile, has) in [
        (Profile::Small, PatchProfile::Small),
        (Profile::Small, PatchProfile::Default),
        (Profile::Default, PatchProfile::Default),
    ] {
        let (mut bench, maker) = device(IMAGE_BYTES, SLOT_BYTES, Some(has));
        let old = version("1.0.0", IMAGE_BYTES);
        let new = version("2.0.0", IMAGE_BYTES).patched(Some(old.bytes()), profile);
        let patch_bytes = u64::from(new.patch.as_ref().unwrap().patch.bytes);
        let wanted = patch_bytes + index_bytes(&new);
        order(&mut bench, &maker, new);
        bench.run(STARTS_MAX).unwrap();
        assert_eq!(runs(&bench), "2.0.0");
        assert_eq!(bench.patch_ends, []);
        assert_eq!(bench.downloaded_bytes, wanted);
        println!(
            "{profile:?} on {has:?}: {patch_bytes} of {IMAGE_BYTES}, index {}",
            wanted - patch_bytes
        );
    }
}

#[test]
fn a_compressed_image_needs_no_old_one() {
    let (mut bench, maker) = device(IMAGE_BYTES, SLOT_BYTES, Some(PatchProfile::Small));
    let new = version("2.0.0", IMAGE_BYTES).patched(None, Profile::Small);
    order(&mut bench, &maker, new);
    bench.run(STARTS_MAX).unwrap();
    assert_eq!(
        (runs(&bench).as_str(), &bench.patch_ends[..]),
        ("2.0.0", &[][..])
    );
}

#[test]
fn a_device_without_memory_for_patches_is_offered_none_and_takes_none() {
    let (mut bench, maker) = device(IMAGE_BYTES, SLOT_BYTES, None);
    let old = version("1.0.0", IMAGE_BYTES);
    let new = version("2.0.0", IMAGE_BYTES).patched(Some(old.bytes()), Profile::Small);
    let whole = IMAGE_BYTES as u64 + index_bytes(&new);
    order(&mut bench, &maker, new);
    bench.run(STARTS_MAX).unwrap();
    assert_eq!(runs(&bench), "2.0.0");
    assert_eq!(bench.downloaded_bytes, whole);
}
