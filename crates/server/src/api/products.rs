use axum::{Json as JsonReply, extract::State};
use fota_proto::{
    limits::PROJECT_BYTES_MAX,
    manager::{Problem, ProductSigning, ProductSigningRequest},
};

use super::{
    extract::{Json, Segment},
    problem::Refusal,
};
use crate::{AppState, domain::model::NewEvent, service::commit};

/// Whether unsigned images of a product are taken.
#[utoipa::path(get, path = "/api/v1/products/{name}/signing", tag = "products",
    params(("name" = String, Path, description = "Project name in the images")),
    responses((status = 200, body = ProductSigning), (status = 400, body = Problem)))]
pub async fn signing(
    State(state): State<AppState>,
    Segment(name): Segment,
) -> Result<JsonReply<ProductSigning>, Refusal> {
    check(&name)?;
    let unsigned = state.store.read().await?.allows_unsigned(&name).await?;
    Ok(JsonReply(ProductSigning { name, unsigned }))
}

/// Says whether unsigned images of a product are taken although the server has a root.
#[utoipa::path(put, path = "/api/v1/products/{name}/signing", tag = "products",
    params(("name" = String, Path, description = "Project name in the images")),
    request_body = ProductSigningRequest,
    responses((status = 200, body = ProductSigning), (status = 400, body = Problem)))]
pub async fn set_signing(
    State(state): State<AppState>,
    Segment(name): Segment,
    Json(request): Json<ProductSigningRequest>,
) -> Result<JsonReply<ProductSigning>, Refusal> {
    check(&name)?;
    let unsigned = request.unsigned;
    let mut tx = state.store.write().await?;
    if tx.allows_unsigned(&name).await? != unsigned {
        tx.set_allows_unsigned(&name, unsigned).await?;
        let rule = if unsigned {
            "unsigned images are taken"
        } else {
            "only signed releases are taken"
        };
        let event = NewEvent {
            kind: "product.signing".to_owned(),
            actor: "operator",
            text: format!("{name}: {rule}"),
            ..NewEvent::default()
        };
        commit(&state, tx, &[event], false).await?;
    }
    Ok(JsonReply(ProductSigning { name, unsigned }))
}

fn check(name: &str) -> Result<(), Refusal> {
    let plain = !name.chars().any(char::is_control);
    if (1..=PROJECT_BYTES_MAX).contains(&name.len()) && plain {
        return Ok(());
    }
    let detail = format!(
        "name has {} bytes: give the project name of an image, 1 to {PROJECT_BYTES_MAX} without \
         control characters",
        name.len()
    );
    Err(Refusal::field("name", detail))
}
