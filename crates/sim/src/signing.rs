//! A maker with keys: roots, signed releases and signed answers for devices that trust nobody else.
//!
//! The keys follow from a seed, so that a story can be repeated. They protect nothing.

use std::{io, sync::Arc};

use fota_image::app;
use fota_proto::{
    Sha256,
    list::List,
    signed::{
        Form, Release, Role, Root, index,
        sign::{P256Key, Signer, encode, sign},
    },
};
use sha2::Digest;

/// Root keys of each root; two of them must sign.
const ROOT_KEYS: u8 = 3;

/// A signed release with the bytes that go with it.
#[derive(Clone, Debug)]
pub struct SignedRelease {
    /// The release as it was signed.
    pub release: Arc<[u8]>,
    /// Its SHA-256, which orders name.
    pub digest: Sha256,
    /// The image with its index.
    pub artifact: Arc<[u8]>,
    /// SHA-256 of that.
    pub artifact_digest: Sha256,
}

/// The maker of one product.
#[derive(Clone)]
pub struct Maker(Arc<Keys>);

struct Keys {
    seed: u8,
    root: Vec<P256Key>,
    release: P256Key,
    online: P256Key,
    /// All roots so far, the first one first.
    roots: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Maker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Maker(root {})", self.roots().len())
    }
}

fn key(seed: u8, number: u8) -> P256Key {
    let mut secret = [number + 1; 32];
    secret[0] = seed & 0x7F;
    P256Key::new(&secret).expect("below the order of the curve and not 0")
}

fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

impl Maker {
    /// A maker with a first root.
    pub fn new(seed: u8) -> Self {
        let keys = Keys::new(seed, Vec::new());
        let first = keys.root(1);
        let first = sign(Form::Sign, &first, &[&keys.root[0], &keys.root[1]]);
        let roots = vec![first.expect("a root of five keys fits")];
        Self(Arc::new(Keys { roots, ..keys }))
    }

    /// The same maker with new keys for everything, and a root that says so.
    pub fn rotated(&self, seed: u8) -> Self {
        let old = &*self.0;
        let keys = Keys::new(seed, old.roots.clone());
        let version = old.roots.len() as u32 + 1;
        let signers: [&dyn Signer; 4] = [&old.root[0], &old.root[2], &keys.root[0], &keys.root[1]];
        let next = sign(Form::Sign, &keys.root(version), &signers);
        let mut roots = old.roots.clone();
        roots.push(next.expect("a root with four signatures fits"));
        Self(Arc::new(Keys { roots, ..keys }))
    }

    /// All roots, the first one first.
    pub fn roots(&self) -> &[Vec<u8>] {
        &self.0.roots
    }

    /// The key that signs answers.
    pub fn online(&self) -> &dyn Signer {
        &self.0.online
    }

    /// The key that signs releases.
    pub fn releaser(&self) -> &dyn Signer {
        &self.0.release
    }

    /// Signs an image as a release; an error where it is none.
    pub fn release(&self, image: &[u8], sequence: u32, epoch: u32) -> io::Result<SignedRelease> {
        self.release_by(image, sequence, epoch, self.releaser())
    }

    /// Likewise, with any key.
    pub fn release_by(
        &self,
        image: &[u8],
        sequence: u32,
        epoch: u32,
        signer: &dyn Signer,
    ) -> io::Result<SignedRelease> {
        let (pages, artifact) = index::build(image);
        let checked = app::check_bytes(image).map_err(io::Error::other)?;
        let desc = checked
            .desc
            .ok_or_else(|| io::Error::other("no description"))?;
        let release = Release::new(
            desc.project_name.as_str(),
            checked.header.chip.map_or(0, |chip| chip.id()),
            desc.version.as_str(),
            [sequence, epoch],
            image.len() as u32,
            [digest(image), Sha256(desc.app_elf_sha256)],
            &pages,
        );
        let release = encode(&release.map_err(io::Error::other)?)?;
        let release = sign(Form::Sign1, &release, &[signer])?;
        Ok(SignedRelease {
            digest: digest(&release),
            release: release.into(),
            artifact_digest: digest(&artifact),
            artifact: artifact.into(),
        })
    }

    /// Signs an encoded answer.
    pub fn answer(&self, payload: &[u8]) -> io::Result<Vec<u8>> {
        sign(Form::Sign1, payload, &[self.online()])
    }
}

impl Keys {
    fn new(seed: u8, roots: Vec<Vec<u8>>) -> Self {
        Self {
            seed,
            root: (0..ROOT_KEYS).map(|number| key(seed, number)).collect(),
            release: key(seed, ROOT_KEYS),
            online: key(seed, ROOT_KEYS + 1),
            roots,
        }
    }

    fn root(&self, version: u32) -> Vec<u8> {
        debug_assert!(self.seed < 0x80);
        let mut keys = List::new();
        let all = self.root.iter().chain([&self.release, &self.online]);
        for key in all {
            keys.push(key.public()).expect("five of eight");
        }
        let roles = [
            role(2, 0..ROOT_KEYS),
            role(1, ROOT_KEYS..ROOT_KEYS + 1),
            role(1, ROOT_KEYS + 1..ROOT_KEYS + 2),
        ];
        let root = Root::new(version, keys, roles).expect("roles name keys that are there");
        encode(&root).expect("a root of five keys fits")
    }
}

fn role(threshold: u8, numbers: std::ops::Range<u8>) -> Role {
    let mut keys = List::new();
    numbers.for_each(|number| keys.push(number).expect("at most three of eight"));
    Role { threshold, keys }
}
