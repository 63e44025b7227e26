//! Users, sessions, tokens and the audit log.

use fota_proto::{
    manager::Page,
    operators::{
        AuditEntry, Login, LoginRequest, NewToken, PasswordRequest, Role, RoleRequest, Secret,
        Token, TokenRequest, User, UserRequest, WhoAmI,
    },
};
use reqwest::Method;

use crate::{Client, Download, REQUEST_TIMEOUT, Result, segment, send};

/// Entries of one page of the audit log: the most that a server gives.
const AUDIT_PAGE: u32 = 1000;

impl Client {
    /// Begins a session. It needs no token, and does not change the one of this client.
    pub async fn login(&self, user: &str, password: Secret) -> Result<Login> {
        let user = user.to_owned();
        let login = LoginRequest { user, password };
        self.post("/api/v1/session", &login).await
    }

    /// Ends the session that this client's token is; a token that is none goes on.
    pub async fn logout(&self) -> Result<()> {
        self.delete("/api/v1/session").await
    }

    /// Who this client is to the server.
    pub async fn whoami(&self) -> Result<WhoAmI> {
        self.fetch("/api/v1/whoami").await
    }

    /// Every user.
    pub async fn users(&self) -> Result<Vec<User>> {
        self.list("/api/v1/users", &()).await
    }

    /// Makes a user.
    pub async fn create_user(&self, user: &UserRequest) -> Result<User> {
        self.post("/api/v1/users", user).await
    }

    /// Removes a user with all sessions and tokens.
    pub async fn remove_user(&self, name: &str) -> Result<()> {
        self.delete(&format!("/api/v1/users/{}", segment(name)))
            .await
    }

    /// Gives a user another role.
    pub async fn set_role(&self, name: &str, role: Role) -> Result<User> {
        let path = format!("/api/v1/users/{}/role", segment(name));
        self.post(&path, &RoleRequest { role }).await
    }

    /// Sets a password; one's own needs the current one.
    pub async fn set_password(&self, name: &str, request: &PasswordRequest) -> Result<()> {
        let path = format!("/api/v1/users/{}/password", segment(name));
        let request = self.request(Method::POST, &path).json(request);
        send(request.timeout(REQUEST_TIMEOUT)).await.map(drop)
    }

    /// The caller's tokens; for an admin those of everybody.
    pub async fn tokens(&self) -> Result<Vec<Token>> {
        self.list("/api/v1/tokens", &()).await
    }

    /// Makes a token.
    pub async fn create_token(&self, request: &TokenRequest) -> Result<NewToken> {
        self.post("/api/v1/tokens", request).await
    }

    /// Makes a token useless.
    pub async fn revoke_token(&self, id: i64) -> Result<()> {
        self.delete(&format!("/api/v1/tokens/{id}")).await
    }

    /// A page of the audit log: what is after entry `after`, oldest first.
    pub async fn audit(&self, after: i64) -> Result<Page<AuditEntry>> {
        let request = self.request(Method::GET, "/api/v1/audit");
        let request = request.query(&[("after", after), ("limit", i64::from(AUDIT_PAGE))]);
        self.answer(request.timeout(REQUEST_TIMEOUT)).await
    }

    /// The whole audit log as lines of JSON. That it was exported is its last entry.
    pub async fn audit_export(&self) -> Result<Download> {
        self.download("/api/v1/audit/export").await
    }

    /// Everything that the server is made of, keys and tokens included, as a tar.
    pub async fn backup(&self) -> Result<Download> {
        self.bytes(Method::POST, "/api/v1/backup").await
    }
}
