use super::{StoreError, Tx, db::values};
use crate::domain::model::GroupRule;

impl Tx {
    /// Groups that are a filter, or have a budget.
    pub async fn group_rules(&mut self) -> Result<Vec<GroupRule>, StoreError> {
        self.all(
            "SELECT name, filter, bytes_per_s FROM device_group \
             WHERE filter IS NOT NULL OR bytes_per_s IS NOT NULL ORDER BY name",
            [],
            |row| {
                Ok(GroupRule {
                    name: row.text()?,
                    filter: row.parsed_maybe()?,
                    bytes_per_s: row.number_maybe()?,
                })
            },
        )
        .await
    }

    /// What a group is besides its list of devices.
    pub async fn group_rule(&mut self, name: &str) -> Result<Option<GroupRule>, StoreError> {
        let found = self.one(
            "SELECT name, filter, bytes_per_s FROM device_group WHERE name = $1",
            values![name],
            |row| {
                Ok(GroupRule {
                    name: row.text()?,
                    filter: row.parsed_maybe()?,
                    bytes_per_s: row.number_maybe()?,
                })
            },
        );
        found.await
    }

    pub async fn set_group_rule(&mut self, rule: &GroupRule) -> Result<(), StoreError> {
        self.run(
            "UPDATE device_group SET filter = $1, bytes_per_s = $2 WHERE name = $3",
            values![
                rule.filter.as_ref().map(ToString::to_string),
                rule.bytes_per_s,
                &rule.name
            ],
        )
        .await
        .map(drop)
    }

    /// Makes a group; false where it exists.
    pub async fn insert_group(&mut self, name: &str, now: i64) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "INSERT INTO device_group (name, created_at) VALUES ($1, $2) \
                 ON CONFLICT (name) DO NOTHING",
                values![name, now],
            )
            .await?;
        Ok(rows > 0)
    }

    pub async fn group_exists(&mut self, name: &str) -> Result<bool, StoreError> {
        let found = self
            .one(
                "SELECT name FROM device_group WHERE name = $1",
                values![name],
                |row| row.text(),
            )
            .await?;
        Ok(found.is_some())
    }

    /// Removes a group and its memberships; false where there is none.
    pub async fn delete_group(&mut self, name: &str) -> Result<bool, StoreError> {
        self.run(
            "DELETE FROM group_member WHERE group_name = $1",
            values![name],
        )
        .await?;
        self.take_group_out(name).await?;
        let rows = self
            .run("DELETE FROM device_group WHERE name = $1", values![name])
            .await?;
        Ok(rows > 0)
    }

    pub async fn add_to_group(&mut self, name: &str, device: &str) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO group_member (group_name, device) VALUES ($1, $2) \
             ON CONFLICT (group_name, device) DO NOTHING",
            values![name, device],
        )
        .await?;
        self.settle_again(device).await
    }

    /// Takes a device out of a group; false where it was not in it.
    pub async fn remove_from_group(
        &mut self,
        name: &str,
        device: &str,
    ) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "DELETE FROM group_member WHERE group_name = $1 AND device = $2",
                values![name, device],
            )
            .await?;
        self.settle_again(device).await?;
        Ok(rows > 0)
    }

    /// Names of all groups, sorted.
    pub async fn groups(&mut self) -> Result<Vec<String>, StoreError> {
        self.all("SELECT name FROM device_group ORDER BY name", [], |row| {
            row.text()
        })
        .await
    }

    /// Devices of a group, sorted.
    pub async fn group_members(&mut self, name: &str) -> Result<Vec<String>, StoreError> {
        self.all(
            "SELECT device FROM group_member WHERE group_name = $1 ORDER BY device",
            values![name],
            |row| row.text(),
        )
        .await
    }

    /// Groups of a device, sorted.
    pub async fn groups_of(&mut self, device: &str) -> Result<Vec<String>, StoreError> {
        self.all(
            "SELECT group_name FROM group_member WHERE device = $1 ORDER BY group_name",
            values![device],
            |row| row.text(),
        )
        .await
    }
}
