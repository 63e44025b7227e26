//! Whether an image is signed by a key that its product's chips trust.
//!
//! A chip with secure boot refuses any other image, but only when it boots it: then the download has
//! been made, and the device comes back on its old image. So the server asks at the upload.

use axum::http::StatusCode;
use bytes::Bytes;
use fota_image::{app::check_bytes, secure_boot};
use fota_proto::Sha256;

use crate::{AppState, api::problem::Refusal, domain::model::Release};

/// Refuses an image that none of its product's keys has signed; a product without keys takes all.
pub async fn require(state: &AppState, new: &Release, bytes: &Bytes) -> Result<(), Refusal> {
    let mut tx = state.store.read().await?;
    let keys = tx.secure_boot_keys(&new.project).await?;
    drop(tx);
    if keys.is_empty() {
        return Ok(());
    }
    let (product, bytes) = (new.project.clone(), bytes.clone());
    let verifying = tokio::task::spawn_blocking(move || verify(&product, &keys, &bytes));
    let verified = verifying.await;
    verified.map_err(|_| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        let detail = "the check of the signature ended early: please report it";
        Refusal::new(status, "bug", detail)
    })?
}

fn verify(product: &str, keys: &[Sha256], file: &[u8]) -> Result<(), Refusal> {
    let image = check_bytes(file).map_err(|error| refusal(error.to_string()))?;
    let wanted = || {
        let names: Vec<String> = keys.iter().map(|key| format!("{}…", key.short())).collect();
        format!(
            "product {product:?} wants one of the keys {}",
            names.join(", ")
        )
    };
    let signed = image
        .signature
        .and(secure_boot::split(file, image.image_bytes));
    let Some((signed, sector)) = signed else {
        let detail = format!(
            "image carries no secure boot v2 signature and {}: sign it with `espsecure sign-data \
             --version 2`",
            wanted()
        );
        return Err(refusal(detail));
    };
    let blocks = secure_boot::parse(sector).map_err(|error| refusal(error.to_string()))?;
    let mut found = Vec::new();
    for block in blocks.iter() {
        let key = Sha256(block.key_digest());
        match block.verify(signed) {
            Ok(()) if keys.contains(&key) => return Ok(()),
            Ok(()) => found.push(format!("{}… is right", key.short())),
            Err(error) => found.push(format!("{}…: {error}", key.short())),
        }
    }
    let detail = format!(
        "image is signed by {}; {}: sign it with that key",
        found.join(", "),
        wanted()
    );
    Err(refusal(detail))
}

fn refusal(detail: String) -> Refusal {
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    Refusal::new(status, "secure_boot_signature", detail).of("body")
}
