//! `/d/v1/blobs/{sha256}`: whole, in part, and never mixed.

use fota_proto::checkin::Phase;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::*;

async fn ask(server: &Server, image: &Image, headers: &[(&str, &str)]) -> Reply {
    let url = format!("{}/d/v1/blobs/{}", server.base, image.sha256);
    let mut request = server.http.get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Reply::of(request).await
}

fn header(reply: &Reply, name: &str) -> Option<String> {
    let value = reply.headers.get(name)?;
    Some(value.to_str().expect("text").to_owned())
}

#[tokio::test]
async fn an_artifact_is_given_whole_and_says_what_it_is() {
    each_database(async |server| {
        let image = Image::new("1.0.5");
        server.release(&image).await;
        let reply = ask(&server, &image, &[]).await;
        assert_eq!((reply.status, &reply.body), (StatusCode::OK, &image.bytes));
        let length = image.bytes.len().to_string();
        let etag = format!("\"{}\"", image.sha256);
        let md5: String = <md5::Md5 as md5::Digest>::digest(&image.bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        for (name, value) in [
            ("content-length", length.as_str()),
            ("content-type", "application/octet-stream"),
            ("accept-ranges", "bytes"),
            ("etag", &etag),
            ("x-md5", &md5),
        ] {
            assert_eq!(header(&reply, name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(header(&reply, "transfer-encoding"), None);
        let url = format!("{}/d/v1/blobs/{}", server.base, image.sha256);
        let head = Reply::of(server.http.head(url)).await;
        assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
        assert_eq!(header(&head, "content-length"), Some(length));
        let unchanged = ask(&server, &image, &[("if-none-match", &etag)]).await;
        assert_eq!(unchanged.status, StatusCode::NOT_MODIFIED);
    })
    .await;
}

#[tokio::test]
async fn parts_are_given_as_the_rfc_says() {
    let server = Server::start(Setup::default()).await;
    let image = Image::new("1.0.5");
    server.release(&image).await;
    let n = image.bytes.len();
    for (range, part) in [
        ("bytes=0-15", 0..16),
        ("bytes=4096-", 4096..n),
        ("bytes=-16", n - 16..n),
        ("bytes=100-99999999999", 100..n),
    ] {
        let reply = ask(&server, &image, &[("range", range)]).await;
        assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(reply.body, image.bytes[part.clone()], "{range}");
        let shown = format!("bytes {}-{}/{n}", part.start, part.end - 1);
        assert_eq!(header(&reply, "content-range"), Some(shown));
        assert_eq!(
            header(&reply, "content-length"),
            Some(part.len().to_string())
        );
    }
    for range in ["bytes=0-1,4-5", "bytes=x-y", "lines=1-2", "bytes=9-1"] {
        let reply = ask(&server, &image, &[("range", range)]).await;
        assert_eq!(
            (reply.status, reply.body.len()),
            (StatusCode::OK, n),
            "{range}"
        );
    }
    let beyond = format!("bytes={n}-");
    let reply = ask(&server, &image, &[("range", &beyond)]).await;
    let (code, field, _) = reply.problem(416);
    assert_eq!(
        (code.as_str(), field.as_deref()),
        ("range_not_satisfiable", Some("range"))
    );
    assert_eq!(
        header(&reply, "content-range"),
        Some(format!("bytes */{n}"))
    );
}

#[tokio::test]
async fn a_part_of_other_bytes_is_not_given() {
    let server = Server::start(Setup::default()).await;
    let image = Image::new("1.0.5");
    server.release(&image).await;
    let same = format!("\"{}\"", image.sha256);
    for (etag, status) in [
        (same.as_str(), StatusCode::PARTIAL_CONTENT),
        ("\"other\"", StatusCode::OK),
        ("Wed, 21 Oct 2026 07:28:00 GMT", StatusCode::OK),
    ] {
        let reply = ask(
            &server,
            &image,
            &[("range", "bytes=10-"), ("if-range", etag)],
        )
        .await;
        assert_eq!(reply.status, status, "{etag}");
    }
}

#[tokio::test]
async fn what_is_sent_is_counted_for_the_attempt() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        story.device.check_in(&server).await.install();
        let n = story.new.bytes.len() as u64;
        let id = ("device-id", "ESP32-001");
        ask(&server, &story.new, &[id]).await;
        ask(&server, &story.new, &[id, ("range", "bytes=0-99")]).await;
        ask(&server, &story.new, &[]).await;
        ask(&server, &story.new, &[("device-id", "../../x")]).await;
        let attempt = server
            .show_device("ESP32-001")
            .await
            .attempt
            .expect("an attempt");
        assert_eq!((attempt.bytes_sent, attempt.requests), (n + 100, 2));
        let detail = server.show_rollout(story.rollout.id).await;
        assert_eq!(detail.rollout.bytes_sent, n + 100);
    })
    .await;
}

/// Bug museum 8: the seed holds one firmware, and an upload replaces it under a download.
#[tokio::test]
async fn upload_during_download_does_not_mix_images() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        let order = story.device.check_in(&server).await.install();
        let mut taken = Vec::new();
        let pieces = 8;
        let piece = story.new.bytes.len().div_ceil(pieces);
        for number in 0..pieces {
            let range = format!("bytes={}-{}", number * piece, (number + 1) * piece - 1);
            let reply = ask(&server, &story.new, &[("range", &range)]).await;
            taken.extend(reply.body);
            // Meanwhile another version arrives, and a rollout of it to somebody else begins.
            let other = Image::new(&format!("2.0.{number}"));
            server.release(&other).await;
            let request = json!({"release": other.version, "to": [format!("other-{number}")]});
            server.rollout(request).await;
            let told = story
                .device
                .reports(&server, order, Phase::Downloading, 1)
                .await;
            let Some(Ordered::Install { image, .. }) = told.order else {
                panic!("the order stands: {told:?}");
            };
            assert_eq!(image, story.new.sha256);
        }
        assert_eq!(fota_server::blobs::digest(&taken), story.new.sha256);
    })
    .await;
}

#[tokio::test]
async fn a_damaged_file_is_never_given_out() {
    let server = Server::start(Setup::default()).await;
    let image = Image::new("1.0.5");
    server.release(&image).await;
    let hex = image.sha256.to_string();
    let path = server.data.join("blobs").join(&hex[..2]).join(&hex);
    let mut bytes = std::fs::read(&path).expect("there");
    bytes[5000] ^= 1;
    std::fs::write(&path, &bytes).expect("written");
    let (code, _, _) = ask(&server, &image, &[]).await.problem(500);
    assert_eq!(code, "artifact_store");
}

#[tokio::test]
async fn an_unknown_or_a_bad_name_is_refused() {
    let server = Server::start(Setup::default()).await;
    let get = async |name: &str| {
        let url = format!("{}/d/v1/blobs/{name}", server.base);
        Reply::of(server.http.request(Method::GET, url)).await
    };
    let (code, field, _) = get(&"0".repeat(64)).await.problem(404);
    assert_eq!(
        (code.as_str(), field.as_deref()),
        ("not_found", Some("sha256"))
    );
    for bad in ["abc", "..%2f..%2foperator-token", "%00", "%ff"] {
        let (code, _, _) = get(bad).await.problem(400);
        assert_eq!(code, "field_invalid", "{bad}");
    }
}
