//! Writes what a device is told in one update, for `cargo xtask rv32-device`, which plays it to the
//! device crate on a bare RISC-V: its flash before, and the answer, release, artifact and patches it gets.

use std::{env, error::Error, fs, path::Path};

use fota_delta::Profile;
use fota_device::{CHECK_IN_BYTES_MAX, Started, Trust, Updater, Workspace};
use fota_proto::checkin::{CheckIn, PatchProfile};
use fota_sim::{
    bench::Bench,
    decoder::SimDecoder,
    firmware::{Spec, image},
    scripted::{Artifact, Ask, ScriptedServer},
    signing::Maker,
};

const IMAGE_BYTES: usize = 100_000;
const SLOT_BYTES: u32 = 0x2_0000;
/// Two slots behind 0x10000 and the trust partition behind them.
const FLASH_BYTES: u32 = 0x1_0000 + 2 * SLOT_BYTES + 0x2000;
const NONCE: u64 = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = env::args().nth(1).ok_or("wanted: a folder")?;
    let dir = Path::new(&dir);
    let maker = Maker::new(1);
    // The same noise in both, as a real release has most of the code of the one before.
    let spec = |version| Spec::new(version).image_bytes(IMAGE_BYTES).seed(1);
    let old = image(&spec("1.0.0"))?;
    let new = image(&spec("2.0.0").message("a message that the old one does not have"))?;
    let new = Artifact::new(new).signed(&maker, 2, 1)?;
    let mut bench = Bench::new(&old, SLOT_BYTES, true)?;
    fs::write(dir.join("flash.bin"), bench.flash.bytes(0..FLASH_BYTES)?)?;
    fs::write(dir.join("root.bin"), &maker.roots()[0])?;
    fs::write(dir.join("image.bin"), new.bytes())?;
    let signed = new.signed.as_ref().ok_or("unsigned")?;
    fs::write(dir.join("release.bin"), &signed.release)?;
    fs::write(dir.join("artifact.bin"), &signed.artifact)?;

    let offering = |profile| {
        let patched = new.clone().patched(Some(&old), profile);
        ScriptedServer::new(1, Ask::Install(patched)).signing(&maker)
    };
    let plain = ScriptedServer::new(1, Ask::Install(new.clone()));
    for (name, server, patches) in [
        ("plain", plain.clone(), None),
        ("signed", plain.signing(&maker), None),
        ("small", offering(Profile::Small), Some(PatchProfile::Small)),
        (
            "default",
            offering(Profile::Default),
            Some(PatchProfile::Default),
        ),
    ] {
        if let (Ask::Install(new), Some(_)) = (&server.ask, patches) {
            let offer = new.patch.as_ref().ok_or("no patch")?;
            fs::write(dir.join(format!("patch-{name}.bin")), &offer.bytes)?;
        }
        bench.patches = patches;
        fs::write(
            dir.join(format!("answer-{name}.bin")),
            answer(&mut bench, &server)?,
        )?;
    }
    Ok(())
}

/// What the server answers to the first check-in of this device.
fn answer(bench: &mut Bench, server: &ScriptedServer) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut workspace = Workspace::new();
    let mut decoder = bench.patches.map(SimDecoder::new);
    let boot = bench.bootloader.boot(&mut bench.flash)?;
    let info = bench.boot_info(&boot);
    let trust = match &server.maker {
        Some(maker) => Trust::Root(&maker.roots()[0], &mut workspace),
        None => Trust::Anybody,
    };
    let Started::Run(mut updater) = Updater::start(&mut bench.flash, info, trust)? else {
        return Err("given up".into());
    };
    if let Some(decoder) = &mut decoder {
        updater.apply_patches_with(decoder);
    }
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    let request = updater.check_in(NONCE, 1, &mut buffer);
    Ok(server.answer(&minicbor::decode::<CheckIn>(request)?))
}
