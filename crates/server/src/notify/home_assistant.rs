//! What is published about a device, and how Home Assistant learns of it by itself: MQTT discovery,
//! <https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery>, with one `update` entity per
//! device (<https://www.home-assistant.io/integrations/update.mqtt/>) and two diagnostic ones.
//!
//! All of it is made from a [`Picture`] and nothing else, so the same picture gives the same bytes.

use fota_proto::{AttemptState, manager::Presence};
use serde_json::{Value, json};
use sha2::Digest;

use crate::domain::hex;

/// What Home Assistant takes of a release summary.
const SUMMARY_CHARS_MAX: usize = 255;
/// What a command must say.
pub const INSTALL: &str = "install";
pub const ONLINE: &str = "online";
pub const OFFLINE: &str = "offline";

/// Where things are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// Before everything of ours, `fota`.
    pub prefix: String,
    /// Before what Home Assistant reads; none where it is not told.
    pub discovery: Option<String>,
    /// Whether a device's topic for commands is named.
    pub commands: bool,
}

/// A device as it is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub id: String,
    pub chip: Option<String>,
    pub project: Option<String>,
    pub version: Option<String>,
    pub presence: Presence,
    /// `2026-11-23T12:33:26Z`.
    pub last_seen: String,
    /// Its newest attempt.
    pub attempt: Option<Attempt>,
    /// The newest release that it could take.
    pub newest: Option<Newest>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub rollout: i64,
    pub version: String,
    pub state: AttemptState,
    pub percent: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    pub version: String,
    pub notes: String,
}

/// A retained message; an empty payload takes it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retained {
    pub topic: String,
    pub payload: String,
}

impl Topics {
    /// Whether the server is there.
    pub fn status(&self) -> String {
        format!("{}/status", self.prefix)
    }

    /// What happened.
    pub fn event(&self, kind: &str) -> String {
        format!("{}/events/{kind}", self.prefix)
    }

    /// Something of one device, or with `+` of all.
    pub fn device(&self, id: &str, what: &str) -> String {
        format!("{}/devices/{id}/{what}", self.prefix)
    }

    /// The device that such a topic is of.
    pub fn device_of<'t>(&self, topic: &'t str, what: &str) -> Option<&'t str> {
        let rest = topic
            .strip_prefix(&self.prefix)?
            .strip_prefix("/devices/")?;
        let id = rest.strip_suffix(what)?.strip_suffix('/')?;
        (!id.is_empty() && !id.contains('/')).then_some(id)
    }

    /// Everything that is retained about a device.
    pub fn about(&self, picture: &Picture) -> Vec<Retained> {
        let id = &picture.id;
        let message = |topic, value: &Value| Retained {
            topic,
            payload: value.to_string(),
        };
        let mut all = self.discovery(picture);
        all.push(message(self.device(id, "update"), &update(picture)));
        all.push(message(self.device(id, "state"), &state(picture)));
        all
    }

    /// Takes back everything that is retained about a device.
    pub fn nothing_about(&self, id: &str) -> Vec<Retained> {
        let topics = ["update", "state"].map(|what| self.device(id, what));
        let discovered = ENTITIES.iter().filter_map(|entity| self.config(entity, id));
        let topics = topics.into_iter().chain(discovered);
        topics
            .map(|topic| Retained {
                topic,
                payload: String::new(),
            })
            .collect()
    }

    fn config(&self, (component, name): &(&str, &str), id: &str) -> Option<String> {
        let discovery = self.discovery.as_ref()?;
        let object = object_id(id);
        Some(format!("{discovery}/{component}/{object}/{name}/config"))
    }

    fn discovery(&self, picture: &Picture) -> Vec<Retained> {
        let configs = [
            self.update_entity(picture),
            connectivity(),
            version_sensor(),
        ];
        let object = object_id(&picture.id);
        let mut all = Vec::new();
        for (entity, mut config) in ENTITIES.iter().zip(configs) {
            let Some(topic) = self.config(entity, &picture.id) else {
                continue;
            };
            let topic_of_state = match entity.0 {
                "update" => self.device(&picture.id, "update"),
                _ => self.device(&picture.id, "state"),
            };
            config["unique_id"] = format!("{object}_{}", entity.1).into();
            config["state_topic"] = topic_of_state.into();
            config["availability_topic"] = self.status().into();
            config["device"] = device(&object, picture);
            config["origin"] = json!({"name": "fota", "sw_version": env!("CARGO_PKG_VERSION")});
            all.push(Retained {
                topic,
                payload: config.to_string(),
            });
        }
        all
    }

    fn update_entity(&self, picture: &Picture) -> Value {
        let mut config = json!({
            "name": "Firmware",
            "device_class": "firmware",
        });
        if self.commands {
            config["command_topic"] = self.device(&picture.id, "install").into();
            config["payload_install"] = INSTALL.into();
        }
        config
    }
}

/// Component and name of each entity of a device, in the order of their configs.
const ENTITIES: [(&str, &str); 3] = [
    ("update", "firmware"),
    ("binary_sensor", "connectivity"),
    ("sensor", "version"),
];

fn connectivity() -> Value {
    json!({
        "name": "Connectivity",
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        "value_template": "{{ 'ON' if value_json.presence == 'online' else 'OFF' }}",
    })
}

fn version_sensor() -> Value {
    json!({
        "name": "Version",
        "entity_category": "diagnostic",
        "value_template": "{{ value_json.version }}",
    })
}

fn device(object: &str, picture: &Picture) -> Value {
    json!({
        "identifiers": [object],
        "name": picture.id,
        "manufacturer": "Espressif",
        "model": picture.chip,
        "sw_version": picture.version,
    })
}

/// An id of letters, digits, `_` and `-`, which is what discovery takes; ids that would become the
/// same get a digest of their own.
fn object_id(id: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    if id.chars().all(plain) {
        return format!("fota_{id}");
    }
    let replaced: String = id
        .chars()
        .map(|letter| if plain(letter) { letter } else { '_' })
        .collect();
    let digest = sha2::Sha256::digest(id.as_bytes());
    format!("fota_{replaced}-{}", hex::encode(&digest[..4]))
}

/// For whoever reads topics: all that is told of a device.
fn state(picture: &Picture) -> Value {
    let attempt = picture.attempt.as_ref();
    json!({
        "id": picture.id,
        "chip": picture.chip,
        "project": picture.project,
        "version": picture.version,
        "presence": picture.presence,
        "last_seen": picture.last_seen,
        "rollout": attempt.map(|attempt| attempt.rollout),
        "release": attempt.map(|attempt| attempt.version.as_str()),
        "state": attempt.map_or("idle".to_owned(), |attempt| attempt.state.to_string()),
        "progress": percentage(attempt),
    })
}

/// For the update entity, which takes these keys and no others.
fn update(picture: &Picture) -> Value {
    let attempt = picture.attempt.as_ref();
    let newest = picture.newest.as_ref();
    let latest = newest.map(|newest| newest.version.as_str());
    let notes = newest.map_or("", |newest| newest.notes.as_str());
    let summary: String = notes.chars().take(SUMMARY_CHARS_MAX).collect();
    json!({
        "installed_version": picture.version,
        "latest_version": latest.or(picture.version.as_deref()),
        "title": picture.project,
        "release_summary": (!summary.is_empty()).then_some(summary),
        "in_progress": attempt.is_some_and(|attempt| is_under_way(attempt.state)),
        "update_percentage": percentage(attempt),
    })
}

/// From the first byte to the proof of the new image.
fn is_under_way(state: AttemptState) -> bool {
    use AttemptState::{Downloaded, Downloading, Installing, Trial};
    matches!(state, Downloading | Downloaded | Installing | Trial)
}

fn percentage(attempt: Option<&Attempt>) -> Option<u8> {
    let attempt = attempt.filter(|attempt| is_under_way(attempt.state));
    attempt.map(|attempt| attempt.percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(commands: bool) -> Topics {
        Topics {
            prefix: "fota".to_owned(),
            discovery: Some("homeassistant".to_owned()),
            commands,
        }
    }

    fn picture() -> Picture {
        Picture {
            id: "ESP32-001".to_owned(),
            chip: Some("esp32c3".to_owned()),
            project: Some("thermostat".to_owned()),
            version: Some("1.0.5".to_owned()),
            presence: Presence::Online,
            last_seen: "2026-11-23T12:00:00Z".to_owned(),
            attempt: Some(Attempt {
                rollout: 3,
                version: "1.0.6".to_owned(),
                state: AttemptState::Downloading,
                percent: 40,
            }),
            newest: Some(Newest {
                version: "1.0.6".to_owned(),
                notes: "Warmer.".to_owned(),
            }),
        }
    }

    /// A message for each line; JSON in full.
    fn shown(messages: &[Retained]) -> String {
        let line = |message: &Retained| {
            let value: Value = serde_json::from_str(&message.payload).unwrap_or_default();
            let payload = serde_json::to_string_pretty(&value).expect("JSON");
            format!("{}\n{payload}\n", message.topic)
        };
        messages.iter().map(line).collect()
    }

    #[test]
    fn a_device_is_told_of_like_this() {
        insta::assert_snapshot!(shown(&topics(true).about(&picture())));
    }

    #[test]
    fn without_commands_there_is_no_topic_for_them_and_without_discovery_no_config() {
        let text = shown(&topics(false).about(&picture()));
        assert!(!text.contains("command_topic") && !text.contains("payload_install"));
        let alone = Topics {
            discovery: None,
            ..topics(true)
        };
        let about = alone.about(&picture());
        assert_eq!(about.len(), 2);
        assert!(
            about
                .iter()
                .all(|message| message.topic.starts_with("fota/"))
        );
    }

    #[test]
    fn what_is_not_under_way_has_no_percentage() {
        let mut done = picture();
        done.version = Some("1.0.6".to_owned());
        done.attempt.as_mut().expect("one").state = AttemptState::Succeeded;
        done.newest = None;
        let value = update(&done);
        assert_eq!(value["in_progress"], false);
        assert_eq!(value["update_percentage"], Value::Null);
        assert_eq!(value["latest_version"], "1.0.6", "nothing newer is known");
        assert_eq!(state(&done)["state"], "succeeded");
        done.attempt = None;
        assert_eq!(state(&done)["state"], "idle");
    }

    #[test]
    fn long_notes_are_cut_to_what_is_taken() {
        let mut long = picture();
        long.newest.as_mut().expect("one").notes = "é".repeat(300);
        let value = update(&long);
        let summary = value["release_summary"].as_str().expect("text");
        assert_eq!(summary.chars().count(), SUMMARY_CHARS_MAX);
    }

    #[test]
    fn everything_that_is_told_is_taken_back() {
        let told = topics(true).about(&picture());
        let mut told: Vec<_> = told.into_iter().map(|message| message.topic).collect();
        let back = topics(true).nothing_about("ESP32-001");
        assert!(back.iter().all(|message| message.payload.is_empty()));
        let mut back: Vec<_> = back.into_iter().map(|message| message.topic).collect();
        told.sort();
        back.sort();
        assert_eq!(told, back);
    }

    #[test]
    fn ids_that_discovery_does_not_take_stay_apart() {
        assert_eq!(object_id("ESP32-001"), "fota_ESP32-001");
        let (dot, colon) = (object_id("a.b"), object_id("a:b"));
        assert!(
            dot.starts_with("fota_a_b-") && dot != colon,
            "{dot} {colon}"
        );
        assert_ne!(dot, object_id("a_b"));
    }

    #[test]
    fn a_topic_names_its_device() {
        let topics = topics(true);
        let of = |topic| topics.device_of(topic, "install");
        assert_eq!(of("fota/devices/a.b:c/install"), Some("a.b:c"));
        for other in [
            "fota/devices//install",
            "fota/devices/a/b/install",
            "fota/devices/a/state",
            "fotax/devices/a/install",
            "fota/devices/ainstall",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
