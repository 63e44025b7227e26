//! What others do in a rollout at the moment, and the counts that its waves go by.

use super::{StoreError, Tx, db::values};
use crate::domain::{
    model::Rollout,
    plan::Reach,
    rules::{Load, STARTS_MS},
    sequential::Sample,
    wave::{Counted, WaveCount},
};

fn waits_name(rollout: i64) -> String {
    format!("waits r-{rollout}")
}

impl Tx {
    /// A moment that offers move on; 0 where none did yet.
    pub async fn moment(&mut self, name: &str) -> Result<i64, StoreError> {
        let at = self.one(
            "SELECT at FROM moment WHERE name = $1",
            values![name],
            |row| row.int(),
        );
        Ok(at.await?.unwrap_or(0))
    }

    /// Moves a moment on, never back.
    pub async fn move_moment(&mut self, name: &str, at: i64) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO moment (name, at) VALUES ($1, $2) \
             ON CONFLICT (name) DO UPDATE SET at = excluded.at WHERE moment.at < excluded.at",
            values![name, at],
        )
        .await
        .map(drop)
    }

    /// Until when a device that the wave has reached waits for its turn.
    pub async fn move_waits(&mut self, rollout: i64, until: i64) -> Result<(), StoreError> {
        self.move_moment(&waits_name(rollout), until).await
    }

    /// What others do in the rollout; only what its plan asks for is read.
    pub async fn load(&mut self, rollout: &Rollout, now: i64) -> Result<Load, StoreError> {
        let (id, plan) = (rollout.id, &rollout.plan);
        let mut load = Load::default();
        if plan.waves.len() > 1 {
            load.waits_until = self.moment(&waits_name(id)).await?;
        }
        if plan.limits.parallel.is_some() {
            let live = self.one(
                "SELECT COUNT(*) FROM attempt WHERE rollout = $1 AND is_live = 1 \
                 AND is_stalled = 0",
                values![id],
                |row| row.number(),
            );
            load.live = live.await?.unwrap_or(0);
        }
        if plan.limits.starts_per_minute.is_some() {
            let starts = self.one(
                "SELECT COUNT(*), MIN(created_at) FROM attempt WHERE rollout = $1 \
                 AND created_at > $2 AND state NOT LIKE 'skipped:%' AND state <> 'superseded'",
                values![id, now - STARTS_MS],
                |row| Ok((row.number()?, row.int_maybe()?)),
            );
            (load.starts, load.oldest_start) = starts.await?.unwrap_or_default();
        }
        if rollout.wave == 0 && matches!(plan.wave(0).reach, Reach::First(_)) {
            let firsts = self.one(
                "SELECT COUNT(*) FROM attempt WHERE rollout = $1 AND is_current = 1 \
                 AND wave = 0 AND state NOT LIKE 'skipped:%' AND state <> 'superseded'",
                values![id],
                |row| row.number(),
            );
            load.firsts = firsts.await?.unwrap_or(0);
        }
        Ok(load)
    }

    /// The attempts of a rollout as its waves go by them.
    pub async fn counted(&mut self, rollout: &Rollout, now: i64) -> Result<Counted, StoreError> {
        let soaked = now - rollout.plan.gates.soak_ms;
        let rows = self
            .all(
                "SELECT wave, CASE WHEN state = 'succeeded' THEN 'ok' \
                 WHEN is_live = 1 THEN 'live' \
                 WHEN retry_at IS NOT NULL THEN 'retry' \
                 WHEN state LIKE 'failed:%' OR state IN ('rolled_back:boot', \
                 'rolled_back:health', 'timed_out') THEN 'bad' ELSE 'out' END AS kind, \
                 is_stalled, COUNT(*), MIN(created_at), MAX(updated_at), \
                 COUNT(CASE WHEN updated_at <= $2 THEN 1 END) \
                 FROM attempt WHERE rollout = $1 AND is_current = 1 \
                 GROUP BY wave, kind, is_stalled",
                values![rollout.id, soaked],
                |row| {
                    Ok(Group {
                        wave: row.number()?,
                        kind: row.text()?,
                        stalled: row.flag()?,
                        devices: row.number()?,
                        first: row.int()?,
                        last: row.int()?,
                        soaked: row.number()?,
                    })
                },
            )
            .await?;
        let mut counted = Counted {
            waits_until: self.moment(&waits_name(rollout.id)).await?,
            ..Counted::default()
        };
        for group in &rows {
            group.count(rollout.wave, &mut counted);
        }
        // What an operator has seen and resumed after does not stop it a second time.
        counted.failures = counted.failures.saturating_sub(rollout.forgiven);
        counted.ended = counted.ended.saturating_sub(rollout.forgiven);
        Ok(counted)
    }
}

/// Resets that a healthy image does not make.
macro_rules! crashes {
    () => {
        "('panic', 'watchdog')"
    };
}

impl Tx {
    /// Devices that were brought the release and have been lost or crashed since.
    pub async fn unwell(&mut self, rollout: i64, lost_before: i64) -> Result<u64, StoreError> {
        let found = self.one(
            concat!(
                "SELECT COUNT(*) FROM attempt JOIN device ON device.id = attempt.device \
                 JOIN sighting ON sighting.device = attempt.device \
                 WHERE attempt.rollout = $1 AND attempt.is_current = 1 \
                 AND attempt.state = 'succeeded' AND (sighting.last_seen < $2 OR device.reset IN ",
                crashes!(),
                ")"
            ),
            values![rollout, lost_before],
            |row| row.number(),
        );
        Ok(found.await?.unwrap_or(0))
    }

    /// Devices that have been seen since `since` and that the rollout has brought nothing, and how
    /// many of these have been lost since.
    pub async fn control(
        &mut self,
        rollout: i64,
        since: i64,
        lost_before: i64,
    ) -> Result<Sample, StoreError> {
        let found = self.one(
            "SELECT COUNT(*), COUNT(CASE WHEN last_seen < $3 THEN 1 END) FROM sighting \
             WHERE last_seen >= $2 AND NOT EXISTS (SELECT 1 FROM attempt \
             WHERE attempt.rollout = $1 AND attempt.device = sighting.device \
             AND attempt.is_current = 1)",
            values![rollout, since, lost_before],
            |row| {
                Ok(Sample {
                    devices: row.number()?,
                    failures: row.number()?,
                })
            },
        );
        Ok(found.await?.unwrap_or_default())
    }
}

/// Attempts of one wave that stand alike.
struct Group {
    wave: u32,
    kind: String,
    stalled: bool,
    devices: u64,
    first: i64,
    last: i64,
    soaked: u64,
}

impl Group {
    fn count(&self, wave: u32, counted: &mut Counted) {
        match self.kind.as_str() {
            "ok" => counted.ended += self.devices,
            "bad" => {
                counted.ended += self.devices;
                counted.failures += self.devices;
            }
            _ => {}
        }
        if self.wave == wave {
            self.count_in(&mut counted.wave);
        }
    }

    fn count_in(&self, wave: &mut WaveCount) {
        if self.kind == "out" {
            return;
        }
        let first = wave.first_start.map_or(self.first, |at| at.min(self.first));
        wave.first_start = Some(first);
        if self.kind == "live" && self.stalled {
            return;
        }
        wave.started += self.devices;
        match self.kind.as_str() {
            "ok" => {
                wave.healthy += self.soaked;
                wave.soaking += self.devices - self.soaked;
                wave.confirmed_last = wave.confirmed_last.max(Some(self.last));
            }
            "live" => wave.live += self.devices,
            "retry" => wave.retrying += self.devices,
            _ => {}
        }
    }
}
