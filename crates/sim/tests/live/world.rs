//! A server in a runtime of its own, so that it can be killed at any moment, and devices for it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use fota_client::{Client, DeviceClient};
use fota_image::app::Chip;
use fota_proto::manager::{
    Attempt, Device, Release, ReleaseUpload, RollbackRequest, RolloutDetail, RolloutRequest,
};
use fota_server::{Clock, Config};
use fota_sim::{
    board::{Board, factory_flash},
    console::Console,
    device::{DeviceConfig, SimDevice},
    firmware::{self, Spec},
    link::{LiveLink, SimLink},
};
use tokio::{sync::oneshot, time::timeout};

/// The seed's 1,040 KB.
pub const IMAGE_BYTES: usize = 1_065_968;
/// Key of the seed's chunks.
pub const PSK: [u8; 32] = [9; 32];
const TOKEN: &str = "a-token-of-the-tests";
/// Longest wait for anything; a busy machine needs some of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that is running, or was killed.
pub struct World {
    data: tempfile::TempDir,
    config: Config,
    pub address: SocketAddr,
    kill: Option<oneshot::Sender<()>>,
    dead: Option<std::thread::JoinHandle<()>>,
    pub client: Client,
}

impl World {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let mut config = Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            legacy_open: true,
            legacy_psk: Some(PSK),
            poll_s: 1,
            operator_token: Some(TOKEN.to_owned()),
            ..Config::new(data.path())
        };
        change(&mut config);
        let (address, kill, dead) = run(config.clone()).await;
        let url = format!("http://{address}");
        let client = Client::new(&url, Some(TOKEN.to_owned())).expect("a URL");
        Self {
            data,
            config: Config {
                listen: address,
                ..config
            },
            address,
            kill: Some(kill),
            dead: Some(dead),
            client,
        }
    }

    /// Ends the server as `kill -9` would: nothing is asked, nothing is drained.
    pub fn kill(&mut self) {
        drop(self.kill.take());
        self.dead.take().expect("it runs").join().expect("no panic");
    }

    /// Starts it again on the same address and data.
    pub async fn revive(&mut self) {
        self.revive_with(|_| {}).await;
    }

    /// The same with some of its settings changed.
    pub async fn revive_with(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        let (_, kill, dead) = run(self.config.clone()).await;
        (self.kill, self.dead) = (Some(kill), Some(dead));
        assert!(self.data.path().exists());
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub async fn upload(&self, image: &[u8]) -> Release {
        let image = image.to_vec().into();
        let options = ReleaseUpload::default();
        self.client
            .upload(image, &options, |_| {})
            .await
            .expect("taken")
    }

    pub async fn roll_out(&self, release: &Release, trial_deadline_s: u32) -> i64 {
        let request = RolloutRequest {
            trial_deadline_s: Some(trial_deadline_s),
            ..RolloutRequest::new(release.id.to_string(), vec!["all".to_owned()])
        };
        self.client
            .start_rollout(&request)
            .await
            .expect("started")
            .id
    }

    pub async fn roll_back(&self, device: &str) {
        let request = RollbackRequest {
            to: vec![device.to_owned()],
            release: None,
            reason: "a test".to_owned(),
        };
        self.client.roll_back(&request).await.expect("ordered");
    }

    pub async fn device(&self, id: &str) -> Option<Device> {
        self.client.device(id).await.ok()
    }

    /// Waits until `look` finds something.
    pub async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut(&Self) -> Option<T>) -> T {
        let looking = async {
            loop {
                if let Some(found) = look(self).await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = timeout(PATIENCE, looking).await;
        found.unwrap_or_else(|_| panic!("waited {} s for {what}", PATIENCE.as_secs()))
    }

    /// Waits until the attempt of a device in a rollout has ended.
    pub async fn attempt_ended(&self, rollout: i64, device: &str) -> Attempt {
        self.until("the attempt to end", async |world| {
            let detail = world.client.rollout(rollout).await.ok()?;
            attempt(&detail, device)
                .filter(|attempt| attempt.state.is_end())
                .cloned()
        })
        .await
    }
}

pub fn attempt<'a>(detail: &'a RolloutDetail, device: &str) -> Option<&'a Attempt> {
    detail
        .attempts
        .iter()
        .find(|attempt| attempt.device == device)
}

/// Starts a server on a thread of its own.
async fn run(config: Config) -> (SocketAddr, oneshot::Sender<()>, std::thread::JoinHandle<()>) {
    let (kill, killed) = oneshot::channel::<()>();
    let (started, address) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(async {
            let server = fota_server::start(config, Clock::System)
                .await
                .expect("starts");
            started.send(server.addr).expect("the test waits");
            // An error is the drop of the other end, which is the order to die.
            let _ = killed.await;
        });
    });
    (address.await.expect("it starts"), kill, thread)
}

pub fn image(version: &str) -> Vec<u8> {
    build(&Spec::new(version).image_bytes(IMAGE_BYTES))
}

pub fn build(spec: &Spec) -> Vec<u8> {
    firmware::image(spec).expect("builds")
}

/// A life ten times as fast as real.
pub fn config(id: &str) -> DeviceConfig {
    DeviceConfig {
        speed: 10.0,
        poll_max: Duration::from_secs(1),
        report_every: Duration::from_millis(500),
        retry: Duration::from_secs(1),
        ..DeviceConfig::new(id.parse().expect("an id"))
    }
}

/// A device on 1.0.5.
pub fn device(url: &str, config: DeviceConfig, link: LiveLink, rollback: bool) -> SimDevice {
    let (console, _) = Console::kept();
    device_saying(url, config, link, rollback, console)
}

pub fn device_saying(
    url: &str,
    config: DeviceConfig,
    link: LiveLink,
    rollback: bool,
    console: Console,
) -> SimDevice {
    let factory = build(&Spec::new("1.0.5"));
    let flash = factory_flash(&factory).expect("fits");
    let client = DeviceClient::new(url, Some(config.id.to_string())).expect("a URL");
    SimDevice::new(
        config,
        client,
        Board::new(flash, Chip::Esp32, rollback),
        link,
        console,
    )
}

pub fn fast_link() -> LiveLink {
    SimLink::NONE.live(10.0)
}

/// Whether a line with these words was said.
pub fn said(lines: &Arc<Mutex<Vec<String>>>, words: &str) -> bool {
    lines
        .lock()
        .expect("lock")
        .iter()
        .any(|line| line.contains(words))
}
