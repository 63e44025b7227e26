//! The real binary from the outside: its words, its exit codes, and what the devices then run.

#![allow(clippy::disallowed_methods)] // patience is measured in real time

mod deltas;
mod dev_key;
mod harness;
mod identity;
mod keys;
mod log;
mod manager;
#[cfg(unix)]
mod menu;
mod offline;
#[cfg(unix)]
mod operators;
mod rollouts;
mod secure_boot;
#[cfg(unix)]
mod serial;
mod serve;
mod softhsm;
mod tls;
mod webhooks;
