//! A server and devices that speak the seed's API, for the tests of it.

use base64::{Engine, engine::general_purpose::STANDARD};
use fota_image::{app::Chip, build::ImageBuilder};
use serde_json::{Value, json};
use sha2::Digest;

use fota_server::{Clock, Config, Running, start};

use crate::support::{NOON, TOKEN, http};

/// The synthetic key of the seed's test vectors.
pub const PSK: [u8; 32] = {
    let mut key = [0; 32];
    let mut i = 0;
    while i < 32 {
        key[i] = i as u8;
        i += 1;
    }
    key
};

/// A reply: status, content length, JSON.
pub struct Reply {
    pub status: u16,
    pub content_length: Option<u64>,
    pub json: Value,
}

impl Reply {
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.json);
        self.json
    }

    /// The `error` of a refusal with this status.
    pub fn error(&self, status: u16) -> &str {
        assert_eq!(self.status, status, "{}", self.json);
        self.json["error"].as_str().expect("an error is a sentence")
    }
}

/// The server under test.
pub struct Bench {
    running: Running,
    config: Config,
    pub clock: Clock,
    pub http: reqwest::Client,
    _data: tempfile::TempDir,
}

impl Bench {
    /// With the key of the vectors, the operator paths open.
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let mut config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            legacy_open: true,
            legacy_psk: Some(PSK),
            operator_token: Some(TOKEN.to_owned()),
            ..Config::new(data.path())
        };
        change(&mut config);
        let clock = Clock::manual(NOON);
        let running = start(config.clone(), clock.clone()).await;
        Self {
            running: running.unwrap_or_else(|error| panic!("{error}")),
            config,
            clock,
            http: http(),
            _data: data,
        }
    }

    /// Ends the server and starts another on what it stored.
    pub async fn restarted(self) -> Self {
        self.running.shutdown().await;
        let running = start(self.config.clone(), self.clock.clone()).await;
        let running = running.unwrap_or_else(|error| panic!("{error}"));
        Self { running, ..self }
    }

    /// Sends bytes as they are and reads until the server closes; ask for `Connection: close`.
    pub async fn raw(&self, request: &str) -> String {
        use std::io::{Read, Write};
        let (addr, request) = (self.running.addr, request.to_owned());
        let reading = tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(addr).expect("connects");
            stream.write_all(request.as_bytes()).expect("sent");
            let mut reply = String::new();
            stream.read_to_string(&mut reply).expect("read");
            reply
        });
        reading.await.expect("a reply")
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running.addr)
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Reply {
        let response = request.send().await.expect("the server answers");
        let header = response.headers().get("content-length").cloned();
        let content_length = header.and_then(|value| value.to_str().ok()?.parse().ok());
        let status = response.status().as_u16();
        let bytes = response.bytes().await.expect("a body");
        let json = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| panic!("{status}: {}", String::from_utf8_lossy(&bytes)));
        Reply {
            status,
            content_length,
            json,
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(self.http.get(self.url(path))).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(self.http.post(self.url(path)).json(&body)).await
    }

    /// A call of the manager API, as the operator.
    pub async fn manage(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Value {
        let mut request = self.http.request(method, self.url(path)).bearer_auth(TOKEN);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let reply = self.send(request).await;
        assert!(reply.status < 300, "{}: {}", reply.status, reply.json);
        reply.json
    }

    /// Uploads through the manager API.
    pub async fn upload_natively(&self, image: &[u8]) -> Value {
        let request = self
            .http
            .post(self.url("/api/v1/releases"))
            .bearer_auth(TOKEN)
            .header("content-type", "application/octet-stream")
            .body(image.to_vec());
        let reply = self.send(request).await;
        assert_eq!(reply.status, 201, "{}", reply.json);
        reply.json
    }

    pub async fn roll_out(&self, version: &str, to: &str) -> Value {
        let body = json!({ "release": version, "to": [to] });
        self.manage(reqwest::Method::POST, "/api/v1/rollouts", Some(body))
            .await
    }

    pub async fn upload(&self, version: &str, image: &[u8], chunk_size: u32) -> Reply {
        let body = upload_body(version, image, chunk_size);
        self.post("/api/cloud/fota/upload", body).await
    }

    pub async fn device_record(&self, id: &str) -> Value {
        let status = self.get("/api/cloud/fota/status").await.ok();
        status["device_status"][id].clone()
    }

    /// The device as the manager API shows it.
    pub async fn device(&self, id: &str) -> Value {
        self.manage(reqwest::Method::GET, &format!("/api/v1/devices/{id}"), None)
            .await
    }

    /// One native check-in; gives whether an install, a rollback, or nothing is ordered.
    pub async fn native_check_in(&self, id: &str, version: &str) -> &'static str {
        use fota_proto::checkin::{Action, Answer, CheckIn, encode};
        let elf = fota_proto::Sha256([0x55; 32]);
        let check_in = CheckIn {
            chip: Chip::Esp32.id(),
            rollback_slot: Some(1),
            ..CheckIn::idle(id, "fota", version, elf)
        };
        let mut buffer = [0; 1024];
        let body = encode(&check_in, &mut buffer).expect("fits").to_vec();
        let request = self.http.post(self.url("/d/v1/check-in"));
        let request = request
            .header("content-type", "application/cbor")
            .body(body);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        let bytes = response.bytes().await.expect("a body");
        let answer: Answer = minicbor::decode(&bytes).expect("an answer");
        match answer.order.map(|order| order.action) {
            Some(Action::Install(_)) => "install",
            Some(Action::Rollback(_)) => "rollback",
            Some(Action::Cancel) => "cancel",
            None => "nothing",
        }
    }

    pub fn seed_device<'b>(&'b self, id: &str) -> SeedDevice<'b> {
        SeedDevice {
            bench: self,
            id: Some(id.to_owned()),
        }
    }

    /// A device as the seed's real firmware: it sends no `Device-ID`.
    pub fn nameless_device(&self) -> SeedDevice<'_> {
        SeedDevice {
            bench: self,
            id: None,
        }
    }
}

/// A device that speaks only the seed's API.
pub struct SeedDevice<'b> {
    bench: &'b Bench,
    id: Option<String>,
}

impl SeedDevice<'_> {
    fn identified(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.id {
            Some(id) => request.header("Device-ID", id),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        let request = self.bench.http.get(self.bench.url(path));
        self.bench.send(self.identified(request)).await
    }

    pub async fn post_status(&self, status: Value) -> Reply {
        let request = self
            .bench
            .http
            .post(self.bench.url("/api/inverter/fota/status"));
        let request = request.json(&json!({ "fota_status": status }));
        self.bench.send(self.identified(request)).await
    }

    pub async fn boots(&self, version: &str) {
        let status = json!({ "boot_status": "success", "new_version": version });
        let reply = self.post_status(status).await.ok();
        assert_eq!(reply, json!({ "status": "success" }));
    }

    /// The manifest, or null for `{}`.
    pub async fn manifest(&self) -> Value {
        let reply = self.get("/api/inverter/fota/manifest").await.ok();
        if reply == json!({}) {
            return Value::Null;
        }
        reply["fota"]["manifest"].clone()
    }

    pub async fn chunk(&self, number: u64) -> Reply {
        self.get(&format!("/api/inverter/fota/chunk?chunk_number={number}"))
            .await
    }

    /// Takes chunk `number`, checking what the seed's device checks.
    pub async fn take(&self, number: u64) -> Vec<u8> {
        let chunk = self.chunk(number).await.ok();
        assert_eq!(chunk["chunk_number"], number);
        let data = STANDARD
            .decode(chunk["data"].as_str().expect("base64"))
            .expect("base64");
        assert_eq!(chunk["size"], data.len());
        assert_eq!(chunk["mac"], mac(&data));
        data
    }

    pub async fn is_ordered_back(&self) -> bool {
        let reply = self.get("/api/inverter/fota/rollback-status").await.ok();
        reply["rollback_required"].as_bool().expect("a bool")
    }

    /// Downloads what `manifest` names, up to the restart; gives the bytes and the requests made.
    pub async fn installs(&self, manifest: &Value) -> (Vec<u8>, u64) {
        let size = manifest["size"].as_u64().expect("a number");
        let chunk_size = manifest["chunk_size"].as_u64().expect("a number");
        let total = size.div_ceil(chunk_size);
        let mut image = Vec::new();
        for number in 0..total {
            image.extend(self.take(number).await);
        }
        let progress = json!({"chunk_received": total, "total_chunks": total, "progress": 100.0});
        self.post_status(progress).await.ok();
        self.post_status(json!({ "verified": true })).await.ok();
        let version = &manifest["version"];
        let restart = json!({ "boot_status": "pending_reboot", "new_version": version });
        self.post_status(restart).await.ok();
        assert_eq!(
            manifest["hash"],
            hex_sha256(&image),
            "an image that never existed"
        );
        (image, total)
    }
}

pub fn upload_body(version: &str, image: &[u8], chunk_size: u32) -> Value {
    json!({
        "version": version, "size": image.len(), "hash": hex_sha256(image),
        "chunk_size": chunk_size, "firmware_data": STANDARD.encode(image),
        "description": "what changed",
    })
}

/// An image that a chip would boot.
pub fn image(version: &str, bytes: usize) -> Vec<u8> {
    let builder = ImageBuilder::new(Chip::Esp32).version(version);
    builder.size(bytes).build().expect("an image of this size")
}

/// The 40,000 bytes of the seed's test vectors; no image.
pub fn vector_file() -> Vec<u8> {
    let mut file: Vec<u8> = (0..40_000usize).map(|i| (7 * i) as u8).collect();
    file[0] = 0xe9;
    file
}

pub fn hex_sha256(bytes: &[u8]) -> String {
    fota_proto::Sha256(sha2::Sha256::digest(bytes).into()).to_string()
}

/// HMAC-SHA256 written out, so that the test does not trust the server's library call.
fn mac(message: &[u8]) -> String {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block
            .iter_mut()
            .zip(PSK)
            .for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = sha2::Sha256::new()
        .chain_update(pad(0x36))
        .chain_update(message)
        .finalize();
    let outer = sha2::Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner)
        .finalize();
    fota_proto::Sha256(outer.into()).to_string()
}
