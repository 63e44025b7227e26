use fota_proto::{Sha256, manager::LogEntry};

use super::{
    StoreError, Tx,
    db::{Row, values},
};

/// A root as stored; its bytes are a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRoot {
    pub version: u32,
    pub digest: Sha256,
    pub added_at: i64,
}

fn root(row: &mut Row) -> Result<StoredRoot, StoreError> {
    Ok(StoredRoot {
        version: row.number()?,
        digest: row.parsed()?,
        added_at: row.int()?,
    })
}

impl Tx {
    pub async fn insert_root(&mut self, new: &StoredRoot) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO root (version, sha256, added_at) VALUES ($1, $2, $3)",
            values![new.version, new.digest, new.added_at],
        )
        .await
        .map(drop)
    }

    pub async fn root(&mut self, version: u32) -> Result<Option<StoredRoot>, StoreError> {
        let sql = "SELECT version, sha256, added_at FROM root WHERE version = $1";
        self.one(sql, values![version], root).await
    }

    pub async fn newest_root(&mut self) -> Result<Option<StoredRoot>, StoreError> {
        let sql = "SELECT version, sha256, added_at FROM root ORDER BY version DESC LIMIT 1";
        self.one(sql, [], root).await
    }

    /// A page of roots, newest first, below `before`.
    pub async fn roots(&mut self, before: i64, limit: i64) -> Result<Vec<StoredRoot>, StoreError> {
        let sql = "SELECT version, sha256, added_at FROM root WHERE version < $1 \
                   ORDER BY version DESC LIMIT $2";
        self.all(sql, values![before, limit], root).await
    }

    /// Whether unsigned images of the product are taken although there is a root.
    pub async fn allows_unsigned(&mut self, product: &str) -> Result<bool, StoreError> {
        let sql = "SELECT allows_unsigned FROM product WHERE name = $1";
        let stored = self.one(sql, values![product], |row| row.flag()).await?;
        Ok(stored.unwrap_or(false))
    }

    pub async fn set_allows_unsigned(
        &mut self,
        product: &str,
        allows: bool,
    ) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO product (name, allows_unsigned) VALUES ($1, $2) \
             ON CONFLICT (name) DO UPDATE SET allows_unsigned = excluded.allows_unsigned",
            values![product, allows],
        )
        .await
        .map(drop)
    }

    /// Appends to the release log.
    pub async fn append_log(
        &mut self,
        digest: Sha256,
        release: i64,
        now: i64,
    ) -> Result<(), StoreError> {
        let next = self.log_size().await?;
        self.run(
            "INSERT INTO release_log (entry, sha256, release, added_at) VALUES ($1, $2, $3, $4)",
            values![next, digest, release, now],
        )
        .await
        .map(drop)
    }

    async fn log_size(&mut self) -> Result<i64, StoreError> {
        let sql = "SELECT COALESCE(MAX(entry), -1) + 1 FROM release_log";
        Ok(self.one(sql, [], |row| row.int()).await?.unwrap_or(0))
    }

    /// The entries of the release log from this one on.
    pub async fn log_digests_from(&mut self, first: u64) -> Result<Vec<Sha256>, StoreError> {
        let sql = "SELECT sha256 FROM release_log WHERE entry >= $1 ORDER BY entry";
        self.all(sql, values![first], |row| row.parsed()).await
    }

    /// A page of the release log, oldest first.
    pub async fn log_page(&mut self, first: i64, limit: i64) -> Result<Vec<LogEntry>, StoreError> {
        self.all(
            "SELECT entry, sha256, release, added_at FROM release_log WHERE entry >= $1 \
             ORDER BY entry LIMIT $2",
            values![first, limit],
            |row| {
                Ok(LogEntry {
                    index: row.number()?,
                    digest: row.parsed()?,
                    release: row.int_maybe()?,
                    at: row.int()?,
                })
            },
        )
        .await
    }
}
