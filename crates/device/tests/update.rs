//! The whole update on a simulated chip, with a bootloader that rolls back and one that does not.

use fota_device::Updater;
use fota_image::{
    app::{self, Window},
    otadata::{Entry, State},
};
use fota_proto::{
    FailureCode,
    checkin::{End, ResetReason},
};
use fota_sim::{
    bench::{Bench, Ended, FIRST_SLOT_OFFSET, LinkCut, SeenOutcome},
    boot::Slot,
    firmware::{Behaviour, Spec, image},
    flash::SimFlash,
    scripted::{Artifact, Ask, ScriptedServer},
};

const SLOT_BYTES: u32 = 0x4_0000;
const IMAGE_BYTES: usize = 150_000;
const OTADATA: u32 = 0xd000;

fn firmware(version: &str, behaviour: Behaviour) -> Vec<u8> {
    let spec = Spec::new(version)
        .image_bytes(IMAGE_BYTES)
        .behaviour(behaviour)
        .seed(version.len() as u64 + u64::from(version.as_bytes()[0]));
    image(&spec).unwrap()
}

fn bench(rollback: bool) -> Bench {
    let mut bench = Bench::new(&firmware("1.0.0", Behaviour::Works), SLOT_BYTES, rollback).unwrap();
    bench.run(1).unwrap();
    bench
}

fn install(bench: &mut Bench, order: u64, behaviour: Behaviour) -> Artifact {
    let artifact = Artifact::new(firmware("2.0.0", behaviour));
    bench.server = ScriptedServer::new(order, Ask::Install(artifact.clone()));
    artifact
}

fn booted_version(bench: &Bench) -> String {
    let mut flash = bench.flash.clone();
    let boot = bench.bootloader.boot(&mut flash).unwrap();
    boot.image.desc.unwrap().version.as_str().to_string()
}

#[test]
fn a_good_image_is_installed_and_confirmed() {
    for rollback in [false, true] {
        let mut bench = bench(rollback);
        install(&mut bench, 7, Behaviour::Works);
        bench.run(2).unwrap();
        assert_eq!(booted_version(&bench), "2.0.0");
        assert_eq!(bench.outcomes, []);
        assert_eq!(bench.downloaded_bytes, IMAGE_BYTES as u64);
        // It stays, however often the power fails from now on.
        for _ in 0..10 {
            bench.reset = ResetReason::PowerOn;
            assert_eq!(bench.start(), Ok(Ended::Settled));
            assert_eq!(booted_version(&bench), "2.0.0");
        }
        assert_eq!(bench.flash.violations(), 0);
    }
}
