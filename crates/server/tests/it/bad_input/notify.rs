//! Bad input to what tells others.

use super::*;

pub fn bad_webhooks(method: &str, path: &str) -> Option<Vec<Bad>> {
    let at = |after: &'static str| bad_ids("/api/v1/webhooks/", after, "name");
    let nobody = |after: &str| Bad::path(&format!("/api/v1/webhooks/nobody{after}"), 404, "name");
    let of_body = |after: &'static str, body: Value, field| {
        let path = format!("/api/v1/webhooks/nobody{after}");
        let mut all = any_json(&path);
        all.extend(at(after));
        all.push(nobody(after));
        all.push(Bad::json(&path, body, 400, field));
        all
    };
    Some(
        match (method, path.rsplit('/').next().unwrap_or_default()) {
            ("GET", "webhooks") => bad_pages(path),
            ("POST", "webhooks") => bad_new_webhooks(path),
            ("DELETE", _) => at("").into_iter().chain([nobody("")]).collect(),
            ("POST", "enable") => of_body("/enable", json!({"skip_missed": 1}), "skip_missed"),
            ("POST", "disable") => {
                of_body("/disable", json!({"reason": "r".repeat(4097)}), "reason")
            }
            ("POST", "test") => at("/test").into_iter().chain([nobody("/test")]).collect(),
            ("GET", "deliveries") => {
                let mut all = at("/deliveries");
                all.extend(bad_numbered_pages("/api/v1/webhooks/nobody/deliveries"));
                all.push(nobody("/deliveries"));
                all
            }
            _ => return None,
        },
    )
}

fn bad_new_webhooks(path: &str) -> Vec<Bad> {
    let with = |key: &'static str, value: Value| {
        let mut body = json!({"name": "x", "url": "http://127.0.0.1/x", "events": ["*"]});
        body[key] = value;
        Bad::json(path, body, 400, key)
    };
    let mut all = any_json(path);
    all.extend([
        with("name", json!("../x")),
        with("name", json!(5)),
        with("url", json!("ftp://a/")),
        with("url", json!("http://169.254.169.254/latest/meta-data")),
        with("url", json!("http://u:p@a/")),
        with("url", json!("x".repeat(3000))),
        with("events", json!([])),
        with("events", json!(vec!["*"; 33])),
        with("events", json!(["Attempt!"])),
        with("events", json!("*")),
        with("secret", json!("hunter2")),
        with("secret", json!("whsec_c2hvcnQ=")),
    ]);
    all
}
