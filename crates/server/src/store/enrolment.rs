use fota_proto::limits::DEVICE_SECRET_BYTES;

use super::{
    StoreError, Tx,
    db::{Row, values},
};
use crate::domain::{hex, identity::EnrolmentKey};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, key_id, devices_max, devices, expires_at, group_name, id_prefix, \
             is_revoked, created_at FROM enrolment_key ",
            $rest
        )
    };
}

fn enrolment_key(row: &mut Row) -> Result<EnrolmentKey, StoreError> {
    Ok(EnrolmentKey {
        id: row.int()?,
        name: row.text()?,
        key_id: row.text()?,
        devices_max: row.number()?,
        devices: row.number()?,
        expires_at: row.int()?,
        group: row.text_maybe()?,
        id_prefix: row.text_maybe()?,
        is_revoked: row.flag()?,
        created_at: row.int()?,
    })
}

impl Tx {
    /// Every enrolment key, by name.
    pub async fn enrolment_keys(&mut self) -> Result<Vec<EnrolmentKey>, StoreError> {
        self.all(select!("ORDER BY name"), [], enrolment_key).await
    }

    /// The one with this name.
    pub async fn enrolment_key(&mut self, name: &str) -> Result<Option<EnrolmentKey>, StoreError> {
        self.one(select!("WHERE name = $1"), values![name], enrolment_key)
            .await
    }

    /// The one with this name on the wire, and its secret.
    pub async fn enrolment_key_on_wire(
        &mut self,
        key_id: &str,
    ) -> Result<Option<(EnrolmentKey, [u8; DEVICE_SECRET_BYTES])>, StoreError> {
        let sql = select!("WHERE key_id = $1");
        let Some(key) = self.one(sql, values![key_id], enrolment_key).await? else {
            return Ok(None);
        };
        let secret = self
            .one(
                "SELECT secret FROM enrolment_secret WHERE enrolment_key = $1",
                values![key.id],
                |row| row.text(),
            )
            .await?;
        let secret = secret.as_deref().and_then(hex::decode);
        let damaged = || StoreError::stored("a secret", &"something else");
        Ok(Some((key, secret.ok_or_else(damaged)?)))
    }

    /// Stores a key under the next id; false where the name is taken.
    pub async fn insert_enrolment_key(
        &mut self,
        new: &EnrolmentKey,
        secret: &[u8; DEVICE_SECRET_BYTES],
    ) -> Result<bool, StoreError> {
        let id = self
            .one(
                "SELECT COALESCE(MAX(id), 0) + 1 FROM enrolment_key",
                [],
                |row| row.int(),
            )
            .await?
            .unwrap_or(1);
        let rows = self
            .run(
                "INSERT INTO enrolment_key (id, name, key_id, devices_max, devices, expires_at, \
                 group_name, id_prefix, is_revoked, created_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (name) DO NOTHING",
                values![
                    id,
                    &new.name,
                    &new.key_id,
                    new.devices_max,
                    new.devices,
                    new.expires_at,
                    new.group.clone(),
                    new.id_prefix.clone(),
                    new.is_revoked,
                    new.created_at,
                ],
            )
            .await?;
        if rows == 0 {
            return Ok(false);
        }
        self.run(
            "INSERT INTO enrolment_secret (enrolment_key, secret) VALUES ($1, $2)",
            values![id, hex::encode(secret)],
        )
        .await?;
        Ok(true)
    }

    /// Counts a device that enrolled.
    pub async fn count_enrolment(&mut self, id: i64) -> Result<(), StoreError> {
        self.run(
            "UPDATE enrolment_key SET devices = devices + 1 WHERE id = $1",
            values![id],
        )
        .await
        .map(drop)
    }

    /// Ends a key for good; false where it is ended already.
    pub async fn revoke_enrolment_key(&mut self, name: &str) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "UPDATE enrolment_key SET is_revoked = 1 WHERE name = $1 AND is_revoked = 0",
                values![name],
            )
            .await?;
        Ok(rows > 0)
    }
}
