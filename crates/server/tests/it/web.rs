//! The screens, as a browser without JavaScript gets them. What a real browser makes of them is in
//! `xtask/browser`.

use reqwest::{StatusCode, header};
use serde_json::{Value, json};

use fota_proto::{AttemptState, FailureCode, checkin::End};

use crate::{
    seed_bench::{Bench, image},
    support::{Image, Reply, Server, Setup, Story, TOKEN, TestDevice},
};

struct Got {
    status: StatusCode,
    headers: header::HeaderMap,
    text: String,
}

impl Got {
    fn header(&self, name: header::HeaderName) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("text"))
    }
}

async fn got(request: reqwest::RequestBuilder) -> Got {
    let response = request.send().await.expect("an answer");
    Got {
        status: response.status(),
        headers: response.headers().clone(),
        text: response.text().await.expect("text"),
    }
}

/// A client that stays where it is sent, as a test of redirects needs.
fn browser() -> reqwest::Client {
    drop(crate::support::http());
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    builder.no_proxy().build().expect("a client")
}

/// The cookie that the link with the token gives.
async fn session(bench: &Bench) -> String {
    let link = got(browser().get(bench.url(&format!("/?token={TOKEN}")))).await;
    let cookie = link.header(header::SET_COOKIE);
    let pair = cookie.split(';').next().expect("a cookie");
    assert!(pair.starts_with("fota_session=fota_s_"), "{cookie}");
    pair.to_owned()
}

async fn page(bench: &Bench) -> Got {
    page_at(bench, "/").await
}

async fn page_at(bench: &Bench, path: &str) -> Got {
    let request = browser()
        .get(bench.url(path))
        .header("cookie", session(bench).await);
    let got = got(request).await;
    assert_eq!(got.status, StatusCode::OK, "{path}");
    got
}

/// A form as a browser sends it from a page of this server.
async fn submit(bench: &Bench, cookie: &str, path: &str, fields: &[(&str, &str)]) -> Got {
    let body: String = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish();
    let request = browser()
        .post(bench.url(path))
        .header("cookie", cookie)
        .header("sec-fetch-site", "same-origin")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body);
    got(request).await
}

/// Every screen that a viewer may see, on a fleet of two devices and one rollout.
const SCREENS: [&str; 13] = [
    "/",
    "/devices",
    "/devices/ESP32-001",
    "/releases",
    "/releases/1",
    "/rollouts",
    "/rollouts/r-1",
    "/rollouts/new?release=1&all=1",
    "/activity",
    "/activity/reasons",
    "/activity/audit",
    "/settings",
    "/connect",
];

/// The address in the first attribute that begins with `before`.
fn address<'t>(html: &'t str, before: &str) -> &'t str {
    let (_, rest) = html.split_once(before).expect("the attribute is there");
    rest.split('"').next().expect("its value")
}

#[tokio::test]
async fn without_the_token_the_page_says_where_it_is() {
    let bench = Bench::new().await;
    bench.seed_device("ESP32-001").boots("1.0.5").await;
    for cookie in ["", "fota_session=wrong", "fota_session="] {
        let shut = got(browser().get(bench.url("/")).header("cookie", cookie)).await;
        assert_eq!(shut.status, StatusCode::UNAUTHORIZED);
        assert!(shut.text.contains("operator-token") && !shut.text.contains("ESP32-001"));
    }
    for path in SCREENS {
        let shut = got(browser().get(bench.url(path))).await;
        assert_eq!(shut.status, StatusCode::UNAUTHORIZED, "{path}");
        assert!(shut.text.contains("operator-token"), "{path}");
        let policy = shut.header(header::CONTENT_SECURITY_POLICY);
        assert!(policy.starts_with("default-src 'none'"), "{path}");
    }
}

#[tokio::test]
async fn the_link_with_the_token_becomes_a_cookie_that_no_script_reads() {
    let bench = Bench::new().await;
    let wrong = got(browser().get(bench.url("/?token=wrong"))).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    assert!(wrong.text.contains("does not know that token"));
    assert_eq!(wrong.header(header::SET_COOKIE), "");
    let right = got(browser().get(bench.url(&format!("/?token={TOKEN}")))).await;
    assert_eq!(right.status, StatusCode::SEE_OTHER);
    assert_eq!(right.header(header::LOCATION), "/");
    let cookie = right.header(header::SET_COOKIE);
    assert!(cookie.starts_with("fota_session=fota_s_") && !cookie.contains(TOKEN));
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"));
    let bearer = got(browser().get(bench.url("/")).bearer_auth(TOKEN)).await;
    assert_eq!(bearer.status, StatusCode::OK);
}

#[tokio::test]
async fn nothing_is_inline_and_nothing_comes_from_elsewhere() {
    let bench = Bench::new().await;
    bench.seed_device("ESP32-001").boots("1.0.5").await;
    bench
        .upload("1.0.6", &image("1.0.6", 64 * 1024), 16_384)
        .await
        .ok();
    for path in SCREENS {
        let page = page_at(&bench, path).await;
        for bad in [
            "<style",
            "style=",
            " onclick",
            " onload",
            " onerror",
            "javascript:",
        ] {
            assert!(!page.text.contains(bad), "{path}: {bad}");
        }
        // AC8.4: what the server was started with is said on every screen.
        assert!(page.text.contains("--legacy-open"), "{path}");
    }
    let page = page(&bench).await;
    let policy = page.header(header::CONTENT_SECURITY_POLICY);
    assert!(
        policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(page.header(header::REFERRER_POLICY), "same-origin");
    assert_eq!(page.header(header::CACHE_CONTROL), "no-store");
    for bad in [
        "<style",
        "style=",
        " onclick",
        " onload",
        " onerror",
        "javascript:",
        "https://",
    ] {
        assert!(!page.text.contains(bad), "{bad}");
    }
    let scripts: Vec<_> = page.text.match_indices("<script").collect();
    assert_eq!(scripts.len(), 1);
    for (before, kind) in [
        ("<script src=\"", "text/javascript"),
        ("<link rel=\"stylesheet\" href=\"", "text/css"),
        ("<link rel=\"icon\" href=\"", "image/svg+xml"),
    ] {
        let path = address(&page.text, before);
        let file = got(browser().get(bench.url(path))).await;
        assert_eq!(file.status, StatusCode::OK, "{path}");
        assert!(file.header(header::CONTENT_TYPE).starts_with(kind));
        assert!(file.header(header::CACHE_CONTROL).contains("immutable"));
        assert!(
            file.text.len() <= 40 * 1024,
            "{path} is {} bytes",
            file.text.len()
        );
    }
    for name in ["nothing.js", "..%2f..%2fetc%2fpasswd", "%ff"] {
        let none = got(browser().get(bench.url(&format!("/assets/{name}")))).await;
        assert!(none.status.is_client_error(), "{name}");
    }
}

#[tokio::test]
async fn a_devices_texts_are_shown_as_text() {
    let bench = Bench::new().await;
    let bad = "<img onerror=alert(1)>";
    bench.seed_device("ESP32-001").boots(bad).await;
    let device = bench.seed_device("ESP32-002");
    bench
        .upload("1.0.6", &image("1.0.6", 64 * 1024), 16_384)
        .await
        .ok();
    device.manifest().await;
    device
        .post_status(json!({"error": "<script>alert(2)</script>\"'"}))
        .await
        .ok();
    for path in [
        "/",
        "/devices",
        "/devices/ESP32-001",
        "/devices/ESP32-002",
        "/activity",
    ] {
        let page = page_at(&bench, path).await;
        assert!(
            !page.text.contains("<img") && !page.text.contains("<script>"),
            "{path}"
        );
    }
    let page = page_at(&bench, "/devices").await;
    assert!(page.text.contains("onerror=alert(1)"), "shown, but as text");
    assert!(page.text.contains("alert(2)"));
}

#[tokio::test]
async fn the_page_shows_the_fleet_without_a_script() {
    let bench = Bench::new().await;
    let empty = page(&bench).await;
    assert!(empty.text.contains("Connect your first device"));
    let command = format!("fota sim --devices 3 --server {}", bench.url(""));
    assert!(empty.text.contains(&command));
    let device = bench.seed_device("ESP32-001");
    device.boots("1.0.5").await;
    bench.native_check_in("ESP32-002", "1.0.5").await;
    bench
        .upload("1.0.6", &image("1.0.6", 64 * 1024), 16_384)
        .await
        .ok();
    device.manifest().await;
    device
        .post_status(json!({"chunk_received": 2, "total_chunks": 4, "progress": 50}))
        .await
        .ok();
    let devices = page_at(&bench, "/devices").await;
    for shown in [
        "id=\"d-ESP32-001\"",
        "id=\"d-ESP32-002\"",
        "1.0.6",
        "downloading",
        "aria-valuenow=\"50\"",
        "role=\"progressbar\"",
        "legacy-open",
    ] {
        assert!(devices.text.contains(shown), "{shown}");
    }
    let page = page(&bench).await;
    assert!(page.text.contains("uploaded") && page.text.contains("/rollouts/r-1"));
    let summary = bench
        .manage(reqwest::Method::GET, "/api/v1/fleet/summary", None)
        .await;
    for (tile, count) in [("total", 2), ("online", 2), ("updating", 1)] {
        assert_eq!(summary[tile], count);
        let (_, rest) = page
            .text
            .split_once(&format!("tile-{tile}\""))
            .expect("the tile");
        let shown = rest
            .split("class=\"count\">")
            .nth(1)
            .and_then(|text| text.split('<').next());
        assert_eq!(shown, Some(count.to_string().as_str()), "{tile}");
    }
    let request = browser()
        .get(bench.url("/devices?part=main"))
        .bearer_auth(TOKEN);
    let fragment = got(request).await.text;
    assert!(fragment.contains("d-ESP32-001") && !fragment.contains("<html"));
}

/// A browser hands on only those kinds of events that a script names.
#[tokio::test]
async fn the_script_listens_to_every_kind_of_event() {
    let bench = Bench::new().await;
    let device = bench.seed_device("ESP32-001");
    device.boots("1.0.5").await;
    bench
        .upload("1.0.6", &image("1.0.6", 64 * 1024), 16_384)
        .await
        .ok();
    let manifest = device.manifest().await;
    device.installs(&manifest).await;
    device.boots("1.0.6").await;
    bench.post("/api/cloud/fota/rollback", json!({})).await.ok();
    device.boots("1.0.5").await;
    bench
        .upload("1.0.7", &image("1.0.7", 64 * 1024), 16_384)
        .await
        .ok();
    bench.post("/api/cloud/fota/clear", json!({})).await.ok();
    let page = page(&bench).await;
    let known: Vec<_> = address(&page.text, "data-kinds=\"").split(' ').collect();
    let events = bench
        .manage(reqwest::Method::GET, "/api/v1/events?limit=1000", None)
        .await;
    let events = events["items"].as_array().expect("a list");
    assert!(events.len() > 10);
    for kind in events
        .iter()
        .filter_map(|event: &Value| event["kind"].as_str())
    {
        assert!(known.contains(&kind), "{kind}");
    }
}

/// G7: lists and forms work without a script.
#[tokio::test]
async fn a_rollout_is_started_paused_and_aborted_by_forms_alone() {
    let bench = Bench::new().await;
    bench.native_check_in("ESP32-001", "1.0.5").await;
    let release = bench.upload_natively(&image("1.0.6", 64 * 1024)).await;
    let cookie = session(&bench).await;
    let path = format!("/rollouts/new?release={}&devices=ESP32-001", release["id"]);
    let review = page_at_with(&bench, &cookie, &path).await;
    assert!(
        review
            .text
            .contains("Bring 1.0.6 to ESP32-001: all at once")
    );
    let csrf = address(&review.text, "name=\"csrf\" content=\"").to_owned();
    let key = address(&review.text, "name=\"key\" value=\"").to_owned();
    let id = release["id"].to_string();
    let fields = [
        ("release", id.as_str()),
        ("devices", "ESP32-001"),
        ("key", &key),
        ("csrf", &csrf),
    ];
    for _ in 0..2 {
        // A double click is one rollout: the key is the same.
        let started = submit(&bench, &cookie, "/rollouts", &fields).await;
        assert_eq!(started.status, StatusCode::SEE_OTHER);
        assert_eq!(started.header(header::LOCATION), "/rollouts/r-1");
    }
    let question = page_at_with(&bench, &cookie, "/rollouts/r-1/abort").await;
    assert!(question.text.contains("1 not started"), "{}", question.text);
    assert!(question.text.contains("never offered it"));
    for (action, state) in [("pause", "paused"), ("abort", "aborted")] {
        let path = format!("/rollouts/r-1/{action}");
        let done = submit(
            &bench,
            &cookie,
            &path,
            &[("reason", "because"), ("csrf", &csrf)],
        )
        .await;
        assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text);
        let shown = bench
            .manage(reqwest::Method::GET, "/api/v1/rollouts/1", None)
            .await;
        assert_eq!(
            (&shown["state"], &shown["reason"]),
            (&json!(state), &json!("because"))
        );
    }
}

async fn page_at_with(bench: &Bench, cookie: &str, path: &str) -> Got {
    let got = got(browser().get(bench.url(path)).header("cookie", cookie)).await;
    assert_eq!(got.status, StatusCode::OK, "{path}: {}", got.text);
    got
}

#[tokio::test]
async fn a_form_without_the_sessions_token_changes_nothing() {
    let bench = Bench::new().await;
    bench.native_check_in("ESP32-001", "1.0.5").await;
    bench.upload_natively(&image("1.0.6", 64 * 1024)).await;
    bench.roll_out("1.0.6", "all").await;
    let cookie = session(&bench).await;
    let other = session(&bench).await;
    let page = page_at_with(&bench, &other, "/rollouts").await;
    let csrf_of_other = address(&page.text, "name=\"csrf\" content=\"").to_owned();
    for csrf in ["", "x", csrf_of_other.as_str()] {
        let fields = [("reason", "x"), ("csrf", csrf)];
        let refused = submit(&bench, &cookie, "/rollouts/r-1/abort", &fields).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
        assert!(refused.text.contains("Nothing was changed"));
    }
    let from_elsewhere = browser()
        .post(bench.url("/rollouts/r-1/abort"))
        .header("cookie", &other)
        .header("sec-fetch-site", "cross-site")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("csrf={csrf_of_other}"));
    assert_eq!(got(from_elsewhere).await.status, StatusCode::FORBIDDEN);
    let shown = bench
        .manage(reqwest::Method::GET, "/api/v1/rollouts/1", None)
        .await;
    assert_eq!(shown["state"], "active");
}

/// AC8.3: a viewer sees no control that changes something, and is refused where they make one up.
#[tokio::test]
async fn a_viewer_sees_no_control_that_changes_something() {
    let bench = Bench::new().await;
    bench.native_check_in("ESP32-001", "1.0.5").await;
    bench.upload_natively(&image("1.0.6", 64 * 1024)).await;
    bench.roll_out("1.0.6", "all").await;
    let body = json!({"name": "eye", "role": "viewer"});
    let made = bench
        .manage(reqwest::Method::POST, "/api/v1/tokens", Some(body))
        .await;
    let token = made["secret"].as_str().expect("a token");
    for path in [
        "/",
        "/devices",
        "/devices/ESP32-001",
        "/releases",
        "/releases/1",
        "/rollouts/r-1",
    ] {
        let page = got(browser().get(bench.url(path)).bearer_auth(token)).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        for control in [
            "method=\"post\"",
            "data-dialog",
            "/rollouts/new",
            "data-upload",
        ] {
            assert!(!page.text.contains(control), "{path}: {control}");
        }
    }
    let audit = got(browser()
        .get(bench.url("/activity/audit"))
        .bearer_auth(token))
    .await;
    assert_eq!(audit.status, StatusCode::FORBIDDEN);
    assert!(audit.text.contains("this needs the role admin"));
}

#[tokio::test]
async fn the_list_of_devices_is_filtered_sorted_and_paged() {
    let bench = Bench::new().await;
    for number in 1..=60 {
        let id = format!("ESP32-{number:03}");
        let version = if number % 2 == 0 { "1.0.5" } else { "1.0.4" };
        bench.native_check_in(&id, version).await;
    }
    let total = |html: &str| {
        let (_, rest) = html.split_once("data-testid=\"total\"").expect("a total");
        rest.split("<b>")
            .nth(1)
            .and_then(|rest| rest.split('<').next())
            .map(str::to_owned)
    };
    let rows = |html: &str| html.matches("data-testid=\"device\"").count();
    for (query, wanted, shown) in [
        ("", "60", 50),
        ("?version=1.0.4", "30", 30),
        ("?q=esp32-00", "9", 9),
        ("?q=100%25", "0", 0),
        ("?presence=online", "60", 50),
        ("?presence=offline", "0", 0),
        ("?state=failed", "0", 0),
        ("?group=none", "0", 0),
    ] {
        let page = page_at(&bench, &format!("/devices{query}")).await;
        assert_eq!(total(&page.text).as_deref(), Some(wanted), "{query}");
        assert_eq!(rows(&page.text), shown, "{query}");
    }
    for sort in ["", "seen", "away"] {
        let first = page_at(&bench, &format!("/devices?sort={sort}")).await;
        let next =
            address(&first.text, "<a class=\"button small quiet\" href=\"").replace("&#38;", "&");
        let second = page_at(&bench, &next).await;
        assert_eq!(rows(&first.text) + rows(&second.text), 60, "{sort}: {next}");
        for number in 1..=60 {
            let id = format!("id=\"d-ESP32-{number:03}\"");
            let both = (first.text.contains(&id), second.text.contains(&id));
            assert!(both.0 != both.1, "{sort}: {id} is on one page");
        }
    }
    let csv = page_at(&bench, "/devices.csv?version=1.0.4").await;
    assert_eq!(csv.text.lines().count(), 31);
    assert!(csv.header(header::CONTENT_TYPE).starts_with("text/csv"));
}

/// AC2.1: prints how long the first rows and a filter take with 10,000 devices.
#[tokio::test]
#[allow(
    clippy::disallowed_methods,
    reason = "how long an answer takes is what this is about"
)]
async fn ten_thousand_devices_are_listed_quickly() {
    let server = Server::start(Setup::default()).await;
    server
        .sql(
            "INSERT INTO device (id, protocol, chip, version, confirmed, slot, slots, first_seen) \
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
             WHERE i < 10000) SELECT 'D-' || i, 'native', 0, '1.0.' || (i % 7), 1, 0, '[]', 0 \
             FROM n; \
             INSERT INTO sighting (device, kind, last_seen) \
             SELECT id, 0, CAST(SUBSTR(id, 3) AS INTEGER) FROM device",
        )
        .await;
    let server = server.restart().await;
    for path in [
        "/devices",
        "/devices?version=1.0.3",
        "/devices?q=99",
        "/devices?state=failed",
        "/devices?sort=away",
        "/",
    ] {
        let began = std::time::Instant::now();
        let page = Reply::of(server.request(reqwest::Method::GET, path)).await;
        let took = began.elapsed();
        let html = String::from_utf8_lossy(&page.body);
        let rows = html.matches("data-testid=\"device\"").count();
        eprintln!("{path}: {took:?}, {} bytes, {rows} rows", html.len());
        assert_eq!(page.status, StatusCode::OK);
        assert!(rows <= 100);
        assert!(took.as_secs() < 3, "{path} took {took:?} in a debug build");
    }
}

pub async fn screen(server: &Server, path: &str) -> String {
    let reply = Reply::of(server.request(reqwest::Method::GET, path)).await;
    assert_eq!(reply.status, StatusCode::OK, "{path}");
    String::from_utf8(reply.body).expect("text")
}

/// The status of what a form leads to: the client follows to the screen that shows the deed.
pub async fn send(server: &Server, path: &str, body: &'static str) -> StatusCode {
    let request = server.request(reqwest::Method::POST, path);
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    Reply::of(request.body(body)).await.status
}

/// AC3.4: the version text says one thing, the digest another.
#[tokio::test]
async fn a_device_that_claims_another_version_than_it_runs_is_shown_so() {
    let server = Server::start(Setup::default()).await;
    let mut story = Story::begin(&server).await;
    story.device.version = "1.0.6".to_owned();
    story.device.check_in(&server).await;
    let shown = screen(&server, "/devices/ESP32-001").await;
    assert!(shown.contains("reports 1.0.6 but runs the 1.0.5 image"));
    assert!(
        screen(&server, "/devices")
            .await
            .contains("but runs the 1.0.5 image")
    );
}

/// AC6.6: "Retry failed" offers it again to the device that failed, and to no other.
#[tokio::test]
async fn retry_offers_it_again_to_those_that_failed() {
    let server = Server::start(Setup::default()).await;
    let mut story = Story::begin(&server).await;
    let mut good = TestDevice::running("ESP32-002", &story.old);
    good.updates_to(&server, &story.new).await;
    let order = story.device.check_in(&server).await.install();
    let failed = FailureCode::HashMismatch;
    story.device.ends(&server, order, End::Failed, failed).await;
    let shown = screen(&server, "/rollouts/r-1").await;
    assert!(shown.contains("/rollouts/r-1/retry") && shown.contains("failed: hash mismatch"));
    let question = screen(&server, "/rollouts/r-1/retry").await;
    assert!(question.contains("1 failed or rolled back") && question.contains("1 confirmed"));
    assert_eq!(
        send(&server, "/rollouts/r-1/retry", "").await,
        StatusCode::OK
    );
    story.device.check_in(&server).await.install();
    assert_eq!(
        server.attempt_state("ESP32-002").await,
        AttemptState::Succeeded
    );
}

/// AC5.3: from 51 devices on, their number has to be typed.
#[tokio::test]
async fn a_rollout_to_many_devices_needs_their_number_typed() {
    let server = Server::start(Setup::default()).await;
    let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
    server.release(&new).await;
    for number in 0..51 {
        let mut device = TestDevice::running(&format!("ESP32-{number:03}"), &old);
        device.check_in(&server).await;
    }
    let review = screen(&server, "/rollouts/new?release=1&all=1").await;
    assert!(review.contains("data-testid=\"typed\"") && review.contains("Start for 51 devices"));
    for (body, status) in [
        ("release=1&all=1", StatusCode::BAD_REQUEST),
        ("release=1&all=1&typed=50", StatusCode::BAD_REQUEST),
        ("release=1&all=1&typed=51", StatusCode::OK),
    ] {
        assert_eq!(send(&server, "/rollouts", body).await, status, "{body}");
    }
    let few = screen(&server, "/rollouts/new?release=1&devices=ESP32-001").await;
    assert!(!few.contains("data-testid=\"typed\""));
}

/// AC4.5: what is not signed says so where it would be started.
#[tokio::test]
async fn an_unsigned_release_says_that_it_is_not_signed() {
    let server = Server::start(Setup::default()).await;
    server.release(&Image::new("1.0.6")).await;
    assert!(
        screen(&server, "/releases/1")
            .await
            .contains("Nobody has signed it")
    );
    assert!(
        screen(&server, "/rollouts/new")
            .await
            .contains("not signed")
    );
}
