//! What all screens have in common: who asks for what, and the frame around the answer.

use askama::Template;
use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
    response::Response,
};
use fota_proto::operators::Role;

use super::{assets, fault::Fault, html_response, words::EVENT_KINDS};
use crate::{
    AppState,
    api::problem::Refusal,
    auth::{Principal, Via, cookie, guard},
    http::public_base,
};

/// A request for a screen.
pub struct Ask {
    pub principal: Principal,
    /// The CSRF token of the browser's session; none for a bearer token.
    pub csrf: Option<String>,
    /// Address that the browser used, for commands to copy.
    pub origin: String,
    /// Path and query, as they were asked for.
    pub place: String,
    query: Vec<(String, String)>,
}

impl FromRequestParts<AppState> for Ask {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Fault> {
        let found = parts.extensions.get::<Principal>().cloned();
        let principal = found.ok_or_else(guard::token_needed)?;
        let query = parts.uri.query().unwrap_or("");
        let id = cookie(&parts.headers).filter(|_| principal.via == Via::Cookie);
        Ok(Self {
            csrf: id.map(guard::csrf_token),
            origin: public_base(&state.config, &parts.extensions, &parts.headers),
            place: parts.uri.to_string(),
            query: form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
            principal,
        })
    }
}

impl Ask {
    /// A parameter without the blanks around it; empty where it is absent.
    pub fn text(&self, name: &str) -> &str {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.trim())
    }

    /// A parameter that may be left empty.
    pub fn maybe(&self, name: &str) -> Option<String> {
        Some(self.text(name).to_owned()).filter(|text| !text.is_empty())
    }

    pub fn pairs(&self) -> &[(String, String)] {
        &self.query
    }

    /// Whether only what is inside the frame is wanted, to be put into a page that is open.
    pub fn is_part(&self) -> bool {
        !self.text("part").is_empty()
    }

    pub fn may(&self, need: Role) -> bool {
        self.principal.role >= need
    }
}

/// An address in the list of screens.
pub struct Link {
    pub href: &'static str,
    pub icon: &'static str,
    pub name: &'static str,
    /// The second key behind `g`.
    pub key: &'static str,
    pub is_here: bool,
}

/// Address, icon, name, key.
const SCREENS: [(&str, &str, &str, &str); 8] = [
    ("/", "grid", "Fleet", "f"),
    ("/devices", "chip", "Devices", "d"),
    ("/releases", "box", "Releases", "l"),
    ("/rollouts", "wave", "Rollouts", "r"),
    ("/activity", "list", "Activity", "a"),
    ("/settings", "gear", "Settings", "s"),
    ("/connect", "plug", "Connect", "c"),
    ("/reference", "code", "API", "i"),
];

/// The frame.
pub struct Chrome {
    pub style: &'static str,
    pub script: &'static str,
    pub icon: &'static str,
    pub title: String,
    pub links: Vec<Link>,
    pub server_version: &'static str,
    pub kinds: String,
    pub actor: String,
    pub role: &'static str,
    pub warnings: Vec<&'static str>,
    /// Which events change the screen: `all`, `device:ID`, `rollout:42`, or none.
    pub live: String,
    pub is_part: bool,
    pub csrf: Option<String>,
    pub now_ms: i64,
    pub may_operate: bool,
    pub may_release: bool,
    pub is_admin: bool,
}

impl Chrome {
    /// The frame of the screen at `here`, which is one of [`SCREENS`].
    pub fn new(state: &AppState, ask: &Ask, here: &str, title: impl Into<String>) -> Self {
        let link = |(href, icon, name, key): (&'static str, _, _, _)| Link {
            href,
            icon,
            name,
            key,
            is_here: href == here,
        };
        Self {
            style: assets::style().path(),
            script: assets::script().path(),
            icon: assets::icon().path(),
            title: title.into(),
            links: SCREENS.into_iter().map(link).collect(),
            server_version: env!("CARGO_PKG_VERSION"),
            kinds: EVENT_KINDS.join(" "),
            actor: ask.principal.actor(),
            role: ask.principal.role.word(),
            warnings: warnings(state),
            live: String::new(),
            is_part: ask.is_part(),
            csrf: ask.csrf.clone(),
            now_ms: state.now_ms(),
            may_operate: ask.may(Role::Operator),
            may_release: ask.may(Role::Releaser),
            is_admin: ask.may(Role::Admin),
        }
    }

    /// The same, of a screen that events change.
    pub fn live(mut self, what: impl Into<String>) -> Self {
        self.live = what.into();
        self
    }
}

fn warnings(state: &AppState) -> Vec<&'static str> {
    let open = "The seed's operator paths need no token (--legacy-open): everyone who reaches \
                this server can upload firmware and order rollbacks.";
    let lab = "Lab mode (--lab): files that no chip would boot are accepted.";
    let mut warnings = Vec::new();
    warnings.extend(state.config.legacy_open.then_some(open));
    warnings.extend(state.config.lab.then_some(lab));
    warnings
}

/// A screen as an answer.
pub fn screen(template: &impl Template) -> Result<Response, Fault> {
    let html = template.render().map_err(|error| {
        tracing::error!(%error, "a screen could not be rendered");
        let detail = "the page could not be made: please report it with the server's log";
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "bug", detail)
    })?;
    Ok(html_response(StatusCode::OK, html))
}
