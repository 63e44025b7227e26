//! `/api/v1/devices` and the summary.

use serde_json::json;

use crate::support::*;

async fn ids(server: &Server, query: &str) -> Vec<String> {
    let page = server.get(&format!("/api/v1/devices{query}")).await.json();
    let items = page["items"].as_array().expect("items").iter();
    items
        .map(|device| device["id"].as_str().expect("id").to_owned())
        .collect()
}

#[tokio::test]
async fn devices_are_listed_filtered_and_paged() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        story.device.check_in(&server).await.install();
        for id in ["a", "b"] {
            let mut device = TestDevice::running(id, &story.old);
            device.slot_bytes = 4096;
            device.check_in(&server).await;
        }
        server.post("/api/v1/groups", json!({"name": "hall"})).await;
        server
            .post(
                "/api/v1/groups/hall/devices",
                json!({"add": ["b", "unseen"]}),
            )
            .await;
        assert_eq!(ids(&server, "").await, ["ESP32-001", "a", "b"]);
        assert_eq!(ids(&server, "?group=hall").await, ["b"]);
        assert_eq!(ids(&server, "?state=skipped").await, ["a", "b"]);
        assert_eq!(ids(&server, "?state=skipped:no_space&after=a").await, ["b"]);
        assert_eq!(ids(&server, "?state=offered").await, ["ESP32-001"]);
        assert_eq!(ids(&server, "?limit=2").await, ["ESP32-001", "a"]);
        let (_, field, _) = server
            .get("/api/v1/devices?state=broken")
            .await
            .problem(400);
        assert_eq!(field.as_deref(), Some("state"));
    })
    .await;
}

#[tokio::test]
async fn a_device_is_shown_as_it_last_reported() {
    each_database(async |server| {
        let image = Image::new("1.0.5");
        let mut device = TestDevice::running("ESP32-001", &image);
        device.other = Some(Image::new("1.0.4"));
        device.check_in(&server).await;
        let mut shown = server.get("/api/v1/devices/ESP32-001").await.json();
        shown["elf_sha256"] = json!("[elf]");
        let expected = json!({
            "id": "ESP32-001", "groups": [], "chip": "esp32c3", "project": "thermostat",
            "version": "1.0.5", "elf_sha256": "[elf]", "confirmed": true, "slot": 0,
            "rollback_version": "1.0.4", "rollback_available": true, "protocol": "native",
            "presence": "online", "last_seen": NOON, "first_seen": NOON, "warning": null,
            "attempt": null, "rollback": null, "blocked": [],
            "heard": format!("{}1", "0".repeat(47))
        });
        assert_eq!(shown, expected);
        let (code, field, _) = server.get("/api/v1/devices/nobody").await.problem(404);
        assert_eq!((code.as_str(), field.as_deref()), ("not_found", Some("id")));
    })
    .await;
}

#[tokio::test]
async fn the_summary_counts_the_fleet() {
    each_database(async |server| {
        let mut story = Story::begin(&server).await;
        server.clock.advance_ms(3 * 60 * 1000);
        TestDevice::running("a", &story.new).check_in(&server).await;
        server.clock.advance_ms(5 * 60 * 1000);
        story.device.check_in(&server).await.install();
        let summary = server.get("/api/v1/fleet/summary").await.json();
        let expected = json!({
            "total": 2, "online": 1, "late": 1, "offline": 0, "updating": 1, "failed_24h": 0,
            "versions": [{"version": "1.0.5", "devices": 1}, {"version": "1.0.6", "devices": 1}],
            "spared_bytes": 0
        });
        assert_eq!(summary, expected);
    })
    .await;
}
