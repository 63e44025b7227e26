use fota_proto::{AttemptState, Sha256, checkin::Patch};

use super::{
    StoreError, Tx,
    db::{Row, values},
};
use crate::domain::{delta::Offered, model::Attempt};

/// Attempts looked at in one go for their time; the rest has its turn a moment later.
const IDLE_MAX: i64 = 500;

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT attempt.id, attempt.rollout, attempt.device, attempt.release, \
             attempt.is_current, attempt.from_version, attempt.from_elf, attempt.state, \
             attempt.detail, attempt.bytes_done, attempt.bytes_total, attempt.bytes_sent, \
             attempt.requests, attempt.installs, attempt.is_back, attempt.patch_sha256, \
             attempt.patch_bytes, attempt.patch_given_up, attempt.wave, attempt.tries, \
             attempt.retry_at, attempt.is_stalled, attempt.created_at, attempt.updated_at \
             FROM attempt ",
            $rest
        )
    };
}

fn attempt(row: &mut Row) -> Result<Attempt, StoreError> {
    Ok(Attempt {
        id: row.int()?,
        rollout: row.int()?,
        device: row.text()?,
        release: row.int()?,
        current: row.flag()?,
        from_version: row.text_maybe()?,
        from_elf: row.parsed_maybe()?,
        state: row.parsed()?,
        detail: row.text_maybe()?,
        bytes_done: row.number()?,
        bytes_total: row.number()?,
        bytes_sent: row.number()?,
        requests: row.number()?,
        installs: row.number()?,
        back: row.flag()?,
        patch: offered(row)?,
        wave: row.number()?,
        tries: row.number()?,
        retry_at: row.int_maybe()?,
        stalled: row.flag()?,
        created_at: row.int()?,
        updated_at: row.int()?,
    })
}

/// The patch that an attempt was offered.
fn offered(row: &mut Row) -> Result<Option<Offered>, StoreError> {
    let (sha256, bytes, given_up) = (row.parsed_maybe()?, row.number_maybe()?, row.flag()?);
    let patch = sha256
        .zip(bytes)
        .map(|(sha256, bytes)| Patch { sha256, bytes });
    Ok(patch.map(|patch| Offered { patch, given_up }))
}

impl Tx {
    /// The id that the next new attempt gets.
    pub async fn next_attempt_id(&mut self) -> Result<i64, StoreError> {
        let next = self
            .one("SELECT COALESCE(MAX(id), 0) + 1 FROM attempt", [], |row| {
                row.int()
            })
            .await?;
        Ok(next.unwrap_or(1))
    }

    pub async fn insert_attempt(&mut self, new: &Attempt) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO attempt (id, rollout, device, release, is_current, is_live, from_version, \
             from_elf, state, detail, bytes_done, bytes_total, bytes_sent, requests, installs, \
             is_back, patch_sha256, patch_bytes, patch_given_up, created_at, updated_at, wave, tries, \
             retry_at, is_stalled) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, \
             $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25)",
            values![
                new.id,
                new.rollout,
                &new.device,
                new.release,
                new.current,
                !new.state.is_end(),
                new.from_version.clone(),
                new.from_elf,
                new.state,
                new.detail.clone(),
                new.bytes_done,
                new.bytes_total,
                new.bytes_sent,
                new.requests,
                new.installs,
                new.back,
                new.patch.map(|offered| offered.patch.sha256),
                new.patch.map(|offered| offered.patch.bytes),
                new.patch.is_some_and(|offered| offered.given_up),
                new.created_at,
                new.updated_at,
                new.wave,
                new.tries,
                new.retry_at,
                new.stalled,
            ],
        )
        .await
        .map(drop)
    }

    /// Moves an attempt on. One that has ended is never changed: its history stands.
    pub async fn update_attempt(&mut self, attempt: &Attempt) -> Result<(), StoreError> {
        self.run(
            "UPDATE attempt SET state = $1, is_live = $2, detail = $3, bytes_done = $4, \
             installs = $5, is_back = $6, patch_given_up = $7, updated_at = $8, retry_at = $9, \
             is_stalled = $10 WHERE id = $11 AND is_live = 1",
            values![
                attempt.state,
                !attempt.state.is_end(),
                attempt.detail.clone(),
                attempt.bytes_done,
                attempt.installs,
                attempt.back,
                attempt.patch.is_some_and(|offered| offered.given_up),
                attempt.updated_at,
                attempt.retry_at,
                attempt.stalled,
                attempt.id,
            ],
        )
        .await
        .map(drop)
    }

    /// Leaves an attempt behind as history, so that another one may follow it.
    pub async fn leave_attempt(&mut self, id: i64) -> Result<(), StoreError> {
        self.run(
            "UPDATE attempt SET is_current = 0 WHERE id = $1",
            values![id],
        )
        .await
        .map(drop)
    }

    pub async fn attempt(&mut self, id: i64) -> Result<Option<Attempt>, StoreError> {
        self.one(select!("WHERE id = $1"), values![id], attempt)
            .await
    }

    /// The device's current attempts in rollouts that may offer, and those that have not ended.
    pub async fn standing_attempts(&mut self, device: &str) -> Result<Vec<Attempt>, StoreError> {
        let sql = select!(
            "JOIN rollout ON rollout.id = attempt.rollout WHERE attempt.device = $1 \
             AND (attempt.is_live = 1 \
             OR (attempt.is_current = 1 AND rollout.state IN ('active', 'paused'))) \
             ORDER BY attempt.id DESC"
        );
        self.all(sql, values![device], attempt).await
    }

    /// The device's newest attempt that says something: not one that was left out or taken over
    /// at once, unless there is no other.
    pub async fn newest_attempt(&mut self, device: &str) -> Result<Option<Attempt>, StoreError> {
        let sql = select!(
            "WHERE device = $1 AND is_current = 1 \
             ORDER BY CASE WHEN state = 'superseded' OR state LIKE 'skipped:%' THEN 1 ELSE 0 END, \
             id DESC LIMIT 1"
        );
        self.one(sql, values![device], attempt).await
    }

    /// Every attempt of a device, newest first: also those that a retry has left behind.
    pub async fn device_attempts(
        &mut self,
        device: &str,
        limit: i64,
    ) -> Result<Vec<Attempt>, StoreError> {
        let sql = select!("WHERE device = $1 ORDER BY id DESC LIMIT $2");
        self.all(sql, values![device, limit], attempt).await
    }

    /// The current attempts of a rollout, those that went wrong first.
    pub async fn rollout_attempts(
        &mut self,
        rollout: i64,
        limit: i64,
    ) -> Result<Vec<Attempt>, StoreError> {
        let sql = select!(
            "WHERE rollout = $1 AND is_current = 1 \
             ORDER BY CASE WHEN state LIKE 'failed:%' OR state LIKE 'rolled_back:%' \
             OR state = 'timed_out' THEN 0 WHEN is_live = 1 THEN 1 ELSE 2 END, device LIMIT $2"
        );
        self.all(sql, values![rollout, limit], attempt).await
    }

    /// Attempts under way that have not changed since `before` and are not known to be stalled.
    pub async fn idle_attempts(
        &mut self,
        rollout: i64,
        before: i64,
    ) -> Result<Vec<Attempt>, StoreError> {
        let sql = select!(
            "WHERE rollout = $1 AND is_live = 1 AND is_stalled = 0 AND updated_at <= $2 \
             ORDER BY updated_at LIMIT $3"
        );
        self.all(sql, values![rollout, before, IDLE_MAX], attempt)
            .await
    }

    /// Attempts that have been in this state since `before` without progress.
    pub async fn attempts_late(
        &mut self,
        rollout: i64,
        state: AttemptState,
        before: i64,
    ) -> Result<Vec<Attempt>, StoreError> {
        let sql = select!(
            "WHERE rollout = $1 AND is_live = 1 AND state = $2 AND updated_at <= $3 \
             ORDER BY updated_at LIMIT $4"
        );
        self.all(sql, values![rollout, state, before, IDLE_MAX], attempt)
            .await
    }

    /// Ends the attempts of an aborted rollout that have not begun to install.
    pub async fn abort_attempts(&mut self, rollout: i64, now: i64) -> Result<u64, StoreError> {
        self.run(
            "UPDATE attempt SET state = 'aborted', is_live = 0, updated_at = $1 \
             WHERE rollout = $2 AND is_live = 1 \
             AND state IN ('waiting', 'offered', 'downloading', 'downloaded')",
            values![now, rollout],
        )
        .await
    }

    /// Leaves the failed attempts of a rollout behind as history, so that their devices are
    /// offered the release again; not where it is blocked on the device. Gives their number.
    pub async fn retry_attempts(&mut self, rollout: i64) -> Result<u64, StoreError> {
        self.run(
            "UPDATE attempt SET is_current = 0 WHERE rollout = $1 AND is_current = 1 \
             AND (state LIKE 'failed:%' OR state LIKE 'rolled_back:%' OR state = 'timed_out' \
             OR state IN ('skipped:blocked_release', 'skipped:untrusted_release', \
             'skipped:expired_release')) \
             AND NOT EXISTS (SELECT 1 FROM block WHERE block.device = attempt.device \
             AND block.release = attempt.release)",
            values![rollout],
        )
        .await
    }

    /// Adds to what was sent to a device for its newest attempt at the release with this image or
    /// artifact, or with this patch.
    pub async fn add_sent(
        &mut self,
        device: &str,
        image: Sha256,
        bytes: u64,
        requests: u64,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE attempt SET bytes_sent = bytes_sent + $1, requests = requests + $2 \
             WHERE id = (SELECT MAX(sent.id) FROM attempt AS sent \
             JOIN release ON release.id = sent.release \
             WHERE sent.device = $3 AND (release.sha256 = $4 OR release.artifact_sha256 = $4 \
             OR sent.patch_sha256 = $4))",
            values![bytes, requests, device, image],
        )
        .await
        .map(drop)
    }

    /// Failures and boot or health rollbacks among the current attempts of a rollout.
    pub async fn failures(&mut self, rollout: i64) -> Result<u64, StoreError> {
        let found = self
            .one(
                "SELECT COUNT(*) FROM attempt WHERE rollout = $1 AND is_current = 1 \
                 AND (state LIKE 'failed:%' OR state IN ('rolled_back:boot', 'rolled_back:health', \
                 'timed_out')) AND retry_at IS NULL",
                values![rollout],
                |row| row.number(),
            )
            .await?;
        Ok(found.unwrap_or(0))
    }

    /// Attempts under way, and those that went wrong since `since`: for the summary.
    pub async fn fleet_attempts(&mut self, since: i64) -> Result<(u64, u64), StoreError> {
        let under_way = self
            .one(
                "SELECT COUNT(*) FROM attempt WHERE is_live = 1 AND state <> 'waiting'",
                [],
                |row| row.number(),
            )
            .await?;
        let failed = self
            .one(
                "SELECT COUNT(*) FROM attempt WHERE is_live = 0 AND updated_at >= $1 AND (state LIKE 'failed:%' \
                 OR state LIKE 'rolled_back:%' OR state = 'timed_out')",
                values![since],
                |row| row.number(),
            )
            .await?;
        Ok((under_way.unwrap_or(0), failed.unwrap_or(0)))
    }

    /// Devices whose attempt in this rollout brought the release or has it on trial.
    pub async fn devices_updated_by(&mut self, rollout: i64) -> Result<Vec<String>, StoreError> {
        self.all(
            "SELECT device FROM attempt WHERE rollout = $1 AND is_current = 1 \
             AND state IN ('succeeded', 'trial') ORDER BY device",
            values![rollout],
            |row| row.text(),
        )
        .await
    }
}
