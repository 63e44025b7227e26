//! Who tries to speak for a device that is not theirs. None of it succeeds.

use fota_proto::{
    checkin::{Answer, CheckIn},
    enrol::{self, Enrol, Enrolled},
    signed::{
        seal_mac, seal_signed,
        sign::{P256Key, Signer as _},
    },
};
use fota_server::domain::identity::DeviceAuth;
use reqwest::{StatusCode, header};
use serde_json::{Value, json};

use crate::support::*;

/// What a device of these tests seals with.
pub enum Own {
    Secret([u8; 32]),
    Key(P256Key),
}

impl Own {
    pub fn key(number: u8) -> Self {
        Self::Key(P256Key::new(&[number; 32]).expect("a key"))
    }

    pub fn public_hex(&self) -> String {
        match self {
            Self::Key(key) => hex(key.public().bytes()),
            Self::Secret(_) => panic!("a secret has no public half"),
        }
    }

    pub fn seal(&self, payload: &[u8]) -> Vec<u8> {
        let mut out = [0; 1200];
        let sealed = match self {
            Self::Secret(secret) => seal_mac(payload, secret, &mut out),
            Self::Key(key) => seal_signed(
                payload,
                key.public(),
                |message| key.sign(message).ok(),
                &mut out,
            ),
        };
        sealed.expect("fits").to_vec()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A device that seals what it says.
pub struct Sealing {
    pub device: TestDevice,
    pub own: Own,
}

/// What an answer says of trust.
#[derive(Debug, PartialEq)]
pub enum Took {
    /// Taken.
    Yes,
    /// Not new: come again with the challenge.
    NotNew,
}

impl Sealing {
    /// A device on 1.0.5 with a key that the operator has registered.
    pub async fn provisioned(server: &Server, id: &str, number: u8) -> Self {
        let own = Own::key(number);
        let body = json!({"kind": "key", "public_key": own.public_hex()});
        let path = format!("/api/v1/devices/{id}/credentials");
        let reply = server.post(&path, body).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{:?}", reply.json());
        let device = TestDevice::running(id, &Image::new("1.0.5"));
        Self { device, own }
    }

    pub fn message(&self) -> Vec<u8> {
        self.own.seal(&self.device.message())
    }

    pub async fn says(&mut self, server: &Server) -> Reply {
        self.device.nonce += 1;
        let reply = post_cose(server, "check-in", self.message()).await;
        if reply.status == StatusCode::OK {
            self.device.challenge = challenge(&reply);
        }
        reply
    }

    /// Checks in, which must be taken at the first or the second time.
    pub async fn check_in(&mut self, server: &Server) -> Reply {
        for _ in 0..2 {
            let reply = self.says(server).await;
            if took(&reply) == Took::Yes {
                return reply;
            }
        }
        panic!("two challenges were not enough");
    }
}

fn challenge(reply: &Reply) -> Option<[u8; 8]> {
    answer(reply).challenge
}

fn answer(reply: &Reply) -> Answer<'_> {
    let text = String::from_utf8_lossy(&reply.body);
    assert_eq!(reply.status, StatusCode::OK, "{text}");
    minicbor::decode(&reply.body).expect("an answer")
}

pub fn took(reply: &Reply) -> Took {
    let answer = answer(reply);
    assert!(answer.challenge.is_some(), "{answer:?}");
    match (answer.retry_after_s, &answer.order, answer.acknowledged) {
        (0, None, None) => Took::NotNew,
        (0, ..) => panic!("decided and not: {answer:?}"),
        _ => Took::Yes,
    }
}

pub async fn post_cose(server: &Server, path: &str, body: Vec<u8>) -> Reply {
    let url = format!("{}/d/v1/{path}", server.base);
    let request = server.http.post(url).body(body);
    Reply::of(request.header(header::CONTENT_TYPE, "application/cose")).await
}

/// All that a device could have changed.
async fn stored(server: &Server, id: &str) -> (Value, Vec<String>) {
    let device = server.get(&format!("/api/v1/devices/{id}")).await;
    (device.json(), server.history(id).await)
}

fn refused(reply: &Reply) -> String {
    reply.problem(403).0
}

async fn revoke(server: &Server, id: &str) {
    let path = format!("/api/v1/devices/{id}/credentials");
    let reply = server.delete(&path).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn another_devices_check_in_is_refused() {
    each_database(async |server| {
        let mut victim = Sealing::provisioned(&server, "victim", 1).await;
        let mut attacker = Sealing::provisioned(&server, "attacker", 2).await;
        victim.check_in(&server).await;
        attacker.check_in(&server).await;
        let before = stored(&server, "victim").await;
        attacker.device.id = "victim".to_owned();
        attacker.device.version = "6.6.6".to_owned();
        let given = victim.device.challenge;
        for challenge in [None, attacker.device.challenge, given] {
            attacker.device.challenge = challenge;
            assert_eq!(refused(&attacker.says(&server).await), "device_not_trusted");
        }
        // Nor does one who has only what is public: the challenge and the device's key id.
        let mut forged = victim.message();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        let reply = post_cose(&server, "check-in", forged).await;
        assert_eq!(refused(&reply), "device_not_trusted");
        assert_eq!(stored(&server, "victim").await, before);
        assert_eq!(took(&victim.says(&server).await), Took::Yes);
    })
    .await;
}

#[tokio::test]
async fn a_replayed_check_in_changes_nothing() {
    each_database(async |server| {
        let mut device = Sealing::provisioned(&server, "a", 1).await;
        device.check_in(&server).await;
        let old = device.message();
        assert_eq!(
            took(&post_cose(&server, "check-in", old.clone()).await),
            Took::Yes
        );
        device.device.version = "1.0.6".to_owned();
        device.check_in(&server).await;
        server.clock.advance_ms(60_000);
        let before = stored(&server, "a").await;
        for _ in 0..20 {
            let reply = post_cose(&server, "check-in", old.clone()).await;
            assert_eq!(took(&reply), Took::NotNew);
        }
        assert_eq!(stored(&server, "a").await, before);
        // The replays have not cost the device its challenge.
        assert_eq!(took(&device.says(&server).await), Took::Yes);
    })
    .await;
}

#[tokio::test]
async fn a_check_in_replayed_to_a_restarted_server_changes_nothing() {
    let server = Server::start(Setup::default()).await;
    let mut device = Sealing::provisioned(&server, "a", 1).await;
    device.check_in(&server).await;
    let old = device.message();
    device.check_in(&server).await;
    let server = server.restart().await;
    let before = stored(&server, "a").await;
    for _ in 0..3 {
        let reply = post_cose(&server, "check-in", old.clone()).await;
        assert_eq!(took(&reply), Took::NotNew);
    }
    assert_eq!(stored(&server, "a").await, before);
    // A restart costs the device one round trip.
    assert_eq!(took(&device.says(&server).await), Took::NotNew);
    assert_eq!(took(&device.says(&server).await), Took::Yes);
}

#[tokio::test]
async fn one_challenge_opens_one_of_many_check_ins_at_once() {
    let server = Server::start(Setup::default()).await;
    let mut device = Sealing::provisioned(&server, "a", 1).await;
    device.check_in(&server).await;
    let message = device.message();
    let replies = (0..16).map(|_| post_cose(&server, "check-in", message.clone()));
    let replies = futures_util::future::join_all(replies).await;
    let taken = replies.iter().filter(|reply| took(reply) == Took::Yes);
    assert_eq!(taken.count(), 1);
}

#[tokio::test]
async fn a_stolen_device_token_speaks_for_that_device_only_and_can_be_revoked() {
    each_database(async |server| {
        let new = server
            .post("/api/v1/devices/a/credentials", json!({"kind": "secret"}))
            .await;
        let new: Value = new.value(StatusCode::CREATED);
        let secret: fota_proto::Sha256 = new["secret"]
            .as_str()
            .expect("shown")
            .parse()
            .expect("64 digits");
        let mut thief = Sealing {
            device: TestDevice::running("a", &Image::new("1.0.5")),
            own: Own::Secret(secret.0),
        };
        let mut other = Sealing::provisioned(&server, "b", 2).await;
        thief.check_in(&server).await;
        other.check_in(&server).await;
        let before = stored(&server, "b").await;
        thief.device.id = "b".to_owned();
        assert_eq!(refused(&thief.says(&server).await), "device_not_trusted");
        assert_eq!(stored(&server, "b").await, before);
        thief.device.id = "a".to_owned();
        revoke(&server, "a").await;
        assert_eq!(refused(&thief.says(&server).await), "device_revoked");
        // The device comes back with a new one; the thief does not.
        let mut device = Sealing::provisioned(&server, "a", 3).await;
        device.check_in(&server).await;
        thief.device.challenge = device.device.challenge;
        assert_eq!(refused(&thief.says(&server).await), "device_revoked");
    })
    .await;
}

#[tokio::test]
async fn a_plain_check_in_cannot_speak_for_an_enrolled_device() {
    each_database(async |server| {
        let mut device = Sealing::provisioned(&server, "a", 1).await;
        device.check_in(&server).await;
        let before = stored(&server, "a").await;
        let mut plain = TestDevice::running("a", &Image::new("6.6.6"));
        for challenge in [None, device.device.challenge] {
            plain.challenge = challenge;
            let reply = post_cbor(&server, plain.message()).await;
            assert_eq!(refused(&reply), "device_not_trusted");
        }
        assert_eq!(stored(&server, "a").await, before);
        // Nor once it is revoked: otherwise revoking would open the door.
        revoke(&server, "a").await;
        let reply = post_cbor(&server, plain.message()).await;
        assert_eq!(refused(&reply), "device_not_trusted");
        // A device that has none goes on as ever.
        TestDevice::running("b", &Image::new("1.0.5"))
            .check_in(&server)
            .await;
    })
    .await;
}

#[tokio::test]
async fn where_devices_must_prove_themselves_a_plain_check_in_is_refused() {
    let setup = Setup {
        device_auth: DeviceAuth::Required,
        ..Setup::default()
    };
    let server = Server::start(setup).await;
    let plain = TestDevice::running("b", &Image::new("1.0.5"));
    let reply = post_cbor(&server, plain.message()).await;
    assert_eq!(refused(&reply), "device_not_trusted");
    server.get("/api/v1/devices/b").await.problem(404);
    Sealing::provisioned(&server, "a", 1)
        .await
        .check_in(&server)
        .await;
}

/// Every call of the seed's API that a device makes.
async fn seed_calls(server: &Server, id: &str) -> Vec<Reply> {
    let get = |path: &str| {
        let url = format!("{}/api/inverter/fota/{path}", server.base);
        server.http.get(url).header("Device-ID", id)
    };
    let post = |path: &str, body: Value| {
        let url = format!("{}{path}", server.base);
        server.http.post(url).header("Device-ID", id).json(&body)
    };
    let status = json!({"fota_status": {"status": "success", "version": "6.6.6"}});
    let calls = [
        get("manifest"),
        get("chunk?chunk_number=0"),
        get("rollback-status"),
        post("/api/inverter/fota/status", status),
        post("/api/device/status", json!({"device_id": id})),
    ];
    let mut replies = Vec::new();
    for call in calls {
        replies.push(Reply::of(call).await);
    }
    replies
}

#[tokio::test]
async fn the_seeds_api_cannot_speak_for_an_enrolled_device() {
    each_database(async |server| {
        let mut device = Sealing::provisioned(&server, "a", 1).await;
        device.check_in(&server).await;
        Sealing::provisioned(&server, "never-seen", 2).await;
        let before = stored(&server, "a").await;
        for id in ["a", "never-seen"] {
            for reply in seed_calls(&server, id).await {
                assert_eq!(reply.status, StatusCode::FORBIDDEN, "{:?}", reply.json());
                assert_eq!(reply.json()["code"], "device_not_trusted");
            }
        }
        assert_eq!(stored(&server, "a").await, before);
        server.get("/api/v1/devices/never-seen").await.problem(404);
        for reply in seed_calls(&server, "free").await {
            assert_ne!(reply.status, StatusCode::FORBIDDEN, "{:?}", reply.json());
        }
    })
    .await;
}

#[tokio::test]
async fn where_devices_must_prove_themselves_the_seeds_api_speaks_for_named_ids_only() {
    let setup = Setup {
        device_auth: DeviceAuth::Required,
        legacy_allow: vec!["old-1".parse().expect("an id"), "a".parse().expect("an id")],
        ..Setup::default()
    };
    let server = Server::start(setup).await;
    Sealing::provisioned(&server, "a", 1).await;
    for id in ["old-2", "a"] {
        for reply in seed_calls(&server, id).await {
            assert_eq!(
                reply.status,
                StatusCode::FORBIDDEN,
                "{id}: {:?}",
                reply.json()
            );
        }
    }
    let told = seed_calls(&server, "old-2").await[0].json();
    let error = told["error"].as_str().expect("a sentence");
    assert!(error.contains("--legacy-allow old-2"), "{error}");
    for reply in seed_calls(&server, "old-1").await {
        assert_ne!(reply.status, StatusCode::FORBIDDEN, "{:?}", reply.json());
    }
}

/// A device, or somebody, that has an enrolment key.
pub struct Enrolling {
    pub id: &'static str,
    pub own: Own,
    pub secret: [u8; 32],
    pub challenge: Option<[u8; 8]>,
}

impl Enrolling {
    pub fn message(&self) -> Vec<u8> {
        let Own::Key(key) = &self.own else {
            panic!("only keys enrol");
        };
        let mut enrol = Enrol {
            protocol: enrol::VERSION,
            device: self.id,
            nonce: 1,
            enrolment_key: enrol::enrolment_key_id(&self.secret),
            key: key.public(),
            challenge: self.challenge,
            proof: [0; enrol::PROOF_BYTES],
        };
        enrol.proof = enrol::enrol_proof(&self.secret, &enrol);
        let mut buffer = [0; 1024];
        let payload = fota_proto::checkin::encode(&enrol, &mut buffer).expect("fits");
        self.own.seal(payload)
    }

    async fn says(&mut self, server: &Server) -> Reply {
        let reply = post_cose(server, "enrol", self.message()).await;
        if reply.status == StatusCode::OK {
            let answer: Enrolled = minicbor::decode(&reply.body).expect("an answer");
            self.challenge = answer.challenge;
        }
        reply
    }

    /// Asks for a challenge and enrols with it.
    pub async fn enrols(&mut self, server: &Server) -> Reply {
        let first = self.says(server).await;
        match first.status == StatusCode::OK && self.challenge.is_some() {
            true => self.says(server).await,
            false => first,
        }
    }
}

/// Makes an enrolment key; gives its secret.
pub async fn enrolment_key(server: &Server, body: Value) -> [u8; 32] {
    let mut all = json!({"name": "batch", "devices_max": 2, "expires_in_s": 3600});
    for (field, value) in body.as_object().expect("an object") {
        all[field] = value.clone();
    }
    let new: Value = server
        .post("/api/v1/enrolment-keys", all)
        .await
        .value(StatusCode::CREATED);
    let secret: fota_proto::Sha256 = new["secret"]
        .as_str()
        .expect("shown")
        .parse()
        .expect("64 digits");
    secret.0
}

pub fn enrolling(id: &'static str, number: u8, secret: [u8; 32]) -> Enrolling {
    Enrolling {
        id,
        own: Own::key(number),
        secret,
        challenge: None,
    }
}

fn enrolled(reply: &Reply) -> bool {
    reply.status == StatusCode::OK && {
        let answer: Enrolled = minicbor::decode(&reply.body).expect("an answer");
        answer.challenge.is_none()
    }
}

#[tokio::test]
async fn an_enrolment_key_cannot_take_over_a_device() {
    each_database(async |server| {
        let secret = enrolment_key(&server, json!({"devices_max": 100})).await;
        let mut device = Sealing::provisioned(&server, "a", 1).await;
        device.check_in(&server).await;
        let mut thief = enrolling("a", 2, secret);
        let (code, _, detail) = thief.enrols(&server).await.problem(409);
        assert_eq!(code, "device_taken");
        assert!(detail.contains("fota device re-enrol a"), "{detail}");
        device.check_in(&server).await;
        // Nor a revoked one, with the revoked key or another.
        revoke(&server, "a").await;
        for number in [1, 2] {
            let (code, ..) = enrolling("a", number, secret)
                .enrols(&server)
                .await
                .problem(409);
            assert_eq!(code, "device_taken");
        }
        // An operator's leave is for one key, once, and not for the revoked one.
        let reply = server.post("/api/v1/devices/a/re-enrol", json!({})).await;
        assert_eq!(reply.status, StatusCode::OK);
        enrolling("a", 1, secret).enrols(&server).await.problem(409);
        assert!(enrolled(&enrolling("a", 3, secret).enrols(&server).await));
        enrolling("a", 4, secret).enrols(&server).await.problem(409);
    })
    .await;
}

#[tokio::test]
async fn a_re_enrolled_device_leaves_its_old_key_behind() {
    let server = Server::start(Setup::default()).await;
    let secret = enrolment_key(&server, json!({})).await;
    let mut old = Sealing::provisioned(&server, "a", 1).await;
    old.check_in(&server).await;
    server.post("/api/v1/devices/a/re-enrol", json!({})).await;
    old.check_in(&server).await;
    assert!(enrolled(&enrolling("a", 2, secret).enrols(&server).await));
    assert_eq!(refused(&old.says(&server).await), "device_revoked");
    old.own = Own::key(2);
    old.check_in(&server).await;
}

#[tokio::test]
async fn an_enrolment_key_stops_at_its_limit() {
    each_database(async |server| {
        let secret = enrolment_key(&server, json!({"id_prefix": "d"})).await;
        let code = |reply: Reply| reply.problem(403).0;
        let mut first = enrolling("d1", 1, secret);
        assert!(enrolled(&first.enrols(&server).await));
        // The same key again is a lost answer, and counts once.
        assert!(enrolled(&first.enrols(&server).await));
        assert_eq!(
            code(enrolling("x2", 2, secret).enrols(&server).await),
            "enrolment_id"
        );
        assert!(enrolled(&enrolling("d2", 2, secret).enrols(&server).await));
        let full = enrolling("d3", 3, secret).enrols(&server).await;
        assert_eq!(code(full), "enrolment_key_full");
        server
            .get("/api/v1/devices/d3/credentials")
            .await
            .problem(404);
        // What has enrolled stays, whatever becomes of the key.
        server.delete("/api/v1/enrolment-keys/batch").await;
        let device = TestDevice::running("d1", &Image::new("1.0.5"));
        let own = Own::key(1);
        Sealing { device, own }.check_in(&server).await;
        assert_eq!(
            code(enrolling("d3", 3, secret).enrols(&server).await),
            "enrolment_key_revoked"
        );
    })
    .await;
}

#[tokio::test]
async fn an_enrolment_key_ends_with_its_time_and_is_worth_nothing_by_halves() {
    let server = Server::start(Setup::default()).await;
    let secret = enrolment_key(&server, json!({"expires_in_s": 60})).await;
    let code = |reply: Reply| reply.problem(403).0;
    // Another secret, a signature of another key, and a proof for another device.
    let guess = enrolling("a", 1, [7; 32]).enrols(&server).await;
    assert_eq!(code(guess), "enrolment_not_proven");
    let honest = enrolling("a", 1, secret).message();
    let mut broken = honest.clone();
    *broken.last_mut().expect("bytes") ^= 1;
    let reply = post_cose(&server, "enrol", broken).await;
    assert_eq!(code(reply), "enrolment_not_proven");
    // Without a challenge, or with a made-up one, nothing is enrolled.
    let mut device = enrolling("a", 1, secret);
    for challenge in [None, Some([0; 8]), Some([1; 8])] {
        device.challenge = challenge;
        assert!(!enrolled(&device.says(&server).await));
    }
    server.clock.advance_ms(60_000);
    assert_eq!(code(device.enrols(&server).await), "enrolment_key_expired");
    server
        .get("/api/v1/devices/a/credentials")
        .await
        .problem(404);
}

#[tokio::test]
async fn a_revoked_device_is_refused() {
    each_database(async |server| {
        let mut device = Sealing::provisioned(&server, "a", 1).await;
        device.check_in(&server).await;
        revoke(&server, "a").await;
        let before = server.show_device("a").await;
        for _ in 0..5 {
            assert_eq!(refused(&device.says(&server).await), "device_revoked");
        }
        assert_eq!(server.show_device("a").await, before);
        let history = server.history("a").await;
        let count = |kind| history.iter().filter(|found| *found == kind).count();
        assert_eq!(count("device.revoked"), 1, "{history:?}");
        // Told once an hour, or whoever was revoked could fill the history.
        assert_eq!(count("device.refused"), 1, "{history:?}");
    })
    .await;
}

#[tokio::test]
async fn without_the_policy_a_seal_is_not_looked_at() {
    let setup = Setup {
        device_auth: DeviceAuth::Off,
        ..Setup::default()
    };
    let server = Server::start(setup).await;
    let mut device = Sealing::provisioned(&server, "a", 1).await;
    for (number, version) in [(1, "1.0.5"), (2, "1.0.6")] {
        device.own = Own::key(number);
        device.device.version = version.to_owned();
        let reply = device.says(&server).await;
        assert_eq!(challenge(&reply), None);
        let seen = server.show_device("a").await.version;
        assert_eq!(seen.as_deref(), Some(version));
    }
}

/// What a check-in says is inside the seal, in the form that a plain one has.
#[test]
fn a_sealed_check_in_is_a_check_in_in_an_envelope() {
    let device = TestDevice::running("a", &Image::new("1.0.5"));
    for own in [Own::Secret([1; 32]), Own::key(1)] {
        let sealed = own.seal(&device.message());
        let sealed = fota_proto::signed::Sealed::parse(&sealed).expect("sealed");
        let inside: CheckIn = minicbor::decode(sealed.payload()).expect("a check-in");
        assert_eq!(inside.device, "a");
    }
}
