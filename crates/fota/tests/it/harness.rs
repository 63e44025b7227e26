//! A server in a folder of its own, devices against it, and `fota` run beside it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use fota_client::DeviceClient;
use fota_proto::{
    FailureCode, Sha256,
    checkin::{self, Answer, CheckIn, End, Outcome, PatchProfile, Phase, Progress, Running},
    limits::CHECK_IN_BYTES_MAX,
};
use fota_sim::{
    console::Console,
    device::SimTrust,
    firmware::{self, Behaviour, Spec},
    fleet::{Fleet, FleetConfig, FleetIdentity, Protocol},
    link::SimLink,
};
use serde_json::Value;

/// How long anything may take here; only a hang takes this long.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How much faster than real the devices live.
const SPEED: f64 = 50.0;
const IMAGE_BYTES: usize = 128 * 1024;
/// Of a fleet of many: their speed, and the length of their images.
const SPEED_OF_MANY: f64 = 1.0;
pub const SMALL_IMAGE_BYTES: usize = 24 * 1024;

/// A folder with nothing of the machine's own settings in it.
pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
        std::fs::write(&path, bytes).expect("written");
        path
    }

    /// The same, as small as one can be.
    pub fn small_firmware(&self, version: &str, behaviour: Behaviour) -> String {
        let spec = Spec::new(version).behaviour(behaviour);
        let image = firmware::image(&spec.image_bytes(SMALL_IMAGE_BYTES)).expect("builds");
        let name = format!("app-{version}.bin");
        self.write(&name, &image);
        name
    }

    /// Writes the image of a firmware and gives its name.
    pub fn firmware(&self, version: &str, behaviour: Behaviour) -> String {
        let name = format!("app-{version}.bin");
        self.write(&name, &image(version, behaviour));
        name
    }

    /// The program in this folder, without a terminal.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fota"));
        command
            .args(args)
            .current_dir(self.path())
            .stdin(Stdio::null());
        for (name, value) in self.environment() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// What the program must not take from whoever runs the tests.
    pub fn environment(&self) -> Vec<(&'static str, Option<String>)> {
        let here = self.path().display().to_string();
        let unset = [
            "FOTA_SERVER",
            "FOTA_TOKEN",
            "FOTA_CA",
            "FOTA_JSON",
            "FOTA_KEYS",
            "FOTA_KEY_PASSPHRASE",
            "FOTA_LEGACY_PSK",
            "FOTA_ENROLMENT_KEY",
            "CI",
            "NO_COLOR",
            "CLICOLOR_FORCE",
            "RUST_LOG",
        ];
        let mut all: Vec<_> = unset.into_iter().map(|name| (name, None)).collect();
        all.push(("HOME", Some(here.clone())));
        all.push(("XDG_CONFIG_HOME", Some(format!("{here}/config"))));
        all
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().expect("the program starts"))
    }

    /// Runs the program with something on its stdin.
    pub fn run_fed(&self, args: &[&str], input: &str) -> Ran {
        fed(self.command(args), input)
    }
}

fn fed(mut command: Command, input: &str) -> Ran {
    use std::io::Write;
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("taken");
    drop(stdin);
    Ran::of(child.wait_with_output().expect("it ends"))
}

/// What a run of the program left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// Checks the exit code and shows everything where it is another one.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "stdout:\n{}\nstderr:\n{}",
            self.out, self.err
        );
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.out.contains(text),
            "no {text:?} in stdout:\n{}\nstderr:\n{}",
            self.out,
            self.err
        );
        self
    }

    #[track_caller]
    pub fn complains(self, text: &str) -> Self {
        assert!(
            self.err.contains(text),
            "no {text:?} in stderr:\n{}",
            self.err
        );
        self
    }

    /// The only document, or the last of several.
    #[track_caller]
    pub fn json(&self) -> Value {
        let last = self
            .out
            .lines()
            .last()
            .unwrap_or_else(|| panic!("stderr:\n{}", self.err));
        serde_json::from_str(last).expect("JSON")
    }
}

/// `fota serve` as a process of its own.
pub struct Server {
    pub place: Place,
    child: Child,
    pub url: String,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(flags: &[&str]) -> Self {
        let place = Place::new();
        let (child, url) = launch(&place, "127.0.0.1:0", flags);
        Self { place, child, url }
    }

    /// Ends it as a power cut would: no handler runs.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Starts it again on the same data and the same port.
    pub fn restart(&mut self) {
        let address = self.url.trim_start_matches("http://").to_owned();
        (self.child, self.url) = launch(&self.place, &address, &[]);
    }

    /// Sends SIGTERM and gives the exit code.
    #[cfg(unix)]
    pub fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .expect("kill runs");
        assert!(sent.success());
        self.child.wait().expect("it ends").code()
    }

    #[cfg(unix)]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.place.command(args);
        command.env("FOTA_SERVER", &self.url);
        command
    }

    pub fn fota(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().expect("the program starts"))
    }

    /// Like [`Server::fota`], with something on its stdin.
    pub fn fota_fed(&self, args: &[&str], input: &str) -> Ran {
        fed(self.command(args), input)
    }

    pub fn token(&self) -> String {
        let path = self.place.path().join("fota-data/operator-token");
        std::fs::read_to_string(path)
            .expect("a token")
            .trim()
            .to_owned()
    }

    pub fn device(&self, id: &str) -> Value {
        self.fota(&["device", "show", id, "--json"]).exits(0).json()
    }

    /// Waits until `ready`, asking the server again and again.
    #[track_caller]
    pub fn until(&self, what: &str, ready: impl Fn(&Self) -> bool) {
        self.until_within(PATIENCE, what, ready);
    }

    #[track_caller]
    pub fn until_within(&self, patience: Duration, what: &str, ready: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !ready(self) {
            assert!(start.elapsed() < patience, "never happened: {what}");
            // Whoever waits longer asks less often: the question costs the server something.
            std::thread::sleep(patience / 600);
        }
    }

    #[track_caller]
    pub fn until_seen(&self, devices: usize) {
        self.until("every device is seen", |server| {
            let list = server.fota(&["status", "--json"]).exits(0).json();
            list["items"]
                .as_array()
                .is_some_and(|items| items.len() == devices)
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(place: &Place, listen: &str, flags: &[&str]) -> (Child, String) {
    let mut command = place.command(&["serve", "--json"]);
    if !flags.contains(&"--poll") {
        command.args(["--poll", "1"]);
    }
    if !flags.contains(&"--listen") {
        command.args(["--listen", listen]);
    }
    let mut child = command
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("piped");
    BufReader::new(stdout)
        .read_line(&mut line)
        .expect("the server says where it is");
    let said: Value = serde_json::from_str(&line).expect("JSON");
    let url = said["url"].as_str().expect("an address").to_owned();
    (child, url)
}

/// Simulated devices that live until this is dropped.
pub struct Devices {
    _fleet: Fleet,
    _runtime: Runtime,
}

/// A runtime for what runs beside a test; it does not wait for it at the end.
struct Runtime(Option<tokio::runtime::Runtime>);

impl Runtime {
    fn new() -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build();
        Self(Some(runtime.expect("a runtime")))
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.inner().spawn(work);
    }

    fn inner(&self) -> &tokio::runtime::Runtime {
        self.0.as_ref().expect("taken only when dropped")
    }
}

impl Devices {
    pub fn start(server: &Server, devices: u32) -> Self {
        Self::start_at(
            &server.url,
            devices,
            Spec::new("1.0.5").image_bytes(IMAGE_BYTES),
        )
    }

    pub fn start_at(url: &str, devices: u32, firmware: Spec) -> Self {
        Self::start_with(url, devices, firmware, SPEED)
    }

    /// As many as a process of the tests can have: small images, and they come every few seconds.
    pub fn many(server: &Server, devices: u32) -> Self {
        let firmware = Spec::new("1.0.5").image_bytes(SMALL_IMAGE_BYTES);
        Self::start_with(&server.url, devices, firmware, SPEED_OF_MANY)
    }

    fn start_with(url: &str, devices: u32, firmware: Spec, speed: f64) -> Self {
        let runtime = Runtime::new();
        let config = FleetConfig {
            ca: None,
            server: url.to_owned(),
            devices,
            prefix: "ESP32-".to_owned(),
            protocol: Protocol::Native,
            rollback: true,
            firmware,
            poll: Some(Duration::from_secs(10)),
            speed,
            link: SimLink::new("lan", 100_000_000, 2),
            identity: FleetIdentity::default(),
            trust: SimTrust::FirstUse,
            patches: Some(PatchProfile::Default),
            panics_on: None,
        };
        let inside = runtime.inner().enter();
        let fleet = Fleet::start(&config, &Console::silent()).expect("a fleet");
        drop(inside);
        Self {
            _fleet: fleet,
            _runtime: runtime,
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The image of a firmware for the simulated ESP32s.
pub fn image(version: &str, behaviour: Behaviour) -> Vec<u8> {
    let spec = Spec::new(version)
        .behaviour(behaviour)
        .image_bytes(IMAGE_BYTES);
    firmware::image(&spec).expect("builds")
}

/// What a [`Puppet`] is told to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Acts {
    /// How far it is with its order, if it has one.
    pub phase: Option<Phase>,
    /// The ELF digest of the image that it runs instead of its first, and whether on trial.
    pub runs: Option<(Sha256, Running)>,
    /// Whether its order fails.
    pub fails: bool,
}

/// A device that takes every order and is only what it is told to be.
pub struct Puppet {
    acts: Arc<Mutex<Acts>>,
    _runtime: Runtime,
}

impl Puppet {
    pub fn start(server: &Server, id: &'static str) -> Self {
        let acts = Arc::new(Mutex::new(Acts::default()));
        let client = DeviceClient::new(&server.url, None).expect("a URL");
        let runtime = Runtime::new();
        runtime.spawn(play(client, id, acts.clone()));
        Self {
            acts,
            _runtime: runtime,
        }
    }

    pub fn acts(&self, acts: Acts) {
        *self.acts.lock().expect("whole") = acts;
    }

    pub fn fail(&self) {
        self.acts(Acts {
            fails: true,
            ..Acts::default()
        });
    }
}

async fn play(client: DeviceClient, id: &'static str, acts: Arc<Mutex<Acts>>) {
    let mut ordered = None;
    loop {
        let now = *acts.lock().expect("whole");
        let outcome = ordered.filter(|_| now.fails).map(|order| Outcome {
            order,
            end: End::Failed,
            code: FailureCode::HashMismatch.number(),
            reset: None,
            detail: None,
        });
        let progress = ordered.zip(now.phase).map(|(order, phase)| Progress {
            order,
            phase,
            bytes: 4096,
        });
        let mut check_in = CheckIn {
            progress: progress.filter(|_| outcome.is_none()),
            ..check_in(id, outcome)
        };
        if let Some((elf, confirmed)) = now.runs {
            (check_in.running_elf, check_in.confirmed) = (elf, confirmed);
            check_in.rollback_slot = Some(1);
        }
        let mut buffer = [0; CHECK_IN_BYTES_MAX];
        let message = checkin::encode(&check_in, &mut buffer).expect("fits");
        if let Ok(answer) = client.check_in(message).await {
            let answer: Answer = minicbor::decode(&answer).expect("an answer");
            ordered = answer.order.map(|order| order.id);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a device says that has nothing to do.
pub fn check_in<'a>(id: &'a str, outcome: Option<Outcome<'a>>) -> CheckIn<'a> {
    CheckIn {
        outcome,
        ..CheckIn::idle(id, "acme", "1.0.5", Sha256([9; 32]))
    }
}
