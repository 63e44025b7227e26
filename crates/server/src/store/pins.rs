use std::collections::BTreeMap;

use super::{StoreError, Tx, db::Row, db::values};
use crate::domain::model::Pin;

fn pin(row: &mut Row) -> Result<Pin, StoreError> {
    Ok(Pin {
        release: row.int_maybe()?,
        reason: row.text()?,
        at: row.int()?,
    })
}

impl Tx {
    /// What a device is pinned to.
    pub async fn pin(&mut self, device: &str) -> Result<Option<Pin>, StoreError> {
        let sql = "SELECT release, reason, created_at FROM device_pin WHERE device = $1";
        self.one(sql, values![device], pin).await
    }

    /// All that are pinned.
    pub async fn pins(&mut self) -> Result<BTreeMap<String, Pin>, StoreError> {
        let sql = "SELECT device, release, reason, created_at FROM device_pin";
        let rows = self.all(sql, [], |row| Ok((row.text()?, pin(row)?)));
        Ok(rows.await?.into_iter().collect())
    }

    /// Pins a device; an earlier pin is replaced.
    pub async fn put_pin(&mut self, device: &str, pin: &Pin) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO device_pin (device, release, reason, created_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (device) DO UPDATE SET release = excluded.release, \
             reason = excluded.reason, created_at = excluded.created_at",
            values![device, pin.release, pin.reason.as_str(), pin.at],
        )
        .await
        .map(drop)
    }

    /// Lets a device go; false where it was not pinned.
    pub async fn remove_pin(&mut self, device: &str) -> Result<bool, StoreError> {
        let rows = self
            .run("DELETE FROM device_pin WHERE device = $1", values![device])
            .await?;
        Ok(rows > 0)
    }
}
