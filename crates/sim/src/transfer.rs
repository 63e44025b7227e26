//! What a download costs over a link, in virtual time.
//!
//! Nothing about the protocols is assumed here: a [`Recorder`] stands between a simulated device
//! and a real server and notes the size of every request and answer; the flash operations come
//! from the device's own flash. [`Trace::replay`] then runs both over a [`SimLink`].

mod record;
mod recorder;

use std::time::Duration;

use fota_image::partition::Region;
use fota_proto::{limits::HEAD_BYTES, signed::index};

use crate::{
    flash::{
        BLOCK_BYTES, BLOCK_ERASE_US, Op, OpKind, PAGE_BYTES, PAGE_PROGRAM_US, SECTOR_BYTES,
        SECTOR_ERASE_US,
    },
    link::{Flow, Meanwhile, SimLink, WireBytes, on_the_wire},
};

pub use record::{RecordError, record_native, record_seed};
pub use recorder::{Exchange, Recorder};

/// The least time any updater needs to erase and program this many bytes: whole blocks where they
/// fit, sectors for the rest.
pub fn flash_limit(image_bytes: u64) -> Duration {
    let blocks = image_bytes / BLOCK_BYTES as u64;
    let sectors = (image_bytes % BLOCK_BYTES as u64).div_ceil(SECTOR_BYTES as u64);
    let erase_us = blocks * BLOCK_ERASE_US + (sectors * SECTOR_ERASE_US).min(BLOCK_ERASE_US);
    let pages = image_bytes.div_ceil(PAGE_BYTES as u64);
    Duration::from_micros(erase_us + pages * PAGE_PROGRAM_US)
}

/// The least time any transfer over TCP needs for this image over this link: its bits in full
/// segments, or its flash.
pub fn limit(image_bytes: u64, link: &SimLink) -> Duration {
    let bits = link.air_time(on_the_wire(image_bytes));
    bits.max(flash_limit(image_bytes))
}

/// A flash operation that can start once this many bytes of the image are at the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlashWork {
    /// Bytes of the image that have to be there.
    pub after_bytes: u64,
    /// How long the operation stalls the CPU.
    pub busy: Duration,
}

/// Turns the flash operations of an update into work that waits for bytes: programming a page
/// needs its bytes, an erase needs those of the page after it. What is outside `slot` (the boot
/// choice) needs nothing more than what came before it.
pub fn flash_work(log: &[Op], slot: Region) -> Vec<FlashWork> {
    let (mut work, mut after_bytes, mut busy) = (Vec::new(), 0, Duration::ZERO);
    for op in log {
        busy += Duration::from_micros(op.kind.busy_us());
        let inside = (slot.offset..slot.end()).contains(&op.offset);
        if inside && op.kind == OpKind::Program {
            let end = u64::from(op.offset - slot.offset + op.len);
            after_bytes = end.max(after_bytes);
            work.push(FlashWork { after_bytes, busy });
            busy = Duration::ZERO;
        }
    }
    work.push(FlashWork { after_bytes, busy });
    work
}

/// The same for an artifact, where a page can be programmed once its whole chunk is there, behind
/// its page of the index; and how long the erases take for which the native device need not wait:
/// [`fota_device::Updater::erase_ahead`] does them while the request is on its way.
pub fn proven_flash_work(log: &[Op], slot: Region, image_bytes: u32) -> (Duration, Vec<FlashWork>) {
    let inside = |op: &&Op| (slot.offset..slot.end()).contains(&op.offset);
    let is_page = |op: &&Op| op.kind == OpKind::Program && op.len > HEAD_BYTES as u32;
    let before = log.iter().filter(inside).take_while(|op| !is_page(op));
    let ahead = before.filter(|op| op.kind != OpKind::Program);
    let ahead = Duration::from_micros(ahead.map(|op| op.kind.busy_us()).sum());
    let of_artifact = |work: FlashWork| {
        let chunks = work.after_bytes.div_ceil(SECTOR_BYTES as u64);
        let image_end = (chunks * SECTOR_BYTES as u64).min(image_bytes.into());
        let last = image_end.saturating_sub(1) as u32;
        FlashWork {
            after_bytes: u64::from(index::artifact_offset(image_bytes, last)) + 1,
            ..work
        }
    };
    let mut work: Vec<_> = flash_work(log, slot).into_iter().map(of_artifact).collect();
    let mut left = ahead;
    for work in &mut work {
        let done = left.min(work.busy);
        work.busy -= done;
        left -= done;
    }
    (ahead, work)
}

/// What one request of a download is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The poll that brings the order.
    Poll,
    /// The signed release and what else is needed to judge the order.
    Proof,
    /// The image itself, usable byte by byte.
    Stream,
    /// A piece of the image, usable once it is complete.
    Chunk,
    /// A progress report.
    Report,
}

/// One recorded download.
#[derive(Clone, Debug)]
pub struct Trace {
    steps: Vec<(Role, Exchange)>,
    /// Flash work while the request of a stream is on its way.
    ahead: Duration,
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
    /// Progress reports beside a stream at most.
    pub reports_max: u64,
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
    /// A download by the seed's API: the manifest, the chunks, and status posts that the device
    /// waits for.
    pub fn seed(exchanges: &[Exchange], flash: Vec<FlashWork>, image: u64, chunk: u64) -> Self {
        let role = |exchange: &Exchange| match &exchange.target {
            target if target.contains("/fota/chunk") => Some(Role::Chunk),
            target if target.contains("/fota/manifest") => Some(Role::Poll),
            target if target.contains("/fota/status") => Some(Role::Report),
            _ => None,
        };
        let (steps, ahead) = (download(exchanges, role, Role::Chunk), Duration::ZERO);
        Self::new(steps, (ahead, flash), image, chunk)
    }

    /// A download by the native protocol: one check-in, the signed release, one stream, and reports
    /// beside it that the device does not wait for.
    pub fn native(exchanges: &[Exchange], flash: (Duration, Vec<FlashWork>), image: u64) -> Self {
        let mut streaming = false;
        let role = |exchange: &Exchange| {
            let is_check_in = exchange.target.contains("/check-in");
            let is_stream = !is_check_in && exchange.answer_body >= image;
            streaming |= is_stream;
            Some(match (is_stream, is_check_in, streaming) {
                (true, ..) => Role::Stream,
                (false, true, true) => Role::Report,
                (false, true, false) => Role::Poll,
                (false, false, _) => Role::Proof,
            })
        };
        Self::new(download(exchanges, role, Role::Report), flash, image, image)
    }

    fn new(
        steps: Vec<(Role, Exchange)>,
        (ahead, flash): (Duration, Vec<FlashWork>),
        image_bytes: u64,
        chunk_bytes: u64,
    ) -> Self {
        Self {
            steps,
            ahead,
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

    fn is_stream(&self) -> bool {
        self.steps.iter().any(|(role, _)| *role == Role::Stream)
    }

    /// The largest of the recorded reports: they differ by a digit or two.
    fn report(&self) -> Option<&Exchange> {
        let reports = self.steps.iter().filter(|(role, _)| *role == Role::Report);
        let reports = reports.map(|(_, exchange)| exchange);
        reports.max_by_key(|report| report.request_bytes() + report.answer_bytes())
    }
}

/// The exchanges from the last poll before the image to the last that belongs to the download.
fn download(
    exchanges: &[Exchange],
    mut role: impl FnMut(&Exchange) -> Option<Role>,
    last: Role,
) -> Vec<(Role, Exchange)> {
    let roles = exchanges
        .iter()
        .map(|e| role(e).map(|role| (role, e.clone())));
    let all: Vec<_> = roles.flatten().collect();
    let is_image = |role: Role| matches!(role, Role::Chunk | Role::Stream);
    let first = all
        .iter()
        .position(|(role, _)| is_image(*role))
        .unwrap_or(0);
    let poll = all[..first]
        .iter()
        .rposition(|(role, _)| *role == Role::Poll);
    let end = all
        .iter()
        .rposition(|(role, _)| *role == last || is_image(*role));
    let range = poll.unwrap_or(first)..end.map_or(0, |end| end + 1);
    all.get(range).unwrap_or_default().to_vec()
}

struct Replay<'t> {
    trace: &'t Trace,
    pace: Pace,
    flow: Flow,
    connection: Option<u32>,
    flash_done: usize,
    image_bytes: u64,
    reported_at: Duration,
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
            reported_at: Duration::ZERO,
            body_bytes: 0,
            requests: 0,
        }
    }

    fn step(&mut self, role: Role, exchange: &Exchange) {
        match role {
            Role::Poll | Role::Proof => self.whole(exchange, 0),
            Role::Stream => self.stream(exchange),
            Role::Chunk => {
                self.flow.pause(self.pace.per_chunk);
                let rest = self.trace.image_bytes - self.image_bytes;
                self.whole(exchange, rest.min(self.trace.chunk_bytes));
            }
            // Beside a stream they were sent already.
            Role::Report if self.trace.is_stream() => {}
            Role::Report => {
                if self.is_report_due(self.flow.now()) {
                    self.whole(exchange, 0);
                }
            }
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

    /// An exchange whose answer goes to flash as it comes, with progress reports beside it, spread
    /// over the image and never more often than [`Pace::per_report`].
    fn stream(&mut self, exchange: &Exchange) {
        self.start(exchange);
        let mut flow = self.flow.clone();
        let (request, answer) = (exchange.request_bytes(), exchange.answer_bytes());
        let share = answer / self.pace.reports_max.max(1);
        let mut report_after = share;
        flow.exchange_while(self.trace.ahead, request, answer, |read, at| {
            let image_bytes = read.saturating_sub(exchange.answer_head);
            let mut meanwhile = Meanwhile::busy(self.flash_until(image_bytes));
            let is_due = read >= report_after && read < answer && self.is_report_due(at);
            if let Some(report) = self.trace.report().filter(|_| is_due) {
                report_after = read + share;
                self.count(report);
                (meanwhile.up, meanwhile.down) = (report.request_bytes(), report.answer_bytes());
            }
            meanwhile
        });
        self.flow = flow;
    }

    fn is_report_due(&mut self, now: Duration) -> bool {
        let is_due = now >= self.reported_at + self.pace.per_report;
        if is_due {
            self.reported_at = now;
        }
        is_due
    }

    fn start(&mut self, exchange: &Exchange) {
        if self
            .connection
            .is_some_and(|open| open != exchange.connection)
        {
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
            range_start: 0,
            request_head: 120,
            request_body: 0,
            answer_head: 150,
            answer_body,
        }
    }

    #[test]
    fn the_seeds_timer_is_most_of_its_time() {
        let chunks = (0..66).map(|n| exchange(n, "GET /api/inverter/fota/chunk", 21_963));
        let chunks: Vec<_> = chunks.collect();
        let trace = Trace::seed(&chunks, Vec::new(), 1_065_968, 16_384);
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
    fn reports_come_neither_too_often_nor_too_many() {
        let mut exchanges = vec![exchange(0, "GET /d/v1/blobs/x", 1_065_968)];
        exchanges.push(exchange(1, "POST /d/v1/check-in", 60));
        let trace = Trace::native(&exchanges, Default::default(), 1_065_968);
        let pace = Pace {
            per_report: Duration::from_secs(5),
            reports_max: 20,
            ..Pace::default()
        };
        let slow = trace.replay(SimLink::NB_IOT, pace);
        assert_eq!(slow.requests, 1 + 19);
        let fast = trace.replay(SimLink::LAN, pace);
        assert_eq!(fast.requests, 1);
    }

    #[test]
    fn polls_before_and_posts_after_the_download_are_not_part_of_it() {
        let targets = ["manifest", "manifest", "chunk", "status", "chunk", "status"];
        let exchanges: Vec<_> = (0..)
            .zip(targets)
            .map(|(n, target)| exchange(n, &format!("GET /api/inverter/fota/{target}"), 100))
            .collect();
        let trace = Trace::seed(&exchanges, Vec::new(), 200, 100);
        let cost = trace.replay(SimLink::LAN, Pace::default());
        assert_eq!((cost.requests, trace.image_requests()), (4, 2));
    }

    #[test]
    fn flash_waits_for_its_bytes_and_stalls_the_reader() {
        let flash = (1..=10).map(|n| FlashWork {
            after_bytes: n * 1000,
            busy: Duration::from_secs(1),
        });
        let exchanges = vec![exchange(0, "GET /d/v1/blobs/x", 10_000)];
        let flash = (Duration::ZERO, flash.collect());
        let trace = Trace::native(&exchanges, flash, 10_000);
        let cost = trace.replay(SimLink::LAN, Pace::default());
        assert!((10..11).contains(&cost.time.as_secs()), "{:?}", cost.time);
    }

    #[test]
    fn the_limit_is_flash_on_a_fast_link_and_bits_on_a_slow_one() {
        let image_bytes = 1_065_968;
        assert_eq!(flash_limit(image_bytes).as_millis(), 5_464);
        assert_eq!(limit(image_bytes, &SimLink::LAN), flash_limit(image_bytes));
        // 743 segments of 1,436 bytes with 40 bytes of headers each, at 30 kbit/s.
        assert_eq!(limit(image_bytes, &SimLink::NB_IOT).as_secs(), 292);
    }
}
