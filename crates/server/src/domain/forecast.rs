//! A rollout played through in virtual time, on a copy of the fleet: when its waves begin, and when
//! it ends.
//!
//! The rules and the gates are the ones that decide ([`super::rules`], [`super::wave`]); what is
//! assumed is only what devices do: each comes every poll, downloads at `BYTES_PER_S`, confirms
//! itself after `TRIAL_MS`, and none fails. Devices that wait cost nothing: they sleep until the
//! moment that a rule names, until the next wave, or until a place is free.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    sync::Arc,
};

use super::{
    model::{Device, Plan, Release, Rollout},
    plan::{Reach, bucket, share},
    rules::{
        Asked, Budget, FIRST, Hold, STARTS_MS, Verdict, first_against, holds_install, wave_for,
    },
    step::Facts,
    wave::{Counted, WaveCount, judge, reaches},
};

/// What a device downloads each second: a modest link.
const BYTES_PER_S: u64 = 50_000;
/// From the end of the download to the confirmation, where nothing holds it.
const TRIAL_MS: i64 = 60_000;
/// How far it is played: what does not end in a year does not end by itself.
const HORIZON_MS: i64 = 366 * 86_400_000;
/// Steps of one play: a bound on its time, some seconds.
const STEPS_MAX: usize = 2_000_000;

/// What is played.
pub struct Play<'a> {
    pub plan: &'a Plan,
    pub rollout: Rollout,
    pub release: &'a Release,
    /// The devices that take part, with what is known of each.
    pub devices: Vec<(Device, Facts)>,
    pub poll_s: u32,
    pub now: i64,
}

/// How it went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    pub phases: Vec<Phase>,
    /// When the last device had the release; none where some never get it.
    pub finished_at: Option<i64>,
    /// Devices that do not get it, by the rule that holds them.
    pub held: BTreeMap<&'static str, u64>,
}

/// One wave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    pub reaches: String,
    pub begins_at: i64,
    pub ends_at: Option<i64>,
    pub devices: u64,
}

/// What happens at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Come(usize),
    Done(usize),
    Look,
}

/// Where a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    /// Held by a rule.
    Held(&'static str),
    /// On its way, brought in by this wave.
    Live(u32),
    Done,
    /// Left out.
    Out,
}

struct Course<'a> {
    play: Play<'a>,
    queue: BinaryHeap<Reverse<(i64, Event)>>,
    stands: Vec<Stands>,
    /// Sleep until the next wave.
    parked: BTreeSet<usize>,
    /// Sleep until a place is free.
    waiting: VecDeque<usize>,
    starts: VecDeque<i64>,
    live: u64,
    firsts: u64,
    done: u64,
    waits_until: i64,
    /// Of the wave that was reached.
    count: WaveCount,
    confirmed: Vec<i64>,
    budgets: Vec<Budget>,
    phases: Vec<Phase>,
    last_done: Option<i64>,
    stopped: bool,
}

/// Plays it through.
pub fn play(play: Play) -> Forecast {
    let budgets = play.devices.first().map(|(_, facts)| facts.budgets.clone());
    let mut course = Course {
        queue: BinaryHeap::new(),
        stands: vec![Stands::Held("wave"); play.devices.len()],
        parked: BTreeSet::new(),
        waiting: VecDeque::new(),
        starts: VecDeque::new(),
        live: 0,
        firsts: 0,
        done: 0,
        waits_until: 0,
        count: WaveCount::default(),
        confirmed: Vec::new(),
        budgets: budgets.unwrap_or_default(),
        phases: Vec::new(),
        last_done: None,
        stopped: false,
        play,
    };
    course.run();
    course.told()
}

impl Course<'_> {
    fn run(&mut self) {
        let begin = self.play.now;
        self.begin_wave(begin);
        for index in 0..self.play.devices.len() {
            self.come(index, begin + self.phase(index));
        }
        self.at(begin, Event::Look);
        for _ in 0..STEPS_MAX {
            let Some(Reverse((at, event))) = self.queue.pop() else {
                return;
            };
            if at > begin + HORIZON_MS || self.stopped {
                return;
            }
            match event {
                Event::Come(index) => self.ask(index, at),
                Event::Done(index) => self.end(index, at),
                Event::Look => self.look(at),
            }
        }
    }

    fn poll_ms(&self) -> i64 {
        i64::from(self.play.poll_s) * 1000
    }

    /// Devices come at moments of their own, spread over a poll.
    fn phase(&self, index: usize) -> i64 {
        let id = &self.play.devices[index].0.id;
        let share = i64::from(share("poll", self.play.rollout.id, id));
        self.poll_ms().saturating_mul(share) >> 32
    }

    fn at(&mut self, at: i64, event: Event) {
        self.queue.push(Reverse((at, event)));
    }

    fn come(&mut self, index: usize, at: i64) {
        self.at(at, Event::Come(index));
    }

    fn begin_wave(&mut self, at: i64) {
        self.play.rollout.wave_since = at;
        self.count = WaveCount::default();
        self.confirmed.clear();
        let rollout = &self.play.rollout;
        let of_wave = self.play.devices.iter().filter(|(device, _)| {
            rollout
                .plan
                .wave_of(&device.id, bucket(rollout.id, &device.id))
                == rollout.wave
        });
        let known = match rollout.plan.wave(rollout.wave).reach {
            Reach::First(devices) => (devices as usize).min(self.play.devices.len()),
            _ => of_wave.count(),
        };
        self.phases.push(Phase {
            reaches: reaches(rollout),
            begins_at: at,
            ends_at: None,
            devices: 0,
        });
        self.play.rollout.wave_devices = Some(known as u64);
        for index in std::mem::take(&mut self.parked) {
            self.come(index, at + self.phase(index));
        }
        let looked_at = at + 2 * self.poll_ms();
        self.at(looked_at, Event::Look);
    }

    fn ask(&mut self, index: usize, now: i64) {
        if !matches!(self.stands[index], Stands::Held(_)) {
            return;
        }
        self.tell_loads(index, now);
        let (device, facts) = &self.play.devices[index];
        let asked = Asked {
            plan: self.play.plan,
            facts,
            device,
            rollout: &self.play.rollout,
            release: self.play.release,
            attempt: None,
            now,
        };
        match first_against(FIRST, &asked) {
            None | Some((_, Verdict::Pass(_))) => {
                let wave = wave_for(&asked).unwrap_or(self.play.rollout.wave);
                self.start(index, wave, now);
            }
            Some((rule, Verdict::Hold(hold))) => self.hold(index, rule, &hold, now),
            Some(_) => self.stands[index] = Stands::Out,
        }
    }

    fn tell_loads(&mut self, index: usize, now: i64) {
        while self.starts.front().is_some_and(|at| *at <= now - STARTS_MS) {
            self.starts.pop_front();
        }
        let facts = &mut self.play.devices[index].1;
        let load = facts.loads.entry(self.play.rollout.id).or_default();
        load.live = self.live;
        load.starts = self.starts.len() as u64;
        load.oldest_start = self.starts.front().copied();
        load.firsts = self.firsts;
        for budget in &mut facts.budgets {
            let known = self.budgets.iter().find(|known| known.name == budget.name);
            budget.free_at = known.map_or(budget.free_at, |known| known.free_at);
        }
    }

    fn start(&mut self, index: usize, wave: u32, now: i64) {
        let bytes = self.play.release.bytes;
        self.stands[index] = Stands::Live(wave);
        self.live += 1;
        self.starts.push_back(now);
        if wave == 0 {
            self.firsts += 1;
        }
        for budget in &mut self.budgets {
            budget.free_at = budget.charged(bytes, now);
        }
        if let Some(phase) = self.phases.get_mut(wave as usize) {
            phase.devices += 1;
        }
        if wave == self.play.rollout.wave {
            self.count.started += 1;
            self.count.first_start.get_or_insert(now);
        }
        let downloaded = now + (bytes.saturating_mul(1000) / BYTES_PER_S) as i64;
        let (device, facts) = &self.play.devices[index];
        let held = holds_install(&Asked {
            plan: self.play.plan,
            facts,
            device,
            rollout: &self.play.rollout,
            release: self.play.release,
            attempt: None,
            now: downloaded,
        });
        match held {
            None => self.at(downloaded + TRIAL_MS, Event::Done(index)),
            Some(Some(until)) => self.at(until + TRIAL_MS, Event::Done(index)),
            Some(None) => {}
        }
    }

    fn hold(&mut self, index: usize, rule: &'static str, hold: &Hold, now: i64) {
        self.stands[index] = Stands::Held(rule);
        let poll_ms = self.poll_ms();
        match (hold.until, hold.by_load) {
            (Some(until), false) => {
                self.waits_until = self.waits_until.max(until + poll_ms);
                self.come(index, until.max(now + 1));
            }
            (until, true) => {
                self.waits_until = self.waits_until.max(now + 2 * poll_ms);
                self.waiting.push_back(index);
                if let Some(until) = until {
                    self.wake(until.max(now + 1));
                }
            }
            (None, false) => drop(self.parked.insert(index)),
        }
    }

    /// The first of those that wait for a place tries then.
    fn wake(&mut self, at: i64) {
        if let Some(index) = self.waiting.pop_front() {
            self.come(index, at);
        }
    }

    fn end(&mut self, index: usize, now: i64) {
        let Stands::Live(wave) = self.stands[index] else {
            return;
        };
        self.stands[index] = Stands::Done;
        self.live -= 1;
        self.done += 1;
        self.last_done = Some(now);
        if let Some(phase) = self.phases.get_mut(wave as usize) {
            phase.ends_at = Some(now);
        }
        if wave == self.play.rollout.wave {
            self.confirmed.push(now);
            self.at(now + self.play.rollout.plan.gates.soak_ms, Event::Look);
        }
        self.wake(now + 1);
    }

    fn look(&mut self, now: i64) {
        let soak_ms = self.play.rollout.plan.gates.soak_ms;
        let healthy = self.confirmed.iter().filter(|at| **at + soak_ms <= now);
        self.count.healthy = healthy.count() as u64;
        self.count.soaking = self.confirmed.len() as u64 - self.count.healthy;
        self.count.confirmed_last = self.confirmed.last().copied();
        self.count.live = self.count.started - self.confirmed.len() as u64;
        let counted = Counted {
            wave: self.count,
            ended: self.done,
            waits_until: self.waits_until,
            ..Counted::default()
        };
        use super::wave::Verdict::{Advance, Breach, End, Pause, Stay};
        match judge(&self.play.rollout, &counted, self.poll_ms(), now) {
            Stay {
                until: Some(until), ..
            } if until > now => self.at(until, Event::Look),
            Stay { .. } => {}
            Advance { .. } => {
                self.play.rollout.wave += 1;
                self.begin_wave(now);
            }
            Pause { .. } | Breach { .. } | End { .. } => self.stopped = true,
        }
    }

    fn told(self) -> Forecast {
        let mut held = BTreeMap::new();
        for stands in &self.stands {
            let rule = match stands {
                Stands::Held(rule) => rule,
                Stands::Live(_) => "install",
                Stands::Done | Stands::Out => continue,
            };
            *held.entry(rule).or_default() += 1;
        }
        Forecast {
            phases: self.phases,
            finished_at: self.last_done.filter(|_| held.is_empty()),
            held,
        }
    }
}

/// A plan for a part of the fleet: what may happen at once is that part of it.
pub fn scaled(rollout: &mut Rollout, part: u64, of: u64) {
    let plan = Arc::make_mut(&mut rollout.plan);
    let scale = |value: u64| (value.saturating_mul(part) / of.max(1)).max(1);
    let narrow = |value: u32| u32::try_from(scale(u64::from(value))).unwrap_or(u32::MAX);
    let limits = &mut plan.limits;
    limits.parallel = limits.parallel.map(narrow);
    limits.starts_per_minute = limits.starts_per_minute.map(narrow);
    limits.bytes_per_s = limits.bytes_per_s.map(scale);
}
