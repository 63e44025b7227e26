//! Credentials and enrolment keys as an operator sees them.

use fota_proto::manager::{DeviceCredential, EnrolmentKey, EnrolmentKeyState, Page};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    attacks_device::{Own, Sealing, enrolling, enrolment_key},
    support::*,
};

async fn credentials(server: &Server, id: &str) -> Vec<DeviceCredential> {
    let path = format!("/api/v1/devices/{id}/credentials");
    let page: Page<DeviceCredential> = server.get(&path).await.value(StatusCode::OK);
    page.items
}

async fn claim(server: &Server, list: &str) -> Reply {
    let request = server.request(Method::POST, "/api/v1/device-claims");
    let request = request.header(header::CONTENT_TYPE, "text/csv");
    Reply::of(request.body(list.to_owned())).await
}

#[tokio::test]
async fn a_secret_is_shown_once_and_a_use_is_noted() {
    each_database(async |server| {
        let body = json!({"kind": "secret"});
        let new = server.post("/api/v1/devices/a/credentials", body).await;
        let new: Value = new.value(StatusCode::CREATED);
        let digits = new["secret"].as_str().expect("shown").to_owned();
        let secret: fota_proto::Sha256 = digits.parse().expect("64 digits");
        let device = TestDevice::running("a", &Image::new("1.0.5"));
        let own = Own::Secret(secret.0);
        Sealing { device, own }.check_in(&server).await;
        let shown = server.get("/api/v1/devices/a/credentials").await;
        let text = String::from_utf8_lossy(&shown.body).into_owned();
        assert!(!text.contains(&digits), "{text}");
        let [credential] = &credentials(&server, "a").await[..] else {
            panic!("one credential");
        };
        assert_eq!(credential.last_used, Some(NOON));
        assert_eq!(credential.public_key, None);
        let events = server.get("/api/v1/events?limit=1000").await.body;
        assert!(!String::from_utf8_lossy(&events).contains(&digits));
    })
    .await;
}

#[tokio::test]
async fn a_device_has_a_second_credential_while_the_first_is_replaced() {
    each_database(async |server| {
        let mut old = Sealing::provisioned(&server, "a", 1).await;
        old.check_in(&server).await;
        let mut new = Sealing::provisioned(&server, "a", 2).await;
        new.check_in(&server).await;
        old.check_in(&server).await;
        let first = credentials(&server, "a").await[0].id;
        let path = format!("/api/v1/devices/a/credentials/{first}");
        assert_eq!(server.delete(&path).await.status, StatusCode::NO_CONTENT);
        assert_eq!(old.says(&server).await.problem(403).0, "device_revoked");
        new.check_in(&server).await;
        assert_eq!(server.delete(&path).await.problem(409).0, "not_active");
        // A key that was revoked does not come back.
        let body = json!({"kind": "key", "public_key": Own::key(1).public_hex()});
        let again = server.post("/api/v1/devices/a/credentials", body).await;
        assert_eq!(again.problem(409).0, "credential_exists");
    })
    .await;
}

#[tokio::test]
async fn a_device_has_so_many_credentials_and_no_more() {
    let server = Server::start(Setup::default()).await;
    for number in 1..=4 {
        Sealing::provisioned(&server, "a", number).await;
    }
    let body = json!({"kind": "secret"});
    let fifth = server.post("/api/v1/devices/a/credentials", body).await;
    assert_eq!(fifth.problem(409).0, "credentials_max");
}

#[tokio::test]
async fn a_factorys_list_is_taken_whole_or_not_at_all() {
    each_database(async |server| {
        Sealing::provisioned(&server, "ESP32-003", 3).await;
        let key = |number| Own::key(number).public_hex();
        let secret = "0f".repeat(32);
        let bad = format!(
            "id,kind,key\nESP32-001,key,{}\nESP32-002,secret,{secret}\nESP32-003,key,{}\n",
            key(1),
            key(4)
        );
        let (code, field, detail) = claim(&server, &bad).await.problem(409);
        assert_eq!(
            (code.as_str(), field.as_deref()),
            ("credential_exists", Some("body"))
        );
        assert!(
            detail.contains("nothing was taken: line 4: ESP32-003"),
            "{detail}"
        );
        server
            .get("/api/v1/devices/ESP32-001/credentials")
            .await
            .problem(404);

        let good = format!("ESP32-001,key,{}\nESP32-002,secret,{secret}\n", key(1));
        let accepted: Value = claim(&server, &good).await.value(StatusCode::OK);
        assert_eq!(accepted, json!({"claimed": 2, "unchanged": 0}));
        let again: Value = claim(&server, &good).await.value(StatusCode::OK);
        assert_eq!(again, json!({"claimed": 0, "unchanged": 2}));
        for (id, own) in [
            ("ESP32-001", Own::key(1)),
            ("ESP32-002", Own::Secret([0x0f; 32])),
        ] {
            let device = TestDevice::running(id, &Image::new("1.0.5"));
            Sealing { device, own }.check_in(&server).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_wrong_line_is_told_by_its_number_and_never_with_its_secret() {
    let server = Server::start(Setup::default()).await;
    let list = format!(
        "a,secret,{}\nb,secret,{}0\n",
        "0f".repeat(32),
        "0f".repeat(32)
    );
    let (code, _, detail) = claim(&server, &list).await.problem(400);
    assert_eq!(code, "claims_invalid");
    assert!(detail.contains("line 2"), "{detail}");
    assert!(!detail.contains("0f0f"), "{detail}");
}

#[tokio::test]
async fn a_device_that_enrols_joins_the_group_of_its_key() {
    each_database(async |server| {
        server.post("/api/v1/groups", json!({"name": "hall"})).await;
        let secret = enrolment_key(&server, json!({"group": "hall"})).await;
        enrolling("d1", 1, secret).enrols(&server).await;
        let device = TestDevice::running("d1", &Image::new("1.0.5"));
        let own = Own::key(1);
        Sealing { device, own }.check_in(&server).await;
        assert_eq!(server.show_device("d1").await.groups, ["hall"]);
        let keys: Page<EnrolmentKey> = server
            .get("/api/v1/enrolment-keys")
            .await
            .value(StatusCode::OK);
        assert_eq!((keys.items[0].devices, keys.items[0].devices_max), (1, 2));
        assert_eq!(keys.items[0].state, EnrolmentKeyState::Active);
        let [credential] = &credentials(&server, "d1").await[..] else {
            panic!("one credential");
        };
        assert_eq!(credential.enrolment_key.as_deref(), Some("batch"));
        let history = server.history("d1").await;
        assert!(
            history.contains(&"device.enrolled".to_owned()),
            "{history:?}"
        );
    })
    .await;
}

/// Another node of the same database: what this one remembers ends with the next look at it.
#[tokio::test]
async fn a_credential_that_another_node_revokes_is_refused_here() {
    each_database(async |server| {
        let mut device = Sealing::provisioned(&server, "a", 1).await;
        device.check_in(&server).await;
        let id = credentials(&server, "a").await[0].id;
        let store = &server.running.state.store;
        let mut tx = store.write().await.expect("a turn");
        assert!(tx.revoke_credential("a", id, NOON).await.expect("stored"));
        tx.bump_credential_generation().await.expect("stored");
        tx.commit().await.expect("stored");
        for _ in 0..100 {
            let reply = device.says(&server).await;
            if reply.status == StatusCode::FORBIDDEN {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("it was taken for five seconds");
    })
    .await;
}

#[tokio::test]
async fn an_enrolment_key_has_a_name_of_its_own() {
    let server = Server::start(Setup::default()).await;
    enrolment_key(&server, json!({})).await;
    let body = json!({"name": "batch", "devices_max": 1, "expires_in_s": 60});
    let again = server.post("/api/v1/enrolment-keys", body).await;
    assert_eq!(again.problem(409).0, "enrolment_key_exists");
}
