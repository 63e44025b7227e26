use super::{StoreError, Tx, db::values};

impl Tx {
    /// What `compat/` keeps of a device that speaks only the seed's API: JSON.
    pub async fn seed_state(&mut self, device: &str) -> Result<Option<String>, StoreError> {
        self.one(
            "SELECT state FROM seed_device WHERE device = $1",
            values![device],
            |row| row.text(),
        )
        .await
    }

    pub async fn put_seed_state(&mut self, device: &str, state: &str) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO seed_device (device, state) VALUES ($1, $2) \
             ON CONFLICT (device) DO UPDATE SET state = excluded.state",
            values![device, state],
        )
        .await
        .map(drop)
    }

    /// All of them, by device id.
    pub async fn seed_states(&mut self) -> Result<Vec<(String, String)>, StoreError> {
        self.all(
            "SELECT device, state FROM seed_device ORDER BY device",
            [],
            |row| Ok((row.text()?, row.text()?)),
        )
        .await
    }

    pub async fn delete_seed_states(&mut self) -> Result<(), StoreError> {
        self.run("DELETE FROM seed_device", []).await.map(drop)
    }
}

// What the seed's API and the page ask of the common tables.
impl Tx {
    /// The chunk size of the release from now on; a download under way keeps its own.
    pub async fn set_seed_chunk_bytes(
        &mut self,
        release: i64,
        chunk_bytes: u32,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE release SET seed_chunk_bytes = $1 WHERE id = $2",
            values![chunk_bytes, release],
        )
        .await
        .map(drop)
    }

    /// The last lines of history, newest first; of one device where `device` is not empty.
    pub async fn last_events(
        &mut self,
        device: &str,
        limit: i64,
    ) -> Result<Vec<fota_proto::manager::Event>, StoreError> {
        self.all(
            "SELECT id, at, kind, device, rollout, release, actor, text, state FROM event \
             WHERE $1 = '' OR device = $1 ORDER BY id DESC LIMIT $2",
            values![device, limit],
            super::events::event,
        )
        .await
    }

    /// The device that was seen last; one that speaks the seed's API before any other.
    pub async fn last_seen_device(&mut self) -> Result<Option<String>, StoreError> {
        self.one(
            "SELECT id FROM device JOIN sighting ON sighting.device = device.id \
             ORDER BY CASE WHEN protocol = 'seed' THEN 0 ELSE 1 END, last_seen DESC, id LIMIT 1",
            [],
            |row| row.text(),
        )
        .await
    }
}
