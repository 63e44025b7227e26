//! Devices that apply patches, and releases with one.

use fota_delta::{Options, Profile, encode};
use fota_proto::{checkin::PatchProfile, limits::CHUNK_BYTES, signed::index};
use fota_sim::{
    bench::{ARRIVING_BYTES, Bench},
    firmware::{Spec, image},
    scripted::{Artifact, Ask, ScriptedServer},
    signing::Maker,
};

use super::runs;

/// An update takes two starts, and as many more as there are reboots.
const STARTS_MAX: u32 = 4;

/// The image of a version. Versions of one length differ in little, and a longer one begins like a
/// shorter one: its noise goes on.
pub fn version(number: &str, image_bytes: usize) -> Artifact {
    let spec = Spec::new(number).image_bytes(image_bytes).seed(1);
    Artifact::new(image(&spec).unwrap())
}

pub fn patch(old: Option<&Artifact>, new: &Artifact, profile: Profile) -> Vec<u8> {
    encode(old.map(Artifact::bytes), new.bytes(), &Options { profile }).unwrap()
}

/// A device that applies patches, trusts a maker, and runs 1.0.0.
#[derive(Clone)]
pub struct Patched {
    pub bench: Bench,
    pub maker: Maker,
    pub old: Artifact,
}

impl Patched {
    pub fn new(image_bytes: usize, slot_bytes: u32, patches: Option<PatchProfile>) -> Self {
        let maker = Maker::new(1);
        let old = version("1.0.0", image_bytes);
        let mut bench = Bench::new(old.bytes(), slot_bytes, true).unwrap();
        bench.root = Some(maker.roots()[0].clone().into());
        bench.patches = patches;
        Self { bench, maker, old }
    }

    pub fn order(&mut self, new: &Artifact) {
        let signed = new.clone().signed(&self.maker, 2, 0).unwrap();
        self.bench.server = ScriptedServer::new(1, Ask::Install(signed)).signing(&self.maker);
    }

    /// Carries the order out, whatever happens on the way; gives the bytes that it took.
    pub fn update(&mut self, new: &Artifact) -> u64 {
        let reboots = self.bench.byte_cuts.iter().filter(|cut| cut.reboots);
        let starts = STARTS_MAX + reboots.count() as u32;
        self.order(new);
        self.bench.run(starts).unwrap();
        assert_eq!(runs(&self.bench), new.version);
        assert_eq!(self.bench.outcomes, []);
        assert_eq!(self.bench.byte_cuts, [], "every cut happened");
        assert_eq!(self.bench.flash.violations(), 0);
        self.bench.downloaded_bytes
    }
}

/// Pages of the index of an image.
pub fn index_bytes(new: &Artifact) -> u64 {
    let bytes = new.bytes().len() as u32;
    u64::from(index::artifact_bytes(bytes) - bytes)
}

pub fn patch_bytes(new: &Artifact) -> u64 {
    new.patch.as_ref().unwrap().bytes.len() as u64
}

/// What an update costs by a patch that works to its end.
pub fn undisturbed(new: &Artifact) -> u64 {
    patch_bytes(new) + index_bytes(new)
}

/// What an artifact costs from the chunk of `at` on, with a page for it.
pub fn artifact_from(new: &Artifact, at: u32) -> u64 {
    let at = at / CHUNK_BYTES * CHUNK_BYTES;
    new.bytes().len() as u64 - u64::from(at) + index_bytes(new)
}

/// The last bytes on the wire when the power fails are not in flash yet.
pub const LOST_BYTES: u64 = ARRIVING_BYTES as u64;
