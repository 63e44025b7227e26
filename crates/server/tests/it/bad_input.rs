//! Bad input to every endpoint gives 4xx with a problem that names the field, and stores nothing.
//! The list of routes drives it: a route without an entry fails the test.

use fota_server::api::ROUTES;
use reqwest::{Method, header};
use serde_json::{Value, json};

mod identity;
mod notify;
mod unknown;

use crate::support::*;
use identity::*;
use notify::*;

/// A request that must be refused.
#[derive(Debug)]
struct Bad {
    /// The path with its variables filled in, and a query.
    path: String,
    kind: Option<&'static str>,
    body: Vec<u8>,
    status: u16,
    field: Option<&'static str>,
}

impl Bad {
    fn path(path: &str, status: u16, field: &'static str) -> Self {
        Self {
            path: path.to_owned(),
            kind: None,
            body: Vec::new(),
            status,
            field: Some(field),
        }
    }

    fn json(path: &str, body: Value, status: u16, field: &'static str) -> Self {
        Self {
            kind: Some("application/json"),
            body: body.to_string().into_bytes(),
            ..Self::path(path, status, field)
        }
    }

    fn raw(
        path: &str,
        kind: &'static str,
        body: Vec<u8>,
        status: u16,
        field: &'static str,
    ) -> Self {
        Self {
            kind: Some(kind),
            body,
            ..Self::path(path, status, field)
        }
    }
}

/// What every endpoint with a JSON body must refuse.
fn any_json(path: &str) -> Vec<Bad> {
    let json = "application/json";
    let junk = |body: &str| Bad::raw(path, json, body.into(), 400, "body");
    vec![
        junk("{"),
        junk("[]"),
        junk("null"),
        junk("\"text\""),
        junk("\u{0}\u{1}"),
        Bad::raw(path, json, vec![0xff; 64], 400, "body"),
        Bad::raw(path, json, b"[".repeat(100_000), 400, "body"),
        Bad::raw(path, json, vec![b' '; 1024 * 1024 + 1], 413, "body"),
        Bad::raw(path, "text/plain", b"{}".to_vec(), 415, "content-type"),
        Bad::raw(
            path,
            "application/octet-stream",
            b"{}".to_vec(),
            415,
            "content-type",
        ),
        Bad::json(path, json!({"surprise": 1}), 400, "surprise"),
    ]
}

fn bad_pages(path: &str) -> Vec<Bad> {
    let bad = |query: &str, field| Bad::path(&format!("{path}?{query}"), 400, field);
    vec![
        bad("limit=0", "limit"),
        bad("limit=1001", "limit"),
        bad("limit=-1", "limit"),
        bad("limit=many", "limit"),
        bad("limit=99999999999999999999", "limit"),
        bad("surprise=1", "surprise"),
    ]
}

fn bad_ids(before: &str, after: &str, field: &'static str) -> Vec<Bad> {
    let bad = [
        "..%2F..%2Fetc%2Fpasswd",
        "%00",
        "a%20b",
        "%FF",
        "all",
        ".hidden",
    ];
    let path = |id: &str| format!("{before}{id}{after}");
    bad.iter()
        .map(|id| Bad {
            // What is no UTF-8 is refused before it can be called an id.
            field: Some(if *id == "%FF" { "path" } else { field }),
            ..Bad::path(&path(id), 400, field)
        })
        .collect()
}

fn bad_numbers(before: &str, after: &str) -> Vec<Bad> {
    let path = |id: &str| format!("{before}{id}{after}");
    let mut all: Vec<Bad> = [
        "x",
        "1.5",
        "-",
        "99999999999999999999",
        "%00",
        "1%2F2",
        "r-",
    ]
    .iter()
    .map(|id| Bad::path(&path(id), 400, "id"))
    .collect();
    all.push(Bad::path(&path("999"), 404, "id"));
    all
}

/// Bodies that a rollout request must not have; the field is named.
fn bad_rollouts(path: &str) -> Vec<Bad> {
    let with = |key: &str, value: Value| {
        let mut body = json!({"release": "1.0.5", "to": ["all"]});
        body[key] = value;
        body
    };
    let bad = |key: &'static str, value: Value| Bad::json(path, with(key, value), 400, key);
    let mut all = any_json(path);
    all.extend([
        Bad::json(path, json!({"to": ["all"]}), 400, "release"),
        Bad::json(path, json!({"release": "1.0.5"}), 400, "to"),
        Bad::json(path, with("release", json!("9.9.9")), 404, "release"),
        Bad::json(path, with("to", json!(["group:nobody"])), 404, "to"),
        bad("release", json!(5)),
        bad("to", json!("all")),
        bad("to", json!([])),
        bad("to", json!(["../x"])),
        bad("to", json!(["group:"])),
        bad("to", json!(vec!["a"; 10_001])),
        bad("failures_max", json!(-1)),
        bad("failures_max", json!(0)),
        bad("failures_max", json!("two")),
        bad("rollback_on_failure", json!("yes")),
        bad("trial_deadline_s", json!(0)),
        bad("trial_deadline_s", json!(1e300)),
        bad("trial_deadline_s", json!(4_000_000_000u32)),
        bad("allow_product_change", json!(1)),
        bad("idempotency_key", json!("")),
        bad("plan", json!(5)),
        at_plan(path, "plan.filter", json!({"filter": "version <"})),
        at_plan(
            path,
            "plan.waves.percent",
            json!({"waves": [{"percent": 5}]}),
        ),
        at_plan(
            path,
            "plan.limits.parallel",
            json!({"limits": {"parallel": 0}}),
        ),
        at_plan(
            path,
            "plan.waves[0].percent",
            json!({"waves": [{"percent": 101}]}),
        ),
        at_plan(
            path,
            "plan.timeouts.trial",
            json!({"timeouts": {"trial": "soon"}}),
        ),
        at_plan(path, "plan.surprise", json!({"surprise": 1})),
        bad("idempotency_key", json!("k".repeat(129))),
        Bad {
            field: Some("to[0]"),
            ..bad("to", json!([5]))
        },
    ]);
    all
}

fn at_plan(path: &str, field: &'static str, plan: Value) -> Bad {
    let body = json!({"release": "1.0.5", "to": ["all"], "plan": plan});
    Bad::json(path, body, 400, field)
}

fn bad_reasons(before: &str, after: &str) -> Vec<Bad> {
    let path = format!("{before}1{after}");
    let mut all = bad_numbers(before, after);
    all.extend(any_json(&path));
    all.extend([
        Bad::json(&path, json!({"reason": 5}), 400, "reason"),
        Bad::json(&path, json!({"reason": "r".repeat(4097)}), 400, "reason"),
    ]);
    all
}

/// The requests that each route must refuse; empty for those that take no input.
fn bad_requests(method: &str, path: &str) -> Option<Vec<Bad>> {
    let noun = path.strip_prefix("/api/v1/").unwrap_or(path);
    match noun.split('/').next().unwrap_or("") {
        "releases" => bad_releases(method, path),
        "devices" if path.contains("credential") || path.contains("re-enrol") => {
            bad_credentials(method, path)
        }
        "deltas" => Some(bad_deltas(method, path)),
        "device-claims" => Some(bad_claims(path)),
        "enrolment-keys" => bad_enrolment_keys(method, path),
        "devices" => bad_devices(method, path),
        "groups" => bad_groups(method, path),
        "rollouts" | "clusters" => bad_rollout_calls(method, path),
        "rollbacks" => Some(bad_rollbacks(path)),
        "products" if path.ends_with("secure-boot") => bad_products(method),
        "events" => bad_events(path),
        "webhooks" => bad_webhooks(method, path),
        "roots" | "products" | "log" => bad_signing(method, path),
        "session" | "users" | "tokens" | "audit" => bad_operators(method, path),
        _ => bad_others(path),
    }
}

fn bad_deltas(method: &str, path: &str) -> Vec<Bad> {
    if method == "GET" {
        let mut all = bad_numbered_pages(path);
        all.push(Bad::path(&format!("{path}?release=9.9.9"), 404, "release"));
        return all;
    }
    let with = |key: &str, value: Value| {
        let mut body = json!({"release": "1.0.5"});
        body[key] = value;
        body
    };
    let bad = |key: &'static str, value: Value| Bad::json(path, with(key, value), 400, key);
    let mut all = any_json(path);
    all.extend([
        Bad::json(path, json!({"from": []}), 400, "release"),
        Bad::json(path, with("release", json!("9.9.9")), 404, "release"),
        // It is not signed: whatever else the request says, nothing could be offered.
        Bad::json(path, with("from", json!([])), 409, "release"),
        bad("release", json!(5)),
        bad("from", json!("1.0.4")),
        bad("all_running", json!("yes")),
        bad("profile", json!("huge")),
    ]);
    all
}

fn bad_products(method: &str) -> Option<Vec<Bad>> {
    let of = |name: &str| format!("/api/v1/products/{name}/secure-boot");
    let long = "x".repeat(33);
    let names = ["%00", "a%0Ab", long.as_str()];
    if method == "GET" {
        let mut all: Vec<Bad> = names.map(|name| Bad::path(&of(name), 400, "name")).into();
        all.push(Bad::path(&of("%FF"), 400, "path"));
        return Some(all);
    }
    let digest = "ab".repeat(32);
    let good = json!({"digests": [digest]});
    let mut all = any_json(&of("thermostat"));
    all.extend(names.map(|name| Bad::json(&of(name), good.clone(), 400, "name")));
    let with = |digests: Value, field| {
        Bad::json(&of("thermostat"), json!({"digests": digests}), 400, field)
    };
    all.extend([
        with(json!("ab"), "digests"),
        with(json!(["ab"]), "digests[0]"),
        with(json!([5]), "digests[0]"),
        with(json!(vec![digest; 17]), "digests"),
        Bad::json(&of("thermostat"), json!({}), 400, "digests"),
    ]);
    Some(all)
}

fn bad_others(path: &str) -> Option<Vec<Bad>> {
    let blob = |name: &str, status, field| Bad::path(&format!("/d/v1/blobs/{name}"), status, field);
    Some(match path {
        "/healthz" | "/readyz" | "/api/openapi.json" => Vec::new(),
        "/api/schemas/{name}" => ["x", "RolloutDetail", "Nothing.json"]
            .map(|name| Bad::path(&format!("/api/schemas/{name}"), 404, "name"))
            .into(),
        "/api/v1/server" | "/api/v1/fleet/summary" | "/api/v1/whoami" | "/api/v1/backup" => {
            Vec::new()
        }
        "/d/v1/check-in" => bad_check_ins(),
        "/d/v1/enrol" => bad_enrolments(path),
        "/d/v1/blobs/{sha256}" => vec![
            blob("x", 400, "sha256"),
            blob("..%2Foperator-token", 400, "sha256"),
            blob(&"g".repeat(64), 400, "sha256"),
            blob(&"0".repeat(64), 404, "sha256"),
            blob("%FF", 400, "path"),
        ],
        "/d/v1/roots/{version}" => [("x", 400), ("-1", 400), ("4294967296", 400), ("7", 404)]
            .map(|(version, status)| {
                Bad::path(&format!("/d/v1/roots/{version}"), status, "version")
            })
            .into(),
        "/d/v1/log/head" => Vec::new(),
        "/d/v1/log/proof" => bad_proofs(path),
        "/d/v1/log/consistency" => [
            ("from=0", 400, "to"),
            ("from=x&to=1", 400, "from"),
            ("from=-1&to=1", 400, "from"),
            ("from=1&to=0", 400, "from"),
            ("from=0&to=2", 404, "to"),
            ("from=0&to=18446744073709551615", 404, "to"),
            ("from=0&to=18446744073709551616", 400, "to"),
            ("from=0&to=1&surprise=1", 400, "surprise"),
        ]
        .map(|(query, status, field)| Bad::path(&format!("{path}?{query}"), status, field))
        .into(),
        _ => return None,
    })
}

fn bad_proofs(path: &str) -> Vec<Bad> {
    let unknown = format!("leaf={}&size=1", "0".repeat(64));
    [
        ("size=1", 400, "leaf"),
        ("leaf=x&size=1", 400, "leaf"),
        (unknown.as_str(), 404, "leaf"),
        (&unknown.replace("=1", "=2"), 404, "size"),
        (&unknown.replace("=1", "=-2"), 400, "size"),
        (&unknown.replace("=1", "=18446744073709551615"), 404, "size"),
    ]
    .map(|(query, status, field)| Bad::path(&format!("{path}?{query}"), status, field))
    .into()
}

fn bad_signing(method: &str, path: &str) -> Option<Vec<Bad>> {
    let cose =
        |body: &[u8], status| Bad::raw(path, "application/cose", body.into(), status, "body");
    let name = "/api/v1/products/thermostat/signing";
    let long = format!("/api/v1/products/{}/signing", "x".repeat(33));
    let names = [long.as_str(), "/api/v1/products/%00/signing"];
    let names = names.map(|path| Bad::json(path, json!({"unsigned": true}), 400, "name"));
    Some(match (method, path) {
        ("GET", "/api/v1/roots" | "/api/v1/log") => bad_numbered_pages(path),
        ("GET", "/api/v1/roots/current") => vec![Bad::path(path, 404, "path")],
        ("POST", "/api/v1/roots") => vec![
            cose(b"", 422),
            cose(b"junk", 422),
            cose(&[0xD8, 0x62], 422),
            cose(&[0x9F; 1024], 422),
            cose(&[0; 1025], 413),
            Bad::raw(
                path,
                "application/json",
                b"{}".to_vec(),
                415,
                "content-type",
            ),
        ],
        ("GET", _) => names.into(),
        ("PUT", _) => {
            let mut all = any_json(name);
            all.extend(names);
            all.push(Bad::json(name, json!({}), 400, "unsigned"));
            all.push(Bad::json(name, json!({"unsigned": "no"}), 400, "unsigned"));
            all
        }
        _ => return None,
    })
}

fn bad_releases(method: &str, path: &str) -> Option<Vec<Bad>> {
    Some(match (method, path) {
        ("POST", "/api/v1/releases") => bad_uploads(path),
        ("GET", "/api/v1/releases") => bad_numbered_pages(path),
        ("GET", "/api/v1/releases/{id}") => bad_numbers("/api/v1/releases/", ""),
        ("GET", "/api/v1/releases/{id}/image") => bad_numbers("/api/v1/releases/", "/image"),
        ("POST", "/api/v1/releases/{id}/yank") => bad_reasons("/api/v1/releases/", "/yank"),
        _ => return None,
    })
}

fn bad_uploads(path: &str) -> Vec<Bad> {
    let upload = |query: &str, status, field| Bad {
        body: Image::new("7.0.0").bytes,
        ..Bad::path(&format!("/api/v1/releases?{query}"), status, field)
    };
    let bytes = |body| Bad::raw(path, "application/octet-stream", body, 422, "body");
    vec![
        upload("surprise=1", 400, "surprise"),
        upload(
            "allow_version_mismatch=perhaps",
            400,
            "allow_version_mismatch",
        ),
        upload("version=", 400, "version"),
        upload("version=%0A", 400, "version"),
        upload(&format!("version={}", "9".repeat(33)), 400, "version"),
        upload("version=9.9.9", 409, "version"),
        upload(&format!("notes={}", "n".repeat(4097)), 400, "notes"),
        upload("version=1&version=2", 400, "version"),
        bytes(vec![0; 1024 * 1024]),
        bytes(Vec::new()),
        // A bundle, while the server has no root to verify it with.
        Bad {
            status: 409,
            ..bytes(b"FOTAPKG1\0\0\0\0".to_vec())
        },
    ]
}

fn bad_numbered_pages(path: &str) -> Vec<Bad> {
    let mut all = bad_pages(path);
    all.push(Bad::path(&format!("{path}?after=x"), 400, "after"));
    all.push(Bad::path(&format!("{path}?after=-5"), 400, "after"));
    all
}

fn bad_devices(method: &str, path: &str) -> Option<Vec<Bad>> {
    Some(match (method, path) {
        ("GET", "/api/v1/devices") => {
            let mut all = bad_pages(path);
            all.push(Bad::path("/api/v1/devices?group=..%2Fx", 400, "group"));
            all.push(Bad::path("/api/v1/devices?state=%25", 400, "state"));
            all.push(Bad::path("/api/v1/devices?after=a%20b", 400, "after"));
            all
        }
        ("GET", "/api/v1/devices/{id}") => {
            let mut all = bad_ids("/api/v1/devices/", "", "id");
            all.push(Bad::path("/api/v1/devices/nobody", 404, "id"));
            all
        }
        ("GET", "/api/v1/devices/{id}/events") => {
            let mut all = bad_ids("/api/v1/devices/", "/events", "id");
            all.extend(bad_pages("/api/v1/devices/known/events"));
            all.push(Bad::path("/api/v1/devices/nobody/events", 404, "id"));
            all.push(Bad::path(
                "/api/v1/devices/known/events?after=x",
                400,
                "after",
            ));
            all
        }
        ("GET", "/api/v1/devices/{id}/why") => {
            let mut all = bad_ids("/api/v1/devices/", "/why", "id");
            all.push(Bad::path("/api/v1/devices/nobody/why", 404, "id"));
            all
        }
        ("POST", "/api/v1/devices/{id}/block") => bad_blocks("block"),
        ("POST", "/api/v1/devices/{id}/unblock") => {
            let mut all = bad_blocks("unblock");
            let path = "/api/v1/devices/known/unblock";
            all.push(Bad::json(path, json!({"release": "1.0.5"}), 409, "release"));
            all
        }
        ("POST", "/api/v1/devices/{id}/pin") => {
            let mut all = bad_blocks("pin");
            all.retain(|bad| bad.field != Some("release") || bad.status == 404);
            let path = "/api/v1/devices/known/pin";
            let long = "x".repeat(5000);
            all.extend([
                Bad::json(path, json!({"release": 5}), 400, "release"),
                Bad::json(path, json!({"reason": long}), 400, "reason"),
            ]);
            all
        }
        ("DELETE", "/api/v1/devices/{id}/pin") => {
            let mut all = bad_ids("/api/v1/devices/", "/pin", "id");
            all.push(Bad::path("/api/v1/devices/nobody/pin", 404, "id"));
            all.push(Bad::path("/api/v1/devices/known/pin", 409, "id"));
            all
        }
        ("POST", "/api/v1/devices/{id}/tags") => bad_tags(),
        _ => return None,
    })
}

fn bad_tags() -> Vec<Bad> {
    let path = "/api/v1/devices/known/tags";
    let many: std::collections::BTreeMap<String, &str> =
        (0..33).map(|number| (format!("t{number}"), "x")).collect();
    let mut all = any_json(path);
    all.extend([
        Bad::json("/api/v1/devices/a%20b/tags", json!({}), 400, "id"),
        Bad::json(path, json!({"set": 5}), 400, "set"),
        Bad::json(path, json!({"set": {"a b": "x"}}), 400, "set"),
        Bad::json(path, json!({"set": {"a": ""}}), 400, "set"),
        Bad::json(path, json!({"set": {"a": "x\n"}}), 400, "set"),
        Bad::json(path, json!({"set": {"a": "x".repeat(65)}}), 400, "set"),
        Bad::json(path, json!({"set": many}), 400, "set"),
        Bad::json(path, json!({"remove": ["../x"]}), 400, "remove"),
    ]);
    all
}

fn bad_rules() -> Vec<Bad> {
    let path = "/api/v1/groups/hall/rule";
    let mut all = any_json(path);
    all.extend([
        Bad::json("/api/v1/groups/nobody/rule", json!({}), 404, "name"),
        Bad::json("/api/v1/groups/a%20b/rule", json!({}), 400, "name"),
        Bad::json(path, json!({"filter": "chip =="}), 400, "filter"),
        Bad::json(path, json!({"filter": "x".repeat(2000)}), 400, "filter"),
        Bad::json(path, json!({"bytes_per_s": 0}), 400, "bytes_per_s"),
        Bad::json(path, json!({"bytes_per_s": -5}), 400, "bytes_per_s"),
    ]);
    all
}

fn bad_blocks(action: &str) -> Vec<Bad> {
    let path = |id: &str| format!("/api/v1/devices/{id}/{action}");
    let body = json!({"release": "1.0.5"});
    let known = path("known");
    let mut all = any_json(&known);
    all.extend([
        Bad::json(&path("nobody"), body.clone(), 404, "id"),
        Bad::json(&path("a%20b"), body, 400, "id"),
        Bad::json(&known, json!({}), 400, "release"),
        Bad::json(&known, json!({"release": "9.9.9"}), 404, "release"),
        Bad::json(&known, json!({"release": []}), 400, "release"),
    ]);
    all
}

fn bad_groups(method: &str, path: &str) -> Option<Vec<Bad>> {
    Some(match (method, path) {
        ("GET", "/api/v1/groups") => bad_pages(path),
        ("POST", "/api/v1/groups") => {
            let mut all = any_json(path);
            let long = "x".repeat(65);
            let names = [
                json!(""),
                json!("all"),
                json!("../x"),
                json!("a b"),
                json!(5),
                json!(long),
            ];
            all.extend(names.map(|name| Bad::json(path, json!({"name": name}), 400, "name")));
            all.push(Bad::json(path, json!({}), 400, "name"));
            all
        }
        ("DELETE", "/api/v1/groups/{name}") => {
            let mut all = bad_ids("/api/v1/groups/", "", "name");
            all.push(Bad::path("/api/v1/groups/nobody", 404, "name"));
            all
        }
        ("POST", "/api/v1/groups/{name}/devices") => bad_additions(),
        ("POST", "/api/v1/groups/{name}/rule") => bad_rules(),
        ("DELETE", "/api/v1/groups/{name}/devices/{id}") => {
            let mut all = bad_ids("/api/v1/groups/hall/devices/", "", "id");
            all.extend(bad_ids("/api/v1/groups/", "/devices/known", "name"));
            all.push(Bad::path("/api/v1/groups/hall/devices/known", 404, "id"));
            all.push(Bad::path(
                "/api/v1/groups/nobody/devices/known",
                404,
                "name",
            ));
            all
        }
        _ => return None,
    })
}

fn bad_additions() -> Vec<Bad> {
    let path = "/api/v1/groups/hall/devices";
    let mut all = any_json(path);
    all.extend([
        Bad::json(path, json!({"add": ["../x"]}), 400, "add"),
        Bad::json(path, json!({"add": "a"}), 400, "add"),
        Bad::json(path, json!({"add": vec!["a"; 10_001]}), 400, "add"),
        Bad::json(path, json!({}), 400, "add"),
        Bad::json(
            "/api/v1/groups/nobody/devices",
            json!({"add": []}),
            404,
            "name",
        ),
    ]);
    all
}

fn bad_rollout_calls(method: &str, path: &str) -> Option<Vec<Bad>> {
    Some(match (method, path) {
        ("POST", "/api/v1/rollouts" | "/api/v1/rollouts/preview" | "/api/v1/rollouts/dry-run") => {
            bad_rollouts(path)
        }
        ("GET", "/api/v1/rollouts") => bad_numbered_pages(path),
        ("GET", "/api/v1/rollouts/{id}") => bad_numbers("/api/v1/rollouts/", ""),
        ("GET", "/api/v1/clusters") => vec![
            Bad::path("/api/v1/clusters?days=0", 400, "days"),
            Bad::path("/api/v1/clusters?days=366", 400, "days"),
            Bad::path("/api/v1/clusters?days=week", 400, "days"),
        ],
        ("GET", "/api/v1/rollouts/{id}/clusters") => bad_numbers("/api/v1/rollouts/", "/clusters"),
        ("POST", "/api/v1/rollouts/{id}/pause") => bad_reasons("/api/v1/rollouts/", "/pause"),
        ("POST", "/api/v1/rollouts/{id}/resume") => bad_reasons("/api/v1/rollouts/", "/resume"),
        ("POST", "/api/v1/rollouts/{id}/abort") => bad_reasons("/api/v1/rollouts/", "/abort"),
        ("POST", "/api/v1/rollouts/{id}/retry") => bad_reasons("/api/v1/rollouts/", "/retry"),
        ("POST", "/api/v1/rollouts/{id}/promote") => bad_reasons("/api/v1/rollouts/", "/promote"),
        ("POST", "/api/v1/rollouts/{id}/approve") => bad_reasons("/api/v1/rollouts/", "/approve"),
        _ => return None,
    })
}

fn bad_rollbacks(path: &str) -> Vec<Bad> {
    let with = |key: &str, value: Value| {
        let mut body = json!({"to": ["known"], "reason": "r"});
        body[key] = value;
        body
    };
    let mut all = any_json(path);
    all.extend([
        Bad::json(path, json!({"to": ["known"]}), 400, "reason"),
        Bad::json(path, json!({"reason": "r"}), 400, "to"),
        Bad::json(path, with("to", json!([])), 400, "to"),
        Bad::json(path, with("to", json!(["a b"])), 400, "to"),
        Bad::json(path, with("to", json!(["group:nobody"])), 404, "to"),
        Bad::json(path, with("reason", json!(" ")), 400, "reason"),
        Bad::json(path, with("reason", json!("r".repeat(97))), 400, "reason"),
        Bad::json(path, with("release", json!("9.9.9")), 404, "release"),
        Bad::json(path, with("release", json!(1)), 400, "release"),
    ]);
    all
}

fn bad_events(path: &str) -> Option<Vec<Bad>> {
    Some(match path {
        "/api/v1/events" => {
            let mut all = bad_pages(path);
            all.extend([
                Bad::path("/api/v1/events?after=x", 400, "after"),
                Bad::path("/api/v1/events?device=a%20b", 400, "device"),
                Bad::path("/api/v1/events?rollout=x", 400, "rollout"),
            ]);
            all
        }
        "/api/v1/events/stream" => vec![
            Bad::path("/api/v1/events/stream?rollout=x", 400, "rollout"),
            Bad::path("/api/v1/events/stream?after=x", 400, "after"),
            Bad::path("/api/v1/events/stream?device=a%20b", 400, "device"),
            Bad::path("/api/v1/events/stream?kinds=A!", 400, "kinds"),
            Bad::path("/api/v1/events/stream?surprise=1", 400, "surprise"),
        ],
        _ => return None,
    })
}

fn bad_check_ins() -> Vec<Bad> {
    let path = "/d/v1/check-in";
    let cbor =
        |body: Vec<u8>, status, field| Bad::raw(path, "application/cbor", body, status, field);
    let device = |change: &dyn Fn(&mut TestDevice)| {
        let mut device = TestDevice::running("bad", &Image::new("1.0.5"));
        change(&mut device);
        device.message()
    };
    let good = device(&|_| {});
    let mut longer = good.clone();
    longer.push(0);
    let mut protocol = good.clone();
    // A map of 17 entries begins with two bytes at most; key 0 and its value follow.
    let at = protocol.iter().position(|byte| *byte == 0).expect("key 0") + 1;
    protocol[at] = 9;
    let mut all = vec![
        cbor(Vec::new(), 400, "body"),
        cbor(b"junk".to_vec(), 400, "body"),
        cbor(vec![0x9f; 1000], 400, "body"),
        cbor(vec![0xbf; 1000], 400, "body"),
        cbor(vec![0; 1025], 413, "body"),
        cbor(vec![0; 1137], 413, "body"),
        Bad::raw(path, "application/cose", vec![0xd1; 500], 400, "body"),
        Bad::raw(path, "application/cose", vec![0xd2, 0x84], 400, "body"),
        Bad::raw(path, "application/cose", vec![0xd2; 1137], 413, "body"),
        cbor(vec![0xff; 1024 * 1024], 413, "body"),
        cbor(longer, 400, "body"),
        cbor(protocol, 400, "protocol"),
        cbor(device(&|d| d.id = String::new()), 400, "device"),
        cbor(device(&|d| d.id = "../x".to_owned()), 400, "device"),
        cbor(device(&|d| d.version = "v".repeat(33)), 400, "version"),
        cbor(
            device(&|d| d.version = "1\u{1b}[2J".to_owned()),
            400,
            "version",
        ),
        cbor(device(&|d| d.project = "p".repeat(33)), 400, "project"),
        cbor(device(&|d| d.log = Some(endless_log())), 400, "log"),
        Bad::raw(path, "application/json", good.clone(), 415, "content-type"),
    ];
    for cut in 0..good.len() {
        all.push(cbor(good[..cut].to_vec(), 400, "body"));
    }
    all
}

fn endless_log() -> fota_proto::log::LogHead {
    fota_proto::log::LogHead {
        size: u64::MAX,
        root: fota_proto::Sha256([1; 32]),
    }
}

/// Everything that is stored, as text.
async fn stored(server: &Server) -> Vec<Value> {
    let mut all = Vec::new();
    for path in [
        "/api/v1/releases",
        "/api/v1/devices",
        "/api/v1/devices/known/credentials",
        "/api/v1/enrolment-keys",
        "/api/v1/groups",
        "/api/v1/rollouts",
        "/api/v1/events?limit=1000",
        "/api/v1/roots",
        "/api/v1/log",
        "/api/v1/users",
        "/api/v1/tokens",
        "/api/v1/webhooks",
    ] {
        all.push(server.get(path).await.json());
    }
    all
}

#[tokio::test]
async fn bad_input_to_every_endpoint_is_refused_by_the_name_of_the_field() {
    each_database(async |server| {
        let image = Image::new("1.0.5");
        server.release(&image).await;
        TestDevice::running("known", &image).check_in(&server).await;
        server.post("/api/v1/groups", json!({"name": "hall"})).await;
        server
            .rollout(json!({"release": "1.0.5", "to": ["group:hall"]}))
            .await;
        let before = stored(&server).await;
        for (method, path, _) in ROUTES {
            let requests = bad_requests(method, path);
            let requests =
                requests.unwrap_or_else(|| panic!("no bad input is tried on {method} {path}"));
            for bad in requests {
                let method: Method = method.parse().expect("a method");
                let mut request = server.request(method.clone(), &bad.path);
                if let Some(kind) = bad.kind {
                    request = request.header(header::CONTENT_TYPE, kind);
                }
                let reply = Reply::of(request.body(bad.body.clone())).await;
                let shown: String = String::from_utf8_lossy(&bad.body)
                    .chars()
                    .take(80)
                    .collect();
                let what = format!("{method} {} {shown:?}", bad.path);
                let text = String::from_utf8_lossy(&reply.body);
                assert_eq!(reply.status.as_u16(), bad.status, "{what}: {text}");
                let (_, field, _) = reply.problem(bad.status);
                assert_eq!(field.as_deref(), bad.field, "{what}: {text}");
            }
        }
        assert_eq!(
            stored(&server).await,
            before,
            "a refused request changed something"
        );
    })
    .await;
}
