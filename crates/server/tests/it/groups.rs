//! `/api/v1/groups`.

use reqwest::StatusCode;
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn groups_are_made_filled_and_removed() {
    each_database(async |server| {
        let made = server.post("/api/v1/groups", json!({"name": "hall"})).await;
        assert_eq!(made.status, StatusCode::CREATED);
        let (code, field, _) = server
            .post("/api/v1/groups", json!({"name": "hall"}))
            .await
            .problem(409);
        assert_eq!(
            (code.as_str(), field.as_deref()),
            ("group_exists", Some("name"))
        );
        let add = json!({"add": ["b", "a", "a"]});
        let filled = server.post("/api/v1/groups/hall/devices", add).await.json();
        assert_eq!(filled, json!({"name": "hall", "devices": ["a", "b"]}));
        let gone = server.delete("/api/v1/groups/hall/devices/a").await;
        assert_eq!(gone.status, StatusCode::NO_CONTENT);
        server
            .delete("/api/v1/groups/hall/devices/a")
            .await
            .problem(404);
        let page = server.get("/api/v1/groups").await.json();
        assert_eq!(page["items"], json!([{"name": "hall", "devices": ["b"]}]));
        assert_eq!(
            server.delete("/api/v1/groups/hall").await.status,
            StatusCode::NO_CONTENT
        );
        server.delete("/api/v1/groups/hall").await.problem(404);
    })
    .await;
}

#[tokio::test]
async fn a_group_that_a_rollout_is_aimed_at_stays() {
    each_database(async |server| {
        server.release(&Image::new("1.0.5")).await;
        server.post("/api/v1/groups", json!({"name": "hall"})).await;
        server
            .rollout(json!({"release": "1.0.5", "to": ["group:hall"]}))
            .await;
        let (code, _, detail) = server.delete("/api/v1/groups/hall").await.problem(409);
        assert_eq!(code, "group_in_use");
        assert!(detail.contains("r-1"), "{detail}");
        server.post("/api/v1/rollouts/r-1/abort", json!({})).await;
        assert_eq!(
            server.delete("/api/v1/groups/hall").await.status,
            StatusCode::NO_CONTENT
        );
    })
    .await;
}
