//! What a download costs over a link, in virtual time.
//!
//! Nothing about the protocols is assumed here: a [`Recorder`] stands between a simulated device
//! and a real server and notes the size of every request and answer; the flash operations come
//! from the device's own flash. [`Trace::replay`] then runs both over a [`SimLink`].

mod recorder;

use std::time::Duration;

use crate::link::{Flow, Meanwhile, SimLink, WireBytes};

pub use recorder::{Exchange, Recorder};

/// Erasing one 4 KiB sector, typical.
pub const SECTOR_ERASE: Duration = Duration::from_millis(45);
/// Erasing one 64 KiB block, typical.
pub const BLOCK_ERASE: Duration = Duration::from_millis(150);
/// Programming one page of 256 bytes, typical.
pub const PAGE_PROGRAM: Duration = Duration::from_micros(700);

const BLOCK_BYTES: u64 = 64 * 1024;
const SECTOR_BYTES: u64 = 4096;
const PAGE_BYTES: u64 = 256;

/// The least time any updater needs to erase and program this many bytes: whole blocks where they
/// fit, sectors for the rest.
pub const fn flash_limit(image_bytes: u64) -> Duration {
    let blocks = image_bytes / BLOCK_BYTES;
    let sectors = (image_bytes % BLOCK_BYTES).div_ceil(SECTOR_BYTES);
    let rest = Duration::from_millis(SECTOR_ERASE.as_millis() as u64 * sectors);
    let last = if rest.as_millis() < BLOCK_ERASE.as_millis() {
        rest
    } else {
        BLOCK_ERASE
    };
    let pages = image_bytes.div_ceil(PAGE_BYTES);
    Duration::from_micros(
        BLOCK_ERASE.as_micros() as u64 * blocks
            + last.as_micros() as u64
            + PAGE_PROGRAM.as_micros() as u64 * pages,
    )
}

/// The least time any protocol needs for this image over this link: its bits, or its flash.
pub fn limit(image_bytes: u64, link: &SimLink) -> Duration {
    link.air_time(image_bytes).max(flash_limit(image_bytes))
}

/// A flash operation that can start once this many bytes of the image are at the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlashWork {
    /// Bytes of the image that have to be there.
    pub after_bytes: u64,
    /// How long the operation stalls the CPU.
    pub busy: Duration,
}

/// What one request of a download is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The poll that brings the order, and anything else the device waits for.
    Talk,
    /// The image itself, usable byte by byte.
    Stream,
    /// A piece of the image, usable once it is complete.
    Chunk,
    /// A progress report that nobody waits for.
    Report,
}

/// One recorded download.
#[derive(Clone, Debug)]
pub struct Trace {
    steps: Vec<(Role, Exchange)>,
    flash: Vec<FlashWork>,
    image_bytes: u64,
    chunk_bytes: u64,
}

/// How a replay differs from the recording.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Pause of the device before each chunk: the seed's timer.
    pub per_chunk: Duration,
    /// Least time between two progress reports.
    pub per_report: Duration,
}

/// What a download costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// From the poll that brought the order until the last byte is in flash.
    pub time: Duration,
    /// On the wire, with HTTP, TCP and IP headers.
    pub wire: WireBytes,
    /// Bodies of all requests and answers.
    pub body_bytes: u64,
    /// Requests.
    pub requests: u64,
}

impl Trace {
    /// A download by the seed's API, from the manifest on.
    pub fn seed(
        exchanges: Vec<Exchange>,
        flash: Vec<FlashWork>,
        image_bytes: u64,
        chunk_bytes: u64,
    ) -> Self {
        let role = |exchange: &Exchange| {
            if exchange.target.contains("/fota/chunk") {
                Role::Chunk
            } else {
                Role::Talk
            }
        };
        Self::new(exchanges, flash, image_bytes, chunk_bytes, role)
    }

    /// A download by the native protocol: one check-in, one stream, and reports beside it.
    pub fn native(exchanges: Vec<Exchange>, flash: Vec<FlashWork>, image_bytes: u64) -> Self {
        let mut streaming = false;
        let role = |exchange: &Exchange| {
            let stream = exchange.target.contains("/blobs/");
            streaming |= stream;
            match (stream, streaming) {
                (true, _) => Role::Stream,
                (false, true) => Role::Report,
                (false, false) => Role::Talk,
            }
        };
        Self::new(exchanges, flash, image_bytes, image_bytes, role)
    }

    fn new(
        exchanges: Vec<Exchange>,
        flash: Vec<FlashWork>,
        image_bytes: u64,
        chunk_bytes: u64,
        mut role: impl FnMut(&Exchange) -> Role,
    ) -> Self {
        let steps = exchanges.into_iter().map(|e| (role(&e), e)).collect();
        Self {
            steps,
            flash,
            image_bytes,
            chunk_bytes,
        }
    }

    /// Requests for the image itself.
    pub fn image_requests(&self) -> u64 {
        let image = |role: &Role| matches!(role, Role::Stream | Role::Chunk);
        self.steps.iter().filter(|(role, _)| image(role)).count() as u64
    }

    /// The same download over this link.
    pub fn replay(&self, link: SimLink, pace: Pace) -> Cost {
        let mut replay = Replay::new(self, link, pace);
        for (role, exchange) in &self.steps {
            replay.step(*role, exchange);
        }
        replay.finish()
    }

    fn reports(&self) -> impl Iterator<Item = &Exchange> {
        let report = self.steps.iter().filter(|(role, _)| *role == Role::Report);
        report.map(|(_, exchange)| exchange)
    }
}

struct Replay<'t> {
    trace: &'t Trace,
    pace: Pace,
    flow: Flow,
    connection: Option<u32>,
    flash_done: usize,
    image_bytes: u64,
    body_bytes: u64,
    requests: u64,
}

impl<'t> Replay<'t> {
    fn new(trace: &'t Trace, link: SimLink, pace: Pace) -> Self {
        Self {
            trace,
            pace,
            flow: link.flow(),
            connection: None,
            flash_done: 0,
            image_bytes: 0,
            body_bytes: 0,
            requests: 0,
        }
    }

    fn step(&mut self, role: Role, exchange: &Exchange) {
        match role {
            Role::Report => {}
            Role::Talk => self.whole(exchange, 0),
            Role::Chunk => {
                self.flow.pause(self.pace.per_chunk);
                let rest = self.trace.image_bytes - self.image_bytes;
                self.whole(exchange, rest.min(self.trace.chunk_bytes));
            }
            Role::Stream => self.stream(exchange),
        }
    }

    /// An exchange whose answer the device uses when it is complete.
    fn whole(&mut self, exchange: &Exchange, image_bytes: u64) {
        self.start(exchange);
        let (request, answer) = (exchange.request_bytes(), exchange.answer_bytes());
        self.flow
            .exchange(request, answer, |_, _| Meanwhile::default());
        self.image_bytes += image_bytes;
        let busy = self.flash_until(self.image_bytes);
        self.flow.pause(busy);
    }

    /// An exchange whose answer goes to flash as it comes, with progress reports beside it: a
    /// recorded report comes at its share of the image, or is left out where the last one was
    /// less than [`Pace::per_report`] ago.
    fn stream(&mut self, exchange: &Exchange) {
        self.start(exchange);
        let mut flow = self.flow.clone();
        let (request, answer) = (exchange.request_bytes(), exchange.answer_bytes());
        let mut reports = self.trace.reports();
        let share = answer / (self.trace.reports().count() as u64 + 1);
        let (mut report_after, mut reported_at) = (share, Duration::ZERO);
        flow.exchange(request, answer, |read, at| {
            let image_bytes = read.saturating_sub(exchange.answer_head);
            let mut meanwhile = Meanwhile::busy(self.flash_until(image_bytes));
            if read >= report_after && at >= reported_at + self.pace.per_report {
                (report_after, reported_at) = (read + share, at);
                if let Some(report) = reports.next() {
                    self.count(report);
                    (meanwhile.up, meanwhile.down) =
                        (report.request_bytes(), report.answer_bytes());
                }
            }
            meanwhile
        });
        self.flow = flow;
    }

    fn start(&mut self, exchange: &Exchange) {
        if self.connection.is_some_and(|open| open != exchange.connection) {
            self.flow.connect();
        }
        self.connection = Some(exchange.connection);
        self.count(exchange);
    }

    fn count(&mut self, exchange: &Exchange) {
        self.requests += 1;
        self.body_bytes += exchange.request_body + exchange.answer_body;
    }

    /// Busy time of the flash work that is possible with this much of the image.
    fn flash_until(&mut self, image_bytes: u64) -> Duration {
        let ready = self.trace.flash[self.flash_done..]
            .iter()
            .take_while(|work| work.after_bytes <= image_bytes);
        let (count, busy) = ready.fold((0, Duration::ZERO), |(count, busy), work| {
            (count + 1, busy + work.busy)
        });
        self.flash_done += count;
        busy
    }

    fn finish(mut self) -> Cost {
        let busy = self.flash_until(u64::MAX);
        self.flow.pause(busy);
        Cost {
            time: self.flow.now(),
            wire: self.flow.wire(),
            body_bytes: self.body_bytes,
            requests: self.requests,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(connection: u32, target: &str, answer_body: u64) -> Exchange {
        Exchange {
            connection,
            target: target.to_owned(),
            request_head: 120,
            request_body: 0,
            answer_head: 150,
            answer_body,
        }
    }

    #[test]
    fn the_seeds_timer_is_most_of_its_time() {
        let chunks = (0..66).map(|n| exchange(n, "GET /api/inverter/fota/chunk", 21_963));
        let trace = Trace::seed(chunks.collect(), Vec::new(), 1_065_968, 16_384);
        let timer = Pace {
            per_chunk: Duration::from_secs(2),
            ..Pace::default()
        };
        let with = trace.replay(SimLink::LAN, timer);
        let without = trace.replay(SimLink::LAN, Pace::default());
        assert_eq!(with.requests, 66);
        assert_eq!(with.wire, without.wire);
        assert_eq!((with.time - without.time).as_secs(), 132);
        assert!(without.time < Duration::from_secs(6), "{:?}", without.time);
    }

    #[test]
    fn reports_are_left_out_where_they_come_too_often() {
        let mut exchanges = vec![exchange(0, "GET /d/v1/blobs/x", 1_065_968)];
        exchanges.extend((0..19).map(|_| exchange(1, "POST /d/v1/check-in", 60)));
        let trace = Trace::native(exchanges, Vec::new(), 1_065_968);
        let pace = Pace {
            per_report: Duration::from_secs(5),
            ..Pace::default()
        };
        let slow = trace.replay(SimLink::NB_IOT, pace);
        assert_eq!(slow.requests, 1 + 19);
        let fast = trace.replay(SimLink::LAN, pace);
        assert_eq!(fast.requests, 1);
    }

    #[test]
    fn flash_waits_for_its_bytes_and_stalls_the_reader() {
        let flash = (1..=10).map(|n| FlashWork {
            after_bytes: n * 1000,
            busy: Duration::from_secs(1),
        });
        let exchanges = vec![exchange(0, "GET /d/v1/blobs/x", 10_000)];
        let trace = Trace::native(exchanges, flash.collect(), 10_000);
        let cost = trace.replay(SimLink::LAN, Pace::default());
        assert!((10..11).contains(&cost.time.as_secs()), "{:?}", cost.time);
    }

    #[test]
    fn the_limit_is_flash_on_a_fast_link_and_bits_on_a_slow_one() {
        let image_bytes = 1_065_968;
        assert_eq!(flash_limit(image_bytes).as_millis(), 5_464);
        assert_eq!(limit(image_bytes, &SimLink::LAN), flash_limit(image_bytes));
        assert_eq!(limit(image_bytes, &SimLink::NB_IOT).as_secs(), 284);
    }
}
