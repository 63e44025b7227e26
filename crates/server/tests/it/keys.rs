//! The keys of a maker of firmware, as tests hold them: two root keys, a release key, and the
//! roots, bundles and devices that go with them.

use fota_proto::{
    Sha256,
    checkin::{Action, Answer},
    list::List,
    log::LogHead,
    signed::{
        Alg, Form, PublicKey, Release, Role, Root,
        bundle::Bundle,
        index,
        sign::{P256Key, Signer, encode, sign},
    },
};
use reqwest::{Method, StatusCode, header};

use crate::support::*;

pub fn key(number: u8) -> P256Key {
    P256Key::new(&[number; 32]).expect("a valid secret")
}

/// The keys, and the server's online key.
pub struct Keys {
    pub roots: [P256Key; 2],
    pub release: P256Key,
    pub online: [u8; 65],
}

fn role(threshold: u8, keys: &[u8]) -> Role {
    let mut list = List::new();
    keys.iter().for_each(|key| list.push(*key).expect("fits"));
    Role {
        threshold,
        keys: list,
    }
}

impl Keys {
    /// Keys for this server, whose root it does not have yet.
    pub async fn of(server: &Server) -> Self {
        let info = server.get("/api/v1/server").await.json();
        let hex = info["online_key"].as_str().expect("a key");
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..][..2], 16).expect("hex"))
            .collect();
        Self {
            roots: [key(1), key(2)],
            release: key(3),
            online: bytes.try_into().expect("65 bytes"),
        }
    }

    /// A server with a root of these keys.
    pub async fn on(server: &Server) -> Self {
        let keys = Self::of(server).await;
        let reply = keys.add_root(server, &keys.root(1)).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{:?}", reply.json());
        keys
    }

    pub async fn add_root(&self, server: &Server, root: &[u8]) -> Reply {
        let request = server.request(Method::POST, "/api/v1/roots");
        let request = request.header(header::CONTENT_TYPE, "application/cose");
        Reply::of(request.body(root.to_vec())).await
    }

    /// A root of this version, signed by both root keys.
    pub fn root(&self, version: u32) -> Vec<u8> {
        self.root_with(version, |_| {})
    }

    pub fn root_with(&self, version: u32, change: impl FnOnce(&mut Root)) -> Vec<u8> {
        let online = PublicKey::new(Alg::Esp256, &self.online).expect("65 bytes");
        let mut keys = List::new();
        let own = [&self.roots[0], &self.roots[1], &self.release];
        own.iter()
            .for_each(|key| keys.push(key.public()).expect("fits"));
        keys.push(online).expect("fits");
        let roles = [role(2, &[0, 1]), role(1, &[2]), role(1, &[3])];
        let mut root = Root::new(version, keys, roles).expect("consistent");
        change(&mut root);
        let payload = encode(&root).expect("fits");
        sign(Form::Sign, &payload, &[&self.roots[0], &self.roots[1]]).expect("fits")
    }

    /// The image with its release of this sequence, signed by the release key.
    pub fn bundle(&self, image: &Image, sequence: u32) -> Vec<u8> {
        self.bundle_with(image, sequence, |_| {})
    }

    pub fn bundle_with(
        &self,
        image: &Image,
        sequence: u32,
        change: impl FnOnce(&mut Release),
    ) -> Vec<u8> {
        packed(&self.envelope(image, sequence, change), &image.bytes)
    }

    /// The signed release alone.
    pub fn envelope(
        &self,
        image: &Image,
        sequence: u32,
        change: impl FnOnce(&mut Release),
    ) -> Vec<u8> {
        let (pages, _) = index::build(&image.bytes);
        let chip = fota_image::app::Chip::Esp32C3.id();
        let bytes = image.bytes.len() as u32;
        let digests = [image.sha256, image.elf];
        let version = &image.version;
        let release = Release::new(
            PROJECT,
            chip,
            version,
            [sequence, 1],
            bytes,
            digests,
            &pages,
        );
        let mut release = release.expect("consistent");
        change(&mut release);
        let payload = encode(&release).expect("fits");
        sign(Form::Sign1, &payload, &[&self.release]).expect("fits")
    }

    /// Uploads a bundle that must be taken.
    pub async fn release(
        &self,
        server: &Server,
        image: &Image,
        sequence: u32,
    ) -> fota_proto::manager::Release {
        let reply = server.upload(&self.bundle(image, sequence), "").await;
        reply.value(StatusCode::CREATED)
    }
}

/// A bundle of these two.
pub fn packed(release: &[u8], image: &[u8]) -> Vec<u8> {
    [&Bundle { release, image }.head()[..], image].concat()
}

/// What a device of `root` reads in a signed answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    pub device: Option<String>,
    pub root: Option<u32>,
    pub log: Option<LogHead>,
    /// Digests of the signed release and of the artifact, where it is to install.
    pub install: Option<(Option<Sha256>, Option<Sha256>)>,
}

/// Checks in as a device that trusts `root`; the answer must be signed and fresh.
pub async fn ask(server: &Server, device: &mut TestDevice, root: &[u8]) -> Heard {
    let root = Root::first(root).expect("a root");
    device.nonce += 1;
    let reply = post_cbor(server, device.message()).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.headers[header::CONTENT_TYPE], "application/cose");
    let payload = root.answer(&reply.body).expect("signed by the online key");
    let answer: Answer = minicbor::decode(payload).expect("an answer");
    assert_eq!(answer.nonce, device.nonce);
    Heard {
        device: answer.device.map(str::to_owned),
        root: answer.root,
        log: answer.log,
        install: answer.order.and_then(|order| match order.action {
            Action::Install(install) => Some((install.release, install.artifact)),
            _ => None,
        }),
    }
}
