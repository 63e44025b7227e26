//! Copies of a device, for measurements with a large fleet: each has the rows that its own
//! check-ins would have made.

use super::{StoreError, Tx, db::values};

/// A fleet of copies.
#[derive(Clone, Copy, Debug)]
pub struct Copies<'a> {
    /// The device that is copied; a copy is called `ID-1`, `ID-2` …
    pub of: &'a str,
    pub number: i64,
    /// They were last seen at moments that are spread over so long before now.
    pub now: i64,
    pub seen_within_ms: i64,
}

/// Numbers from 1 to $2.
macro_rules! numbered {
    ($into:literal, $rest:literal) => {
        concat!(
            "INSERT INTO ",
            $into,
            " WITH RECURSIVE copy(number) AS (SELECT CAST(1 AS BIGINT) \
             UNION ALL SELECT number + 1 FROM copy WHERE number < $2) SELECT ",
            $rest
        )
    };
}

/// Apart by a prime near the golden section of 2^32, so that even few are spread evenly.
const SIGHTINGS: &str = numbered!(
    "sighting (device, kind, last_seen)",
    "sighting.device || '-' || copy.number, kind, $3 - (copy.number * 2654435761) % $4 \
     FROM copy, sighting WHERE sighting.device = $1"
);
const DEVICES: &str = numbered!(
    "device (id, protocol, chip, chip_revision, project, version, elf_sha256, confirmed, slot, \
     slots, rollback_slot, reset, warning, root_version, epoch, log_size, log_root, patches, \
     first_seen, attributes, metrics, waits, crashed_at, spread, rssi)",
    "device.id || '-' || copy.number, protocol, chip, chip_revision, project, version, \
     elf_sha256, confirmed, slot, slots, rollback_slot, reset, warning, root_version, epoch, \
     log_size, log_root, patches, first_seen, attributes, metrics, waits, crashed_at, \
     (copy.number * 2654435761) % 4294967296, rssi \
     FROM copy, device WHERE device.id = $1"
);
const GROUPS: &str = numbered!(
    "group_member (group_name, device)",
    "group_name, group_member.device || '-' || copy.number \
     FROM copy, group_member WHERE group_member.device = $1"
);
const TAGS: &str = numbered!(
    "device_tag (device, name, value)",
    "device_tag.device || '-' || copy.number, name, value \
     FROM copy, device_tag WHERE device_tag.device = $1"
);

impl Tx {
    /// Registers copies of a device that has checked in.
    pub async fn copy_device(&mut self, copies: &Copies<'_>) -> Result<(), StoreError> {
        let (of, number) = (copies.of, copies.number);
        if number < 1 {
            return Ok(());
        }
        let within = copies.seen_within_ms.max(1);
        self.run(SIGHTINGS, values![of, number, copies.now, within])
            .await?;
        for sql in [DEVICES, GROUPS, TAGS] {
            self.run(sql, values![of, number]).await?;
        }
        self.run(
            "UPDATE kind SET devices = devices + $1 \
             WHERE id = (SELECT kind FROM sighting WHERE device = $2)",
            values![number, of],
        )
        .await?;
        Ok(())
    }

    /// Rows of all tables that a rollout, a check-in or an operator writes: for a measurement of
    /// what something writes.
    pub async fn count_rows(&mut self) -> Result<u64, StoreError> {
        let sql = "SELECT (SELECT COUNT(*) FROM sighting) + (SELECT COUNT(*) FROM kind) \
                   + (SELECT COUNT(*) FROM device) + (SELECT COUNT(*) FROM group_member) \
                   + (SELECT COUNT(*) FROM device_tag) + (SELECT COUNT(*) FROM attempt) \
                   + (SELECT COUNT(*) FROM rollout) + (SELECT COUNT(*) FROM event) \
                   + (SELECT COUNT(*) FROM audit) + (SELECT COUNT(*) FROM delta) \
                   + (SELECT COUNT(*) FROM moment) + (SELECT COUNT(*) FROM block)";
        let rows = self.one(sql, [], |row| row.number()).await?;
        Ok(rows.unwrap_or(0))
    }

    /// Lets PostgreSQL learn how large its tables are now, as it does by itself after a while.
    pub async fn analyze(&mut self) -> Result<(), StoreError> {
        self.run("ANALYZE", []).await.map(drop)
    }
}
