//! What is asked of the images of a product.

use fota_image::{app::check_bytes, build::SigningKey, secure_boot};
use fota_proto::Sha256;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::*;

const POLICY: &str = "/api/v1/products/thermostat/secure-boot";

fn key_digest(file: &[u8]) -> Sha256 {
    let image = check_bytes(file).expect("an image");
    let (_, sector) = secure_boot::split(file, image.image_bytes).expect("a sector");
    let blocks = secure_boot::parse(sector).expect("blocks");
    Sha256(blocks.iter().next().expect("one").key_digest())
}

async fn set(server: &Server, digests: Value) -> Value {
    let request = server.request(Method::PUT, POLICY);
    let reply = Reply::of(request.json(&json!({ "digests": digests }))).await;
    reply.value(StatusCode::OK)
}

async fn refused(server: &Server, file: &[u8]) -> String {
    let (code, field, detail) = server.upload(file, "").await.problem(422);
    assert_eq!(
        (code.as_str(), field.as_deref()),
        ("secure_boot_signature", Some("body"))
    );
    detail
}

#[tokio::test]
async fn a_product_takes_only_images_that_its_secure_boot_key_signed() {
    each_database(async |server: Server| {
        let (key, stranger) = (SigningKey::generate(), SigningKey::generate());
        let image = Image::new("1.0.6");
        let (good, wrong) = (key.sign(&image.bytes), stranger.sign(&image.bytes));
        let digest = key_digest(&good);
        let unset: Value = server.get(POLICY).await.value(StatusCode::OK);
        assert_eq!(unset, json!({"product": "thermostat", "digests": []}));
        let both = [Sha256([7; 32]), digest];
        let policy = set(&server, json!(both)).await;
        assert_eq!(policy["digests"].as_array().map(Vec::len), Some(2));
        assert_eq!(server.get(POLICY).await.json(), policy);

        let detail = refused(&server, &image.bytes).await;
        assert!(detail.contains("no secure boot v2 signature"), "{detail}");
        let detail = refused(&server, &wrong).await;
        let named = format!("{}… is right", key_digest(&wrong).short());
        assert!(
            detail.contains(&named) && detail.contains(&digest.short().to_string()),
            "{detail}"
        );
        // The right key's signature over another image.
        let mut mixed = key.sign(&Image::new("1.0.7").bytes);
        let sector = mixed.split_off(mixed.len() - secure_boot::SECTOR_BYTES);
        let mut mixed = good[..good.len() - secure_boot::SECTOR_BYTES].to_vec();
        mixed.extend(&sector);
        let detail = refused(&server, &mixed).await;
        assert!(detail.contains("changed after it was signed"), "{detail}");
        let mut damaged = good.clone();
        let place = damaged.len() - secure_boot::SECTOR_BYTES + 100;
        damaged[place] ^= 1;
        let detail = refused(&server, &damaged).await;
        assert!(detail.contains("CRC"), "{detail}");
        let list: Value = server.get("/api/v1/releases").await.value(StatusCode::OK);
        assert_eq!(list["items"], json!([]), "nothing was kept");

        assert_eq!(server.upload(&good, "").await.status, StatusCode::CREATED);
        // Other products are asked for nothing, and neither is this one when it is off again.
        let chip = fota_image::app::Chip::Esp32C3;
        let other = Image::of("1.0.6", chip, "other");
        assert_eq!(
            server.upload(&other.bytes, "").await.status,
            StatusCode::CREATED
        );
        set(&server, json!([])).await;
        let plain = Image::new("1.0.8");
        assert_eq!(
            server.upload(&plain.bytes, "").await.status,
            StatusCode::CREATED
        );
        let page: Value = server.get("/api/v1/events").await.value(StatusCode::OK);
        let kinds = page["items"].as_array().expect("items").iter();
        let changes = kinds.filter(|event| event["kind"] == "product.secure_boot");
        assert_eq!(changes.count(), 2);
    })
    .await;
}
