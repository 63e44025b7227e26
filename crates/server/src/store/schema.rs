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
];

/// The newest version.
pub(super) fn newest() -> i64 {
    MIGRATIONS.len() as i64
}

/// Every table of version `schema`, each behind those that it refers to: the order in which they
/// were made.
pub(super) fn tables(schema: i64) -> impl Iterator<Item = &'static str> {
    let migrations = MIGRATIONS.iter().take(usize::try_from(schema).unwrap_or(0));
    let statements = migrations.flat_map(|sql| statements(sql));
    statements.filter_map(|statement| {
        let lines = statement.lines().filter(|line| !line.starts_with("--"));
        let made = lines
            .into_iter()
            .find_map(|line| line.strip_prefix("CREATE TABLE "))?;
        made.split([' ', '(']).next()
    })
}

/// Brings the schema to version `wanted`.
pub(super) async fn migrate(store: &Store, wanted: i64) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    tx.run(
        "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)",
        [],
    )
    .await?;
    let found = version(&mut tx).await?;
    if found > wanted {
        let known = wanted;
        return Err(StoreError::Newer { found, known });
    }
    let missing = MIGRATIONS.iter().take(wanted as usize);
    for (number, sql) in (1..).zip(missing).skip(found as usize) {
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
