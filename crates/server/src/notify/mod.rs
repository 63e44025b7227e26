//! Telling others what happens: webhooks, and MQTT with Home Assistant.
//!
//! All of it reads the stored history from a place of its own, so that a receiver which is away
//! holds up nobody, and nothing that was stored is left out because a process ended. What a message
//! says is made by pure functions; what sends it is beside them.

pub mod address;
pub mod home_assistant;
pub mod message;
pub mod mqtt;
pub mod picture;
pub mod post;
pub mod signature;
pub mod webhook;
