//! What is published over MQTT, against a real broker: Mosquitto from Debian. A fleet lives through
//! an update, the broker through a restart that forgets everything, and the server through a kill;
//! `mosquitto_sub` sees what a Home Assistant would. Then the same over TLS, and not with a broker
//! whose certificate comes from somebody else.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use fota_image::{app::Chip, build::ImageBuilder};
use serde_json::Value;

use crate::{
    process::{Background, cargo, command, output, run as run_command, target},
    tools,
};

/// How long anything may take; only what does not come takes this long.
const WAIT_SECONDS_MAX: u32 = 90;
/// With a letter that must be written as `%40` in a URL.
const PASSWORD: &str = "p@ss";
const DEVICES: [&str; 3] = ["ESP32-001", "ESP32-002", "ESP32-003"];

/// Runs the scenario.
pub fn run() -> Result<()> {
    tools::need("mosquitto", "mosquitto")?;
    tools::need("mosquitto_sub", "mosquitto-clients")?;
    run_command(&mut cargo("build --release --locked"))?;
    let place = Place::new()?;
    let broker = place.broker()?;
    let subscriber = place.subscriber("first")?;
    let mut server = place.server()?;
    let _fleet = place.fleet()?;

    place.until("first", "fota/status", |text| text == "online")?;
    for id in DEVICES {
        discovered(&place, "first", id)?;
        installed(&place, "first", id, "1.0.5")?;
    }
    let update = ["update", "app.bin", "--to", DEVICES[0], "--yes"];
    run_command(&mut place.fota(&update))?;
    installed(&place, "first", DEVICES[0], "1.0.6")?;
    let topic = format!("fota/devices/{}/update", DEVICES[0]);
    let seen = place.messages("first", &topic)?;
    let is_seen = |text: &str| seen.iter().any(|payload| payload.contains(text));
    ensure!(
        is_seen(r#""in_progress":true"#),
        "the update was not seen under way"
    );
    ensure!(
        !place
            .messages("first", "fota/events/attempt.succeeded")?
            .is_empty(),
        "no event"
    );

    println!("--- the broker forgets everything");
    drop((broker, subscriber));
    let _broker = place.broker()?;
    let _subscriber = place.subscriber("second")?;
    place.until("second", "fota/status", |text| text == "online")?;
    for (id, version) in DEVICES.iter().zip(["1.0.6", "1.0.5", "1.0.5"]) {
        discovered(&place, "second", id)?;
        installed(&place, "second", id, version)?;
    }

    println!("--- somebody presses the button");
    let topic = format!("fota/devices/{}/install", DEVICES[1]);
    run_command(
        place
            .client("mosquitto_pub")
            .args(["-t", &topic, "-m", "install"]),
    )?;
    installed(&place, "second", DEVICES[1], "1.0.6")?;
    let audit = output(&mut place.fota(&["audit", "list"]))?;
    let is_told = |line: &str| line.contains("mqtt") && line.contains("rollout.started");
    ensure!(
        audit.lines().any(is_told),
        "the audit log does not name mqtt:\n{audit}"
    );

    println!("--- the server is killed");
    server.child.kill().context("the server")?;
    server.child.wait()?;
    place.until("second", "fota/status", |text| text == "offline")?;
    over_tls(&place)?;
    println!(
        "mqtt: {} messages seen",
        place.seen("second")?.lines().count()
    );
    Ok(())
}

/// With the right authority the server comes to the broker's TLS listener, with another it does not.
fn over_tls(place: &Place) -> Result<()> {
    println!("--- over TLS, with another authority");
    let online = |text: &str| text == "online";
    {
        let _server = place.server_over_tls("other.pem")?;
        place.logged("server-other.pem", "certificate")?;
        let last = place.messages("second", "fota/status")?.pop();
        ensure!(
            last.as_deref() == Some("offline"),
            "it came to a broker that is not the one it was told of"
        );
    }
    println!("--- over TLS, with its own");
    let _server = place.server_over_tls("broker.pem")?;
    place.until("second", "fota/status", online)?;
    installed(place, "second", DEVICES[1], "1.0.6")
}

/// A certificate of its own for `localhost`, and its key.
fn certificate(dir: &Path, name: &str) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    fs::write(dir.join(format!("{name}.pem")), made.cert.pem())?;
    let key = made.signing_key.serialize_pem();
    fs::write(dir.join(format!("{name}.key")), key)?;
    Ok(())
}

/// The entity says where its state is, and how to install.
fn discovered(place: &Place, log: &str, id: &str) -> Result<()> {
    let topic = format!("homeassistant/update/fota_{id}/firmware/config");
    let config = place.until(log, &topic, |text| !text.is_empty())?;
    let config: Value = serde_json::from_str(&config)?;
    let of = |what: &str| format!("fota/devices/{id}/{what}");
    for (key, wanted) in [
        ("state_topic", of("update")),
        ("command_topic", of("install")),
        ("payload_install", "install".to_owned()),
        ("availability_topic", "fota/status".to_owned()),
        ("device_class", "firmware".to_owned()),
    ] {
        ensure!(config[key] == wanted, "{topic}: {key} is {}", config[key]);
    }
    Ok(())
}

fn installed(place: &Place, log: &str, id: &str, version: &str) -> Result<()> {
    let topic = format!("fota/devices/{id}/update");
    let wanted = format!(r#""installed_version":"{version}""#);
    let text = place.until(log, &topic, |text| {
        text.contains(&wanted) && text.contains(r#""in_progress":false"#)
    })?;
    let known = [
        "installed_version",
        "latest_version",
        "title",
        "release_summary",
        "in_progress",
        "update_percentage",
    ];
    let update: Value = serde_json::from_str(&text)?;
    let keys = update.as_object().context("an object")?.keys();
    // Home Assistant refuses a state with any other key.
    let unknown: Vec<_> = keys.filter(|key| !known.contains(&key.as_str())).collect();
    ensure!(unknown.is_empty(), "{topic} has {unknown:?}");
    Ok(())
}

/// A scratch folder and the ports of this run.
struct Place {
    dir: PathBuf,
    broker: u16,
    broker_tls: u16,
    server: u16,
}

impl Place {
    fn new() -> Result<Self> {
        let dir = target().join("mqtt");
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let image = ImageBuilder::new(Chip::Esp32)
            .version("1.0.6")
            .project("acme");
        let image = image.size(200 * 1024).build().context("app.bin")?;
        fs::write(dir.join("app.bin"), image)?;
        // They are held until all are known, so that they differ.
        let free = [
            TcpListener::bind("127.0.0.1:0")?,
            TcpListener::bind("127.0.0.1:0")?,
            TcpListener::bind("127.0.0.1:0")?,
        ];
        let [broker, broker_tls, server] = free
            .each_ref()
            .map(|free| free.local_addr().map(|at| at.port()));
        let place = Self {
            dir,
            broker: broker?,
            broker_tls: broker_tls?,
            server: server?,
        };
        certificate(&place.dir, "broker")?;
        certificate(&place.dir, "other")?;
        let mut passwd = command("mosquitto_passwd");
        passwd.current_dir(&place.dir);
        run_command(passwd.args(["-c", "-b", "passwords", "fota", PASSWORD]))?;
        let config = format!(
            "listener {} 127.0.0.1\nuser root\nallow_anonymous false\npersistence false\n\
             password_file {dir}/passwords\nlistener {} 127.0.0.1\n\
             certfile {dir}/broker.pem\nkeyfile {dir}/broker.key\n",
            place.broker,
            place.broker_tls,
            dir = place.dir.display()
        );
        fs::write(place.dir.join("mosquitto.conf"), config)?;
        Ok(place)
    }

    fn here(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = command(program);
        command
            .current_dir(&self.dir)
            .env("HOME", &self.dir)
            .env("XDG_CONFIG_HOME", self.dir.join("config"));
        command
    }

    fn log(&self, command: &mut Command, name: &str) -> Result<Background> {
        let file = File::create(self.dir.join(format!("{name}.log")))?;
        Background::start_group(command.stdout(file.try_clone()?).stderr(file))
    }

    fn broker(&self) -> Result<Background> {
        let mut mosquitto = self.here("mosquitto");
        let running = self.log(mosquitto.args(["-c", "mosquitto.conf"]), "mosquitto")?;
        for _ in 0..WAIT_SECONDS_MAX * 10 {
            if std::net::TcpStream::connect(("127.0.0.1", self.broker)).is_ok() {
                return Ok(running);
            }
            thread::sleep(Duration::from_millis(100));
        }
        bail!("mosquitto does not listen: see {}", self.dir.display())
    }

    /// A program of Mosquitto's that knows where the broker is.
    fn client(&self, program: &str) -> Command {
        let mut client = self.here(program);
        let port = self.broker.to_string();
        client.args(["-h", "127.0.0.1", "-p", &port, "-u", "fota", "-P", PASSWORD]);
        client
    }

    fn subscriber(&self, name: &str) -> Result<Background> {
        let mut subscriber = self.client("mosquitto_sub");
        self.log(subscriber.args(["-t", "#", "-F", "%t %p"]), name)
    }

    fn fota(&self, args: &[&str]) -> Command {
        let mut fota = self.here(target().join("release/fota"));
        fota.args(args);
        fota.env("FOTA_SERVER", format!("http://127.0.0.1:{}", self.server));
        fota
    }

    fn server(&self) -> Result<Background> {
        let listen = format!("127.0.0.1:{}", self.server);
        let url = format!(
            "mqtt://fota:{}@127.0.0.1:{}",
            PASSWORD.replace('@', "%40"),
            self.broker
        );
        let mut serve = self.fota(&["serve", "--listen", &listen, "--poll", "1"]);
        serve.args(["--mqtt-commands"]).env("FOTA_MQTT", url);
        self.log(&mut serve, "server")
    }

    fn server_over_tls(&self, ca: &str) -> Result<Background> {
        let listen = format!("127.0.0.1:{}", self.server);
        let password = PASSWORD.replace('@', "%40");
        let url = format!("mqtts://fota:{password}@localhost:{}", self.broker_tls);
        let mut serve = self.fota(&["serve", "--listen", &listen, "--poll", "1"]);
        serve.args(["--mqtt-ca", ca]).env("FOTA_MQTT", url);
        self.log(&mut serve, &format!("server-{ca}"))
    }

    /// Waits until a log has this word.
    fn logged(&self, log: &str, word: &str) -> Result<()> {
        for _ in 0..WAIT_SECONDS_MAX * 10 {
            if self.seen(log)?.contains(word) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
        bail!("no {word:?} in {log}.log in {}", self.dir.display())
    }

    fn fleet(&self) -> Result<Background> {
        let number = DEVICES.len().to_string();
        let mut sim = self.fota(&["sim", "--devices", &number, "--speed", "2"]);
        self.log(&mut sim, "sim")
    }

    fn seen(&self, log: &str) -> Result<String> {
        Ok(fs::read_to_string(self.dir.join(format!("{log}.log")))?)
    }

    /// The payloads of a topic, oldest first.
    fn messages(&self, log: &str, topic: &str) -> Result<Vec<String>> {
        let seen = self.seen(log)?;
        let of = seen.lines().filter_map(|line| line.split_once(' '));
        let of = of.filter(|(is, _)| *is == topic);
        Ok(of.map(|(_, payload)| payload.to_owned()).collect())
    }

    /// The newest payload of a topic, once it holds.
    fn until(&self, log: &str, topic: &str, holds: impl Fn(&str) -> bool) -> Result<String> {
        for _ in 0..WAIT_SECONDS_MAX * 10 {
            let last = self.messages(log, topic)?.pop();
            if let Some(payload) = last.filter(|payload| holds(payload)) {
                println!("{topic}: {}", payload.chars().take(160).collect::<String>());
                return Ok(payload);
            }
            thread::sleep(Duration::from_millis(100));
        }
        let seen = self.messages(log, topic)?;
        bail!(
            "{topic} did not become so in {WAIT_SECONDS_MAX} s, it was {seen:?}; logs in {}",
            self.dir.display()
        )
    }
}
