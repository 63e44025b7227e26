use fota_proto::FailureCode;

use super::{
    StoreError, Tx,
    db::{Row, values},
};
use crate::domain::model::{RollbackOrder, RollbackState};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, device, leave_elf, leave_version, release, reason, state, code, \
             requested_at, ended_at, rollout FROM rollback_order ",
            $rest
        )
    };
}

fn order(row: &mut Row) -> Result<RollbackOrder, StoreError> {
    Ok(RollbackOrder {
        id: row.int()?,
        device: row.text()?,
        leave_elf: row.parsed_maybe()?,
        leave_version: row.text_maybe()?,
        release: row.int_maybe()?,
        reason: row.text()?,
        state: state(&row.text()?)?,
        code: row.text_maybe()?.as_deref().map(code).transpose()?,
        requested_at: row.int()?,
        ended_at: row.int_maybe()?,
        rollout: row.int_maybe()?,
    })
}

const STATES: [(RollbackState, &str); 3] = [
    (RollbackState::Standing, "standing"),
    (RollbackState::Done, "done"),
    (RollbackState::Refused, "refused"),
];

fn state_name(state: RollbackState) -> &'static str {
    let found = STATES.iter().find(|(known, _)| *known == state);
    found.map_or("standing", |(_, name)| name)
}

fn state(text: &str) -> Result<RollbackState, StoreError> {
    let found = STATES.iter().find(|(_, name)| *name == text);
    found
        .map(|(state, _)| *state)
        .ok_or_else(|| StoreError::stored("a rollback state", &text))
}

fn code(text: &str) -> Result<FailureCode, StoreError> {
    FailureCode::from_name(text).ok_or_else(|| StoreError::stored("a failure code", &text))
}

impl Tx {
    /// Stores an order under the next id, which it gets.
    pub async fn insert_rollback(
        &mut self,
        new: &RollbackOrder,
    ) -> Result<RollbackOrder, StoreError> {
        let id = self
            .one(
                "SELECT COALESCE(MAX(id), 0) + 1 FROM rollback_order",
                [],
                |row| row.int(),
            )
            .await?
            .unwrap_or(1);
        self.run(
            "INSERT INTO rollback_order (id, device, leave_elf, leave_version, release, reason, \
             state, code, requested_at, ended_at, rollout) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            values![
                id,
                &new.device,
                new.leave_elf,
                new.leave_version.clone(),
                new.release,
                &new.reason,
                state_name(new.state),
                new.code.map(FailureCode::name),
                new.requested_at,
                new.ended_at,
                new.rollout,
            ],
        )
        .await?;
        Ok(RollbackOrder { id, ..new.clone() })
    }

    /// How many devices a rollout ordered back itself, by where the order stands.
    pub async fn rollback_counts(
        &mut self,
        rollout: i64,
    ) -> Result<Vec<(RollbackState, u64)>, StoreError> {
        self.all(
            "SELECT state, COUNT(*) FROM rollback_order WHERE rollout = $1 GROUP BY state",
            values![rollout],
            |row| Ok((state(&row.text()?)?, row.number()?)),
        )
        .await
    }

    /// Devices on which a release is blocked.
    pub async fn blocked_on(
        &mut self,
        release: i64,
    ) -> Result<std::collections::BTreeSet<String>, StoreError> {
        let devices = self.all(
            "SELECT device FROM block WHERE release = $1",
            values![release],
            |row| row.text(),
        );
        Ok(devices.await?.into_iter().collect())
    }

    /// Ends an order that stands.
    pub async fn end_rollback(&mut self, order: &RollbackOrder) -> Result<(), StoreError> {
        self.run(
            "UPDATE rollback_order SET state = $1, code = $2, ended_at = $3 \
             WHERE id = $4 AND state = 'standing'",
            values![
                state_name(order.state),
                order.code.map(FailureCode::name),
                order.ended_at,
                order.id
            ],
        )
        .await
        .map(drop)
    }

    /// The order that stands for a device.
    pub async fn standing_rollback(
        &mut self,
        device: &str,
    ) -> Result<Option<RollbackOrder>, StoreError> {
        let sql = select!("WHERE device = $1 AND state = 'standing'");
        self.one(sql, values![device], order).await
    }

    /// The newest order for a device, in whatever state.
    pub async fn newest_rollback(
        &mut self,
        device: &str,
    ) -> Result<Option<RollbackOrder>, StoreError> {
        let sql = select!("WHERE device = $1 ORDER BY id DESC LIMIT 1");
        self.one(sql, values![device], order).await
    }

    /// Blocks a release on a device; harmless where it is blocked already.
    pub async fn block(
        &mut self,
        device: &str,
        release: i64,
        reason: &str,
        now: i64,
    ) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO block (device, release, reason, created_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (device, release) DO NOTHING",
            values![device, release, reason, now],
        )
        .await
        .map(drop)
    }

    /// Lifts a block; false where there was none.
    pub async fn unblock(&mut self, device: &str, release: i64) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "DELETE FROM block WHERE device = $1 AND release = $2",
                values![device, release],
            )
            .await?;
        Ok(rows > 0)
    }

    /// Releases blocked on a device.
    pub async fn blocked(&mut self, device: &str) -> Result<Vec<i64>, StoreError> {
        self.all(
            "SELECT release FROM block WHERE device = $1 ORDER BY release",
            values![device],
            |row| row.int(),
        )
        .await
    }
}
