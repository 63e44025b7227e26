//! Who is told of what happens.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// A broker that a server publishes to.
#[derive(Debug, Default, Args)]
pub struct MqttArgs {
    /// Publish the fleet to this broker: mqtt://user:password@host:1883 or mqtts://host
    #[arg(long, value_name = "URL", env = "FOTA_MQTT", hide_env_values = true)]
    pub mqtt: Option<String>,
    /// Begins every topic
    #[arg(long, value_name = "P", default_value = "fota", requires = "mqtt")]
    pub mqtt_prefix: String,
    /// Where Home Assistant looks for devices; empty tells it nothing
    #[arg(
        long,
        value_name = "P",
        default_value = "homeassistant",
        requires = "mqtt"
    )]
    pub mqtt_discovery: String,
    /// Let whoever may publish to the broker start updates of single devices
    #[arg(long, requires = "mqtt")]
    pub mqtt_commands: bool,
    /// Authorities that the broker's certificate is believed from, PEM [default: the system's]
    #[arg(long, value_name = "FILE", requires = "mqtt")]
    pub mqtt_ca: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum WebhookCommand {
    /// Every webhook, and whether it works
    List,
    /// Post events to a URL from now on; prints the key of the signatures this once
    Add {
        /// Name
        name: String,
        /// http://… or https://…
        url: String,
        /// Kinds of events, such as attempt.failed or rollout.*
        #[arg(
            long,
            value_name = "KINDS",
            value_delimiter = ',',
            default_value = "rollout.*,attempt.failed,attempt.rolled_back,webhook.disabled"
        )]
        events: Vec<String>,
        /// Read the key from stdin instead of having one made: whsec_ and base64
        #[arg(long)]
        secret_stdin: bool,
    },
    /// Send it one message that stands for nothing
    Test {
        /// Webhook
        name: String,
    },
    /// Deliver again, beginning with what was missed
    Enable {
        /// Webhook
        name: String,
        /// Leave out what was missed
        #[arg(long)]
        skip_missed: bool,
    },
    /// Deliver nothing until it is enabled
    Disable {
        /// Webhook
        name: String,
        /// Why
        #[arg(long, value_name = "R", default_value = "")]
        reason: String,
    },
    /// Remove it
    #[command(alias = "rm")]
    Delete {
        /// Webhook
        name: String,
    },
    /// The last tries and what came of them
    Deliveries {
        /// Webhook
        name: String,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: u32,
    },
}
