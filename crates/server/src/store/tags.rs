use std::collections::BTreeMap;

use super::{StoreError, Tx, db::values};

impl Tx {
    /// What operators said of a device.
    pub async fn tags(&mut self, device: &str) -> Result<BTreeMap<String, String>, StoreError> {
        let tags = self.all(
            "SELECT name, value FROM device_tag WHERE device = $1 ORDER BY name",
            values![device],
            |row| Ok((row.text()?, row.text()?)),
        );
        Ok(tags.await?.into_iter().collect())
    }

    pub async fn put_tag(
        &mut self,
        device: &str,
        name: &str,
        value: &str,
    ) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO device_tag (device, name, value) VALUES ($1, $2, $3) \
             ON CONFLICT (device, name) DO UPDATE SET value = excluded.value",
            values![device, name, value],
        )
        .await?;
        self.settle_again(device).await
    }

    pub async fn remove_tag(&mut self, device: &str, name: &str) -> Result<(), StoreError> {
        self.run(
            "DELETE FROM device_tag WHERE device = $1 AND name = $2",
            values![device, name],
        )
        .await?;
        self.settle_again(device).await
    }
}
