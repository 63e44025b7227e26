//! Publishes the fleet and its history to an MQTT broker, and takes the order to install from there
//! where that is allowed.
//!
//! Retained topics are a picture of what is stored: after each connection all of them are published
//! anew, and what a broker still holds of devices that are gone is taken back. Events are published
//! from a place in the history that moves with the broker's acknowledgements, as long as this
//! process lives; whoever must miss none uses a webhook. A broker that is away holds up nothing:
//! there is no queue, only that place, and the set of devices that have changed.

pub mod connection;
pub mod packet;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use fota_proto::{DeviceId, manager::Event};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use self::{
    connection::{Broker, Connection},
    packet::{Connect, Incoming, Publish},
};
use super::{
    home_assistant::{INSTALL, OFFLINE, ONLINE, Retained, Topics},
    picture,
};
use crate::{
    AppState,
    auth::By,
    hub::News,
    random,
    store::{DeviceFilter, EventFilter, StoreError},
};

/// Waits between two tries to connect: doubled, with jitter.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A connection that held so long was a good one: the next wait is short again.
const STABLE: Duration = Duration::from_secs(60);
/// Within this the broker must hear something of us; it is pinged at half of it.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// How long a broker may take to answer a ping.
const PONG_MAX: Duration = Duration::from_secs(15);
/// Messages that are not acknowledged yet.
const UNACKNOWLEDGED_MAX: usize = 50;
/// How often the history is looked at for what other nodes wrote.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often all devices are looked at: presence changes without an event.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// Devices and events that are read at once.
const BATCH: i64 = 100;
/// A retained message that comes later than this after the last one is the last.
const RETAINED_SILENCE: Duration = Duration::from_millis(500);
/// How long retained messages are taken at all.
const RETAINED_MAX: Duration = Duration::from_secs(20);
/// How long the farewell may take.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// Where and how to publish.
#[derive(Clone, Debug)]
pub struct Settings {
    pub broker: Broker,
    pub topics: Topics,
}

/// Publishes until the server ends.
pub async fn run(state: AppState, settings: Settings) {
    let mut closing = state.closing.clone();
    let broker = settings.broker.name();
    state.health.tell_mqtt(Some("not connected yet"));
    let mut publisher = Publisher::new(state, settings);
    let mut wait = RETRY_MIN;
    let mut told = None;
    loop {
        let began = Instant::now();
        let why = match publisher.session().await {
            Ok(()) => return,
            Err(why) => why,
        };
        publisher.state.health.tell_mqtt(Some(&why));
        if began.elapsed() >= STABLE {
            (wait, told) = (RETRY_MIN, None);
        }
        // Once for each reason, not each minute of a broker's night.
        if told.as_ref() != Some(&why) {
            tracing::warn!(%broker, reason = %why, "mqtt: {broker} is away; trying again");
            told = Some(why);
        }
        let jitter = random::bytes().map_or(0, u32::from_le_bytes) % 1000;
        let pause = wait / 2 + wait.mul_f64(f64::from(jitter) / 2000.0);
        tokio::select! {
            () = ended(&mut closing) => return,
            () = sleep(pause) => wait = (wait * 2).min(RETRY_MAX),
        }
    }
}

/// What was last published of a device.
struct Sent {
    /// Of what a look at all devices sees.
    glance: u64,
    /// Of each message.
    messages: Vec<u64>,
}

/// A message on its way, and the event that is told when it has arrived.
struct Outgoing {
    message: Retained,
    retain: bool,
    event: Option<i64>,
}

/// A look at all devices.
#[derive(Default)]
struct Sweep {
    after: String,
    seen: BTreeSet<String>,
}

struct Publisher {
    state: AppState,
    settings: Settings,
    client_id: String,
    news: broadcast::Receiver<News>,
    /// The last event that the broker has.
    arrived: Option<i64>,
    /// The last event that was put into the outbox.
    told: i64,
    /// Whether the history may have grown.
    look: bool,
    /// Devices of which something may have changed.
    changed: BTreeSet<String>,
    sent: HashMap<String, Sent>,
    sweep: Option<Sweep>,
    swept_at: Instant,
    outbox: VecDeque<Outgoing>,
    unacknowledged: VecDeque<(u16, Option<i64>)>,
    last_id: u16,
    /// When a ping was sent that is not answered yet.
    pinged_at: Option<Instant>,
    heard_at: Instant,
}

impl Publisher {
    fn new(state: AppState, settings: Settings) -> Self {
        let number = random::bytes().map_or(0, u64::from_le_bytes);
        Self {
            news: state.hub.listen(),
            state,
            settings,
            // At most 23 letters and digits: what every broker takes.
            client_id: format!("fota{number:016x}"),
            arrived: None,
            told: 0,
            look: true,
            changed: BTreeSet::new(),
            sent: HashMap::new(),
            sweep: None,
            swept_at: Instant::now(),
            outbox: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            last_id: 0,
            pinged_at: None,
            heard_at: Instant::now(),
        }
    }

    /// One connection, from its beginning to its end; the error is why it was lost.
    async fn session(&mut self) -> Result<(), String> {
        let place = match self.arrived {
            Some(place) => place,
            None => self.last_event().await.map_err(|error| error.to_string())?,
        };
        self.arrived = Some(place);
        let mut connection = self.open().await?;
        self.begin(place);
        self.state.health.tell_mqtt(None);
        let name = self.settings.broker.name();
        tracing::info!(broker = %name, "mqtt: connected to {name}");
        self.find_leftovers(&mut connection).await?;
        if self.settings.topics.commands {
            let topic = self.settings.topics.device("+", "install");
            connection.send(&packet::subscribe(2, &topic)).await?;
        }
        self.retain(self.settings.topics.status(), ONLINE);
        self.serve(&mut connection).await
    }

    async fn last_event(&self) -> Result<i64, StoreError> {
        self.state.store.read().await?.last_event_id().await
    }

    async fn open(&self) -> Result<Connection, String> {
        let status = self.settings.topics.status();
        let hello = Connect {
            client_id: &self.client_id,
            user: None,
            password: None,
            keep_alive_s: KEEP_ALIVE.as_secs() as u16,
            will: Publish {
                topic: &status,
                payload: OFFLINE.as_bytes(),
                retain: true,
            },
        };
        let mut closing = self.state.closing.clone();
        tokio::select! {
            () = ended(&mut closing) => Err("the server ends".to_owned()),
            opened = Connection::open(&self.settings.broker, &hello) => opened,
        }
    }

    /// Forgets what an earlier connection knew: the broker may have been emptied meanwhile.
    fn begin(&mut self, place: i64) {
        self.told = place;
        self.look = true;
        self.changed.clear();
        self.sent.clear();
        self.outbox.clear();
        self.unacknowledged.clear();
        self.sweep = Some(Sweep::default());
        self.pinged_at = None;
        self.heard_at = Instant::now();
    }

    /// Notes of which devices the broker still holds something: the sweep takes back what is of
    /// none any more, also where they were deleted while this process did not run.
    async fn find_leftovers(&mut self, connection: &mut Connection) -> Result<(), String> {
        let topic = self.settings.topics.device("+", "state");
        connection.send(&packet::subscribe(1, &topic)).await?;
        let until = Instant::now() + RETAINED_MAX;
        while Instant::now() < until {
            let Ok(packet) = timeout(RETAINED_SILENCE, connection.receive()).await else {
                break;
            };
            let Incoming::Publish {
                topic, acknowledge, ..
            } = packet?
            else {
                continue;
            };
            if let Some(id) = acknowledge {
                connection.send(&packet::acknowledge(id)).await?;
            }
            if let Some(id) = self.settings.topics.device_of(&topic, "state") {
                let nothing = Sent {
                    glance: 0,
                    messages: Vec::new(),
                };
                self.sent.insert(id.to_owned(), nothing);
            }
        }
        connection.send(&packet::unsubscribe(1, &topic)).await
    }

    async fn serve(&mut self, connection: &mut Connection) -> Result<(), String> {
        let mut closing = self.state.closing.clone();
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.send_some(connection).await?;
            let is_idle = self.outbox.is_empty();
            tokio::select! {
                () = ended(&mut closing) => break,
                packet = connection.receive() => self.take(connection, packet?).await?,
                _ = ticks.tick() => self.tick(connection).await?,
                news = self.news.recv(), if is_idle => self.hear(news)?,
            }
        }
        self.say_goodbye(connection).await;
        Ok(())
    }

    /// Sends what there is to send, as far as the broker keeps up.
    async fn send_some(&mut self, connection: &mut Connection) -> Result<(), String> {
        while self.unacknowledged.len() < UNACKNOWLEDGED_MAX {
            if self.outbox.is_empty()
                && let Err(error) = self.fill().await
            {
                tracing::error!(%error, "mqtt waits for the database");
                return Ok(());
            }
            let Some(next) = self.outbox.pop_front() else {
                return Ok(());
            };
            // 0 is no id (2.3.1).
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let message = Publish {
                topic: &next.message.topic,
                payload: next.message.payload.as_bytes(),
                retain: next.retain,
            };
            connection
                .send(&packet::publish(&message, self.last_id))
                .await?;
            self.unacknowledged.push_back((self.last_id, next.event));
        }
        Ok(())
    }

    /// Puts the next things to tell into the outbox, where there are any: devices that have
    /// changed, then events, then what a look at all devices finds.
    async fn fill(&mut self) -> Result<(), StoreError> {
        loop {
            if !self.changed.is_empty() {
                self.fill_devices().await?;
            } else if self.look {
                self.fill_events().await?;
            } else if self.sweep.is_some() {
                self.sweep_some().await?;
            } else {
                return Ok(());
            }
            if !self.outbox.is_empty() {
                return Ok(());
            }
        }
    }

    async fn fill_devices(&mut self) -> Result<(), StoreError> {
        let mut tx = self.state.store.read().await?;
        let plan = self.state.fleet.plan(&mut tx).await?;
        for _ in 0..BATCH {
            let Some(id) = self.changed.first().cloned() else {
                break;
            };
            let Some(device) = tx.device(&id).await? else {
                self.changed.remove(&id);
                continue;
            };
            let picture = picture::of(&self.state, &mut tx, &plan, &device).await?;
            self.changed.remove(&id);
            let glance = picture::glance(&self.state, &plan, &device);
            let messages = self.settings.topics.about(&picture);
            let prints: Vec<u64> = messages.iter().map(print).collect();
            let before = self.sent.get(&id).map_or(&[][..], |sent| &sent.messages);
            for (index, message) in messages.into_iter().enumerate() {
                if before.get(index) != prints.get(index) {
                    self.outbox.push_back(Outgoing {
                        message,
                        retain: true,
                        event: None,
                    });
                }
            }
            let messages = prints;
            self.sent.insert(id, Sent { glance, messages });
        }
        Ok(())
    }

    async fn fill_events(&mut self) -> Result<(), StoreError> {
        let filter = EventFilter {
            after: self.told,
            limit: BATCH,
            ..EventFilter::default()
        };
        let events = self.state.store.read().await?.events(&filter).await?;
        self.look = events.len() as i64 >= BATCH;
        for event in events {
            self.told = event.id;
            self.note(&event);
            let payload = serde_json::to_string(&event).unwrap_or_default();
            self.outbox.push_back(Outgoing {
                message: Retained {
                    topic: self.settings.topics.event(&event.kind),
                    payload,
                },
                retain: false,
                event: Some(event.id),
            });
        }
        Ok(())
    }

    /// What an event changes in the picture.
    fn note(&mut self, event: &Event) {
        match &event.device {
            Some(device) => {
                self.changed.insert(device.clone());
            }
            // A release that came or went is news for many.
            None if event.release.is_some() => {
                self.sweep.get_or_insert_default();
            }
            None => {}
        }
    }

    /// Looks at some more devices; at the end takes back what is of none.
    async fn sweep_some(&mut self) -> Result<(), StoreError> {
        let Some(mut sweep) = self.sweep.take() else {
            return Ok(());
        };
        let filter = DeviceFilter {
            after: sweep.after.clone(),
            limit: BATCH,
            ..DeviceFilter::default()
        };
        let read = async {
            let mut tx = self.state.store.read().await?;
            let plan = self.state.fleet.plan(&mut tx).await?;
            Ok::<_, StoreError>((tx.devices(&filter).await?, plan))
        };
        let (devices, plan) = match read.await {
            Ok(read) => read,
            Err(error) => {
                self.sweep = Some(sweep);
                return Err(error);
            }
        };
        for device in &devices {
            let glance = picture::glance(&self.state, &plan, device);
            if self
                .sent
                .get(&device.id)
                .is_none_or(|sent| sent.glance != glance)
            {
                self.changed.insert(device.id.clone());
            }
            sweep.seen.insert(device.id.clone());
        }
        if let Some(last) = devices.last().filter(|_| devices.len() as i64 >= BATCH) {
            sweep.after.clone_from(&last.id);
            self.sweep = Some(sweep);
            return Ok(());
        }
        self.swept_at = Instant::now();
        let gone: Vec<String> = self
            .sent
            .keys()
            .filter(|id| !sweep.seen.contains(*id))
            .cloned()
            .collect();
        for id in gone {
            self.sent.remove(&id);
            for message in self.settings.topics.nothing_about(&id) {
                self.retain(message.topic, &message.payload);
            }
        }
        Ok(())
    }

    fn retain(&mut self, topic: String, payload: &str) {
        let payload = payload.to_owned();
        self.outbox.push_back(Outgoing {
            message: Retained { topic, payload },
            retain: true,
            event: None,
        });
    }

    async fn take(&mut self, connection: &mut Connection, packet: Incoming) -> Result<(), String> {
        self.heard_at = Instant::now();
        match packet {
            Incoming::PubAck { id } => {
                let found = self.unacknowledged.iter().position(|(sent, _)| *sent == id);
                // Brokers acknowledge in order (4.6); what is before it has arrived too.
                for (_, event) in self.unacknowledged.drain(..found.map_or(0, |at| at + 1)) {
                    self.arrived = event.or(self.arrived);
                }
            }
            Incoming::Pong => self.pinged_at = None,
            Incoming::SubAck { codes } if codes.contains(&0x80) => {
                tracing::warn!("mqtt: the broker refuses a subscription: see its access list");
            }
            Incoming::Publish {
                topic,
                payload,
                retain,
                acknowledge,
            } => {
                if let Some(id) = acknowledge {
                    connection.send(&packet::acknowledge(id)).await?;
                }
                self.command(&topic, &payload, retain).await;
            }
            _ => {}
        }
        Ok(())
    }

    /// Somebody asks for an update of a device.
    async fn command(&self, topic: &str, payload: &[u8], is_retained: bool) {
        let topics = &self.settings.topics;
        let device = topics
            .device_of(topic, "install")
            .filter(|_| topics.commands);
        let device: Option<DeviceId> = device.and_then(|id| id.parse().ok());
        let Some(device) = device else {
            return;
        };
        // A retained one would come again with each connection, long after somebody asked.
        if is_retained || payload != INSTALL.as_bytes() {
            tracing::warn!(%device, "mqtt: {device}: a command that is retained or not {INSTALL:?}");
            return;
        }
        let by = By::nobody("mqtt", "", IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        if let Err(why) = picture::install(&self.state, &device, &by).await {
            tracing::warn!(%device, reason = %why, "mqtt: {device} is not updated: {why}");
        }
    }

    async fn tick(&mut self, connection: &mut Connection) -> Result<(), String> {
        self.look = true;
        if self.sweep.is_none() && self.swept_at.elapsed() >= SWEEP_INTERVAL {
            self.sweep = Some(Sweep::default());
        }
        match self.pinged_at {
            Some(at) if at.elapsed() >= PONG_MAX => {
                let seconds = PONG_MAX.as_secs();
                Err(format!("no answer to a ping within {seconds} s"))
            }
            None if self.heard_at.elapsed() >= KEEP_ALIVE / 2 => {
                self.pinged_at = Some(Instant::now());
                connection.send(&packet::PING).await
            }
            _ => Ok(()),
        }
    }

    fn hear(&mut self, news: Result<News, RecvError>) -> Result<(), String> {
        match news {
            Ok(News::Progress(event)) => self.changed.extend(event.device.clone()),
            Ok(News::Stored) | Err(RecvError::Lagged(_)) => self.look = true,
            Err(RecvError::Closed) => return Err("the server ends".to_owned()),
        }
        Ok(())
    }

    async fn say_goodbye(&mut self, connection: &mut Connection) {
        let status = self.settings.topics.status();
        let message = Publish {
            topic: &status,
            payload: OFFLINE.as_bytes(),
            retain: true,
        };
        let farewell = async {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let id = self.last_id;
            connection.send(&packet::publish(&message, id)).await?;
            while connection.receive().await? != (Incoming::PubAck { id }) {}
            connection.send(&packet::DISCONNECT).await
        };
        // Where it does not arrive, the broker publishes the will.
        let _ = timeout(FAREWELL_MAX, farewell).await;
    }
}

async fn ended(closing: &mut watch::Receiver<bool>) {
    // Where nobody could say so any more, it has ended too.
    let _ = closing.wait_for(|end| *end).await;
}

fn print(message: &Retained) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&message.topic, &message.payload).hash(&mut hasher);
    hasher.finish()
}
