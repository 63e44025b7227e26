//! Sightings and kinds: what a look at the whole fleet reads, so that it reads no device.

use std::collections::{BTreeMap, HashMap};

use fota_proto::Sha256;
use serde::{Deserialize, Serialize};
use sha2::Digest;

use super::{Store, StoreError, Tx, db::values, devices::protocol};
use crate::domain::{
    delta::{profile_name, profile_of},
    kind::Kind,
    model::{Device, Slot},
};

/// Devices whose kinds are worked out in one transaction after an upgrade.
const SETTLED_AT_ONCE: i64 = 1000;
/// So many kinds are asked for one by one; of more, all between them are gone through too.
const KINDS_ONE_BY_ONE_MAX: usize = 200;
/// Kinds that are in memory at once: some 10 MB.
const KINDS_HELD_MAX: usize = 10_000;

/// The devices of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cohort {
    pub devices: u64,
    pub online: u64,
    pub late: u64,
}

/// A kind as JSON in its row. Its digest is over this text, so a field that has no value is left
/// out: a new field changes no kind that does not have it.
#[derive(Serialize, Deserialize)]
struct StoredKind {
    protocol: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chip: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    project: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    elf: Option<Sha256>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    room: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    patches: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, String>,
}

fn facts_json(kind: &Kind) -> String {
    let device = &kind.device;
    let stored = StoredKind {
        protocol: device.protocol.name().to_owned(),
        chip: device.chip,
        revision: device.chip_revision,
        project: device.project.clone(),
        version: device.version.clone(),
        elf: device.elf,
        room: device.slots.first().map(|slot| slot.bytes),
        root: device.trust.root,
        epoch: device.trust.epoch,
        patches: device
            .patches
            .map(|profile| profile_name(profile).to_owned()),
        groups: kind.groups.clone(),
        tags: kind.tags.clone(),
        attributes: device.attributes.clone(),
    };
    serde_json::to_string(&stored).expect("plain data has a JSON form")
}

fn kind(json: &str) -> Result<Kind, StoreError> {
    let stored: StoredKind =
        serde_json::from_str(json).map_err(|_| StoreError::stored("a kind", &json))?;
    let mut device = Device::blank(protocol(&stored.protocol)?);
    device.chip = stored.chip;
    device.chip_revision = stored.revision;
    device.project = stored.project;
    device.version = stored.version;
    device.elf = stored.elf;
    device.trust.root = stored.root;
    device.trust.epoch = stored.epoch;
    device.patches = stored.patches.as_deref().and_then(profile_of);
    device.attributes = stored.attributes;
    device.slots.extend(stored.room.map(Slot::with_room));
    Ok(Kind {
        device,
        groups: stored.groups,
        tags: stored.tags,
    })
}

fn digest(facts: &str) -> Sha256 {
    Sha256(sha2::Sha256::digest(facts.as_bytes()).into())
}

/// Works out the kinds of devices that an older server stored.
pub(super) async fn settle_all(store: &Store) -> Result<(), StoreError> {
    let mut settled = 0;
    loop {
        let mut tx = store.write().await?;
        let unsettled = tx
            .all(
                "SELECT device FROM sighting WHERE kind = 0 ORDER BY device LIMIT $1",
                values![SETTLED_AT_ONCE],
                |row| row.text(),
            )
            .await?;
        if unsettled.is_empty() {
            return Ok(());
        }
        for device in &unsettled {
            tx.settle_again(device).await?;
        }
        tx.commit().await?;
        settled += unsettled.len();
        tracing::info!(
            settled,
            "working out kinds of devices, once after an upgrade"
        );
    }
}

/// Devices that are pinned to something else than release $1, and on which it is not blocked.
macro_rules! pinned_against {
    () => {
        "FROM device_pin JOIN sighting ON sighting.device = device_pin.device \
         WHERE (device_pin.release IS NULL OR device_pin.release <> $1) AND NOT EXISTS \
         (SELECT 1 FROM block WHERE block.release = $1 AND block.device = device_pin.device) "
    };
}

impl Tx {
    /// Notes that the device was seen, and of which kind it is.
    pub(super) async fn settle(
        &mut self,
        device: &Device,
        groups: &[String],
        tags: &BTreeMap<String, String>,
    ) -> Result<(), StoreError> {
        let of = "SELECT kind FROM sighting WHERE device = $1";
        let before = self.one(of, values![&device.id], |row| row.int()).await?;
        let kind = self.kind_number(&Kind::of(device, groups, tags)).await?;
        self.run(
            "INSERT INTO sighting (device, kind, last_seen) VALUES ($1, $2, $3) \
             ON CONFLICT (device) DO UPDATE SET kind = excluded.kind, \
             last_seen = excluded.last_seen",
            values![&device.id, kind, device.last_seen],
        )
        .await?;
        if before == Some(kind) {
            return Ok(());
        }
        self.add_to_kind(kind, 1).await?;
        match before {
            Some(before) => self.add_to_kind(before, -1).await,
            None => Ok(()),
        }
    }

    /// Only kinds that a device has are kept, so their number is bounded by the fleet.
    pub(super) async fn add_to_kind(&mut self, kind: i64, devices: i64) -> Result<(), StoreError> {
        self.run(
            "UPDATE kind SET devices = devices + $1 WHERE id = $2",
            values![devices, kind],
        )
        .await?;
        let sql = "DELETE FROM kind WHERE id = $1 AND devices = 0";
        self.run(sql, values![kind]).await.map(drop)
    }

    /// Works out the kind of a device whose groups or tags have changed; nothing where it was
    /// never seen.
    pub(super) async fn settle_again(&mut self, id: &str) -> Result<(), StoreError> {
        let Some(device) = self.device(id).await? else {
            return Ok(());
        };
        let (groups, tags) = (self.groups_of(id).await?, self.tags(id).await?);
        self.settle(&device, &groups, &tags).await
    }

    /// The number of a kind, which is stored where it is new.
    async fn kind_number(&mut self, kind: &Kind) -> Result<i64, StoreError> {
        let facts = facts_json(kind);
        if let Some(known) = self.known_kind(&facts).await? {
            return Ok(known);
        }
        let next = "SELECT COALESCE(MAX(id), 0) + 1 FROM kind";
        let id = self.one(next, [], |row| row.int()).await?.unwrap_or(1);
        let device = &kind.device;
        self.run(
            "INSERT INTO kind (id, digest, facts, devices, version, chip) \
             VALUES ($1, $2, $3, 0, $4, $5)",
            values![
                id,
                digest(&facts),
                &facts,
                device.version.clone(),
                device.chip
            ],
        )
        .await?;
        Ok(id)
    }

    async fn known_kind(&mut self, facts: &str) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT id FROM kind WHERE digest = $1";
        self.one(sql, values![digest(facts)], |row| row.int()).await
    }

    /// Takes a group out of all kinds, whatever the number of its devices.
    pub(super) async fn take_group_out(&mut self, group: &str) -> Result<(), StoreError> {
        let mut changed = Vec::new();
        self.each_kind(|id, mut kind, _| {
            let before = kind.groups.len();
            kind.groups.retain(|name| name != group);
            if kind.groups.len() < before {
                changed.push((id, facts_json(&kind)));
            }
        })
        .await?;
        for (id, facts) in changed {
            match self.known_kind(&facts).await? {
                Some(same) => {
                    let sql = "UPDATE sighting SET kind = $1 WHERE kind = $2";
                    let moved = self.run(sql, values![same, id]).await? as i64;
                    self.add_to_kind(same, moved).await?;
                    self.add_to_kind(id, -moved).await?;
                }
                None => {
                    let sql = "UPDATE kind SET digest = $1, facts = $2 WHERE id = $3";
                    self.run(sql, values![digest(&facts), &facts, id]).await?;
                }
            }
        }
        Ok(())
    }

    /// The number of devices of each kind, and how many of them were seen after these moments: the
    /// later is the end of being online, the earlier of being late.
    pub async fn cohorts(
        &mut self,
        online_after: i64,
        late_after: i64,
    ) -> Result<HashMap<i64, Cohort>, StoreError> {
        let mut cohorts = HashMap::new();
        // The plus keeps SQLite from going through the index, which costs a look-up for each
        // device: four times as long with a million of them.
        self.each(
            "SELECT +kind, COUNT(*), COUNT(CASE WHEN last_seen > $1 THEN 1 END), \
             COUNT(CASE WHEN last_seen <= $1 AND last_seen > $2 THEN 1 END) \
             FROM sighting GROUP BY +kind",
            values![online_after, late_after],
            |row| {
                let kind = row.int()?;
                let cohort = Cohort {
                    devices: row.number()?,
                    online: row.number()?,
                    late: row.number()?,
                };
                cohorts.insert(kind, cohort);
                Ok(())
            },
        )
        .await?;
        Ok(cohorts)
    }

    /// Devices on which the release is blocked, by kind.
    pub async fn blocked_cohorts(
        &mut self,
        release: i64,
        online_after: i64,
    ) -> Result<HashMap<i64, Cohort>, StoreError> {
        self.cohorts_of(
            "SELECT sighting.kind, COUNT(*), COUNT(CASE WHEN last_seen > $2 THEN 1 END) \
             FROM block JOIN sighting ON sighting.device = block.device \
             WHERE block.release = $1 GROUP BY sighting.kind",
            values![release, online_after],
        )
        .await
    }

    /// Devices that are pinned to something else, and on which the release is not blocked, by kind.
    pub async fn pinned_cohorts(
        &mut self,
        release: i64,
        online_after: i64,
    ) -> Result<HashMap<i64, Cohort>, StoreError> {
        self.cohorts_of(
            concat!(
                "SELECT sighting.kind, COUNT(*), COUNT(CASE WHEN last_seen > $2 THEN 1 END) ",
                pinned_against!(),
                "GROUP BY sighting.kind"
            ),
            values![release, online_after],
        )
        .await
    }

    async fn cohorts_of<const N: usize>(
        &mut self,
        sql: &'static str,
        values: [super::db::Value; N],
    ) -> Result<HashMap<i64, Cohort>, StoreError> {
        let cohorts = self.all(sql, values, |row| {
            let kind = row.int()?;
            let cohort = Cohort {
                devices: row.number()?,
                online: row.number()?,
                late: 0,
            };
            Ok((kind, cohort))
        });
        Ok(cohorts.await?.into_iter().collect())
    }

    /// Every kind with its number, and how many devices are of it.
    pub async fn each_kind(
        &mut self,
        mut take: impl FnMut(i64, Kind, u64),
    ) -> Result<(), StoreError> {
        let sql = "SELECT id, facts, devices FROM kind ORDER BY id";
        self.each(sql, [], |row| {
            let id = row.int()?;
            take(id, kind(&row.text()?)?, row.number()?);
            Ok(())
        })
        .await
    }

    /// One device as its kind with its id, and when it was seen.
    pub async fn sighted(&mut self, id: &str) -> Result<Option<(Kind, i64)>, StoreError> {
        let found = self.one(
            "SELECT facts, last_seen FROM sighting JOIN kind ON kind.id = sighting.kind \
             WHERE device = $1",
            values![id],
            |row| Ok((kind(&row.text()?)?, row.int()?)),
        );
        Ok(found.await?.map(|(mut kind, last_seen)| {
            id.clone_into(&mut kind.device.id);
            (kind, last_seen)
        }))
    }

    /// The devices of these kinds, which are sorted, each as its kind with its id, and when it was
    /// seen.
    pub async fn each_of_kinds(
        &mut self,
        wanted: &[i64],
        mut take: impl FnMut(&Kind, i64),
    ) -> Result<(), StoreError> {
        for (some, first, last) in runs(wanted) {
            let mut kinds = HashMap::new();
            let sql = "SELECT id, facts FROM kind WHERE id >= $1 AND id <= $2";
            self.each(sql, values![first, last], |row| {
                let id = row.int()?;
                if some.binary_search(&id).is_ok() {
                    kinds.insert(id, kind(&row.text()?)?);
                }
                Ok(())
            })
            .await?;
            let sql = "SELECT kind, device, last_seen FROM sighting \
                       WHERE kind >= $1 AND kind <= $2";
            self.each(sql, values![first, last], |row| {
                if let Some(of) = kinds.get_mut(&row.int()?) {
                    of.device.id = row.text()?;
                    take(of, row.int()?);
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// The ids of the devices of these kinds, which are sorted, out of an index.
    pub async fn each_id_of_kinds(
        &mut self,
        wanted: &[i64],
        mut take: impl FnMut(&str),
    ) -> Result<(), StoreError> {
        for (some, first, last) in runs(wanted) {
            let sql = "SELECT kind, device FROM sighting WHERE kind >= $1 AND kind <= $2";
            self.each(sql, values![first, last], |row| {
                if some.binary_search(&row.int()?).is_ok() {
                    take(&row.text()?);
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Ids of devices of a kind, sorted, at most `limit`.
    pub async fn ids_of_kind(&mut self, kind: i64, limit: i64) -> Result<Vec<String>, StoreError> {
        self.all(
            "SELECT device FROM sighting WHERE kind = $1 ORDER BY device LIMIT $2",
            values![kind, limit],
            |row| row.text(),
        )
        .await
    }

    /// The same, of those on which the release is blocked.
    pub async fn blocked_of_kind(
        &mut self,
        kind: i64,
        release: i64,
        limit: i64,
    ) -> Result<Vec<String>, StoreError> {
        self.all(
            "SELECT sighting.device FROM block JOIN sighting ON sighting.device = block.device \
             WHERE block.release = $2 AND sighting.kind = $1 ORDER BY sighting.device LIMIT $3",
            values![kind, release, limit],
            |row| row.text(),
        )
        .await
    }

    /// The same, of those that are pinned to something else.
    pub async fn pinned_of_kind(
        &mut self,
        kind: i64,
        release: i64,
        limit: i64,
    ) -> Result<Vec<String>, StoreError> {
        self.all(
            concat!(
                "SELECT sighting.device ",
                pinned_against!(),
                "AND sighting.kind = $2 ORDER BY sighting.device LIMIT $3"
            ),
            values![release, kind, limit],
            |row| row.text(),
        )
        .await
    }

    /// Members of a group that were never seen.
    pub async fn unseen_members(&mut self, group: &str) -> Result<Vec<String>, StoreError> {
        self.all(
            "SELECT group_member.device FROM group_member WHERE group_name = $1 AND NOT EXISTS \
             (SELECT 1 FROM sighting WHERE sighting.device = group_member.device)",
            values![group],
            |row| row.text(),
        )
        .await
    }

    /// Devices that were ever seen.
    pub async fn count_devices(&mut self) -> Result<u64, StoreError> {
        let sql = "SELECT CAST(COALESCE(SUM(devices), 0) AS BIGINT) FROM kind";
        let seen = self.one(sql, [], |row| row.number()).await?;
        Ok(seen.unwrap_or(0))
    }
}

/// Sorted numbers as ranges that are gone through in one query each: few numbers one by one, of many
/// the whole range, with what lies between.
fn runs(wanted: &[i64]) -> impl Iterator<Item = (&[i64], i64, i64)> {
    let at_once = match wanted.len() {
        0..=KINDS_ONE_BY_ONE_MAX => 1,
        _ => KINDS_HELD_MAX,
    };
    let runs = wanted.chunks(at_once);
    runs.filter_map(|run| Some((run, *run.first()?, *run.last()?)))
}
