//! Writes what a device is told in one update, for `cargo xtask rv32-device`, which plays it to the
//! device crate on a bare RISC-V: its flash before, and the answer, release and artifact it gets.

use std::{env, fs, path::Path};

use fota_device::{CHECK_IN_BYTES_MAX, Started, Trust, Updater, Workspace};
use fota_proto::checkin::CheckIn;
use fota_sim::{
    bench::Bench,
    firmware::{Spec, image},
    scripted::{Artifact, Ask, ScriptedServer},
    signing::Maker,
};

const IMAGE_BYTES: usize = 100_000;
const SLOT_BYTES: u32 = 0x2_0000;
/// Two slots behind 0x10000 and the trust partition behind them.
const FLASH_BYTES: u32 = 0x1_0000 + 2 * SLOT_BYTES + 0x2000;
const NONCE: u64 = 7;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = env::args().nth(1).ok_or("wanted: a folder")?;
    let dir = Path::new(&dir);
    let maker = Maker::new(1);
    let spec = |version| Spec::new(version).image_bytes(IMAGE_BYTES);
    let old = image(&spec("1.0.0"))?;
    let new = Artifact::new(image(&spec("2.0.0").seed(2))?).signed(&maker, 2, 1)?;
    let mut bench = Bench::new(&old, SLOT_BYTES, true)?;
    fs::write(dir.join("flash.bin"), bench.flash.bytes(0..FLASH_BYTES)?)?;
    fs::write(dir.join("root.bin"), &maker.roots()[0])?;
    fs::write(dir.join("image.bin"), new.bytes())?;
    let signed = new.signed.as_ref().ok_or("unsigned")?;
    fs::write(dir.join("release.bin"), &signed.release)?;
    fs::write(dir.join("artifact.bin"), &signed.artifact)?;

    let plain = ScriptedServer::new(1, Ask::Install(new));
    let signing = plain.clone().signing(&maker);
    let mut workspace = Workspace::new();
    let root = maker.roots()[0].clone();
    for (name, server) in [("plain", &plain), ("signed", &signing)] {
        let boot = bench.bootloader.boot(&mut bench.flash)?;
        let info = bench.boot_info(&boot);
        let trust = match server.maker {
            Some(_) => Trust::Root(&root, &mut workspace),
            None => Trust::Anybody,
        };
        let Started::Run(mut updater) = Updater::start(&mut bench.flash, info, trust)? else {
            return Err("given up".into());
        };
        let mut buffer = [0; CHECK_IN_BYTES_MAX];
        let request = updater.check_in(NONCE, 1, &mut buffer);
        let answer = server.answer(&minicbor::decode::<CheckIn>(request)?);
        fs::write(dir.join(format!("answer-{name}.bin")), answer)?;
    }
    Ok(())
}
