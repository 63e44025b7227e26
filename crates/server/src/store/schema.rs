//! Migrations: numbered, static, applied at start in one transaction.

use super::{Store, StoreError, Tx, db::values};

/// Each entry brings the schema from its index to the next number. Never change one that was
/// released; append.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_first.sql"),
    include_str!("migrations/0002_operators.sql"),
    include_str!("migrations/0003_products.sql"),
    include_str!("migrations/0004_signing.sql"),
    include_str!("migrations/0005_device_identity.sql"),
    include_str!("migrations/0006_deltas.sql"),
    include_str!("migrations/0007_rollout_plans.sql"),
    include_str!("migrations/0008_notify.sql"),
    include_str!("migrations/0010_health.sql"),
];

pub(super) async fn migrate(store: &Store) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    tx.run(
        "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)",
        [],
    )
    .await?;
    let found = version(&mut tx).await?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    for (number, sql) in (1..).zip(MIGRATIONS).skip(found as usize) {
        for statement in statements(sql) {
            tx.run(statement, []).await?;
        }
        tx.run("DELETE FROM schema_version", []).await?;
        let stored: i64 = number;
        tx.run(
            "INSERT INTO schema_version (version) VALUES ($1)",
            values![stored],
        )
        .await?;
    }
    tx.commit().await
}

async fn version(tx: &mut Tx) -> Result<i64, StoreError> {
    let stored = tx
        .one("SELECT version FROM schema_version", [], |row| row.int())
        .await?;
    Ok(stored.unwrap_or(0).max(0))
}

/// The statements of a migration; our SQL has no semicolon inside a statement.
fn statements(sql: &'static str) -> impl Iterator<Item = &'static str> {
    sql.split(';')
        .map(str::trim)
        .filter(|statement| !statement.is_empty())
}
