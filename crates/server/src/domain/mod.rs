//! Decisions: pure functions of stored facts, a device's report and `now`.
//!
//! Nothing here reads a clock, a random number, the network or the database, so the same inputs
//! give the same answer whoever asks. Main path: [`step::step`] folds one report into what is
//! stored and says which order stands.

pub mod attempt;
pub mod audit;
pub mod claim;
pub mod clusters;
pub mod delta;
pub mod filter;
pub mod fit;
pub mod forecast;
pub mod health;
pub mod hex;
pub mod history;
pub mod identity;
pub mod kind;
pub mod log;
pub mod model;
pub mod notify;
pub mod plan;
pub mod presence;
pub mod rollout;
pub mod rules;
#[cfg(test)]
pub mod sample;
pub mod sequential;
pub mod step;
pub mod trust;
pub mod wave;
pub mod window;
