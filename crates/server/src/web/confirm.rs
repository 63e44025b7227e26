//! The question before a deed: what happens to whom, and a form that does it. It is a page of its
//! own, so it works without a script; with one it opens in a dialog over the screen.

use askama::Template;
use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    chrome::{Ask, Chrome, screen},
    fault::Fault,
    pieces::Cli,
};
use crate::AppState;

/// A question.
pub struct Question {
    /// Where its screen is: one of the list of screens.
    pub here: &'static str,
    /// The deed in a few words, with what it is done to.
    pub title: String,
    /// What it means.
    pub lead: String,
    /// Who is concerned, and what happens to them.
    pub effects: Vec<Effect>,
    pub fields: Vec<Field>,
    /// The word on the button.
    pub verb: &'static str,
    pub tone: &'static str,
    /// Where to go without doing it.
    pub back: String,
    pub cli: String,
}

/// Devices in a state, and what happens to them.
pub struct Effect {
    pub who: String,
    pub what: &'static str,
}

/// A field of the form.
pub enum Field {
    /// A text for people; `needed` where the deed asks for one.
    Reason { needed: bool, bytes_max: usize },
    /// A device that it is done to; not shown.
    Target(String),
    /// A choice.
    Choice {
        name: &'static str,
        label: &'static str,
        options: Vec<String>,
    },
}

#[derive(Template)]
#[template(path = "confirm.html")]
struct Page {
    chrome: Chrome,
    question: Question,
    action: String,
    cli: Cli,
}

/// The page of a question; the answer goes to the same address.
pub fn ask(state: &AppState, asked: &Ask, question: Question) -> Result<Response, Fault> {
    let action = asked.place.split('?').next().unwrap_or("/").to_owned();
    screen(&Page {
        chrome: Chrome::new(state, asked, question.here, question.title.clone()),
        action,
        cli: Cli::new(question.cli.clone()),
        question,
    })
}

/// After the deed: the screen that shows it.
pub fn go(place: &str) -> Response {
    let headers = [
        (header::LOCATION, place),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (StatusCode::SEE_OTHER, headers).into_response()
}
