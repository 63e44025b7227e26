//! The server through its front door: HTTP in, answers and stored state out. Everything runs on
//! SQLite, and on PostgreSQL too where `FOTA_TEST_POSTGRES=postgres://…` is set.

mod keys;
mod support;

#[cfg(feature = "acme")]
mod acme;
mod attacks_device;
mod attacks_operator;
mod attacks_signing;
mod attacks_transport;
mod audit;
mod authorisation;
mod bad_input;
mod blobs;
mod checkin;
mod clusters;
mod contract;
mod deltas;
mod device_identity;
mod devices;
mod events;
mod gates;
mod groups;
mod kinds;
mod log;
mod mqtt;
#[cfg(feature = "oidc")]
mod oidc;
mod openapi;
mod operators;
mod products;
mod releases;
mod rollbacks;
mod rollouts;
mod roots;
mod seed;
mod seed_bench;
mod seed_contract;
mod signed;
mod start;
mod tls;
mod waves;
mod web;
mod web_devices;
mod web_start;
mod webhooks;
