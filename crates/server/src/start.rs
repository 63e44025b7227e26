//! Starting and ending the server.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    AppState, Clock, api,
    auth::{self, Auth, Token},
    backup::UNFINISHED_FILE,
    blobs::Blobs,
    domain::identity::DeviceAuth,
    fleet, http, notify,
    online_key::OnlineKey,
    service::{deltas, roots},
    store::{Store, StoreError},
    tls::{self, Tls, TlsError},
};

/// Held while a server runs on a data directory.
pub(crate) const LOCK_FILE: &str = "lock";

/// The database of a data directory, where it is not a PostgreSQL server.
pub(crate) const SQLITE_FILE: &str = "fota.db";

/// More threads than this are a slip of the keyboard.
const DELTA_WORKERS_MAX: usize = 64;

/// How the server is started.
#[derive(Clone)]
pub struct Config {
    /// Directory for the database, the artifacts and the operator's token.
    pub data: PathBuf,
    /// `postgres://…`; SQLite in `data/fota.db` if absent.
    pub db: Option<String>,
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether the seed's operator paths need no token.
    pub legacy_open: bool,
    /// Whether files that are no images are taken.
    pub lab: bool,
    /// Key of the seed's chunk MACs.
    pub legacy_psk: Option<[u8; 32]>,
    /// Id of devices that speak the seed's API and do not say their own.
    pub legacy_default_device_id: String,
    /// Which check-ins are taken.
    pub device_auth: DeviceAuth,
    /// Ids that the seed's API may speak for although check-ins must be sealed; it never speaks for
    /// a device that has a credential.
    pub legacy_allow: Vec<fota_proto::DeviceId>,
    /// Seconds between check-ins that devices are told.
    pub poll_s: u32,
    /// Bytes of images that all rollouts together may send each second, on average; no budget if
    /// absent.
    pub bandwidth_budget: Option<u64>,
    /// The operator's token; made at the first start and kept in `data/operator-token` if absent.
    pub operator_token: Option<String>,
    /// File with the key that signs answers, PKCS#8 PEM; made at the first start and kept in
    /// `data/online-key.pem` if absent.
    pub online_key: Option<PathBuf>,
    /// Whether unsigned images are taken while the server has no root.
    pub allow_unsigned: bool,
    /// TLS; plain HTTP if absent.
    pub tls: Option<tls::Config>,
    /// The proxies that are believed when they name a client.
    pub proxies: http::Proxies,
    /// `https://fota.example`, where the outside knows the server under another address than the
    /// one a request names.
    pub public_url: Option<String>,
    /// Patches that are made at the same time; 0 makes none.
    pub delta_workers: usize,
    /// How one is made.
    pub delta_encode: deltas::Encode,
    /// Time and connections that a peer gets.
    pub limits: http::Limits,
    /// A broker that the fleet is published to, where there is one.
    pub mqtt: Option<notify::mqtt::Settings>,
    /// A login provider, where there is one.
    #[cfg(feature = "oidc")]
    pub oidc: Option<auth::oidc::Settings>,
}

impl Config {
    /// The defaults: SQLite, loopback port 8080, a minute between check-ins.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            db: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            legacy_open: false,
            lab: false,
            legacy_psk: None,
            legacy_default_device_id: "EcoWatt001".to_owned(),
            device_auth: DeviceAuth::default(),
            legacy_allow: Vec::new(),
            poll_s: 60,
            bandwidth_budget: None,
            operator_token: None,
            online_key: None,
            allow_unsigned: true,
            tls: None,
            proxies: http::Proxies::default(),
            public_url: None,
            delta_workers: delta_workers(),
            delta_encode: deltas::encode,
            limits: http::Limits::default(),
            mqtt: None,
            #[cfg(feature = "oidc")]
            oidc: None,
        }
    }
}

/// A core is left for those who ask; where there is only one, they share it.
fn delta_workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.saturating_sub(1).max(1)
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error("data directory {path}: {error}: create it, or choose another with --data")]
    Data {
        /// The directory or the file in it.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another server runs there.
    #[error("a server already runs on {path}: stop it, or choose another directory with --data")]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
    /// A restore was interrupted there.
    #[error("a restore into {path} was interrupted: empty it and restore again")]
    Unfinished {
        /// The data directory.
        path: PathBuf,
    },
    /// The address is taken or not ours.
    #[error("cannot listen on {addr}: {error}: choose another with --listen")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The database cannot be used.
    #[error("database {name}: {error}")]
    Database {
        /// The file, or the URL without its password.
        name: String,
        /// What is wrong.
        error: StoreError,
    },
    /// The key that signs answers cannot be used.
    #[error("online key {path}: {error}")]
    OnlineKey {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        error: io::Error,
    },
    /// TLS cannot be served.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// A setting makes no sense.
    #[error("{setting}: {reason}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// Why, and what to give.
        reason: String,
    },
}

/// A running server.
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
    /// The operator's token.
    pub operator_token: String,
    /// TLS, where it is served; for a reload and the certificate's fingerprint.
    pub tls: Option<Arc<Tls>>,
    /// The shared state, for a program that embeds the server.
    pub state: AppState,
    end: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    lock: File,
}

impl Running {
    /// Ends it: no new requests, those under way end, all is written.
    pub async fn shutdown(self) {
        // No receiver left means that all has ended already.
        let _ = self.end.send(true);
        for task in self.tasks {
            drop(task.await);
        }
        // What the last requests left.
        if let Err(error) = fleet::flush(&self.state).await {
            tracing::error!(%error, "the last sightings and byte counts are lost");
        }
        let (auth, now) = (&self.state.auth, self.state.now_ms());
        if let Err(error) = auth.flush(&self.state.store, now, true).await {
            tracing::error!(%error, "the last failed logins are not in the audit log");
        }
        self.state.store.close().await;
        drop(self.lock);
    }
}

/// What a server consists of before it listens.
pub(crate) struct Opened {
    pub state: AppState,
    pub operator_token: String,
    pub lock: File,
    /// Becomes true when it is to end.
    pub end: watch::Sender<bool>,
}

/// Opens data directory, database and keys.
pub(crate) async fn open(config: Config, clock: Clock) -> Result<Opened, StartError> {
    check(&config)?;
    let lock = lock(&config.data)?;
    if config.data.join(UNFINISHED_FILE).exists() {
        return Err(StartError::Unfinished { path: config.data });
    }
    let store = open_store(&config).await?;
    let folder = AppState::blobs_folder(&config.data);
    let blobs = Blobs::open_folder(&folder).map_err(|error| data_error(&folder, error))?;
    let operator_token = match &config.operator_token {
        Some(token) => token.clone(),
        None => {
            auth::load_or_make(&config.data).map_err(|error| data_error(&config.data, error))?
        }
    };
    let online_key = OnlineKey::load_or_make(&config.data, config.online_key.as_deref());
    let online_key = online_key.map_err(|(path, error)| StartError::OnlineKey { path, error })?;
    let (end, closing) = watch::channel(false);
    let auth = auth(&config, &operator_token, clock.now_ms())?;
    let state = AppState::new(config, clock, store, blobs, auth, online_key, closing);
    let looked = look_at_store(&state).await;
    looked.map_err(|error| StartError::Database {
        name: database_name(&state.config),
        error,
    })?;
    Ok(Opened {
        state,
        operator_token,
        lock,
        end,
    })
}

/// Starts the server; it answers when this returns.
pub async fn start(config: Config, clock: Clock) -> Result<Running, StartError> {
    let Opened {
        state,
        operator_token,
        lock,
        end,
    } = open(config, clock).await?;
    let config = &state.config;
    let (listener, addr) = bind(config.listen).await?;
    let tls = match &config.tls {
        Some(tls) => Some(Tls::load(tls.clone(), &config.data, state.clock.clone())?),
        None => None,
    };
    if let Some(tls) = &tls {
        let _is_first = state.health.tls.set(Arc::clone(tls));
    }
    let closing = state.closing.clone();
    let front = http::Front {
        router: api::router(state.clone()),
        tls: tls.clone(),
        limits: state.config.limits,
        proxies: state.config.proxies.clone(),
    };
    let mut tasks = vec![
        tokio::spawn(http::serve(listener, front, closing.clone())),
        tokio::spawn(fleet::run(state.clone())),
        tokio::spawn(notify::webhook::run(state.clone())),
    ];
    let worker = |_| tokio::spawn(deltas::run(state.clone()));
    tasks.extend((0..state.config.delta_workers).map(worker));
    if let Some(mqtt) = state.config.mqtt.clone() {
        tasks.push(tokio::spawn(notify::mqtt::run(state.clone(), mqtt)));
    }
    if let Some(tls) = &tls {
        tasks.push(tokio::spawn(Arc::clone(tls).watch(closing.clone())));
        #[cfg(feature = "acme")]
        tasks.extend(tls::acme::renewal(tls, closing).map(tokio::spawn));
    }
    tracing::info!(%addr, data = %state.config.data.display(), "listening");
    Ok(Running {
        addr,
        operator_token,
        tls,
        state,
        end,
        tasks,
        lock,
    })
}

async fn bind(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let refused = |error| StartError::Listen {
        addr: listen,
        error,
    };
    let listener = TcpListener::bind(listen).await.map_err(refused)?;
    let addr = listener.local_addr().map_err(refused)?;
    Ok((listener, addr))
}

/// What must be known before the first request.
async fn look_at_store(state: &AppState) -> Result<(), StoreError> {
    let generation = state.store.read().await?.generation().await?;
    state.fleet.learn_generation(generation);
    deltas::take_up(state).await?;
    roots::warn_of_unknown_key(state).await
}

#[cfg_attr(not(feature = "oidc"), allow(unused_variables, unused_mut))]
fn auth(config: &Config, operator_token: &str, now: i64) -> Result<Auth, StartError> {
    let mut auth = Auth::new(Token::new(operator_token), now);
    #[cfg(feature = "oidc")]
    if let Some(settings) = config.oidc.clone() {
        let provider = auth::oidc::Oidc::new(settings);
        auth.oidc = Some(provider.map_err(|reason| StartError::Setting {
            setting: "oidc",
            reason,
        })?);
    }
    Ok(auth)
}

fn check(config: &Config) -> Result<(), StartError> {
    let setting = |setting, reason: &str| {
        Err(StartError::Setting {
            setting,
            reason: reason.to_owned(),
        })
    };
    if config.bandwidth_budget == Some(0) {
        return setting(
            "bandwidth budget",
            "is 0, which would start nothing: leave it out",
        );
    }
    if config.poll_s == 0 {
        return setting("poll_s", "is 0: give at least 1 second between check-ins");
    }
    if config.delta_workers > DELTA_WORKERS_MAX {
        let reason = "is more than 64: give at most one for each core";
        return setting("--delta-workers", reason);
    }
    if config
        .operator_token
        .as_ref()
        .is_some_and(|token| token.len() < 16)
    {
        return setting(
            "operator token",
            "is shorter than 16 characters: give a longer one",
        );
    }
    if let Some(url) = &config.public_url
        && !is_base(url)
    {
        let reason = "is no http:// or https:// URL without a path: write https://fota.example";
        return setting("public url", reason);
    }
    let tls = config.tls.as_ref();
    if tls.is_some_and(|tls| tls.client_cert_required && tls.client_ca.is_none()) {
        let reason = "needs a client CA to verify certificates against: give --tls-client-ca";
        return setting("--require-client-cert", reason);
    }
    let id = config
        .legacy_default_device_id
        .parse::<fota_proto::DeviceId>();
    if let Err(error) = id {
        return setting("default device id", &error.to_string());
    }
    Ok(())
}

/// `http://host` or `https://host:port`.
fn is_base(url: &str) -> bool {
    let uri = url.trim_end_matches('/').parse::<axum::http::Uri>();
    uri.is_ok_and(|uri| {
        let scheme = uri.scheme_str().unwrap_or_default();
        matches!(scheme, "http" | "https") && uri.path() == "/" && uri.query().is_none()
    })
}

fn data_error(path: &Path, error: io::Error) -> StartError {
    StartError::Data {
        path: path.to_owned(),
        error,
    }
}

/// Makes the directory and takes its lock, which the system gives back however the process ends.
pub(crate) fn lock(data: &Path) -> Result<File, StartError> {
    std::fs::create_dir_all(data).map_err(|error| data_error(data, error))?;
    let path = data.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| data_error(&path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked {
            path: data.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(data_error(&path, error)),
    }
}

async fn open_store(config: &Config) -> Result<Store, StartError> {
    let opened = match &config.db {
        Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            Store::open_postgres(url).await
        }
        Some(_) => {
            return Err(StartError::Setting {
                setting: "--db",
                reason: "is no postgres:// URL: leave it out for SQLite in the data directory"
                    .to_owned(),
            });
        }
        None => Store::open_sqlite(&config.data.join(SQLITE_FILE)).await,
    };
    opened.map_err(|error| StartError::Database {
        name: database_name(config),
        error,
    })
}

/// The database for people: never its password.
fn database_name(config: &Config) -> String {
    match &config.db {
        None => config.data.join(SQLITE_FILE).display().to_string(),
        Some(url) => match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{place}"),
            _ => url.clone(),
        },
    }
}
