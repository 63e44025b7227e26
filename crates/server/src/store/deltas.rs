use fota_proto::{Sha256, checkin::Patch};

use super::{
    StoreError, Tx,
    db::{Row, values},
};
use crate::domain::delta::{
    Delta, PER_RELEASE_MAX, State, Wanted, profile_name, profile_of, state_name, state_of,
};

/// A patch with what a list shows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDelta {
    pub delta: Delta,
    pub made_in_ms: Option<u64>,
    /// Why it failed or is useless.
    pub detail: Option<String>,
    /// Attempts that were offered it, and of those, how many have the release now.
    pub offered: u64,
    pub succeeded: u64,
    /// Bytes that those were sent less than the artifact has.
    pub spared_bytes: i64,
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    pub state: State,
    pub made_in_ms: u64,
    pub detail: Option<String>,
}

/// Which patches a list shows.
#[derive(Clone, Copy, Debug)]
pub struct DeltaFilter {
    /// Only those for this release.
    pub release: Option<i64>,
    /// Only ids below this one.
    pub before: i64,
    pub limit: i64,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT delta.id, delta.release, delta.from_release, delta.profile, delta.state, \
             delta.sha256, delta.bytes, delta.queued_at, delta.made_in_ms, delta.detail FROM delta ",
            $rest
        )
    };
}

/// Bytes that the attempts with the release were sent less than the artifact has. Its index has 16
/// bytes for each 4,096 of the image.
macro_rules! spared {
    ($rest:literal) => {
        spared!(" FROM", $rest)
    };
    ($from:literal, $rest:literal) => {
        concat!(
            "SELECT CAST(COALESCE(SUM(bytes_total + (bytes_total + 4095) / 4096 * 16 \
             - bytes_sent), 0) AS BIGINT)",
            $from,
            " attempt WHERE patch_sha256 IS NOT NULL AND state = 'succeeded'",
            $rest
        )
    };
}

fn delta(row: &mut Row) -> Result<Delta, StoreError> {
    let (id, release, from) = (row.int()?, row.int()?, row.int_maybe()?);
    let profile = row.text()?;
    let profile =
        profile_of(&profile).ok_or_else(|| StoreError::stored("a patch profile", &profile))?;
    let name = row.text()?;
    let (sha256, bytes): (Option<Sha256>, Option<u32>) = (row.parsed_maybe()?, row.number_maybe()?);
    let state = state_of(&name, sha256.zip(bytes));
    Ok(Delta {
        id,
        release,
        from,
        profile,
        state: state.ok_or_else(|| StoreError::stored("a patch state", &name))?,
        queued_at: row.int()?,
    })
}

fn stored(row: &mut Row) -> Result<StoredDelta, StoreError> {
    Ok(StoredDelta {
        delta: delta(row)?,
        made_in_ms: row.number_maybe()?,
        detail: row.text_maybe()?,
        offered: 0,
        succeeded: 0,
        spared_bytes: 0,
    })
}

impl Tx {
    /// Asks for a patch; asking again changes nothing, but one that failed is tried again where an
    /// operator says so.
    pub async fn queue_delta(&mut self, wanted: Wanted, now: i64) -> Result<(), StoreError> {
        if self.find_delta(wanted).await?.is_some() {
            return Ok(());
        }
        self.run(
            "INSERT INTO delta (id, release, from_release, profile, state, queued_at, tries) \
             SELECT COALESCE(MAX(id), 0) + 1, $1, $2, $3, 'queued', $4, 0 FROM delta",
            values![
                wanted.release,
                wanted.from,
                profile_name(wanted.profile),
                now
            ],
        )
        .await
        .map(drop)
    }

    /// Puts a patch that failed back into the queue.
    pub async fn queue_delta_again(&mut self, id: i64, now: i64) -> Result<(), StoreError> {
        self.run(
            "UPDATE delta SET state = 'queued', detail = NULL, made_in_ms = NULL, tries = 0, \
             queued_at = $1 \
             WHERE id = $2 AND state = 'failed'",
            values![now, id],
        )
        .await
        .map(drop)
    }

    pub async fn find_delta(&mut self, wanted: Wanted) -> Result<Option<StoredDelta>, StoreError> {
        // A NULL is equal to nothing; no release has number 0.
        let sql = select!("WHERE release = $1 AND profile = $2 AND COALESCE(from_release, 0) = $3");
        let profile = profile_name(wanted.profile);
        let values = values![wanted.release, profile, wanted.from.unwrap_or(0)];
        self.one(sql, values, stored).await
    }

    /// How many patches the release has or is to have.
    pub async fn count_deltas(&mut self, release: i64) -> Result<u64, StoreError> {
        let sql = "SELECT COUNT(*) FROM delta WHERE release = $1";
        let found = self.one(sql, values![release], |row| row.number()).await?;
        Ok(found.unwrap_or(0))
    }

    /// Patches to the releases of rollouts that may offer.
    pub(super) async fn planned_deltas(
        &mut self,
    ) -> Result<std::collections::BTreeMap<i64, Vec<Delta>>, StoreError> {
        let sql = select!(
            "WHERE release IN (SELECT release FROM rollout WHERE state IN ('active', 'paused')) \
             ORDER BY id"
        );
        let mut planned = std::collections::BTreeMap::<i64, Vec<Delta>>::new();
        for delta in self.all(sql, [], delta).await? {
            let of_release = planned.entry(delta.release).or_default();
            if of_release.len() < PER_RELEASE_MAX {
                of_release.push(delta);
            }
        }
        Ok(planned)
    }

    /// A page of patches, newest first.
    pub async fn deltas(&mut self, filter: DeltaFilter) -> Result<Vec<StoredDelta>, StoreError> {
        let sql = select!("WHERE id < $1 AND ($2 = 0 OR release = $2) ORDER BY id DESC LIMIT $3");
        let values = values![filter.before, filter.release.unwrap_or(0), filter.limit];
        let mut found = self.all(sql, values, stored).await?;
        for stored in &mut found {
            if let State::Ready(patch) = stored.delta.state {
                self.count_use(stored, patch).await?;
            }
        }
        Ok(found)
    }

    async fn count_use(
        &mut self,
        stored: &mut StoredDelta,
        patch: Patch,
    ) -> Result<(), StoreError> {
        let used = self
            .one(
                "SELECT COUNT(*), \
                 CAST(COALESCE(SUM(CASE WHEN state = 'succeeded' THEN 1 ELSE 0 END), 0) AS BIGINT) \
                 FROM attempt WHERE patch_sha256 = $1 AND release = $2",
                values![patch.sha256, stored.delta.release],
                |row| Ok((row.number()?, row.number()?)),
            )
            .await?;
        (stored.offered, stored.succeeded) = used.unwrap_or_default();
        let sql = spared!(" AND patch_sha256 = $1 AND release = $2");
        let values = values![patch.sha256, stored.delta.release];
        let spared = self.one(sql, values, |row| row.int()).await?;
        stored.spared_bytes = spared.unwrap_or(0);
        Ok(())
    }

    /// The oldest job that nobody is at.
    pub async fn next_delta(&mut self, now: i64) -> Result<Option<Delta>, StoreError> {
        let sql = select!(
            "WHERE state = 'queued' OR (state = 'making' AND leased_until < $1) \
             ORDER BY id LIMIT 1"
        );
        self.one(sql, values![now], delta).await
    }

    /// Takes a job and keeps it until `until` unless it is renewed; gives how often it was taken.
    pub async fn claim_delta(&mut self, id: i64, until: i64) -> Result<u64, StoreError> {
        self.run(
            "UPDATE delta SET state = 'making', leased_until = $1, tries = tries + 1 \
             WHERE id = $2",
            values![until, id],
        )
        .await?;
        let sql = "SELECT tries FROM delta WHERE id = $1";
        let tries = self.one(sql, values![id], |row| row.number()).await?;
        Ok(tries.unwrap_or(0))
    }

    /// Gives a job back: whoever took it ends before it was made.
    pub async fn release_delta(&mut self, id: i64) -> Result<(), StoreError> {
        self.run(
            "UPDATE delta SET state = 'queued', leased_until = NULL, tries = tries - 1 \
             WHERE id = $1 AND state = 'making'",
            values![id],
        )
        .await
        .map(drop)
    }

    /// Says that somebody is still at it.
    pub async fn renew_delta(&mut self, id: i64, until: i64) -> Result<(), StoreError> {
        self.run(
            "UPDATE delta SET leased_until = $1 WHERE id = $2 AND state = 'making'",
            values![until, id],
        )
        .await
        .map(drop)
    }

    /// Ends all leases: for a server that is alone on its database and has just started.
    pub async fn end_delta_leases(&mut self) -> Result<u64, StoreError> {
        let sql = "UPDATE delta SET leased_until = 0 WHERE state = 'making'";
        self.run(sql, []).await
    }

    /// Stores what became of a job; false where somebody else has ended it.
    pub async fn end_delta(&mut self, id: i64, made: &Made) -> Result<bool, StoreError> {
        let patch = match made.state {
            State::Ready(patch) => Some(patch),
            _ => None,
        };
        let changed = self
            .run(
                "UPDATE delta SET state = $1, sha256 = $2, bytes = $3, made_in_ms = $4, \
                 detail = $5, leased_until = NULL WHERE id = $6 AND state = 'making'",
                values![
                    state_name(made.state),
                    patch.map(|patch| patch.sha256),
                    patch.map(|patch| patch.bytes),
                    made.made_in_ms,
                    made.detail.clone(),
                    id,
                ],
            )
            .await?;
        Ok(changed == 1)
    }

    /// Bytes that the rollout's devices were spared.
    pub async fn rollout_spared(&mut self, rollout: i64) -> Result<i64, StoreError> {
        let sql = spared!(" AND rollout = $1");
        let spared = self.one(sql, values![rollout], |row| row.int()).await?;
        Ok(spared.unwrap_or(0))
    }

    /// Bytes that all devices together were spared.
    pub async fn fleet_spared(&mut self) -> Result<i64, StoreError> {
        let spared = self.one(spared!(""), [], |row| row.int()).await?;
        Ok(spared.unwrap_or(0))
    }

    /// Bytes that devices were spared, by release.
    pub async fn spared_by_release(&mut self) -> Result<Vec<(i64, i64)>, StoreError> {
        let sql = spared!(", release FROM", " GROUP BY release");
        let read = |row: &mut Row| Ok((row.int()?, row.int()?));
        let spared = self.all(sql, [], read).await?;
        Ok(spared
            .into_iter()
            .map(|(bytes, release)| (release, bytes))
            .collect())
    }
}
