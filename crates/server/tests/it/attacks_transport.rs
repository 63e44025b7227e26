//! Peers that try to take the server away from others, below the level of requests.

use std::{net::SocketAddr, time::Duration};

use fota_server::http::{Limits, Proxies, ProxyHeader};
use reqwest::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::support::*;

/// Slow peers at the same time.
const CROWD: usize = 300;
/// A healthy client waits no longer than this, whoever else is there.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Only a hang takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server's limits, shortened so that a test can wait for them.
fn short() -> Limits {
    Limits {
        idle: Duration::from_secs(4),
        head: Duration::from_secs(1),
        body_grace: Duration::from_secs(1),
        ..Limits::default()
    }
}

async fn connect(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr).await.expect("connects")
}

/// Reads until the server closes; what came, and after how long.
async fn until_closed(stream: &mut TcpStream) -> (Vec<u8>, Duration) {
    let (started, mut all) = (Instant::now(), Vec::new());
    // A reset is an end as well.
    let read = timeout(PATIENCE, stream.read_to_end(&mut all)).await;
    drop(read.expect("the server must close this"));
    (all, started.elapsed())
}

async fn assert_served(server: &Server) {
    let started = Instant::now();
    let reply = server.get("/api/v1/fleet/summary").await;
    assert_eq!(reply.status, StatusCode::OK);
    let device = TestDevice::running("HEALTHY", &Image::new("1.0.5"));
    assert_eq!(
        post_cbor(server, device.message()).await.status,
        StatusCode::OK
    );
    let took = started.elapsed();
    assert!(took < ANSWER_MAX, "{took:?} for two requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_loris_is_cut_off() {
    let server = Server::start_with(|config| config.limits = short()).await;
    let addr = server.running.addr;
    let mut crowd = tokio::task::JoinSet::new();
    for number in 0..CROWD {
        // One after another: the kernel forgets those that the accept queue has no place for.
        let mut stream = connect(addr).await;
        tokio::task::yield_now().await;
        crowd.spawn(async move {
            let line = b"POST /d/v1/check-in HTTP/1.1\r\nhost: x\r\nx-a: ";
            // Some say nothing at all, the others a byte at a time and never an end.
            if number % 3 != 0 {
                stream.write_all(line).await.expect("written");
            }
            let (mut from, mut to) = stream.into_split();
            let dripping = tokio::spawn(async move {
                while number % 3 == 2 && to.write_all(b"a").await.is_ok() {
                    sleep(Duration::from_millis(100)).await;
                }
                std::future::pending::<()>().await;
            });
            let started = Instant::now();
            let mut bytes = Vec::new();
            let read = timeout(PATIENCE, from.read_to_end(&mut bytes)).await;
            drop(read.unwrap_or_else(|_| panic!("{number} hangs")));
            dripping.abort();
            started.elapsed()
        });
    }
    sleep(Duration::from_millis(300)).await;
    assert_served(&server).await;
    while let Some(took) = crowd.join_next().await {
        let took = took.expect("no panic");
        assert!(took < Duration::from_secs(4), "cut off only after {took:?}");
    }
    assert_served(&server).await;
}

/// A device may be silent between polls for longer than it may take over a head.
#[tokio::test]
async fn an_idle_connection_lives_longer_than_a_slow_head() {
    let server = Server::start_with(|config| config.limits = short()).await;
    let mut stream = connect(server.running.addr).await;
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut buffer = [0; 4096];
    for _ in 0..2 {
        stream.write_all(request).await.expect("written");
        let read = stream.read(&mut buffer).await.expect("answered");
        assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
        sleep(Duration::from_millis(1800)).await;
    }
    // The second head is slow: it has as long as the first.
    stream.write_all(&request[..10]).await.expect("written");
    let (_, took) = until_closed(&mut stream).await;
    assert!(took < Duration::from_secs(3), "cut off only after {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_body_is_cut_off() {
    let server = Server::start_with(|config| config.limits = short()).await;
    let addr = server.running.addr;
    let head = format!(
        "POST /d/v1/check-in HTTP/1.1\r\nhost: x\r\ncontent-type: application/cbor\r\n\
         authorization: Bearer {TOKEN}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let mut crowd = tokio::task::JoinSet::new();
    for number in 0..CROWD {
        // Some upload: that may be 16 MiB long, so only its pace ends it. They take turns.
        let head = match number % 30 {
            0 => head.replace("/d/v1/check-in", "/api/v1/releases"),
            _ => head.clone(),
        };
        crowd.spawn(async move {
            let mut stream = connect(addr).await;
            stream.write_all(head.as_bytes()).await.expect("written");
            let (mut from, mut to) = stream.into_split();
            let dripping = tokio::spawn(async move {
                while to.write_all(b"1\r\nx\r\n").await.is_ok() {
                    sleep(Duration::from_millis(100)).await;
                }
            });
            let started = Instant::now();
            let mut bytes = Vec::new();
            drop(
                timeout(PATIENCE, from.read_to_end(&mut bytes))
                    .await
                    .expect("closed"),
            );
            dripping.abort();
            (number, bytes, started.elapsed())
        });
    }
    sleep(Duration::from_millis(300)).await;
    assert_served(&server).await;
    let mut refused = 0;
    while let Some(result) = crowd.join_next().await {
        let (number, bytes, took) = result.expect("no panic");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        refused += usize::from(text.starts_with("HTTP/1.1 408") && text.contains("body_too_slow"));
        if number % 30 != 0 {
            assert!(took < Duration::from_secs(5), "cut off only after {took:?}");
        }
    }
    assert!(
        refused * 10 > CROWD * 9,
        "{refused} of {CROWD} were told why"
    );
    assert_served(&server).await;
}

#[tokio::test]
async fn a_fast_endless_body_ends_at_the_limit() {
    let server = Server::start_with(|config| config.limits = short()).await;
    let mut stream = connect(server.running.addr).await;
    let head = "POST /d/v1/check-in HTTP/1.1\r\nhost: x\r\ncontent-type: application/cbor\r\n\
                transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("written");
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let mut sent = 0;
    while sent < 64 * 1024 * 1024 {
        let Ok(Ok(())) = timeout(PATIENCE, stream.write_all(chunk.as_bytes())).await else {
            break;
        };
        sent += 0x1000;
    }
    assert!(sent < 16 * 1024 * 1024, "the server swallowed {sent} bytes");
}

#[tokio::test]
async fn an_endless_head_is_refused() {
    let server = Server::start_with(|config| config.limits = short()).await;
    let mut stream = connect(server.running.addr).await;
    let start = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: ";
    stream.write_all(start).await.expect("written");
    let writing = async {
        for _ in 0..1024 {
            if stream.write_all(&[b'a'; 1024]).await.is_err() {
                break;
            }
        }
    };
    timeout(PATIENCE, writing).await.expect("ends");
    let (answer, _) = until_closed(&mut stream).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        text.is_empty() || text.starts_with("HTTP/1.1 431"),
        "{text}"
    );
    assert_served(&server).await;
}

/// Someone who asks for a large image and takes nothing of it.
#[tokio::test]
async fn a_reader_that_never_reads_is_cut_off() {
    let limits = Limits {
        write_stall: Duration::from_secs(1),
        ..short()
    };
    let server = Server::start_with(|config| config.limits = limits).await;
    let builder = fota_image::build::ImageBuilder::new(fota_image::app::Chip::Esp32C3);
    let image = Image::built("2.0.0", builder.project(PROJECT).size(12 * 1024 * 1024));
    server.release(&image).await;
    let mut stream = connect(server.running.addr).await;
    let head = format!(
        "GET /d/v1/blobs/{} HTTP/1.1\r\nhost: x\r\n\r\n",
        image.sha256
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    sleep(Duration::from_secs(4)).await;
    let (bytes, _) = until_closed(&mut stream).await;
    assert!(
        bytes.len() < image.bytes.len(),
        "it got all {} bytes",
        bytes.len()
    );
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let limits = Limits {
        connections_per_address_max: 20,
        ..Limits::default()
    };
    let server = Server::start_with(|config| config.limits = limits).await;
    let addr = server.running.addr;
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(connect(addr).await);
    }
    sleep(Duration::from_millis(200)).await;
    let (answer, _) = until_closed(&mut connect(addr).await).await;
    assert!(answer.is_empty());
    held.clear();
    sleep(Duration::from_millis(300)).await;
    assert_served(&server).await;
}

/// A proxy's connections are its clients' and are not counted.
#[tokio::test]
async fn a_trusted_proxy_may_have_more_connections() {
    let limits = Limits {
        connections_per_address_max: 2,
        ..Limits::default()
    };
    let loopback = ["127.0.0.0/8".to_owned()];
    let proxies = Proxies::parse(&loopback, ProxyHeader::default()).expect("a network");
    let server = Server::start_with(|config| {
        config.limits = limits;
        config.proxies = proxies;
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(connect(server.running.addr).await);
    }
    assert_served(&server).await;
}

/// Nothing is ever decoded, so a small body cannot become a large one.
#[tokio::test]
async fn a_decompression_bomb_is_refused() {
    let server = Server::start(Setup::default()).await;
    // 16 MiB of zeros in a kilobyte or so would be next; what is in it does not matter here.
    let bomb = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3].to_vec();
    let paths = [
        "/api/v1/releases",
        "/d/v1/check-in",
        "/api/v1/groups",
        "/api/cloud/fota/upload",
        "/api/device/status",
    ];
    for path in paths {
        for encoding in ["gzip", "br", "zstd", "deflate, gzip", "x"] {
            let request = server.request(reqwest::Method::POST, path);
            let request = request
                .header("content-encoding", encoding)
                .body(bomb.clone());
            let (code, field, _) = Reply::of(request).await.problem(415);
            assert_eq!(code, "content_encoding", "{path} {encoding}");
            assert_eq!(field.as_deref(), Some("content-encoding"));
        }
    }
    let image = Image::new("1.0.5");
    let request = server.request(reqwest::Method::POST, "/api/v1/releases");
    let request = request.header("content-encoding", "identity");
    let reply = Reply::of(request.body(image.bytes)).await;
    assert_eq!(reply.status, StatusCode::CREATED);
}

/// What a page says about its own address shows whom the server believes.
#[tokio::test]
async fn spoofed_proxy_headers_are_ignored() {
    let spoofed = [
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "for=203.0.113.7;proto=https;host=evil.example"),
    ];
    let page = async |server: &Server, headers: &[(&str, &str)]| {
        let mut request = server.request(reqwest::Method::GET, "/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        String::from_utf8(Reply::of(request).await.body).expect("text")
    };
    let direct = Server::start(Setup::default()).await;
    let html = page(&direct, &spoofed).await;
    assert!(
        html.contains(&direct.base) && !html.contains("evil.example"),
        "{html}"
    );
    let trusted = |header| {
        let loopback = ["127.0.0.1".to_owned()];
        Proxies::parse(&loopback, header).expect("a network")
    };
    let behind = Server::start_with(|config| {
        config.proxies = trusted(ProxyHeader::XForwarded);
    })
    .await;
    let html = page(&behind, &spoofed[..3]).await;
    assert!(
        html.contains("https://evil.example"),
        "the proxy is believed"
    );
    let html = page(&behind, &spoofed[3..]).await;
    assert!(
        !html.contains("evil.example"),
        "not its client's `Forwarded`"
    );
    let named = Server::start_with(|config| {
        config.proxies = trusted(ProxyHeader::Forwarded);
        config.public_url = Some("https://fota.example/".to_owned());
    })
    .await;
    let html = page(&named, &spoofed).await;
    assert!(html.contains("https://fota.example") && !html.contains("evil.example"));
}
