//! What only the dashboard asks: lists that are filtered and sorted, newest first, and sums.

use std::cmp::Ordering;

use fota_proto::{AttemptState, manager::Event, operators::AuditEntry};

use super::{
    StoreError, Tx,
    audit::entry,
    db::{Value, values},
    devices::{device, select},
    events::event,
};
use crate::domain::model::Device;

/// The order of a list of devices; ids break every tie, so that a page never shows one twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// By id.
    #[default]
    Id,
    /// Those seen last first.
    Seen,
    /// Those away longest first.
    Away,
}

impl Sort {
    /// Which of two devices comes first, each as when it was seen, and its id.
    pub fn compare(self, one: &(i64, String), other: &(i64, String)) -> Ordering {
        let by_seen = match self {
            Self::Id => Ordering::Equal,
            Self::Seen => other.0.cmp(&one.0),
            Self::Away => one.0.cmp(&other.0),
        };
        by_seen.then_with(|| one.1.cmp(&other.1))
    }
}

/// Which devices a list shows, and in which order.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Part of the id, in any case.
    pub text: String,
    pub group: String,
    /// The state of what [`Tx::newest_attempt`] gives, or its kind (`failed`).
    pub state: String,
    /// The version that runs; `unknown` where it was never said.
    pub version: String,
    pub chip: Option<u16>,
    /// Seen after this, and not after that.
    pub seen: Option<(i64, i64)>,
    pub sort: Sort,
    /// The last device of the page before: when it was seen, and its id.
    pub after: Option<(i64, String)>,
    pub limit: i64,
}

impl ListFilter {
    /// The values $1 to $7 of [`matching`].
    fn asked(&self) -> [Value; 7] {
        let (from, to) = self.seen.unwrap_or((-1, i64::MAX));
        values![
            pattern(&self.text),
            self.group.as_str(),
            self.state.as_str(),
            self.version.as_str(),
            self.chip.map_or(-1, i64::from),
            from,
            to
        ]
    }
}

// $1 text · $2 group · $3 state · $4 version · $5 chip · $6 $7 seen. What is in parentheses behind IN
// asks nothing of the device, so it is looked up once, and only where it is asked for.
macro_rules! matching {
    ($rest:literal) => {
        concat!(
            "FROM sighting WHERE ($1 = '' OR LOWER(sighting.device) LIKE $1 ESCAPE '\\') \
             AND ($2 = '' OR sighting.device IN (SELECT group_member.device FROM group_member \
             WHERE group_name = $2)) \
             AND ($3 = '' OR sighting.device IN (SELECT attempt.device FROM attempt \
             WHERE attempt.is_current = 1 AND (attempt.state = $3 \
             OR attempt.state LIKE $3 || ':%') AND attempt.id = (SELECT newest.id \
             FROM attempt AS newest WHERE newest.device = attempt.device AND newest.is_current = 1 \
             ORDER BY CASE WHEN newest.state = 'superseded' OR newest.state LIKE 'skipped:%' \
             THEN 1 ELSE 0 END, newest.id DESC LIMIT 1))) \
             AND ($4 = '' OR sighting.kind IN (SELECT kind.id FROM kind \
             WHERE COALESCE(kind.version, 'unknown') = $4)) \
             AND ($5 = -1 OR sighting.kind IN (SELECT kind.id FROM kind WHERE kind.chip = $5)) \
             AND sighting.last_seen > $6 AND sighting.last_seen <= $7 ",
            $rest
        )
    };
}

/// Whole devices of a page only: the others are passed over in their short rows.
macro_rules! page {
    ($order:literal, $rest:literal) => {
        concat!(
            select!("WHERE device.id IN (SELECT sighting.device "),
            matching!($rest),
            ") ORDER BY ",
            $order
        )
    };
}

/// A part of a text as a pattern, in lower case.
fn pattern(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let escaped = text.to_lowercase().replace('\\', r"\\");
    format!("%{}%", escaped.replace('%', r"\%").replace('_', r"\_"))
}

impl Tx {
    /// A page of devices.
    pub async fn list_devices(&mut self, filter: &ListFilter) -> Result<Vec<Device>, StoreError> {
        const ID: &str = page!(
            "device.id",
            "AND $8 >= 0 AND sighting.device > $9 ORDER BY sighting.device LIMIT $10"
        );
        const SEEN: &str = page!(
            "sighting.last_seen DESC, device.id",
            "AND (sighting.last_seen < $8 OR (sighting.last_seen = $8 AND sighting.device > $9)) \
             ORDER BY sighting.last_seen DESC, sighting.device LIMIT $10"
        );
        const AWAY: &str = page!(
            "sighting.last_seen, device.id",
            "AND (sighting.last_seen > $8 OR (sighting.last_seen = $8 AND sighting.device > $9)) \
             ORDER BY sighting.last_seen, sighting.device LIMIT $10"
        );
        let (sql, first) = match filter.sort {
            Sort::Id => (ID, 0),
            Sort::Seen => (SEEN, i64::MAX),
            Sort::Away => (AWAY, -1),
        };
        let (after_seen, after_id) = filter.after.clone().unwrap_or((first, String::new()));
        let [text, group, state, version, chip, from, to] = filter.asked();
        let [seen, id, limit] = values![after_seen, after_id, filter.limit];
        let values = [text, group, state, version, chip, from, to, seen, id, limit];
        self.all(sql, values, device).await
    }

    /// How many devices the filter lets through, on all pages.
    pub async fn count_listed(&mut self, filter: &ListFilter) -> Result<u64, StoreError> {
        let sql = concat!("SELECT COUNT(*) ", matching!(""));
        let found = self.one(sql, filter.asked(), |row| row.number()).await?;
        Ok(found.unwrap_or(0))
    }

    /// Gives every device that the filter lets through on any page, as when it was seen, and its id;
    /// in no order.
    pub async fn each_listed(
        &mut self,
        filter: &ListFilter,
        mut take: impl FnMut((i64, String)),
    ) -> Result<(), StoreError> {
        let sql = concat!("SELECT sighting.last_seen, sighting.device ", matching!(""));
        self.each(sql, filter.asked(), |row| {
            take((row.int()?, row.text()?));
            Ok(())
        })
        .await
    }

    /// Versions that devices run, most devices first; at most `limit`.
    pub async fn running_versions(&mut self, limit: i64) -> Result<Vec<String>, StoreError> {
        self.all(
            "SELECT COALESCE(version, 'unknown') FROM kind \
             GROUP BY version ORDER BY SUM(devices) DESC, version LIMIT $1",
            values![limit],
            |row| row.text(),
        )
        .await
    }

    /// Chips that devices have.
    pub async fn known_chips(&mut self) -> Result<Vec<u16>, StoreError> {
        let sql = "SELECT DISTINCT chip FROM kind WHERE chip IS NOT NULL ORDER BY chip";
        self.all(sql, [], |row| row.number()).await
    }

    /// A page of history, newest first, below `before`: of a device, of a rollout, or of kinds that
    /// begin with `kind`, where these are given.
    pub async fn newest_events(
        &mut self,
        of: &Of,
        before: i64,
        limit: i64,
    ) -> Result<Vec<Event>, StoreError> {
        // One statement per kind of filter, so that each uses its index.
        const ALL: &str = "SELECT id, at, kind, device, rollout, release, actor, text, state \
             FROM event WHERE id < $1 AND $2 = '' AND $3 = 0 AND kind LIKE $4 || '%' \
             AND ($5 = '' OR actor = $5) ORDER BY id DESC LIMIT $6";
        const DEVICE: &str = "SELECT id, at, kind, device, rollout, release, actor, text, state \
             FROM event WHERE id < $1 AND device = $2 AND ($3 = 0 OR rollout = $3) \
             AND kind LIKE $4 || '%' AND ($5 = '' OR actor = $5) ORDER BY id DESC LIMIT $6";
        const ROLLOUT: &str = "SELECT id, at, kind, device, rollout, release, actor, text, state \
             FROM event WHERE id < $1 AND $2 = '' AND rollout = $3 AND kind LIKE $4 || '%' \
             AND ($5 = '' OR actor = $5) ORDER BY id DESC LIMIT $6";
        let sql = match (of.device.is_empty(), of.rollout) {
            (false, _) => DEVICE,
            (true, 0) => ALL,
            (true, _) => ROLLOUT,
        };
        let values = values![
            before,
            of.device.as_str(),
            of.rollout,
            of.kind.as_str(),
            of.actor.as_str(),
            limit
        ];
        self.all(sql, values, event).await
    }

    /// A page of the audit log, newest first, below `before`: of `actor`, and of actions that begin
    /// with `action`, where these are given.
    pub async fn newest_audit(
        &mut self,
        actor: &str,
        action: &str,
        before: i64,
        limit: i64,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        self.all(
            "SELECT seq, at, actor, role, action, object, detail, request, address, \
             previous, hash FROM audit WHERE seq < $1 AND ($3 = '' OR actor = $3) \
             AND action LIKE $4 || '%' ORDER BY seq DESC LIMIT $2",
            values![before, limit, actor, action],
            entry,
        )
        .await
    }

    /// The devices that were first seen last: id, version, chip, and when.
    pub async fn newest_devices(
        &mut self,
        limit: i64,
    ) -> Result<Vec<(String, Option<String>, Option<u16>, i64)>, StoreError> {
        self.all(
            "SELECT id, version, chip, first_seen FROM device ORDER BY first_seen DESC, id LIMIT $1",
            values![limit],
            |row| Ok((row.text()?, row.text_maybe()?, row.number_maybe()?, row.int()?)),
        )
        .await
    }

    /// How attempts since `since` went wrong: state, version of the release, devices.
    pub async fn failure_reasons(
        &mut self,
        since: i64,
    ) -> Result<Vec<(AttemptState, String, u64)>, StoreError> {
        self.all(
            "SELECT attempt.state, release.version, COUNT(*) FROM attempt \
             JOIN release ON release.id = attempt.release WHERE attempt.is_live = 0 \
             AND attempt.updated_at >= $1 \
             AND (attempt.state LIKE 'failed:%' OR attempt.state LIKE 'rolled_back:%' \
             OR attempt.state = 'timed_out') GROUP BY attempt.state, release.version \
             ORDER BY COUNT(*) DESC, attempt.state, release.version",
            values![since],
            |row| Ok((row.parsed()?, row.text()?, row.number()?)),
        )
        .await
    }

    /// The waves of a rollout that devices started in.
    pub async fn wave_devices(&mut self, rollout: i64) -> Result<Vec<WaveDevices>, StoreError> {
        self.all(
            "SELECT wave, COUNT(*), COUNT(CASE WHEN state = 'succeeded' THEN 1 END), \
             COUNT(CASE WHEN state LIKE 'failed:%' OR state IN ('rolled_back:boot', \
             'rolled_back:health', 'timed_out') THEN 1 END) FROM attempt WHERE rollout = $1 \
             AND is_current = 1 AND state NOT LIKE 'skipped:%' AND state <> 'superseded' \
             GROUP BY wave ORDER BY wave",
            values![rollout],
            |row| {
                Ok(WaveDevices {
                    wave: row.number()?,
                    started: row.number()?,
                    healthy: row.number()?,
                    failed: row.number()?,
                })
            },
        )
        .await
    }

    /// Attempts under way that have not moved since `before`.
    pub async fn stalled_attempts(&mut self, before: i64) -> Result<u64, StoreError> {
        let sql = "SELECT COUNT(*) FROM attempt WHERE is_live = 1 AND state <> 'waiting' \
                   AND updated_at < $1";
        let found = self.one(sql, values![before], |row| row.number()).await?;
        Ok(found.unwrap_or(0))
    }

    /// When devices said that they run something new, oldest first: event, time, device, sentence.
    pub async fn version_changes(
        &mut self,
        after: i64,
        limit: i64,
    ) -> Result<Vec<(i64, i64, String, String)>, StoreError> {
        self.all(
            "SELECT id, at, device, text FROM event WHERE id > $1 AND device IS NOT NULL \
             AND kind IN ('device.seen', 'device.running') ORDER BY id LIMIT $2",
            values![after, limit],
            |row| Ok((row.int()?, row.int()?, row.text()?, row.text()?)),
        )
        .await
    }
}

/// The devices of one wave that started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaveDevices {
    /// Number of the wave, from 0.
    pub wave: u32,
    pub started: u64,
    /// Confirmed.
    pub healthy: u64,
    /// Failed, or gone back by themselves.
    pub failed: u64,
}

/// What a page of history is of; empty and 0 ask for nothing.
#[derive(Clone, Debug, Default)]
pub struct Of {
    pub device: String,
    pub rollout: i64,
    /// How the kind of event begins.
    pub kind: String,
    /// Who did it; empty for anybody.
    pub actor: String,
}
