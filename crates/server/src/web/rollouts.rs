//! The list of rollouts: those that run, then those that have ended.

use askama::Template;
use axum::{Json, extract::State, response::Response};
use fota_proto::manager::RolloutState;

use super::{
    chrome::{Ask, Chrome, screen},
    fault::Fault,
    fleet::{Card, card},
    pieces::Cli,
};
use crate::{
    AppState,
    api::{extract::Query, page::PageQuery, rollouts},
};

/// Rollouts of a page: counting the devices of each is the dear part.
const ROWS: u32 = 25;

#[derive(Template)]
#[template(path = "rollouts.html")]
struct Rollouts {
    chrome: Chrome,
    running: Vec<Card>,
    ended: Vec<Card>,
    next: Option<String>,
    list: Cli,
}

/// `GET /rollouts`.
pub async fn list(State(state): State<AppState>, ask: Ask) -> Result<Response, Fault> {
    let query = PageQuery {
        after: ask.maybe("after"),
        limit: Some(ROWS),
    };
    let Json(page) = rollouts::list(State(state.clone()), Query(query)).await?;
    let now = state.now_ms();
    let runs = |state| matches!(state, RolloutState::Active | RolloutState::Paused);
    let (running, ended): (Vec<_>, Vec<_>) =
        page.items.iter().partition(|rollout| runs(rollout.state));
    screen(&Rollouts {
        chrome: Chrome::new(&state, &ask, "/rollouts", "Rollouts").live("all"),
        running: running.into_iter().map(|one| card(one, now)).collect(),
        ended: ended.into_iter().map(|one| card(one, now)).collect(),
        next: page.next.map(|next| format!("/rollouts?after={next}")),
        list: Cli::new("fota rollout list"),
    })
}
