//! The JSON types for people and programs that manage a fleet: users, sessions, tokens, audit.
//!
//! Times are milliseconds since the Unix epoch. A text that would let its reader in is a
//! [`Secret`], which shows itself to nobody but the wire.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Sha256;

/// What somebody may do; each role may do what those before it may.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Rollouts, rollbacks, groups, devices.
    Operator,
    /// Brings releases in and withdraws them.
    Releaser,
    /// Users, the tokens of others, the audit log, the server itself.
    Admin,
}

impl Role {
    /// All of them, the least first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::Releaser, Self::Admin];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Releaser => "releaser",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A word that is no role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRole;

impl fmt::Display for NoRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no role: give viewer, operator, releaser or admin")
    }
}

impl std::error::Error for NoRole {}

impl FromStr for Role {
    type Err = NoRole;

    fn from_str(text: &str) -> Result<Self, NoRole> {
        let found = Self::ALL.into_iter().find(|role| role.word() == text);
        found.ok_or(NoRole)
    }
}

/// A password or token. `Debug` does not show it, so it cannot reach a log by accident.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself: for the wire and for hashing only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `POST /api/v1/session`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// Name of the user.
    pub user: String,
    /// The user's password.
    #[schema(value_type = String)]
    pub password: Secret,
}

/// A session that has begun.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Login {
    /// Send it as `Authorization: Bearer …`; it is shown this once.
    #[schema(value_type = String)]
    pub token: Secret,
    /// Whose session it is.
    pub who: WhoAmI,
}

/// `GET /api/v1/whoami`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// As the audit log names the caller: `user:anna`, `token:ci`, `operator-token`.
    pub actor: String,
    /// What the caller may do now.
    pub role: Role,
    /// When the session or token ends; absent where it does not.
    pub expires_at: Option<i64>,
}

/// A person who may log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Name, unique.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// When the user was made.
    pub created_at: i64,
    /// When the password was last set.
    pub password_at: i64,
    /// Sessions that have not ended.
    pub sessions: u64,
}

/// `POST /api/v1/users`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserRequest {
    /// Name: 1 to 64 letters, digits and `-_.:`.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// 12 to 1,024 bytes.
    #[schema(value_type = String)]
    pub password: Secret,
}

/// `POST /api/v1/users/{name}/role`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleRequest {
    /// What the user may do from now on.
    pub role: Role,
}

/// `POST /api/v1/users/{name}/password`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordRequest {
    /// The new password, 12 to 1,024 bytes.
    #[schema(value_type = String)]
    pub password: Secret,
    /// The password until now; needed to change one's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>)]
    pub current: Option<Secret>,
}

/// An API token, without what lets its holder in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Number given by the server.
    pub id: i64,
    /// Name, unique.
    pub name: String,
    /// Most that it may do; never more than its owner.
    pub role: Role,
    /// The user it acts for; absent for a token of the server itself.
    pub owner: Option<String>,
    /// Its first characters, to find it again where it is stored.
    pub prefix: String,
    /// When it was made.
    pub created_at: i64,
    /// When it ends; absent where it does not.
    pub expires_at: Option<i64>,
    /// When it was last used, to the minute.
    pub used_at: Option<i64>,
}

/// `POST /api/v1/tokens`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Name: 1 to 64 letters, digits and `-_.:`.
    pub name: String,
    /// Most that it may do.
    pub role: Role,
    /// Seconds until it ends; left out, it does not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_in_s: Option<u64>,
}

/// A token that was just made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// The token itself; it is shown this once.
    #[schema(value_type = String)]
    pub secret: Secret,
    /// What is listed of it.
    pub token: Token,
}

/// A line of the audit log; docs/operators.md says how `hash` is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditEntry {
    /// Position: 1, 2, 3 … without a gap.
    pub seq: i64,
    /// When.
    pub at: i64,
    /// Who: `user:anna`, `token:ci`, `operator-token`, `legacy-open`, `server`.
    pub actor: String,
    /// The role that the actor had; `none` where it needed none.
    pub role: String,
    /// What was done, e.g. `rollout.started`.
    pub action: String,
    /// What it was done to, e.g. `rollout:42`.
    pub object: String,
    /// More about it, for people.
    pub detail: String,
    /// Number of the request, as in the answer's `x-request-id`.
    pub request: String,
    /// Address the request came from.
    pub address: String,
    /// `hash` of the entry before; zeros for the first.
    #[schema(value_type = String)]
    pub previous: Sha256,
    /// SHA-256 over all of the above.
    #[schema(value_type = String)]
    pub hash: Sha256,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_may_do_what_those_before_it_may() {
        for pair in Role::ALL.windows(2) {
            assert!(pair[0] < pair[1]);
        }
        for role in Role::ALL {
            assert_eq!(role.word().parse(), Ok(role));
        }
        assert_eq!("root".parse::<Role>(), Err(NoRole));
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        let login = LoginRequest {
            user: "anna".to_owned(),
            password: Secret::new("hunter2"),
        };
        assert!(!format!("{login:?}").contains("hunter2"));
    }
}
