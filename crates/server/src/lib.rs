//! The fota server: devices check in, artifacts go out, operators decide.
//!
//! It never installs what the chip would refuse, never believes a version text where a digest is
//! known, and never forgets an order: a rollback stands until the device is seen to have obeyed.
//!
//! Main path: `POST /d/v1/check-in` ([`api::checkin`]) → [`service::checkin::check_in`] loads what
//! is stored ([`store`]) → [`domain::step::step`] decides, purely → the changes are stored in the
//! same transaction → the answer. All routes are in [`api::router`].
//!
//! ```no_run
//! # async fn example() -> Result<(), fota_server::StartError> {
//! let config = fota_server::Config::new("./fota-data");
//! let server = fota_server::start(config, fota_server::Clock::System).await?;
//! println!("http://{}", server.addr);
//! server.shutdown().await;
//! # Ok(()) }
//! ```

pub mod api;
pub mod auth;
pub mod backup;
pub mod blobs;
mod clock;
pub mod compat;
pub mod domain;
pub mod embedded;
pub mod fleet;
mod health;
pub mod http;
pub mod hub;
pub mod identities;
pub mod notify;
pub mod online_key;
mod private_file;
mod random;
pub mod range;
pub mod service;
mod start;
mod state;
pub mod store;
pub mod tls;
pub mod web;

pub use api::router;
pub use clock::Clock;
pub use start::{Config, Running, StartError, start};
pub use state::{AppState, Shared};
