//! A link in front of a real connection: it paces bytes that have already arrived, so what it
//! shows is how the *device* takes a slow, stalling or breaking network.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};

use super::SimLink;

/// How late a timer may be before the lateness counts as silence of the sender.
const TIMER_SLACK: Duration = Duration::from_millis(50);

/// The network is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the network is down")]
pub struct NetworkDown;

/// Something that happens once, when byte `at` of an artifact is about to arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks, and the network stays away for a while.
    Cut {
        /// Byte of the artifact that does not arrive any more.
        at: u64,
        /// How long the device is offline.
        offline: Duration,
    },
    /// Nothing comes for a while, then it goes on.
    Stall {
        /// Byte of the artifact that is late.
        at: u64,
        /// How late.
        delay: Duration,
    },
}

impl Fault {
    const fn at(&self) -> u64 {
        match self {
            Self::Cut { at, .. } | Self::Stall { at, .. } => *at,
        }
    }
}

/// The link of one device.
#[derive(Debug)]
pub struct LiveLink {
    link: SimLink,
    speed: f64,
    faults: Vec<Fault>,
    offline_until: Option<Instant>,
    switched_off: Arc<AtomicBool>,
    ready_at: Option<Instant>,
}

impl LiveLink {
    pub(super) fn new(link: SimLink, speed: f64) -> Self {
        Self {
            link,
            speed,
            faults: Vec::new(),
            offline_until: None,
            switched_off: Arc::default(),
            ready_at: None,
        }
    }

    /// The same link with faults to come; each happens once.
    pub fn with_faults(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.faults.extend(faults);
        self
    }

    /// Adds a fault to come.
    pub fn add_fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// A switch that takes the network away while it is set.
    pub fn off_switch(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.switched_off)
    }

    /// A request and the head of its answer have to cross the link.
    pub async fn round_trip(&mut self) -> Result<(), NetworkDown> {
        self.is_up()?;
        self.ready_at = None;
        self.wait(self.link.round_trip).await;
        self.is_up()
    }

    /// Bytes `offset..offset + bytes` of an artifact have to cross the link. Returns how many of
    /// them arrive, once they have; fewer than `bytes` means that the connection is gone.
    pub async fn pass(&mut self, offset: u64, bytes: usize) -> usize {
        let end = offset + bytes as u64;
        while let Some(fault) = self.take_fault(offset, end) {
            match fault {
                Fault::Stall { delay, .. } => self.wait(delay).await,
                Fault::Cut { at, offline } => {
                    let arrive = (at - offset) as usize;
                    self.pace(arrive).await;
                    self.offline_until = Some(Instant::now() + self.scaled(offline));
                    return arrive;
                }
            }
        }
        self.pace(bytes).await;
        if self.is_up().is_ok() { bytes } else { 0 }
    }

    /// The first fault in the range; a fault whose byte has passed already never happens.
    fn take_fault(&mut self, offset: u64, end: u64) -> Option<Fault> {
        let inside = |fault: &Fault| (offset..end).contains(&fault.at());
        let found = self.faults.iter().enumerate();
        let (index, _) = found
            .filter(|(_, fault)| inside(fault))
            .min_by_key(|(_, fault)| fault.at())?;
        Some(self.faults.remove(index))
    }

    fn is_up(&mut self) -> Result<(), NetworkDown> {
        if self
            .offline_until
            .is_some_and(|until| Instant::now() >= until)
        {
            self.offline_until = None;
        }
        let down = self.offline_until.is_some() || self.switched_off.load(Ordering::Relaxed);
        if down { Err(NetworkDown) } else { Ok(()) }
    }

    async fn pace(&mut self, bytes: usize) {
        let air_time = self.scaled(self.link.air_time(bytes as u64));
        if air_time.is_zero() {
            return;
        }
        // Counted from when the last bytes were due, not from when the timer woke us: timers are
        // late by up to a millisecond, which would add up to a slower link than asked for.
        let now = Instant::now();
        let recent = |due: &Instant| *due + TIMER_SLACK > now;
        let due = self.ready_at.filter(recent).unwrap_or(now) + air_time;
        sleep_until(due).await;
        self.ready_at = Some(due);
    }

    async fn wait(&self, time: Duration) {
        let time = self.scaled(time);
        if !time.is_zero() {
            sleep(time).await;
        }
    }

    fn scaled(&self, time: Duration) -> Duration {
        time.div_f64(self.speed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cut_happens_once_at_its_byte_and_takes_the_network_away() {
        let cut = Fault::Cut {
            at: 1500,
            offline: Duration::from_secs(5),
        };
        let mut link = SimLink::NONE.live(1.0).with_faults([cut]);
        assert_eq!(link.pass(0, 1000).await, 1000);
        assert_eq!(link.pass(1000, 1000).await, 500);
        assert_eq!(link.round_trip().await, Err(NetworkDown));
        sleep(Duration::from_secs(5)).await;
        assert_eq!(link.round_trip().await, Ok(()));
        assert_eq!(link.pass(1000, 1000).await, 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_air_time() {
        let started = Instant::now();
        let mut link = SimLink::WAN.live(2.0);
        link.round_trip().await.expect("up");
        for chunk in 0..10 {
            link.pass(chunk * 12_500, 12_500).await;
        }
        // 125,000 bytes at 1 Mbit/s are 1 s; a round trip is 150 ms; at double speed half of it.
        let elapsed = started.elapsed();
        assert!((570..590).contains(&elapsed.as_millis()), "{elapsed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_delays_and_goes_on() {
        let stall = Fault::Stall {
            at: 10,
            delay: Duration::from_secs(3),
        };
        let mut link = SimLink::NONE.live(1.0).with_faults([stall]);
        let started = Instant::now();
        assert_eq!(link.pass(0, 100).await, 100);
        assert_eq!(started.elapsed().as_secs(), 3);
    }

    #[tokio::test]
    async fn the_switch_takes_the_network_away() {
        let mut link = SimLink::NONE.live(1.0);
        link.off_switch().store(true, Ordering::Relaxed);
        assert_eq!(link.round_trip().await, Err(NetworkDown));
        assert_eq!(link.pass(0, 10).await, 0);
    }
}
