//! What the screens of releases, settings and activity do by forms alone.

use fota_proto::manager::{Page, Release};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    attacks_device::Sealing,
    keys::Keys,
    support::*,
    web::{Got, address, browser, got, screen},
};

/// A browser that is signed in, without a script.
struct Visitor<'s> {
    server: &'s Server,
    cookie: String,
    csrf: String,
}

impl<'s> Visitor<'s> {
    async fn new(server: &'s Server) -> Self {
        let link = format!("{}/?token={TOKEN}", server.base);
        let link = got(browser().get(link)).await;
        let cookie = link.header(header::SET_COOKIE);
        let cookie = cookie.split(';').next().expect("a cookie").to_owned();
        let mut visitor = Self {
            server,
            cookie,
            csrf: String::new(),
        };
        let page = visitor.sees("/settings").await;
        visitor.csrf = address(&page, "name=\"csrf\" content=\"").to_owned();
        visitor
    }

    fn ask(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.server.base);
        let request = browser()
            .request(method, url)
            .header("cookie", &self.cookie);
        request.header("sec-fetch-site", "same-origin")
    }

    async fn sees(&self, path: &str) -> String {
        let page = got(self.ask(Method::GET, path)).await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.text);
        page.text
    }

    async fn sends(&self, path: &str, fields: &[(&str, &str)]) -> Got {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.append_pair("csrf", &self.csrf).extend_pairs(fields);
        let request = self.ask(Method::POST, path);
        let kind = "application/x-www-form-urlencoded";
        got(request.header("content-type", kind).body(body.finish())).await
    }

    /// A form that leads on to the screen that shows what it did.
    async fn does(&self, path: &str, fields: &[(&str, &str)]) {
        let done = self.sends(path, fields).await;
        assert_eq!(done.status, StatusCode::SEE_OTHER, "{path}: {}", done.text);
    }

    async fn uploads(&self, csrf: &str, fields: &[(&str, &str)], file: &[u8]) -> Got {
        let mut body = Vec::new();
        let part = |name: &str, more: &str| {
            format!("--xyz\r\ncontent-disposition: form-data; name=\"{name}\"{more}\r\n\r\n")
        };
        for (name, value) in [("csrf", csrf)].iter().chain(fields) {
            body.extend(format!("{}{value}\r\n", part(name, "")).bytes());
        }
        body.extend(part("file", "; filename=\"app.bin\"").bytes());
        body.extend(file);
        body.extend(b"\r\n--xyz--\r\n");
        let request = self.ask(Method::POST, "/releases");
        let request = request.header("content-type", "multipart/form-data; boundary=xyz");
        got(request.body(body)).await
    }
}

async fn releases(server: &Server) -> Vec<Release> {
    let page: Page<Release> = server.get("/api/v1/releases").await.value(StatusCode::OK);
    page.items
}

/// G7: an upload without a script, with the same refusals as the API's.
#[tokio::test]
async fn a_release_is_uploaded_by_a_form_alone() {
    let server = Server::start(Setup::default()).await;
    let visitor = Visitor::new(&server).await;
    let image = Image::new("1.0.6");
    let forged = visitor.uploads("x", &[], &image.bytes).await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN);
    let other = [("version", "1.0.7")];
    let mismatch = visitor.uploads(&visitor.csrf, &other, &image.bytes).await;
    assert!(mismatch.status.is_client_error(), "{}", mismatch.text);
    assert!(mismatch.text.contains("1.0.7"), "{}", mismatch.text);
    let large = vec![0xe9; 17 * 1024 * 1024];
    let large = visitor.uploads(&visitor.csrf, &[], &large).await;
    assert_eq!(
        large.status,
        StatusCode::PAYLOAD_TOO_LARGE,
        "{}",
        large.text
    );
    let broken = visitor.ask(Method::POST, "/releases");
    let broken = broken.header("content-type", "multipart/form-data; boundary=xyz");
    let broken = got(broken.body("--xyz\r\nnothing")).await;
    assert_eq!(broken.status, StatusCode::BAD_REQUEST, "{}", broken.text);
    assert_eq!(releases(&server).await, []);
    let fields = [("version", "1.0.6"), ("notes", "by hand")];
    let done = visitor.uploads(&visitor.csrf, &fields, &image.bytes).await;
    assert_eq!(
        done.header(header::LOCATION),
        "/releases/1",
        "{}",
        done.text
    );
    let stored = releases(&server).await;
    assert_eq!(
        (stored[0].sha256, stored[0].notes.as_str()),
        (image.sha256, "by hand")
    );
    let ticked = [("version", "2.0.0"), ("allow_version_mismatch", "1")];
    let other = Image::new("1.0.8");
    let done = visitor.uploads(&visitor.csrf, &ticked, &other.bytes).await;
    assert_eq!(
        done.header(header::LOCATION),
        "/releases/2",
        "{}",
        done.text
    );
    assert_eq!(releases(&server).await[0].version, "2.0.0");
}

/// AC4.5: where signatures are required, an unsigned release cannot be started; the button says why.
#[tokio::test]
async fn an_unsigned_release_cannot_be_started_where_signatures_are_required() {
    let server = Server::start(Setup::default()).await;
    server.release(&Image::new("1.0.6")).await;
    let start = json!({"release": "1", "to": ["all"]});
    let page = screen(&server, "/releases/1").await;
    assert!(page.contains("href=\"/rollouts/new?release=1\""));
    Keys::on(&server).await;
    for path in ["/api/v1/rollouts", "/api/v1/rollouts/preview"] {
        let (code, field, detail) = server.post(path, start.clone()).await.problem(409);
        assert_eq!(
            (code.as_str(), field.as_deref()),
            ("unsigned", Some("release"))
        );
        assert!(detail.contains("this server has root 1"), "{detail}");
    }
    let page = screen(&server, "/releases/1").await;
    assert!(page.contains("<button disabled aria-describedby=\"refused\""));
    assert!(!page.contains("href=\"/rollouts/new?release=1\""));
    assert!(page.contains("is not signed, and this server has root 1"));
    let put = server.request(Method::PUT, "/api/v1/products/thermostat/signing");
    let put = Reply::of(put.json(&json!({"unsigned": true}))).await;
    assert_eq!(put.status, StatusCode::OK);
    let page = screen(&server, "/releases/1").await;
    assert!(page.contains("href=\"/rollouts/new?release=1\""));
    server.rollout(start).await;
}

#[tokio::test]
async fn patches_are_asked_for_and_shown_with_their_sizes() {
    let server = Server::start(Setup::default()).await;
    let keys = Keys::on(&server).await;
    keys.release(&server, &Image::new("1.0.5"), 5).await;
    keys.release(&server, &Image::new("1.0.6"), 6).await;
    let visitor = Visitor::new(&server).await;
    let fields = [("from", "1"), ("profile", "small")];
    visitor.does("/releases/2/deltas", &fields).await;
    let made = async {
        loop {
            let page: Value = server.get("/api/v1/deltas").await.json();
            if page["items"][0]["state"] == "ready" {
                return page["items"][0]["bytes"].as_u64().expect("a length");
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let bytes = tokio::time::timeout(std::time::Duration::from_secs(30), made).await;
    let bytes = bytes.expect("made in time");
    let page = visitor.sees("/releases/2").await;
    let (_, row) = page.split_once("data-testid=\"delta\"").expect("a row");
    let row = row.split("</tr>").next().expect("its end");
    for shown in ["1.0.5", "ready", "16 KB", &format!(">{bytes}<"), "0 of 0"] {
        assert!(row.contains(shown), "{shown}: {row}");
    }
    let refused = visitor.sends("/releases/2/deltas", &[("from", "77")]).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn two_releases_are_compared_fact_by_fact() {
    let server = Server::start(Setup::default()).await;
    server.release(&Image::new("1.0.5")).await;
    server.release(&Image::new("1.0.6")).await;
    let page = screen(&server, "/releases/2?with=1").await;
    let rows: Vec<&str> = page.split("data-testid=\"fact\"").skip(1).collect();
    let row = |name: &str| *rows.iter().find(|row| row.contains(name)).expect(name);
    let version = row(">Version");
    assert!(version.contains("differs") && version.contains("1.0.5") && version.contains("1.0.6"));
    assert!(!row(">Chip").contains("differs"));
    assert!(row(">Validation hash").contains("differs"));
    assert!(
        !screen(&server, "/releases/2")
            .await
            .contains("data-testid=\"fact\"")
    );
}

/// AC8.2: after a credential was revoked, the device is refused at its next check-in, and its page
/// says so. (The answer is 403: who it is was proven, and it may not.)
#[tokio::test]
async fn a_revoked_device_is_refused_and_its_page_says_credential_revoked() {
    let server = Server::start(Setup::default()).await;
    let mut device = Sealing::provisioned(&server, "ESP32-001", 1).await;
    device.check_in(&server).await;
    assert!(
        !screen(&server, "/devices/ESP32-001")
            .await
            .contains("credential revoked")
    );
    let visitor = Visitor::new(&server).await;
    visitor.does("/devices/ESP32-001/revoke", &[]).await;
    assert_eq!(device.says(&server).await.problem(403).0, "device_revoked");
    let page = screen(&server, "/devices/ESP32-001").await;
    assert!(page.contains("credential revoked"));
    assert!(page.contains("a check-in with a revoked credential was refused"));
}

#[tokio::test]
async fn users_are_given_roles_and_passwords_by_forms() {
    let server = Server::start(Setup::default()).await;
    let visitor = Visitor::new(&server).await;
    let new = [("name", "anna"), ("role", "viewer"), ("password", PASSWORD)];
    visitor.does("/settings/users", &new).await;
    visitor
        .does("/settings/users/anna/role", &[("role", "operator")])
        .await;
    let users: Value = server.get("/api/v1/users").await.json();
    assert_eq!(users["items"][0]["role"], "operator");
    // A password may begin with a blank.
    let other = " another good password";
    visitor
        .does("/settings/users/anna/password", &[("password", other)])
        .await;
    assert_eq!(
        server.login("anna", PASSWORD).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        server.login("anna", other).await.status,
        StatusCode::CREATED
    );
    for (path, fields, status) in [
        ("/settings/users/anna/role", ("role", "king"), 400),
        ("/settings/users/anna/password", ("password", "short"), 400),
        ("/settings/users/anna/dance", ("", ""), 404),
        ("/settings/users/nobody/remove", ("", ""), 404),
    ] {
        let refused = visitor.sends(path, &[fields]).await;
        assert_eq!(refused.status.as_u16(), status, "{path}");
    }
    visitor.does("/settings/users/anna/remove", &[]).await;
    let users: Value = server.get("/api/v1/users").await.json();
    assert_eq!(users["items"], json!([]));
    let did = server.audit().await.into_iter().map(|entry| entry.action);
    let did: Vec<String> = did.filter(|action| action.starts_with("user.")).collect();
    assert_eq!(
        did,
        ["user.created", "user.role", "user.password", "user.removed"]
    );
}

#[tokio::test]
async fn groups_get_rules_and_lose_devices_by_forms() {
    let server = Server::start(Setup::default()).await;
    let visitor = Visitor::new(&server).await;
    let new = [("name", "hall"), ("devices", "ESP32-001 ESP32-002")];
    visitor.does("/settings/groups", &new).await;
    let rule = [("filter", "chip == esp32c3"), ("bytes_per_s", "1000")];
    visitor.does("/settings/groups/hall/rule", &rule).await;
    visitor
        .does("/settings/groups/hall/take", &[("device", "ESP32-001")])
        .await;
    let groups: Value = server.get("/api/v1/groups").await.json();
    let hall = json!({"name": "hall", "devices": ["ESP32-002"], "filter": "chip == esp32c3",
        "bytes_per_s": 1000});
    assert_eq!(groups["items"][0], hall);
    let page = visitor.sees("/settings").await;
    assert!(page.contains("<code>chip == esp32c3</code>"));
    for (action, fields) in [
        ("rule", ("filter", "chip ===")),
        ("rule", ("bytes_per_s", "many")),
        ("rule", ("bytes_per_s", "0")),
        ("take", ("device", "ESP32-009")),
        ("dance", ("", "")),
    ] {
        let refused = visitor
            .sends(&format!("/settings/groups/hall/{action}"), &[fields])
            .await;
        assert!(refused.status.is_client_error(), "{action}");
    }
    visitor.does("/settings/groups/hall/remove", &[]).await;
    let groups: Value = server.get("/api/v1/groups").await.json();
    assert_eq!(groups["items"], json!([]));
}

/// Answers each request with 204.
async fn receiver() -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bound");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            let _ = peer.read(&mut [0; 4096]).await;
            let _ = peer
                .write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
                .await;
        }
    });
    format!("http://{address}/")
}

#[tokio::test]
async fn webhooks_are_added_tested_and_removed_by_forms() {
    let server = Server::start(Setup::default()).await;
    let visitor = Visitor::new(&server).await;
    let url = receiver().await;
    let new = [
        ("name", "ops"),
        ("url", &url),
        ("events", "rollout.*, attempt.failed"),
    ];
    let made = visitor.sends("/settings/webhooks", &new).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text);
    assert!(made.text.contains("whsec_") && made.text.contains("delivers"));
    assert!(
        !visitor.sees("/settings").await.contains("whsec_"),
        "shown once"
    );
    let tested = visitor.sends("/settings/webhooks/ops/test", &[]).await;
    assert!(tested.text.contains("answered 204") && tested.text.contains("was delivered"));
    let gone = [
        ("name", "gone"),
        ("url", "http://127.0.0.1:1/"),
        ("events", "*"),
    ];
    visitor.sends("/settings/webhooks", &gone).await;
    let tested = visitor.sends("/settings/webhooks/gone/test", &[]).await;
    assert!(tested.text.contains("banner bad") && tested.text.contains("did not answer"));
    visitor.does("/settings/webhooks/ops/disable", &[]).await;
    assert!(
        visitor
            .sees("/settings")
            .await
            .contains("by hand, in the settings")
    );
    visitor.does("/settings/webhooks/ops/enable", &[]).await;
    let bad = [("name", "bad"), ("url", "ftp://x"), ("events", "*")];
    assert_eq!(
        visitor.sends("/settings/webhooks", &bad).await.status,
        StatusCode::BAD_REQUEST
    );
    for name in ["ops", "gone"] {
        visitor
            .does(&format!("/settings/webhooks/{name}/remove"), &[])
            .await;
    }
    let hooks: Value = server.get("/api/v1/webhooks").await.json();
    assert_eq!(hooks["items"], json!([]));
}

#[tokio::test]
async fn enrolment_keys_are_made_and_revoked_by_forms() {
    let server = Server::start(Setup::default()).await;
    let visitor = Visitor::new(&server).await;
    let new = [
        ("name", "batch"),
        ("devices_max", "20"),
        ("days", "30"),
        ("id_prefix", "ESP32-"),
    ];
    let made = visitor.sends("/settings/enrolment-keys", &new).await;
    let secret = made
        .text
        .split("data-testid=\"secret\">")
        .nth(1)
        .expect("a secret");
    assert!(secret.bytes().take(64).all(|byte| byte.is_ascii_hexdigit()));
    let keys: Value = server.get("/api/v1/enrolment-keys").await.json();
    assert_eq!(
        (
            &keys["items"][0]["devices_max"],
            &keys["items"][0]["id_prefix"]
        ),
        (&json!(20), &json!("ESP32-"))
    );
    for (devices, days) in [("", "30"), ("20", ""), ("many", "30"), ("20", "1000")] {
        let bad = [("name", "other"), ("devices_max", devices), ("days", days)];
        let refused = visitor.sends("/settings/enrolment-keys", &bad).await;
        assert!(refused.status.is_client_error(), "{devices} {days}");
    }
    visitor
        .does("/settings/enrolment-keys/batch/revoke", &[])
        .await;
    let keys: Value = server.get("/api/v1/enrolment-keys").await.json();
    assert_eq!(keys["items"][0]["state"], "revoked");
}

/// The state of disk, database, TLS and MQTT, and a backup by the button.
#[tokio::test]
async fn the_settings_show_how_the_server_is_and_give_a_backup() {
    let server = Server::start(Setup::default()).await;
    let visitor = Visitor::new(&server).await;
    let page = visitor.sees("/settings").await;
    for shown in [
        "MiB free",
        "sqlite, ",
        "plain HTTP",
        "no broker",
        "2026-11-23T12:00:00Z",
    ] {
        assert!(page.contains(shown), "{shown}");
    }
    let url = format!("{}/settings/backup", server.base);
    let request = browser().post(url).header("cookie", &visitor.cookie);
    let request = request.header("sec-fetch-site", "same-origin");
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let reply = Reply::of(request.body(format!("csrf={}", visitor.csrf))).await;
    assert_eq!(reply.headers["content-type"], "application/x-tar");
    let name = reply.headers["content-disposition"].to_str().expect("text");
    assert_eq!(name, "attachment; filename=\"fota-2026-11-23.tar\"");
    assert!(reply.body.starts_with(b"fota-backup.json\0"));
    let viewer = server.token("eye", "viewer").await;
    let seen = Reply::of(server.request_as(&viewer, Method::GET, "/settings")).await;
    let seen = String::from_utf8_lossy(&seen.body).into_owned();
    for hidden in [
        "/settings/backup",
        "/settings/users",
        "/settings/webhooks",
        "/settings/groups",
        "/settings/enrolment-keys",
    ] {
        assert!(!seen.contains(hidden), "{hidden}");
    }
}

#[tokio::test]
async fn ones_own_password_needs_the_one_until_now() {
    let server = Server::start(Setup::default()).await;
    server.user("anna", "viewer").await;
    let session = server.session("anna").await;
    let send = async |body: &'static str| {
        let request = server.request_as(&session, Method::POST, "/settings/password");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        Reply::of(request.body(body)).await.status
    };
    let wrong = send("current=wrong+wrong+wrong&password=another+good+password").await;
    assert_eq!(wrong, StatusCode::FORBIDDEN);
    send("current=correct+horse+battery&password=another+good+password").await;
    let login = server.login("anna", "another good password").await;
    assert_eq!(login.status, StatusCode::CREATED);
}

#[tokio::test]
async fn activity_is_filtered_by_who_and_exported_line_by_line() {
    let server = Server::start(Setup::default()).await;
    let story = Story::begin(&server).await;
    drop(story);
    let shown = |page: &str| page.matches("data-testid=\"event\"").count();
    let all = shown(&screen(&server, "/activity").await);
    let of = async |actor: &str| shown(&screen(&server, &format!("/activity?actor={actor}")).await);
    let (devices, operators) = (of("device").await, of("operator").await);
    assert!(devices > 0 && operators > 0 && devices + operators <= all);
    let export = server.get("/activity.ndjson?actor=operator").await;
    assert_eq!(export.headers["content-type"], "application/x-ndjson");
    let text = String::from_utf8(export.body).expect("text");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), operators);
    assert!(lines.iter().all(|event| event["actor"] == "operator"));
    let whole = server.get("/activity.ndjson").await;
    assert_eq!(String::from_utf8_lossy(&whole.body).lines().count(), all);
}

#[tokio::test]
async fn the_audit_log_is_filtered_by_who_and_what() {
    let server = Server::start(Setup::default()).await;
    let boss = server.token("boss", "admin").await;
    for (token, name) in [(TOKEN, "one"), (boss.as_str(), "two")] {
        let request = server.request_as(token, Method::POST, "/api/v1/groups");
        Reply::of(request.json(&json!({"name": name}))).await;
    }
    let page = screen(&server, "/activity/audit?actor=token:boss").await;
    assert!(page.contains("group:two") && !page.contains("group:one"));
    let page = screen(&server, "/activity/audit?action=token.").await;
    assert!(page.contains("token.created") && !page.contains("group:one"));
}
