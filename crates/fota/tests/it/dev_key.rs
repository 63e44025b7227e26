//! What `fota upload` does with an image that nobody has signed, against a server that wants
//! signatures: as much of one as is needed.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use fota_proto::signed::{
    Root, Sealed,
    bundle::Bundle,
    sign::{P256Key, Signer},
};
use fota_sim::firmware::Behaviour;
use serde_json::json;
use sha2::Digest;

use crate::harness::{Place, Ran};

/// What the server was given.
#[derive(Default)]
struct Given {
    root: Option<Vec<u8>>,
    uploads: Vec<Vec<u8>>,
}

type Shared = Arc<Mutex<Given>>;

struct Server {
    url: String,
    given: Shared,
    _runtime: tokio::runtime::Runtime,
}

fn online_key() -> String {
    let key = P256Key::new(&[9; 32]).expect("in range");
    key.public()
        .bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

async fn server() -> String {
    json!({
        "version": "test", "database": "none", "legacy_open": false, "lab": false, "poll_s": 1,
        "online_key": online_key(), "root_version": 0,
    })
    .to_string()
}

async fn current(State(given): State<Shared>) -> Response {
    match &given.lock().expect("not poisoned").root {
        Some(root) => root.clone().into_response(),
        None => {
            let problem = json!({"type": "about:blank", "title": "", "status": 404,
                "detail": "no root yet", "code": "not_found"});
            (StatusCode::NOT_FOUND, problem.to_string()).into_response()
        }
    }
}

async fn publish(State(given): State<Shared>, body: Bytes) -> (StatusCode, String) {
    given.lock().expect("not poisoned").root = Some(body.to_vec());
    let root = json!({
        "version": 1, "digest": "0".repeat(64), "keys": [], "expires": null, "product": null,
        "thresholds": {"root": 1, "release": 1, "online": 1}, "added_at": 0,
    });
    (StatusCode::CREATED, root.to_string())
}

async fn upload(State(given): State<Shared>, body: Bytes) -> String {
    let image = Bundle::parse(&body).expect("a bundle").image.to_vec();
    given
        .lock()
        .expect("not poisoned")
        .uploads
        .push(body.to_vec());
    let sha256: String = sha2::Sha256::digest(&image)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    json!({
        "id": 1, "version": "1.0.6", "project": "acme", "chip": "esp32", "bytes": image.len(),
        "sha256": sha256, "elf_sha256": null, "idf_version": null, "secure_version": 0,
        "chip_revision_min": 0, "chip_revision_max": null, "notes": "", "uploaded_at": 0,
        "yanked": false, "lab": false, "running_on": 0,
    })
    .to_string()
}

impl Server {
    fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let given = Shared::default();
        let app = Router::new()
            .route("/api/v1/server", get(server))
            .route("/api/v1/roots/current", get(current))
            .route("/api/v1/roots", post(publish))
            .route("/api/v1/releases", post(upload))
            .route(
                "/api/v1/products/{name}/signing",
                get(|| async { json!({"name": "acme", "unsigned": false}).to_string() }),
            )
            .with_state(given.clone());
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self {
            url,
            given,
            _runtime: runtime,
        }
    }

    fn fota(&self, place: &Place, args: &[&str]) -> Ran {
        let mut command = place.command(args);
        command.args(["--server", &self.url, "--token", "t"]);
        Ran::of(command.output().expect("the program starts"))
    }

    /// The last bundle is trusted under the root that was published.
    #[track_caller]
    fn assert_trusted(&self, uploads: usize) {
        let given = self.given.lock().expect("not poisoned");
        let root = given.root.as_deref().expect("a root");
        let root = Root::first(root).expect("signed");
        assert_eq!(given.uploads.len(), uploads);
        let bundle = Bundle::parse(given.uploads.last().expect("one")).expect("a bundle");
        assert_eq!(
            root.release(bundle.release).expect("trusted").sequence,
            1_000_006
        );
        assert!(!Sealed::looks_like(bundle.image));
    }
}

#[test]
fn a_newcomer_gets_a_development_key_and_a_loud_warning() {
    let (server, place) = (Server::start(), Place::new());
    let image = place.firmware("1.0.6", Behaviour::Works);
    let first = server.fota(&place, &["upload", &image]).exits(0);
    for text in [
        "DEVELOPMENT KEY",
        "unprotected",
        "anyone with this file",
        "fota key generate",
    ] {
        assert!(first.err.contains(text), "no {text:?} in {}", first.err);
    }
    server.assert_trusted(1);
    assert!(place.path().join("config/fota/keys/dev.pem").is_file());
    // From then on it is just used.
    let again = server.fota(&place, &["upload", &image]).exits(0);
    assert!(!again.err.contains("DEVELOPMENT KEY"), "{}", again.err);
    server.assert_trusted(2);
}

#[test]
fn where_other_keys_count_an_unsigned_image_is_refused_with_the_command() {
    let (server, place, elsewhere) = (Server::start(), Place::new(), Place::new());
    let image = place.firmware("1.0.6", Behaviour::Works);
    // Somebody with a key of their own sets the server up, from its own word about its key.
    for name in ["boss", "lab"] {
        let generate = ["key", "generate", name, "--no-passphrase"];
        elsewhere.run(&generate).exits(0);
    }
    let init = [
        "key",
        "root",
        "init",
        "--root",
        "boss",
        "--release",
        "lab",
        "--online",
        "@server",
    ];
    server.fota(&elsewhere, &init).exits(0).says("fully signed");
    let root = elsewhere.path().join("config/fota/keys/root-1.cose");
    let root = root.to_str().expect("text");
    let publish = ["key", "root", "publish", root];
    server
        .fota(&elsewhere, &publish)
        .exits(0)
        .says("trusts root 1 now");
    server.fota(&elsewhere, &publish).exits(0).says("already");
    let refused = server.fota(&place, &["upload", &image]).exits(7);
    let refused = refused.complains("fota release sign app-1.0.6.bin --key");
    assert!(!refused.err.contains("DEVELOPMENT"), "{}", refused.err);
    // A bundle is carried, by whoever has no key.
    elsewhere.write(
        &image,
        &std::fs::read(place.path().join(&image)).expect("there"),
    );
    elsewhere
        .run(&["release", "sign", &image, "--key", "lab"])
        .exits(0);
    let bundle = std::fs::read(elsewhere.path().join("app-1.0.6.fota")).expect("signed");
    place.write("app-1.0.6.fota", &bundle);
    server
        .fota(&place, &["upload", "app-1.0.6.fota"])
        .exits(0)
        .says("1.0.6");
    server.assert_trusted(1);
}
