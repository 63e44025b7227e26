//! Adding and changing webhooks; [`crate::notify::webhook`] delivers.

use fota_proto::{
    notify::{NewWebhook, Webhook, WebhookDelivery, WebhookEnable, WebhookRequest},
    operators::Secret,
};

use super::{commit_by, rollouts::device_id};
use crate::{
    AppState,
    api::problem::Refusal,
    auth::{By, Record, no_randomness},
    domain::notify::KindFilter,
    notify::{
        address, message,
        post::Sender,
        signature,
        webhook::{DELIVERIES_KEPT, WEBHOOKS_MAX},
    },
    store::{StoredWebhook, Tx},
};

/// Adds a webhook; it is told of what happens from now on.
pub async fn create(
    state: &AppState,
    request: WebhookRequest,
    by: &By,
) -> Result<NewWebhook, Refusal> {
    let name = device_id("name", &request.name)?.to_string();
    let url = address::parse(&request.url);
    let url = url.map_err(|error| Refusal::field("url", format!("url {error}")))?;
    let filter = KindFilter::new(&request.events);
    let filter = filter.map_err(|error| Refusal::field("events", format!("events: {error}")))?;
    let secret = secret(request.secret)?;
    let mut tx = state.store.write().await?;
    if tx.count_webhooks().await? >= WEBHOOKS_MAX {
        let detail = format!("there are {WEBHOOKS_MAX} webhooks already: delete one");
        return Err(Refusal::conflict("too_many_webhooks", detail));
    }
    let webhook = Webhook {
        name,
        url: url.to_string(),
        events: filter.patterns().to_vec(),
        enabled: true,
        reason: None,
        done_event: tx.last_event_id().await?,
        failing_since: None,
        attempts: 0,
        retry_at: None,
        created_at: state.now_ms(),
    };
    if !tx.insert_webhook(&webhook, &filter, &secret).await? {
        let detail = format!(
            "webhook {} exists already: choose another name",
            webhook.name
        );
        return Err(Refusal::conflict("webhook_exists", detail).of("name"));
    }
    // The path may be a secret of the receiver's; whom it goes to is not.
    let host = url.host_str().unwrap_or_default();
    let detail = format!("{filter} to {}://{host}", url.scheme());
    let record = Record::new("webhook.created", object(&webhook.name), detail);
    commit_by(state, tx, by, record, &[], false).await?;
    Ok(NewWebhook { secret, webhook })
}

fn secret(given: Option<Secret>) -> Result<Secret, Refusal> {
    let Some(given) = given else {
        return signature::make().map_err(|error| no_randomness(&error));
    };
    if signature::key(&given).is_none() {
        let (min, max) = (signature::KEY_BYTES.start(), signature::KEY_BYTES.end());
        let detail = format!(
            "secret is not `whsec_` and {min} to {max} bytes as base64: leave it out and the \
             server makes one"
        );
        return Err(Refusal::field("secret", detail));
    }
    Ok(given)
}

fn object(name: &str) -> String {
    format!("webhook:{name}")
}

/// The webhook of this name.
pub async fn find(tx: &mut Tx, name: &str) -> Result<StoredWebhook, Refusal> {
    let name = device_id("name", name)?;
    let found = tx.webhook(name.as_str()).await?;
    found.ok_or_else(|| Refusal::not_found(format!("webhook {name}")).of("name"))
}

/// Removes a webhook.
pub async fn remove(state: &AppState, name: &str, by: &By) -> Result<(), Refusal> {
    let mut tx = state.store.write().await?;
    let found = find(&mut tx, name).await?;
    tx.delete_webhook(found.id).await?;
    let record = Record::new("webhook.removed", object(name), "");
    commit_by(state, tx, by, record, &[], false).await?;
    Ok(())
}

/// Delivers again, beginning with what was missed unless that is to be left out.
pub async fn enable(
    state: &AppState,
    name: &str,
    how: &WebhookEnable,
    by: &By,
) -> Result<Webhook, Refusal> {
    let mut tx = state.store.write().await?;
    let found = find(&mut tx, name).await?;
    let (done, detail) = match how.skip_missed {
        true => (tx.last_event_id().await?, "without what was missed"),
        false => (found.webhook.done_event, "with what was missed"),
    };
    tx.set_webhook_enabled(found.id, true, None, done).await?;
    let again = find(&mut tx, name).await?;
    let record = Record::new("webhook.enabled", object(name), detail);
    commit_by(state, tx, by, record, &[], false).await?;
    Ok(again.webhook)
}

/// Delivers nothing until it is enabled.
pub async fn disable(
    state: &AppState,
    name: &str,
    reason: &str,
    by: &By,
) -> Result<Webhook, Refusal> {
    const REASON_BYTES_MAX: usize = 4096;
    if reason.len() > REASON_BYTES_MAX {
        let bytes = reason.len();
        let detail = format!("reason has {bytes} bytes; at most {REASON_BYTES_MAX} are taken");
        return Err(Refusal::field("reason", detail));
    }
    let reason = if reason.is_empty() {
        "disabled by an operator"
    } else {
        reason
    };
    let mut tx = state.store.write().await?;
    let found = find(&mut tx, name).await?;
    let done = found.webhook.done_event;
    tx.set_webhook_enabled(found.id, false, Some(reason), done)
        .await?;
    let now = find(&mut tx, name).await?;
    let record = Record::new("webhook.disabled", object(name), reason);
    commit_by(state, tx, by, record, &[], false).await?;
    Ok(now.webhook)
}

/// Sends a message that stands for nothing, enabled or not, and says what came of it.
pub async fn test(state: &AppState, name: &str, by: &By) -> Result<WebhookDelivery, Refusal> {
    let mut tx = state.store.read().await?;
    let found = find(&mut tx, name).await?;
    let secret = tx.webhook_secret(found.id).await?;
    drop(tx);
    let secret = secret.ok_or_else(|| Refusal::not_found(format!("webhook {name}")).of("name"))?;
    let sender = Sender::new().map_err(|error| {
        tracing::error!(%error, "webhooks cannot be sent");
        let detail = "webhooks cannot be sent: see the server's log";
        Refusal::new(
            axum::http::StatusCode::INTERNAL_SERVER_ERROR,
            "no_tls",
            detail,
        )
    })?;
    let now = state.now_ms();
    let message = message::test(found.webhook.created_at, now);
    let tried = sender
        .post(&found.webhook.url, &secret, &message, now)
        .await;
    let delivery = WebhookDelivery {
        id: 0,
        event: 0,
        kind: "webhook.test".to_owned(),
        attempt: 1,
        at: now,
        took_ms: tried.took_ms,
        status: tried.status,
        error: tried.error,
    };
    let mut tx = state.store.write().await?;
    // It may have been removed meanwhile.
    let found = find(&mut tx, name).await?;
    tx.append_delivery(found.id, &delivery, DELIVERIES_KEPT)
        .await?;
    let outcome = delivery
        .error
        .clone()
        .unwrap_or_else(|| "delivered".to_owned());
    let record = Record::new("webhook.tested", object(name), outcome);
    commit_by(state, tx, by, record, &[], false).await?;
    Ok(delivery)
}
