use std::collections::BTreeMap;

use fota_proto::{
    Sha256,
    checkin::{ResetReason, SlotState, Waits},
    log::LogHead,
};
use serde::{Deserialize, Serialize};

use super::{
    StoreError, Tx,
    db::{Row, values},
};
use crate::domain::{
    delta::{profile_name, profile_of},
    model::{Device, Protocol, Slot, Trust},
    plan::share,
    presence::half_hour,
};

/// Which devices a list shows.
#[derive(Clone, Debug, Default)]
pub struct DeviceFilter {
    /// Only members of this group.
    pub group: Option<String>,
    /// Only devices whose newest attempt is in this state, or in one of its kind (`failed`).
    pub state: Option<String>,
    /// Only ids after this one.
    pub after: String,
    pub limit: i64,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT device.id, protocol, chip, chip_revision, project, version, elf_sha256, confirmed, \
             slot, slots, rollback_slot, reset, warning, root_version, epoch, log_size, log_root, \
             patches, first_seen, sighting.last_seen, attributes, metrics, waits, crashed_at \
             FROM device JOIN sighting ON sighting.device = device.id ",
            $rest
        )
    };
}

pub(super) use select;

pub(super) fn device(row: &mut Row) -> Result<Device, StoreError> {
    Ok(Device {
        id: row.text()?,
        protocol: protocol(&row.text()?)?,
        chip: row.number_maybe()?,
        chip_revision: row.number_maybe()?,
        project: row.text_maybe()?,
        version: row.text_maybe()?,
        elf: row.parsed_maybe()?,
        confirmed: row.int_maybe()?.map(|flag| flag != 0),
        slot: row.number_maybe()?,
        slots: slots(&row.text()?)?,
        rollback_slot: row.number_maybe()?,
        reset: row.text_maybe()?.as_deref().map(reset).transpose()?,
        warning: row.text_maybe()?,
        trust: trust(row)?,
        patches: row.text_maybe()?.as_deref().and_then(profile_of),
        first_seen: row.int()?,
        last_seen: row.int()?,
        attributes: map(&row.text()?)?,
        metrics: map(&row.text()?)?,
        waits: row.text_maybe()?.as_deref().map(waits).transpose()?,
        crashed_at: row.int_maybe()?,
    })
}

/// A JSON object of names and values.
pub(super) fn map<T: serde::de::DeserializeOwned>(
    json: &str,
) -> Result<BTreeMap<String, T>, StoreError> {
    serde_json::from_str(json).map_err(|_| StoreError::stored("an object", &json))
}

fn map_json<T: Serialize>(map: &BTreeMap<String, T>) -> String {
    serde_json::to_string(map).expect("plain data has a JSON form")
}

const WAITS: [(Waits, &str); 7] = [
    (Waits::Nothing, "nothing"),
    (Waits::Battery, "battery"),
    (Waits::Signal, "signal"),
    (Waits::Busy, "busy"),
    (Waits::Consent, "consent"),
    (Waits::Postponed, "postponed"),
    (Waits::Window, "window"),
];

fn waits_name(waits: Waits) -> &'static str {
    let found = WAITS.iter().find(|(known, _)| *known == waits);
    found.map_or("nothing", |(_, name)| name)
}

fn waits(text: &str) -> Result<Waits, StoreError> {
    let found = WAITS.iter().find(|(_, name)| *name == text);
    found
        .map(|(waits, _)| *waits)
        .ok_or_else(|| StoreError::stored("what a device waits for", &text))
}

fn trust(row: &mut Row) -> Result<Trust, StoreError> {
    let (root, epoch) = (row.number_maybe()?, row.number_maybe()?);
    let (size, log_root) = (row.number_maybe()?, row.parsed_maybe()?);
    let log = size
        .zip(log_root)
        .map(|(size, root)| LogHead { size, root });
    Ok(Trust { root, epoch, log })
}

pub(super) fn protocol(text: &str) -> Result<Protocol, StoreError> {
    let mut known = [Protocol::Native, Protocol::Seed].into_iter();
    let found = known.find(|protocol| protocol.name() == text);
    found.ok_or_else(|| StoreError::stored("a protocol", &text))
}

const RESETS: [(ResetReason, &str); 8] = [
    (ResetReason::Unknown, "unknown"),
    (ResetReason::PowerOn, "power_on"),
    (ResetReason::BrownOut, "brown_out"),
    (ResetReason::Software, "software"),
    (ResetReason::Panic, "panic"),
    (ResetReason::Watchdog, "watchdog"),
    (ResetReason::DeepSleep, "deep_sleep"),
    (ResetReason::External, "external"),
];

fn reset_name(reset: ResetReason) -> &'static str {
    let found = RESETS.iter().find(|(known, _)| *known == reset);
    found.map_or("unknown", |(_, name)| name)
}

fn reset(text: &str) -> Result<ResetReason, StoreError> {
    let found = RESETS.iter().find(|(_, name)| *name == text);
    found
        .map(|(reset, _)| *reset)
        .ok_or_else(|| StoreError::stored("a reset reason", &text))
}

/// A slot as JSON in the device's row.
#[derive(Serialize, Deserialize)]
struct StoredSlot {
    slot: u8,
    bytes: u32,
    state: StoredState,
    elf: Option<Sha256>,
    version: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredState {
    Empty,
    Image,
    Rejected,
}

fn slots(json: &str) -> Result<Vec<Slot>, StoreError> {
    let stored: Vec<StoredSlot> =
        serde_json::from_str(json).map_err(|_| StoreError::stored("slots", &json))?;
    Ok(stored.into_iter().map(slot).collect())
}

fn slot(stored: StoredSlot) -> Slot {
    Slot {
        slot: stored.slot,
        bytes: stored.bytes,
        state: match stored.state {
            StoredState::Empty => SlotState::Empty,
            StoredState::Image => SlotState::Image,
            StoredState::Rejected => SlotState::Rejected,
        },
        elf: stored.elf,
        version: stored.version,
    }
}

fn slots_json(slots: &[Slot]) -> String {
    let stored: Vec<StoredSlot> = slots
        .iter()
        .map(|slot| StoredSlot {
            slot: slot.slot,
            bytes: slot.bytes,
            state: match slot.state {
                SlotState::Empty => StoredState::Empty,
                SlotState::Image => StoredState::Image,
                SlotState::Rejected => StoredState::Rejected,
            },
            elf: slot.elf,
            version: slot.version.clone(),
        })
        .collect();
    serde_json::to_string(&stored).expect("plain data has a JSON form")
}

impl Tx {
    pub async fn device(&mut self, id: &str) -> Result<Option<Device>, StoreError> {
        self.one(select!("WHERE device.id = $1"), values![id], device)
            .await
    }

    /// Stores the device as now seen, with the kind that it is of in these groups and with these
    /// tags.
    pub async fn put_device(
        &mut self,
        device: &Device,
        groups: &[String],
        tags: &BTreeMap<String, String>,
    ) -> Result<(), StoreError> {
        self.put_device_row(device).await?;
        self.settle(device, groups, tags).await
    }

    async fn put_device_row(&mut self, device: &Device) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO device (id, protocol, chip, chip_revision, project, version, elf_sha256, \
             confirmed, slot, slots, rollback_slot, reset, warning, root_version, epoch, log_size, \
             log_root, patches, first_seen, attributes, metrics, waits, crashed_at, spread, rssi) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, \
             $18, $19, $20, $21, $22, $23, $24, $25) \
             ON CONFLICT (id) DO UPDATE SET protocol = excluded.protocol, chip = excluded.chip, \
             chip_revision = excluded.chip_revision, project = excluded.project, \
             version = excluded.version, elf_sha256 = excluded.elf_sha256, \
             confirmed = excluded.confirmed, slot = excluded.slot, slots = excluded.slots, \
             rollback_slot = excluded.rollback_slot, reset = excluded.reset, \
             warning = excluded.warning, root_version = excluded.root_version, \
             epoch = excluded.epoch, log_size = excluded.log_size, log_root = excluded.log_root, \
             patches = excluded.patches, \
             attributes = excluded.attributes, \
             metrics = excluded.metrics, waits = excluded.waits, \
             crashed_at = excluded.crashed_at, spread = excluded.spread, \
             rssi = excluded.rssi",
            values![
                &device.id,
                device.protocol.name(),
                device.chip,
                device.chip_revision,
                device.project.clone(),
                device.version.clone(),
                device.elf,
                device.confirmed,
                device.slot,
                slots_json(&device.slots),
                device.rollback_slot,
                device.reset.map(reset_name),
                device.warning.clone(),
                device.trust.root,
                device.trust.epoch,
                device.trust.log.map(|log| log.size),
                device.trust.log.map(|log| log.root),
                device.patches.map(profile_name),
                device.first_seen,
                map_json(&device.attributes),
                map_json(&device.metrics),
                device.waits.map(waits_name),
                device.crashed_at,
                i64::from(share("spread", 0, &device.id)),
                device.metrics.get("rssi").map(|rssi| i64::from(*rssi)),
            ],
        )
        .await
        .map(drop)
    }

    /// Notes that the device was seen, never moving back, and the half hour in which it was: both
    /// in the one row that is written anyway.
    pub async fn touch_device(&mut self, id: &str, seen: i64) -> Result<(), StoreError> {
        self.run(
            "UPDATE sighting SET last_seen = CASE WHEN last_seen < $1 THEN $1 ELSE last_seen END, \
             heard = CASE WHEN $3 - heard_at >= 48 THEN 1 WHEN $3 > heard_at \
             THEN ((heard << CAST($3 - heard_at AS INTEGER)) & 281474976710655) | 1 \
             ELSE heard END, \
             heard_at = CASE WHEN heard_at < $3 THEN $3 ELSE heard_at END \
             WHERE device = $2 AND (last_seen < $1 OR heard_at < $3)",
            values![seen, id, half_hour(seen)],
        )
        .await
        .map(drop)
    }

    /// The half hours in which a device was heard, as they are stored: the newest, and the bits.
    pub async fn heard(&mut self, id: &str) -> Result<(i64, i64), StoreError> {
        let sql = "SELECT heard_at, heard FROM sighting WHERE device = $1";
        let found = self.one(sql, values![id], |row| Ok((row.int()?, row.int()?)));
        Ok(found.await?.unwrap_or_default())
    }

    /// A page of devices, by id.
    pub async fn devices(&mut self, filter: &DeviceFilter) -> Result<Vec<Device>, StoreError> {
        const ALL: &str = select!(
            "WHERE device.id > $1 \
             AND ($2 = '' OR device.id IN (SELECT group_member.device FROM group_member \
             WHERE group_name = $2)) AND $3 = '' ORDER BY device.id LIMIT $4"
        );
        // Begins at the attempts: going through the fleet for them would read all of it.
        const IN_STATE: &str = select!(
            "WHERE device.id > $1 \
             AND ($2 = '' OR device.id IN (SELECT group_member.device FROM group_member \
             WHERE group_name = $2)) \
             AND device.id IN (SELECT attempt.device FROM attempt \
             WHERE (attempt.state = $3 OR attempt.state LIKE $3 || ':%') \
             AND NOT EXISTS (SELECT 1 FROM attempt AS newer \
             WHERE newer.device = attempt.device AND newer.id > attempt.id)) \
             ORDER BY device.id LIMIT $4"
        );
        let group = filter.group.as_deref().unwrap_or("");
        let state = filter.state.as_deref().unwrap_or("");
        let values = values![filter.after.as_str(), group, state, filter.limit];
        let sql = if state.is_empty() { ALL } else { IN_STATE };
        self.all(sql, values, device).await
    }
}
