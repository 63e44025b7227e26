//! Logging in with an OpenID Connect provider, which is a small one of our own on loopback.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{Json, Router, extract::State, http::Uri, routing};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use fota_proto::operators::{Role, Secret};
use fota_server::{Clock, Config, auth::oidc::Settings, start};
use openidconnect::{
    JsonWebKeyId, PrivateSigningKey,
    core::{CoreEdDsaPrivateSigningKey, CoreJwsSigningAlgorithm},
};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use sha2::Digest;

use crate::support::*;

/// A person at the provider, and what is wrong with what it says.
#[derive(Clone)]
struct Person {
    sub: &'static str,
    name: &'static str,
    groups: &'static [&'static str],
    lie: Lie,
}

#[derive(Clone, Copy, PartialEq)]
enum Lie {
    None,
    Nonce,
    Audience,
    Issuer,
    Expired,
    OtherKey,
    Unsigned,
}

const ANNA: Person = Person {
    sub: "42",
    name: "anna",
    groups: &["everybody", "firmware"],
    lie: Lie::None,
};

/// Codes that were given out: for whom, with which nonce and challenge.
type Codes = Arc<Mutex<HashMap<String, (Person, String, String)>>>;

#[derive(Clone)]
struct Provider {
    url: String,
    codes: Codes,
}

fn key(seed: u8) -> CoreEdDsaPrivateSigningKey {
    // PKCS#8 of an Ed25519 key that is `seed` 32 times.
    let mut der = vec![
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    der.extend([seed; 32]);
    let name = ["PRIVATE", "KEY"].join(" ");
    let pem = format!(
        "-----BEGIN {name}-----\n{}\n-----END {name}-----\n",
        STANDARD.encode(der)
    );
    let id = JsonWebKeyId::new("k1".to_owned());
    CoreEdDsaPrivateSigningKey::from_ed25519_pem(&pem, Some(id)).expect("a key")
}

impl Provider {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let provider = Self {
            url,
            codes: Codes::default(),
        };
        let routes = Router::new()
            .route("/.well-known/openid-configuration", routing::get(metadata))
            .route("/keys", routing::get(keys))
            .route("/token", routing::post(token))
            .with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        provider
    }

    fn id_token(&self, person: &Person, nonce: &str) -> String {
        let lie = |lie, wrong: &str, right: &str| match person.lie == lie {
            true => wrong.to_owned(),
            false => right.to_owned(),
        };
        let claims = json!({
            "iss": lie(Lie::Issuer, "http://127.0.0.1:1", &self.url),
            "aud": lie(Lie::Audience, "another", "fota"),
            "nonce": lie(Lie::Nonce, "another", nonce),
            "sub": person.sub, "preferred_username": person.name, "groups": person.groups,
            "iat": 1_700_000_000,
            "exp": if person.lie == Lie::Expired { 1_700_000_600 } else { 4_102_444_800_u64 },
        });
        let alg = if person.lie == Lie::Unsigned {
            "none"
        } else {
            "EdDSA"
        };
        let head = json!({"alg": alg, "kid": "k1"}).to_string();
        let part = |text: String| URL_SAFE_NO_PAD.encode(text);
        let text = format!("{}.{}", part(head), part(claims.to_string()));
        let seed = if person.lie == Lie::OtherKey { 8 } else { 7 };
        let signature = match person.lie {
            Lie::Unsigned => Vec::new(),
            _ => key(seed)
                .sign(&CoreJwsSigningAlgorithm::EdDsa, text.as_bytes())
                .expect("signed"),
        };
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The person logs in at the provider, which sends the browser back: the code and state.
    fn logs_in(&self, address: &str, person: &Person) -> (String, String) {
        let uri: Uri = address.parse().expect("a URL");
        let query = uri.query().expect("a query").as_bytes();
        let query: HashMap<String, String> = form_urlencoded::parse(query).into_owned().collect();
        assert!(address.starts_with(&format!("{}/authorize?", self.url)));
        assert_eq!(query["response_type"], "code");
        assert_eq!(query["code_challenge_method"], "S256");
        assert!(query["redirect_uri"].ends_with("/login/oidc/callback"));
        assert!(query["scope"].split(' ').any(|scope| scope == "openid"));
        let mut codes = self.codes.lock().expect("not poisoned");
        let code = format!("code-{}", codes.len());
        let given = (
            person.clone(),
            query["nonce"].clone(),
            query["code_challenge"].clone(),
        );
        codes.insert(code.clone(), given);
        (code, query["state"].clone())
    }
}

async fn metadata(State(provider): State<Provider>) -> Json<Value> {
    let url = &provider.url;
    Json(json!({
        "issuer": url, "jwks_uri": format!("{url}/keys"),
        "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/token"),
        "response_types_supported": ["code"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["EdDSA", "none", "HS256"],
    }))
}

async fn keys() -> Json<Value> {
    Json(json!({"keys": [key(7).as_verification_key()]}))
}

/// Gives a token for a code and the verifier of its challenge, as PKCE wants it.
async fn token(State(provider): State<Provider>, body: String) -> (StatusCode, Json<Value>) {
    let form = form_urlencoded::parse(body.as_bytes()).into_owned();
    let form: HashMap<String, String> = form.collect();
    let given = provider
        .codes
        .lock()
        .expect("not poisoned")
        .get(&form["code"])
        .cloned();
    let challenge = URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(&form["code_verifier"]));
    match given {
        Some((person, nonce, wanted)) if wanted == challenge => {
            let token = provider.id_token(&person, &nonce);
            let body = json!({"access_token": "a", "token_type": "Bearer", "id_token": token});
            (StatusCode::OK, Json(body))
        }
        _ => (
            StatusCode::BAD_REQUEST,
            Json(json!({"error": "invalid_grant"})),
        ),
    }
}

struct Bench {
    provider: Provider,
    running: fota_server::Running,
    base: String,
    _data: tempfile::TempDir,
}

fn browser() -> reqwest::Client {
    drop(http());
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    builder.no_proxy().build().expect("a client")
}

fn cookie_of(reply: &Reply) -> String {
    let cookie = reply.headers.get(header::SET_COOKIE).expect("a cookie");
    let text = cookie.to_str().expect("text");
    text.split(';').next().expect("a pair").to_owned()
}

impl Bench {
    async fn new() -> Self {
        let provider = Provider::start().await;
        let data = tempfile::tempdir().expect("a folder");
        let settings = Settings {
            issuer: provider.url.clone(),
            client_id: "fota".to_owned(),
            client_secret: Some(Secret::new("shared with the provider")),
            public_url: "http://127.0.0.1:8080".to_owned(),
            scopes: vec!["profile".to_owned()],
            name_claim: "preferred_username".to_owned(),
            role_claim: "groups".to_owned(),
            roles: [
                ("everybody".to_owned(), Role::Viewer),
                ("firmware".to_owned(), Role::Releaser),
            ]
            .into(),
        };
        let config = Config {
            oidc: Some(settings),
            ..config(data.path(), &Setup::default())
        };
        let running = start(config, Clock::manual(NOON)).await;
        let running = running.unwrap_or_else(|error| panic!("{error}"));
        Self {
            provider,
            base: format!("http://{}", running.addr),
            running,
            _data: data,
        }
    }

    /// A browser begins to log in: the cookie that it keeps, and where it is sent.
    async fn begins(&self) -> (String, String) {
        let reply = Reply::of(browser().get(format!("{}/login/oidc", self.base))).await;
        assert_eq!(reply.status, StatusCode::SEE_OTHER);
        let cookie = reply.headers[header::SET_COOKIE].to_str().expect("text");
        assert!(
            cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"),
            "{cookie}"
        );
        let place = reply.headers[header::LOCATION].to_str().expect("text");
        (cookie_of(&reply), place.to_owned())
    }

    async fn comes_back(&self, cookie: &str, code: &str, state: &str) -> Reply {
        let url = format!(
            "{}/login/oidc/callback?code={code}&state={state}",
            self.base
        );
        Reply::of(browser().get(url).header(header::COOKIE, cookie)).await
    }

    async fn logs_in(&self, person: &Person) -> Reply {
        let (cookie, place) = self.begins().await;
        let (code, state) = self.provider.logs_in(&place, person);
        self.comes_back(&cookie, &code, &state).await
    }

    async fn page(&self, cookie: &str) -> (StatusCode, String) {
        let reply = Reply::of(browser().get(&self.base).header(header::COOKIE, cookie)).await;
        (reply.status, String::from_utf8(reply.body).expect("text"))
    }
}

#[tokio::test]
async fn a_person_logs_in_with_the_provider_and_has_the_role_of_today() {
    let bench = Bench::new().await;
    let (_, door) = bench.page("").await;
    assert!(door.contains("href=\"/login/oidc\""));
    let reply = bench.logs_in(&ANNA).await;
    assert_eq!(reply.status, StatusCode::OK);
    let html = String::from_utf8_lossy(&reply.body);
    assert!(
        html.contains("url=/"),
        "sent on by a page of our own: {html}"
    );
    let (status, page) = bench.page(&cookie_of(&reply)).await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("user:anna") && page.contains("(releaser)"));
    // Under another name, in another group: the same person with another role.
    let later = Person {
        name: "anna-maria",
        groups: &["everybody"],
        ..ANNA
    };
    let reply = bench.logs_in(&later).await;
    let (_, page) = bench.page(&cookie_of(&reply)).await;
    assert!(page.contains("user:anna") && page.contains("(viewer)"));
    bench.running.shutdown().await;
}

#[tokio::test]
async fn what_the_provider_did_not_sign_for_us_lets_nobody_in() {
    let bench = Bench::new().await;
    for lie in [
        Lie::Nonce,
        Lie::Audience,
        Lie::Issuer,
        Lie::Expired,
        Lie::OtherKey,
        Lie::Unsigned,
    ] {
        let reply = bench.logs_in(&Person { lie, ..ANNA }).await;
        assert!(reply.status.is_client_error() || reply.status.is_server_error());
        assert!(!reply.headers.contains_key(header::SET_COOKIE));
    }
    let stranger = Person {
        groups: &["elsewhere"],
        ..ANNA
    };
    let reply = bench.logs_in(&stranger).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN, "no group, no role");
}

#[tokio::test]
async fn a_login_belongs_to_the_browser_that_began_it_and_ends_once() {
    let bench = Bench::new().await;
    let (mine, place) = bench.begins().await;
    let (hers, _) = bench.begins().await;
    let (code, state) = bench.provider.logs_in(&place, &ANNA);
    for cookie in ["", "fota_oidc=0", hers.as_str()] {
        let reply = bench.comes_back(cookie, &code, &state).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{cookie}");
    }
    assert_eq!(
        bench.comes_back(&mine, &code, &state).await.status,
        StatusCode::OK
    );
    let again = bench.comes_back(&mine, &code, &state).await;
    assert_eq!(again.status, StatusCode::FORBIDDEN);
    let (cookie, place) = bench.begins().await;
    let (code, _) = bench.provider.logs_in(&place, &ANNA);
    let reply = bench.comes_back(&cookie, &code, "another").await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_name_that_somebody_has_here_is_not_taken_over() {
    let bench = Bench::new().await;
    let body = json!({"name": "anna", "role": "admin", "password": PASSWORD});
    let request = browser().post(format!("{}/api/v1/users", bench.base));
    let made = Reply::of(request.bearer_auth(TOKEN).json(&body)).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let reply = bench.logs_in(&ANNA).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    // And who comes from the provider has no password that could be guessed.
    let bert = Person {
        sub: "43",
        name: "bert",
        ..ANNA
    };
    assert_eq!(bench.logs_in(&bert).await.status, StatusCode::OK);
    for password in ["", "bert", PASSWORD] {
        let body = json!({"user": "bert", "password": password});
        let request = browser().post(format!("{}/api/v1/session", bench.base));
        Reply::of(request.json(&body)).await.problem(401);
    }
}
