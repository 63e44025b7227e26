//! The nouns of fota: identifiers, limits, states, codes and the wire types that the device and
//! the server both speak.
//!
//! This crate never allocates and never does I/O; it builds for a microcontroller. The
//! exceptions need `std`: the feature `manager` adds the JSON types of the manager API for the
//! server and its clients, and `sign` makes the objects that [`signed`] verifies.
//!
//! Main path: a device encodes a [`checkin::CheckIn`], the server answers with a
//! [`checkin::Answer`], and what became of an order is an [`attempt::AttemptState`].
#![cfg_attr(not(any(feature = "manager", feature = "sign")), no_std)]
#![warn(missing_docs)]

pub mod attempt;
pub mod checkin;
pub mod code;
pub mod digest;
pub mod enrol;
pub mod ids;
pub mod limits;
pub mod list;
pub mod log;
#[cfg(feature = "manager")]
pub mod manager;
#[cfg(feature = "manager")]
pub mod notify;
#[cfg(feature = "manager")]
pub mod operators;
pub mod serial;
pub mod signed;

pub use attempt::{AttemptState, RollbackCause, SkipReason};
pub use code::FailureCode;
pub use digest::Sha256;
pub use ids::DeviceId;
