use super::{
    StoreError, Tx,
    db::{Row, values},
};
use crate::domain::{
    model::{Rollout, Standing, Target},
    rollout::Tally,
};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, release, targets, state, held, reason, failures_max, rollback_on_failure, \
             trial_deadline_s, allow_product_change, idempotency_key, created_at FROM rollout ",
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
             created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
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
            ],
        )
        .await?;
        Ok(Rollout { id, ..new.clone() })
    }

    pub async fn set_rollout_standing(&mut self, rollout: &Rollout) -> Result<(), StoreError> {
        self.run(
            "UPDATE rollout SET state = $1, held = $2, reason = $3 WHERE id = $4",
            values![
                standing_name(rollout.standing),
                rollout.held,
                rollout.reason.clone(),
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

    /// Counts the devices that the rollout names and their attempts.
    pub async fn tally(&mut self, rollout: &Rollout) -> Result<Tally, StoreError> {
        let attempts = self
            .all(
                "SELECT state, COUNT(*) FROM attempt WHERE rollout = $1 AND is_current = 1 \
                 GROUP BY state",
                values![rollout.id],
                |row| Ok((row.parsed()?, row.number()?)),
            )
            .await?;
        let (named, seen) = self.named_and_seen(&rollout.target).await?;
        Ok(Tally {
            named,
            seen,
            attempts,
        })
    }

    async fn named_and_seen(&mut self, target: &Target) -> Result<(u64, u64), StoreError> {
        if target.all {
            let sql = "SELECT COUNT(*) FROM device";
            let seen = self.one(sql, [], |row| row.number()).await?.unwrap_or(0);
            return Ok((seen, seen));
        }
        let names = self.named_devices(target).await?;
        let mut seen = 0;
        for name in &names {
            let sql = "SELECT COUNT(*) FROM device WHERE id = $1";
            let found = self.one(sql, values![name], |row| row.number::<u64>());
            seen += found.await?.unwrap_or(0);
        }
        Ok((names.len() as u64, seen))
    }

    /// Ids that a target names, seen or not; for `all` those that were seen.
    pub async fn named_devices(
        &mut self,
        target: &Target,
    ) -> Result<std::collections::BTreeSet<String>, StoreError> {
        if target.all {
            let ids = self.all("SELECT id FROM device", [], |row| row.text());
            return Ok(ids.await?.into_iter().collect());
        }
        let mut names = target.devices.clone();
        for group in &target.groups {
            names.extend(self.group_members(group).await?);
        }
        if target.seed {
            let sql = "SELECT id FROM device WHERE protocol = 'seed'";
            names.extend(self.all(sql, [], |row| row.text()).await?);
        }
        Ok(names)
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
