//! A network link, described once and used twice: [`SimLink::flow`] runs one TCP connection over
//! it in virtual time (what would this transfer cost?), [`SimLink::live`] slows, stalls and cuts
//! the body of a real HTTP request (does the device cope?).

mod flow;
mod live;

use std::{str::FromStr, time::Duration};

pub use flow::{Flow, Meanwhile, WireBytes, on_the_wire};
pub use live::{Fault, LiveLink, NetworkDown};

/// Bytes of TCP payload in a full segment: 1500 less IP and TCP headers with timestamps, as lwIP
/// on ESP32 negotiates (`CONFIG_LWIP_TCP_MSS` 1436 or 1440).
pub const SEGMENT_BYTES: u64 = 1436;
/// IP and TCP header of one segment.
pub const HEADER_BYTES: u64 = 40;
/// Segments a server may send before the first acknowledgement (RFC 6928).
pub const INITIAL_WINDOW_SEGMENTS: u64 = 10;
/// lwIP's default receive window on ESP32, four segments (ESP-IDF `components/lwip/Kconfig`). It
/// is compiled into the prebuilt Arduino cores.
pub const LWIP_WINDOW_BYTES: u64 = 4 * SEGMENT_BYTES;

/// A link between one device and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimLink {
    /// Name as `--link` takes it.
    pub name: &'static str,
    /// Bandwidth of each direction; 0 is unlimited.
    pub bits_per_s: u64,
    /// Time of a small packet there and back.
    pub round_trip: Duration,
    /// Segments lost, of a million.
    pub lost_per_million: u32,
    /// Bytes the device's TCP stack takes before the application reads them.
    pub receive_window_bytes: u64,
}

impl SimLink {
    /// No limits: the loopback interface itself.
    pub const NONE: Self = Self::new("none", 0, 0);
    /// Wi-Fi in the same room, the seed's set-up.
    pub const LAN: Self = Self::new("lan", 10_000_000, 10);
    /// A DSL line far away, or crowded Wi-Fi.
    pub const WAN: Self = Self::new("wan", 1_000_000, 150);
    /// LTE-M.
    pub const LTE_M: Self = Self::new("lte-m", 300_000, 200);
    /// NB-IoT, middle of its range.
    pub const NB_IOT: Self = Self::new("nb-iot", 30_000, 1_500);
    /// Every link with a name.
    pub const ALL: [Self; 5] = [Self::NONE, Self::LAN, Self::WAN, Self::LTE_M, Self::NB_IOT];

    /// A link without loss and with lwIP's default window.
    pub const fn new(name: &'static str, bits_per_s: u64, round_trip_ms: u64) -> Self {
        Self {
            name,
            bits_per_s,
            round_trip: Duration::from_millis(round_trip_ms),
            lost_per_million: 0,
            receive_window_bytes: LWIP_WINDOW_BYTES,
        }
    }

    /// The same link with another receive window.
    pub const fn with_window(self, receive_window_bytes: u64) -> Self {
        Self {
            receive_window_bytes,
            ..self
        }
    }

    /// How long these bytes occupy one direction.
    pub const fn air_time(&self, bytes: u64) -> Duration {
        match self.bits_per_s {
            0 => Duration::ZERO,
            rate => Duration::from_nanos(bytes * 8 * 1_000_000_000 / rate),
        }
    }

    /// A TCP connection over this link in virtual time, starting at zero.
    pub fn flow(self) -> Flow {
        Flow::new(self)
    }

    /// This link in front of a real connection; `speed` 10 makes it ten times faster than real.
    pub fn live(self, speed: f64) -> LiveLink {
        LiveLink::new(self, speed)
    }
}

/// A name that is no link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no link is called {0:?}: use none, lan, wan, lte-m or nb-iot")]
pub struct UnknownLink(String);

impl FromStr for SimLink {
    type Err = UnknownLink;

    fn from_str(name: &str) -> Result<Self, UnknownLink> {
        let found = Self::ALL.into_iter().find(|link| link.name == name);
        found.ok_or_else(|| UnknownLink(name.to_owned()))
    }
}
