//! Set-up: a server on a database of its own, images, and a device that is only its reports.

mod story;

use std::{
    future::Future,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use fota_image::{app::Chip, build::ImageBuilder};
use fota_proto::{
    AttemptState, DeviceId, FailureCode, Sha256,
    checkin::{
        self, Action, Answer, Attribute, CheckIn, Conditions, End, Held, Metric, Outcome, Patch,
        PatchProfile, Phase, Progress, ResetReason, Running, SlotReport, SlotState, Waits,
    },
    list::List,
    log::LogHead,
    manager::{Device, Release, Rollout, RolloutDetail},
    operators::AuditEntry,
    signed::Envelope,
};
use fota_server::{Clock, Config, domain::identity::DeviceAuth, start};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use sqlx::{Connection, Executor};

pub use story::Story;

/// Monday, 23 November 2026, noon.
pub const NOON: i64 = 1_795_435_200_000;
pub const PASSWORD: &str = "correct horse battery";
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Runs a test on SQLite, and on PostgreSQL where one is given.
pub async fn each_database<F: Future<Output = ()>>(test: impl Fn(Server) -> F) {
    test(Server::start(Setup::default()).await).await;
    let Ok(url) = std::env::var("FOTA_TEST_POSTGRES") else {
        eprintln!("skipped: FOTA_TEST_POSTGRES is not set");
        return;
    };
    let database = PostgresDatabase::create(&url).await;
    let setup = Setup {
        db: Some(database.url()),
        ..Setup::default()
    };
    test(Server::start(setup).await).await;
    database.remove().await;
}

/// Runs a test with an empty PostgreSQL database, where there is a server for it.
pub async fn with_postgres<F: Future<Output = ()>>(test: impl Fn(String) -> F) {
    let Ok(url) = std::env::var("FOTA_TEST_POSTGRES") else {
        eprintln!("skipped: FOTA_TEST_POSTGRES is not set");
        return;
    };
    let database = PostgresDatabase::create(&url).await;
    test(database.url()).await;
    database.remove().await;
}

/// A database of its own for one test.
struct PostgresDatabase {
    admin: String,
    name: String,
}

impl PostgresDatabase {
    async fn create(admin: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("fota_test_{}_{number}", std::process::id());
        let database = Self {
            admin: admin.to_owned(),
            name,
        };
        database.run("CREATE DATABASE").await;
        database
    }

    fn url(&self) -> String {
        let (base, _) = self.admin.rsplit_once('/').expect("a URL with a database");
        format!("{base}/{}", self.name)
    }

    async fn remove(&self) {
        self.run("DROP DATABASE").await;
    }

    async fn run(&self, verb: &str) {
        let force = if verb.starts_with("DROP") {
            " WITH (FORCE)"
        } else {
            ""
        };
        let sql = format!("{verb} {}{force}", self.name);
        let mut connection = sqlx::PgConnection::connect(&self.admin)
            .await
            .expect("connects");
        let sql = sqlx::AssertSqlSafe(sql);
        connection.execute(sql).await.expect("runs");
    }
}

/// How a test server is started.
#[derive(Default)]
pub struct Setup {
    pub data: Option<PathBuf>,
    pub db: Option<String>,
    pub lab: bool,
    pub legacy_open: bool,
    pub device_auth: DeviceAuth,
    pub legacy_allow: Vec<DeviceId>,
    /// Whether unsigned images are refused though there is no root.
    pub signed_only: bool,
}

/// A running server and a way to talk to it.
pub struct Server {
    pub running: fota_server::Running,
    pub base: String,
    pub clock: Clock,
    pub http: reqwest::Client,
    pub data: PathBuf,
    db: Option<String>,
    folder: Option<tempfile::TempDir>,
}

impl Server {
    pub async fn start(setup: Setup) -> Self {
        let folder = setup
            .data
            .is_none()
            .then(|| tempfile::tempdir().expect("a folder"));
        let data = setup.data.clone();
        let data = data.unwrap_or_else(|| folder.as_ref().expect("made").path().to_owned());
        let clock = Clock::manual(NOON);
        let running = start(config(&data, &setup), clock.clone()).await;
        let running = running.unwrap_or_else(|error| panic!("{error}"));
        Self {
            base: format!("http://{}", running.addr),
            http: http(),
            running,
            clock,
            data,
            db: setup.db,
            folder,
        }
    }

    /// A server on SQLite with some of its settings changed.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Self::start_in(folder.path(), change).await;
        Self {
            folder: Some(folder),
            ..server
        }
    }

    /// The same in a folder of the test's own.
    pub async fn start_in(data: &std::path::Path, change: impl FnOnce(&mut Config)) -> Self {
        let data = data.to_owned();
        let mut config = config(&data, &Setup::default());
        change(&mut config);
        let scheme = if config.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let clock = Clock::manual(NOON);
        let running = start(config, clock.clone()).await;
        let running = running.unwrap_or_else(|error| panic!("{error}"));
        Self {
            base: format!("{scheme}://{}", running.addr),
            http: http(),
            running,
            clock,
            data,
            db: None,
            folder: None,
        }
    }

    pub async fn lab() -> Self {
        let setup = Setup {
            lab: true,
            ..Setup::default()
        };
        Self::start(setup).await
    }

    /// Ends the server and starts another on what it stored.
    pub async fn restart(self) -> Self {
        let setup = Setup {
            data: Some(self.data.clone()),
            db: self.db.clone(),
            ..Setup::default()
        };
        self.running.shutdown().await;
        let again = Self::start(setup).await;
        Self {
            folder: self.folder,
            ..again
        }
    }

    /// Another node on the same database and artifacts.
    #[cfg(unix)]
    pub async fn second_node(&self) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["blobs", "fota.db", "online-key.pem"] {
            let shared = self.data.join(name);
            if shared.exists() {
                let link = folder.path().join(name);
                std::os::unix::fs::symlink(shared, link).expect("linked");
            }
        }
        let setup = Setup {
            data: Some(folder.path().to_owned()),
            db: self.db.clone(),
            ..Setup::default()
        };
        Self {
            folder: Some(folder),
            ..Self::start(setup).await
        }
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.base);
        self.http.request(method, url).bearer_auth(TOKEN)
    }

    /// A request as somebody else than the first admin.
    pub fn request_as(&self, token: &str, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.base);
        self.http.request(method, url).bearer_auth(token)
    }

    /// An API token of the server itself.
    pub async fn token(&self, name: &str, role: &str) -> String {
        let made = self
            .post("/api/v1/tokens", json!({"name": name, "role": role}))
            .await;
        let made: Value = made.value(StatusCode::CREATED);
        made["secret"].as_str().expect("a token").to_owned()
    }

    /// Makes a user whose password is [`PASSWORD`].
    pub async fn user(&self, name: &str, role: &str) {
        let body = json!({"name": name, "role": role, "password": PASSWORD});
        let made = self.post("/api/v1/users", body).await;
        let _: Value = made.value(StatusCode::CREATED);
    }

    /// Tries to log in through the API.
    pub async fn login(&self, user: &str, password: &str) -> Reply {
        let body = json!({"user": user, "password": password});
        let url = format!("{}/api/v1/session", self.base);
        Reply::of(self.http.post(url).json(&body)).await
    }

    /// The id of a new session of a user made by [`Server::user`].
    pub async fn session(&self, user: &str) -> String {
        let begun: Value = self.login(user, PASSWORD).await.value(StatusCode::CREATED);
        begun["token"].as_str().expect("a session").to_owned()
    }

    /// The status of a read with this token.
    pub async fn whoami(&self, token: &str) -> Reply {
        Reply::of(self.request_as(token, Method::GET, "/api/v1/whoami")).await
    }

    /// Everything in the audit log.
    pub async fn audit(&self) -> Vec<AuditEntry> {
        let export = self.get("/api/v1/audit/export").await;
        assert_eq!(export.status, StatusCode::OK);
        let text = String::from_utf8(export.body).expect("text");
        let lines = text.lines().map(serde_json::from_str);
        lines.map(|entry| entry.expect("an entry")).collect()
    }

    /// Runs a statement behind the server's back.
    pub async fn sql(&self, sql: &'static str) {
        match &self.db {
            Some(url) => {
                let mut connection = sqlx::PgConnection::connect(url).await.expect("connects");
                connection.execute(sql).await.expect("runs");
            }
            None => {
                let url = format!("sqlite://{}", self.data.join("fota.db").display());
                let connection = sqlx::SqliteConnection::connect(&url).await;
                let mut connection = connection.expect("connects");
                connection.execute(sql).await.expect("runs");
            }
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        Reply::of(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::DELETE, path)).await
    }

    /// Uploads bytes; `query` is what follows the `?`.
    pub async fn upload(&self, image: &[u8], query: &str) -> Reply {
        let path = format!("/api/v1/releases?{query}");
        let request = self.request(Method::POST, &path).body(image.to_vec());
        Reply::of(request.header(header::CONTENT_TYPE, "application/octet-stream")).await
    }

    /// Uploads an image that must be taken.
    pub async fn release(&self, image: &Image) -> Release {
        self.upload(&image.bytes, "")
            .await
            .value(StatusCode::CREATED)
    }

    /// Starts a rollout that must be taken.
    pub async fn rollout(&self, request: Value) -> Rollout {
        self.post("/api/v1/rollouts", request)
            .await
            .value(StatusCode::CREATED)
    }

    pub async fn show_rollout(&self, id: i64) -> RolloutDetail {
        let path = format!("/api/v1/rollouts/r-{id}");
        self.get(&path).await.value(StatusCode::OK)
    }

    pub async fn show_device(&self, id: &str) -> Device {
        let path = format!("/api/v1/devices/{id}");
        self.get(&path).await.value(StatusCode::OK)
    }

    /// State of the newest attempt of a device.
    pub async fn attempt_state(&self, id: &str) -> AttemptState {
        let device = self.show_device(id).await;
        device.attempt.expect("an attempt").state
    }

    /// Kinds of a device's history, oldest first.
    pub async fn history(&self, id: &str) -> Vec<String> {
        let path = format!("/api/v1/devices/{id}/events?limit=1000");
        let page: Value = self.get(&path).await.value(StatusCode::OK);
        let kinds = page["items"].as_array().expect("items").iter();
        kinds
            .map(|event| event["kind"].as_str().expect("kind").to_owned())
            .collect()
    }
}

pub fn http() -> reqwest::Client {
    // Fails where another test was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client")
}

pub fn config(data: &std::path::Path, setup: &Setup) -> Config {
    Config {
        db: setup.db.clone(),
        listen: ([127, 0, 0, 1], 0).into(),
        lab: setup.lab,
        legacy_open: setup.legacy_open,
        device_auth: setup.device_auth,
        legacy_allow: setup.legacy_allow.clone(),
        allow_unsigned: !setup.signed_only,
        operator_token: Some(TOKEN.to_owned()),
        ..Config::new(data)
    }
}

/// A response as read.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: header::HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("answers");
        Self {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.bytes().await.expect("a whole body").to_vec(),
        }
    }

    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[track_caller]
    pub fn value<T: serde::de::DeserializeOwned>(&self, status: StatusCode) -> T {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{text}");
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The refusal, which must be a problem body of this status; its code and field.
    #[track_caller]
    pub fn problem(&self, status: u16) -> (String, Option<String>, String) {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status.as_u16(), status, "{text}");
        let kind = self
            .headers
            .get(header::CONTENT_TYPE)
            .map(|kind| kind.to_str().expect("text"));
        assert_eq!(kind, Some("application/problem+json"), "{text}");
        let problem: fota_proto::manager::Problem =
            serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(problem.status, status);
        assert_eq!(problem.kind, format!("about:blank#{}", problem.code));
        (problem.code, problem.field, problem.detail)
    }
}

/// An image for the tests' usual chip and project, and what a device that runs it says.
#[derive(Clone, Debug)]
pub struct Image {
    pub bytes: Vec<u8>,
    pub version: String,
    pub elf: Sha256,
    pub sha256: Sha256,
}

pub const PROJECT: &str = "thermostat";

impl Image {
    pub fn new(version: &str) -> Self {
        Self::of(version, Chip::Esp32C3, PROJECT)
    }

    pub fn of(version: &str, chip: Chip, project: &str) -> Self {
        Self::built(version, ImageBuilder::new(chip).project(project))
    }

    pub fn built(version: &str, builder: ImageBuilder) -> Self {
        let built = builder.version(version).build();
        let bytes = built.expect("builds");
        let image = fota_image::app::check_bytes(&bytes).expect("valid");
        Self {
            version: version.to_owned(),
            elf: Sha256(image.desc.expect("described").app_elf_sha256),
            sha256: Sha256(image.sha256),
            bytes,
        }
    }
}

/// A device that is only what it reports. Fields are changed by the tests as the device would.
#[derive(Clone, Debug)]
pub struct TestDevice {
    pub id: String,
    pub chip: Chip,
    pub version: String,
    pub project: String,
    pub elf: Sha256,
    pub confirmed: bool,
    pub slot_bytes: u32,
    pub other: Option<Image>,
    pub other_rejected: bool,
    pub progress: Option<(u64, Phase, u32)>,
    pub outcome: Option<(u64, End, FailureCode, &'static str)>,
    pub held: Vec<Held>,
    pub nonce: u64,
    pub challenge: Option<[u8; 8]>,
    pub root: Option<u32>,
    pub epoch: Option<u32>,
    pub log: Option<LogHead>,
    pub patches: Option<PatchProfile>,
    pub attributes: Vec<(&'static str, &'static str)>,
    pub metrics: Vec<(&'static str, i32)>,
    pub reset: ResetReason,
    pub uptime_s: u32,
    pub waits: Option<Waits>,
}

/// An order as a test reads it.
#[derive(Clone, Debug, PartialEq)]
pub enum Ordered {
    Install {
        id: u64,
        image: Sha256,
        elf: Sha256,
        resume_from: u32,
        trial_deadline_s: u32,
    },
    Rollback {
        id: u64,
        leave: Sha256,
        reason: String,
    },
    Cancel {
        id: u64,
    },
}

/// An answer as a test reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub retry_after_s: u32,
    pub acknowledged: Option<u64>,
    pub order: Option<Ordered>,
    patch: Option<Patch>,
    /// Of an install order: download, do not activate.
    pub hold: bool,
    pub conditions: Option<Conditions>,
}

impl Told {
    /// The patch that goes with the install order.
    pub fn patch(&self) -> Option<Patch> {
        self.patch
    }

    /// The install order that must be there.
    #[track_caller]
    pub fn install(&self) -> u64 {
        match &self.order {
            Some(Ordered::Install { id, .. }) => *id,
            other => panic!("no install order: {other:?}"),
        }
    }

    /// The rollback order that must be there.
    #[track_caller]
    pub fn rollback(&self) -> u64 {
        match &self.order {
            Some(Ordered::Rollback { id, .. }) => *id,
            other => panic!("no rollback order: {other:?}"),
        }
    }
}

impl TestDevice {
    /// A confirmed device with an empty second slot.
    pub fn running(id: &str, image: &Image) -> Self {
        Self {
            id: id.to_owned(),
            chip: Chip::Esp32C3,
            version: image.version.clone(),
            project: PROJECT.to_owned(),
            elf: image.elf,
            confirmed: true,
            slot_bytes: 0x18_0000,
            other: None,
            other_rejected: false,
            progress: None,
            outcome: None,
            held: Vec::new(),
            nonce: 1,
            challenge: None,
            root: None,
            epoch: None,
            log: None,
            patches: None,
            attributes: Vec::new(),
            metrics: Vec::new(),
            reset: ResetReason::Software,
            uptime_s: 5,
            waits: None,
        }
    }

    fn claims(&self) -> List<Held, { fota_proto::limits::HELD_MAX }> {
        let mut held = List::new();
        let mut claims = self.held.iter();
        claims.all(|claim| held.push(*claim).is_ok());
        held
    }

    fn told_outcome(&self) -> Option<Outcome<'_>> {
        self.outcome.map(|(order, end, code, detail)| Outcome {
            order,
            end,
            code: code.number(),
            reset: Some(ResetReason::Panic),
            detail: Some(detail),
        })
    }

    fn told_attributes(
        &self,
    ) -> Option<List<Attribute<'static>, { fota_proto::limits::ATTRIBUTES_MAX }>> {
        let mut attributes = List::new();
        for (name, value) in &self.attributes {
            attributes.push(Attribute { name, value }).expect("fits");
        }
        (!attributes.is_empty()).then_some(attributes)
    }

    fn told_metrics(&self) -> Option<List<Metric<'static>, { fota_proto::limits::METRICS_MAX }>> {
        let mut metrics = List::new();
        for (name, value) in &self.metrics {
            let value = *value;
            metrics.push(Metric { name, value }).expect("fits");
        }
        (!metrics.is_empty()).then_some(metrics)
    }

    /// The check-in as sent.
    pub fn message(&self) -> Vec<u8> {
        let mut slots = List::new();
        slots
            .push(SlotReport {
                slot: 0,
                bytes: self.slot_bytes,
                state: SlotState::Image,
                elf: Some(self.elf),
                version: Some(&self.version),
            })
            .expect("fits");
        let other = self.other.as_ref();
        slots
            .push(SlotReport {
                slot: 1,
                bytes: self.slot_bytes,
                state: match (other, self.other_rejected) {
                    (None, _) => SlotState::Empty,
                    (Some(_), false) => SlotState::Image,
                    (Some(_), true) => SlotState::Rejected,
                },
                elf: other.map(|image| image.elf),
                version: other.map(|image| image.version.as_str()),
            })
            .expect("fits");
        let held = self.claims();
        let check_in = CheckIn {
            protocol: checkin::VERSION,
            device: &self.id,
            nonce: self.nonce,
            chip: self.chip.id(),
            chip_revision: Some(3),
            running_elf: self.elf,
            version: &self.version,
            project: &self.project,
            confirmed: [Running::Trial, Running::Confirmed][usize::from(self.confirmed)],
            slot: 0,
            slots,
            rollback_slot: (other.is_some() && !self.other_rejected).then_some(1),
            progress: self.progress.map(|(order, phase, bytes)| Progress {
                order,
                phase,
                bytes,
            }),
            outcome: self.told_outcome(),
            held,
            reset: self.reset,
            uptime_s: self.uptime_s,
            root: self.root,
            epoch: self.epoch,
            challenge: self.challenge,
            log: self.log,
            patches: self.patches,
            attributes: self.told_attributes(),
            metrics: self.told_metrics(),
            waits: self.waits,
        };
        let mut buffer = [0; 1024];
        checkin::encode(&check_in, &mut buffer)
            .expect("fits")
            .to_vec()
    }

    pub async fn check_in(&mut self, server: &Server) -> Told {
        self.nonce += 1;
        let reply = post_cbor(server, self.message()).await;
        let text = String::from_utf8_lossy(&reply.body);
        assert_eq!(reply.status, StatusCode::OK, "{text}");
        let kind = reply.headers[header::CONTENT_TYPE].to_str().expect("text");
        let body = match kind {
            "application/cose" => Envelope::parse(&reply.body).expect("signed").payload,
            _ => &reply.body,
        };
        let answer: Answer = minicbor::decode(body).expect("an answer");
        assert_eq!(
            (answer.protocol, answer.nonce),
            (checkin::VERSION, self.nonce)
        );
        let install = answer.order.as_ref().and_then(|order| match &order.action {
            Action::Install(install) => Some(install),
            _ => None,
        });
        Told {
            patch: install.and_then(|install| install.patch),
            hold: install.is_some_and(|install| install.hold == Some(true)),
            conditions: install.and_then(|install| install.conditions),
            retry_after_s: answer.retry_after_s,
            acknowledged: answer.acknowledged,
            order: answer.order.map(|order| ordered(&order)),
        }
    }

    /// Reports how far an install is.
    pub async fn reports(&mut self, server: &Server, order: u64, phase: Phase, bytes: u32) -> Told {
        self.progress = Some((order, phase, bytes));
        self.check_in(server).await
    }

    /// Reports the end of an order; the outcome is dropped when it is acknowledged.
    pub async fn ends(&mut self, server: &Server, order: u64, end: End, code: FailureCode) -> Told {
        self.progress = None;
        self.outcome = Some((order, end, code, ""));
        let told = self.check_in(server).await;
        assert_eq!(told.acknowledged, Some(order));
        self.outcome = None;
        told
    }

    /// Boots `image` from the other slot; what ran before stays there.
    pub fn boots(&mut self, image: &Image, confirmed: bool) {
        let before = Image {
            bytes: Vec::new(),
            version: self.version.clone(),
            elf: self.elf,
            sha256: self.elf,
        };
        self.version = image.version.clone();
        self.elf = image.elf;
        self.confirmed = confirmed;
        self.other = Some(before);
        self.other_rejected = false;
        self.progress = None;
    }

    /// Downloads, installs, runs on trial and confirms the image that it is offered.
    pub async fn updates_to(&mut self, server: &Server, image: &Image) {
        let order = self.check_in(server).await.install();
        let bytes = image.bytes.len() as u32;
        self.reports(server, order, Phase::Downloading, bytes / 2)
            .await;
        self.reports(server, order, Phase::Installing, bytes).await;
        self.boots(image, false);
        self.check_in(server).await;
        self.confirmed = true;
        self.check_in(server).await;
    }
}

fn ordered(order: &checkin::Order) -> Ordered {
    let id = order.id;
    match &order.action {
        Action::Install(install) => Ordered::Install {
            id,
            image: install.image,
            elf: install.elf,
            resume_from: install.resume_from,
            trial_deadline_s: install.trial_deadline_s,
        },
        Action::Rollback(rollback) => Ordered::Rollback {
            id,
            leave: rollback.leave,
            reason: rollback.reason.to_owned(),
        },
        Action::Cancel => Ordered::Cancel { id },
    }
}

pub async fn post_cbor(server: &Server, body: Vec<u8>) -> Reply {
    let url = format!("{}/d/v1/check-in", server.base);
    let request = server.http.post(url).body(body);
    Reply::of(request.header(header::CONTENT_TYPE, "application/cbor")).await
}
