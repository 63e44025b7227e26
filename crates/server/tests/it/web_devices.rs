//! The list of devices and the screen of one: tags, filters, pins, what is done to several at once.

use reqwest::StatusCode;
use serde_json::json;

use crate::{
    support::{Server, Setup, Story, TestDevice, each_database},
    web::{screen, send},
};

fn rows(html: &str) -> usize {
    html.matches("data-testid=\"device\"").count()
}

#[tokio::test]
async fn tags_are_shown_and_the_language_of_filters_finds_by_them() {
    let server = Server::start(Setup::default()).await;
    let story = Story::begin(&server).await;
    for number in 2..=3 {
        let mut other = TestDevice::running(&format!("ESP32-00{number}"), &story.old);
        other.check_in(&server).await;
    }
    let tags = json!({"set": {"site": "hall \"2\""}});
    server.post("/api/v1/devices/ESP32-002/tags", tags).await;
    let all = screen(&server, "/devices").await;
    assert_eq!(rows(&all), 3);
    // The tag leads to all of whom it holds.
    let (_, link) = all.split_once("class=\"tag\" href=\"").expect("a tag");
    let link = link
        .split('"')
        .next()
        .expect("an address")
        .replace("&#38;", "&");
    let found = screen(&server, &link).await;
    assert_eq!(rows(&found), 1, "{link}");
    assert!(found.contains("d-ESP32-002") && !found.contains("role=\"alert\""));
    for (filter, count) in [
        ("id+%3D%3D+ESP32-003+or+has+tag.site", 2),
        ("not+has+tag.site", 2),
        ("version+%3C+1.0", 0),
    ] {
        let path = format!("/devices?filter={filter}");
        assert_eq!(rows(&screen(&server, &path).await), count, "{filter}");
        let api = server
            .get(&format!("/api/v1/devices?filter={filter}"))
            .await;
        let items = api.json()["items"].as_array().map(Vec::len);
        assert_eq!(items, Some(count), "{filter}");
    }
    let wrong = screen(&server, "/devices?filter=vesion+%3D%3D+1").await;
    assert!(
        wrong.contains("<mark>vesion</mark>"),
        "told while one types"
    );
    let csv = screen(&server, "/devices.csv?filter=has+tag.site").await;
    assert!(csv.starts_with("id,groups,tags,chip,"));
    assert_eq!(csv.lines().count(), 2);
    assert!(csv.contains("\"site=hall \"\"2\"\"\""), "{csv}");
}

/// The ids of all pages of a list, in their order.
async fn paged(server: &Server, first: &str) -> Vec<String> {
    let (mut ids, mut path) = (Vec::new(), first.to_owned());
    loop {
        let html = screen(server, &path).await;
        let rows = html.split("data-testid=\"device\"").skip(1);
        let id = |row: &str| {
            let (_, rest) = row.split_once("/devices/").expect("a link");
            rest.split('"').next().expect("an id").to_owned()
        };
        ids.extend(rows.map(id));
        let Some((before, _)) = html.split_once("\" rel=\"next\"") else {
            return ids;
        };
        let (_, link) = before.rsplit_once("href=\"").expect("an address");
        path = link.replace("&#38;", "&");
    }
}

/// A filter in words that holds of every device changes neither the pages nor their order.
#[tokio::test]
async fn a_filter_in_words_keeps_the_order_and_the_pages_of_the_list() {
    each_database(async |server| {
        let story = Story::begin(&server).await;
        for number in 0..120 {
            // Some are seen in the same moment.
            if number % 3 == 0 {
                server.clock.advance_ms(7_000);
            }
            let id = format!("d{:03}", number * 37 % 120);
            let mut device = TestDevice::running(&id, &story.old);
            device.check_in(&server).await;
        }
        for sort in ["", "seen", "away"] {
            let plain = paged(&server, &format!("/devices?sort={sort}")).await;
            assert_eq!(plain.len(), 121, "{sort}");
            let words = format!("/devices?sort={sort}&filter=has+version+or+id+%3D%3D+d001");
            assert_eq!(paged(&server, &words).await, plain, "{sort}");
        }
        let mut pages = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("/api/v1/devices?limit=50&filter=id+!%3D+d001{after}");
            let page = server.get(&path).await.json();
            let items = page["items"].as_array().expect("items");
            pages.extend(items.iter().map(|item| item["id"].to_string()));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert_eq!(pages.len(), 120);
        assert!(pages.is_sorted());
    })
    .await;
}

/// A pin lets a device take one release, or none, whatever rollouts bring; and `why` says so.
#[tokio::test]
async fn a_pinned_device_takes_no_other_release() {
    each_database(|server| async move {
        let mut story = Story::begin(&server).await;
        let pin = "/api/v1/devices/ESP32-001/pin";
        let held = server.post(pin, json!({"reason": "a museum piece"})).await;
        assert_eq!(held.status, StatusCode::OK);
        assert!(story.device.check_in(&server).await.order.is_none());
        let why = server.get("/api/v1/devices/ESP32-001/why").await.json();
        let answer = why["answer"].as_str().expect("a sentence");
        assert!(
            answer.contains("an operator holds it (a museum piece)"),
            "{answer}"
        );
        let preview = json!({"release": "1.0.6", "to": ["all"]});
        let preview = server
            .post("/api/v1/rollouts/preview", preview)
            .await
            .json();
        assert_eq!(preview["excluded"][0]["reason"], "opted_out");
        // Pinned to another release, it is offered nothing either; to this one, it is.
        server.post(pin, json!({"release": "1.0.5"})).await;
        assert!(story.device.check_in(&server).await.order.is_none());
        server.post(pin, json!({"release": "1.0.6"})).await;
        let order = story.device.check_in(&server).await.install();
        // What is under way stops, and goes on when the device is let go.
        server.post(pin, json!({})).await;
        let told = story.device.check_in(&server).await;
        assert!(
            told.order
                .as_ref()
                .is_none_or(|order| format!("{order:?}").contains("Cancel"))
        );
        assert_eq!(server.delete(pin).await.status, StatusCode::OK);
        assert_eq!(story.device.check_in(&server).await.install(), order);
        assert_eq!(server.delete(pin).await.status, StatusCode::CONFLICT);
    })
    .await;
}

#[tokio::test]
async fn several_devices_are_grouped_held_let_go_and_blocked_by_forms_alone() {
    let server = Server::start(Setup::default()).await;
    let mut story = Story::begin(&server).await;
    let mut other = TestDevice::running("ESP32-002", &story.old);
    other.check_in(&server).await;
    server.post("/api/v1/groups", json!({"name": "hall"})).await;
    const BOTH: &str = "to=ESP32-001&to=ESP32-002";
    for (action, body, shown) in [
        (
            "group",
            "to=ESP32-001&to=ESP32-002&group=hall",
            "devices?group=hall",
        ),
        ("hold", "to=ESP32-001&to=ESP32-002&reason=lunch", "held"),
    ] {
        let question = screen(&server, &format!("/bulk/{action}?{BOTH}")).await;
        assert!(question.contains("2 devices") && question.contains("value=\"ESP32-002\""));
        let done = send(&server, &format!("/bulk/{action}"), body).await;
        assert_eq!(done, StatusCode::OK, "{action}");
        let list = screen(&server, "/devices").await;
        assert_eq!(list.matches(shown).count(), 2, "{action}");
    }
    let device = screen(&server, "/devices/ESP32-001").await;
    assert!(device.contains("Held: it takes no release") && device.contains("lunch"));
    // Twice is as good as once.
    for _ in 0..2 {
        assert_eq!(send(&server, "/bulk/release", BOTH).await, StatusCode::OK);
    }
    story.device.check_in(&server).await.install();
    let block = "to=ESP32-001&to=ESP32-002&release=1.0.6";
    assert_eq!(send(&server, "/bulk/block", block).await, StatusCode::OK);
    for device in ["ESP32-001", "ESP32-002"] {
        assert_eq!(server.show_device(device).await.blocked, ["1.0.6"]);
    }
    assert_eq!(
        send(&server, "/bulk/hold", "").await,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        send(&server, "/bulk/eat", BOTH).await,
        StatusCode::NOT_FOUND
    );
}

/// The bar of half hours: written with when a device was seen, and drawn with a text.
#[tokio::test]
async fn the_half_hours_in_which_a_device_was_heard_are_kept() {
    each_database(|server| async move {
        let mut story = Story::begin(&server).await;
        let shown = screen(&server, "/devices").await;
        assert!(shown.contains("heard in 1 of the last 1 half hours"));
        // As if it had first come 30 hours ago, and been heard a day, an hour and half an hour ago.
        server
            .sql("UPDATE device SET first_seen = first_seen - 108000000")
            .await;
        server
            .sql(
                "UPDATE sighting SET last_seen = last_seen - 1800000, heard_at = heard_at - 1, \
                 heard = 70368744177667",
            )
            .await;
        story.device.check_in(&server).await;
        let device = screen(&server, "/devices/ESP32-001").await;
        assert!(
            device.contains("heard in 4 of the last 48 half hours"),
            "{device}"
        );
        let heard = server.show_device("ESP32-001").await.heard;
        assert_eq!(heard, format!("1{}111", "0".repeat(44)));
        // Longer ago than a day is forgotten.
        server
            .sql("UPDATE sighting SET heard_at = heard_at - 60, last_seen = last_seen - 1")
            .await;
        story.device.check_in(&server).await;
        let heard = server.show_device("ESP32-001").await.heard;
        assert_eq!(heard, format!("{}1", "0".repeat(47)));
    })
    .await;
}
