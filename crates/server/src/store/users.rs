use fota_proto::operators::Role;

use super::{
    StoreError, Tx,
    db::{Row, values},
};

/// A person who may log in, as stored.
#[derive(Clone, Debug)]
pub struct Account {
    pub id: i64,
    pub name: String,
    pub role: Role,
    /// argon2id in PHC form.
    pub password: Option<String>,
    pub created_at: i64,
    pub password_at: i64,
}

fn account(row: &mut Row) -> Result<Account, StoreError> {
    Ok(Account {
        id: row.int()?,
        name: row.text()?,
        role: row.parsed()?,
        password: row.text_maybe()?,
        created_at: row.int()?,
        password_at: row.int()?,
    })
}

impl Tx {
    /// Makes a user; none where the name is taken.
    pub async fn insert_account(
        &mut self,
        name: &str,
        role: Role,
        password: Option<&str>,
        now: i64,
    ) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT COALESCE(MAX(id), 0) + 1 FROM account";
        let id = self.one(sql, [], |row| row.int()).await?.unwrap_or(1);
        let rows = self
            .run(
                "INSERT INTO account (id, name, role, password, created_at, password_at) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO NOTHING",
                values![id, name, role.word(), password, now, now],
            )
            .await?;
        Ok((rows > 0).then_some(id))
    }

    /// The user that a login provider knows by this id.
    pub async fn account_of_subject(
        &mut self,
        subject: &str,
    ) -> Result<Option<Account>, StoreError> {
        self.one(
            "SELECT id, name, role, password, created_at, password_at \
             FROM account WHERE subject = $1",
            values![subject],
            account,
        )
        .await
    }

    /// Notes how a login provider knows a user.
    pub async fn set_subject(&mut self, id: i64, subject: &str) -> Result<(), StoreError> {
        self.run(
            "UPDATE account SET subject = $2 WHERE id = $1",
            values![id, subject],
        )
        .await
        .map(drop)
    }

    pub async fn account(&mut self, id: i64) -> Result<Option<Account>, StoreError> {
        self.one(
            "SELECT id, name, role, password, created_at, password_at \
             FROM account WHERE id = $1",
            values![id],
            account,
        )
        .await
    }

    pub async fn account_named(&mut self, name: &str) -> Result<Option<Account>, StoreError> {
        self.one(
            "SELECT id, name, role, password, created_at, password_at \
             FROM account WHERE name = $1",
            values![name],
            account,
        )
        .await
    }

    /// Users after `after`, by name.
    pub async fn accounts(&mut self, after: &str, limit: i64) -> Result<Vec<Account>, StoreError> {
        self.all(
            "SELECT id, name, role, password, created_at, password_at \
             FROM account WHERE name > $1 ORDER BY name LIMIT $2",
            values![after, limit],
            account,
        )
        .await
    }

    pub async fn set_role(&mut self, id: i64, role: Role) -> Result<(), StoreError> {
        self.run(
            "UPDATE account SET role = $2 WHERE id = $1",
            values![id, role.word()],
        )
        .await
        .map(drop)
    }

    pub async fn set_password(
        &mut self,
        id: i64,
        password: &str,
        now: i64,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE account SET password = $2, password_at = $3 WHERE id = $1",
            values![id, password, now],
        )
        .await
        .map(drop)
    }

    /// Removes a user with all sessions and tokens.
    pub async fn delete_account(&mut self, id: i64) -> Result<(), StoreError> {
        self.run("DELETE FROM account WHERE id = $1", values![id])
            .await
            .map(drop)
    }
}
