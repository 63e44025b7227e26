//! The real binary from the outside: its words, its exit codes, and what the devices then run.

mod harness;
mod manager;
#[cfg(unix)]
mod menu;
mod offline;
mod serve;
