use std::sync::Arc;

use fota_proto::AttemptState;

use super::{
    StoreError, Tx,
    db::{Row, values},
};
use crate::domain::{
    model::{Rollout, Standing, Target},
    plan::RolloutPlan,
};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, release, targets, state, held, reason, failures_max, rollback_on_failure, \
             trial_deadline_s, allow_product_change, idempotency_key, created_at, plan, wave, \
             wave_since, wave_devices, created_by, approved_by, forgiven FROM rollout ",
            $rest
        )
    };
}

fn rollout(row: &mut Row) -> Result<Rollout, StoreError> {
    Ok(Rollout {
        id: row.int()?,
        release: row.int()?,
        target: target(&row.text()?)?,
        standing: standing(&row.text()?)?,
        held: row.flag()?,
        reason: row.text_maybe()?,
        failures_max: row.number_maybe()?,
        rollback_on_failure: row.flag()?,
        trial_deadline_s: row.number()?,
        allow_product_change: row.flag()?,
        idempotency_key: row.text_maybe()?,
        created_at: row.int()?,
        plan: plan(&row.text()?)?,
        wave: row.number()?,
        wave_since: row.int()?,
        wave_devices: row.number_maybe()?,
        created_by: row.text()?,
        approved_by: row.text_maybe()?,
        forgiven: row.number()?,
    })
}

const STANDINGS: [(Standing, &str); 4] = [
    (Standing::Active, "active"),
    (Standing::Paused, "paused"),
    (Standing::Aborted, "aborted"),
    (Standing::Superseded, "superseded"),
];

fn standing_name(standing: Standing) -> &'static str {
    let found = STANDINGS.iter().find(|(known, _)| *known == standing);
    found.map_or("aborted", |(_, name)| name)
}

fn standing(text: &str) -> Result<Standing, StoreError> {
    let found = STANDINGS.iter().find(|(_, name)| *name == text);
    found
        .map(|(standing, _)| *standing)
        .ok_or_else(|| StoreError::stored("a rollout state", &text))
}

/// A plan that was taken once is taken for ever: what is stored was checked.
fn plan(json: &str) -> Result<Arc<RolloutPlan>, StoreError> {
    let damaged = || StoreError::stored("a plan", &json);
    let given = serde_json::from_str(json).map_err(|_| damaged())?;
    let plan = RolloutPlan::check(&given).map_err(|_| damaged())?;
    Ok(Arc::new(plan))
}

fn plan_json(plan: &RolloutPlan) -> String {
    serde_json::to_string(plan.given()).expect("plain data has a JSON form")
}

/// Targets are one JSON array, so that starting a rollout writes one row whatever its size.
fn target(json: &str) -> Result<Target, StoreError> {
    let texts: Vec<String> =
        serde_json::from_str(json).map_err(|_| StoreError::stored("targets", &json))?;
    Target::parse(&texts).map_err(|_| StoreError::stored("targets", &json))
}

fn target_json(target: &Target) -> String {
    serde_json::to_string(&target.to_texts()).expect("a list of texts has a JSON form")
}

impl Tx {
    /// Stores a rollout under the next id, which it gets.
    pub async fn insert_rollout(&mut self, new: &Rollout) -> Result<Rollout, StoreError> {
        let id = self
            .one("SELECT COALESCE(MAX(id), 0) + 1 FROM rollout", [], |row| {
                row.int()
            })
            .await?
            .unwrap_or(1);
        self.run(
            "INSERT INTO rollout (id, release, targets, state, held, reason, failures_max, \
             rollback_on_failure, trial_deadline_s, allow_product_change, idempotency_key, \
             created_at, plan, wave, wave_since, created_by) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
            values![
                id,
                new.release,
                target_json(&new.target),
                standing_name(new.standing),
                new.held,
                new.reason.clone(),
                new.failures_max,
                new.rollback_on_failure,
                new.trial_deadline_s,
                new.allow_product_change,
                new.idempotency_key.clone(),
                new.created_at,
                plan_json(&new.plan),
                new.wave,
                new.wave_since,
                &new.created_by,
            ],
        )
        .await?;
        Ok(Rollout { id, ..new.clone() })
    }

    pub async fn set_rollout_standing(&mut self, rollout: &Rollout) -> Result<(), StoreError> {
        self.run(
            "UPDATE rollout SET state = $1, held = $2, reason = $3, wave = $4, wave_since = $5, \
             wave_devices = $6, approved_by = $7, forgiven = $8 WHERE id = $9",
            values![
                standing_name(rollout.standing),
                rollout.held,
                rollout.reason.clone(),
                rollout.wave,
                rollout.wave_since,
                rollout.wave_devices,
                rollout.approved_by.clone(),
                rollout.forgiven,
                rollout.id
            ],
        )
        .await
        .map(drop)
    }

    pub async fn rollout(&mut self, id: i64) -> Result<Option<Rollout>, StoreError> {
        self.one(select!("WHERE id = $1"), values![id], rollout)
            .await
    }

    pub async fn rollout_by_key(&mut self, key: &str) -> Result<Option<Rollout>, StoreError> {
        self.one(select!("WHERE idempotency_key = $1"), values![key], rollout)
            .await
    }

    /// Rollouts that may offer, newest first.
    pub async fn standing_rollouts(&mut self) -> Result<Vec<Rollout>, StoreError> {
        let sql = select!("WHERE state IN ('active', 'paused') ORDER BY id DESC");
        self.all(sql, [], rollout).await
    }

    /// A page of rollouts, newest first, below `before`.
    pub async fn rollouts_page(
        &mut self,
        before: i64,
        limit: i64,
    ) -> Result<Vec<Rollout>, StoreError> {
        let sql = select!("WHERE id < $1 ORDER BY id DESC LIMIT $2");
        self.all(sql, values![before, limit], rollout).await
    }

    /// Current attempts by state; one that is to be tried again waits.
    pub async fn attempts_by_state(
        &mut self,
        rollout: i64,
    ) -> Result<Vec<(AttemptState, u64)>, StoreError> {
        self.all(
            "SELECT CASE WHEN retry_at IS NULL THEN state ELSE 'waiting' END AS shown, COUNT(*) \
             FROM attempt WHERE rollout = $1 AND is_current = 1 GROUP BY shown",
            values![rollout],
            |row| Ok((row.parsed()?, row.number()?)),
        )
        .await
    }

    /// Bytes of artifact bodies sent for a rollout.
    pub async fn rollout_bytes_sent(&mut self, id: i64) -> Result<u64, StoreError> {
        let sent = self
            .one(
                "SELECT CAST(COALESCE(SUM(bytes_sent), 0) AS BIGINT) FROM attempt \
                 WHERE rollout = $1",
                values![id],
                |row| row.number(),
            )
            .await?;
        Ok(sent.unwrap_or(0))
    }
}
