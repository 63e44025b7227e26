//! One file per verb or noun of the command line.

pub mod audit;
pub mod bundle;
pub mod completions;
pub mod config;
pub mod delta;
pub mod device;
pub mod device_identity;
pub mod doctor;
pub mod event;
pub mod group;
pub mod image;
pub mod key;
pub mod log;
pub mod login;
pub mod product;
pub mod release;
pub mod rollback;
pub mod rollout;
pub mod root;
pub mod serial;
pub mod serve;
pub mod token;
pub mod update;
pub mod upload;
pub mod user;
pub mod verify;
