//! What the server remembers: one [`Store`] over SQLite or PostgreSQL.
//!
//! Every statement is static text that both engines take; it stands beside the function that runs
//! it, in the file of its noun. Times are milliseconds since the Unix epoch as BIGINT, digests and
//! states are TEXT. A caller opens a transaction with [`Store::read`] or [`Store::write`] and
//! passes it on, so one request is one transaction.

mod attempts;
mod audit;
mod clusters;
mod copies;
mod credentials;
mod db;
mod deltas;
mod devices;
mod enrolment;
mod events;
mod groups;
mod kinds;
mod loads;
mod pins;
mod plan;
mod products;
mod releases;
mod rollbacks;
mod rollouts;
mod schema;
mod screens;
mod seed;
mod sessions;
mod signing;
mod tags;
mod tokens;
mod users;
mod webhooks;

use std::path::Path;

pub use copies::Copies;
pub use credentials::NewStored;
use db::Db;
pub use db::Tx;
pub use deltas::{DeltaFilter, Made, StoredDelta};
pub use devices::DeviceFilter;
pub use events::EventFilter;
pub use kinds::Cohort;
pub use screens::{ListFilter, Of, Sort, WaveDevices};
pub use sessions::{Session, SessionOf};
pub use signing::StoredRoot;
pub use tokens::StoredToken;
pub use users::Account;
pub use webhooks::{Place, StoredWebhook};

/// What the store says when it cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database gave an error.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// A stored value is not what this server writes.
    #[error("stored value is damaged: expected {expected}, found {found}")]
    Stored {
        /// What should be there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// The database was written by a newer server.
    #[error(
        "the database has schema {found}, this server knows up to {known}: \
         start the newer server, or restore a backup made before the upgrade"
    )]
    Newer {
        /// Version in the database.
        found: i64,
        /// The newest one that this server knows.
        known: i64,
    },
}

impl StoreError {
    fn stored(expected: &'static str, found: &dyn std::fmt::Debug) -> Self {
        let found = format!("{found:?}");
        Self::Stored { expected, found }
    }
}

/// The database.
#[derive(Clone, Debug)]
pub struct Store {
    db: Db,
}

impl Store {
    /// Opens the database file, makes it where there is none, and brings its schema up to date.
    pub async fn open_sqlite(path: &Path) -> Result<Self, StoreError> {
        Self::migrated(Db::open_sqlite(path).await?).await
    }

    /// Connects to PostgreSQL and brings the schema up to date.
    pub async fn open_postgres(url: &str) -> Result<Self, StoreError> {
        Self::migrated(Db::open_postgres(url).await?).await
    }

    async fn migrated(db: Db) -> Result<Self, StoreError> {
        let store = Self { db };
        schema::migrate(&store, schema::newest()).await?;
        kinds::settle_all(&store).await?;
        Ok(store)
    }

    /// A transaction that sees one state of the database.
    pub async fn read(&self) -> Result<Tx, StoreError> {
        Ok(self.db.read().await?)
    }

    /// A transaction that is alone in writing; it waits for its turn.
    pub async fn write(&self) -> Result<Tx, StoreError> {
        Ok(self.db.write().await?)
    }

    /// `sqlite` or `postgres`.
    pub fn engine(&self) -> &'static str {
        self.db.name()
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let mut tx = self.read().await?;
        tx.generation().await.map(drop)
    }

    /// Closes all connections; later calls give an error.
    pub async fn close(&self) {
        self.db.close().await;
    }
}
