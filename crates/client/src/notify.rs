//! Webhooks, and what stands out among failures.

use fota_proto::{
    manager::{Page, ReasonBody},
    notify::{
        NewWebhook, RolloutClusters, Webhook, WebhookDelivery, WebhookEnable, WebhookRequest,
    },
};
use reqwest::Method;

use crate::{Client, REQUEST_TIMEOUT, Result, segment};

impl Client {
    /// Every webhook.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>> {
        self.list("/api/v1/webhooks", &()).await
    }

    /// Adds a webhook.
    pub async fn add_webhook(&self, request: &WebhookRequest) -> Result<NewWebhook> {
        self.post("/api/v1/webhooks", request).await
    }

    /// Removes a webhook.
    pub async fn delete_webhook(&self, name: &str) -> Result<()> {
        self.delete(&format!("/api/v1/webhooks/{}", segment(name)))
            .await
    }

    /// Delivers again.
    pub async fn enable_webhook(&self, name: &str, how: &WebhookEnable) -> Result<Webhook> {
        let path = format!("/api/v1/webhooks/{}/enable", segment(name));
        self.post(&path, how).await
    }

    /// Delivers nothing until it is enabled.
    pub async fn disable_webhook(&self, name: &str, reason: &str) -> Result<Webhook> {
        let path = format!("/api/v1/webhooks/{}/disable", segment(name));
        let reason = reason.to_owned();
        self.post(&path, &ReasonBody { reason }).await
    }

    /// Sends a message that stands for nothing.
    pub async fn test_webhook(&self, name: &str) -> Result<WebhookDelivery> {
        let path = format!("/api/v1/webhooks/{}/test", segment(name));
        self.post(&path, &ReasonBody::default()).await
    }

    /// The newest tries.
    pub async fn webhook_deliveries(&self, name: &str, limit: u32) -> Result<Vec<WebhookDelivery>> {
        let path = format!("/api/v1/webhooks/{}/deliveries", segment(name));
        let request = self.request(Method::GET, &path).query(&[("limit", limit)]);
        let page: Page<WebhookDelivery> = self.answer(request.timeout(REQUEST_TIMEOUT)).await?;
        Ok(page.items)
    }

    /// What stands out among the failures of a rollout.
    pub async fn rollout_clusters(&self, id: i64) -> Result<RolloutClusters> {
        self.fetch(&format!("/api/v1/rollouts/{id}/clusters")).await
    }

    /// What stands out among the failures of all rollouts in the last days.
    pub async fn clusters(&self, days: u32) -> Result<RolloutClusters> {
        self.fetch(&format!("/api/v1/clusters?days={days}")).await
    }
}
