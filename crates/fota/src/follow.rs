//! Following a rollout to its end: the server's events drive what is shown.
//!
//! What counts is always the rollout as the server states it; an event only says that it is time
//! to read it again, except for progress, which is shown as it comes.

use std::{collections::BTreeMap, time::Duration};

use fota_client::{Client, EventStream, Incoming};
use fota_proto::{
    AttemptState,
    manager::{Attempt, Counts, Event, Rollout, RolloutDetail, RolloutState},
};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use crate::{
    clock,
    context::Context,
    failure::Result,
    output::{Mark, Output, Show, to_stderr},
    text,
};

/// Shortest time between two readings of the rollout, however many events come.
const READ_EVERY_MIN: Duration = Duration::from_millis(150);
/// Longest time between two readings, in case an event was missed.
const READ_EVERY_MAX: Duration = Duration::from_secs(2);
/// Time between two lines where nothing changes.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Devices with a bar of their own at a time; more would not fit a screen.
const BARS_MAX: usize = 8;
/// Devices whose percentage a line names.
const IN_LINE_MAX: usize = 3;
/// Events that may wait for us.
const EVENTS_WAITING_MAX: usize = 256;

/// A rollout as it was left.
pub struct Followed {
    pub detail: RolloutDetail,
    /// Whether nothing more will happen by itself; otherwise time was up.
    pub settled: bool,
}

/// Shows a rollout until it has settled or `deadline` has come.
pub async fn follow(context: &Context, rollout: i64, deadline: Instant) -> Result<Followed> {
    let client = context.client()?;
    let mut events = Pump::start(client.event_stream(Some(rollout), Some(0)));
    let mut screen = Screen::new(&context.out);
    let mut detail = client.rollout(rollout).await?;
    screen.show(&detail);
    let mut news = false;
    let mut read_at = clock::now();
    while !settled(&detail.rollout) && clock::now() < deadline {
        let pause = if news { READ_EVERY_MIN } else { READ_EVERY_MAX };
        tokio::select! {
            incoming = events.next() => {
                let incoming = incoming?;
                screen.hear(&context.out, &incoming);
                news |= !is_progress(&incoming);
            }
            () = tokio::time::sleep_until((read_at + pause).min(deadline)) => {
                detail = read(client, rollout, detail).await?;
                read_at = clock::now();
                news = false;
                screen.show(&detail);
            }
            () = tokio::time::sleep_until(screen.next_line) => screen.line(&detail),
        }
    }
    screen.close();
    let settled = settled(&detail.rollout);
    drain(context, &mut events).await;
    Ok(Followed { detail, settled })
}

/// A server that is away for a moment (a restart) does not end the watching.
async fn read(client: &Client, rollout: i64, last: RolloutDetail) -> Result<RolloutDetail> {
    match client.rollout(rollout).await {
        Ok(detail) => Ok(detail),
        Err(fota_client::Error::Unreachable { .. }) => Ok(last),
        Err(error) => Err(error.into()),
    }
}

/// With `--json`, prints the events that have come but were not looked at.
async fn drain(context: &Context, events: &mut Pump) {
    if !context.out.json {
        return;
    }
    let last = async {
        while let Ok(Incoming::Event(event)) = events.next().await {
            context.out.document("fota.event/1", &event);
        }
    };
    let _ = tokio::time::timeout(READ_EVERY_MIN, last).await;
}

/// Whether nothing more will happen by itself.
pub fn settled(rollout: &Rollout) -> bool {
    let counts = &rollout.counts;
    let under_way = counts.updating + counts.trial;
    match rollout.state {
        // The server calls a rollout complete when every device that was ever seen has ended; one
        // that is named and never came still waits.
        RolloutState::Active | RolloutState::Complete => under_way + counts.waiting == 0,
        RolloutState::Paused | RolloutState::Aborted => under_way == 0,
    }
}

fn is_progress(incoming: &Incoming) -> bool {
    matches!(incoming, Incoming::Event(event) if event.bytes_done.is_some())
}

/// The event stream on a task of its own: whoever waits for it may stop waiting at any time.
pub struct Pump {
    incoming: mpsc::Receiver<fota_client::Result<Incoming>>,
    _task: JoinSet<()>,
}

impl Pump {
    pub fn start(mut stream: EventStream) -> Self {
        let (sender, incoming) = mpsc::channel(EVENTS_WAITING_MAX);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let next = stream.next().await;
                let last = next.is_err();
                if sender.send(next).await.is_err() || last {
                    return;
                }
            }
        });
        Self {
            incoming,
            _task: task,
        }
    }

    pub async fn next(&mut self) -> Result<Incoming> {
        match self.incoming.recv().await {
            Some(next) => Ok(next?),
            // The task has ended, which it does only after an error that was handed on.
            None => std::future::pending().await,
        }
    }
}

/// What is shown while a rollout runs.
struct Screen<'a> {
    out: &'a Output,
    states: BTreeMap<String, AttemptState>,
    rollout: Option<RolloutState>,
    bars: Option<Bars>,
    next_line: Instant,
    connected: bool,
}

struct Bars {
    multi: MultiProgress,
    all: ProgressBar,
    devices: BTreeMap<String, ProgressBar>,
}

impl<'a> Screen<'a> {
    fn new(out: &'a Output) -> Self {
        Self {
            out,
            states: BTreeMap::new(),
            rollout: None,
            bars: (out.progress == Show::Bars).then(Bars::new),
            next_line: clock::now() + LINE_EVERY,
            connected: true,
        }
    }

    fn show(&mut self, detail: &RolloutDetail) {
        for attempt in &detail.attempts {
            let before = self.states.insert(attempt.device.clone(), attempt.state);
            let changed = before != Some(attempt.state);
            let first_wait = before.is_none() && attempt.state == AttemptState::Waiting;
            if changed && !first_wait {
                self.changed(attempt);
            }
            if let Some(bars) = &mut self.bars {
                bars.show(attempt);
            }
        }
        if let Some(bars) = &mut self.bars {
            bars.show_all(&detail.rollout);
        }
        if self.rollout.replace(detail.rollout.state) != Some(detail.rollout.state) {
            self.rollout_changed(&detail.rollout);
        }
    }

    /// Bars show the way themselves; lines are for ends, and elsewhere for every change.
    fn changed(&mut self, attempt: &Attempt) {
        let device = &attempt.device;
        let state = attempt.state;
        let why = attempt.explanation.as_deref().map(text::plain);
        let why = why.map(|why| format!(" – {why}")).unwrap_or_default();
        let bad = state.is_end() && state != AttemptState::Succeeded;
        match (bad, state) {
            (true, AttemptState::Skipped(_)) => self.print(&format!("  {device}  {state}{why}")),
            (true, _) => {
                let line = self
                    .out
                    .marked(Mark::Bad, &format!("{device} {state}{why}"));
                self.print(&line);
            }
            (false, _) if self.out.progress == Show::Lines => {
                self.print(&format!("  {device}  {state}"));
            }
            _ => {}
        }
    }

    fn rollout_changed(&mut self, rollout: &Rollout) {
        let state = match rollout.state {
            RolloutState::Paused => "paused  ",
            RolloutState::Aborted => "aborted ",
            RolloutState::Active | RolloutState::Complete => return,
        };
        let why = rollout
            .reason
            .as_deref()
            .map(text::plain)
            .unwrap_or_default();
        let line = self
            .out
            .marked(Mark::Attention, format!("{state} {why}").trim_end());
        self.print(&line);
    }

    fn hear(&mut self, out: &Output, incoming: &Incoming) {
        match incoming {
            Incoming::Event(event) => {
                out.document("fota.event/1", event);
                if let Some(bars) = &mut self.bars {
                    bars.progress(event);
                }
            }
            Incoming::Disconnected { reason } if self.connected => {
                self.connected = false;
                let line = format!("connection lost ({reason}); the rollout goes on, trying again");
                let line = self.out.marked(Mark::Attention, &line);
                self.print(&line);
            }
            Incoming::Disconnected { .. } => {}
            Incoming::Connected => {
                if !std::mem::replace(&mut self.connected, true) {
                    self.print("  connected again");
                }
            }
        }
    }

    /// The line that shows life where nothing changes.
    fn line(&mut self, detail: &RolloutDetail) {
        self.next_line = clock::now() + LINE_EVERY;
        if self.out.progress != Show::Lines {
            return;
        }
        let rollout = &detail.rollout;
        let mut line = format!("  r-{}: {}", rollout.id, counts(&rollout.counts));
        let moving = detail.attempts.iter().filter(|attempt| runs(attempt));
        for attempt in moving.take(IN_LINE_MAX) {
            let percent = 100 * position(attempt) / attempt.bytes_total.max(1);
            line.push_str(&format!(" · {} {percent} %", attempt.device));
        }
        self.print(&line);
    }

    fn print(&mut self, line: &str) {
        self.next_line = clock::now() + LINE_EVERY;
        match &self.bars {
            Some(bars) => bars.multi.suspend(|| self.out.say(line)),
            None if self.out.progress == Show::Lines => self.out.say(line),
            None => {}
        }
    }

    /// Leaves the last figures on the screen.
    fn close(&mut self) {
        if let Some(bars) = self.bars.take() {
            for bar in bars.devices.values() {
                bar.finish_and_clear();
            }
            bars.all.abandon();
            to_stderr("");
        }
    }
}

impl Bars {
    fn new() -> Self {
        let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let all = multi.add(ProgressBar::new(0).with_style(style("  {prefix:9} {bar:12} {msg}")));
        Self {
            multi,
            all,
            devices: BTreeMap::new(),
        }
    }

    fn show_all(&mut self, rollout: &Rollout) {
        let counts = &rollout.counts;
        self.all.set_prefix(format!("r-{}", rollout.id));
        self.all.set_length(total(counts).max(1));
        self.all
            .set_position(total(counts) - counts.waiting - counts.updating - counts.trial);
        let ended = format!("{}/{}", counts.succeeded, total(counts));
        self.all
            .set_message(format!("{ended}  {}", self::counts(counts)));
    }

    fn show(&mut self, attempt: &Attempt) {
        if !runs(attempt) {
            if let Some(bar) = self.devices.remove(&attempt.device) {
                bar.finish_and_clear();
                self.multi.remove(&bar);
            }
            return;
        }
        if self.devices.len() >= BARS_MAX && !self.devices.contains_key(&attempt.device) {
            return;
        }
        let multi = &self.multi;
        let bar = self
            .devices
            .entry(attempt.device.clone())
            .or_insert_with(|| {
                let bar = ProgressBar::new(attempt.bytes_total.max(1));
                multi.add(bar.with_style(style("  {prefix:14} {bar:14} {percent:>3} % {msg}")))
            });
        bar.set_prefix(attempt.device.clone());
        // Events may be ahead of what was read: never show a step back.
        bar.set_position(position(attempt).max(bar.position()));
        bar.set_message(moving(attempt.state, bar));
    }

    fn progress(&mut self, event: &Event) {
        let bar = event
            .device
            .as_ref()
            .and_then(|device| self.devices.get(device));
        let (Some(bar), Some(done), Some(total)) = (bar, event.bytes_done, event.bytes_total)
        else {
            return;
        };
        bar.set_length(total.max(1));
        bar.set_position(done.min(total));
        bar.set_message(moving(AttemptState::Downloading, bar));
    }
}

/// Whether the device is at it.
fn runs(attempt: &Attempt) -> bool {
    !attempt.state.is_end() && attempt.state != AttemptState::Waiting
}

/// Bytes that the device says it has. What the server has sent is no progress: on a slow link most
/// of it still lies in buffers.
fn position(attempt: &Attempt) -> u64 {
    attempt.bytes_done.min(attempt.bytes_total)
}

fn moving(state: AttemptState, bar: &ProgressBar) -> String {
    if state != AttemptState::Downloading || bar.per_sec() < 1.0 {
        return state.to_string();
    }
    let eta = text::duration(Duration::from_secs(bar.eta().as_secs()));
    format!("{}  eta {eta}", text::rate(bar.per_sec()))
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸-")
}

/// How many devices a rollout names.
pub fn total(counts: &Counts) -> u64 {
    let Counts {
        waiting,
        updating,
        trial,
        succeeded,
        failed,
        rolled_back,
        skipped,
        ended,
    } = *counts;
    waiting + updating + trial + succeeded + failed + rolled_back + skipped + ended
}

/// `3 succeeded · 1 waiting`: what is not zero.
pub fn counts(counts: &Counts) -> String {
    let all = [
        (counts.succeeded, "succeeded"),
        (counts.trial, "on trial"),
        (counts.updating, "updating"),
        (counts.waiting, "waiting"),
        (counts.failed, "failed"),
        (counts.rolled_back, "rolled back"),
        (counts.skipped, "skipped"),
        (counts.ended, "ended"),
    ];
    let some: Vec<String> = all
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, name)| format!("{number} {name}"))
        .collect();
    match some.is_empty() {
        true => "no device".to_owned(),
        false => some.join(" · "),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn rollout(state: RolloutState, counts: Counts) -> Rollout {
        Rollout {
            id: 42,
            release: 2,
            version: "1.0.6".into(),
            to: vec!["all".into()],
            state,
            reason: None,
            failures_max: None,
            rollback_on_failure: false,
            created_at: 0,
            counts,
            bytes_sent: 0,
            spared_bytes: 0,
            sentence: String::new(),
            plan: None,
            wave: None,
            created_by: String::new(),
            approved_by: None,
            rollback: None,
            health: None,
        }
    }

    #[test]
    fn a_rollout_has_settled_when_nothing_more_happens_by_itself() {
        let waiting = Counts {
            waiting: 1,
            succeeded: 2,
            ..Counts::default()
        };
        let trial = Counts {
            trial: 1,
            ..Counts::default()
        };
        let done = Counts {
            succeeded: 3,
            ..Counts::default()
        };
        let cases = [
            (RolloutState::Active, waiting, false),
            (RolloutState::Active, trial, false),
            (RolloutState::Active, done, true),
            (RolloutState::Paused, waiting, true),
            (RolloutState::Paused, trial, false),
            (RolloutState::Aborted, waiting, true),
            (RolloutState::Complete, waiting, false),
            (RolloutState::Complete, done, true),
        ];
        for (state, counts, expected) in cases {
            assert_eq!(
                settled(&rollout(state, counts)),
                expected,
                "{state:?} {counts:?}"
            );
        }
    }

    #[test]
    fn counts_name_what_is_not_zero() {
        let some = Counts {
            succeeded: 3,
            waiting: 1,
            ..Counts::default()
        };
        assert_eq!(counts(&some), "3 succeeded · 1 waiting");
        assert_eq!(total(&some), 4);
        assert_eq!(counts(&Counts::default()), "no device");
    }
}
