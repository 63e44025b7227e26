//! Who may do what: every route with every role.

use std::collections::BTreeSet;

use fota_proto::operators::Role;
use fota_server::api::{Access, COMPAT_ROUTES, ROUTES, WEB_ROUTES};
use reqwest::{Method, StatusCode, header};

use crate::support::*;

/// What each route takes: a role, or `open`. Written down here a second time on purpose: a row that
/// is changed in the server alone is found.
const TABLE: &[(&str, &str, &str)] = &[
    ("GET", "/healthz", "open"),
    ("GET", "/readyz", "open"),
    ("GET", "/api/openapi.json", "open"),
    ("GET", "/api/schemas/{name}", "open"),
    ("POST", "/d/v1/check-in", "open"),
    ("POST", "/d/v1/enrol", "open"),
    ("GET", "/d/v1/blobs/{sha256}", "open"),
    ("GET", "/d/v1/roots/{version}", "open"),
    ("GET", "/d/v1/log/head", "open"),
    ("GET", "/d/v1/log/proof", "open"),
    ("GET", "/d/v1/log/consistency", "open"),
    ("GET", "/api/v1/server", "viewer"),
    ("GET", "/api/v1/fleet/summary", "viewer"),
    ("POST", "/api/v1/releases", "releaser"),
    ("GET", "/api/v1/releases", "viewer"),
    ("GET", "/api/v1/releases/{id}", "viewer"),
    ("GET", "/api/v1/releases/{id}/image", "viewer"),
    ("POST", "/api/v1/releases/{id}/yank", "releaser"),
    ("GET", "/api/v1/deltas", "viewer"),
    ("POST", "/api/v1/deltas", "operator"),
    ("GET", "/api/v1/devices", "viewer"),
    ("GET", "/api/v1/devices/{id}", "viewer"),
    ("GET", "/api/v1/devices/{id}/events", "viewer"),
    ("GET", "/api/v1/devices/{id}/why", "viewer"),
    ("POST", "/api/v1/devices/{id}/block", "operator"),
    ("POST", "/api/v1/devices/{id}/unblock", "operator"),
    ("POST", "/api/v1/devices/{id}/pin", "operator"),
    ("DELETE", "/api/v1/devices/{id}/pin", "operator"),
    ("POST", "/api/v1/devices/{id}/tags", "operator"),
    ("GET", "/api/v1/devices/{id}/credentials", "viewer"),
    ("POST", "/api/v1/devices/{id}/credentials", "operator"),
    ("DELETE", "/api/v1/devices/{id}/credentials", "operator"),
    (
        "DELETE",
        "/api/v1/devices/{id}/credentials/{credential}",
        "operator",
    ),
    ("POST", "/api/v1/devices/{id}/re-enrol", "operator"),
    ("POST", "/api/v1/device-claims", "admin"),
    ("GET", "/api/v1/enrolment-keys", "operator"),
    ("POST", "/api/v1/enrolment-keys", "admin"),
    ("DELETE", "/api/v1/enrolment-keys/{name}", "admin"),
    ("GET", "/api/v1/groups", "viewer"),
    ("POST", "/api/v1/groups", "operator"),
    ("DELETE", "/api/v1/groups/{name}", "operator"),
    ("POST", "/api/v1/groups/{name}/devices", "operator"),
    ("POST", "/api/v1/groups/{name}/rule", "operator"),
    ("DELETE", "/api/v1/groups/{name}/devices/{id}", "operator"),
    ("POST", "/api/v1/rollouts/preview", "viewer"),
    ("POST", "/api/v1/rollouts/dry-run", "viewer"),
    ("GET", "/api/v1/rollouts", "viewer"),
    ("POST", "/api/v1/rollouts", "operator"),
    ("GET", "/api/v1/rollouts/{id}", "viewer"),
    ("POST", "/api/v1/rollouts/{id}/pause", "operator"),
    ("POST", "/api/v1/rollouts/{id}/resume", "operator"),
    ("POST", "/api/v1/rollouts/{id}/abort", "operator"),
    ("POST", "/api/v1/rollouts/{id}/retry", "operator"),
    ("POST", "/api/v1/rollouts/{id}/promote", "operator"),
    ("POST", "/api/v1/rollouts/{id}/approve", "operator"),
    ("GET", "/api/v1/clusters", "viewer"),
    ("GET", "/api/v1/rollouts/{id}/clusters", "viewer"),
    ("POST", "/api/v1/rollbacks", "operator"),
    ("GET", "/api/v1/roots", "viewer"),
    ("POST", "/api/v1/roots", "admin"),
    ("GET", "/api/v1/roots/current", "viewer"),
    ("GET", "/api/v1/products/{name}/signing", "viewer"),
    ("PUT", "/api/v1/products/{name}/signing", "admin"),
    ("GET", "/api/v1/products/{name}/secure-boot", "viewer"),
    ("PUT", "/api/v1/products/{name}/secure-boot", "admin"),
    ("GET", "/api/v1/log", "viewer"),
    ("GET", "/api/v1/events", "viewer"),
    ("GET", "/api/v1/events/stream", "viewer"),
    ("GET", "/api/v1/webhooks", "operator"),
    ("POST", "/api/v1/webhooks", "admin"),
    ("DELETE", "/api/v1/webhooks/{name}", "admin"),
    ("POST", "/api/v1/webhooks/{name}/enable", "admin"),
    ("POST", "/api/v1/webhooks/{name}/disable", "admin"),
    ("POST", "/api/v1/webhooks/{name}/test", "admin"),
    ("GET", "/api/v1/webhooks/{name}/deliveries", "operator"),
    ("POST", "/api/v1/session", "open"),
    ("DELETE", "/api/v1/session", "viewer"),
    ("GET", "/api/v1/whoami", "viewer"),
    ("GET", "/api/v1/tokens", "viewer"),
    ("POST", "/api/v1/tokens", "viewer"),
    ("DELETE", "/api/v1/tokens/{id}", "viewer"),
    ("POST", "/api/v1/users/{name}/password", "viewer"),
    ("GET", "/api/v1/users", "admin"),
    ("POST", "/api/v1/users", "admin"),
    ("DELETE", "/api/v1/users/{name}", "admin"),
    ("POST", "/api/v1/users/{name}/role", "admin"),
    ("GET", "/api/v1/audit", "admin"),
    ("GET", "/api/v1/audit/export", "admin"),
    ("POST", "/api/cloud/fota/upload", "releaser"),
    ("GET", "/api/cloud/fota/status", "viewer"),
    ("POST", "/api/cloud/fota/rollback", "operator"),
    ("POST", "/api/cloud/fota/clear", "operator"),
    ("GET", "/api/cloud/logs/{kind}", "viewer"),
    ("GET", "/api/inverter/fota/manifest", "open"),
    ("GET", "/api/inverter/fota/chunk", "open"),
    ("POST", "/api/inverter/fota/status", "open"),
    ("GET", "/api/inverter/fota/rollback-status", "open"),
    ("GET", "/api/inverter/status", "open"),
    ("POST", "/api/device/status", "open"),
    ("GET", "/", "viewer"),
    // The two look at the browser and the form, whoever sends them.
    ("POST", "/login", "open"),
    ("POST", "/logout", "open"),
    ("GET", "/login/oidc", "open"),
    ("GET", "/login/oidc/callback", "open"),
    ("GET", "/assets/{name}", "open"),
    ("GET", "/devices", "viewer"),
    ("GET", "/devices.csv", "viewer"),
    ("GET", "/bulk/{action}", "operator"),
    ("POST", "/bulk/{action}", "operator"),
    ("GET", "/devices/{id}", "viewer"),
    ("GET", "/devices/{id}/{action}", "operator"),
    ("POST", "/devices/{id}/{action}", "operator"),
    ("GET", "/releases", "viewer"),
    ("GET", "/releases/{id}", "viewer"),
    ("GET", "/releases/{id}/yank", "releaser"),
    ("POST", "/releases/{id}/yank", "releaser"),
    ("GET", "/rollouts", "viewer"),
    ("GET", "/rollouts/new", "operator"),
    ("POST", "/rollouts", "operator"),
    ("GET", "/rollouts/{id}", "viewer"),
    ("GET", "/rollouts/{id}/{action}", "operator"),
    ("POST", "/rollouts/{id}/{action}", "operator"),
    ("GET", "/activity", "viewer"),
    ("GET", "/activity/reasons", "viewer"),
    ("GET", "/activity/audit", "admin"),
    ("GET", "/settings", "viewer"),
    ("POST", "/settings/groups", "operator"),
    ("POST", "/settings/tokens", "viewer"),
    ("POST", "/settings/tokens/{id}/revoke", "viewer"),
    ("POST", "/settings/users", "admin"),
    ("GET", "/connect", "viewer"),
    ("GET", "/reference", "viewer"),
];

fn all_routes() -> Vec<(&'static str, &'static str, Access)> {
    [ROUTES, COMPAT_ROUTES, WEB_ROUTES].concat()
}

fn filled(path: &str) -> String {
    path.replace("{sha256}", &"0".repeat(64))
        .replace(['{', '}'], "")
}

/// The status alone: a stream of events has no end.
async fn status(server: &Server, token: Option<&str>, method: &str, path: &str) -> StatusCode {
    let method: Method = method.parse().expect("a method");
    let url = format!("{}{}", server.base, filled(path));
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let client = client.no_proxy().build().expect("a client");
    let mut request = client.request(method, url);
    // As a browser says it of the server's own pages: the forms ask for that.
    request = request.header("sec-fetch-site", "same-origin");
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().await.expect("an answer").status()
}

fn is_refused(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

async fn tokens(server: &Server) -> Vec<(Role, String)> {
    let mut tokens = Vec::new();
    for role in Role::ALL {
        let token = server.token(&format!("t-{role}"), role.word()).await;
        tokens.push((role, token));
    }
    tokens
}

#[test]
fn every_route_has_a_row_and_every_row_a_route() {
    let routes: BTreeSet<_> = all_routes().iter().map(|(m, p, _)| (*m, *p)).collect();
    let rows: BTreeSet<_> = TABLE.iter().map(|(m, p, _)| (*m, *p)).collect();
    let missing: Vec<_> = routes.difference(&rows).collect();
    assert!(missing.is_empty(), "no row in this test for {missing:?}");
    let gone: Vec<_> = rows.difference(&routes).collect();
    assert!(gone.is_empty(), "no route for {gone:?}");
}

#[tokio::test]
async fn every_route_lets_in_the_roles_of_its_row_and_no_others() {
    let server = Server::start(Setup::default()).await;
    let tokens = tokens(&server).await;
    let mut tried = 0;
    for (method, path, _) in all_routes() {
        let row = TABLE.iter().find(|(m, p, _)| (*m, *p) == (method, path));
        let (_, _, need) = row.unwrap_or_else(|| panic!("no row for {method} {path}"));
        let need: Option<Role> = (*need != "open").then(|| need.parse().expect("a role"));
        let nobody = status(&server, None, method, path).await;
        if path != "/api/v1/session" {
            assert_eq!(
                is_refused(nobody),
                need.is_some(),
                "{method} {path}: {nobody}"
            );
        }
        for (role, token) in &tokens {
            let got = status(&server, Some(token), method, path).await;
            let may = need.is_none_or(|need| *role >= need);
            assert_eq!(!is_refused(got), may, "{role}: {method} {path}: {got}");
            assert_ne!(got, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            if !may {
                assert_eq!(got, StatusCode::FORBIDDEN, "known, but not allowed");
            }
            tried += 1;
        }
    }
    assert_eq!(tried, TABLE.len() * Role::ALL.len());
}

#[tokio::test]
async fn legacy_open_opens_the_seeds_operator_paths_and_nothing_else() {
    let setup = Setup {
        legacy_open: true,
        ..Setup::default()
    };
    let server = Server::start(setup).await;
    for (method, path, access) in all_routes() {
        let row = TABLE.iter().find(|(m, p, _)| (*m, *p) == (method, path));
        let is_open = row.is_some_and(|(_, _, need)| *need == "open");
        let got = status(&server, None, method, path).await;
        let is_legacy = matches!(access, Access::Legacy(_));
        if path != "/api/v1/session" {
            assert_eq!(is_refused(got), !is_open && !is_legacy, "{method} {path}");
        }
    }
}

/// Bug museum 19: no route of the seed asks who you are.
#[tokio::test]
async fn admin_call_without_token_gives_401() {
    let server = Server::start(Setup::default()).await;
    for (method, path, access) in ROUTES {
        if *access == Access::Open {
            continue;
        }
        let method: Method = method.parse().expect("a method");
        let url = format!("{}{}", server.base, filled(path));
        let request = || server.http.request(method.clone(), &url);
        let wrong = [
            request(),
            request().bearer_auth("wrong"),
            request().bearer_auth(""),
            request().bearer_auth(format!("fota_t_{}", "0".repeat(64))),
            request().bearer_auth(format!("fota_s_{}", "0".repeat(64))),
            request().header(header::AUTHORIZATION, "Basic eDp5"),
            request().header(header::COOKIE, "fota_session=wrong"),
            request().header(header::COOKIE, format!("fota_session={TOKEN}")),
        ];
        for request in wrong {
            let reply = Reply::of(request).await;
            let (code, _, detail) = reply.problem(401);
            assert_eq!(code, "token_needed", "{path}");
            assert!(detail.contains("Authorization: Bearer"), "{detail}");
            assert_eq!(reply.headers[header::WWW_AUTHENTICATE], "Bearer");
        }
    }
}

#[tokio::test]
async fn the_operator_token_is_the_first_admin() {
    let server = Server::start(Setup::default()).await;
    let who = server.whoami(TOKEN).await.json();
    assert_eq!(who["actor"], "operator-token");
    assert_eq!(who["role"], "admin");
    let url = format!("{}/api/v1/server", server.base);
    let value = format!("bearer {TOKEN}");
    let request = server.http.get(&url).header(header::AUTHORIZATION, value);
    assert_eq!(Reply::of(request).await.json()["database"], "sqlite");
}
