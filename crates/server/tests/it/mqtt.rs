//! What is published over MQTT, to a broker that is only as much of one as this needs. Against a
//! real one, Mosquitto: `cargo xtask ci --only mqtt`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use fota_server::notify::{
    home_assistant::Topics,
    mqtt::{
        Settings,
        connection::Broker as Address,
        packet::{self, Publish},
    },
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::support::*;

/// What a broker has seen and what it says by itself.
#[derive(Default)]
struct Seen {
    /// Messages in their order: topic, payload, whether retained.
    messages: Vec<(String, String, bool)>,
    retained: BTreeMap<String, String>,
    subscribed: Vec<String>,
    connections: usize,
    /// What is sent to whoever subscribes to a topic with this end.
    says: Vec<(&'static str, Vec<u8>)>,
    farewells: usize,
}

/// A broker of one topic tree, which stops when this value goes out of scope.
struct Broker {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Broker {
    async fn start(says: Vec<(&'static str, Vec<u8>)>) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), says).await
    }

    async fn start_at(address: SocketAddr, says: Vec<(&'static str, Vec<u8>)>) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Seen {
            says,
            ..Seen::default()
        }));
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            // The connections end with the broker.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            seen,
            task,
        }
    }

    fn look<T>(&self, at: impl Fn(&Seen) -> T) -> T {
        at(&self.seen.lock().expect("whole"))
    }

    async fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        for _ in 0..600 {
            if self.look(&holds) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        let retained = self.look(|seen| format!("{:#?}", seen.retained));
        panic!("{what} did not come about: {retained}");
    }

    fn json(&self, topic: &str) -> Value {
        let text = self.look(|seen| seen.retained.get(topic).cloned());
        let text = text.unwrap_or_else(|| panic!("nothing at {topic}"));
        serde_json::from_str(&text).expect("JSON")
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    let mut unread = Vec::new();
    loop {
        while let Some((first, body)) = next(&mut unread) {
            let answer = answer(first, &body, &mut seen.lock().expect("whole"));
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
        match stream.read_buf(&mut unread).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// The first whole packet.
fn next(unread: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (mut length, mut at) = (0, 1);
    loop {
        let byte = *unread.get(at)?;
        length |= usize::from(byte & 0x7F) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (unread.len() >= at + length).then(|| {
        let packet: Vec<u8> = unread.drain(..at + length).collect();
        (packet[0], packet[at..].to_vec())
    })
}

fn answer(first: u8, body: &[u8], seen: &mut Seen) -> Vec<u8> {
    match first >> 4 {
        1 => {
            seen.connections += 1;
            vec![0x20, 2, 0, 0]
        }
        3 => {
            let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
            let (topic, rest) = (text(&body[2..2 + length]), &body[2 + length..]);
            let (payload, retain) = (text(&rest[2..]), first & 1 == 1);
            match (retain, payload.is_empty()) {
                (true, true) => drop(seen.retained.remove(&topic)),
                (true, false) => drop(seen.retained.insert(topic.clone(), payload.clone())),
                (false, _) => {}
            }
            seen.messages.push((topic, payload, retain));
            vec![0x40, 2, rest[0], rest[1]]
        }
        // What this broker sent by itself has arrived.
        4 => Vec::new(),
        8 => {
            let topic = String::from_utf8_lossy(&body[4..body.len() - 1]).into_owned();
            let mut answer = vec![0x90, 3, body[0], body[1], 1];
            for (end, bytes) in &seen.says {
                if topic.ends_with(end) {
                    answer.extend(bytes);
                }
            }
            seen.subscribed.push(topic);
            answer
        }
        10 => vec![0xB0, 2, body[0], body[1]],
        12 => vec![0xD0, 0],
        14 => {
            seen.farewells += 1;
            Vec::new()
        }
        other => panic!("a packet of the kind {other}"),
    }
}

async fn server(address: SocketAddr, commands: bool) -> Server {
    let broker = Address::parse(&format!("mqtt://{address}"), None);
    let settings = Settings {
        broker: broker.expect("an address"),
        topics: Topics {
            prefix: "fota".to_owned(),
            discovery: Some("homeassistant".to_owned()),
            commands,
        },
    };
    Server::start_with(|config| config.mqtt = Some(settings)).await
}

const UPDATE: &str = "fota/devices/ESP32-001/update";
const STATE: &str = "fota/devices/ESP32-001/state";
const CONFIG: &str = "homeassistant/update/fota_ESP32-001/firmware/config";

#[tokio::test]
async fn an_update_is_told_from_its_offer_to_its_end() {
    let broker = Broker::start(Vec::new()).await;
    let server = server(broker.address, false).await;
    let online = |seen: &Seen| {
        seen.retained
            .get("fota/status")
            .is_some_and(|is| is == "online")
    };
    broker.until("the server is there", online).await;
    let mut story = Story::begin(&server).await;
    broker
        .until("the device", |seen| seen.retained.contains_key(STATE))
        .await;
    let has = |topic: &'static str, text: &'static str| {
        move |seen: &Seen| seen.retained.get(topic).is_some_and(|is| is.contains(text))
    };
    broker
        .until(
            "its newest release",
            has(UPDATE, r#""latest_version":"1.0.6""#),
        )
        .await;
    let update = broker.json(UPDATE);
    assert_eq!(update["installed_version"], "1.0.5");
    assert_eq!(
        (&update["in_progress"], &update["title"]),
        (&json!(false), &json!(PROJECT))
    );
    let config = broker.json(CONFIG);
    assert_eq!(config["state_topic"], UPDATE);
    assert_eq!(config["command_topic"], Value::Null, "nobody may command");
    let order = story.device.check_in(&server).await.install();
    let half = story.new.bytes.len() as u32 / 2;
    let phase = fota_proto::checkin::Phase::Downloading;
    story.device.reports(&server, order, phase, half).await;
    broker
        .until("half of it", has(UPDATE, r#""update_percentage":5"#))
        .await;
    assert_eq!(broker.json(UPDATE)["in_progress"], true);
    story.device.boots(&story.new, true);
    story.device.check_in(&server).await;
    broker
        .until("the end", has(STATE, r#""state":"succeeded""#))
        .await;
    broker
        .until("its version", has(UPDATE, r#""installed_version":"1.0.6""#))
        .await;
    assert_eq!(broker.json(UPDATE)["update_percentage"], Value::Null);
    let events = broker.look(|seen| {
        let events = seen
            .messages
            .iter()
            .filter(|(topic, ..)| topic.starts_with("fota/events/"));
        events
            .map(|(topic, _, retain)| (topic.clone(), *retain))
            .collect::<Vec<_>>()
    });
    assert!(
        events.contains(&("fota/events/attempt.succeeded".to_owned(), false)),
        "{events:?}"
    );
    server.running.shutdown().await;
    broker.until("a farewell", |seen| seen.farewells == 1).await;
    assert_eq!(
        broker.look(|seen| seen.retained["fota/status"].clone()),
        "offline"
    );
}

#[tokio::test]
async fn what_a_broker_holds_of_a_device_that_is_gone_is_taken_back() {
    let held = Publish {
        topic: "fota/devices/gone/state",
        payload: b"{}",
        retain: true,
    };
    let broker = Broker::start(vec![("/state", packet::publish(&held, 9))]).await;
    let server = server(broker.address, false).await;
    Story::begin(&server).await;
    broker
        .until("the device", |seen| seen.retained.contains_key(STATE))
        .await;
    let back = |seen: &Seen| {
        let back = seen.messages.iter().filter(|(topic, payload, retain)| {
            *retain && payload.is_empty() && topic.contains("gone")
        });
        back.count() == 5
    };
    broker.until("all five topics taken back", back).await;
}

#[tokio::test]
async fn who_may_publish_may_update_only_where_that_is_allowed() {
    let command = |id: &str, payload: &[u8], retain| {
        let topic = format!("fota/devices/{id}/install");
        let topic = topic.as_str();
        packet::publish(
            &Publish {
                topic,
                payload,
                retain,
            },
            7,
        )
    };
    let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
    for (commands, payload, retain, wanted) in [
        (true, &b"install"[..], false, 1),
        (true, b"install", true, 0),
        (true, b"reboot", false, 0),
        (false, b"install", false, 0),
    ] {
        // Said to whoever listens, wherever it may.
        let says = vec![
            ("/state", command("ESP32-001", b"install", false)),
            ("/install", command("nobody", payload, retain)),
            ("/install", command("ESP32-001", payload, retain)),
            ("/install", command("ESP32-001", payload, retain)),
        ];
        let address: SocketAddr = {
            let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            free.local_addr().expect("bound")
        };
        let server = server(address, commands).await;
        server.release(&old).await;
        server.release(&new).await;
        TestDevice::running("ESP32-001", &old)
            .check_in(&server)
            .await;
        let broker = Broker::start_at(address, says).await;
        broker
            .until("the device", |seen| seen.retained.contains_key(STATE))
            .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let page: Value = server.get("/api/v1/rollouts").await.value(StatusCode::OK);
        let rollouts = page["items"].as_array().expect("items");
        assert_eq!(rollouts.len(), wanted, "{commands} {retain}: {page}");
        let subscribed = broker.look(|seen| seen.subscribed.join(" "));
        assert_eq!(subscribed.contains("/install"), commands, "{subscribed}");
        if wanted == 0 {
            continue;
        }
        assert_eq!(rollouts[0]["to"], json!(["ESP32-001"]));
        let audit = server.audit().await;
        let entry = audit.iter().find(|entry| entry.action == "rollout.started");
        assert_eq!(entry.expect("an entry").actor, "mqtt");
        assert_eq!(broker.json(CONFIG)["payload_install"], "install");
    }
}

#[tokio::test]
async fn a_broker_that_is_away_holds_up_nobody_and_is_told_everything_when_it_is_back() {
    let broker = Broker::start(Vec::new()).await;
    let address = broker.address;
    let server = server(address, false).await;
    let mut story = Story::begin(&server).await;
    let started = |seen: &Seen| {
        seen.messages
            .iter()
            .filter(|(topic, ..)| topic == "fota/events/rollout.started")
            .count()
    };
    broker.until("the start", |seen| started(seen) == 1).await;
    broker
        .until("the device", |seen| seen.retained.contains_key(STATE))
        .await;
    drop(broker);
    let began = tokio::time::Instant::now();
    story.device.updates_to(&server, &story.new).await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "the fleet waits for the broker"
    );
    // A new one, with nothing in it.
    let broker = Broker::start_at(address, Vec::new()).await;
    let succeeded = |seen: &Seen| {
        let has = |topic: &str| seen.messages.iter().any(|(is, ..)| is == topic);
        has("fota/events/attempt.succeeded")
            && seen.retained.contains_key(CONFIG)
            && seen
                .retained
                .get(STATE)
                .is_some_and(|is| is.contains("succeeded"))
    };
    broker.until("what was missed", succeeded).await;
    assert_eq!(
        broker.look(started),
        0,
        "what had arrived does not come again"
    );
}

#[tokio::test]
async fn an_update_is_told_of_only_where_the_device_would_take_it_and_no_rollout_was_stopped() {
    let broker = Broker::start(Vec::new()).await;
    let server = server(broker.address, false).await;
    let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
    server.release(&old).await;
    server.release(&new).await;
    let mut device = TestDevice::running("ESP32-001", &old);
    device.check_in(&server).await;
    // Another follows a root, and nobody has signed 1.0.6.
    let mut strict = TestDevice::running("ESP32-002", &old);
    strict.root = Some(1);
    strict.check_in(&server).await;
    let says = |id: &str, version: &str| {
        let topic = format!("fota/devices/{id}/update");
        let wanted = format!(r#""latest_version":"{version}""#);
        move |seen: &Seen| {
            seen.retained
                .get(&topic)
                .is_some_and(|is| is.contains(&wanted))
        }
    };
    broker.until("the newest", says("ESP32-001", "1.0.6")).await;
    broker
        .until("nothing newer", says("ESP32-002", "1.0.5"))
        .await;
    let request = json!({"release": "1.0.6", "to": ["all"]});
    let rollout = server.rollout(request).await;
    let path = |verb: &str| format!("/api/v1/rollouts/r-{}/{verb}", rollout.id);
    let reason = json!({"reason": "it is bad"});
    server.post(&path("pause"), reason).await;
    broker
        .until("nothing while it is stopped", says("ESP32-001", "1.0.5"))
        .await;
    server.post(&path("resume"), json!({})).await;
    broker
        .until("the newest once it goes on", says("ESP32-001", "1.0.6"))
        .await;
}
