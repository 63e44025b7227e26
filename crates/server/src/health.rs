//! What parts of the server say of themselves, for whoever looks.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::tls::Tls;

/// Filled in by those parts.
#[derive(Default)]
pub struct Health {
    /// TLS as it is served; unset with plain HTTP.
    pub tls: OnceLock<Arc<Tls>>,
    mqtt_away: Mutex<Option<String>>,
}

impl Health {
    /// Why there is no connection to the broker; none while there is one.
    pub fn mqtt_away(&self) -> Option<String> {
        let away = self.mqtt_away.lock();
        away.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that the connection was lost, or is there.
    pub fn tell_mqtt(&self, away: Option<&str>) {
        let mut known = self
            .mqtt_away
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *known = away.map(str::to_owned);
    }
}
