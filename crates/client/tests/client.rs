//! The client against servers that behave, and against some that do not.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use fota_client::{Client, DeviceClient, DeviceFilter, Error, Incoming};
use fota_proto::{Sha256, manager::ReleaseUpload};
use serde_json::{Value, json};

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn client(base: &str) -> Client {
    Client::new(base, Some("secret".to_owned())).expect("a URL")
}

fn problem(status: u16, code: &str) -> Response {
    let body = json!({"type": format!("about:blank#{code}"), "title": "No", "status": status,
        "detail": "what is wrong", "code": code});
    let status = StatusCode::from_u16(status).expect("a status");
    (
        status,
        [(header::CONTENT_TYPE, "application/problem+json")],
        body.to_string(),
    )
        .into_response()
}

fn device(id: &str) -> Value {
    json!({"id": id, "groups": [], "chip": null, "project": null, "version": null,
        "elf_sha256": null, "confirmed": null, "slot": null, "rollback_version": null,
        "rollback_available": false, "protocol": "native", "presence": "online",
        "last_seen": 1, "first_seen": 1, "warning": null, "attempt": null, "rollback": null,
        "blocked": []})
}

fn event(id: i64) -> String {
    let data = json!({"id": id, "at": 1, "kind": "device.seen", "device": "d", "rollout": null,
        "release": null, "actor": "device", "text": "seen", "state": null});
    format!("id: {id}\nevent: device.seen\ndata: {data}\n\n")
}

#[tokio::test]
async fn a_refusal_is_handed_on_as_the_problem_it_is() {
    let router = Router::new()
        .route(
            "/api/v1/server",
            get(|| async { problem(401, "unauthorized") }),
        )
        .route(
            "/api/v1/fleet/summary",
            get(|| async { (StatusCode::BAD_GATEWAY, "<html>") }),
        );
    let client = client(&serve(router).await);
    let Err(Error::Problem(problem)) = client.server().await else {
        panic!("a problem was expected");
    };
    assert_eq!(
        (problem.status, problem.code.as_str()),
        (401, "unauthorized")
    );
    let error = client.fleet_summary().await.expect_err("no problem body");
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let error = client(&base).server().await.expect_err("nobody there");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_list_is_read_to_its_last_page() {
    async fn page(Query(query): Query<std::collections::HashMap<String, String>>) -> Json<Value> {
        assert_eq!(query.get("group").map(String::as_str), Some("lab"));
        let (ids, next) = match query.get("after").map(String::as_str) {
            None => (["a", "b"], Some("b")),
            Some("b") => (["c", "d"], None),
            Some(other) => panic!("asked after {other}"),
        };
        Json(json!({"items": ids.map(device), "next": next}))
    }
    let client = client(&serve(Router::new().route("/api/v1/devices", get(page))).await);
    let filter = DeviceFilter {
        filter: None,
        group: Some("lab".to_owned()),
        state: None,
    };
    let devices = client.devices(&filter).await.expect("listed");
    let ids: Vec<&str> = devices.iter().map(|device| device.id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn an_upload_sends_its_length_and_tells_its_progress() {
    async fn take(headers: HeaderMap, body: Bytes) -> Response {
        assert_eq!(headers[header::CONTENT_LENGTH], body.len().to_string());
        assert_eq!(headers[header::AUTHORIZATION], "Bearer secret");
        problem(400, "image_invalid")
    }
    let base = serve(Router::new().route("/api/v1/releases", post(take))).await;
    let last = Arc::new(AtomicU64::new(0));
    let seen = last.clone();
    let image = Bytes::from(vec![7; 1_000_000]);
    let done = client(&base)
        .upload(image, &ReleaseUpload::default(), move |bytes| {
            assert!(
                bytes >= seen.swap(bytes, Ordering::Relaxed),
                "progress never goes back"
            );
        })
        .await;
    assert_eq!(
        done.expect_err("refused")
            .problem()
            .map(|it| it.code.as_str()),
        Some("image_invalid")
    );
    assert_eq!(last.load(Ordering::Relaxed), 1_000_000);
}

#[tokio::test]
async fn the_event_stream_goes_on_after_the_last_event_it_saw() {
    type Asked = Arc<Mutex<Vec<Option<String>>>>;
    async fn stream(State(asked): State<Asked>, headers: HeaderMap) -> Response {
        let id = headers
            .get("last-event-id")
            .map(|id| id.to_str().expect("text").to_owned());
        let mut asked = asked.lock().expect("not poisoned");
        asked.push(id);
        // Each connection carries one event and breaks inside the next.
        let first = asked.len() as i64;
        let body = format!("{}id: 9\ndata: {{\"id\"", event(first));
        (
            [(header::CONTENT_TYPE, "text/event-stream")],
            Body::from(body),
        )
            .into_response()
    }
    let asked = Asked::default();
    let router = Router::new()
        .route("/api/v1/events/stream", get(stream))
        .with_state(asked.clone());
    let mut stream = client(&serve(router).await).event_stream(None, Some(0));
    let mut ids = Vec::new();
    while ids.len() < 3 {
        if let Incoming::Event(event) = stream.next().await.expect("goes on") {
            ids.push(event.id);
        }
    }
    assert_eq!(ids, [1, 2, 3]);
    let asked = asked.lock().expect("not poisoned").clone();
    let expected = [Some("0"), Some("1"), Some("2")].map(|id| id.map(str::to_owned));
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn the_event_stream_ends_where_trying_again_would_not_help() {
    let router = Router::new().route(
        "/api/v1/events/stream",
        get(|| async { problem(401, "unauthorized") }),
    );
    let mut stream = client(&serve(router).await).event_stream(None, None);
    assert!(matches!(stream.next().await, Err(Error::Problem(_))));
}

/// Serves `BLOB`, as the query-free path says it should be served.
async fn blob(headers: HeaderMap, State(kind): State<&'static str>) -> Response {
    const BLOB: &[u8] = b"0123456789";
    let asked = headers.get(header::RANGE).is_some();
    match (kind, asked) {
        ("good", true) => (
            StatusCode::PARTIAL_CONTENT,
            [(header::CONTENT_RANGE, "bytes 4-9/10")],
            &BLOB[4..],
        )
            .into_response(),
        ("shifted", true) => (
            StatusCode::PARTIAL_CONTENT,
            [(header::CONTENT_RANGE, "bytes 3-9/10")],
            &BLOB[3..],
        )
            .into_response(),
        _ => BLOB.into_response(),
    }
}

async fn device_client(kind: &'static str) -> DeviceClient {
    let router = Router::new()
        .route("/d/v1/blobs/{sha256}", get(blob))
        .with_state(kind);
    DeviceClient::new(&serve(router).await, Some("d".to_owned())).expect("a URL")
}

#[tokio::test]
async fn a_blob_resumes_only_with_the_bytes_that_were_asked_for() {
    let sha256 = Sha256([1; 32]);
    let good = device_client("good").await;
    let mut rest = good.blob(&sha256, 4..10).await.expect("served");
    let mut bytes = Vec::new();
    while let Some(chunk) = rest.chunk().await.expect("whole") {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(
        (bytes.as_slice(), rest.total(), rest.position()),
        (&b"456789"[..], 10, 10)
    );
    for kind in ["shifted", "whole"] {
        let error = device_client(kind)
            .await
            .blob(&sha256, 4..10)
            .await
            .expect_err("refused");
        assert!(matches!(error, Error::Protocol { .. }), "{kind}: {error}");
    }
    let whole = device_client("whole")
        .await
        .blob(&sha256, 0..10)
        .await
        .expect("served");
    assert_eq!(whole.total(), 10);
}
