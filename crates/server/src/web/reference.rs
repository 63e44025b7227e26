//! The API, as our own OpenAPI document describes it.

use std::collections::BTreeMap;

use askama::Template;
use axum::{extract::State, response::Response};
use serde_json::Value;

use super::{
    chrome::{Ask, Chrome, screen},
    fault::Fault,
    pieces::{Cli, shell},
};
use crate::{
    AppState,
    api::{self, Access, openapi},
};

#[derive(Template)]
#[template(path = "reference.html")]
struct Reference {
    chrome: Chrome,
    tags: Vec<Tag>,
    operations: usize,
}

struct Tag {
    name: String,
    operations: Vec<Operation>,
}

struct Operation {
    id: String,
    method: String,
    path: String,
    summary: String,
    text: String,
    needs: String,
    parameters: Vec<Parameter>,
    body: String,
    answers: Vec<(String, String)>,
    curl: Cli,
}

struct Parameter {
    name: String,
    place: String,
    kind: String,
    is_needed: bool,
    text: String,
}

/// `GET /reference`.
pub async fn show(State(state): State<AppState>, ask: Ask) -> Result<Response, Fault> {
    let document = openapi::document().await;
    let document = serde_json::to_value(&document.0).unwrap_or_default();
    let mut tags: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, told) in item.as_object().into_iter().flatten() {
            if told.get("responses").is_none() {
                continue;
            }
            let tag = text(&told["tags"][0]);
            let operation = operation(&ask.origin, path, method, told);
            tags.entry(tag).or_default().push(operation);
        }
    }
    screen(&Reference {
        chrome: Chrome::new(&state, &ask, "/reference", "API"),
        operations: tags.values().map(Vec::len).sum(),
        tags: tags
            .into_iter()
            .map(|(name, operations)| Tag { name, operations })
            .collect(),
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").to_owned()
}

fn operation(origin: &str, path: &str, method: &str, told: &Value) -> Operation {
    let method = method.to_uppercase();
    let parameters = told["parameters"].as_array().into_iter().flatten();
    let content = &told["requestBody"]["content"];
    let answers = told["responses"].as_object().into_iter().flatten();
    Operation {
        id: text(&told["operationId"]),
        summary: text(&told["summary"]),
        text: text(&told["description"]),
        needs: needs(&method, path),
        parameters: parameters.map(parameter).collect(),
        body: kinds(content),
        answers: answers
            .map(|(status, answer)| (status.clone(), kinds(&answer["content"])))
            .collect(),
        curl: Cli::new(curl(origin, &method, path, content)),
        path: path.to_owned(),
        method,
    }
}

/// What it takes, from the table that the guard goes by.
fn needs(method: &str, path: &str) -> String {
    let rows = [api::ROUTES, api::COMPAT_ROUTES].concat();
    let row = rows.iter().find(|(m, p, _)| (*m, *p) == (method, path));
    match row.map(|(.., access)| *access) {
        Some(Access::Role(role) | Access::Legacy(role) | Access::Screen(role)) => role.to_string(),
        Some(Access::Open) => "nothing".to_owned(),
        Some(Access::Page) | None => "a login".to_owned(),
    }
}

fn parameter(told: &Value) -> Parameter {
    Parameter {
        name: text(&told["name"]),
        place: text(&told["in"]),
        kind: kind(&told["schema"]),
        is_needed: told["required"] == Value::Bool(true),
        text: text(&told["description"]),
    }
}

/// Media types with the names of what is in them.
fn kinds(content: &Value) -> String {
    let content = content.as_object().into_iter().flatten();
    let named = content.map(|(media, told)| match kind(&told["schema"]).as_str() {
        "" => media.clone(),
        kind => format!("{kind} as {media}"),
    });
    named.collect::<Vec<_>>().join(", ")
}

fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        return name.rsplit('/').next().unwrap_or("").to_owned();
    }
    match &schema["type"] {
        Value::Array(kinds) => {
            let kinds: Vec<_> = kinds.iter().filter_map(Value::as_str).collect();
            kinds.join(" or ")
        }
        Value::String(kind) => kind.clone(),
        _ => String::new(),
    }
}

fn curl(origin: &str, method: &str, path: &str, content: &Value) -> String {
    let mut text = "curl".to_owned();
    if method != "GET" {
        text.push_str(&format!(" -X {method}"));
    }
    text.push_str(" -H \"Authorization: Bearer $FOTA_TOKEN\"");
    if let Some(media) = content
        .as_object()
        .and_then(|content| content.keys().next())
    {
        text.push_str(&format!(" -H {}", shell(&format!("content-type: {media}"))));
        text.push_str(match media.as_str() {
            "application/json" => " -d '{…}'",
            _ => " --data-binary @FILE",
        });
    }
    format!("{text} {}", shell(&format!("{origin}{path}")))
}
