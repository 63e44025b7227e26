//! The wizard for rollouts, as a browser without JavaScript gets it.

use fota_proto::{FailureCode, checkin::End, manager::Percent};
use reqwest::{Method, StatusCode};

use crate::{
    support::{Reply, Server, Setup, Story, TestDevice},
    web::{screen, send},
};

const ENTRIES: &str = "release=2&filter=chip+%3D%3D+esp32&failures_max=2&rollback_on_failure=1\
                       &canary=1&waves=50+100&between=30m&parallel=5&retry=1&approval=1\
                       &download=mon-fri+22%3A00-06%3A00%3B+sat+00%3A00-24%3A00&zone=Europe%2FBerlin";

/// AC5.2, and G7: the whole plan is entered, read again as a sentence and started without a script.
#[tokio::test]
async fn a_plan_is_entered_reviewed_and_started_by_forms_alone() {
    let server = Server::start(Setup::default()).await;
    Story::begin(&server).await;
    let review = screen(&server, &format!("/rollouts/new?{ENTRIES}")).await;
    let sentence = "Once somebody else has approved it, bring 1.0.6 to all where chip == esp32: \
                    first 1 device (for at least 30m), then 50 % (for at least 30m), then all, each \
                    once 90 % of those that started before are proven healthy; downloading mon-fri";
    let said = review.replace("&#61;", "=").replace("&#38;", "&");
    assert!(said.contains(sentence), "{said}");
    assert!(review.contains("fota rollout plan -f plan.toml"));
    assert_eq!(send(&server, "/rollouts", ENTRIES).await, StatusCode::OK);
    let rollouts = server.get("/api/v1/rollouts").await.json();
    let newest = rollouts["items"][0]["id"].as_i64().expect("an id");
    let plan = server.show_rollout(newest).await.rollout.plan;
    let plan = plan.expect("a plan");
    assert_eq!(plan.waves.len(), 2);
    assert_eq!(plan.waves[1].percent, Percent::ALL);
    assert_eq!(plan.schedule.download.len(), 2);
    assert!(plan.approval && plan.retries.is_some());
}

#[tokio::test]
async fn what_is_wrong_with_an_entry_is_told_beside_the_form() {
    let server = Server::start(Setup::default()).await;
    Story::begin(&server).await;
    for (entry, told) in [
        (
            "waves=50+20+100",
            "waves.percent: 20 % is not more than the wave before",
        ),
        ("waves=50", "the last wave must be 100"),
        ("between=soon&canary=1", "Each step lasts at least: "),
        ("parallel=many", "Devices at a time: "),
        ("download=late", "is no window"),
        ("zone=Mars", "is no time zone"),
        ("starts_at=then", "is no time"),
        ("filter=vesion+%3D%3D+1", "<mark>vesion</mark>"),
        ("group=none", "group"),
    ] {
        let page = screen(&server, &format!("/rollouts/new?release=2&all=1&{entry}")).await;
        assert!(page.contains(told), "{entry}");
        assert!(page.contains("role=\"alert\""), "{entry}");
        assert!(!page.contains("data-testid=\"start\""), "{entry}");
    }
    let none = send(&server, "/rollouts", "release=2&all=1&waves=50").await;
    assert_eq!(none, StatusCode::BAD_REQUEST);
}

/// R7: where a failure is shown, its rollout can be paused and rolled back at once.
#[tokio::test]
async fn a_failure_has_pause_and_rollback_beside_it() {
    let server = Server::start(Setup::default()).await;
    let mut story = Story::begin(&server).await;
    let mut good = TestDevice::running("ESP32-002", &story.old);
    good.updates_to(&server, &story.new).await;
    // A third is under way: there is something to pause.
    let mut third = TestDevice::running("ESP32-003", &story.old);
    third.check_in(&server).await.install();
    let order = story.device.check_in(&server).await.install();
    let failed = FailureCode::HashMismatch;
    story.device.ends(&server, order, End::Failed, failed).await;
    for path in ["/", "/rollouts", "/rollouts/r-1", "/devices/ESP32-001"] {
        let shown = screen(&server, path).await;
        assert!(shown.contains("href=\"/rollouts/r-1/pause\""), "{path}");
        assert!(shown.contains("href=\"/rollouts/r-1/rollback\""), "{path}");
    }
}

/// A second person approves on the screen of the rollout, and then its next wave may be begun.
#[tokio::test]
async fn a_plan_that_asks_for_a_second_person_is_approved_on_its_screen() {
    let server = Server::start(Setup::default()).await;
    Story::begin(&server).await;
    send(&server, "/rollouts", ENTRIES).await;
    let shown = screen(&server, "/rollouts/r-2").await;
    assert!(shown.contains("data-testid=\"needs-approval\""));
    assert!(!shown.contains("/rollouts/r-2/promote"));
    let own = send(&server, "/rollouts/r-2/approve", "reason=x").await;
    assert_eq!(own, StatusCode::CONFLICT, "not one's own");
    let other = server.token("second", "operator").await;
    let path = "/api/v1/rollouts/2/approve";
    let reply = Reply::of(server.request_as(&other, Method::POST, path)).await;
    assert_eq!(reply.status, StatusCode::OK);
    let shown = screen(&server, "/rollouts/r-2").await;
    assert!(!shown.contains("data-testid=\"needs-approval\""));
    assert!(shown.contains("Approved by") && shown.contains("data-testid=\"waves\""));
    let begun = send(&server, "/rollouts/r-2/promote", "reason=x").await;
    assert_eq!(begun, StatusCode::OK);
    let shown = screen(&server, "/rollouts/r-2").await;
    assert!(shown.contains("wave 2 of 3 begins: by hand"));
}
