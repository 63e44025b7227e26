//! Logging in with an OpenID Connect provider: authorization code with PKCE.
//!
//! The provider says who somebody is and in which groups; [`Settings::roles`] says what that is
//! worth here, anew at each login. A user is known again by the provider's `sub`, never by the
//! name: names are given to others, and a name that has a password here is never taken over.
//!
//! What belongs to a login under way stays in this process, under an id that only the browser that
//! began it has in a cookie: a code that somebody else obtained is of no use in it, nor the other
//! way round.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    pin::Pin,
    sync::Mutex,
    time::Duration,
};

use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use fota_proto::{
    DeviceId,
    operators::{Role, Secret},
};
use openidconnect::{
    AsyncHttpClient, AuthorizationCode, ClientId, ClientSecret, CsrfToken, HttpRequest,
    HttpResponse, IssuerUrl, Nonce, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope,
    TokenResponse,
    core::{
        CoreAuthenticationFlow, CoreClient, CoreIdToken, CoreJwsSigningAlgorithm,
        CoreProviderMetadata,
    },
};
use serde::Deserialize;
use serde_json::Value;

use super::{By, Record, lock, no_randomness, secret};
use crate::{AppState, api::problem::Refusal, service::commit_by, store::Account};

/// How long a person may take at the provider.
const LOGIN_MS_MAX: i64 = 10 * 60 * 1000;
/// Logins under way; the oldest is given up where another begins.
const LOGINS_MAX: usize = 256;
/// How long the provider may take for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Longest answer of a provider: its keys and certificates.
const ANSWER_BYTES_MAX: usize = 512 * 1024;

/// What has to be known of a provider.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Its URL, as in the `iss` of its tokens.
    pub issuer: String,
    pub client_id: String,
    pub client_secret: Option<Secret>,
    /// The URL under which browsers reach this server, without a slash at the end.
    pub public_url: String,
    /// Scopes asked for beside `openid`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Claim that is the user's name here.
    #[serde(default = "name_claim")]
    pub name_claim: String,
    /// Claim that holds a text or a list of texts, such as groups.
    #[serde(default = "role_claim")]
    pub role_claim: String,
    /// What a value of that claim is worth; the most counts, none lets nobody in.
    pub roles: BTreeMap<String, Role>,
}

fn name_claim() -> String {
    "preferred_username".to_owned()
}

fn role_claim() -> String {
    "groups".to_owned()
}

/// A login that a browser has begun.
struct UnderWay {
    state: CsrfToken,
    nonce: Nonce,
    verifier: PkceCodeVerifier,
    since: i64,
}

/// A provider, and the logins under way.
pub struct Oidc {
    settings: Settings,
    http: Http,
    under_way: Mutex<HashMap<String, UnderWay>>,
}

/// Where to send a browser, and the id that its cookie is to hold.
pub struct Begun {
    pub url: String,
    pub id: Secret,
}

/// What a browser brings back from the provider.
pub struct Answer {
    /// From its cookie.
    pub id: String,
    pub code: String,
    pub state: String,
}

/// Why the provider could not be asked.
#[derive(Debug)]
struct Unanswered(String);

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unanswered {}

/// The provider over HTTP.
struct Http(reqwest::Client);

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = Unanswered;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Unanswered>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(ask(&self.0, request))
    }
}

async fn ask(http: &reqwest::Client, request: HttpRequest) -> Result<HttpResponse, Unanswered> {
    let said = |error: reqwest::Error| Unanswered(error.without_url().to_string());
    let request = reqwest::Request::try_from(request).map_err(said)?;
    let mut answer = http.execute(request).await.map_err(said)?;
    let mut response = HttpResponse::new(Vec::new());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    while let Some(bytes) = answer.chunk().await.map_err(said)? {
        let body = response.body_mut();
        if body.len() + bytes.len() > ANSWER_BYTES_MAX {
            let text = format!("the answer has more than {ANSWER_BYTES_MAX} bytes");
            return Err(Unanswered(text));
        }
        body.extend_from_slice(&bytes);
    }
    Ok(response)
}

impl Oidc {
    /// Asks nobody yet: a provider that is down must not keep the server from starting.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(settings: Settings) -> Result<Self, String> {
        let is_local =
            |url: &str| url.starts_with("http://127.0.0.1") || url.starts_with("http://localhost");
        for url in [&settings.issuer, &settings.public_url] {
            if !url.starts_with("https://") && !is_local(url) {
                return Err(format!(
                    "{url} is not https: a code would be sent in the open"
                ));
            }
        }
        if settings.roles.is_empty() {
            return Err("roles is empty: nobody could log in".to_owned());
        }
        // Installing twice is refused and harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            // A redirect would let the provider choose whom this server asks.
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ANSWER_MAX)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            settings,
            http: Http(http),
            under_way: Mutex::default(),
        })
    }

    /// What the provider says of itself, with its keys; asked at each login, so that new keys count.
    async fn metadata(&self) -> Result<CoreProviderMetadata, Refusal> {
        let issuer = IssuerUrl::new(self.settings.issuer.clone()).map_err(failed)?;
        let found = CoreProviderMetadata::discover_async(issuer, &self.http).await;
        found.map_err(failed)
    }

    fn redirect(&self) -> Result<RedirectUrl, Refusal> {
        let url = format!("{}/login/oidc/callback", self.settings.public_url);
        RedirectUrl::new(url).map_err(failed)
    }

    fn id(&self) -> ClientId {
        ClientId::new(self.settings.client_id.clone())
    }

    fn secret(&self) -> Option<ClientSecret> {
        let secret = self.settings.client_secret.as_ref();
        secret.map(|secret| ClientSecret::new(secret.reveal().to_owned()))
    }

    /// Begins a login.
    pub async fn begin(&self, now: i64) -> Result<Begun, Refusal> {
        let (id, state, nonce) = (random()?, random()?, random()?);
        // 64 hex digits: within what RFC 7636 asks of a verifier.
        let verifier = PkceCodeVerifier::new(random()?);
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&verifier);
        let client =
            CoreClient::from_provider_metadata(self.metadata().await?, self.id(), self.secret());
        let redirect = self.redirect()?;
        let request = client.set_redirect_uri(redirect);
        let scopes = self.settings.scopes.iter().cloned().map(Scope::new);
        let (url, state, nonce) = request
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                || CsrfToken::new(state),
                || Nonce::new(nonce),
            )
            .add_scopes(scopes)
            .set_pkce_challenge(challenge)
            .url();
        let under_way = UnderWay {
            state,
            nonce,
            verifier,
            since: now,
        };
        self.keep(&id, under_way, now);
        Ok(Begun {
            url: url.to_string(),
            id: Secret::new(id),
        })
    }

    fn keep(&self, id: &str, login: UnderWay, now: i64) {
        let mut all = lock(&self.under_way);
        all.retain(|_, login| now - login.since < LOGIN_MS_MAX);
        if all.len() >= LOGINS_MAX {
            let oldest = all.iter().min_by_key(|(_, login)| login.since);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                all.remove(&oldest);
            }
        }
        all.insert(id.to_owned(), login);
    }

    /// Whom the provider sent back with this code; each login can be ended once.
    pub async fn end(&self, state: &AppState, answer: Answer, by: By) -> Result<Account, Refusal> {
        let Answer {
            id,
            code,
            state: given_state,
        } = answer;
        let now = state.now_ms();
        let login = lock(&self.under_way).remove(&id);
        let login = login.filter(|login| now - login.since < LOGIN_MS_MAX);
        let login =
            login.ok_or_else(|| refused("this login was not begun here, or took too long"))?;
        if secret::digest(login.state.secret()) != secret::digest(&given_state) {
            return Err(refused("the answer belongs to another login"));
        }
        let client =
            CoreClient::from_provider_metadata(self.metadata().await?, self.id(), self.secret());
        let client = client.set_redirect_uri(self.redirect()?);
        let exchange = client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(failed)?
            .set_pkce_verifier(login.verifier);
        let answer = exchange.request_async(&self.http).await;
        let answer = answer.map_err(failed)?;
        let token = answer
            .id_token()
            .ok_or_else(|| refused("the provider gave no id token"))?;
        // Only signatures that need the provider's private key; never `none` or a shared secret.
        let verifier = client.id_token_verifier().set_allowed_algs([
            CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
            CoreJwsSigningAlgorithm::EcdsaP256Sha256,
            CoreJwsSigningAlgorithm::EdDsa,
        ]);
        let claims = token.claims(&verifier, &login.nonce).map_err(|error| {
            tracing::warn!(%error, "the provider's id token is not good");
            refused("the provider's answer cannot be verified: see the server's log")
        })?;
        let subject = format!("{} {}", self.settings.issuer, claims.subject().as_str());
        self.account(state, token, &subject, by).await
    }

    /// The user of a verified token, with the role that its claims are worth now.
    async fn account(
        &self,
        state: &AppState,
        token: &CoreIdToken,
        subject: &str,
        by: By,
    ) -> Result<Account, Refusal> {
        let claims = payload(token).ok_or_else(|| refused("the id token holds no claims"))?;
        let role = self.role(&claims).ok_or_else(|| {
            let claim = &self.settings.role_claim;
            refused(&format!(
                "the claim {claim} gives you no role here: ask an admin"
            ))
        })?;
        let claim = &self.settings.name_claim;
        let name = claims.get(claim).and_then(Value::as_str).unwrap_or("");
        let name: DeviceId = name.parse().map_err(|error| {
            refused(&format!("the claim {claim} is no name for a user: {error}"))
        })?;
        stored(state, subject, name.as_str(), role, by).await
    }

    fn role(&self, claims: &Value) -> Option<Role> {
        let claim = claims.get(&self.settings.role_claim)?;
        let values: Vec<&str> = match claim {
            Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
            value => value.as_str().into_iter().collect(),
        };
        let roles = &self.settings.roles;
        values
            .iter()
            .filter_map(|value| roles.get(*value))
            .max()
            .copied()
    }
}

/// The user as stored: made at the first login, with the role of today at each.
async fn stored(
    state: &AppState,
    subject: &str,
    name: &str,
    role: Role,
    by: By,
) -> Result<Account, Refusal> {
    let now = state.now_ms();
    let mut tx = state.store.write().await?;
    let object = |name: &str| format!("user:{name}");
    let (account, record) = match tx.account_of_subject(subject).await? {
        Some(known) if known.role == role => return Ok(known),
        Some(known) => {
            tx.set_role(known.id, role).await?;
            let detail = format!("{role} instead of {}, by the login provider", known.role);
            let record = Record::new("user.role", object(&known.name), detail);
            (Account { role, ..known }, record)
        }
        None => {
            let id = tx.insert_account(name, role, None, now).await?;
            let id = id.ok_or_else(|| {
                refused(&format!(
                    "a user {name} exists here who is not yours: ask an admin to remove it"
                ))
            })?;
            tx.set_subject(id, subject).await?;
            let detail = format!("role {role}, by the login provider: {subject}");
            let record = Record::new("user.created", object(name), detail);
            let account = Account {
                id,
                name: name.to_owned(),
                role,
                password: None,
                created_at: now,
                password_at: now,
            };
            (account, record)
        }
    };
    let by = By {
        actor: object(&account.name),
        ..by
    };
    commit_by(state, tx, &by, record, &[], false).await?;
    Ok(account)
}

/// All claims of a token that was verified: the library knows only the standard ones.
fn payload(token: &CoreIdToken) -> Option<Value> {
    let text = token.to_string();
    let middle = text.split('.').nth(1)?;
    let bytes = URL_SAFE_NO_PAD.decode(middle).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn random() -> Result<String, Refusal> {
    secret::random_hex().map_err(|error| no_randomness(&error))
}

fn refused(detail: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "oidc_refused", detail)
}

fn failed(error: impl std::error::Error) -> Refusal {
    let mut why = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        why = format!("{why}: {error}");
        cause = error.source();
    }
    tracing::error!(why, "the login provider could not be asked");
    let detail = "the login provider could not be asked: see the server's log, or use a password";
    Refusal::new(StatusCode::BAD_GATEWAY, "oidc_unanswered", detail)
}
