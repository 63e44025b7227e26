//! The contract of the seed's API, L1 to L10: one test each, two for L3.

use serde_json::{Value, json};

use crate::{
    seed::{ID, updated},
    seed_bench::{Bench, hex_sha256, image, upload_body, vector_file},
};

#[tokio::test]
async fn l1_replies_have_the_seeds_names_and_types() {
    let bench = Bench::new().await;
    let device = bench.seed_device(ID);
    assert_eq!(
        device.get("/api/inverter/fota/manifest").await.ok(),
        json!({})
    );
    let status = bench.get("/api/cloud/fota/status").await.ok();
    assert_eq!(status["manifest"], Value::Null);
    assert_eq!(status["total_chunks"], 0);
    let image = image("1.0.6", 64 * 1024);
    let uploaded = bench.upload("1.0.6", &image, 16_384).await;
    assert!(uploaded.content_length.is_some());
    let uploaded = uploaded.ok();
    assert_eq!(uploaded["status"], "success");
    assert_eq!(uploaded["message"], "Firmware uploaded and chunked");
    assert_eq!(uploaded["total_chunks"], 4);
    for (beside, value) in [
        ("version", json!("1.0.6")),
        ("size", json!(65_536)),
        ("chunks", json!(4)),
        ("chunk_size", json!(16_384)),
    ] {
        assert_eq!(uploaded[beside], value);
    }
    let reply = device.get("/api/inverter/fota/manifest").await;
    assert!(
        reply.content_length.expect("a length") < 1_024,
        "the device's pool is small"
    );
    let manifest = &reply.json["fota"]["manifest"];
    assert_eq!(*manifest, uploaded["manifest"]);
    assert_eq!(manifest["size"], 65_536);
    assert_eq!(manifest["chunk_size"], 16_384);
    assert_eq!(manifest["hash"], hex_sha256(&image));
    let at = manifest["uploaded_at"].as_str().expect("a time");
    assert!(
        at.len() == 26 && &at[10..11] == "T" && !at.ends_with('Z'),
        "{at}"
    );
    let chunk = device.chunk(0).await.ok();
    assert!(chunk["chunk_number"].is_u64() && chunk["size"].is_u64());
    let not_required = device.get("/api/inverter/fota/rollback-status").await.ok();
    assert_eq!(not_required, json!({"rollback_required": false}));
    let status = bench.get("/api/cloud/fota/status").await.ok();
    assert_eq!(status["manifest"], *manifest);
    assert_eq!(status["total_chunks"], 4);
    let record = &status["device_status"][ID];
    assert!(record["chunk_received"].is_u64() && record["verified"].is_boolean());
    assert!(record["rollback"].is_boolean() && record["error"].is_null());
    assert!(record["last_update"].is_string());
    let logs = bench.get("/api/cloud/logs/fota?limit=10").await.ok();
    assert_eq!(
        logs["total"],
        logs["logs"].as_array().expect("a list").len()
    );
    let types: Vec<_> = logs["logs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|log| log["event_type"].clone())
        .collect();
    assert!(types.contains(&json!("firmware_uploaded")), "{types:?}");
}

#[tokio::test]
async fn l2_a_request_without_device_id_is_booked_under_the_configured_name() {
    let bench = Bench::with(|options| options.legacy_default_device_id = "bench-7".into()).await;
    bench.nameless_device().boots("1.0.5").await;
    assert_eq!(bench.device("bench-7").await["version"], "1.0.5");
    let reply = bench
        .seed_device("../etc")
        .get("/api/inverter/fota/manifest")
        .await;
    assert!(reply.error(400).contains("Device-ID"));
}

#[tokio::test]
async fn l3_a_manifest_is_for_this_device_alone() {
    let bench = Bench::new().await;
    let (one, two) = (bench.seed_device("one"), bench.seed_device("two"));
    one.boots("1.0.5").await;
    two.boots("1.0.5").await;
    bench.upload_natively(&image("1.0.6", 64 * 1024)).await;
    assert_eq!(one.manifest().await, Value::Null, "uploaded is not offered");
    bench.roll_out("1.0.6", "one").await;
    assert_eq!(two.manifest().await, Value::Null, "not a target");
    let manifest = one.manifest().await;
    assert_eq!(manifest["chunk_size"], 16_384);
    one.installs(&manifest).await;
    assert_eq!(one.manifest().await, Value::Null, "told, and restarting");
    one.boots("1.0.5").await;
    assert_eq!(
        one.manifest().await,
        Value::Null,
        "came back: blocked on this device"
    );
    assert_eq!(
        bench.device("one").await["attempt"]["state"],
        "rolled_back:boot"
    );
    bench.roll_out("1.0.6", "all").await;
    assert_eq!(one.manifest().await, Value::Null);
    assert_eq!(
        two.manifest().await["version"],
        "1.0.6",
        "--to all reaches seed devices"
    );
}

#[tokio::test]
async fn l3_an_upload_is_for_seed_devices_and_no_native_one() {
    let bench = Bench::new().await;
    assert_eq!(bench.native_check_in("native-1", "1.0.5").await, "nothing");
    bench
        .upload("1.0.6", &image("1.0.6", 64 * 1024), 16_384)
        .await
        .ok();
    assert_eq!(bench.native_check_in("native-1", "1.0.5").await, "nothing");
    assert_eq!(bench.seed_device(ID).manifest().await["version"], "1.0.6");
    // Trying the seed's paths with a native device's id does not turn it into a seed device.
    let impostor = bench.seed_device("native-1");
    assert_eq!(impostor.manifest().await, Value::Null);
    assert!(!impostor.is_ordered_back().await);
    assert_eq!(bench.device("native-1").await["protocol"], "native");
}

#[tokio::test]
async fn l4_uploads_are_checked_kept_and_cut_as_asked() {
    let bench = Bench::new().await;
    bench
        .upload("1.0.5", &image("1.0.5", 64 * 1024), 16_384)
        .await
        .ok();
    bench
        .upload("1.0.6", &image("1.0.6", 64 * 1024), 16_384)
        .await
        .ok();
    let releases = bench
        .manage(reqwest::Method::GET, "/api/v1/releases", None)
        .await;
    let notes: Vec<_> = releases["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|release| release["notes"].clone())
        .collect();
    assert_eq!(
        notes,
        ["what changed", "what changed"],
        "history and description are kept"
    );
    for (asked, cut) in [
        (json!(65_536), 18_750),
        (json!(0), 1),
        (json!(1_024), 1_024),
        (Value::Null, 1_024),
    ] {
        let mut body = upload_body("1.0.6", &image("1.0.6", 64 * 1024), 1);
        body["chunk_size"] = asked;
        let reply = bench.post("/api/cloud/fota/upload", body).await.ok();
        assert_eq!(reply["manifest"]["chunk_size"], cut);
    }
    for (name, error) in [
        ("version", "Missing required fields"),
        ("hash", "Missing required fields"),
        ("firmware_data", "Missing required fields"),
        ("size", "Missing required fields"),
    ] {
        let mut body = upload_body("1.0.7", &image("1.0.7", 64 * 1024), 1_024);
        body.as_object_mut().expect("an object").remove(name);
        let reply = bench.post("/api/cloud/fota/upload", body).await;
        assert_eq!(reply.error(400), error);
        assert_eq!(reply.json["field"], name);
    }
    let mut body = upload_body("1.0.7", &image("1.0.7", 64 * 1024), 1_024);
    body["hash"] = json!("00".repeat(32));
    assert_eq!(
        bench.post("/api/cloud/fota/upload", body).await.error(400),
        "Hash mismatch"
    );
    let ten_kib = &image("1.0.7", 64 * 1024)[..10_240];
    let reply = bench.upload("1.0.7", ten_kib, 1_024).await;
    assert!(reply.error(400).contains("10,240"), "{}", reply.json);
    let other = bench
        .upload("1.0.7", &image("1.0.6", 64 * 1024), 1_024)
        .await;
    assert!(other.error(409).contains("1.0.6"), "{}", other.json);
}

#[tokio::test]
async fn l5_a_rollback_survives_a_restart_and_names_only_known_devices() {
    let bench = Bench::new().await;
    updated(&bench).await;
    let unknown = json!({"device_id": "nobody", "reason": "x"});
    let reply = bench.post("/api/cloud/fota/rollback", unknown).await;
    assert!(reply.error(404).contains("nobody"));
    bench
        .post(
            "/api/cloud/fota/rollback",
            json!({"device_id": ID, "reason": "bad"}),
        )
        .await
        .ok();
    let bench = bench.restarted().await;
    let device = bench.seed_device(ID);
    let reply = device.get("/api/inverter/fota/rollback-status").await.ok();
    assert_eq!(reply, json!({"rollback_required": true, "reason": "bad"}));
    device.boots("1.0.5").await;
    assert!(!device.is_ordered_back().await);
    let refusing = json!({"device_id": ID});
    bench.post("/api/cloud/fota/rollback", refusing).await.ok();
    device
        .post_status(json!({"error": "nothing to go back to"}))
        .await
        .ok();
    assert!(!device.is_ordered_back().await, "the device has refused");
    assert_eq!(bench.device(ID).await["rollback"]["state"], "refused");
}

#[tokio::test]
async fn l6_progress_is_kept_and_shown() {
    let bench = Bench::new().await;
    let device = bench.seed_device(ID);
    device.boots("1.0.5").await;
    bench
        .upload("1.0.6", &image("1.0.6", 1_065_968), 16_384)
        .await
        .ok();
    device.manifest().await;
    device
        .post_status(json!({"chunk_received": 33, "total_chunks": 66, "progress": 50.0}))
        .await
        .ok();
    let record = bench.device_record(ID).await;
    assert_eq!(record["chunk_received"], 33);
    assert_eq!(record["total_chunks"], 66);
    assert_eq!(record["progress"], 50.0);
    assert_eq!(record["current_version"], "1.0.5");
    assert_eq!(bench.device(ID).await["attempt"]["bytes_done"], 33 * 16_384);
    device
        .post_status(json!({"error": "HMAC mismatch at chunk 33"}))
        .await
        .ok();
    let record = bench.device_record(ID).await;
    assert_eq!(record["error"], "HMAC mismatch at chunk 33");
    assert_eq!(record["progress"], 50.0);
    assert_eq!(
        bench.device(ID).await["attempt"]["state"],
        "failed:hash_mismatch"
    );
    for (status, field) in [
        (json!({"chunk_received": "3"}), "chunk_received"),
        (json!({"verified": 1}), "verified"),
        (json!([]), "fota_status"),
    ] {
        let reply = device.post_status(status).await;
        reply.error(400);
        assert_eq!(reply.json["field"], field);
    }
}

#[tokio::test]
async fn l7_what_runs_can_be_asked() {
    let bench = Bench::new().await;
    bench.get("/api/inverter/status").await.error(404);
    bench.seed_device("one").boots("1.0.5").await;
    bench.clock.advance_ms(5_000);
    bench.seed_device("two").boots("1.0.6\r").await;
    let newest = bench.get("/api/inverter/status").await.ok();
    assert_eq!(
        (&newest["device_id"], &newest["firmware_version"]),
        (&json!("two"), &json!("1.0.6"))
    );
    let one = bench.get("/api/inverter/status?device_id=one").await.ok();
    assert_eq!(one["firmware_version"], "1.0.5");
    assert!(one["last_seen"].is_string());
    bench
        .get("/api/inverter/status?device_id=three")
        .await
        .error(404);
}

#[tokio::test]
async fn l8_operator_paths_need_a_token_and_device_paths_do_not() {
    let bench = Bench::with(|options| options.legacy_open = false).await;
    for path in [
        "/api/cloud/fota/status",
        "/api/cloud/logs/fota",
        "/api/cloud/logs/all",
    ] {
        assert_eq!(bench.get(path).await.status, 401, "{path}");
    }
    for path in [
        "/api/cloud/fota/upload",
        "/api/cloud/fota/rollback",
        "/api/cloud/fota/clear",
    ] {
        assert_eq!(bench.post(path, json!({})).await.status, 401, "{path}");
    }
    bench.seed_device(ID).boots("1.0.5").await;
    assert_eq!(bench.seed_device(ID).manifest().await, Value::Null);
    let body = json!({"device_id": ID, "reason": "with the token"});
    let reply = bench
        .manage(
            reqwest::Method::POST,
            "/api/cloud/fota/rollback",
            Some(body),
        )
        .await;
    assert_eq!(reply["success"], true);
}

#[tokio::test]
async fn l9_without_a_key_no_chunk_is_served_and_the_error_says_what_to_do() {
    let bench = Bench::with(|options| options.legacy_psk = None).await;
    bench
        .upload("1.0.6", &image("1.0.6", 64 * 1024), 16_384)
        .await
        .ok();
    let device = bench.seed_device(ID);
    device.manifest().await;
    let reply = device.chunk(0).await;
    assert!(reply.error(503).contains("FOTA_LEGACY_PSK"));
}

#[tokio::test]
async fn l10_skip_validation_and_files_that_are_no_image_need_lab() {
    let mut body = upload_body("1.0.6", &vector_file(), 16_384);
    body["hash"] = json!("00".repeat(32));
    body["skip_validation"] = json!(true);
    let bench = Bench::new().await;
    let reply = bench.post("/api/cloud/fota/upload", body.clone()).await;
    assert!(reply.error(400).contains("skip_validation"));
    let no_image = bench.upload("1.0.6", &vector_file(), 16_384).await;
    no_image.error(400);
    assert_eq!(no_image.json["code"], "image_invalid");
    let lab = Bench::with(|options| options.lab = true).await;
    let taken = lab.post("/api/cloud/fota/upload", body).await.ok();
    assert_eq!(
        taken["manifest"]["hash"],
        hex_sha256(&vector_file()),
        "the true hash, always"
    );
}
