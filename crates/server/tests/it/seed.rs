//! The seed's API: its vectors, its figures, and the bugs that it must not have again. Its contract
//! is in `seed_contract.rs`.

use std::{io::Write, process::Stdio};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    seed_bench::{Bench, hex_sha256, image, upload_body, vector_file},
    support::each_database,
};

pub const ID: &str = "ESP32-001";

/// A bench whose device ran 1.0.5 and was brought to 1.0.6.
pub async fn updated(bench: &Bench) {
    let device = bench.seed_device(ID);
    device.boots("1.0.5").await;
    bench
        .upload("1.0.6", &image("1.0.6", 64 * 1024), 16_384)
        .await
        .ok();
    let manifest = device.manifest().await;
    device.installs(&manifest).await;
    device.boots("1.0.6").await;
}

// ---- the bugs ----

#[tokio::test]
async fn option_2_really_verifies() {
    let bench = Bench::new().await;
    updated(&bench).await;
    let running = bench.get("/api/inverter/status").await.ok();
    assert_eq!(running["firmware_version"], "1.0.6");
    assert_eq!(running["device_id"], ID);
    let device = bench.device(ID).await;
    assert_eq!(device["attempt"]["state"], "succeeded");
    let by_id = bench
        .get("/api/inverter/status?device_id=ESP32-001")
        .await
        .ok();
    assert_eq!(by_id["firmware_version"], "1.0.6");
}

#[tokio::test]
async fn rollback_without_id_reaches_all() {
    for body in [
        json!({"reason": "Update failed"}),
        json!({"device_id": "all"}),
        json!({}),
    ] {
        let bench = Bench::new().await;
        for id in ["ESP32-001", "ESP32-002"] {
            bench.seed_device(id).boots("1.0.6").await;
        }
        bench.native_check_in("native-1", "1.0.6").await;
        let reply = bench.post("/api/cloud/fota/rollback", body).await.ok();
        assert_eq!(reply["success"], true);
        assert_eq!(reply["device_id"], "all");
        for id in ["ESP32-001", "ESP32-002"] {
            assert!(bench.seed_device(id).is_ordered_back().await, "{id}");
        }
        assert_eq!(bench.native_check_in("native-1", "1.0.6").await, "rollback");
    }
}

#[tokio::test]
async fn status_post_keeps_rollback() {
    let bench = Bench::new().await;
    updated(&bench).await;
    let device = bench.seed_device(ID);
    bench
        .post("/api/cloud/fota/rollback", json!({"device_id": ID}))
        .await
        .ok();
    for status in [
        json!({"chunk_received": 3, "total_chunks": 66, "progress": 4.5}),
        json!({"verified": true}),
        json!({"boot_status": "success", "new_version": "1.0.6"}),
        json!({}),
    ] {
        device.post_status(status.clone()).await.ok();
        assert!(device.is_ordered_back().await, "{status} erased it");
        let record = bench.device_record(ID).await;
        assert_eq!(record["rollback_requested"], true, "{status}");
    }
}

#[tokio::test]
async fn lost_rollback_reply_is_repeated() {
    let bench = Bench::new().await;
    updated(&bench).await;
    let device = bench.seed_device(ID);
    assert!(!device.is_ordered_back().await);
    bench
        .post("/api/cloud/fota/rollback", json!({"device_id": ID}))
        .await
        .ok();
    for _ in 0..3 {
        assert!(device.is_ordered_back().await);
    }
    device
        .post_status(json!({"rollback": true, "error": "Update failed"}))
        .await
        .ok();
    device.boots("1.0.5").await;
    assert!(!device.is_ordered_back().await);
}

#[tokio::test]
async fn progress_at_most_100_percent() {
    let bench = Bench::new().await;
    bench
        .upload("1.0.6", &image("1.0.6", 1_065_968), 16_384)
        .await
        .ok();
    let device = bench.seed_device(ID);
    device.manifest().await;
    for count in [1, 65, 66, 67, 1_000_000] {
        let percent = count as f64 / 66.0 * 101.5;
        let status = json!({"chunk_received": count, "total_chunks": 66, "progress": percent});
        device.post_status(status).await.ok();
        let record = bench.device_record(ID).await;
        assert!(
            record["progress"].as_f64().expect("a number") <= 100.0,
            "{record}"
        );
        assert!(record["chunk_received"].as_u64() <= Some(66), "{record}");
        let percent = bench.device(ID).await["attempt"]["percent"].as_u64();
        assert!(percent <= Some(100), "{percent:?}");
    }
}

#[tokio::test]
async fn size_not_data_refused() {
    let bench = Bench::new().await;
    let mut body = upload_body("1.0.6", &image("1.0.6", 64 * 1024), 16_384);
    body["size"] = json!(1);
    let reply = bench.post("/api/cloud/fota/upload", body).await;
    assert_eq!(
        reply.error(400),
        "Size mismatch: size is 1, firmware_data holds 65536 bytes"
    );
    let releases = bench
        .manage(reqwest::Method::GET, "/api/v1/releases", None)
        .await;
    assert_eq!(releases["items"], json!([]), "nothing is stored");
}

#[tokio::test]
async fn bad_chunk_number_gives_400() {
    let bench = Bench::new().await;
    bench
        .upload("1.0.6", &image("1.0.6", 64 * 1024), 16_384)
        .await
        .ok();
    let device = bench.seed_device(ID);
    device.manifest().await;
    for bad in ["abc", "1.5", "", "0x1", "%00", "1e3"] {
        let reply = device
            .get(&format!("/api/inverter/fota/chunk?chunk_number={bad}"))
            .await;
        assert!(reply.error(400).contains("chunk_number"), "{bad}");
        assert_eq!(reply.json["field"], "chunk_number");
    }
    for nowhere in ["-1", "4", "99999999999999999999999"] {
        let reply = device
            .get(&format!("/api/inverter/fota/chunk?chunk_number={nowhere}"))
            .await;
        assert_eq!(reply.error(404), "Chunk not found", "{nowhere}");
    }
    assert_eq!(
        device.get("/api/inverter/fota/chunk").await.ok()["chunk_number"],
        0
    );
}

#[tokio::test]
async fn upload_during_a_download_does_not_mix_images() {
    let bench = Bench::new().await;
    let (old, new) = (image("1.0.6", 64 * 1024), image("1.0.7", 96 * 1024));
    bench.upload("1.0.6", &old, 16_384).await.ok();
    let device = bench.seed_device(ID);
    let manifest = device.manifest().await;
    let mut taken = device.take(0).await;
    taken.extend(device.take(1).await);
    device
        .post_status(json!({"chunk_received": 2, "total_chunks": 4, "progress": 50}))
        .await
        .ok();
    bench.upload("1.0.7", &new, 1_024).await.ok();
    device
        .post_status(json!({"chunk_received": 2, "total_chunks": 4, "progress": 50}))
        .await
        .ok();
    // The same bytes again in other chunks must not move the cuts of a download either.
    bench.upload("1.0.6", &old, 1_024).await.ok();
    bench.upload("1.0.7", &new, 1_024).await.ok();
    taken.extend(device.take(2).await);
    taken.extend(device.take(3).await);
    assert_eq!(
        hex_sha256(&taken),
        manifest["hash"],
        "two images were mixed"
    );
    device.post_status(json!({"verified": true})).await.ok();
    device
        .post_status(json!({"boot_status": "pending_reboot", "new_version": "1.0.6"}))
        .await
        .ok();
    device.boots("1.0.6").await;
    let next = device.manifest().await;
    assert_eq!(next["version"], "1.0.7");
    assert_eq!(device.installs(&next).await.0, new);
}

#[tokio::test]
async fn device_without_device_id_is_visible() {
    let bench = Bench::new().await;
    let device = bench.nameless_device();
    device.boots("1.0.5").await;
    bench
        .upload("1.0.6", &image("1.0.6", 64 * 1024), 16_384)
        .await
        .ok();
    let manifest = device.manifest().await;
    device.installs(&manifest).await;
    let shown = bench.device("EcoWatt001").await;
    assert_eq!(shown["protocol"], "seed");
    assert!(
        shown["warning"]
            .as_str()
            .expect("a warning")
            .starts_with("unidentified")
    );
    assert_eq!(shown["attempt"]["state"], "installing");
}

#[tokio::test]
async fn rolled_back_release_not_reoffered() {
    let bench = Bench::new().await;
    updated(&bench).await;
    let device = bench.seed_device(ID);
    bench
        .post("/api/cloud/fota/rollback", json!({"device_id": ID}))
        .await
        .ok();
    device
        .post_status(json!({"rollback": true, "error": "Update failed"}))
        .await
        .ok();
    device.boots("1.0.5").await;
    assert_eq!(device.manifest().await, Value::Null);
    bench
        .upload("1.0.6", &image("1.0.6", 64 * 1024), 16_384)
        .await
        .ok();
    assert_eq!(
        device.manifest().await,
        Value::Null,
        "not by a new upload either"
    );
    bench
        .upload("1.0.7", &image("1.0.7", 64 * 1024), 16_384)
        .await
        .ok();
    assert_eq!(device.manifest().await["version"], "1.0.7");
}

// ---- the vectors and figures ----

#[tokio::test]
async fn seed_vectors() {
    let bench = Bench::with(|options| options.lab = true).await;
    let file = vector_file();
    assert_eq!(
        hex_sha256(&file),
        "9221fe8ac1e3361e771ac83254fa3f6f670286e5f4ebe132e8efcead221cf276"
    );
    let reply = bench.upload("1.0.6", &file, 16_384).await.ok();
    assert_eq!(reply["total_chunks"], 3);
    assert_eq!(reply["lab"], true, "a file that is no image is marked");
    let device = bench.seed_device(ID);
    device.manifest().await;
    for (number, raw, characters, mac) in [
        (
            0,
            16_384,
            21_848,
            "979c7742d8b1eabe7dc4d5190e2b98306c2a8bf9877d88c31c93802c44bb3392",
        ),
        (
            1,
            16_384,
            21_848,
            "032fa5410fd9184a40dd36bb0a4f92c62fd2b7bcbbafa98bb8a03ca4c29002b2",
        ),
        (
            2,
            7_232,
            9_644,
            "03552b82735352e7906b843ae2a682d365399228d0f52ca21b3b165030ce3c85",
        ),
    ] {
        let chunk = device.chunk(number).await.ok();
        assert_eq!(chunk["size"], raw);
        assert_eq!(chunk["data"].as_str().map(str::len), Some(characters));
        assert_eq!(chunk["mac"], mac);
    }
    assert_eq!(device.chunk(3).await.error(404), "Chunk not found");
}

#[tokio::test]
async fn the_large_image_takes_66_or_1041_requests() {
    for (chunk_size, requests) in [(16_384, 66), (1_024, 1_041)] {
        let bench = Bench::new().await;
        let large = image("1.0.6", 1_065_968);
        let reply = bench.upload("1.0.6", &large, chunk_size).await.ok();
        assert_eq!(reply["total_chunks"], requests);
        let device = bench.seed_device(ID);
        let manifest = device.manifest().await;
        let (taken, made) = device.installs(&manifest).await;
        assert_eq!(made, requests);
        assert_eq!(taken, large);
        assert_eq!(device.chunk(requests).await.error(404), "Chunk not found");
    }
}

#[tokio::test]
async fn a_sixteen_kib_chunk_costs_a_third_more_on_the_wire() {
    let bench = Bench::new().await;
    bench
        .upload("1.0.6", &image("1.0.6", 64 * 1024), 16_384)
        .await
        .ok();
    let device = bench.seed_device(ID);
    device.manifest().await;
    let chunk = device.chunk(0).await;
    let length = chunk.content_length.expect("a content length");
    assert!((21_900..22_000).contains(&length), "{length}");
}

// ---- the two lines of the seed ----

#[tokio::test]
async fn the_two_curl_lines_work_verbatim() {
    let bench = Bench::new().await;
    updated(&bench).await;
    // curl -X POST http://localhost:8080/api/cloud/fota/rollback \
    //   -H "Content-Type: application/json" \
    //   -d '{"device_id": "ESP32-001", "reason": "Update failed"}'
    let body = r#"{"device_id": "ESP32-001", "reason": "Update failed"}"#;
    let request = format!(
        "POST /api/cloud/fota/rollback HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: curl/8.5.0\r\n\
         Accept: */*\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let reply = bench.raw(&request).await;
    let (head, json) = parted(&reply);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.to_ascii_lowercase().contains("content-length: "),
        "{head}"
    );
    assert_eq!(json["success"], true);
    assert_eq!(json["message"], "Rollback requested for device: ESP32-001");
    assert_eq!(json["device_id"], "ESP32-001");
    assert_eq!(json["reason"], "Update failed");
    // curl http://localhost:8080/api/inverter/fota/rollback-status -H "Device-ID: ESP32-001"
    let request = "GET /api/inverter/fota/rollback-status HTTP/1.1\r\nHost: localhost:8080\r\n\
                   User-Agent: curl/8.5.0\r\nAccept: */*\r\nConnection: close\r\nDevice-ID: ESP32-001\r\n\r\n";
    let reply = bench.raw(request).await;
    let (_, json) = parted(&reply);
    assert_eq!(
        json,
        json!({"rollback_required": true, "reason": "Update failed"})
    );
}

fn parted(reply: &str) -> (&str, Value) {
    let (head, body) = reply.split_once("\r\n\r\n").expect("head and body");
    (head, serde_json::from_str(body).expect("a JSON body"))
}

// ---- the rest ----

#[tokio::test]
async fn clear_stops_offering_and_keeps_the_history() {
    let bench = Bench::new().await;
    bench
        .upload("1.0.6", &image("1.0.6", 64 * 1024), 16_384)
        .await
        .ok();
    let device = bench.seed_device(ID);
    device.manifest().await;
    device.take(0).await;
    assert_eq!(
        bench.post("/api/cloud/fota/clear", json!({})).await.ok()["status"],
        "success"
    );
    assert_eq!(device.chunk(1).await.error(404), "Chunk not found");
    assert_eq!(device.manifest().await, Value::Null);
    assert_eq!(
        bench.get("/api/cloud/fota/status").await.ok()["manifest"],
        Value::Null
    );
    let releases = bench
        .manage(reqwest::Method::GET, "/api/v1/releases", None)
        .await;
    assert_eq!(releases["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn one_poll_tells_manifest_and_next_chunk() {
    let bench = Bench::new().await;
    let poll = json!({"device_id": ID, "status": {"temperature": 21}});
    assert_eq!(
        bench.post("/api/device/status", poll.clone()).await.ok(),
        json!({})
    );
    bench
        .upload("1.0.6", &image("1.0.6", 64 * 1024), 16_384)
        .await
        .ok();
    let reply = bench.post("/api/device/status", poll.clone()).await.ok();
    assert_eq!(reply["fota"]["manifest"]["version"], "1.0.6");
    assert_eq!(reply["fota"]["next_chunk"], 0);
    let device = bench.seed_device(ID);
    device
        .post_status(json!({"chunk_received": 3, "total_chunks": 4}))
        .await
        .ok();
    let reply = bench.post("/api/device/status", poll.clone()).await.ok();
    assert_eq!(reply["fota"]["next_chunk"], 3);
    bench
        .upload("1.0.7", &image("1.0.7", 64 * 1024), 1_024)
        .await
        .ok();
    let reply = bench.post("/api/device/status", poll.clone()).await.ok();
    let manifest = &reply["fota"]["manifest"];
    assert_eq!(
        manifest["version"], "1.0.6",
        "it is in the middle of this one"
    );
    assert_eq!(manifest["chunk_size"], 16_384);
    device.post_status(json!({"verified": true})).await.ok();
    device
        .post_status(json!({"boot_status": "pending_reboot", "new_version": "1.0.6"}))
        .await
        .ok();
    device.boots("1.0.6").await;
    let reply = bench.post("/api/device/status", poll).await.ok();
    assert_eq!(reply["fota"]["manifest"]["version"], "1.0.7");
    assert_eq!(reply["fota"]["next_chunk"], 0);
}

#[tokio::test]
async fn the_seeds_api_works_on_each_database() {
    each_database(|server| async move {
        let status = |fields: Value| json!({ "fota_status": fields });
        let path = "/api/inverter/fota/status";
        let boots = |version| status(json!({"boot_status": "success", "new_version": version}));
        server
            .post(path, boots("1.0.5"))
            .await
            .value::<Value>(StatusCode::OK);
        for _ in 0..2 {
            let body = upload_body("1.0.6", &image("1.0.6", 64 * 1024), 1_024);
            let reply = server.post("/api/cloud/fota/upload", body).await;
            let reply: Value = reply.value(StatusCode::OK);
            assert_eq!(reply["total_chunks"], 64);
        }
        let manifest = server.get("/api/inverter/fota/manifest").await.json();
        assert_eq!(manifest["fota"]["manifest"]["version"], "1.0.6");
        for fields in [
            json!({"chunk_received": 32, "total_chunks": 64, "progress": 50.0}),
            json!({"verified": true}),
            json!({"boot_status": "pending_reboot", "new_version": "1.0.6"}),
            json!({"boot_status": "success", "new_version": "1.0.6"}),
        ] {
            server
                .post(path, status(fields))
                .await
                .value::<Value>(StatusCode::OK);
        }
        let running: Value = server
            .get("/api/inverter/status")
            .await
            .value(StatusCode::OK);
        assert_eq!(running["firmware_version"], "1.0.6");
        let body = json!({"device_id": "EcoWatt001"});
        server
            .post("/api/cloud/fota/rollback", body)
            .await
            .value::<Value>(StatusCode::OK);
        let ordered = server
            .get("/api/inverter/fota/rollback-status")
            .await
            .json();
        assert_eq!(ordered["rollback_required"], true);
        let all = server.get("/api/cloud/fota/status").await.json();
        assert_eq!(
            all["device_status"]["EcoWatt001"]["rollback_requested"],
            true
        );
        for log in ["all?device_id=EcoWatt001", "commands?limit=1", "fota"] {
            let log = server.get(&format!("/api/cloud/logs/{log}")).await.json();
            assert!(log["total"].as_u64() > Some(0), "{log}");
        }
        server
            .post("/api/cloud/fota/clear", json!({}))
            .await
            .value::<Value>(StatusCode::OK);
    })
    .await;
}

#[tokio::test]
async fn the_python_manager_works_as_typed() {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../scripts/fota_update_manager.py"
    );
    let found = std::process::Command::new("python3")
        .arg("--version")
        .output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: python3 is not installed");
        return;
    }
    let bench = Bench::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let firmware = folder.path().join("firmware.bin");
    std::fs::write(&firmware, image("1.0.6", 64 * 1024)).expect("written");
    bench.seed_device(ID).boots("1.0.5").await;
    let server = bench.url("");
    let run = |input: &'static str| {
        let mut command = std::process::Command::new("python3");
        command.arg(script).arg(&server);
        command
            .env("FOTA_FIRMWARE", &firmware)
            .env("FOTA_POLL_SECONDS", "0.2");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let running = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().expect("python3 starts");
            let mut stdin = child.stdin.take().expect("piped");
            stdin.write_all(input.as_bytes()).expect("written");
            drop(stdin);
            let output = child.wait_with_output().expect("it ends");
            assert!(output.status.success());
            String::from_utf8(output.stdout).expect("text")
        });
        async { running.await.expect("it ran") }
    };
    let device = async {
        let device = bench.seed_device(ID);
        let mut manifest = Value::Null;
        while manifest.is_null() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            manifest = device.manifest().await;
        }
        device.installs(&manifest).await;
        device.boots("1.0.6").await;
    };
    let (said, ()) = tokio::join!(run("2\n1.0.6\nwhat changed\nyes\n0\n"), device);
    for line in [
        "# FOTA UPDATE PROCESS - VERSION 1.0.6",
        "STEP 1",
        "STEP 5",
        "UPDATE SUCCESSFUL",
    ] {
        assert!(said.contains(line), "{line} is missing in:\n{said}");
    }
    assert!(run("6\n1.0.6\n").await.contains("verified"));
    run("5\nUpdate failed\n").await;
    assert!(bench.seed_device(ID).is_ordered_back().await);
}

#[tokio::test]
async fn bad_input_is_refused_with_json_and_never_a_500() {
    let bench = Bench::new().await;
    let http = reqwest::Client::new();
    let junk = vec![b'x'; 1024 * 1024];
    for path in [
        "/api/inverter/fota/status",
        "/api/cloud/fota/rollback",
        "/api/device/status",
        "/api/cloud/fota/upload",
    ] {
        for body in [
            &b""[..],
            b"{",
            b"[]",
            b"null",
            b"{\"fota_status\":7,\"device_id\":7}",
            b"\xff\xfe",
            &junk,
        ] {
            let request = http
                .post(bench.url(path))
                .header("content-type", "application/json");
            let reply = bench.send(request.body(body.to_vec())).await;
            let status = reply.status;
            assert!(
                (400..500).contains(&status),
                "{path} {:?}: {status}",
                &body[..body.len().min(20)]
            );
            assert!(reply.json["error"].is_string());
        }
    }
    for id in ["", " ", "a b", "all", "..", "x".repeat(65).as_str()] {
        let reply = bench
            .seed_device(id)
            .get("/api/inverter/fota/manifest")
            .await;
        reply.error(400);
        assert_eq!(reply.json["field"], "Device-ID");
    }
    let devices = bench
        .manage(reqwest::Method::GET, "/api/v1/devices", None)
        .await;
    assert_eq!(devices["items"], json!([]), "nothing is stored");
}
