//! Who may do what.

use fota_server::api::ROUTES;
use reqwest::{Method, StatusCode, header};

use crate::support::*;

/// What needs no token.
const OPEN: [&str; 9] = [
    "/healthz",
    "/readyz",
    "/api/openapi.json",
    "/d/v1/check-in",
    "/d/v1/blobs/{sha256}",
    "/d/v1/roots/{version}",
    "/d/v1/log/head",
    "/d/v1/log/proof",
    "/d/v1/log/consistency",
];

fn filled(path: &str) -> String {
    path.replace("{sha256}", &"0".repeat(64))
        .replace(['{', '}'], "")
}

/// Bug museum 19: no route of the seed asks who you are.
#[tokio::test]
async fn admin_call_without_token_gives_401() {
    let server = Server::start(Setup::default()).await;
    for (method, path) in ROUTES {
        let method: Method = method.parse().expect("a method");
        let url = format!("{}{}", server.base, filled(path));
        let wrong = [
            server.http.request(method.clone(), &url),
            server
                .http
                .request(method.clone(), &url)
                .bearer_auth("wrong"),
            server.http.request(method.clone(), &url).bearer_auth(""),
            server
                .http
                .request(method.clone(), &url)
                .header(header::AUTHORIZATION, "Basic eDp5"),
            server
                .http
                .request(method, &url)
                .header(header::COOKIE, "fota_token=wrong"),
        ];
        for request in wrong {
            let reply = Reply::of(request).await;
            if OPEN.contains(path) {
                assert_ne!(reply.status, StatusCode::UNAUTHORIZED, "{path}");
                continue;
            }
            let (code, _, detail) = reply.problem(401);
            assert_eq!(code, "token_needed", "{path}");
            assert!(detail.contains("Authorization: Bearer"), "{detail}");
            assert_eq!(reply.headers[header::WWW_AUTHENTICATE], "Bearer");
        }
    }
}

#[tokio::test]
async fn the_token_works_as_a_header_and_as_a_cookie() {
    let server = Server::start(Setup::default()).await;
    let url = format!("{}/api/v1/server", server.base);
    let cookie = format!("theme=dark; fota_token={TOKEN}");
    let requests = [
        server.http.get(&url).bearer_auth(TOKEN),
        server
            .http
            .get(&url)
            .header(header::AUTHORIZATION, format!("bearer {TOKEN}")),
        server.http.get(&url).header(header::COOKIE, cookie),
    ];
    for request in requests {
        let info = Reply::of(request).await.json();
        assert_eq!(info["database"], "sqlite");
        assert_eq!(info["poll_s"], 60);
    }
}

#[tokio::test]
async fn legacy_open_opens_nothing_of_the_manager_api() {
    let setup = Setup {
        legacy_open: true,
        ..Setup::default()
    };
    let server = Server::start(setup).await;
    let url = format!("{}/api/v1/devices", server.base);
    Reply::of(server.http.get(url)).await.problem(401);
}
