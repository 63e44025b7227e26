use axum::{Json as JsonReply, extract::State};
use fota_proto::{
    limits::PROJECT_BYTES_MAX,
    manager::{Problem, ProductSecureBoot, ProductSigning, ProductSigningRequest, SecureBootKeys},
};

use super::{
    extract::{Json, Segment},
    problem::Refusal,
};
use crate::{
    AppState,
    auth::{By, Record},
    domain::model::NewEvent,
    service::commit_by,
    store::Tx,
};

/// Secure boot keys of one product: a chip trusts three, and a product is built for several chips at
/// most.
const KEYS_MAX: usize = 16;

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
    by: By,
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
        let event = ("product.signing", format!("{name}: {rule}"));
        record(&state, tx, &by, &name, event).await?;
    }
    Ok(JsonReply(ProductSigning { name, unsigned }))
}

/// Which secure boot keys a product's images must be signed with.
#[utoipa::path(get, path = "/api/v1/products/{name}/secure-boot", tag = "products",
    params(("name" = String, Path, description = "Project name of the images")),
    responses((status = 200, body = ProductSecureBoot)))]
pub async fn secure_boot(
    State(state): State<AppState>,
    Segment(name): Segment,
) -> Result<JsonReply<ProductSecureBoot>, Refusal> {
    check(&name)?;
    let product = name;
    let mut tx = state.store.read().await?;
    let digests = tx.secure_boot_keys(&product).await?;
    Ok(JsonReply(ProductSecureBoot { product, digests }))
}

/// Sets them: from now on an upload that none of them has signed is refused.
#[utoipa::path(put, path = "/api/v1/products/{name}/secure-boot", tag = "products",
    params(("name" = String, Path, description = "Project name of the images")),
    request_body = SecureBootKeys,
    responses((status = 200, body = ProductSecureBoot), (status = 400, body = Problem)))]
pub async fn set_secure_boot(
    State(state): State<AppState>,
    by: By,
    Segment(name): Segment,
    Json(body): Json<SecureBootKeys>,
) -> Result<JsonReply<ProductSecureBoot>, Refusal> {
    check(&name)?;
    let product = name;
    let count = body.digests.len();
    if count > KEYS_MAX {
        let detail = format!("digests names {count} keys; at most {KEYS_MAX} are taken");
        return Err(Refusal::field("digests", detail));
    }
    let mut tx = state.store.write().await?;
    tx.set_secure_boot_keys(&product, &body.digests).await?;
    let digests = tx.secure_boot_keys(&product).await?;
    let names: Vec<String> = digests.iter().map(ToString::to_string).collect();
    let text = match names.is_empty() {
        true => format!("{product}: no key is asked for"),
        false => format!("{product}: signed by {}", names.join(" or ")),
    };
    let event = ("product.secure_boot", text);
    record(&state, tx, &by, &product, event).await?;
    Ok(JsonReply(ProductSecureBoot { product, digests }))
}

/// Stores what an operator has set, with the event and the audit record that tell of it.
async fn record(
    state: &AppState,
    tx: Tx,
    by: &By,
    product: &str,
    (action, text): (&'static str, String),
) -> Result<(), Refusal> {
    let event = NewEvent {
        kind: action.to_owned(),
        actor: "operator",
        text,
        ..NewEvent::default()
    };
    let object = format!("product:{product}");
    let record = Record::new(action, object, event.text.clone());
    commit_by(state, tx, by, record, &[event], false).await?;
    Ok(())
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
