//! The description of the API, made from the handlers themselves.

use std::collections::BTreeSet;

use axum::{Json, http::header::CONTENT_TYPE, response::IntoResponse};
use serde_json::{Value, json};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use super::{
    audit, blobs, checkin, clusters, credentials, deltas, devices, enrol, enrolment_keys, events,
    extract::Segment, fleet, groups, health, log, pins, problem::Refusal, products, releases,
    rollbacks, rollouts, roots, session, tags, tokens, users, webhooks,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "fota", description = "Firmware over the air for ESP32-class devices"),
    paths(
        health::healthz, health::readyz, document, schema,
        checkin::check_in, enrol::enrol, blobs::download,
        fleet::server, fleet::summary,
        releases::upload, releases::list, releases::show, releases::image, releases::yank,
        deltas::list, deltas::build,
        devices::list, devices::show, devices::events, devices::why, devices::block, devices::unblock, pins::pin, pins::unpin, tags::change,
        credentials::list, credentials::provision, credentials::revoke_all, credentials::revoke,
        credentials::allow_re_enrolment, credentials::claim,
        enrolment_keys::list, enrolment_keys::create, enrolment_keys::revoke,
        groups::list, groups::create, groups::remove, groups::add_devices, groups::remove_device,
        groups::set_rule,
        rollouts::preview, rollouts::dry_run, rollouts::list, rollouts::start, rollouts::show, rollouts::pause,
        rollouts::resume, rollouts::abort, rollouts::retry, rollouts::promote, rollouts::approve,
        clusters::clusters,
        clusters::recent,
        roots::add, roots::list, roots::current, roots::download,
        products::signing, products::set_signing,
        log::head, log::proof, log::consistency, log::list,
        products::secure_boot, products::set_secure_boot,
        rollbacks::request, events::list, events::stream,
        webhooks::list, webhooks::create, webhooks::remove, webhooks::enable, webhooks::disable,
        webhooks::test, webhooks::deliveries,
        session::login, session::logout, session::whoami,
        users::list, users::create, users::remove, users::set_role, users::set_password,
        tokens::list, tokens::create, tokens::revoke,
        audit::list, audit::export,
    ),
    modifiers(&Token, &UniqueNames),
    security(("token" = []))
)]
struct Api;

struct Token;

impl Modify for Token {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// Handlers are called after what they do to their noun, so `list` alone names five of them.
struct UniqueNames;

impl Modify for UniqueNames {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        for item in api.paths.paths.values_mut() {
            let operations = [
                &mut item.get,
                &mut item.post,
                &mut item.put,
                &mut item.delete,
            ];
            for operation in operations.into_iter().flatten() {
                let tag = operation.tags.iter().flatten().next().cloned();
                let name = operation.operation_id.take();
                operation.operation_id = tag.zip(name).map(|(tag, name)| format!("{tag}_{name}"));
            }
        }
    }
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "health", security(()),
    responses((status = 200, content_type = "application/json", body = String)))]
pub async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Api::openapi())
}

/// A type of this API, e.g. `RolloutDetail.json`, as a JSON Schema that stands by itself.
#[utoipa::path(get, path = "/api/schemas/{name}", tag = "health", security(()),
    params(("name" = String, Path, description = "Name of a type and `.json`")),
    responses((status = 200, content_type = "application/schema+json", body = String),
        (status = 404, body = fota_proto::manager::Problem)))]
pub async fn schema(Segment(name): Segment) -> Result<impl IntoResponse, Refusal> {
    let shown: String = name.chars().take(80).collect();
    let wanted = name.strip_suffix(".json").and_then(schema_of);
    let found = wanted.ok_or_else(|| Refusal::not_found(format!("schema {shown:?}")).of("name"))?;
    Ok(([(CONTENT_TYPE, "application/schema+json")], Json(found)))
}

/// OpenAPI 3.1 writes its types as JSON Schema 2020-12: what one refers to goes along with it.
fn schema_of(name: &str) -> Option<Value> {
    let document = serde_json::to_string(&Api::openapi()).ok()?;
    let document = document.replace("#/components/schemas/", "#/$defs/");
    let document: Value = serde_json::from_str(&document).ok()?;
    let all = document["components"]["schemas"].as_object()?;
    let mut wanted = vec![name.to_owned()];
    let mut definitions = serde_json::Map::new();
    let mut seen = BTreeSet::new();
    while let Some(next) = wanted.pop() {
        if seen.insert(next.clone()) {
            let definition = all.get(&next)?;
            references(definition, &mut wanted);
            definitions.insert(next, definition.clone());
        }
    }
    Some(json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": name,
        "$ref": format!("#/$defs/{name}"),
        "$defs": definitions,
    }))
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let named = map.get("$ref").and_then(Value::as_str);
            found.extend(named.and_then(|name| Some(name.strip_prefix("#/$defs/")?.to_owned())));
            map.values().for_each(|inner| references(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| references(inner, found)),
        _ => {}
    }
}
