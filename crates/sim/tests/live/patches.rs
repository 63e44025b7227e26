//! A device that applies patches, over real HTTP: the server is scripted, and counts what it sends.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use fota_delta::{PatchHeader, Profile};
use fota_proto::{Sha256, checkin::PatchProfile, signed::index};
use fota_sim::{
    console::Console,
    device::{DeviceConfig, SimTrust},
    firmware::Spec,
    scripted::{Artifact, Ask, ScriptedServer},
    signing::Maker,
};

use crate::world::{build, config, device_saying, fast_link, said};

struct Served {
    server: ScriptedServer,
    blob_bytes: AtomicU64,
}

impl Served {
    fn new_image(&self) -> &Artifact {
        let Ask::Install(new) = &self.server.ask else {
            panic!("there is an order");
        };
        new
    }
}

async fn check_in(State(served): State<Arc<Served>>, body: Bytes) -> Vec<u8> {
    served
        .server
        .answer(&minicbor::decode(&body).expect("a check-in"))
}

async fn root(State(served): State<Arc<Served>>, Path(version): Path<usize>) -> Vec<u8> {
    let maker = served.server.maker.as_ref().expect("signing");
    maker.roots()[version - 1].clone()
}

async fn blob(
    State(served): State<Arc<Served>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let name: Sha256 = name.parse().expect("a digest");
    let Some(blob) = served.new_image().blob(&name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let range = headers.get(header::RANGE).map(|range| {
        let range = range.to_str().expect("text").strip_prefix("bytes=");
        let (first, last) = range.expect("bytes").split_once('-').expect("a range");
        first.parse().expect("a number")..last.parse::<usize>().expect("a number") + 1
    });
    let (status, range, content) = match range {
        None => (StatusCode::OK, 0..blob.len(), String::new()),
        Some(range) => {
            let content = format!("bytes {}-{}/{}", range.start, range.end - 1, blob.len());
            (StatusCode::PARTIAL_CONTENT, range, content)
        }
    };
    let body = blob[range].to_vec();
    served
        .blob_bytes
        .fetch_add(body.len() as u64, Ordering::Relaxed);
    (status, [(header::CONTENT_RANGE, content)], body).into_response()
}

/// A server with this order.
async fn serve(server: ScriptedServer) -> (String, Arc<Served>) {
    let blob_bytes = AtomicU64::new(0);
    let served = Arc::new(Served { server, blob_bytes });
    let app = Router::new()
        .route("/d/v1/check-in", post(check_in))
        .route("/d/v1/roots/{version}", get(root))
        .route("/d/v1/blobs/{name}", get(blob))
        .with_state(served.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, served)
}

/// Updates a device that has this memory for patches; gives the bytes of blobs that it fetched, and
/// what it said.
async fn update(patches: Option<PatchProfile>, damage: bool) -> (u64, Arc<Served>, bool) {
    let maker = Maker::new(1);
    let old = build(&Spec::new("1.0.5"));
    let new = build(&Spec::new("1.0.6"));
    let new = Artifact::new(new).signed(&maker, 2, 1).expect("an image");
    let mut new = new.patched(Some(&old), Profile::Small);
    if damage {
        let mut patch = new.patch.as_ref().expect("made").bytes.to_vec();
        let (_, header_bytes) = PatchHeader::parse(&patch).expect("a patch");
        patch[header_bytes + 4] ^= 0x55;
        new = new.offering(patch);
    }
    let (url, served) = serve(ScriptedServer::new(1, Ask::Install(new)).signing(&maker)).await;
    let config = DeviceConfig {
        trust: SimTrust::Root(maker.roots()[0].clone().into()),
        patches,
        ..config("ESP32-001")
    };
    let (console, lines) = Console::kept();
    let mut device = device_saying(&url, config, fast_link(), true, console);
    device.live_once().await.expect("it boots");
    assert!(said(&lines, "image proven"));
    let release = served
        .new_image()
        .signed
        .as_ref()
        .expect("signed")
        .release
        .len() as u64;
    let bytes = served.blob_bytes.load(Ordering::Relaxed) - release;
    (bytes, served, said(&lines, "the patch ends"))
}

#[tokio::test]
async fn a_device_follows_the_patch_that_fits_its_memory() {
    for patches in [PatchProfile::Small, PatchProfile::Default] {
        let (bytes, served, ended) = update(Some(patches), false).await;
        let new = served.new_image();
        let image_bytes = new.bytes().len() as u32;
        let index_bytes = index::artifact_bytes(image_bytes) - image_bytes;
        let patch_bytes = new.patch.as_ref().expect("offered").patch.bytes;
        assert_eq!(bytes, u64::from(patch_bytes + index_bytes), "{patches:?}");
        assert!(!ended);
    }
}

#[tokio::test]
async fn a_device_without_memory_for_patches_takes_the_artifact() {
    let (bytes, served, _) = update(None, false).await;
    let signed = served.new_image().signed.as_ref().expect("signed");
    assert_eq!(bytes, signed.artifact.len() as u64);
}

#[tokio::test]
async fn a_device_says_why_a_patch_ended_and_takes_the_artifact() {
    let (bytes, served, ended) = update(Some(PatchProfile::Default), true).await;
    let signed = served.new_image().signed.as_ref().expect("signed");
    assert!(ended);
    assert!(bytes > signed.artifact.len() as u64 / 2, "{bytes}");
}
