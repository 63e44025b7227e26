use fota_proto::{
    Sha256,
    operators::{Role, Token},
};

use super::{
    StoreError, Tx,
    db::{Row, values},
};

/// An API token and what its owner may do now.
#[derive(Clone, Debug)]
pub struct StoredToken {
    pub token: Token,
    pub owner: Option<i64>,
    pub owner_role: Option<Role>,
}

impl StoredToken {
    /// What it may do: never more than its owner.
    pub fn role(&self) -> Role {
        let own = self.token.role;
        self.owner_role.map_or(own, |role| role.min(own))
    }

    /// Whether it has ended.
    pub fn is_over(&self, now: i64) -> bool {
        self.token.expires_at.is_some_and(|end| end <= now)
    }
}

fn stored(row: &mut Row) -> Result<StoredToken, StoreError> {
    let token = Token {
        id: row.int()?,
        name: row.text()?,
        role: row.parsed()?,
        prefix: row.text()?,
        created_at: row.int()?,
        expires_at: row.int_maybe()?,
        used_at: row.int_maybe()?,
        owner: row.text_maybe()?,
    };
    Ok(StoredToken {
        token,
        owner: row.int_maybe()?,
        owner_role: row.parsed_maybe()?,
    })
}

impl Tx {
    /// Stores a token under a number of its own; none where the name is taken.
    pub async fn insert_token(
        &mut self,
        new: &Token,
        owner: Option<i64>,
        hash: Sha256,
    ) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT COALESCE(MAX(id), 0) + 1 FROM api_token";
        let id = self.one(sql, [], |row| row.int()).await?.unwrap_or(1);
        let rows = self
            .run(
                "INSERT INTO api_token \
                 (id, name, owner, role, hash, prefix, created_at, expires_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (name) DO NOTHING",
                values![
                    id,
                    &new.name,
                    owner,
                    new.role.word(),
                    hash,
                    &new.prefix,
                    new.created_at,
                    new.expires_at
                ],
            )
            .await?;
        Ok((rows > 0).then_some(id))
    }

    pub async fn token_by_hash(&mut self, hash: Sha256) -> Result<Option<StoredToken>, StoreError> {
        self.one(
            "SELECT t.id, t.name, t.role, t.prefix, t.created_at, t.expires_at, t.used_at, \
             a.name, t.owner, a.role \
             FROM api_token t LEFT JOIN account a ON a.id = t.owner WHERE t.hash = $1",
            values![hash],
            stored,
        )
        .await
    }

    pub async fn token(&mut self, id: i64) -> Result<Option<StoredToken>, StoreError> {
        self.one(
            "SELECT t.id, t.name, t.role, t.prefix, t.created_at, t.expires_at, t.used_at, \
             a.name, t.owner, a.role \
             FROM api_token t LEFT JOIN account a ON a.id = t.owner WHERE t.id = $1",
            values![id],
            stored,
        )
        .await
    }

    /// Tokens after `after`, by number.
    pub async fn tokens(&mut self, after: i64, limit: i64) -> Result<Vec<StoredToken>, StoreError> {
        self.all(
            "SELECT t.id, t.name, t.role, t.prefix, t.created_at, t.expires_at, t.used_at, \
             a.name, t.owner, a.role \
             FROM api_token t LEFT JOIN account a ON a.id = t.owner \
             WHERE t.id > $1 ORDER BY t.id LIMIT $2",
            values![after, limit],
            stored,
        )
        .await
    }

    pub async fn count_tokens(&mut self) -> Result<i64, StoreError> {
        let sql = "SELECT COUNT(*) FROM api_token";
        Ok(self.one(sql, [], |row| row.int()).await?.unwrap_or(0))
    }

    /// Removes a token and the sessions that browsers got for it.
    pub async fn delete_token(&mut self, id: i64) -> Result<(), StoreError> {
        self.run("DELETE FROM api_token WHERE id = $1", values![id])
            .await
            .map(drop)
    }

    pub async fn touch_token(&mut self, id: i64, at: i64) -> Result<(), StoreError> {
        self.run(
            "UPDATE api_token SET used_at = $2 \
             WHERE id = $1 AND (used_at IS NULL OR used_at < $2)",
            values![id, at],
        )
        .await
        .map(drop)
    }
}
