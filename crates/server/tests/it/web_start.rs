//! The wizard for rollouts, as a browser without JavaScript gets it.

use fota_proto::manager::Percent;
use reqwest::StatusCode;

use crate::{
    support::{Server, Setup, Story},
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
