//! The description of the API, made from the handlers themselves.

use axum::Json;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use super::{
    audit, blobs, checkin, clusters, credentials, deltas, devices, enrol, enrolment_keys, events,
    fleet, groups, health, log, products, releases, rollbacks, rollouts, roots, session, tags,
    tokens, users, webhooks,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "fota", description = "Firmware over the air for ESP32-class devices"),
    paths(
        health::healthz, health::readyz, document,
        checkin::check_in, enrol::enrol, blobs::download,
        fleet::server, fleet::summary,
        releases::upload, releases::list, releases::show, releases::image, releases::yank,
        deltas::list, deltas::build,
        devices::list, devices::show, devices::events, devices::why, devices::unblock, tags::change,
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
