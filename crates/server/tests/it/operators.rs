//! `/api/v1/users`, `/api/v1/tokens`, `/api/v1/session`.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::*;

const MINUTE_MS: i64 = 60 * 1000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

#[tokio::test]
async fn users_are_made_changed_and_removed() {
    each_database(async |server| {
        server.user("anna", "operator").await;
        let again = json!({"name": "anna", "role": "admin", "password": PASSWORD});
        let (code, field, _) = server.post("/api/v1/users", again).await.problem(409);
        assert_eq!(
            (code.as_str(), field.as_deref()),
            ("user_exists", Some("name"))
        );
        let session = server.session("anna").await;
        let who = server.whoami(&session).await.json();
        assert_eq!(
            (&who["actor"], &who["role"]),
            (&json!("user:anna"), &json!("operator"))
        );
        let users = server.get("/api/v1/users").await.json();
        assert_eq!(users["items"][0]["sessions"], 1);
        assert!(!users.to_string().contains("argon2"));
        let role = server
            .post("/api/v1/users/anna/role", json!({"role": "viewer"}))
            .await;
        assert_eq!(role.json()["role"], "viewer");
        assert_eq!(
            server.whoami(&session).await.json()["role"],
            "viewer",
            "from now on"
        );
        let gone = server.delete("/api/v1/users/anna").await;
        assert_eq!(gone.status, StatusCode::NO_CONTENT);
        server.whoami(&session).await.problem(401);
        server.login("anna", PASSWORD).await.problem(401);
        server.delete("/api/v1/users/anna").await.problem(404);
    })
    .await;
}

#[tokio::test]
async fn a_password_is_set_by_its_owner_or_an_admin_and_ends_the_sessions() {
    each_database(async |server| {
        server.user("anna", "viewer").await;
        server.user("bert", "releaser").await;
        let (anna, bert) = (server.session("anna").await, server.session("bert").await);
        let path = "/api/v1/users/anna/password";
        let set = |token: &str, body: Value| {
            Reply::of(server.request_as(token, Method::POST, path).json(&body))
        };
        let new = "another good password";
        let (code, ..) = set(&bert, json!({"password": new})).await.problem(403);
        assert_eq!(code, "role_needed");
        let (_, field, _) = set(&anna, json!({"password": new})).await.problem(400);
        assert_eq!(field.as_deref(), Some("current"));
        let wrong = json!({"password": new, "current": "wrong wrong wrong"});
        let (code, ..) = set(&anna, wrong).await.problem(403);
        assert_eq!(code, "password_wrong");
        let right = json!({"password": new, "current": PASSWORD});
        assert_eq!(set(&anna, right).await.status, StatusCode::NO_CONTENT);
        server.whoami(&anna).await.problem(401);
        server.login("anna", PASSWORD).await.problem(401);
        assert_eq!(server.login("anna", new).await.status, StatusCode::CREATED);
        let by_admin = set(TOKEN, json!({"password": PASSWORD})).await;
        assert_eq!(by_admin.status, StatusCode::NO_CONTENT);
        server.session("anna").await;
        assert_eq!(
            server.whoami(&bert).await.status,
            StatusCode::OK,
            "of nobody else"
        );
    })
    .await;
}

#[tokio::test]
async fn a_session_ends_by_time_and_by_logout() {
    each_database(async |server| {
        server.user("anna", "viewer").await;
        let session = server.session("anna").await;
        for _ in 0..13 {
            // Half a day idle, again and again, but never longer.
            server.clock.advance_ms(12 * 60 * MINUTE_MS - 1);
            assert_eq!(server.whoami(&session).await.status, StatusCode::OK);
        }
        server.clock.advance_ms(12 * 60 * MINUTE_MS - 1);
        assert_eq!(server.whoami(&session).await.status, StatusCode::OK);
        server.clock.advance_ms(14);
        let after = "seven days, however busy it was";
        assert_eq!(
            server.whoami(&session).await.status,
            StatusCode::UNAUTHORIZED,
            "{after}"
        );
        let idle = server.session("anna").await;
        server.clock.advance_ms(12 * 60 * MINUTE_MS);
        server.whoami(&idle).await.problem(401);
        let ended = server.session("anna").await;
        let logout = server.request_as(&ended, Method::DELETE, "/api/v1/session");
        assert_eq!(Reply::of(logout).await.status, StatusCode::NO_CONTENT);
        server.whoami(&ended).await.problem(401);
    })
    .await;
}

#[tokio::test]
async fn a_token_is_shown_once_and_stored_as_a_hash() {
    each_database(async |server| {
        let secret = server.token("ci", "releaser").await;
        assert!(secret.starts_with("fota_t_") && secret.len() == 71);
        let list = server.get("/api/v1/tokens").await.json();
        let token = &list["items"][0];
        assert_eq!(token["name"], "ci");
        assert_eq!(token["prefix"], secret[..15]);
        assert!(!list.to_string().contains(&secret));
        let (code, ..) = server
            .post("/api/v1/tokens", json!({"name": "ci", "role": "viewer"}))
            .await
            .problem(409);
        assert_eq!(code, "token_exists");
        // What a thief of the database has is of no use.
        let hash = fota_server::auth::secret::digest(&secret).to_string();
        server.whoami(&hash).await.problem(401);
    })
    .await;
}

#[tokio::test]
async fn a_token_expires_and_says_when_it_was_last_used() {
    each_database(async |server| {
        let body = json!({"name": "ci", "role": "viewer", "expires_in_s": 90 * 86_400});
        let made: Value = server
            .post("/api/v1/tokens", body)
            .await
            .value(StatusCode::CREATED);
        let secret = made["secret"].as_str().expect("a token");
        assert_eq!(made["token"]["expires_at"], NOON + 90 * DAY_MS);
        assert_eq!(made["token"]["used_at"], Value::Null);
        for _ in 0..20 {
            assert_eq!(server.whoami(secret).await.status, StatusCode::OK);
        }
        // Written together with others, within a second or two.
        let mut used_at = Value::Null;
        for _ in 0..100 {
            let list = server.get("/api/v1/tokens").await.json();
            used_at = list["items"][0]["used_at"].clone();
            if !used_at.is_null() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert_eq!(used_at, NOON);
        server.clock.advance_ms(90 * DAY_MS - 1);
        assert_eq!(server.whoami(secret).await.status, StatusCode::OK);
        server.clock.advance_ms(1);
        server.whoami(secret).await.problem(401);
    })
    .await;
}

#[tokio::test]
async fn nobody_makes_a_token_that_may_more_than_its_maker() {
    each_database(async |server| {
        server.user("anna", "operator").await;
        let anna = server.session("anna").await;
        let make = async |token: &str, name: &str, role: &str| {
            let body = json!({"name": name, "role": role});
            let request = server.request_as(token, Method::POST, "/api/v1/tokens");
            Reply::of(request.json(&body)).await
        };
        make(&anna, "more", "releaser").await.problem(403);
        let made: Value = make(&anna, "hers", "operator")
            .await
            .value(StatusCode::CREATED);
        assert_eq!(made["token"]["owner"], "anna");
        let hers = made["secret"].as_str().expect("a token");
        make(hers, "child", "viewer").await.problem(403);
        server.token("servers", "viewer").await;
        let path = "/api/v1/tokens";
        let list = Reply::of(server.request_as(&anna, Method::GET, path))
            .await
            .json();
        assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "only hers");
        let of_server = server.request_as(&anna, Method::DELETE, "/api/v1/tokens/2");
        Reply::of(of_server).await.problem(404);
        // Her role is the most that her token has.
        server
            .post("/api/v1/users/anna/role", json!({"role": "viewer"}))
            .await;
        assert_eq!(server.whoami(hers).await.json()["role"], "viewer");
        let own = server.request_as(&anna, Method::DELETE, "/api/v1/tokens/1");
        assert_eq!(Reply::of(own).await.status, StatusCode::NO_CONTENT);
        server.whoami(hers).await.problem(401);
    })
    .await;
}

#[tokio::test]
async fn what_lets_somebody_in_survives_a_restart() {
    async fn again(server: Server) {
        server.user("anna", "viewer").await;
        let (session, token) = (
            server.session("anna").await,
            server.token("ci", "viewer").await,
        );
        let server = server.restart().await;
        for known in [&session, &token] {
            assert_eq!(server.whoami(known).await.status, StatusCode::OK);
        }
    }
    each_database(again).await;
}
