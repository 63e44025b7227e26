//! One TCP connection in virtual time, segment by segment: slow start from ten segments, the
//! receive window, header bytes, lost segments, and a device that cannot read while it writes
//! flash. Without delayed acknowledgements and without congestion avoidance before a loss.
//!
//! The rule is the one of `facts/performance.md` §5, which agreed with a real HTTP stack over a
//! simulated link within 1.5 %. It says nothing about radio.

use std::{collections::VecDeque, time::Duration};

use super::{HEADER_BYTES, INITIAL_WINDOW_SEGMENTS, SEGMENT_BYTES, SimLink};

/// After this much silence, plus a round trip, a sender starts from ten segments again (RFC 6298
/// with Linux's 200 ms floor).
const IDLE_RESTART: Duration = Duration::from_millis(200);

/// Bytes on the wire, IP and TCP headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireBytes {
    /// From the device.
    pub up: u64,
    /// To the device.
    pub down: u64,
}

impl WireBytes {
    /// Both directions.
    pub const fn total(&self) -> u64 {
        self.up + self.down
    }
}

/// What a device does between two reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meanwhile {
    /// How long it reads nothing.
    pub busy: Duration,
    /// Bytes it sends on another connection without waiting for the answer; the answer takes air
    /// time from this one.
    pub up: u64,
    /// Bytes of that answer.
    pub down: u64,
}

impl Meanwhile {
    /// It only is busy.
    pub const fn busy(busy: Duration) -> Self {
        Self {
            busy,
            up: 0,
            down: 0,
        }
    }
}

/// A connection and the device's clock.
#[derive(Clone, Debug)]
pub struct Flow {
    link: SimLink,
    now: Duration,
    /// When the direction to the device is free again.
    down_free: Duration,
    congestion_window: u64,
    slow_start_until: u64,
    wire: WireBytes,
    dice: u64,
}

impl Flow {
    pub(super) fn new(link: SimLink) -> Self {
        Self {
            link,
            now: Duration::ZERO,
            down_free: Duration::ZERO,
            congestion_window: INITIAL_WINDOW_SEGMENTS * SEGMENT_BYTES,
            slow_start_until: u64::MAX,
            wire: WireBytes::default(),
            dice: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Device time since the start.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// What went over the wire so far.
    pub fn wire(&self) -> WireBytes {
        self.wire
    }

    /// A new connection: SYN, SYN-ACK, and later the two FINs and their acknowledgements, which
    /// nobody waits for.
    pub fn connect(&mut self) {
        self.now += self.link.round_trip + 2 * self.link.air_time(HEADER_BYTES);
        self.wire.up += 3 * HEADER_BYTES;
        self.wire.down += 3 * HEADER_BYTES;
        self.congestion_window = INITIAL_WINDOW_SEGMENTS * SEGMENT_BYTES;
        self.slow_start_until = u64::MAX;
    }

    /// The device does something else.
    pub fn pause(&mut self, time: Duration) {
        self.now += time;
        if time > IDLE_RESTART + self.link.round_trip {
            self.congestion_window = INITIAL_WINDOW_SEGMENTS * SEGMENT_BYTES;
        }
    }

    /// A request and its whole answer. `work` is told how many bytes of the answer the device has
    /// read so far, and the time, and says what the device does before it reads on.
    pub fn exchange(
        &mut self,
        request_bytes: u64,
        answer_bytes: u64,
        work: impl FnMut(u64, Duration) -> Meanwhile,
    ) {
        self.exchange_while(Duration::ZERO, request_bytes, answer_bytes, work);
    }

    /// The same where the device is busy for a time once it has sent the request.
    pub fn exchange_while(
        &mut self,
        busy: Duration,
        request_bytes: u64,
        answer_bytes: u64,
        mut work: impl FnMut(u64, Duration) -> Meanwhile,
    ) {
        let request = on_the_wire(request_bytes);
        self.wire.up += request;
        let asked = self.now + self.link.air_time(request) + self.link.round_trip / 2;
        self.down_free = self.down_free.max(asked);
        self.now += busy;
        self.receive(asked, answer_bytes, &mut work);
    }

    fn receive(
        &mut self,
        asked: Duration,
        bytes: u64,
        work: &mut impl FnMut(u64, Duration) -> Meanwhile,
    ) {
        let mut acks: VecDeque<(Duration, u64)> = VecDeque::new();
        let (mut sent, mut acked) = (0, 0);
        let mut reader_free = self.now;
        while sent < bytes {
            let segment = SEGMENT_BYTES.min(bytes - sent);
            let mut at = self.down_free.max(asked);
            while let Some(&(ack_at, upto)) = acks.front() {
                if ack_at > at && sent - acked + segment <= self.window() {
                    break;
                }
                acks.pop_front();
                at = at.max(ack_at);
                self.grow(upto - acked);
                acked = upto;
            }
            sent += segment;
            let arrival = self.send_segment(at, segment);
            let read = arrival.max(reader_free);
            let meanwhile = work(sent, read);
            reader_free = read + meanwhile.busy;
            self.aside(&meanwhile);
            acks.push_back((self.acknowledge(read), sent));
        }
        self.now = reader_free;
    }

    /// An answer on another connection only takes its air time: what this one has sent meanwhile
    /// keeps the link busy while the request is on its way.
    fn aside(&mut self, meanwhile: &Meanwhile) {
        let (up, down) = (on_the_wire(meanwhile.up), on_the_wire(meanwhile.down));
        self.wire.up += up;
        self.wire.down += down;
        self.down_free += self.link.air_time(down);
    }

    fn window(&self) -> u64 {
        let window = self.congestion_window.min(self.link.receive_window_bytes);
        window.max(SEGMENT_BYTES)
    }

    fn grow(&mut self, acked: u64) {
        self.congestion_window += if self.congestion_window < self.slow_start_until {
            acked
        } else {
            SEGMENT_BYTES * acked / self.congestion_window
        };
    }

    /// When the segment, or its repetition where it is lost, is at the device.
    fn send_segment(&mut self, at: Duration, segment: u64) -> Duration {
        let wire = segment + HEADER_BYTES;
        self.wire.down += wire;
        self.down_free = at + self.link.air_time(wire);
        let arrival = self.down_free + self.link.round_trip / 2;
        if !self.loses() {
            return arrival;
        }
        self.wire.down += wire;
        self.congestion_window = (self.congestion_window / 2).max(2 * SEGMENT_BYTES);
        self.slow_start_until = self.congestion_window;
        arrival + self.link.round_trip + self.link.air_time(wire)
    }

    /// When the acknowledgement of what the device reads at `read` is at the server.
    fn acknowledge(&mut self, read: Duration) -> Duration {
        self.wire.up += HEADER_BYTES;
        read + self.link.air_time(HEADER_BYTES) + self.link.round_trip / 2
    }

    fn loses(&mut self) -> bool {
        // xorshift64: the same flow loses the same segments on every run.
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % 1_000_000 < u64::from(self.link.lost_per_million)
    }
}

/// These bytes in full segments, with their headers.
pub const fn on_the_wire(bytes: u64) -> u64 {
    bytes + bytes.div_ceil(SEGMENT_BYTES) * HEADER_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE_BYTES: u64 = 1_065_968;

    fn idle(_: u64, _: Duration) -> Meanwhile {
        Meanwhile::default()
    }

    fn stream_s(link: SimLink) -> f64 {
        let mut flow = link.flow();
        flow.connect();
        flow.exchange(100, IMAGE_BYTES, idle);
        flow.now().as_secs_f64()
    }

    #[test]
    fn a_wide_window_reaches_the_bandwidth() {
        let link = SimLink::WAN.with_window(65_535);
        let limit_s = link.air_time(IMAGE_BYTES).as_secs_f64();
        let ratio = stream_s(link) / limit_s;
        assert!((1.02..1.12).contains(&ratio), "{ratio}");
    }

    #[test]
    fn the_default_window_gives_one_window_per_round_trip() {
        // 5,744 bytes each 150 ms and the time of one segment are about 36 kB/s.
        let seconds = stream_s(SimLink::WAN);
        assert!((28.0..34.0).contains(&seconds), "{seconds}");
    }

    #[test]
    fn flash_time_adds_to_the_network_when_the_window_is_full() {
        let mut flow = SimLink::LAN.flow();
        flow.exchange(100, IMAGE_BYTES, |_, _| {
            Meanwhile::busy(Duration::from_millis(10))
        });
        let segments = IMAGE_BYTES.div_ceil(SEGMENT_BYTES) as u32;
        assert!(flow.now() >= segments * Duration::from_millis(10));
    }

    #[test]
    fn an_answer_beside_a_stream_costs_its_air_time_and_no_round_trip() {
        let link = SimLink::NB_IOT.with_window(32_768);
        let time = |aside| {
            let mut flow = link.flow();
            let mut asked = 0;
            flow.exchange(100, IMAGE_BYTES, |_, _| {
                asked += 1;
                let down = if asked % 100 == 0 { aside } else { 0 };
                Meanwhile {
                    down,
                    ..Meanwhile::default()
                }
            });
            flow.now()
        };
        let answers = IMAGE_BYTES.div_ceil(SEGMENT_BYTES) / 100;
        let air_time = answers as u32 * link.air_time(on_the_wire(200));
        assert_eq!(time(200) - time(0), air_time);
    }

    #[test]
    fn loss_costs_time_and_bytes_and_is_repeatable() {
        let lossy = SimLink {
            lost_per_million: 10_000,
            ..SimLink::WAN.with_window(65_535)
        };
        assert_eq!(stream_s(lossy), stream_s(lossy));
        assert!(stream_s(lossy) > stream_s(SimLink::WAN.with_window(65_535)));
    }

    #[test]
    fn header_bytes_are_counted() {
        let mut flow = SimLink::LAN.flow();
        flow.connect();
        flow.exchange(100, 2 * SEGMENT_BYTES, idle);
        let wire = flow.wire();
        assert_eq!(wire.down, 3 * 40 + 2 * (SEGMENT_BYTES + 40));
        assert_eq!(wire.up, 3 * 40 + 140 + 2 * 40);
    }
}
