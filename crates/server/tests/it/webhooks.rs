//! `/api/v1/webhooks`, and what receivers get.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::HeaderMap, response::IntoResponse, routing::post};
use base64::{Engine, engine::general_purpose::STANDARD};
use fota_proto::notify::WebhookDelivery;
use fota_server::{domain::notify::FAILING_MAX_MS, notify::signature, store::Place};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};

use crate::support::*;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// An hour: longer than any wait between two tries.
const HOUR_MS: i64 = 3_600_000;

/// A message as a receiver got it.
#[derive(Clone, Debug)]
struct Got {
    id: String,
    at_s: i64,
    signature: String,
    body: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    fn kind(&self) -> String {
        self.json()["type"].as_str().expect("a kind").to_owned()
    }

    fn event(&self) -> i64 {
        self.json()["data"]["id"].as_i64().expect("an id")
    }

    /// As a receiver would, without the server's own code.
    fn is_signed_with(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.trim_start_matches("whsec_"));
        let mac = Hmac::<sha2::Sha256>::new_from_slice(&key.expect("base64"));
        let mut mac = mac.expect("a key");
        mac.update(format!("{}.{}.{}", self.id, self.at_s, self.body).as_bytes());
        let signature = self.signature.strip_prefix("v1,").expect("version 1");
        let signature = STANDARD.decode(signature).expect("base64");
        mac.verify_slice(&signature).is_ok()
    }
}

/// A receiver that answers with the status it is told to.
#[derive(Clone, Default)]
struct Receiver {
    status: Arc<AtomicU16>,
    got: Arc<Mutex<Vec<Got>>>,
    url: String,
}

impl Receiver {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("bound");
        let receiver = Self {
            url: format!("http://{address}/hook?key=s3cret"),
            ..Self::default()
        };
        receiver.answers(204);
        let app = Router::new().route("/hook", post(receive));
        let app = app.with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        receiver
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().expect("whole").clone()
    }

    fn kinds(&self) -> Vec<String> {
        self.got().iter().map(Got::kind).collect()
    }

    /// What has come, once it is so much.
    async fn has(&self, number: usize) -> Vec<Got> {
        for _ in 0..400 {
            if self.got().len() >= number {
                return self.got();
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{number} did not come, but {:?}", self.kinds());
    }

    /// Adds itself to a server.
    async fn joins(&self, server: &Server, name: &str, events: &[&str]) -> Value {
        let body = json!({"name": name, "url": self.url, "events": events, "secret": SECRET});
        let made = server.post("/api/v1/webhooks", body).await;
        made.value(StatusCode::CREATED)
    }
}

async fn receive(
    State(receiver): State<Receiver>,
    headers: HeaderMap,
    body: String,
) -> impl IntoResponse {
    let status = receiver.status.load(Ordering::SeqCst);
    let text = |name: &str| headers[name].to_str().expect("text").to_owned();
    assert_eq!(text("content-type"), "application/json");
    let got = Got {
        id: text("webhook-id"),
        at_s: text("webhook-timestamp").parse().expect("seconds"),
        signature: text("webhook-signature"),
        body,
    };
    receiver.got.lock().expect("whole").push(got);
    if status == 0 {
        std::future::pending::<()>().await;
    }
    let status = StatusCode::from_u16(status).expect("a status");
    (status, [(header::LOCATION, "/hook")])
}

async fn webhook(server: &Server, name: &str) -> Value {
    let page = server.get("/api/v1/webhooks").await.json();
    let items = page["items"].as_array().expect("items").clone();
    let found = items.into_iter().find(|item| item["name"] == name);
    found.expect("a webhook")
}

/// The webhook, once `holds` of it.
async fn becomes(server: &Server, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..400 {
        let now = webhook(server, name).await;
        if holds(&now) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("did not become so: {}", webhook(server, name).await);
}

async fn deliveries(server: &Server, name: &str) -> Vec<WebhookDelivery> {
    let path = format!("/api/v1/webhooks/{name}/deliveries?limit=1000");
    let page: Value = server.get(&path).await.value(StatusCode::OK);
    serde_json::from_value(page["items"].clone()).expect("deliveries")
}

async fn makes_group(server: &Server, name: &str) {
    let made = server.post("/api/v1/groups", json!({"name": name})).await;
    assert_eq!(made.status, StatusCode::CREATED);
}

#[tokio::test]
async fn events_that_match_are_delivered_signed_and_in_their_order() {
    each_database(async |server| {
        let receiver = Receiver::start().await;
        makes_group(&server, "before").await;
        let filter = ["rollout.*", "attempt.succeeded"];
        receiver.joins(&server, "ops", &filter).await;
        let mut story = Story::begin(&server).await;
        story.device.updates_to(&server, &story.new).await;
        let got = receiver.has(2).await;
        assert_eq!(receiver.kinds(), ["rollout.started", "attempt.succeeded"]);
        for message in &got {
            assert!(message.is_signed_with(SECRET), "{message:?}");
            assert!(!message.is_signed_with(&SECRET.replace('M', "N")));
            assert_eq!(message.at_s, NOON / 1000);
            assert!(
                message.json()["timestamp"]
                    .as_str()
                    .expect("a time")
                    .starts_with("2026-11-23T12")
            );
        }
        assert_eq!(got[1].json()["data"]["device"], "ESP32-001");
        assert!(got[0].event() < got[1].event());
        becomes(&server, "ops", |now| now["done_event"] == got[1].event()).await;
        let tried = deliveries(&server, "ops").await;
        assert_eq!(
            tried.iter().map(|tried| tried.event).collect::<Vec<_>>(),
            [got[1].event(), got[0].event()]
        );
        assert!(
            tried
                .iter()
                .all(|tried| tried.status == Some(204) && tried.error.is_none())
        );
    })
    .await;
}

#[tokio::test]
async fn what_fails_is_tried_again_under_the_same_id_and_nothing_overtakes_it() {
    each_database(async |server| {
        let receiver = Receiver::start().await;
        receiver.joins(&server, "ops", &["group.*"]).await;
        receiver.answers(500);
        makes_group(&server, "a").await;
        makes_group(&server, "b").await;
        let failing = becomes(&server, "ops", |now| now["attempts"] == 1).await;
        assert_eq!(failing["failing_since"], NOON);
        let wait = failing["retry_at"].as_i64().expect("a time") - NOON;
        assert!((2_500..=5_000).contains(&wait), "{wait}");
        server.clock.advance_ms(HOUR_MS);
        becomes(&server, "ops", |now| now["attempts"] == 2).await;
        receiver.answers(200);
        server.clock.advance_ms(HOUR_MS);
        let got = receiver.has(4).await;
        let ids: Vec<_> = got.iter().map(|got| got.id.as_str()).collect();
        assert_eq!(
            (ids[0], ids[1]),
            (ids[2], ids[2]),
            "the id is that of the event"
        );
        assert_ne!(ids[2], ids[3]);
        assert_eq!(got[0].body, got[2].body);
        assert!(got[2].at_s > got[0].at_s && got[2].is_signed_with(SECRET));
        let after = becomes(&server, "ops", |now| now["retry_at"].is_null()).await;
        assert_eq!(
            (&after["attempts"], &after["failing_since"]),
            (&json!(0), &Value::Null)
        );
        let tried = deliveries(&server, "ops").await;
        let story: Vec<_> = tried
            .iter()
            .rev()
            .map(|tried| (tried.attempt, tried.status))
            .collect();
        assert_eq!(
            story,
            [
                (1, Some(500)),
                (2, Some(500)),
                (3, Some(200)),
                (1, Some(200))
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn a_webhook_that_fails_for_days_is_disabled_with_an_event_and_goes_on_when_enabled() {
    each_database(async |server| {
        let receiver = Receiver::start().await;
        receiver.joins(&server, "ops", &["group.*"]).await;
        receiver.answers(503);
        makes_group(&server, "a").await;
        becomes(&server, "ops", |now| now["attempts"] == 1).await;
        server.clock.advance_ms(FAILING_MAX_MS);
        let disabled = becomes(&server, "ops", |now| now["enabled"] == false).await;
        let reason = disabled["reason"].as_str().expect("a reason");
        assert!(reason.contains("3 days"), "{reason}");
        let events = server.get("/api/v1/events?limit=1000").await.json();
        let last = events["items"].as_array().expect("items").last().cloned();
        assert_eq!(last.expect("events")["kind"], "webhook.disabled");
        makes_group(&server, "b").await;
        receiver.answers(200);
        server.clock.advance_ms(HOUR_MS);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(receiver.got().len(), 2, "disabled is disabled");
        let enabled = server.post("/api/v1/webhooks/ops/enable", json!({})).await;
        let enabled: Value = enabled.value(StatusCode::OK);
        assert_eq!(
            (&enabled["enabled"], &enabled["reason"]),
            (&json!(true), &Value::Null)
        );
        let got = receiver.has(4).await;
        assert_eq!(got[2].id, got[0].id, "what was missed comes first");
        assert!(got[3].body.contains('b'));
    })
    .await;
}

#[tokio::test]
async fn enabled_again_it_may_leave_out_what_was_missed() {
    let server = Server::start(Setup::default()).await;
    let receiver = Receiver::start().await;
    receiver.joins(&server, "ops", &["group.*"]).await;
    let why = json!({"reason": "moving house"});
    let off = server.post("/api/v1/webhooks/ops/disable", why).await;
    assert_eq!(off.json()["reason"], "moving house");
    makes_group(&server, "missed").await;
    let body = json!({"skip_missed": true});
    server.post("/api/v1/webhooks/ops/enable", body).await;
    makes_group(&server, "seen").await;
    let got = receiver.has(1).await;
    assert!(got[0].body.contains("seen"), "{}", got[0].body);
}

#[tokio::test]
async fn a_server_that_ends_in_between_leaves_nothing_out() {
    async fn leaves_nothing_out(server: Server) {
        let receiver = Receiver::start().await;
        receiver.joins(&server, "ops", &["group.*"]).await;
        // It never answers: the server ends in the middle of the delivery.
        receiver.answers(0);
        for name in ["a", "b", "c"] {
            makes_group(&server, name).await;
        }
        receiver.has(1).await;
        let server = server.restart().await;
        receiver.answers(200);
        // The clock of the second server stands where that of the first began.
        let got = receiver.has(4).await;
        assert_eq!(got[0].id, got[1].id, "sent again, under the same id");
        let events: Vec<_> = got[1..].iter().map(Got::event).collect();
        assert!(events.is_sorted() && events.len() == 3, "{events:?}");
        server.running.shutdown().await;
    }
    each_database(leaves_nothing_out).await;
}

#[tokio::test]
async fn a_webhook_is_of_one_node_until_its_lease_is_over() {
    each_database(async |server| {
        let receiver = Receiver::start().await;
        receiver.joins(&server, "ops", &["group.*"]).await;
        let store = &server.running.state.store;
        // Another node was killed in the middle of a delivery.
        let mut tx = store.write().await.expect("a turn");
        let place = tx.webhook("ops").await.expect("read").expect("there");
        let done = place.webhook.done_event;
        let leased = tx
            .lease_webhook((1, done), "killed", NOON, NOON + 60_000)
            .await;
        assert!(leased.expect("stored"));
        let again = tx
            .lease_webhook((1, done), "other", NOON, NOON + 60_000)
            .await;
        assert!(!again.expect("stored"), "two nodes at once");
        tx.commit().await.expect("stored");
        makes_group(&server, "a").await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(receiver.got().len(), 0, "the other node may still be at it");
        server.clock.advance_ms(60_000);
        let got = receiver.has(1).await;
        becomes(&server, "ops", |now| now["done_event"] == got[0].event()).await;
        let mut tx = store.write().await.expect("a turn");
        let late = tx.move_webhook(1, "killed", &Place::default(), 0).await;
        assert!(
            !late.expect("stored"),
            "it comes back and must not turn the place back"
        );
    })
    .await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_not_asked_again_and_redirects_are_not_followed() {
    let server = Server::start(Setup::default()).await;
    let receiver = Receiver::start().await;
    receiver.joins(&server, "ops", &["group.*"]).await;
    receiver.answers(307);
    makes_group(&server, "a").await;
    becomes(&server, "ops", |now| now["attempts"] == 1).await;
    assert_eq!(receiver.got().len(), 1);
    let error = deliveries(&server, "ops").await[0].error.clone();
    assert!(
        error
            .expect("an error")
            .contains("redirects are not followed")
    );
    receiver.answers(410);
    server.clock.advance_ms(HOUR_MS);
    let gone = becomes(&server, "ops", |now| now["enabled"] == false).await;
    assert!(gone["reason"].as_str().expect("a reason").contains("410"));
}

#[tokio::test]
async fn one_that_hangs_holds_up_no_other_and_no_request() {
    let server = Server::start(Setup::default()).await;
    let (hanging, good) = (Receiver::start().await, Receiver::start().await);
    hanging.joins(&server, "hangs", &["*"]).await;
    good.joins(&server, "works", &["*"]).await;
    hanging.answers(0);
    for name in ["a", "b", "c"] {
        makes_group(&server, name).await;
    }
    let got = tokio::time::timeout(Duration::from_secs(5), good.has(3)).await;
    got.expect("not held up");
    let nobody = json!({"name": "nobody", "url": "http://127.0.0.1:1/x", "events": ["*"]});
    server.post("/api/v1/webhooks", nobody).await;
    makes_group(&server, "d").await;
    becomes(&server, "nobody", |now| now["attempts"] == 1).await;
    let tried = deliveries(&server, "nobody").await;
    assert_eq!(tried[0].status, None);
    let error = tried[0].error.clone().expect("an error");
    assert!(
        error.contains("refused") && !error.contains("127.0.0.1:1/x"),
        "{error}"
    );
}

#[tokio::test]
async fn a_test_is_sent_at_once_and_the_key_is_shown_once() {
    let server = Server::start(Setup::default()).await;
    let receiver = Receiver::start().await;
    let body = json!({"name": "own", "url": receiver.url, "events": ["*"]});
    let made = server.post("/api/v1/webhooks", body.clone()).await.json();
    let secret = made["secret"].as_str().expect("a key").to_owned();
    assert!(signature::key(&fota_proto::operators::Secret::new(&*secret)).is_some());
    let (code, _, _) = server.post("/api/v1/webhooks", body).await.problem(409);
    assert_eq!(code, "webhook_exists");
    let tried = server.post("/api/v1/webhooks/own/test", json!({})).await;
    let tried: WebhookDelivery = tried.value(StatusCode::OK);
    assert_eq!((tried.status, tried.error), (Some(204), None));
    let got = receiver.has(1).await;
    assert_eq!(got[0].kind(), "webhook.test");
    assert!(got[0].is_signed_with(&secret));
    receiver.answers(500);
    let tried = server.post("/api/v1/webhooks/own/test", json!({})).await;
    assert_eq!(tried.json()["error"], "answered 500 Internal Server Error");
    let audit = serde_json::to_string(&server.audit().await).expect("JSON");
    assert!(
        audit.contains("webhook:own") && !audit.contains("s3cret"),
        "the path is not told"
    );
    for path in [
        "/api/v1/webhooks",
        "/api/v1/webhooks/own/deliveries",
        "/api/v1/events",
    ] {
        let text = server.get(path).await.json().to_string() + &audit;
        assert!(!text.contains(&secret), "{path} shows the key");
    }
    let gone = server.delete("/api/v1/webhooks/own").await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    server
        .get("/api/v1/webhooks/own/deliveries")
        .await
        .problem(404);
}

#[tokio::test]
async fn only_the_last_tries_are_kept_and_many_events_go_out() {
    let server = Server::start(Setup::default()).await;
    let receiver = Receiver::start().await;
    receiver.joins(&server, "ops", &["group.*"]).await;
    for number in 0..250 {
        makes_group(&server, &format!("g{number}")).await;
    }
    let got = receiver.has(250).await;
    let events: Vec<_> = got.iter().map(Got::event).collect();
    assert!(
        events.windows(2).all(|pair| pair[0] < pair[1]),
        "once each, in order"
    );
    becomes(&server, "ops", |now| now["done_event"] == events[249]).await;
    assert_eq!(deliveries(&server, "ops").await.len(), 200);
}
