use fota_proto::manager::Event;

use super::{
    StoreError, Tx,
    db::{Row, values},
};
use crate::domain::model::NewEvent;

/// Which events a list shows.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    pub device: Option<String>,
    pub rollout: Option<i64>,
    /// Only ids after this one.
    pub after: i64,
    pub limit: i64,
}

pub(super) fn event(row: &mut Row) -> Result<Event, StoreError> {
    Ok(Event {
        id: row.int()?,
        at: row.int()?,
        kind: row.text()?,
        device: row.text_maybe()?,
        rollout: row.int_maybe()?,
        release: row.int_maybe()?,
        actor: row.text()?,
        text: row.text()?,
        state: row.parsed_maybe()?,
        bytes_done: None,
        bytes_total: None,
    })
}

impl Tx {
    /// Appends to the history. Ids grow in the order of commits, so a reader that asks for what
    /// is after the last one it saw misses nothing.
    pub async fn append_event(&mut self, new: &NewEvent, now: i64) -> Result<Event, StoreError> {
        let id = self.last_event_id().await? + 1;
        self.run(
            "INSERT INTO event (id, at, kind, device, rollout, release, actor, text, state) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            values![
                id,
                now,
                &new.kind,
                new.device.clone(),
                new.rollout,
                new.release,
                new.actor,
                &new.text,
                new.state,
            ],
        )
        .await?;
        Ok(Event {
            id,
            at: now,
            kind: new.kind.clone(),
            device: new.device.clone(),
            rollout: new.rollout,
            release: new.release,
            actor: new.actor.to_owned(),
            text: new.text.clone(),
            state: new.state,
            bytes_done: None,
            bytes_total: None,
        })
    }

    pub async fn last_event_id(&mut self) -> Result<i64, StoreError> {
        let sql = "SELECT COALESCE(MAX(id), 0) FROM event";
        Ok(self.one(sql, [], |row| row.int()).await?.unwrap_or(0))
    }

    /// A page of history, oldest first.
    pub async fn events(&mut self, filter: &EventFilter) -> Result<Vec<Event>, StoreError> {
        // One statement per kind of filter, so that each uses its index.
        const ALL: &str = "SELECT id, at, kind, device, rollout, release, actor, text, state \
             FROM event WHERE id > $1 AND $2 = '' AND $3 = 0 ORDER BY id LIMIT $4";
        const DEVICE: &str = "SELECT id, at, kind, device, rollout, release, actor, text, state \
             FROM event WHERE id > $1 AND device = $2 AND ($3 = 0 OR rollout = $3) \
             ORDER BY id LIMIT $4";
        const ROLLOUT: &str = "SELECT id, at, kind, device, rollout, release, actor, text, state \
             FROM event WHERE id > $1 AND $2 = '' AND rollout = $3 ORDER BY id LIMIT $4";
        let sql = match (&filter.device, filter.rollout) {
            (Some(_), _) => DEVICE,
            (None, Some(_)) => ROLLOUT,
            (None, None) => ALL,
        };
        let device = filter.device.as_deref().unwrap_or("");
        let rollout = filter.rollout.unwrap_or(0);
        let values = values![filter.after, device, rollout, filter.limit];
        self.all(sql, values, event).await
    }
}
