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
    include_str!("migrations/0009_kinds.sql"),
    include_str!("migrations/0010_health.sql"),
    include_str!("migrations/0011_pins.sql"),
];

/// The newest version.
pub(super) fn newest() -> i64 {
    MIGRATIONS.len() as i64
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

#[cfg(test)]
mod tests {
    use super::{super::db::Db, *};

    #[tokio::test]
    async fn devices_of_a_server_without_kinds_have_their_sightings_and_kinds() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fota.db");
        let db = Db::open_sqlite(&path).await.expect("opens");
        let old = Store { db };
        migrate(&old, 8).await.expect("migrates");
        let mut tx = old.write().await.expect("a turn");
        for sql in [
            "INSERT INTO device (id, protocol, version, slots, first_seen, last_seen) VALUES \
             ('one', 'native', '1.0.5', '[]', 3, 7), ('two', 'native', '1.0.5', '[]', 3, 8), \
             ('three', 'seed', '1.0.6', '[]', 3, 9)",
            "INSERT INTO device_tag (device, name, value) VALUES ('three', 'ring', 'beta')",
        ] {
            tx.run(sql, []).await.expect("stored");
        }
        tx.commit().await.expect("stored");
        old.close().await;
        let store = Store::open_sqlite(&path).await.expect("opens");
        let mut tx = store.read().await.expect("reads");
        let two = tx.device("two").await.expect("reads").expect("there");
        assert_eq!((two.first_seen, two.last_seen), (3, 8));
        let (kind, last_seen) = tx.sighted("three").await.expect("reads").expect("there");
        assert_eq!((kind.tags["ring"].as_str(), last_seen), ("beta", 9));
        let mut sizes = Vec::new();
        let each = tx.each_kind(|_, _, devices| sizes.push(devices));
        each.await.expect("reads");
        sizes.sort_unstable();
        assert_eq!(sizes, [1, 2]);
    }
}
