use super::{StoreError, Tx, db::values};
use crate::domain::clusters::{Group, Kind, Way};

impl Tx {
    /// The current attempts of a rollout that have succeeded or failed, counted by kind of device
    /// and way to end; the most frequent first.
    ///
    /// The version before and the reset reason are those of the attempt; chip and revision are what
    /// the device says now, which do not change. An order back by an operator is no failure, and no
    /// success either: it is left out.
    pub async fn failure_groups(
        &mut self,
        rollout: i64,
        limit: i64,
    ) -> Result<Vec<Group>, StoreError> {
        self.all(
            "SELECT device.chip, device.chip_revision, attempt.from_version, \
             CASE WHEN attempt.state = 'succeeded' THEN NULL ELSE attempt.state END, \
             CASE WHEN attempt.state = 'succeeded' THEN NULL \
             WHEN attempt.detail LIKE 'reset: power came on%' THEN 'power_on' \
             WHEN attempt.detail LIKE 'reset: the supply sagged%' THEN 'brown_out' \
             WHEN attempt.detail LIKE 'reset: the software%' THEN 'software' \
             WHEN attempt.detail LIKE 'reset: panic%' THEN 'panic' \
             WHEN attempt.detail LIKE 'reset: watchdog%' THEN 'watchdog' \
             WHEN attempt.detail LIKE 'reset: deep sleep%' THEN 'deep_sleep' \
             WHEN attempt.detail LIKE 'reset: reset pin%' THEN 'external' END, \
             COUNT(*) FROM attempt LEFT JOIN device ON device.id = attempt.device \
             WHERE attempt.rollout = $1 AND attempt.is_current = 1 \
             AND (attempt.state LIKE 'failed:%' OR attempt.state IN ('succeeded', \
             'rolled_back:boot', 'rolled_back:health', 'timed_out')) \
             GROUP BY 1, 2, 3, 4, 5 ORDER BY 6 DESC LIMIT $2",
            values![rollout, limit],
            |row| {
                let kind = Kind {
                    chip: row.number_maybe()?,
                    revision: row.number_maybe()?,
                    from_version: row.text_maybe()?,
                };
                let (state, reset) = (row.text_maybe()?, row.text_maybe()?);
                let failure = state.map(|state| Way {
                    state: Some(state),
                    reset,
                });
                Ok(Group {
                    kind,
                    failure,
                    devices: row.number()?,
                })
            },
        )
        .await
    }
}
