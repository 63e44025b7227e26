//! The main loop of a simulated app, from start to reset.

use std::time::Duration;

use fota_client::DeviceClient;
use fota_device::{
    Download, Next, ProveError, ReceiveError, ReleaseError, ResetNow, Told, Updater,
};
use fota_proto::{
    FailureCode, Sha256,
    checkin::{self, CheckIn, Metric},
    limits::CHECK_IN_BYTES_MAX,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{Counters, Counts, DeviceConfig};
use crate::{
    console::Console,
    firmware::{Behaviour, Firmware},
    flash::SharedFlash,
    link::LiveLink,
};

/// What an app measures in which everything goes wrong.
const ERRORS_BAD: i32 = 99;

/// Why the main loop ended.
pub(super) enum LifeEnd {
    /// The app restarts the chip.
    Reset,
}

/// An app that runs.
pub(super) struct Life<'d> {
    pub(super) config: &'d DeviceConfig,
    pub(super) client: &'d DeviceClient,
    pub(super) link: &'d mut LiveLink,
    pub(super) console: &'d Console,
    pub(super) counters: &'d Counts,
    pub(super) firmware: &'d Firmware,
    pub(super) updater: Updater<'d, SharedFlash>,
    pub(super) started_at: Instant,
    pub(super) dice: &'d mut u64,
}

type Reply = fota_client::Result<Vec<u8>>;

impl Life<'_> {
    pub(super) async fn run(mut self) -> LifeEnd {
        let mut next = Next::CheckIn;
        loop {
            next = match next {
                Next::CheckIn => match self.check_in().await {
                    Some(next) => next,
                    None => self.retry(),
                },
                Next::FetchRoot { version } => self.fetch_root(version).await,
                Next::FetchRelease { release } => self.fetch_release(&release).await,
                Next::FetchLogProof { release, size } => self.fetch_log_proof(release, size).await,
                Next::FetchLogGrowth { from, to } => self.fetch_log_growth(from, to).await,
                Next::Download(part) => self.download(part).await,
                Next::Prove => self.prove(),
                Next::Wait { seconds } => self.wait(seconds).await,
                Next::Reset(ResetNow { .. }) => return LifeEnd::Reset,
            };
        }
    }

    /// One check-in; none where the server was not reached.
    async fn check_in(&mut self) -> Option<Next> {
        if self.firmware.behaviour == Behaviour::NeverConnects {
            return None;
        }
        if self.link.round_trip().await.is_err() {
            return None;
        }
        let message = self.message();
        let reply = self.client.check_in(&message).await;
        let next = self.follow(reply)?;
        self.judge_itself().or(Some(next))
    }

    fn message(&mut self) -> Vec<u8> {
        let (nonce, uptime_s) = (self.random(), self.uptime_s());
        let mut buffer = [0; CHECK_IN_BYTES_MAX];
        let errors = Metric {
            name: "errs",
            value: match self.firmware.behaviour {
                Behaviour::MakesErrors => ERRORS_BAD,
                _ => 0,
            },
        };
        let told = Told {
            metrics: &[errors],
            ..Told::default()
        };
        let message = self
            .updater
            .check_in_with(nonce, uptime_s, &told, &mut buffer);
        let identity = &self.config.identity;
        match &self.firmware.behaviour {
            Behaviour::LiesAboutVersion { claims } => identity.seal(&with_version(message, claims)),
            _ => identity.seal(message),
        }
    }

    fn follow(&mut self, reply: Reply) -> Option<Next> {
        let answer = match reply {
            Ok(answer) => answer,
            Err(error) => {
                self.say(format_args!("check-in: {error}"));
                return None;
            }
        };
        Counters::add(&self.counters.check_ins, 1);
        match self.updater.answer(&answer) {
            Ok(next) => Some(next),
            Err(error) => {
                self.say(format_args!("answer: {error}"));
                None
            }
        }
    }

    /// On trial, reaching the server is the self-test of an app that works.
    fn judge_itself(&mut self) -> Option<Next> {
        if !self.updater.is_on_trial() {
            return None;
        }
        match self.firmware.behaviour {
            Behaviour::NeverConfirms => None,
            Behaviour::FailsSelfTest => match self.updater.reject(FailureCode::HealthCheck) {
                Ok(reset) => {
                    self.say("self-test failed: going back");
                    Some(Next::Reset(reset))
                }
                Err(error) => {
                    self.say(format_args!("self-test failed, but {error}"));
                    None
                }
            },
            _ => match self.updater.confirm() {
                Ok(()) => {
                    self.say(format_args!("{} confirmed", self.firmware.version));
                    Some(Next::CheckIn)
                }
                Err(error) => {
                    self.say(format_args!("confirm: {error}"));
                    None
                }
            },
        }
    }

    async fn fetch_root(&mut self, version: u32) -> Next {
        if self.link.round_trip().await.is_err() {
            return self.lost("the network is down");
        }
        let root = match self.client.root(version).await {
            Ok(root) => root,
            Err(error) => return self.lost(error),
        };
        match self.updater.root(&root) {
            Ok(next) => {
                self.say(format_args!("trusts root {version}"));
                next
            }
            Err(error) => {
                self.say(format_args!("root {version}: {error}"));
                self.retry()
            }
        }
    }

    async fn fetch_release(&mut self, release: &Sha256) -> Next {
        if self.link.round_trip().await.is_err() {
            return self.lost("the network is down");
        }
        let bytes = match self.client.object(release).await {
            Ok(bytes) => bytes,
            Err(error) => return self.lost(error),
        };
        match self.updater.release(&bytes) {
            Ok(next) => next,
            Err(error) => {
                self.say(format_args!("release: {error}"));
                self.retry()
            }
        }
    }

    async fn fetch_log_proof(&mut self, release: Sha256, size: u64) -> Next {
        if self.link.round_trip().await.is_err() {
            return self.lost("the network is down");
        }
        let proof = match self.client.log_proof(&release, size).await {
            Ok(proof) => proof,
            Err(error) => return self.lost(error),
        };
        let next = self.updater.log_proof(&proof);
        self.after_log(next)
    }

    async fn fetch_log_growth(&mut self, from: u64, to: u64) -> Next {
        if self.link.round_trip().await.is_err() {
            return self.lost("the network is down");
        }
        let proof = match self.client.log_growth(from, to).await {
            Ok(proof) => proof,
            Err(error) => return self.lost(error),
        };
        let next = self.updater.log_growth(&proof);
        if self.updater.log_is_forked() {
            self.say("the release log is not the one this device knows");
        }
        self.after_log(next)
    }

    fn after_log(&mut self, next: Result<Next, ReleaseError>) -> Next {
        next.unwrap_or_else(|error| {
            self.say(format_args!("release log: {error}"));
            self.retry()
        })
    }

    /// Fetches the rest of the image in one stream, reporting progress beside it.
    async fn download(&mut self, part: Download) -> Next {
        if self.link.round_trip().await.is_err() {
            return self.lost("the network is down");
        }
        let range = u64::from(part.from)..u64::from(part.to);
        let is_whole = part.to == part.bytes;
        let request = async {
            match is_whole {
                true => self.client.blob(&part.blob, range).await,
                false => self.client.blob_part(&part.blob, range).await,
            }
        };
        // The request is on its way before the flash is busy.
        let erase = async { self.updater.erase_ahead() };
        let (blob, erased) = tokio::join!(biased; request, erase);
        if let Err(error) = erased {
            self.say(format_args!("download: {error}"));
            return self.updater.next();
        }
        let mut blob = match blob {
            Ok(blob) => blob,
            Err(error) => return self.lost(error),
        };
        Counters::add(&self.counters.downloads, 1);
        self.say(format_args!(
            "download from byte {} of {}",
            part.from, part.bytes
        ));
        let mut reporter = Reporter::new(self.config, part);
        loop {
            let position = blob.position();
            let bytes = match blob.chunk().await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
                Err(error) => return self.lost(error),
            };
            let arrived = self.link.pass(position, bytes.len()).await;
            Counters::add(&self.counters.image_bytes, arrived as u64);
            match self.updater.receive(&bytes[..arrived]) {
                Ok(()) => {}
                // The answer to a progress report has taken the order back.
                Err(ReceiveError::NotDownloading) => return self.updater.next(),
                Err(error) => {
                    self.say(format_args!("download: {error}"));
                    return self.updater.next();
                }
            }
            if arrived < bytes.len() {
                return self.lost(format_args!("cut at byte {}", position + arrived as u64));
            }
            if let Some(next) = self.report(&mut reporter, position + arrived as u64).await {
                return next;
            }
        }
        self.updater.next()
    }

    /// Sends a progress report when one is due, and takes the answer to the last one when it is
    /// there. The download does not wait for either. Gives what is next where it is no download.
    async fn report(&mut self, reporter: &mut Reporter, position: u64) -> Option<Next> {
        if let Some(reply) = reporter.answered().await {
            match self.follow(reply) {
                Some(Next::Download(_)) | None => {}
                Some(next) if position < reporter.image_bytes => return Some(next),
                Some(_) => {}
            }
        }
        if reporter.is_due(position) {
            let (client, message) = (self.client.clone(), self.message());
            reporter.sent(
                position,
                tokio::spawn(async move { client.check_in(&message).await }),
            );
        }
        None
    }

    fn prove(&mut self) -> Next {
        let activated = match self.updater.prove() {
            Ok(verified) => verified.activate(),
            Err(error) => {
                self.say(format_args!("proof: {error}"));
                return match error {
                    ProveError::NotComplete => Next::CheckIn,
                    _ => self.updater.next(),
                };
            }
        };
        match activated {
            Ok(reset) => {
                self.say("image proven, restarting into it");
                Next::Reset(reset)
            }
            Err(error) => {
                self.say(format_args!("activate: {error}"));
                self.updater.next()
            }
        }
    }

    async fn wait(&mut self, seconds: u32) -> Next {
        let asked = Duration::from_secs(seconds.into());
        // Up to a tenth earlier, so that a fleet does not come all at once.
        let jitter = 0.9 + 0.1 * (self.random() % 1000) as f64 / 1000.0;
        let wait = asked.min(self.config.poll_max).mul_f64(jitter);
        // A trial's deadline does not wait for the poll.
        let wait = match self.updater.deadline_s() {
            Some(deadline_s) => {
                let left_s = deadline_s.saturating_sub(self.uptime_s()) + 1;
                wait.min(Duration::from_secs(left_s.into()))
            }
            None => wait,
        };
        sleep(self.config.real(wait)).await;
        match self.updater.tick(self.uptime_s()) {
            Ok(Some(reset)) => {
                self.say("the deadline of the trial has passed: going back");
                Next::Reset(reset)
            }
            Ok(None) => Next::CheckIn,
            Err(error) => {
                self.say(format_args!("deadline: {error}"));
                Next::CheckIn
            }
        }
    }

    fn lost(&mut self, why: impl std::fmt::Display) -> Next {
        Counters::add(&self.counters.lost_links, 1);
        self.say(format_args!("link lost: {why}"));
        self.retry()
    }

    fn retry(&self) -> Next {
        let seconds = self.config.retry.as_secs().clamp(1, u32::MAX.into());
        Next::Wait {
            seconds: seconds as u32,
        }
    }

    fn uptime_s(&self) -> u32 {
        (self.started_at.elapsed().as_secs_f64() * self.config.speed) as u32
    }

    /// xorshift64 from the device's id: the same device makes the same choices on every run.
    fn random(&mut self) -> u64 {
        *self.dice ^= *self.dice << 13;
        *self.dice ^= *self.dice >> 7;
        *self.dice ^= *self.dice << 17;
        *self.dice
    }

    fn say(&self, line: impl std::fmt::Display) {
        self.console.say(self.config.id.as_str(), line);
    }
}

/// What an app says that lies about its version.
fn with_version(message: &[u8], version: &str) -> Vec<u8> {
    let Ok(check_in) = minicbor::decode::<CheckIn>(message) else {
        return message.to_vec();
    };
    let lie = CheckIn {
        version,
        ..check_in
    };
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    match checkin::encode(&lie, &mut buffer) {
        Some(lie) => lie.to_vec(),
        None => message.to_vec(),
    }
}

/// When to report progress, and the report under way.
struct Reporter {
    every: Duration,
    share: u64,
    image_bytes: u64,
    last_at: Instant,
    last_position: u64,
    under_way: Option<JoinHandle<Reply>>,
}

impl Reporter {
    fn new(config: &DeviceConfig, part: Download) -> Self {
        Self {
            every: config.real(config.report_every),
            share: u64::from(part.bytes / config.reports_max.max(1)),
            image_bytes: u64::from(part.to),
            last_at: Instant::now(),
            last_position: u64::from(part.from),
            under_way: None,
        }
    }

    fn is_due(&self, position: u64) -> bool {
        self.under_way.is_none()
            && position < self.image_bytes
            && position >= self.last_position + self.share
            && self.last_at.elapsed() >= self.every
    }

    fn sent(&mut self, position: u64, report: JoinHandle<Reply>) {
        (self.last_at, self.last_position) = (Instant::now(), position);
        self.under_way = Some(report);
    }

    /// The answer to the report, if it has come. A report that failed is simply not repeated.
    async fn answered(&mut self) -> Option<Reply> {
        let report = self.under_way.take_if(|report| report.is_finished())?;
        report.await.ok()
    }
}
