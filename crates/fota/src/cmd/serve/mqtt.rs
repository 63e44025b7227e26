//! `fota serve --mqtt`: where and how the fleet is published.

use fota_server::notify::{
    home_assistant::Topics,
    mqtt::{Settings, connection::Broker},
};

use crate::{
    args::MqttArgs,
    failure::{Failure, Result},
};

/// Bytes of what begins topics: far below what a topic may have.
const PREFIX_BYTES_MAX: usize = 200;

/// The settings; none where no broker was named.
pub fn settings(args: MqttArgs) -> Result<Option<Settings>> {
    let Some(url) = args.mqtt else {
        return Ok(None);
    };
    let ca = args.mqtt_ca.map(|path| {
        let read = std::fs::read(&path);
        read.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
    });
    let broker = Broker::parse(&url, ca.transpose()?);
    let broker = broker.map_err(|why| Failure::usage(format!("the URL of --mqtt {why}")))?;
    let discovery = Some(args.mqtt_discovery).filter(|prefix| !prefix.is_empty());
    let topics = Topics {
        prefix: prefix("--mqtt-prefix", args.mqtt_prefix)?,
        discovery: discovery
            .map(|discovery| prefix("--mqtt-discovery", discovery))
            .transpose()?,
        commands: args.mqtt_commands,
    };
    Ok(Some(Settings { broker, topics }))
}

/// The beginning of a topic: no wildcards, and nothing at its ends that would make an empty level.
fn prefix(option: &str, text: String) -> Result<String> {
    let is_wrong = text.is_empty()
        || text.len() > PREFIX_BYTES_MAX
        || text.starts_with(['/', '$'])
        || text.ends_with('/')
        || text.contains(['+', '#', '\0']);
    if is_wrong {
        let message = format!("{option} is {text:?}: give a topic such as fota or home/fota");
        return Err(Failure::usage(message));
    }
    Ok(text)
}
