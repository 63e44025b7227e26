//! `fota webhook …`

use std::io::Read;

use fota_proto::{
    notify::{Webhook, WebhookDelivery, WebhookEnable, WebhookRequest},
    operators::Secret,
};
use serde_json::json;

use crate::{
    args::WebhookCommand,
    clock::now_ms,
    context::Context,
    failure::{Exit, Failure, Result},
    output::Mark,
    text,
};

/// Longest key on stdin: more than the server takes.
const SECRET_BYTES_MAX: u64 = 256;

pub async fn run(context: &Context, command: WebhookCommand) -> Result {
    let client = context.client()?;
    match command {
        WebhookCommand::List => list(context, &client.webhooks().await?),
        WebhookCommand::Add {
            name,
            url,
            events,
            secret_stdin,
        } => {
            let request = WebhookRequest {
                name,
                url,
                events,
                secret: secret_stdin.then(secret).transpose()?,
            };
            add(context, &request).await?;
        }
        WebhookCommand::Test { name } => {
            tested(context, &name, &client.test_webhook(&name).await?)?
        }
        WebhookCommand::Enable { name, skip_missed } => {
            let how = WebhookEnable { skip_missed };
            show(context, &client.enable_webhook(&name, &how).await?);
        }
        WebhookCommand::Disable { name, reason } => {
            show(context, &client.disable_webhook(&name, &reason).await?);
        }
        WebhookCommand::Delete { name } => delete(context, &name).await?,
        WebhookCommand::Deliveries { name, limit } => {
            deliveries(context, &client.webhook_deliveries(&name, limit).await?);
        }
    }
    Ok(())
}

fn secret() -> Result<Secret> {
    let mut text = String::new();
    let read = std::io::stdin()
        .take(SECRET_BYTES_MAX)
        .read_to_string(&mut text);
    read.map_err(|error| Failure::error(format!("stdin: {error}")))?;
    Ok(Secret::new(text.trim()))
}

/// The key alone goes to stdout, so that a script can take it.
async fn add(context: &Context, request: &WebhookRequest) -> Result {
    let made = context.client()?.add_webhook(request).await?;
    let line = format!(
        "webhook {} is told of {}; the key of its signatures is shown this once:",
        made.webhook.name,
        made.webhook.events.join(", ")
    );
    context.out.note(Mark::Good, &line);
    context.out.answer(&format!("{}\n", made.secret.reveal()));
    context.out.document("fota.webhook-key/1", &made);
    Ok(())
}

fn list(context: &Context, webhooks: &[Webhook]) {
    let now = now_ms();
    let row = |webhook: &Webhook| {
        vec![
            webhook.name.clone(),
            standing(webhook, now),
            webhook.done_event.to_string(),
            webhook.events.join(","),
            text::plain(&webhook.url),
        ]
    };
    let rows: Vec<Vec<String>> = webhooks.iter().map(row).collect();
    let heading = ["WEBHOOK", "STATE", "AT EVENT", "EVENTS", "URL"];
    context.out.answer(&text::table(&heading, &rows));
    context.out.document("fota.webhooks/1", &webhooks);
}

fn standing(webhook: &Webhook, now: i64) -> String {
    match (webhook.enabled, &webhook.reason, webhook.failing_since) {
        (false, reason, _) => {
            let reason = reason.as_deref().unwrap_or("no reason given");
            format!("disabled: {}", text::plain(reason))
        }
        (true, _, None) => "works".to_owned(),
        (true, _, Some(since)) => {
            let age = text::age(since, now);
            format!("fails since {age}, {} tries", webhook.attempts)
        }
    }
}

fn show(context: &Context, webhook: &Webhook) {
    let line = format!("webhook {}: {}", webhook.name, standing(webhook, now_ms()));
    let mark = if webhook.enabled {
        Mark::Good
    } else {
        Mark::Attention
    };
    context.out.verdict(mark, &line);
    context.out.document("fota.webhook/1", webhook);
}

fn tested(context: &Context, name: &str, tried: &WebhookDelivery) -> Result {
    context.out.document("fota.webhook-delivery/1", tried);
    if let Some(error) = &tried.error {
        let message = format!("webhook {name}: {}", text::plain(error));
        return Err(Failure::new(Exit::Error, "webhook_failed", message)
            .hint("the receiver must answer with a 2xx within 10 seconds"));
    }
    let status = tried.status.unwrap_or_default();
    let line = format!("webhook {name} answered {status} in {} ms", tried.took_ms);
    context.out.verdict(Mark::Good, &line);
    Ok(())
}

async fn delete(context: &Context, name: &str) -> Result {
    let question = format!("Delete the webhook {name}? Its receiver hears nothing more.");
    if !context.confirm(&question, "--yes").await? {
        return Err(Failure::error("nothing was changed"));
    }
    context.client()?.delete_webhook(name).await?;
    let line = format!("webhook {name} deleted");
    context.out.verdict(Mark::Good, &line);
    context
        .out
        .document("fota.removed/1", &json!({"webhook": name}));
    Ok(())
}

fn deliveries(context: &Context, tries: &[WebhookDelivery]) {
    let row = |tried: &WebhookDelivery| {
        let status = tried
            .status
            .map_or("–".to_owned(), |status| status.to_string());
        let error = tried.error.as_deref().map(text::plain);
        vec![
            text::time(tried.at),
            tried.event.to_string(),
            tried.kind.clone(),
            tried.attempt.to_string(),
            status,
            format!("{} ms", tried.took_ms),
            error.unwrap_or_else(|| "delivered".to_owned()),
        ]
    };
    let rows: Vec<Vec<String>> = tries.iter().map(row).collect();
    let heading = [
        "AT (UTC)", "EVENT", "KIND", "TRY", "STATUS", "TOOK", "OUTCOME",
    ];
    context.out.answer(&text::table(&heading, &rows));
    context.out.document("fota.webhook-deliveries/1", &tries);
}
