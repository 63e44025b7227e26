//! Many devices in virtual time: what each reports, how long its work takes, and what goes wrong.
//!
//! Nothing here has a flash, a socket or a clock: a device is its check-ins and the answers it
//! gets, so that ten thousand of them live through a week in a minute. Everything follows from the
//! seed: the same seed and the same answers give the same world.
//!
//! Main path: [`VirtualFleet::wake`] moves to the device that is next and gives its check-in; the
//! caller brings it to a server and gives the answer to [`VirtualFleet::hear`].
//!
//! | state | left by | after |
//! |---|---|---|
//! | idle | an install order | at once |
//! | downloading | the last byte, an answer without this order | bytes ÷ link, longer by a power cut |
//! | downloaded | an answer with this order that does not hold it back | its reset |
//! | trial | the self-test | seconds; the fate of the image decides |

use std::{cmp::Reverse, collections::BinaryHeap};

use fota_proto::{
    FailureCode, Sha256,
    checkin::{
        self, Action, Answer, Attribute, CheckIn, End, Install, Outcome, Phase, Progress,
        ResetReason, Running, SlotReport, SlotState, Waits,
    },
    limits::CHECK_IN_BYTES_MAX,
    list::List,
};

const SECOND: i64 = 1_000;
const HOUR: i64 = 3_600 * SECOND;
/// From the order to reset until the image runs.
const BOOT_MS: i64 = 8 * SECOND;
/// From the first start of an image to its verdict, at most.
const SELF_TEST_MS_MAX: i64 = 60 * SECOND;
const SLOT_BYTES: u32 = 1_572_864;
/// ESP32-C3.
const CHIP: u16 = 5;
/// Where the devices are.
const ZONES: [&str; 6] = [
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Sydney",
    "America/Sao_Paulo",
    "UTC",
];

/// What the world is like. Shares are of 1,000.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// How many devices.
    pub devices: u32,
    /// What everything follows from.
    pub seed: u64,
    /// When it begins, milliseconds since 1970.
    pub start_ms: i64,
    /// Devices that never come.
    pub gone: u32,
    /// Days on which a device is away for 1 to 48 hours.
    pub away: u32,
    /// Answers that are lost on the way.
    pub lost: u32,
    /// Downloads in which the power fails once.
    pub cut: u32,
    /// Images that crash on a device though they are good.
    pub unlucky: u32,
}

impl World {
    /// Troubles of a real fleet.
    pub fn rough(devices: u32, seed: u64, start_ms: i64) -> Self {
        Self {
            devices,
            seed,
            start_ms,
            gone: 10,
            away: 50,
            lost: 20,
            cut: 30,
            unlucky: 2,
        }
    }

    /// Nothing goes wrong by itself.
    pub fn calm(devices: u32, seed: u64, start_ms: i64) -> Self {
        Self {
            gone: 0,
            away: 0,
            lost: 0,
            cut: 0,
            unlucky: 0,
            ..Self::rough(devices, seed, start_ms)
        }
    }
}

/// An image as far as the world needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `app_elf_sha256`.
    pub elf: Sha256,
    /// Version text.
    pub version: String,
}

/// What became of a device since it was asked last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It began to download.
    Began,
    /// It switched its boot slot.
    Activated,
    /// The new image confirmed itself.
    Confirmed,
    /// The new image crashed, and the old one runs again.
    Crashed,
    /// It went back because it was told to.
    WentBack,
    /// It dropped its order.
    Dropped,
}

/// One device.
#[derive(Clone, Debug)]
pub struct VirtualDevice {
    /// Its id.
    pub id: String,
    /// IANA name of its time zone.
    pub zone: &'static str,
    /// What runs.
    pub running: Image,
    /// What the other slot holds.
    pub other: Option<Image>,
    /// Whether it never comes.
    pub is_gone: bool,
    rejected: bool,
    /// Why it does not install now.
    waits: Waits,
    state: State,
    outcome: Option<(u64, End)>,
    reset: ResetReason,
    booted_at: i64,
    bytes_per_s: u32,
    random: SplitMix,
    /// When it is away, from and until.
    away: (i64, i64),
    next_day: i64,
    nonce: u64,
}

#[derive(Clone, Debug)]
enum State {
    Idle,
    Downloading {
        job: Job,
        from: i64,
        until: i64,
    },
    Downloaded(Job),
    Trial {
        order: u64,
        crashes: bool,
        until: i64,
    },
}

#[derive(Clone, Debug)]
struct Job {
    order: u64,
    image: Image,
    bytes: u32,
}

/// See the module.
pub struct VirtualFleet {
    world: World,
    /// The devices, in the order of their numbers.
    pub devices: Vec<VirtualDevice>,
    agenda: BinaryHeap<Reverse<(i64, u32)>>,
    /// Versions that crash, and on how many of 1,000 devices.
    bad: Vec<(String, u32)>,
}

impl VirtualFleet {
    /// Devices that all run `image`.
    pub fn new(world: World, image: &Image) -> Self {
        let devices = (0..world.devices)
            .map(|number| VirtualDevice::new(&world, number, image))
            .collect::<Vec<_>>();
        let mut agenda = BinaryHeap::new();
        for (number, device) in (0_u32..).zip(&devices) {
            let mut random = device.random.clone();
            if !device.is_gone {
                agenda.push(Reverse((
                    world.start_ms + random.below(HOUR as u64) as i64,
                    number,
                )));
            }
        }
        Self {
            world,
            devices,
            agenda,
            bad: Vec::new(),
        }
    }

    /// This version crashes on so many of 1,000 devices.
    pub fn make_bad(&mut self, version: &str, of_1000: u32) {
        self.bad.push((version.to_owned(), of_1000));
    }

    /// When the next device comes.
    pub fn next_at(&self) -> Option<i64> {
        self.agenda.peek().map(|Reverse((at, _))| *at)
    }

    /// Moves on to the next device; gives the time, its number and its check-in.
    pub fn wake<'b>(
        &mut self,
        buffer: &'b mut [u8; CHECK_IN_BYTES_MAX],
    ) -> Option<(i64, usize, Option<Happened>, &'b [u8])> {
        let Reverse((now, number)) = self.agenda.pop()?;
        let device = &mut self.devices[number as usize];
        let happened = device.live(now);
        let message = device.check_in(now, buffer);
        Some((now, number as usize, happened, message))
    }

    /// Gives the device its answer, where one came.
    pub fn hear(&mut self, now: i64, number: usize, answer: Option<&[u8]>) -> Option<Happened> {
        let device = &mut self.devices[number];
        let is_lost = device.random.of_1000(self.world.lost);
        let answer = answer.filter(|_| !is_lost);
        let answer = answer.and_then(|bytes| minicbor::decode::<Answer>(bytes).ok());
        let (happened, mut next) = match answer {
            Some(answer) => device.follow(now, &answer, &self.world, &self.bad),
            None => (None, now + 60 * SECOND),
        };
        next = device.absence(next, &self.world);
        self.agenda.push(Reverse((next, number as u32)));
        happened
    }

    /// Devices with an order under way: it downloads, waits or is on trial.
    pub fn busy(&self) -> usize {
        let is_busy = |device: &&VirtualDevice| device.is_busy();
        self.devices.iter().filter(is_busy).count()
    }
}

impl VirtualDevice {
    fn new(world: &World, number: u32, image: &Image) -> Self {
        let mut random = SplitMix(world.seed ^ (u64::from(number) << 20));
        let zone = ZONES[random.below(ZONES.len() as u64) as usize];
        let is_gone = random.of_1000(world.gone);
        // From 4 KB/s to 256 KB/s, as many between 4 and 8 as between 128 and 256.
        let bytes_per_s = 4_096 << random.below(7);
        Self {
            id: format!("V-{number:05}"),
            zone,
            running: image.clone(),
            other: None,
            is_gone,
            rejected: false,
            waits: Waits::Nothing,
            state: State::Idle,
            outcome: None,
            reset: ResetReason::PowerOn,
            booted_at: world.start_ms,
            bytes_per_s,
            random,
            away: (0, 0),
            next_day: world.start_ms,
            nonce: 0,
        }
    }

    /// Whether an order is under way.
    pub fn is_busy(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    /// Whether it is downloading.
    pub fn is_downloading(&self) -> bool {
        matches!(self.state, State::Downloading { .. })
    }

    /// What time brought: a download that ended, a trial that was decided.
    fn live(&mut self, now: i64) -> Option<Happened> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Downloading { job, until, .. } if now >= until => {
                self.other = Some(job.image.clone());
                self.state = State::Downloaded(job);
                None
            }
            State::Trial {
                order,
                crashes: true,
                until,
            } if now >= until => {
                self.swap();
                self.rejected = true;
                (self.reset, self.booted_at) = (ResetReason::Panic, now);
                self.outcome = Some((order, End::RolledBackBoot));
                Some(Happened::Crashed)
            }
            State::Trial { until, .. } if now >= until => Some(Happened::Confirmed),
            state => {
                self.state = state;
                None
            }
        }
    }

    fn swap(&mut self) {
        if let Some(other) = self.other.take() {
            self.other = Some(std::mem::replace(&mut self.running, other));
        }
    }

    fn check_in<'b>(&mut self, now: i64, buffer: &'b mut [u8; CHECK_IN_BYTES_MAX]) -> &'b [u8] {
        self.nonce += 1;
        let slot = |number, image: Option<&'_ Image>, rejected: bool| SlotReport {
            slot: number,
            bytes: SLOT_BYTES,
            state: match (image, rejected) {
                (None, _) => SlotState::Empty,
                (Some(_), true) => SlotState::Rejected,
                (Some(_), false) => SlotState::Image,
            },
            elf: image.map(|image| image.elf),
            version: None,
        };
        let is_held = self.other.is_some() && !self.is_busy();
        let other = self.other.as_ref().filter(|_| is_held);
        let mut slots = List::new();
        for report in [
            slot(0, Some(&self.running), false),
            slot(1, other, self.rejected),
        ] {
            slots.push(report).expect("two fit");
        }
        let mut attributes = List::new();
        let zone = Attribute {
            name: "tz",
            value: self.zone,
        };
        attributes.push(zone).expect("one fits");
        let message = CheckIn {
            protocol: checkin::VERSION,
            device: &self.id,
            nonce: self.nonce,
            chip: CHIP,
            chip_revision: Some(3),
            running_elf: self.running.elf,
            version: &self.running.version,
            project: PROJECT,
            confirmed: match self.state {
                State::Trial { .. } => Running::Trial,
                _ => Running::Confirmed,
            },
            slot: 0,
            slots,
            rollback_slot: (is_held && !self.rejected).then_some(1),
            progress: self.progress(now),
            outcome: self.outcome.map(|(order, end)| Outcome {
                order,
                end,
                code: FailureCode::CrashLoop.number(),
                reset: Some(ResetReason::Panic),
                detail: None,
            }),
            held: List::new(),
            reset: self.reset,
            uptime_s: u32::try_from((now - self.booted_at) / SECOND).unwrap_or(0),
            root: None,
            epoch: None,
            challenge: None,
            log: None,
            patches: None,
            attributes: Some(attributes),
            metrics: None,
            waits: Some(self.waits),
        };
        checkin::encode(&message, buffer).expect("a check-in of short texts fits")
    }

    fn progress(&self, now: i64) -> Option<Progress> {
        let of = |order, phase, bytes| {
            Some(Progress {
                order,
                phase,
                bytes,
            })
        };
        match &self.state {
            State::Idle => None,
            State::Downloading { job, from, until } => {
                let done = (now - from).clamp(0, until - from) as u64;
                let bytes = u64::from(job.bytes) * done / (until - from).max(1) as u64;
                of(job.order, Phase::Downloading, bytes as u32)
            }
            State::Downloaded(job) => of(job.order, Phase::Downloaded, job.bytes),
            State::Trial { order, .. } => of(*order, Phase::Trial, 0),
        }
    }

    /// Does as the answer says; gives when it comes next.
    fn follow(
        &mut self,
        now: i64,
        answer: &Answer,
        world: &World,
        bad: &[(String, u32)],
    ) -> (Option<Happened>, i64) {
        if answer.acknowledged == self.outcome.map(|(order, _)| order) {
            self.outcome = None;
        }
        let jitter = self.random.below(5 * SECOND as u64) as i64;
        let later = now + i64::from(answer.retry_after_s) * SECOND + jitter;
        let order = answer.order.as_ref().map(|order| (order.id, &order.action));
        match (order, &self.state) {
            (Some((_, Action::Rollback(told))), _) if told.leave == self.running.elf => {
                if self.other.is_none() {
                    return (None, later);
                }
                self.swap();
                self.state = State::Idle;
                (self.reset, self.booted_at) = (ResetReason::Software, now);
                (Some(Happened::WentBack), now + BOOT_MS)
            }
            (_, State::Trial { until, .. }) => (None, *until),
            (Some((id, Action::Install(install))), State::Downloaded(job))
                if job.order == id && install.hold == Some(true) =>
            {
                self.waits = Waits::Window;
                (None, later)
            }
            (Some((id, Action::Install(_))), State::Downloaded(job)) if job.order == id => {
                self.waits = Waits::Nothing;
                let version = job.image.version.clone();
                let crashes = self.crashes(&version, world, bad);
                (Some(Happened::Activated), self.activate(now, id, crashes))
            }
            (Some((id, Action::Install(_))), State::Downloading { job, until, .. })
                if job.order == id =>
            {
                (None, *until)
            }
            (Some((id, Action::Install(install))), _) => self.begin(now, id, install, world),
            (_, State::Idle) => (None, later),
            // No order, or another: this one does not stand any more.
            _ => {
                self.waits = Waits::Nothing;
                self.state = State::Idle;
                (Some(Happened::Dropped), later)
            }
        }
    }

    fn begin(
        &mut self,
        now: i64,
        order: u64,
        install: &Install,
        world: &World,
    ) -> (Option<Happened>, i64) {
        let job = Job {
            order,
            image: Image {
                elf: install.elf,
                version: install.version.to_owned(),
            },
            bytes: install.bytes,
        };
        let mut length = i64::from(install.bytes / self.bytes_per_s + 1) * SECOND;
        if self.random.of_1000(world.cut) {
            // The power is away for a while; what is in flash stays.
            length += self.random.below(2 * HOUR as u64) as i64;
        }
        (self.other, self.rejected) = (None, false);
        let until = now + length;
        self.state = State::Downloading {
            job,
            from: now,
            until,
        };
        // Once on the way, so that its progress is seen, and when it is done.
        (Some(Happened::Began), now + length / 2)
    }

    /// Boots the new image; gives when it is heard of next.
    fn activate(&mut self, now: i64, order: u64, crashes: bool) -> i64 {
        self.swap();
        (self.reset, self.booted_at) = (ResetReason::Software, now);
        let first = now + BOOT_MS;
        let until = first + self.random.below(SELF_TEST_MS_MAX as u64) as i64;
        self.state = State::Trial {
            order,
            crashes,
            until,
        };
        // Half of those that crash do it before they can say a word.
        match crashes && self.random.of_1000(500) {
            true => until,
            false => first,
        }
    }

    fn crashes(&mut self, version: &str, world: &World, bad: &[(String, u32)]) -> bool {
        let of_1000 = bad.iter().find(|(bad, _)| bad == version);
        let of_1000 = of_1000.map_or(world.unlucky, |(_, of_1000)| *of_1000);
        self.random.of_1000(of_1000)
    }

    /// Pushes a wake-up behind the time that the device is away.
    fn absence(&mut self, next: i64, world: &World) -> i64 {
        while self.next_day <= next {
            let day = self.next_day;
            self.next_day += 24 * HOUR;
            if self.random.of_1000(world.away) {
                let from = day + self.random.below(24 * HOUR as u64) as i64;
                let length = HOUR + self.random.below(47 * HOUR as u64) as i64;
                self.away = (from, from + length);
            }
        }
        match (self.away.0..self.away.1).contains(&next) {
            true => self.away.1,
            false => next,
        }
    }
}

/// Project name of all virtual devices.
pub const PROJECT: &str = "virtual";

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators".
#[derive(Clone, Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Below `end`, which is small against 2^64.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn of_1000(&mut self, chances: u32) -> bool {
        self.below(1_000) < u64::from(chances)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fota_proto::checkin::Order;

    fn image(version: &str, byte: u8) -> Image {
        Image {
            elf: Sha256([byte; 32]),
            version: version.to_owned(),
        }
    }

    /// A server that offers 2.0.0 to whoever does not run it and has not failed with it.
    fn answer(message: &CheckIn, failed: &mut Vec<String>, buffer: &mut [u8; 1024]) -> Vec<u8> {
        if message.outcome.is_some() {
            failed.push(message.device.to_owned());
        }
        let order = Order {
            id: 2,
            action: Action::Install(Install {
                image: Sha256([9; 32]),
                bytes: 400_000,
                head: [0; 16],
                elf: Sha256([2; 32]),
                version: "2.0.0",
                resume_from: 0,
                trial_deadline_s: 60,
                release: None,
                artifact: None,
                patch: None,
                hold: None,
                conditions: None,
            }),
        };
        let is_offered =
            message.running_elf != Sha256([2; 32]) && !failed.iter().any(|id| id == message.device);
        let answer = Answer {
            acknowledged: message.outcome.as_ref().map(|outcome| outcome.order),
            order: is_offered.then_some(order),
            ..Answer::nothing(message.nonce, 3_600)
        };
        checkin::encode(&answer, buffer).expect("fits").to_vec()
    }

    /// What happened, with the time and the device.
    type Log = Vec<(i64, usize, Happened)>;

    fn live(world: World, days: i64) -> (VirtualFleet, Log) {
        let mut fleet = VirtualFleet::new(world, &image("1.0.0", 1));
        fleet.make_bad("2.0.0", 300);
        let (mut log, mut failed) = (Log::new(), Vec::new());
        let (mut asked, mut said) = ([0; CHECK_IN_BYTES_MAX], [0; CHECK_IN_BYTES_MAX]);
        let end = world.start_ms + days * 24 * HOUR;
        while fleet.next_at().is_some_and(|at| at < end) {
            let (now, number, lived, message) = fleet.wake(&mut asked).expect("there is one");
            let message: CheckIn = minicbor::decode(message).expect("a check-in");
            let bytes = answer(&message, &mut failed, &mut said);
            let heard = fleet.hear(now, number, Some(&bytes));
            let both = lived.into_iter().chain(heard);
            log.extend(both.map(|happened| (now, number, happened)));
        }
        (fleet, log)
    }

    #[test]
    fn the_same_seed_is_the_same_world() {
        let (_, first) = live(World::rough(200, 7, 0), 5);
        let (_, second) = live(World::rough(200, 7, 0), 5);
        assert_eq!(first, second);
        let (_, other) = live(World::rough(200, 8, 0), 5);
        assert_ne!(first, other);
    }

    #[test]
    fn every_device_that_comes_ends_on_the_new_image_or_back_on_the_old_one() {
        let world = World::rough(300, 1, 0);
        let (fleet, log) = live(world, 14);
        let count = |what: Happened| {
            log.iter()
                .filter(|(_, _, happened)| *happened == what)
                .count()
        };
        let gone = fleet.devices.iter().filter(|device| device.is_gone).count();
        let updated = fleet
            .devices
            .iter()
            .filter(|device| device.running.version == "2.0.0");
        let updated = updated.count();
        assert_eq!(updated, count(Happened::Confirmed));
        assert_eq!(updated + count(Happened::Crashed) + gone, 300);
        assert!((50..130).contains(&count(Happened::Crashed)), "about 30 %");
        assert_eq!(fleet.busy(), 0);
    }

    #[test]
    fn in_a_calm_world_nothing_fails_by_itself() {
        let mut fleet = VirtualFleet::new(World::calm(50, 3, 0), &image("1.0.0", 1));
        let (mut asked, mut said) = ([0; CHECK_IN_BYTES_MAX], [0; CHECK_IN_BYTES_MAX]);
        while fleet.next_at().is_some_and(|at| at < 24 * HOUR) {
            let (now, number, _, message) = fleet.wake(&mut asked).expect("there is one");
            let message: CheckIn = minicbor::decode(message).expect("a check-in");
            let bytes = answer(&message, &mut Vec::new(), &mut said);
            fleet.hear(now, number, Some(&bytes));
        }
        assert!(
            fleet
                .devices
                .iter()
                .all(|device| device.running.version == "2.0.0")
        );
    }
}
