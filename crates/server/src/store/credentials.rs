use fota_proto::manager::{CredentialSource, CredentialState};

use super::{
    StoreError, Tx,
    db::{Row, values},
};
use crate::domain::{
    hex,
    identity::{Material, Stored},
};

/// A credential about to be stored as active.
#[derive(Clone, Debug)]
pub struct NewStored<'a> {
    pub device: &'a str,
    pub material: &'a Material,
    pub source: CredentialSource,
    pub enrolment_key: Option<&'a str>,
}

const STATES: [(CredentialState, &str); 2] = [
    (CredentialState::Active, "active"),
    (CredentialState::Revoked, "revoked"),
];
const SOURCES: [(CredentialSource, &str); 3] = [
    (CredentialSource::Claim, "claim"),
    (CredentialSource::Enrolment, "enrolment"),
    (CredentialSource::Operator, "operator"),
];

fn parsed<T: Copy>(table: &[(T, &str)], what: &'static str, text: &str) -> Result<T, StoreError> {
    let found = table.iter().find(|(_, name)| *name == text);
    found
        .map(|(value, _)| *value)
        .ok_or_else(|| StoreError::stored(what, &text))
}

fn source_name(source: CredentialSource) -> &'static str {
    let found = SOURCES.iter().find(|(known, _)| *known == source);
    found.map_or("operator", |(_, name)| name)
}

fn stored(row: &mut Row) -> Result<Stored, StoreError> {
    Ok(Stored {
        id: row.int()?,
        device: row.text()?,
        state: parsed(&STATES, "a credential's state", &row.text()?)?,
        source: parsed(&SOURCES, "a credential's source", &row.text()?)?,
        enrolment_key: row.text_maybe()?,
        created_at: row.int()?,
        revoked_at: row.int_maybe()?,
        last_used: row.int_maybe()?,
        material: material(row.text_maybe()?, row.text_maybe()?)?,
    })
}

/// The texts are not part of the error: one of them is a secret.
fn material(public_key: Option<String>, secret: Option<String>) -> Result<Material, StoreError> {
    let key = public_key.as_deref().and_then(hex::decode);
    let secret = secret.as_deref().and_then(hex::decode);
    let damaged = || StoreError::stored("a key or a secret", &"something else");
    key.map(Material::Key)
        .or(secret.map(Material::Secret))
        .ok_or_else(damaged)
}

impl Tx {
    /// All credentials of a device with what they verify with, oldest first.
    pub async fn credentials_of(&mut self, device: &str) -> Result<Vec<Stored>, StoreError> {
        self.all(
            "SELECT c.id, c.device, c.state, c.source, c.enrolment_key, c.created_at, \
             c.revoked_at, c.last_used, c.public_key, s.secret FROM device_credential c \
             LEFT JOIN device_secret s ON s.credential = c.id WHERE c.device = $1 ORDER BY c.id",
            values![device],
            stored,
        )
        .await
    }

    /// The number that the next credential gets.
    pub async fn next_credential_id(&mut self) -> Result<i64, StoreError> {
        let next = self
            .one(
                "SELECT COALESCE(MAX(id), 0) + 1 FROM device_credential",
                [],
                |row| row.int(),
            )
            .await?;
        Ok(next.unwrap_or(1))
    }

    /// Stores a credential as active under this number.
    pub async fn insert_credential(
        &mut self,
        id: i64,
        new: &NewStored<'_>,
        now: i64,
    ) -> Result<(), StoreError> {
        let (kind, public_key, secret) = match new.material {
            Material::Key(bytes) => ("key", Some(hex::encode(bytes)), None),
            Material::Secret(secret) => ("secret", None, Some(hex::encode(secret))),
        };
        self.run(
            "INSERT INTO device_credential (id, device, kind, public_key, state, source, \
             enrolment_key, created_at) VALUES ($1, $2, $3, $4, 'active', $5, $6, $7)",
            values![
                id,
                new.device,
                kind,
                public_key,
                source_name(new.source),
                new.enrolment_key,
                now
            ],
        )
        .await?;
        if let Some(secret) = secret {
            self.run(
                "INSERT INTO device_secret (credential, secret) VALUES ($1, $2)",
                values![id, secret],
            )
            .await?;
        }
        Ok(())
    }

    /// Ends an active credential for good; false where it is none.
    pub async fn revoke_credential(
        &mut self,
        device: &str,
        id: i64,
        now: i64,
    ) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "UPDATE device_credential SET state = 'revoked', revoked_at = $1 \
                 WHERE id = $2 AND device = $3 AND state = 'active'",
                values![now, id, device],
            )
            .await?;
        Ok(rows > 0)
    }

    /// Notes that a credential opened a check-in, never moving back.
    pub async fn touch_credential(&mut self, id: i64, used: i64) -> Result<(), StoreError> {
        self.run(
            "UPDATE device_credential SET last_used = $1 \
             WHERE id = $2 AND (last_used IS NULL OR last_used < $1)",
            values![used, id],
        )
        .await
        .map(drop)
    }

    /// The number that changes with every change of a credential.
    pub async fn credential_generation(&mut self) -> Result<i64, StoreError> {
        let stored = self
            .one("SELECT value FROM credential_generation", [], |row| {
                row.int()
            })
            .await?;
        stored.ok_or_else(|| StoreError::stored("a generation of credentials", &"no row"))
    }

    /// Tells every node that a credential has changed.
    pub async fn bump_credential_generation(&mut self) -> Result<(), StoreError> {
        self.run("UPDATE credential_generation SET value = value + 1", [])
            .await
            .map(drop)
    }

    /// Until when a device may enrol another key.
    pub async fn re_enrol_until(&mut self, device: &str) -> Result<Option<i64>, StoreError> {
        self.one(
            "SELECT expires_at FROM re_enrolment WHERE device = $1",
            values![device],
            |row| row.int(),
        )
        .await
    }

    /// Lets a device enrol another key, once, until then.
    pub async fn allow_re_enrolment(&mut self, device: &str, until: i64) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO re_enrolment (device, expires_at) VALUES ($1, $2) \
             ON CONFLICT (device) DO UPDATE SET expires_at = excluded.expires_at",
            values![device, until],
        )
        .await
        .map(drop)
    }

    /// The leave is used up, or taken back.
    pub async fn end_re_enrolment(&mut self, device: &str) -> Result<(), StoreError> {
        self.run(
            "DELETE FROM re_enrolment WHERE device = $1",
            values![device],
        )
        .await
        .map(drop)
    }
}
