use fota_proto::operators::AuditEntry;

use super::{
    StoreError, Tx,
    db::{Row, values},
};
use crate::domain::audit::{Head, NewEntry};

pub(super) fn entry(row: &mut Row) -> Result<AuditEntry, StoreError> {
    Ok(AuditEntry {
        seq: row.int()?,
        at: row.int()?,
        actor: row.text()?,
        role: row.text()?,
        action: row.text()?,
        object: row.text()?,
        detail: row.text()?,
        request: row.text()?,
        address: row.text()?,
        previous: row.parsed()?,
        hash: row.parsed()?,
    })
}

impl Tx {
    /// The last entry's place and hash; those before the first entry where there is none.
    pub async fn audit_head(&mut self) -> Result<Head, StoreError> {
        let head = self
            .one(
                "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1",
                [],
                |row| {
                    Ok(Head {
                        seq: row.int()?,
                        hash: row.parsed()?,
                    })
                },
            )
            .await?;
        Ok(head.unwrap_or_default())
    }

    /// Appends to the audit log. There is no other statement here that changes it.
    pub async fn append_audit(
        &mut self,
        new: NewEntry,
        now: i64,
    ) -> Result<AuditEntry, StoreError> {
        let entry = new.after(self.audit_head().await?, now);
        self.run(
            "INSERT INTO audit (seq, at, actor, role, action, object, detail, request, address, \
             previous, hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            values![
                entry.seq,
                entry.at,
                &entry.actor,
                &entry.role,
                &entry.action,
                &entry.object,
                &entry.detail,
                &entry.request,
                &entry.address,
                entry.previous,
                entry.hash
            ],
        )
        .await?;
        Ok(entry)
    }

    /// Entries after `after`, oldest first.
    pub async fn audit(&mut self, after: i64, limit: i64) -> Result<Vec<AuditEntry>, StoreError> {
        self.all(
            "SELECT seq, at, actor, role, action, object, detail, request, address, \
             previous, hash FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2",
            values![after, limit],
            entry,
        )
        .await
    }
}
