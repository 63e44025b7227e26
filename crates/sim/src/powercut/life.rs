//! The lives that are cut.

use std::sync::Arc;

use fota_delta::Profile;
use fota_proto::{FailureCode, checkin::PatchProfile};

use super::watch::{Goal, Life, Step, Watch};
use crate::{
    bench::Bench,
    firmware::{Behaviour, Spec, image},
    scripted::{Artifact, Ask, ScriptedServer},
    signing::Maker,
};

/// Length of each slot: room for an image and a patch that is kept behind it.
const SLOT_BYTES: u32 = 0x2_0000;

/// An image that shares most of its code with all others of this length.
fn version(number: &str, image_bytes: usize, behaviour: Behaviour) -> Artifact {
    let spec = Spec::new(number).image_bytes(image_bytes).seed(1);
    let bytes = image(&spec.behaviour(behaviour)).expect("short texts and room for the code");
    Artifact::new(bytes)
}

fn works(number: &str, image_bytes: usize) -> Artifact {
    version(number, image_bytes, Behaviour::Works)
}

impl Step {
    fn new(order: u64, name: &'static str, ask: Ask, maker: Option<&Maker>, goal: Goal) -> Self {
        let server = ScriptedServer::new(order, ask);
        let server = match maker {
            Some(maker) => server.signing(maker),
            None => server,
        };
        Self { name, server, goal }
    }

    fn install(order: u64, name: &'static str, image: &Artifact, maker: Option<&Maker>) -> Self {
        let goal = Goal::Runs(image.elf);
        Self::new(order, name, Ask::Install(image.clone()), maker, goal)
    }

    fn failing(
        order: u64,
        name: &'static str,
        image: &Artifact,
        maker: Option<&Maker>,
        code: FailureCode,
    ) -> Self {
        let ask = Ask::Install(image.clone());
        Self::new(order, name, ask, maker, Goal::Reports(code))
    }
}

/// A device with `first` in `ota_0` that has this life before it.
fn begin(first: &Artifact, images: &[&Artifact], steps: Vec<Step>, rollback: bool) -> Bench {
    let bench = Bench::new(first.bytes(), SLOT_BYTES, rollback);
    let mut bench = bench.expect("a table of two slots");
    let mut authentic = vec![first];
    authentic.extend(images);
    let life = Arc::new(Life {
        steps,
        authentic: Life::authentic(&authentic),
    });
    bench.server = life.server(0);
    bench.watch = Some(Watch::new(life));
    bench
}

/// Everything that happens to a device that trusts a root and applies patches: a whole image, a
/// patch, new root keys, an operator's rollback, an image that fails its self-test, one that
/// crashes, and one of a higher security epoch by the new keys.
pub fn whole(image_bytes: usize, rollback: bool) -> Bench {
    let (old, new) = {
        let old = Maker::new(1);
        let new = old.rotated(2);
        (old, new)
    };
    let signed = |image: Artifact, maker: &Maker, sequence, epoch| {
        let signed = image.signed(maker, sequence, epoch);
        signed.expect("an image with a description")
    };
    let first = works("1.0.0", image_bytes);
    let second = signed(works("2.0.0", image_bytes), &old, 2, 1);
    let third = signed(works("3.0.0", image_bytes), &old, 3, 1);
    let third = third.patched(Some(second.bytes()), Profile::Small);
    let unfit = version("4.0.0", image_bytes, Behaviour::FailsSelfTest);
    let unfit = signed(unfit, &new, 4, 1);
    let crashing = version("5.0.0", image_bytes, Behaviour::CrashesOnTrial);
    let crashing = signed(crashing, &new, 5, 1);
    let last = signed(works("6.0.0", image_bytes), &new, 6, 2);
    let (before, after) = (Some(&old), Some(&new));
    let leave = Ask::Leave(third.elf);
    let steps = vec![
        Step::install(1, "whole image", &second, before),
        Step::install(2, "patch", &third, before),
        Step::new(3, "new root", Ask::Nothing, after, Goal::Follows(2)),
        Step::new(
            4,
            "operator's rollback",
            leave,
            after,
            Goal::Left(third.elf),
        ),
        Step::failing(5, "unfit image", &unfit, after, FailureCode::HealthCheck),
        Step::failing(
            6,
            "crashing image",
            &crashing,
            after,
            FailureCode::CrashLoop,
        ),
        Step::install(7, "higher epoch", &last, after),
    ];
    let images = [&second, &third, &unfit, &crashing, &last];
    let mut bench = begin(&first, &images, steps, rollback);
    bench.root = Some(old.roots()[0].clone().into());
    bench.patches = Some(PatchProfile::Small);
    bench
}

/// One update of a device whose slots are both in use, by anybody's order. Short, so that each pair
/// of cuts can be tried.
pub fn update(image_bytes: usize, rollback: bool) -> Bench {
    let [first, second, third] =
        ["1.0.0", "2.0.0", "3.0.0"].map(|number| works(number, image_bytes));
    let steps = vec![Step::install(1, "whole image", &second, None)];
    let mut bench = begin(&first, &[&second], steps, rollback);
    let settles = "an undisturbed update settles";
    bench.run(4).expect(settles);
    let steps = vec![Step::install(2, "whole image", &third, None)];
    let life = Arc::new(Life {
        steps,
        authentic: Life::authentic(&[&second, &first, &third]),
    });
    bench.server = life.server(0);
    bench.watch = Some(Watch::new(life));
    (bench.downloaded_bytes, bench.starts, bench.activations) = (0, 0, 0);
    bench
}

/// An update by a patch that brings `new_bytes` of new code, where so many are kept behind the image
/// while they come in.
pub fn patch(image_bytes: usize, new_bytes: usize, rollback: bool) -> Bench {
    let maker = Maker::new(1);
    let signed = |image: Artifact, sequence| {
        let signed = image.signed(&maker, sequence, 1);
        signed.expect("an image with a description")
    };
    let first = works("1.0.0", image_bytes);
    let second = signed(works("2.0.0", image_bytes + new_bytes), 2);
    let second = second.patched(Some(first.bytes()), Profile::Small);
    let steps = vec![Step::install(1, "patch", &second, Some(&maker))];
    let mut bench = begin(&first, &[&second], steps, rollback);
    bench.root = Some(maker.roots()[0].clone().into());
    bench.patches = Some(PatchProfile::Small);
    bench
}
