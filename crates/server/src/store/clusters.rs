use super::{
    StoreError, Tx,
    db::{Row, values},
};
use crate::domain::clusters::{Group, Kind, Signal, Way};

macro_rules! select {
    ($which:literal) => {
        concat!(
            "SELECT device.chip, device.chip_revision, attempt.from_version, \
             CASE WHEN device.rssi < -80 THEN 'weak' WHEN device.rssi < -67 THEN 'fair' \
             WHEN device.rssi IS NOT NULL THEN 'good' END, \
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
             WHERE ",
            $which,
            " AND attempt.is_current = 1 \
             AND (attempt.state LIKE 'failed:%' OR attempt.state IN ('succeeded', \
             'rolled_back:boot', 'rolled_back:health', 'timed_out')) \
             GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 7 DESC LIMIT $2"
        )
    };
}

fn group(row: &mut Row) -> Result<Group, StoreError> {
    let kind = Kind {
        chip: row.number_maybe()?,
        revision: row.number_maybe()?,
        from_version: row.text_maybe()?,
        signal: row.text_maybe()?.as_deref().and_then(Signal::of_name),
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
}

impl Tx {
    /// The current attempts of a rollout that have succeeded or failed, counted by kind of device
    /// and way to end; the most frequent first.
    ///
    /// The version before and the reset reason are those of the attempt; chip and revision are what
    /// the device says now, which do not change, and the signal is that of its last check-in. An
    /// order back by an operator is no failure, and no success either: it is left out.
    pub async fn failure_groups(
        &mut self,
        rollout: i64,
        limit: i64,
    ) -> Result<Vec<Group>, StoreError> {
        let sql = select!("attempt.rollout = $1");
        self.all(sql, values![rollout, limit], group).await
    }

    /// The same of all rollouts since a moment.
    pub async fn failure_groups_since(
        &mut self,
        since: i64,
        limit: i64,
    ) -> Result<Vec<Group>, StoreError> {
        let sql = select!("attempt.updated_at >= $1");
        self.all(sql, values![since, limit], group).await
    }
}
