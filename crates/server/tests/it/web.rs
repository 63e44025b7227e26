//! The page at `/`, as a browser without JavaScript gets it.

use reqwest::{StatusCode, header};
use serde_json::{Value, json};

use crate::{
    seed_bench::{Bench, image},
    support::TOKEN,
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
    let request = browser()
        .get(bench.url("/"))
        .header("cookie", session(bench).await);
    let got = got(request).await;
    assert_eq!(got.status, StatusCode::OK);
    got
}

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
    let fragment = got(browser().get(bench.url("/?part=fleet"))).await;
    assert_eq!(fragment.status, StatusCode::UNAUTHORIZED);
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
            file.text.len() <= 20 * 1024,
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
    let page = page(&bench).await;
    assert!(!page.text.contains("<img") && !page.text.contains("<script>"));
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
    let page = page(&bench).await;
    for shown in [
        "id=\"d-ESP32-001\"",
        "id=\"d-ESP32-002\"",
        "1.0.6",
        "downloading",
        "aria-valuenow=\"50\"",
        "role=\"progressbar\"",
        "legacy-open",
        "uploaded",
        "r-1",
    ] {
        assert!(page.text.contains(shown), "{shown}");
    }
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
    let request = browser().get(bench.url("/?part=fleet")).bearer_auth(TOKEN);
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

#[tokio::test]
async fn a_rollouts_address_leads_to_its_card() {
    let bench = Bench::new().await;
    for (path, place) in [
        ("/rollouts/r-7", "/#r-7"),
        ("/rollouts/7", "/#r-7"),
        ("/rollouts/x", "/"),
    ] {
        let reply = got(browser().get(bench.url(path))).await;
        assert_eq!(reply.status, StatusCode::SEE_OTHER);
        assert_eq!(reply.header(header::LOCATION), place);
    }
}
