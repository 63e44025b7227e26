//! Simulated devices against the real server, over real HTTP on loopback.

mod bytes;
mod convergence;
mod deltas;
mod faults;
mod identities;
mod patches;
mod resume;
mod seed_runs;
mod signed;
mod world;
