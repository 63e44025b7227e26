//! Who is told of what happens.

use clap::Subcommand;

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
