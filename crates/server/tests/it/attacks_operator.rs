//! Attacks on operators and their page, one test each. None may succeed.

use std::{
    io::Write,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use fota_server::api::{Access, ROUTES};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    audit::{deeds, prepare},
    support::*,
};

/// A browser that follows no redirect and keeps no cookie by itself.
fn browser() -> reqwest::Client {
    drop(http());
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    builder.no_proxy().build().expect("a client")
}

/// Sends fields as a form does.
trait Form {
    fn form(self, fields: &[(&str, &str)]) -> Self;
}

impl Form for reqwest::RequestBuilder {
    fn form(self, fields: &[(&str, &str)]) -> Self {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(fields);
        self.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body.finish())
    }
}

/// What a browser sends from a page of this server.
fn same_origin(request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
    request.header("sec-fetch-site", "same-origin")
}

/// The cookie that a reply sets, as the browser sends it back.
fn cookie_of(reply: &Reply) -> String {
    let cookie = reply.headers.get(header::SET_COOKIE).expect("a cookie");
    let text = cookie.to_str().expect("text");
    text.split(';').next().expect("a pair").to_owned()
}

/// Logs in at the page; gives the cookie.
async fn page_login(server: &Server, user: &str) -> String {
    let form = [("user", user), ("password", PASSWORD)];
    let request = browser().post(format!("{}/login", server.base)).form(&form);
    let reply = Reply::of(same_origin(request)).await;
    assert_eq!(reply.status, StatusCode::SEE_OTHER);
    assert_eq!(reply.headers[header::LOCATION], "/");
    cookie_of(&reply)
}

async fn page(server: &Server, cookie: &str) -> Reply {
    let request = browser().get(&server.base).header(header::COOKIE, cookie);
    Reply::of(request).await
}

/// The CSRF token that the page shows to its own browser.
async fn csrf_of(server: &Server, cookie: &str) -> String {
    let page = page(server, cookie).await;
    let html = String::from_utf8(page.body).expect("text");
    let (_, rest) = html.split_once("name=\"csrf\" value=\"").expect("a form");
    rest.split('"').next().expect("a value").to_owned()
}

#[tokio::test]
async fn csrf_is_refused() {
    let server = Server::start(Setup::default()).await;
    server.user("anna", "admin").await;
    let cookie = page_login(&server, "anna").await;
    let csrf = csrf_of(&server, &cookie).await;
    let before = server.audit().await.len();
    for (method, path, access) in ROUTES {
        if *method == "GET" || *access == Access::Open {
            continue;
        }
        let filled = path.replace(['{', '}'], "");
        let method: Method = method.parse().expect("a method");
        let request = || {
            let request = browser().request(method.clone(), format!("{}{filled}", server.base));
            request.header(header::COOKIE, &cookie)
        };
        let evil = "https://evil.example";
        let forged = [
            request(),
            request().header("sec-fetch-site", "cross-site"),
            request().header("x-fota-csrf", &csrf),
            request()
                .header("sec-fetch-site", "cross-site")
                .header("x-fota-csrf", &csrf),
            request()
                .header(header::ORIGIN, evil)
                .header("x-fota-csrf", &csrf),
            request()
                .header(header::ORIGIN, "null")
                .header("x-fota-csrf", &csrf),
            request().header("sec-fetch-site", "same-origin"),
            request()
                .header("sec-fetch-site", "same-origin")
                .header("x-fota-csrf", "0".repeat(64)),
            request().header(header::ORIGIN, &server.base),
        ];
        for request in forged {
            let (code, ..) = Reply::of(request).await.problem(403);
            assert_eq!(code, "csrf", "{method} {path}");
        }
    }
    assert_eq!(
        server.audit().await.len(),
        before + 1,
        "only the export before"
    );
    let create = |origin: &str, csrf: &str| {
        let url = format!("{}/api/v1/groups", server.base);
        let request = browser().post(url).header(header::COOKIE, &cookie);
        let request = request
            .header(header::ORIGIN, origin)
            .header("x-fota-csrf", csrf);
        Reply::of(request.json(&json!({"name": "hall"})))
    };
    assert_eq!(
        create(&server.base, &csrf).await.status,
        StatusCode::CREATED
    );
    forms_are_guarded(&server, &cookie, &csrf).await;
}

/// The page's own forms: login and logout.
async fn forms_are_guarded(server: &Server, cookie: &str, csrf: &str) {
    let form = [("user", "anna"), ("password", PASSWORD)];
    for (name, value) in [
        ("x", "x"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let request = browser().post(format!("{}/login", server.base)).form(&form);
        let (code, ..) = Reply::of(request.header(name, value)).await.problem(403);
        assert_eq!(
            code, "csrf",
            "a login is forged to spy on what is done afterwards"
        );
    }
    let link = browser().get(format!("{}/?token={TOKEN}", server.base));
    let reply = Reply::of(link.header("sec-fetch-site", "cross-site")).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert!(!reply.headers.contains_key(header::SET_COOKIE));
    let logout = |csrf: &str| {
        let request = browser().post(format!("{}/logout", server.base));
        let request = request
            .header(header::COOKIE, cookie)
            .form(&[("csrf", csrf)]);
        Reply::of(same_origin(request))
    };
    logout("0").await.problem(403);
    assert_eq!(page(server, cookie).await.status, StatusCode::OK);
    let out = logout(csrf).await;
    assert_eq!(out.status, StatusCode::SEE_OTHER);
    assert!(
        out.headers[header::SET_COOKIE]
            .to_str()
            .expect("text")
            .contains("Max-Age=0")
    );
    assert_eq!(page(server, cookie).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn session_fixation_is_refused() {
    let server = Server::start(Setup::default()).await;
    server.user("anna", "admin").await;
    server.user("mallory", "viewer").await;
    let chosen = format!("fota_session=fota_s_{}", "0".repeat(64));
    let real = page_login(&server, "mallory").await;
    for planted in [chosen, real] {
        let form = [("user", "anna"), ("password", PASSWORD)];
        let request = browser().post(format!("{}/login", server.base)).form(&form);
        let request = request.header(header::COOKIE, &planted);
        let hers = cookie_of(&Reply::of(same_origin(request)).await);
        assert_ne!(hers, planted, "a new id at login");
        assert_eq!(page(&server, &hers).await.status, StatusCode::OK);
        let known = page(&server, &planted).await;
        assert_eq!(
            known.status,
            StatusCode::UNAUTHORIZED,
            "the planted id is worth nothing"
        );
    }
    // An id in the address or in a form is not looked at.
    let id = server.session("anna").await;
    let url = format!("{}/?fota_session={id}", server.base);
    assert_eq!(
        Reply::of(browser().get(url)).await.status,
        StatusCode::UNAUTHORIZED
    );
    // And no session is shared by exchanging it as if it were a token.
    let url = format!("{}/?token={id}", server.base);
    assert_eq!(
        Reply::of(browser().get(url)).await.status,
        StatusCode::UNAUTHORIZED
    );
}

/// What the process logs while it is listened to.
#[derive(Clone, Default)]
struct Heard {
    is_on: Arc<AtomicBool>,
    text: Arc<Mutex<Vec<u8>>>,
}

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.is_on.load(Ordering::Relaxed) {
            let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
            text.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_token_is_never_in_the_log() {
    let heard = Heard::default();
    let writer = heard.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .try_init()
        .expect("the only test that listens");
    heard.is_on.store(true, Ordering::Relaxed);
    let server = Server::start(Setup::default()).await;
    server.user("anna", "admin").await;
    let mut secrets = vec![TOKEN.to_owned(), PASSWORD.to_owned()];
    let token = server.token("ci", "admin").await;
    let session = server.session("anna").await;
    let cookie = page_login(&server, "anna").await;
    secrets.push(csrf_of(&server, &cookie).await);
    secrets.push(cookie.trim_start_matches("fota_session=").to_owned());
    for known in [&token, &session] {
        assert_eq!(server.whoami(known).await.status, StatusCode::OK);
        secrets.push(known.clone());
    }
    for secret in [TOKEN, "hunter2hunter2hunter2", &token] {
        let link = browser().get(format!("{}/?token={secret}", server.base));
        let reply = Reply::of(link).await;
        if let Some(cookie) = reply.headers.get(header::SET_COOKIE) {
            let id = cookie.to_str().expect("text").split(['=', ';']).nth(1);
            secrets.push(id.expect("an id").to_owned());
        }
        let form = browser().post(format!("{}/login", server.base));
        Reply::of(same_origin(form.form(&[("token", secret)]))).await;
        // Where it does not belong.
        for path in [
            "/api/v1/nothing",
            "/api/v1/devices",
            "/d/v1/blobs/x",
            "/assets/x",
        ] {
            server.get(&format!("{path}?token={secret}")).await;
            server.get(&format!("{path}/{secret}")).await;
        }
        secrets.push(secret.to_owned());
    }
    server
        .login("anna", "wrong password in the log")
        .await
        .problem(401);
    secrets.push("wrong password in the log".to_owned());
    server.running.shutdown().await;
    heard.is_on.store(false, Ordering::Relaxed);
    let text = heard.text.lock().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8_lossy(&text);
    assert!(
        text.contains("INSERT INTO session"),
        "it did listen, and to the database too"
    );
    for secret in secrets {
        let place = text.find(&secret);
        let line = place.map(|at| text[..at].rsplit('\n').next().unwrap_or("").to_owned());
        assert!(line.is_none(), "a secret is in the log behind {line:?}");
    }
}

#[tokio::test]
async fn ten_thousand_bad_logins_do_not_get_in() {
    const LOGINS: usize = 10_000;
    const AT_A_TIME: usize = 50;
    let server = Server::start(Setup::default()).await;
    server.user("anna", "admin").await;
    let token = server.token("ci", "admin").await;
    let (mut looked_at, mut early, mut slowest) = (0, 0, std::time::Duration::ZERO);
    for batch in 0..LOGINS / AT_A_TIME {
        let tries = (0..AT_A_TIME).map(|number| {
            let (http, url) = (
                server.http.clone(),
                format!("{}/api/v1/session", server.base),
            );
            let user = match number % 2 {
                0 => "anna".to_owned(),
                _ => format!("user{batch}-{number}"),
            };
            let body = json!({"user": user, "password": format!("wrong-{batch}-{number}")});
            tokio::spawn(async move { Reply::of(http.post(url).json(&body)).await })
        });
        let tries: Vec<_> = tries.collect();
        let asked = tokio::time::Instant::now();
        let who = server.whoami(&token).await;
        slowest = slowest.max(asked.elapsed());
        assert_eq!(who.status, StatusCode::OK, "a token is never held up");
        for reply in tries {
            let reply = reply.await.expect("ends");
            match reply.status {
                StatusCode::UNAUTHORIZED => looked_at += 1,
                StatusCode::TOO_MANY_REQUESTS => {
                    let wait = reply.headers[header::RETRY_AFTER].to_str().expect("text");
                    assert!((1..=15 * 60).contains(&wait.parse::<u32>().expect("seconds")));
                    early += 1;
                }
                other => panic!("{other}"),
            }
        }
        server.clock.advance_ms(1_000);
    }
    println!("{looked_at} looked at, {early} too early; the token's slowest answer {slowest:?}");
    assert_eq!(looked_at + early, LOGINS);
    assert!(looked_at < 50, "{looked_at} guesses in 200 s");
    assert!(slowest < std::time::Duration::from_secs(5), "{slowest:?}");
    let failed = server.audit().await;
    let failed = failed.iter().filter(|entry| entry.action == "login.failed");
    assert!(failed.count() <= 5, "at most one entry a minute");
    // And the right password works again once the wait is over.
    server.clock.advance_ms(15 * 60 * 1000);
    assert_eq!(
        server.login("anna", PASSWORD).await.status,
        StatusCode::CREATED
    );
}

/// A name that nobody has takes as long as a wrong password: both compute one hash.
#[tokio::test]
async fn a_login_does_not_tell_by_its_time_who_has_an_account() {
    let server = Server::start(Setup::default()).await;
    server.user("anna", "admin").await;
    let computed = || server.running.state.auth.hasher.computed();
    // The first login of a process also makes the hash that nobody has.
    server
        .login("first", "wrong wrong wrong")
        .await
        .problem(401);
    for user in [
        "anna",
        "nobody",
        "anna",
        "",
        "anna",
        "a name that nobody could have",
    ] {
        let before = computed();
        let asked = tokio::time::Instant::now();
        let (code, _, detail) = server.login(user, "wrong wrong wrong").await.problem(401);
        println!("{user:?}: {:?}", asked.elapsed());
        assert_eq!(computed(), before + 1, "{user:?}");
        assert_eq!(code, "login_wrong");
        assert!(!detail.contains("anna") && detail.contains("no user has this name"));
    }
}

#[tokio::test]
async fn a_revoked_token_is_refused() {
    each_database(async |server| {
        let token = server.token("ci", "admin").await;
        let link = browser().get(format!("{}/?token={token}", server.base));
        let cookie = cookie_of(&Reply::of(link).await);
        assert_eq!(page(&server, &cookie).await.status, StatusCode::OK);
        let revoked = server.delete("/api/v1/tokens/1").await;
        assert_eq!(revoked.status, StatusCode::NO_CONTENT);
        server.whoami(&token).await.problem(401);
        let (code, ..) = Reply::of(server.request_as(&token, Method::GET, "/api/v1/devices"))
            .await
            .problem(401);
        assert_eq!(code, "token_needed");
        assert_eq!(
            page(&server, &cookie).await.status,
            StatusCode::UNAUTHORIZED
        );
        // A token ends with its owner.
        server.user("anna", "operator").await;
        let anna = server.session("anna").await;
        let request = server.request_as(&anna, Method::POST, "/api/v1/tokens");
        let body = json!({"name": "hers", "role": "viewer"});
        let made: Value = Reply::of(request.json(&body))
            .await
            .value(StatusCode::CREATED);
        let hers = made["secret"].as_str().expect("a token");
        assert_eq!(server.whoami(hers).await.status, StatusCode::OK);
        server.delete("/api/v1/users/anna").await;
        server.whoami(hers).await.problem(401);
    })
    .await;
}

/// A stream that is open already ends too.
#[tokio::test]
async fn a_revoked_token_reads_no_further_events() {
    let server = Server::start(Setup::default()).await;
    let token = server.token("ci", "viewer").await;
    let open = server.request_as(&token, Method::GET, "/api/v1/events/stream");
    let mut stream = open.send().await.expect("answers");
    assert_eq!(stream.status(), StatusCode::OK);
    server
        .post("/api/v1/groups", json!({"name": "before"}))
        .await;
    let first = stream.chunk().await.expect("reads").expect("an event");
    assert!(String::from_utf8_lossy(&first).contains("before"));
    server.delete("/api/v1/tokens/1").await;
    let reading = async { while let Ok(Some(_)) = stream.chunk().await {} };
    let ended = tokio::time::timeout(std::time::Duration::from_secs(15), reading).await;
    assert!(ended.is_ok(), "it goes on");
}

/// A password that is set while an older one is being looked at leaves no session of the older.
#[tokio::test]
async fn a_login_that_a_new_password_overtakes_does_not_get_in() {
    let server = Server::start(Setup::default()).await;
    server.user("anna", "admin").await;
    let state = &server.running.state;
    let before = state.auth.hasher.computed();
    // While this turn to write is held, no session can be stored.
    let mut turn = state.store.write().await.expect("a turn");
    let url = format!("{}/api/v1/session", server.base);
    let body = json!({"user": "anna", "password": PASSWORD});
    let request = server.http.post(url).json(&body);
    let old = tokio::spawn(Reply::of(request));
    while state.auth.hasher.computed() == before {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    // The old password is being looked at, and now there is a new one.
    let account = turn.account_named("anna").await.expect("reads");
    let id = account.expect("there").id;
    turn.set_password(id, "another", NOON)
        .await
        .expect("stored");
    turn.commit().await.expect("stored");
    let reply = old.await.expect("ends");
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_viewer_changes_nothing() {
    each_database(async |server| {
        prepare(&server).await;
        server.user("viola", "viewer").await;
        let token = server.token("eye", "viewer").await;
        let session = server.session("viola").await;
        let cookie = page_login(&server, "viola").await;
        let csrf = csrf_of(&server, &cookie).await;
        let before = everything(&server).await;
        for deed in deeds() {
            for known in [&token, &session] {
                let reply = deed.done_by(&server, known).await;
                let what = format!("{} {}: {}", deed.method, deed.path, reply.status);
                let is_self_service = matches!(
                    (deed.method, deed.route),
                    ("POST", "/api/v1/tokens") | ("DELETE", "/api/v1/tokens/{id}")
                );
                if is_self_service {
                    continue;
                }
                assert_eq!(reply.status, StatusCode::FORBIDDEN, "{what}");
            }
            let method: Method = deed.method.parse().expect("a method");
            let request = browser().request(method, format!("{}{}", server.base, deed.path));
            let request = request
                .header(header::COOKIE, &cookie)
                .header("x-fota-csrf", &csrf);
            let reply = Reply::of(same_origin(request)).await;
            assert!(
                reply.status.is_client_error(),
                "{} {}",
                deed.method,
                deed.path
            );
        }
        assert_eq!(everything(&server).await, before);
    })
    .await;
}

async fn everything(server: &Server) -> Vec<Value> {
    let mut all = Vec::new();
    for path in [
        "releases", "devices", "groups", "rollouts", "events", "users",
    ] {
        let path = format!("/api/v1/{path}?limit=1000");
        all.push(server.get(&path).await.json()["items"].clone());
    }
    all
}

#[tokio::test]
async fn path_traversal_is_refused() {
    let server = Server::start(Setup::default()).await;
    let before = everything(&server).await;
    let names = [
        "..%2F..%2Foperator-token",
        "..%5C..%5Coperator-token",
        "%2e%2e%2f%2e%2e%2foperator-token",
        "..",
        "%2e%2e",
        ".%00.",
        "operator-token%00.css",
        "%2Fetc%2Fpasswd",
        "..%252Foperator-token",
        "....//operator-token",
    ];
    let places = [
        "/d/v1/blobs/",
        "/assets/",
        "/rollouts/",
        "/api/v1/releases/",
        "/api/v1/devices/",
        "/api/v1/rollouts/",
        "/api/cloud/logs/",
    ];
    for place in places {
        for name in names {
            // As bytes: a client would tidy the path up before it is sent.
            let reply = raw(&server, &format!("GET {place}{name} HTTP/1.1")).await;
            let is_redirect = place == "/rollouts/" && reply.contains("location: /\r\n");
            let status = reply.split(' ').nth(1).unwrap_or("");
            assert!(
                status.starts_with('4') || is_redirect,
                "{place}{name}: {reply}"
            );
            assert!(
                !reply.contains(TOKEN) && !reply.contains("root:"),
                "{place}{name}"
            );
        }
    }
    for path in [
        "/../operator-token",
        "/assets/../../operator-token",
        "//etc/passwd",
    ] {
        let reply = raw(&server, &format!("GET {path} HTTP/1.1")).await;
        assert!(
            !reply.contains(TOKEN) && !reply.contains("root:"),
            "{path}: {reply}"
        );
    }
    for name in ["../x", "..", "a/b", "a\\b", "a\0b", ".x", "x y", ""] {
        let user = json!({"name": name, "role": "admin", "password": PASSWORD});
        let (_, field, _) = server.post("/api/v1/users", user).await.problem(400);
        assert_eq!(field.as_deref(), Some("name"), "{name:?}");
        let token = json!({"name": name, "role": "admin"});
        server.post("/api/v1/tokens", token).await.problem(400);
        server
            .post("/api/v1/groups", json!({"name": name}))
            .await
            .problem(400);
    }
    assert_eq!(everything(&server).await, before);
}

/// Sends a request line as it is, as the first admin.
async fn raw(server: &Server, line: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stream = tokio::net::TcpStream::connect(server.running.addr).await;
    let mut stream = stream.expect("connects");
    let request =
        format!("{line}\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.expect("read");
    String::from_utf8_lossy(&reply).into_owned()
}

/// The cookie is kept from scripts, other sites, and plain connections where there is TLS.
#[tokio::test]
async fn a_stolen_cookie_is_hard_to_come_by() {
    let server = Server::start(Setup::default()).await;
    server.user("anna", "admin").await;
    let form = [("user", "anna"), ("password", PASSWORD)];
    let request = browser().post(format!("{}/login", server.base)).form(&form);
    let reply = Reply::of(same_origin(request)).await;
    let cookie = reply.headers[header::SET_COOKIE].to_str().expect("text");
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(
        !cookie.contains("Secure"),
        "plain HTTP would never send it back"
    );
    assert_eq!(reply.headers[header::CACHE_CONTROL], "no-store");
}

#[tokio::test]
async fn a_login_page_works_without_a_script() {
    let server = Server::start(Setup::default()).await;
    server.user("anna", "operator").await;
    let shut = Reply::of(browser().get(&server.base)).await;
    assert_eq!(shut.status, StatusCode::UNAUTHORIZED);
    let html = String::from_utf8(shut.body).expect("text");
    assert!(html.contains("action=\"/login\" method=\"post\"") && !html.contains("<script"));
    let form = [("user", "anna"), ("password", "wrong wrong wrong")];
    let request = browser().post(format!("{}/login", server.base)).form(&form);
    let wrong = Reply::of(same_origin(request)).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    let html = String::from_utf8(wrong.body).expect("text");
    assert!(
        html.contains("no user has this name with this password"),
        "{html}"
    );
    let cookie = page_login(&server, "anna").await;
    let open = String::from_utf8(page(&server, &cookie).await.body).expect("text");
    assert!(open.contains("user:anna") && open.contains("(operator)") && open.contains("Log out"));
}
