//! Of operators and of devices: who they say they are.

use serde_json::{Value, json};

use super::*;

pub fn bad_operators(method: &str, path: &str) -> Option<Vec<Bad>> {
    let user = |name: &str, after: &str| format!("/api/v1/users/{name}{after}");
    Some(match (method, path) {
        ("POST", "/api/v1/session") => bad_logins(path),
        ("DELETE", "/api/v1/session") | ("GET", "/api/v1/audit/export") => Vec::new(),
        ("GET", "/api/v1/users") => bad_pages(path),
        ("GET", "/api/v1/tokens" | "/api/v1/audit") => bad_numbered_pages(path),
        ("POST", "/api/v1/users") => bad_users(path),
        ("POST", "/api/v1/tokens") => bad_tokens(path),
        ("DELETE", "/api/v1/tokens/{id}") => bad_numbers("/api/v1/tokens/", "")
            .into_iter()
            .filter(|bad| bad.path != "/api/v1/tokens/r-")
            .collect(),
        ("DELETE", "/api/v1/users/{name}") => {
            let mut all = bad_ids("/api/v1/users/", "", "name");
            all.push(Bad::path(&user("nobody", ""), 404, "name"));
            all
        }
        ("POST", "/api/v1/users/{name}/role") => {
            let role = user("nobody", "/role");
            let mut all = any_json(&role);
            all.extend([
                Bad::json(&role, json!({"role": "admin"}), 404, "name"),
                Bad::json(
                    &user("a%20b", "/role"),
                    json!({"role": "admin"}),
                    400,
                    "name",
                ),
                Bad::json(&role, json!({}), 400, "role"),
                Bad::json(&role, json!({"role": "root"}), 400, "role"),
            ]);
            all
        }
        ("POST", "/api/v1/users/{name}/password") => {
            let password = user("nobody", "/password");
            let good = json!({"password": PASSWORD});
            let mut all = any_json(&password);
            all.extend([
                Bad::json(&password, good.clone(), 404, "name"),
                Bad::json(&user("a%20b", "/password"), good, 400, "name"),
                Bad::json(&password, json!({}), 400, "password"),
                Bad::json(&password, json!({"password": "short"}), 400, "password"),
            ]);
            all
        }
        _ => return None,
    })
}

fn bad_logins(path: &str) -> Vec<Bad> {
    // Its bodies may be shorter than those of others: nobody is known yet.
    let mut all: Vec<Bad> = any_json(path)
        .into_iter()
        .filter(|bad| bad.body.len() <= 8 * 1024)
        .collect();
    let json = "application/json";
    all.extend([
        Bad::raw(path, json, vec![b' '; 8 * 1024 + 1], 413, "body"),
        Bad::json(path, json!({"user": "a"}), 400, "password"),
        Bad::json(path, json!({"password": "a"}), 400, "user"),
        Bad::json(path, json!({"user": 5, "password": "a"}), 400, "user"),
        Bad::json(
            path,
            json!({"user": "a", "password": null}),
            400,
            "password",
        ),
    ]);
    all
}

fn bad_users(path: &str) -> Vec<Bad> {
    let with = |key: &str, value: Value| {
        let mut body = json!({"name": "x", "role": "viewer", "password": PASSWORD});
        body[key] = value;
        body
    };
    let bad = |key: &'static str, value: Value| Bad::json(path, with(key, value), 400, key);
    let mut all = any_json(path);
    all.extend([
        bad("name", json!("")),
        bad("name", json!("all")),
        bad("name", json!("a b")),
        bad("name", json!("n".repeat(65))),
        bad("role", json!("root")),
        bad("role", json!(1)),
        bad("password", json!("eleven byte")),
        bad("password", json!("p".repeat(1025))),
        bad("password", json!(5)),
    ]);
    all
}

fn bad_tokens(path: &str) -> Vec<Bad> {
    let with = |key: &str, value: Value| {
        let mut body = json!({"name": "x", "role": "viewer"});
        body[key] = value;
        body
    };
    let bad = |key: &'static str, value: Value| Bad::json(path, with(key, value), 400, key);
    let mut all = any_json(path);
    all.extend([
        bad("name", json!("")),
        bad("name", json!("../x")),
        bad("role", json!("")),
        bad("expires_in_s", json!(0)),
        bad("expires_in_s", json!(-1)),
        bad("expires_in_s", json!(1e300)),
        bad("expires_in_s", json!(u64::MAX)),
    ]);
    all
}

pub fn bad_credentials(method: &str, path: &str) -> Option<Vec<Bad>> {
    let of = |id: &str| format!("/api/v1/devices/{id}/credentials");
    let known = of("known");
    let no_point = format!("04{}", "11".repeat(64));
    Some(match (method, path) {
        ("GET" | "DELETE", "/api/v1/devices/{id}/credentials") => {
            let mut all = bad_ids("/api/v1/devices/", "/credentials", "id");
            all.push(Bad::path(&of("nobody"), 404, "id"));
            if method == "DELETE" {
                all.push(Bad::path(&known, 409, "id"));
            }
            all
        }
        ("POST", "/api/v1/devices/{id}/credentials") => {
            let mut all = any_json(&known);
            let key = |text: &str| json!({"kind": "key", "public_key": text});
            all.extend([
                Bad::json(&of("a%20b"), json!({"kind": "secret"}), 400, "id"),
                Bad::json(&known, json!({}), 400, "kind"),
                Bad::json(&known, json!({"kind": "password"}), 400, "kind"),
                Bad::json(&known, json!({"kind": "key"}), 400, "public_key"),
                Bad::json(&known, key(""), 400, "public_key"),
                Bad::json(&known, key(&no_point), 400, "public_key"),
                Bad::json(&known, key(&no_point[2..]), 400, "public_key"),
                Bad::json(
                    &known,
                    json!({"kind": "secret", "public_key": no_point}),
                    400,
                    "public_key",
                ),
            ]);
            all
        }
        ("DELETE", "/api/v1/devices/{id}/credentials/{credential}") => {
            let one = |id: &str, number: &str| format!("{}/{number}", of(id));
            vec![
                Bad::path(&one("known", "1"), 404, "credential"),
                Bad::path(&one("nobody", "1"), 404, "id"),
                Bad::path(&one("a%20b", "1"), 400, "id"),
                Bad::path(&one("known", "x"), 400, "credential"),
                Bad::path(&one("known", "-1"), 400, "credential"),
                Bad::path(&one("known", "99999999999999999999"), 400, "credential"),
            ]
        }
        ("POST", "/api/v1/devices/{id}/re-enrol") => {
            let mut all = bad_ids("/api/v1/devices/", "/re-enrol", "id");
            all.push(Bad::path("/api/v1/devices/nobody/re-enrol", 404, "id"));
            all
        }
        _ => return None,
    })
}

pub fn bad_claims(path: &str) -> Vec<Bad> {
    let csv = |text: String, status| Bad::raw(path, "text/csv", text.into(), status, "body");
    let secret = "0f".repeat(32);
    vec![
        csv(String::new(), 400),
        csv("id,kind,key\n".to_owned(), 400),
        csv(format!("a,secret,{secret}\nb,secret,x"), 400),
        csv(format!("a,secret,{secret}\na,secret,{secret}"), 400),
        csv(format!("all,secret,{secret}"), 400),
        csv(format!("a,password,{secret}"), 400),
        csv(format!("a,key,04{}", "11".repeat(64)), 400),
        csv("a".repeat(512 * 1024 + 1), 413),
        Bad::raw(path, "text/csv", vec![0xff; 64], 400, "body"),
        Bad::raw(
            path,
            "application/json",
            b"{}".to_vec(),
            415,
            "content-type",
        ),
    ]
}

pub fn bad_enrolment_keys(method: &str, path: &str) -> Option<Vec<Bad>> {
    Some(match (method, path) {
        ("GET", _) => Vec::new(),
        ("DELETE", _) => {
            let mut all = bad_ids("/api/v1/enrolment-keys/", "", "name");
            all.push(Bad::path("/api/v1/enrolment-keys/nobody", 404, "name"));
            all
        }
        ("POST", _) => {
            let with = |key: &'static str, value: Value, status| {
                let mut body = json!({"name": "k", "devices_max": 1, "expires_in_s": 60});
                body[key] = value;
                Bad::json(path, body, status, key)
            };
            let mut all = any_json(path);
            all.extend([
                with("name", json!("a b"), 400),
                with("name", json!(5), 400),
                with("devices_max", json!(0), 400),
                with("devices_max", json!(100_001), 400),
                with("devices_max", json!(-1), 400),
                with("expires_in_s", json!(0), 400),
                with("expires_in_s", json!(u32::MAX), 400),
                with("group", json!("../x"), 400),
                with("group", json!("nobody"), 404),
                with("id_prefix", json!(""), 400),
                with("id_prefix", json!("../x"), 400),
            ]);
            all
        }
        _ => return None,
    })
}

pub fn bad_enrolments(path: &str) -> Vec<Bad> {
    let cose = |body, status, field| Bad::raw(path, "application/cose", body, status, field);
    vec![
        cose(Vec::new(), 400, "body"),
        cose(b"junk".to_vec(), 400, "body"),
        cose(vec![0xd2; 1000], 400, "body"),
        cose(vec![0xd2, 0x84, 0x43], 400, "body"),
        cose(vec![0; 1137], 413, "body"),
        Bad::raw(path, "application/cbor", Vec::new(), 415, "content-type"),
    ]
}
