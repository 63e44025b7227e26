use fota_proto::{
    notify::{Webhook, WebhookDelivery},
    operators::Secret,
};

use super::{
    StoreError, Tx,
    db::{Row, values},
};
use crate::domain::notify::KindFilter;

/// A webhook with what only the server needs to know.
#[derive(Clone, Debug)]
pub struct StoredWebhook {
    pub id: i64,
    pub webhook: Webhook,
    pub filter: KindFilter,
}

/// How far a webhook is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The last event that is done with.
    pub done_event: i64,
    /// Tries of the next one.
    pub attempts: u32,
    /// Since when deliveries fail.
    pub failing_since: Option<i64>,
    /// When the next one is tried; 0 while deliveries do not fail.
    pub retry_at: i64,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, url, kinds, is_enabled, reason, done_event, failing_since, \
             attempts, retry_at, created_at FROM webhook ",
            $rest
        )
    };
}

fn webhook(row: &mut Row) -> Result<StoredWebhook, StoreError> {
    let (id, name, url) = (row.int()?, row.text()?, row.text()?);
    let filter: KindFilter = row.parsed()?;
    let enabled = row.flag()?;
    let webhook = Webhook {
        name,
        url,
        events: filter.patterns().to_vec(),
        enabled,
        reason: row.text_maybe()?,
        done_event: row.int()?,
        failing_since: row.int_maybe()?,
        attempts: row.number()?,
        retry_at: Some(row.int()?).filter(|at| *at > 0),
        created_at: row.int()?,
    };
    Ok(StoredWebhook {
        id,
        webhook,
        filter,
    })
}

fn delivery(row: &mut Row) -> Result<WebhookDelivery, StoreError> {
    Ok(WebhookDelivery {
        id: row.int()?,
        event: row.int()?,
        kind: row.text()?,
        attempt: row.number()?,
        at: row.int()?,
        took_ms: row.number()?,
        status: row.number_maybe()?,
        error: row.text_maybe()?,
    })
}

impl Tx {
    /// Stores a webhook with its key; false where the name is taken.
    pub async fn insert_webhook(
        &mut self,
        new: &Webhook,
        filter: &KindFilter,
        secret: &Secret,
    ) -> Result<bool, StoreError> {
        let sql = "SELECT COALESCE(MAX(id), 0) + 1 FROM webhook";
        let id = self.one(sql, [], |row| row.int()).await?.unwrap_or(1);
        let rows = self
            .run(
                "INSERT INTO webhook (id, name, url, kinds, is_enabled, done_event, attempts, \
                 retry_at, lease_owner, lease_until, created_at) \
                 VALUES ($1, $2, $3, $4, 1, $5, 0, 0, '', 0, $6) ON CONFLICT (name) DO NOTHING",
                values![
                    id,
                    &new.name,
                    &new.url,
                    filter.to_string(),
                    new.done_event,
                    new.created_at
                ],
            )
            .await?;
        if rows == 0 {
            return Ok(false);
        }
        let secret = secret.reveal();
        let sql = "INSERT INTO webhook_secret (webhook, secret) VALUES ($1, $2)";
        self.run(sql, values![id, secret]).await?;
        Ok(true)
    }

    pub async fn count_webhooks(&mut self) -> Result<i64, StoreError> {
        let sql = "SELECT COUNT(*) FROM webhook";
        Ok(self.one(sql, [], |row| row.int()).await?.unwrap_or(0))
    }

    /// Webhooks with names after `after`, by name.
    pub async fn webhooks(
        &mut self,
        after: &str,
        limit: i64,
    ) -> Result<Vec<StoredWebhook>, StoreError> {
        let sql = select!("WHERE name > $1 ORDER BY name LIMIT $2");
        self.all(sql, values![after, limit], webhook).await
    }

    pub async fn webhook(&mut self, name: &str) -> Result<Option<StoredWebhook>, StoreError> {
        self.one(select!("WHERE name = $1"), values![name], webhook)
            .await
    }

    /// The key of its signatures.
    pub async fn webhook_secret(&mut self, id: i64) -> Result<Option<Secret>, StoreError> {
        let sql = "SELECT secret FROM webhook_secret WHERE webhook = $1";
        self.one(sql, values![id], |row| row.text().map(Secret::new))
            .await
    }

    /// Removes a webhook with its key and its deliveries.
    pub async fn delete_webhook(&mut self, id: i64) -> Result<(), StoreError> {
        self.run("DELETE FROM webhook WHERE id = $1", values![id])
            .await
            .map(drop)
    }

    /// Enables or disables a webhook; tries begin anew after `done_event`, and whoever is
    /// delivering loses the lease.
    pub async fn set_webhook_enabled(
        &mut self,
        id: i64,
        enabled: bool,
        reason: Option<&str>,
        done_event: i64,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE webhook SET is_enabled = $2, reason = $3, done_event = $4, \
             failing_since = NULL, attempts = 0, retry_at = 0, lease_owner = '', lease_until = 0 \
             WHERE id = $1",
            values![id, enabled, reason, done_event],
        )
        .await
        .map(drop)
    }

    /// Ends all leases.
    pub async fn end_leases(&mut self) -> Result<(), StoreError> {
        let sql = "UPDATE webhook SET lease_owner = '', lease_until = 0 WHERE lease_until <> 0";
        self.run(sql, []).await.map(drop)
    }

    /// The webhooks that this node may deliver to now.
    pub async fn due_webhooks(
        &mut self,
        node: &str,
        now: i64,
    ) -> Result<Vec<StoredWebhook>, StoreError> {
        let sql = select!(
            "WHERE is_enabled = 1 AND retry_at <= $1 AND (lease_until <= $1 OR lease_owner = $2) \
             ORDER BY id"
        );
        self.all(sql, values![now, node], webhook).await
    }

    /// Takes the webhook for this node alone until `until`; false where another node has it, it was
    /// changed meanwhile, or it is not at `done_event` any more.
    pub async fn lease_webhook(
        &mut self,
        (id, done_event): (i64, i64),
        node: &str,
        now: i64,
        until: i64,
    ) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "UPDATE webhook SET lease_owner = $2, lease_until = $4 \
                 WHERE id = $1 AND is_enabled = 1 AND retry_at <= $3 AND done_event = $5 \
                 AND (lease_until <= $3 OR lease_owner = $2)",
                values![id, node, now, until, done_event],
            )
            .await?;
        Ok(rows > 0)
    }

    /// Stores how far the webhook is, and keeps it until `until`; false, and nothing stored, where
    /// this node has lost it.
    pub async fn move_webhook(
        &mut self,
        id: i64,
        node: &str,
        place: &Place,
        until: i64,
    ) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "UPDATE webhook SET done_event = $3, attempts = $4, failing_since = $5, \
                 retry_at = $6, lease_until = $7 \
                 WHERE id = $1 AND lease_owner = $2 AND is_enabled = 1",
                values![
                    id,
                    node,
                    place.done_event,
                    place.attempts,
                    place.failing_since,
                    place.retry_at,
                    until
                ],
            )
            .await?;
        Ok(rows > 0)
    }

    /// Appends a try, and drops those before the newest `kept`.
    pub async fn append_delivery(
        &mut self,
        webhook: i64,
        new: &WebhookDelivery,
        kept: i64,
    ) -> Result<(), StoreError> {
        let sql = "SELECT COALESCE(MAX(id), 0) + 1 FROM webhook_delivery WHERE webhook = $1";
        let next = self.one(sql, values![webhook], |row| row.int()).await?;
        let id = next.unwrap_or(1);
        self.run(
            "INSERT INTO webhook_delivery \
             (webhook, id, event, kind, attempt, at, took_ms, status, error) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            values![
                webhook,
                id,
                new.event,
                &new.kind,
                new.attempt,
                new.at,
                new.took_ms,
                new.status,
                new.error.clone()
            ],
        )
        .await?;
        let sql = "DELETE FROM webhook_delivery WHERE webhook = $1 AND id <= $2";
        self.run(sql, values![webhook, id - kept]).await.map(drop)
    }

    /// The newest tries before `before`, newest first.
    pub async fn deliveries(
        &mut self,
        webhook: i64,
        before: i64,
        limit: i64,
    ) -> Result<Vec<WebhookDelivery>, StoreError> {
        self.all(
            "SELECT id, event, kind, attempt, at, took_ms, status, error FROM webhook_delivery \
             WHERE webhook = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
            values![webhook, before, limit],
            delivery,
        )
        .await
    }
}
