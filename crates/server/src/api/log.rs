//! The release log: what this server has ever taken, provably the same for everybody.

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use fota_proto::{
    Sha256, checkin,
    limits::OBJECT_BYTES_MAX,
    manager::{LogEntry, Page, Problem},
};
use serde::Deserialize;

use super::{
    checkin::{CBOR, COSE},
    extract::Query,
    page::{PageQuery, after, limit, page},
    problem::Refusal,
};
use crate::{AppState, service::download::FOREVER};

/// Query of `GET /d/v1/log/proof`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ProofQuery {
    /// The entry, 64 hex digits: SHA-256 of a signed release.
    pub leaf: String,
    /// Size of the log, as in the head that is to be proven.
    pub size: u64,
}

/// Query of `GET /d/v1/log/consistency`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConsistencyQuery {
    /// Size of the log in the head that is known.
    pub from: u64,
    /// Size of the log in the head that is new.
    pub to: u64,
}

/// The head of the release log: size and root, signed by the online key where there is a root.
#[utoipa::path(get, path = "/d/v1/log/head", tag = "device", security(()),
    responses((status = 200, content_type = "application/cose", body = Vec<u8>)))]
pub async fn head(State(state): State<AppState>) -> Result<Response, Refusal> {
    let plan = state.fleet.newest_plan(&state.store).await?;
    let bytes = encode(&plan.log.head())?;
    let newest = HeaderValue::from_static("no-store");
    match plan.root {
        None => Ok(reply(CBOR, newest, bytes)),
        Some(_) => {
            let signed = state.online_key.sign(&bytes).map_err(|_| too_long())?;
            Ok(reply(COSE, newest, signed))
        }
    }
}

/// The proof that a release is in the log: its number, and the hashes beside its way up.
#[utoipa::path(get, path = "/d/v1/log/proof", tag = "device", security(()), params(ProofQuery),
    responses((status = 200, content_type = "application/cbor", body = Vec<u8>),
        (status = 404, body = Problem)))]
pub async fn proof(
    State(state): State<AppState>,
    Query(asked): Query<ProofQuery>,
) -> Result<Response, Refusal> {
    let leaf: Sha256 = asked
        .leaf
        .parse()
        .map_err(|error| Refusal::field("leaf", format!("leaf: {error}")))?;
    let log = &state.fleet.newest_plan(&state.store).await?.log;
    reaches("size", asked.size, log.size())?;
    let proof = log.inclusion(leaf, asked.size).ok_or_else(|| {
        let what = format!("entry {leaf} among the first {} of the log", asked.size);
        Refusal::not_found(what).of("leaf")
    })?;
    Ok(reply(CBOR, FOREVER, encode(&proof)?))
}

/// The proof that the log only grew between two heads.
#[utoipa::path(get, path = "/d/v1/log/consistency", tag = "device", security(()),
    params(ConsistencyQuery),
    responses((status = 200, content_type = "application/cbor", body = Vec<u8>),
        (status = 404, body = Problem)))]
pub async fn consistency(
    State(state): State<AppState>,
    Query(asked): Query<ConsistencyQuery>,
) -> Result<Response, Refusal> {
    let log = &state.fleet.newest_plan(&state.store).await?.log;
    let (from, to) = (asked.from, asked.to);
    reaches("to", to, log.size())?;
    if from > to {
        let detail = format!("from is {from}, behind {to}: give the smaller size first");
        return Err(Refusal::field("from", detail));
    }
    let proof = log.consistency(from, to).ok_or_else(too_long)?;
    Ok(reply(CBOR, FOREVER, encode(&proof)?))
}

/// The entries of the release log, oldest first.
#[utoipa::path(get, path = "/api/v1/log", tag = "log", params(PageQuery),
    responses((status = 200, body = Page<LogEntry>)))]
pub async fn list(
    State(state): State<AppState>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<LogEntry>>, Refusal> {
    let limit = limit(query.limit)?;
    let first = after(query.after.as_deref())?.map_or(0, |last| last.saturating_add(1));
    let items = state.store.read().await?.log_page(first, limit).await?;
    Ok(Json(page(items, limit, |entry: &LogEntry| {
        entry.index.to_string()
    })))
}

fn reaches(field: &str, asked: u64, size: u64) -> Result<(), Refusal> {
    if asked <= size {
        return Ok(());
    }
    let what = format!("log of {asked} entries: it has {size}");
    Err(Refusal::not_found(what).of(field))
}

fn encode(message: &impl minicbor::Encode<()>) -> Result<Vec<u8>, Refusal> {
    let mut buffer = [0; OBJECT_BYTES_MAX];
    let bytes = checkin::encode(message, &mut buffer).ok_or_else(too_long)?;
    Ok(bytes.to_vec())
}

fn too_long() -> Refusal {
    let status = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
    let detail = "the proof is longer than the protocol allows: please report it";
    Refusal::new(status, "bug", detail)
}

fn reply(kind: &'static str, caching: HeaderValue, bytes: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, caching),
    ];
    (headers, bytes).into_response()
}
