//! What others do in a rollout at the moment, and the counts that its waves go by.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    StoreError, Tx,
    db::values,
    devices::{device, map, select},
};
use crate::domain::{
    model::{Device, Rollout},
    plan::Reach,
    rules::{Load, STARTS_MS},
    wave::{Counted, WaveCount},
};

fn waits_name(rollout: i64) -> String {
    format!("waits r-{rollout}")
}

fn judged_name(rollout: i64) -> String {
    format!("judged r-{rollout}")
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

/// Attempts that are judged: of more the newest. So many tell a rise of half a point from none.
const JUDGED_MAX: i64 = 10_000;

/// An attempt that has ended, and its device now.
pub struct Ended {
    pub failed: bool,
    pub ended_at: i64,
    pub last_seen: i64,
    pub crashed_at: Option<i64>,
    pub metrics: BTreeMap<String, i32>,
}

impl Tx {
    /// From when on a rollout judges how updated devices are: a person has seen what was before.
    pub async fn judged_since(&mut self, rollout: i64) -> Result<i64, StoreError> {
        self.moment(&judged_name(rollout)).await
    }

    /// Lets a rollout judge afresh.
    pub async fn judge_afresh(&mut self, rollout: i64, now: i64) -> Result<(), StoreError> {
        self.move_moment(&judged_name(rollout), now).await
    }

    /// The attempts of a rollout that have ended as a failure, or with the release that their
    /// device still runs, since a person has looked at it.
    pub async fn ended_attempts(&mut self, rollout: i64) -> Result<Vec<Ended>, StoreError> {
        let since = self.judged_since(rollout).await?;
        self.all(
            "SELECT CASE WHEN attempt.state = 'succeeded' THEN 0 ELSE 1 END, attempt.updated_at, sighting.last_seen, \
             device.crashed_at, device.metrics \
             FROM attempt JOIN device ON device.id = attempt.device \
             JOIN sighting ON sighting.device = attempt.device \
             JOIN release ON release.id = attempt.release \
             WHERE attempt.rollout = $1 AND attempt.is_current = 1 AND attempt.is_live = 0 \
             AND attempt.retry_at IS NULL AND attempt.updated_at > $2 \
             AND (attempt.state LIKE 'failed:%' OR attempt.state IN ('rolled_back:boot', \
             'rolled_back:health', 'timed_out') OR (attempt.state = 'succeeded' \
             AND (device.elf_sha256 = release.elf_sha256 OR (device.elf_sha256 IS NULL \
             AND device.version = release.version)))) \
             ORDER BY attempt.created_at DESC LIMIT $3",
            values![rollout, since, JUDGED_MAX],
            |row| {
                Ok(Ended {
                    failed: row.flag()?,
                    ended_at: row.int()?,
                    last_seen: row.int()?,
                    crashed_at: row.int_maybe()?,
                    metrics: map(&row.text()?)?,
                })
            },
        )
        .await
    }

    /// Devices that have been seen since `since` and that the rollout has brought nothing: a fair
    /// sample of the fleet, at most `limit`.
    pub async fn others(
        &mut self,
        rollout: i64,
        since: i64,
        limit: i64,
    ) -> Result<Vec<Device>, StoreError> {
        let sql = select!(
            "WHERE sighting.last_seen >= $2 AND NOT EXISTS (SELECT 1 FROM attempt \
             WHERE attempt.rollout = $1 AND attempt.device = device.id \
             AND attempt.is_current = 1 AND attempt.state NOT LIKE 'skipped:%') \
             ORDER BY spread, device.id LIMIT $3"
        );
        self.all(sql, values![rollout, since, limit], device).await
    }

    /// Whether the rollout has brought a device nothing.
    pub async fn is_other(&mut self, rollout: i64, device: &str) -> Result<bool, StoreError> {
        let found = self.one(
            "SELECT 1 FROM attempt WHERE rollout = $1 AND device = $2 AND is_current = 1 \
             AND state NOT LIKE 'skipped:%'",
            values![rollout, device],
            |row| row.int(),
        );
        Ok(found.await?.is_none())
    }

    /// When the attempt under way that has waited longest last moved.
    pub async fn idle_since(&mut self, rollout: i64) -> Result<Option<i64>, StoreError> {
        let oldest = self.one(
            "SELECT MIN(updated_at) FROM attempt WHERE rollout = $1 AND is_live = 1",
            values![rollout],
            |row| row.int_maybe(),
        );
        Ok(oldest.await?.flatten())
    }

    /// Rollouts of which something happened after this event, and the last event.
    pub async fn rollouts_with_news(
        &mut self,
        after: i64,
    ) -> Result<(BTreeSet<i64>, i64), StoreError> {
        let last = self.last_event_id().await?;
        if last <= after {
            return Ok((BTreeSet::new(), last));
        }
        let rollouts = self.all(
            "SELECT DISTINCT rollout FROM event WHERE id > $1 AND rollout IS NOT NULL",
            values![after],
            |row| row.int(),
        );
        Ok((rollouts.await?.into_iter().collect(), last))
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
