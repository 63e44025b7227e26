use fota_proto::Sha256;

use super::{
    StoreError, Tx,
    db::{Row, values},
};

/// Whose session it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionOf {
    Account(i64),
    Token(i64),
    /// The mark of the operator token.
    Bootstrap(String),
}

/// A session as stored.
#[derive(Clone, Debug)]
pub struct Session {
    pub hash: Sha256,
    pub of: SessionOf,
    pub created_at: i64,
    pub seen_at: i64,
    pub expires_at: i64,
}

fn session(row: &mut Row) -> Result<Session, StoreError> {
    let hash = row.parsed()?;
    let (account, token) = (row.int_maybe()?, row.int_maybe()?);
    let of = match (account, token, row.text_maybe()?) {
        (Some(account), None, None) => SessionOf::Account(account),
        (None, Some(token), None) => SessionOf::Token(token),
        (None, None, Some(mark)) => SessionOf::Bootstrap(mark),
        other => return Err(StoreError::stored("one owner of a session", &other)),
    };
    Ok(Session {
        hash,
        of,
        created_at: row.int()?,
        seen_at: row.int()?,
        expires_at: row.int()?,
    })
}

impl Tx {
    pub async fn insert_session(&mut self, new: &Session) -> Result<(), StoreError> {
        let (account, token, bootstrap) = match &new.of {
            SessionOf::Account(id) => (Some(*id), None, None),
            SessionOf::Token(id) => (None, Some(*id), None),
            SessionOf::Bootstrap(mark) => (None, None, Some(mark.clone())),
        };
        self.run(
            "INSERT INTO session (hash, account, token, bootstrap, created_at, seen_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            values![
                new.hash,
                account,
                token,
                bootstrap,
                new.created_at,
                new.seen_at,
                new.expires_at
            ],
        )
        .await
        .map(drop)
    }

    pub async fn session(&mut self, hash: Sha256) -> Result<Option<Session>, StoreError> {
        self.one(
            "SELECT hash, account, token, bootstrap, created_at, seen_at, expires_at \
             FROM session WHERE hash = $1",
            values![hash],
            session,
        )
        .await
    }

    /// Ends a session; false where there is none.
    pub async fn delete_session(&mut self, hash: Sha256) -> Result<bool, StoreError> {
        let rows = self
            .run("DELETE FROM session WHERE hash = $1", values![hash])
            .await?;
        Ok(rows > 0)
    }

    /// Ends all sessions of a user.
    pub async fn delete_sessions_of(&mut self, account: i64) -> Result<u64, StoreError> {
        self.run("DELETE FROM session WHERE account = $1", values![account])
            .await
    }

    /// Removes sessions that have ended by time.
    pub async fn delete_old_sessions(
        &mut self,
        expired_at: i64,
        idle_since: i64,
    ) -> Result<(), StoreError> {
        self.run(
            "DELETE FROM session WHERE expires_at <= $1 OR seen_at <= $2",
            values![expired_at, idle_since],
        )
        .await
        .map(drop)
    }

    /// Ends the oldest sessions of the same owner beyond the newest `keep`.
    pub async fn keep_newest_sessions(
        &mut self,
        of: &SessionOf,
        keep: i64,
    ) -> Result<(), StoreError> {
        let (account, token, mark) = match of {
            SessionOf::Account(id) => (*id, 0, String::new()),
            SessionOf::Token(id) => (0, *id, String::new()),
            SessionOf::Bootstrap(mark) => (0, 0, mark.clone()),
        };
        self.run(
            "DELETE FROM session WHERE hash IN (SELECT hash FROM session \
             WHERE account = $1 OR token = $2 OR bootstrap = $3 \
             ORDER BY created_at DESC, hash LIMIT 1000 OFFSET $4)",
            values![account, token, mark, keep],
        )
        .await
        .map(drop)
    }

    pub async fn count_sessions_of(&mut self, account: i64) -> Result<u64, StoreError> {
        let count = self
            .one(
                "SELECT COUNT(*) FROM session WHERE account = $1",
                values![account],
                |row| row.number(),
            )
            .await?;
        Ok(count.unwrap_or(0))
    }

    pub async fn touch_session(&mut self, hash: Sha256, at: i64) -> Result<(), StoreError> {
        self.run(
            "UPDATE session SET seen_at = $2 WHERE hash = $1 AND seen_at < $2",
            values![hash, at],
        )
        .await
        .map(drop)
    }
}
