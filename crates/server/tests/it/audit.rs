//! `/api/v1/audit`: complete, and not to be changed unseen.

use std::collections::BTreeSet;

use fota_proto::operators::AuditEntry;
use fota_server::{
    api::{Access, COMPAT_ROUTES, ROUTES},
    domain::audit::{Broken, Head, Verifier},
};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::{keys::Keys, support::*};

/// A change, and what the log says of it.
pub struct Deed {
    pub method: &'static str,
    pub route: &'static str,
    pub path: &'static str,
    pub body: Body,
    /// Actions in the log, in their order.
    pub actions: &'static [&'static str],
}

pub enum Body {
    Nothing,
    Json(Value),
    Image(&'static str),
    /// The image with its signed release.
    Bundle(&'static str),
    List(String),
    /// The first root of the server that it is sent to.
    Root,
}

impl Deed {
    fn new(
        (method, route): (&'static str, &'static str),
        path: &'static str,
        body: Body,
        actions: &'static [&'static str],
    ) -> Self {
        Self {
            method,
            route,
            path,
            body,
            actions,
        }
    }

    pub async fn done_by(&self, server: &Server, token: &str) -> Reply {
        let method: Method = self.method.parse().expect("a method");
        let request = server.request_as(token, method, self.path);
        Reply::of(match &self.body {
            Body::Nothing => request,
            Body::Json(body) => request.json(body),
            Body::Image(version) => request
                .header(header::CONTENT_TYPE, "application/octet-stream")
                .body(Image::new(version).bytes),
            Body::Bundle(version) => request
                .header(header::CONTENT_TYPE, "application/octet-stream")
                .body(Keys::of(server).await.bundle(&Image::new(version), 1)),
            Body::List(list) => request
                .header(header::CONTENT_TYPE, "text/csv")
                .body(list.clone()),
            Body::Root => request
                .header(header::CONTENT_TYPE, "application/cose")
                .body(Keys::of(server).await.root(1)),
        })
        .await
    }
}

fn seed_upload() -> Value {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let image = Image::new("2.0.0");
    json!({"version": "2.0.0", "firmware_data": STANDARD.encode(&image.bytes),
        "size": image.bytes.len(), "hash": image.sha256.to_string(), "chunk_size": 16_384})
}

/// One good request for each route that changes something, in an order in which all work.
pub fn deeds() -> Vec<Deed> {
    let mut all = fleet_deeds();
    all.extend(operator_deeds());
    all.extend(seed_deeds());
    all.extend(credential_deeds());
    all.extend(enrolment_deeds());
    all.extend(webhook_deeds());
    all.extend(signing_deeds());
    all
}

/// A deed whose route has no variable parts.
fn at(
    method: &'static str,
    path: &'static str,
    body: Body,
    actions: &'static [&'static str],
) -> Deed {
    Deed::new((method, path), path, body, actions)
}

fn fleet_deeds() -> Vec<Deed> {
    let mut all = vec![at(
        "POST",
        "/api/v1/releases",
        Body::Image("1.0.6"),
        &["release.uploaded"],
    )];
    all.extend(group_deeds());
    all.extend(rollout_deeds());
    let back = json!({"to": ["all"], "reason": "too warm"});
    let unblock = ("POST", "/api/v1/devices/{id}/unblock");
    let tag = ("POST", "/api/v1/devices/{id}/tags");
    let block = ("POST", "/api/v1/devices/{id}/block");
    let pin = ("POST", "/api/v1/devices/{id}/pin");
    let unpin = ("DELETE", "/api/v1/devices/{id}/pin");
    let yank = ("POST", "/api/v1/releases/{id}/yank");
    all.extend([
        at(
            "POST",
            "/api/v1/rollbacks",
            Body::Json(back),
            &["rollback.requested"],
        ),
        Deed::new(
            tag,
            "/api/v1/devices/ESP32-001/tags",
            Body::Json(json!({"set": {"site": "north"}})),
            &["device.tagged"],
        ),
        Deed::new(
            pin,
            "/api/v1/devices/ESP32-001/pin",
            Body::Json(json!({"reason": "a museum piece"})),
            &["device.pinned"],
        ),
        Deed::new(
            unpin,
            "/api/v1/devices/ESP32-001/pin",
            Body::Nothing,
            &["device.unpinned"],
        ),
        Deed::new(
            block,
            "/api/v1/devices/ESP32-001/block",
            Body::Json(json!({"release": "1.0.5"})),
            &["device.blocked"],
        ),
        Deed::new(
            unblock,
            "/api/v1/devices/ESP32-001/unblock",
            Body::Json(json!({"release": "1.0.5"})),
            &["device.unblocked"],
        ),
        Deed::new(
            yank,
            "/api/v1/releases/2/yank",
            Body::Nothing,
            &["release.yanked"],
        ),
    ]);
    all
}

fn group_deeds() -> [Deed; 5] {
    let (add, take) = (
        ("POST", "/api/v1/groups/{name}/devices"),
        ("DELETE", "/api/v1/groups/{name}/devices/{id}"),
    );
    let members = "/api/v1/groups/yard/devices";
    let member = "/api/v1/groups/yard/devices/ESP32-001";
    let named = Body::Json(json!({"add": ["ESP32-001"]}));
    let remove = ("DELETE", "/api/v1/groups/{name}");
    let yard = Body::Json(json!({"name": "yard"}));
    let rule = ("POST", "/api/v1/groups/{name}/rule");
    let filter = Body::Json(json!({"filter": "chip == esp32c3", "bytes_per_s": 1000}));
    [
        at("POST", "/api/v1/groups", yard, &["group.created"]),
        Deed::new(add, members, named, &["group.changed"]),
        Deed::new(rule, "/api/v1/groups/yard/rule", filter, &["group.changed"]),
        Deed::new(take, member, Body::Nothing, &["group.changed"]),
        Deed::new(
            remove,
            "/api/v1/groups/yard",
            Body::Nothing,
            &["group.removed"],
        ),
    ]
}

fn rollout_deeds() -> [Deed; 6] {
    let plan = json!({"waves": [{"percent": 5}, {"percent": 100}]});
    let to_all = Body::Json(json!({"release": "1.0.6", "to": ["all"], "plan": plan}));
    let promote = ("POST", "/api/v1/rollouts/{id}/promote");
    let why = Body::Json(json!({"reason": "lunch"}));
    let pause = ("POST", "/api/v1/rollouts/{id}/pause");
    let resume = ("POST", "/api/v1/rollouts/{id}/resume");
    let retry = ("POST", "/api/v1/rollouts/{id}/retry");
    let abort = ("POST", "/api/v1/rollouts/{id}/abort");
    [
        at("POST", "/api/v1/rollouts", to_all, &["rollout.started"]),
        Deed::new(pause, "/api/v1/rollouts/1/pause", why, &["rollout.paused"]),
        Deed::new(
            resume,
            "/api/v1/rollouts/1/resume",
            Body::Nothing,
            &["rollout.resumed"],
        ),
        Deed::new(
            promote,
            "/api/v1/rollouts/1/promote",
            Body::Nothing,
            &["rollout.promoted"],
        ),
        Deed::new(
            retry,
            "/api/v1/rollouts/1/retry",
            Body::Nothing,
            &["rollout.retried"],
        ),
        Deed::new(
            abort,
            "/api/v1/rollouts/1/abort",
            Body::Nothing,
            &["rollout.aborted"],
        ),
    ]
}

fn operator_deeds() -> [Deed; 6] {
    let carl = Body::Json(json!({"name": "carl", "role": "viewer", "password": PASSWORD}));
    let operator = Body::Json(json!({"role": "operator"}));
    let password = Body::Json(json!({"password": "another good password"}));
    let ci = Body::Json(json!({"name": "ci", "role": "viewer"}));
    let role = ("POST", "/api/v1/users/{name}/role");
    let set = ("POST", "/api/v1/users/{name}/password");
    let remove = ("DELETE", "/api/v1/users/{name}");
    let revoke = ("DELETE", "/api/v1/tokens/{id}");
    [
        at("POST", "/api/v1/users", carl, &["user.created"]),
        Deed::new(role, "/api/v1/users/carl/role", operator, &["user.role"]),
        Deed::new(
            set,
            "/api/v1/users/carl/password",
            password,
            &["user.password"],
        ),
        Deed::new(
            remove,
            "/api/v1/users/carl",
            Body::Nothing,
            &["user.removed"],
        ),
        at("POST", "/api/v1/tokens", ci, &["token.created"]),
        Deed::new(
            revoke,
            "/api/v1/tokens/2",
            Body::Nothing,
            &["token.revoked"],
        ),
    ]
}

fn seed_deeds() -> [Deed; 3] {
    let upload = Body::Json(seed_upload());
    let uploaded = &["release.uploaded", "rollout.started"];
    let why = Body::Json(json!({"reason": "by the seed"}));
    [
        at("POST", "/api/cloud/fota/upload", upload, uploaded),
        at(
            "POST",
            "/api/cloud/fota/rollback",
            why,
            &["rollback.requested"],
        ),
        at(
            "POST",
            "/api/cloud/fota/clear",
            Body::Nothing,
            &["rollout.aborted"],
        ),
    ]
}

fn credential_deeds() -> [Deed; 5] {
    let give = ("POST", "/api/v1/devices/{id}/credentials");
    let take = ("DELETE", "/api/v1/devices/{id}/credentials/{credential}");
    let take_all = ("DELETE", "/api/v1/devices/{id}/credentials");
    let again = ("POST", "/api/v1/devices/{id}/re-enrol");
    let all = "/api/v1/devices/ESP32-001/credentials";
    let first = "/api/v1/devices/ESP32-001/credentials/1";
    let re_enrol = "/api/v1/devices/ESP32-001/re-enrol";
    let secret = || Body::Json(json!({"kind": "secret"}));
    let (given, taken) = (&["device.provisioned"], &["device.revoked"]);
    [
        Deed::new(give, all, secret(), given),
        Deed::new(take, first, Body::Nothing, taken),
        Deed::new(give, all, secret(), given),
        Deed::new(take_all, all, Body::Nothing, taken),
        Deed::new(again, re_enrol, Body::Nothing, &["device.re_enrolment"]),
    ]
}

fn enrolment_deeds() -> [Deed; 3] {
    let list = Body::List(format!("ESP32-002,secret,{}\n", "0f".repeat(32)));
    let batch = json!({"name": "batch", "devices_max": 2, "expires_in_s": 60});
    let revoke = ("DELETE", "/api/v1/enrolment-keys/{name}");
    let key = "/api/v1/enrolment-keys/batch";
    let made = &["enrolment_key.created"];
    [
        at("POST", "/api/v1/device-claims", list, &["device.claimed"]),
        at("POST", "/api/v1/enrolment-keys", Body::Json(batch), made),
        Deed::new(revoke, key, Body::Nothing, &["enrolment_key.revoked"]),
    ]
}

fn webhook_deeds() -> [Deed; 5] {
    let new = json!({"name": "ops", "url": "http://127.0.0.1:1/", "events": ["*"]});
    let at = |verb| Deed::new(("POST", verb), "", Body::Nothing, &[]);
    let named = |route, path, actions| Deed {
        path,
        actions,
        ..at(route)
    };
    [
        Deed {
            body: Body::Json(new),
            ..named("/api/v1/webhooks", "/api/v1/webhooks", &["webhook.created"])
        },
        named(
            "/api/v1/webhooks/{name}/test",
            "/api/v1/webhooks/ops/test",
            &["webhook.tested"],
        ),
        named(
            "/api/v1/webhooks/{name}/disable",
            "/api/v1/webhooks/ops/disable",
            &["webhook.disabled"],
        ),
        named(
            "/api/v1/webhooks/{name}/enable",
            "/api/v1/webhooks/ops/enable",
            &["webhook.enabled"],
        ),
        Deed {
            method: "DELETE",
            ..named(
                "/api/v1/webhooks/{name}",
                "/api/v1/webhooks/ops",
                &["webhook.removed"],
            )
        },
    ]
}

/// The last ones: after them plain images are refused.
fn signing_deeds() -> [Deed; 5] {
    let signing = ("PUT", "/api/v1/products/{name}/signing");
    let unsigned = Body::Json(json!({"unsigned": true}));
    let boot = ("PUT", "/api/v1/products/{name}/secure-boot");
    let key = Body::Json(json!({"digests": ["07".repeat(32)]}));
    let [to_signing, to_boot] = [
        "/api/v1/products/thermostat/signing",
        "/api/v1/products/thermostat/secure-boot",
    ];
    let uploaded = &["release.uploaded"];
    let patch = Body::Json(json!({"release": "3.0.0", "from": ["1.0.5"]}));
    [
        at("POST", "/api/v1/roots", Body::Root, &["root.added"]),
        at("POST", "/api/v1/releases", Body::Bundle("3.0.0"), uploaded),
        at("POST", "/api/v1/deltas", patch, &["delta.built"]),
        Deed::new(signing, to_signing, unsigned, &["product.signing"]),
        Deed::new(boot, to_boot, key, &["product.secure_boot"]),
    ]
}

/// What the deeds need: a device that has gone back from 1.0.5.
pub async fn prepare(server: &Server) {
    server.release(&Image::new("1.0.5")).await;
    TestDevice::running("ESP32-001", &Image::new("1.0.4"))
        .check_in(server)
        .await;
    server
        .sql("INSERT INTO block (device, release, reason, created_at) VALUES ('ESP32-001', 1, 'test', 0)")
        .await;
}

/// Routes that take another method than GET and change nothing of the fleet.
const NO_DEEDS: [&str; 5] = [
    "/api/v1/rollouts/preview",
    "/api/v1/rollouts/dry-run",
    // Takes a second person: `waves::somebody_else_must_approve`.
    "/api/v1/rollouts/{id}/approve",
    // These two are sessions: `sessions_and_failed_logins_are_in_the_log`.
    "/api/v1/session",
    "/d/v1/check-in",
];

#[tokio::test]
async fn every_change_is_in_the_log_with_who_did_it() {
    each_database(async |server| {
        prepare(&server).await;
        let admin = server.token("boss", "admin").await;
        let deeds = deeds();
        for deed in &deeds {
            let before = server.audit().await.len();
            let reply = deed.done_by(&server, &admin).await;
            let text = String::from_utf8_lossy(&reply.body);
            assert!(
                reply.status.is_success(),
                "{} {}: {text}",
                deed.method,
                deed.path
            );
            let entries = server.audit().await;
            let new: Vec<&AuditEntry> = entries[before..]
                .iter()
                .filter(|entry| entry.action != "audit.exported")
                .collect();
            let actions: Vec<&str> = new.iter().map(|entry| entry.action.as_str()).collect();
            assert_eq!(actions, deed.actions, "{} {}", deed.method, deed.path);
            let request = reply.headers["x-request-id"].to_str().expect("text");
            for entry in new {
                assert_eq!(
                    (entry.actor.as_str(), entry.role.as_str()),
                    ("token:boss", "admin")
                );
                assert_eq!(
                    (entry.request.as_str(), entry.address.as_str()),
                    (request, "127.0.0.1")
                );
                assert_eq!(entry.at, NOON);
                assert!(!entry.object.is_empty());
            }
        }
        let done: BTreeSet<_> = deeds.iter().map(|deed| (deed.method, deed.route)).collect();
        for (method, path, access) in [ROUTES, COMPAT_ROUTES].concat() {
            let is_change = method != "GET" && access != Access::Open;
            let is_exempt = NO_DEEDS.contains(&path);
            assert!(
                !is_change || is_exempt || done.contains(&(method, path)),
                "no deed for {method} {path}"
            );
        }
        verify(&server.audit().await, None).expect("whole");
    })
    .await;
}

#[tokio::test]
async fn the_secrets_of_devices_are_not_in_the_log() {
    each_database(async |server| {
        let body = json!({"kind": "secret"});
        let given = server.post("/api/v1/devices/a/credentials", body).await;
        let body = json!({"name": "batch", "devices_max": 2, "expires_in_s": 60});
        let made = server.post("/api/v1/enrolment-keys", body).await;
        let claimed = "0f".repeat(32);
        let list = Body::List(format!("b,secret,{claimed}\nc,secret,{claimed}\n"));
        let claim = at("POST", "/api/v1/device-claims", list, &[]);
        let reply = claim.done_by(&server, TOKEN).await;
        assert_eq!(reply.status, StatusCode::OK);
        let mut secrets = vec![claimed];
        for reply in [given, made] {
            let new: Value = reply.value(StatusCode::CREATED);
            secrets.push(new["secret"].as_str().expect("shown").to_owned());
        }
        let entries = server.audit().await;
        let of = |action| entries.iter().find(|entry| entry.action == action);
        let claim = of("device.claimed").expect("in the log");
        assert_eq!(
            claim.detail,
            "2 devices of a factory's list: first b, last c"
        );
        let given = of("device.provisioned").expect("in the log");
        assert_eq!(
            (given.object.as_str(), given.detail.as_str()),
            ("device:a", "credential 1: a secret")
        );
        let export = server.get("/api/v1/audit/export").await.body;
        let export = String::from_utf8(export).expect("text");
        assert!(secrets.iter().all(|secret| !export.contains(secret)));
    })
    .await;
}

#[tokio::test]
async fn what_is_refused_is_not_in_the_log() {
    each_database(async |server| {
        prepare(&server).await;
        let before = server.audit().await.len();
        server
            .post("/api/v1/groups", json!({"name": "../x"}))
            .await
            .problem(400);
        server
            .post("/api/v1/rollouts", json!({"release": "9", "to": ["all"]}))
            .await
            .problem(404);
        server.delete("/api/v1/groups/nobody").await.problem(404);
        assert_eq!(server.audit().await.len(), before + 1, "the export before");
    })
    .await;
}

#[tokio::test]
async fn legacy_open_is_named_as_such() {
    let setup = Setup {
        legacy_open: true,
        ..Setup::default()
    };
    let server = Server::start(setup).await;
    let url = format!("{}/api/cloud/fota/upload", server.base);
    let reply = Reply::of(server.http.post(url).json(&seed_upload())).await;
    assert_eq!(reply.status, StatusCode::OK);
    let entries = server.audit().await;
    assert_eq!(
        (entries[0].actor.as_str(), entries[0].role.as_str()),
        ("legacy-open", "none")
    );
}

#[tokio::test]
async fn sessions_and_failed_logins_are_in_the_log() {
    each_database(async |server| {
        server.user("anna", "viewer").await;
        let session = server.session("anna").await;
        let logout = server.request_as(&session, Method::DELETE, "/api/v1/session");
        Reply::of(logout).await;
        server.login("anna", "wrong wrong wrong").await.problem(401);
        server
            .login("my password by mistake", "x")
            .await
            .problem(401);
        // The first failure is written within a second, the rest when the server ends or a minute
        // later.
        tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
        let state = &server.running.state;
        let flush = state.auth.flush(&state.store, NOON, true).await;
        flush.expect("written");
        let entries = server.audit().await;
        let actions: Vec<&str> = entries.iter().map(|entry| entry.action.as_str()).collect();
        assert_eq!(
            actions[..3],
            ["user.created", "session.started", "session.ended"]
        );
        assert_eq!(entries[1].actor, "user:anna");
        let failed: Vec<_> = entries
            .iter()
            .filter(|entry| entry.action == "login.failed")
            .collect();
        let detail: String = failed.iter().map(|entry| entry.detail.as_str()).collect();
        assert!(
            detail.contains("anna") && detail.contains("127.0.0.1"),
            "{detail}"
        );
        assert!(
            !detail.contains("mistake"),
            "what was typed may be a password: {detail}"
        );
    })
    .await;
}

fn verify(entries: &[AuditEntry], known: Option<Head>) -> Result<Head, Broken> {
    let mut verifier = Verifier::new(known);
    entries.iter().try_for_each(|entry| verifier.next(entry))?;
    verifier.end()
}

async fn a_few_entries(server: &Server) -> Head {
    for name in ["a", "b", "c", "d", "e"] {
        server.post("/api/v1/groups", json!({"name": name})).await;
    }
    verify(&server.audit().await, None).expect("whole")
}

#[tokio::test]
async fn an_edited_row_is_found() {
    each_database(async |server| {
        let head = a_few_entries(&server).await;
        server
            .sql("UPDATE audit SET actor = 'user:mallory' WHERE seq = 3")
            .await;
        let broken = verify(&server.audit().await, Some(head)).expect_err("edited");
        assert!(matches!(broken, Broken::Content { seq: 3, .. }), "{broken}");
    })
    .await;
}

#[tokio::test]
async fn a_deleted_row_is_found() {
    each_database(async |server| {
        let head = a_few_entries(&server).await;
        server.sql("DELETE FROM audit WHERE seq = 3").await;
        let broken = verify(&server.audit().await, Some(head)).expect_err("deleted");
        assert_eq!(
            broken,
            Broken::Order {
                expected: 3,
                found: 4
            }
        );
    })
    .await;
}

#[tokio::test]
async fn reordered_rows_are_found() {
    each_database(async |server| {
        let head = a_few_entries(&server).await;
        server
            .sql("UPDATE audit SET seq = 1000 WHERE seq = 3")
            .await;
        server.sql("UPDATE audit SET seq = 3 WHERE seq = 4").await;
        server
            .sql("UPDATE audit SET seq = 4 WHERE seq = 1000")
            .await;
        let broken = verify(&server.audit().await, Some(head)).expect_err("reordered");
        assert!(matches!(broken, Broken::Link { seq: 3, .. }), "{broken}");
    })
    .await;
}

#[tokio::test]
async fn a_cut_end_is_found_by_a_known_head() {
    each_database(async |server| {
        let head = a_few_entries(&server).await;
        server.sql("DELETE FROM audit WHERE seq > 3").await;
        let page = server.get("/api/v1/audit?limit=1000").await.json();
        let entries: Vec<AuditEntry> =
            serde_json::from_value(page["items"].clone()).expect("entries");
        assert!(
            verify(&entries, None).is_ok(),
            "a cut end alone looks whole"
        );
        let broken = verify(&entries, Some(head)).expect_err("cut");
        assert_eq!(
            broken,
            Broken::CutOff {
                end: 3,
                known: head.seq
            }
        );
        // And where the log has grown again since, the head is another.
        for name in ["f", "g", "h"] {
            server.post("/api/v1/groups", json!({"name": name})).await;
        }
        let broken = verify(&server.audit().await, Some(head)).expect_err("made anew");
        assert!(matches!(broken, Broken::OtherChain { .. }), "{broken}");
    })
    .await;
}

#[tokio::test]
async fn the_log_is_read_in_pages() {
    each_database(async |server| {
        a_few_entries(&server).await;
        let first = server.get("/api/v1/audit?limit=2").await.json();
        assert_eq!(first["next"], "2");
        let second = server.get("/api/v1/audit?limit=2&after=2").await.json();
        assert_eq!(second["items"][0]["seq"], 3);
    })
    .await;
}
