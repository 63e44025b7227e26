//! What an operator entered for a rollout: one table of inputs, which the form shows and the
//! request is read from.

use std::{fmt::Display, str::FromStr};

use fota_proto::manager::{
    Canary, Gates, Limits, Percent, Retries, RolloutPlan, RolloutRequest, Schedule, Sequential,
    Span, Wave,
};

use crate::api::problem::Refusal;

/// How an input looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Number,
    Text,
    /// A date with a time of day.
    Moment,
    Tick,
}

/// An input of the plan.
pub struct Input {
    pub name: &'static str,
    pub label: &'static str,
    /// What holds where it is left empty, or how it is written.
    pub hint: &'static str,
    pub kind: Kind,
}

/// Inputs that belong together.
pub struct Section {
    pub title: &'static str,
    pub inputs: &'static [Input],
}

const fn input(name: &'static str, label: &'static str, hint: &'static str, kind: Kind) -> Input {
    Input {
        name,
        label,
        hint,
        kind,
    }
}

const fn tick(name: &'static str, label: &'static str) -> Input {
    input(name, label, "", Kind::Tick)
}

/// Everything of a plan that the form asks for (tidy: table). The rest is for the plan's file.
pub static SECTIONS: [Section; 5] = [
    Section {
        title: "What stops it",
        inputs: &[
            input(
                "failures_max",
                "Pause when so many have failed",
                "never",
                Kind::Number,
            ),
            input(
                "failure_percent",
                "Or more than so many percent of at least 20",
                "never",
                Kind::Number,
            ),
            tick(
                "rollback_on_failure",
                "and send the updated devices back to their earlier image",
            ),
            tick(
                "sequential",
                "stop as soon as a statistical test shows that they fail more often than the others",
            ),
        ],
    },
    Section {
        title: "Step by step",
        inputs: &[
            input("canary", "Devices that get it first", "none", Kind::Number),
            input(
                "waves",
                "Then shares of all, in percent",
                "100, or e.g. 5 25 100",
                Kind::Text,
            ),
            input(
                "between",
                "Each step lasts at least",
                "e.g. 30m, 4h, 1d",
                Kind::Text,
            ),
            input(
                "soak",
                "Healthy is confirmed for",
                "e.g. 10m, 1h",
                Kind::Text,
            ),
            input(
                "healthy_percent",
                "Healthy before the next step, percent",
                "90",
                Kind::Number,
            ),
        ],
    },
    Section {
        title: "How much at once",
        inputs: &[
            input("parallel", "Devices at a time", "any number", Kind::Number),
            input(
                "starts_per_minute",
                "Starts a minute",
                "any number",
                Kind::Number,
            ),
            input(
                "bytes_per_s",
                "Bytes a second, on average",
                "any number",
                Kind::Number,
            ),
        ],
    },
    Section {
        title: "When",
        inputs: &[
            input(
                "download",
                "Devices download",
                "always, or e.g. mon-fri 22:00-06:00; sat,sun 00:00-24:00",
                Kind::Text,
            ),
            input(
                "install",
                "And install",
                "at once, or e.g. 02:00-05:00",
                Kind::Text,
            ),
            input(
                "zone",
                "Time zone of the fleet",
                "UTC, or e.g. Europe/Berlin",
                Kind::Text,
            ),
            input("starts_at", "Not before", "", Kind::Moment),
            input("ends_at", "And no longer than until", "", Kind::Moment),
        ],
    },
    Section {
        title: "Anything else",
        inputs: &[
            input(
                "via",
                "Through these versions, oldest first",
                "none",
                Kind::Text,
            ),
            input(
                "trial_s",
                "Seconds for a new image to confirm itself",
                "300",
                Kind::Number,
            ),
            tick("retry", "try again what fails for a passing reason"),
            tick("approval", "somebody else has to approve it first"),
            tick("allow_product_change", "also to devices of another product"),
        ],
    },
];

/// Targets: all, groups, devices, and which of these.
const TARGETS: [&str; 5] = ["release", "all", "group", "devices", "filter"];

/// What was entered, as names and values.
#[derive(Clone, Debug, Default)]
pub struct Entries(Vec<(String, String)>);

impl Entries {
    /// What the form knows of these pairs; empty values ask for nothing.
    pub fn read(pairs: &[(String, String)]) -> Self {
        let is_known = |name: &str| TARGETS.contains(&name) || inputs().any(|one| one.name == name);
        let mut entries = Self::default();
        for (name, value) in pairs {
            // `?to=` as other screens link here.
            let (name, value) = match (name.as_str(), value.trim()) {
                ("to", "all") => ("all", "1"),
                ("to", target) => match target.strip_prefix("group:") {
                    Some(group) => ("group", group),
                    None => ("devices", target),
                },
                given => given,
            };
            if is_known(name) && !value.is_empty() {
                entries.0.push((name.to_owned(), value.to_owned()));
            }
        }
        entries
    }

    /// All values of an entry as one text.
    pub fn text(&self, name: &str) -> String {
        self.all(name).collect::<Vec<_>>().join(" ")
    }

    /// Each value of an entry that may come more than once.
    pub fn all<'e>(&'e self, name: &'e str) -> impl Iterator<Item = &'e str> {
        let named = self.0.iter().filter(move |(given, _)| given == name);
        named.map(|(_, value)| value.as_str())
    }

    /// Whether it was entered, or ticked.
    pub fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// As fields of the form that starts it.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// The targets; a filter alone is about all devices.
    pub fn to(&self) -> Vec<String> {
        let groups = self.all("group").map(|name| format!("group:{name}"));
        let devices = self.all("devices").flat_map(words).map(str::to_owned);
        let named: Vec<String> = groups.chain(devices).collect();
        let is_all = self.has("all") || (named.is_empty() && self.has("filter"));
        let all = is_all.then(|| "all".to_owned());
        all.into_iter().chain(named).collect()
    }

    /// What they ask for.
    pub fn request(&self, key: Option<String>) -> Result<RolloutRequest, Refusal> {
        let plan = self.plan()?;
        let rollback_on_failure = self.has("rollback_on_failure");
        let stops = plan.gates.failure_percent.is_some() || plan.gates.sequential.is_some();
        Ok(RolloutRequest {
            release: self.text("release"),
            to: self.to(),
            // As the command does: ordering back needs a limit that is breached.
            failures_max: self
                .number("failures_max")?
                .or((rollback_on_failure && !stops).then_some(1)),
            rollback_on_failure,
            trial_deadline_s: self.number("trial_s")?,
            allow_product_change: self.has("allow_product_change"),
            idempotency_key: key,
            plan: (plan != RolloutPlan::default()).then_some(plan),
        })
    }

    fn plan(&self) -> Result<RolloutPlan, Refusal> {
        Ok(RolloutPlan {
            filter: self.maybe("filter"),
            via: words(&self.text("via")).map(str::to_owned).collect(),
            approval: self.has("approval"),
            canary: self.canary()?,
            waves: self.waves()?,
            gates: Gates {
                healthy_percent: self.parsed("healthy_percent")?,
                soak: self.parsed("soak")?,
                failure_percent: self.parsed("failure_percent")?,
                sequential: self.has("sequential").then(Sequential::default),
                ..Gates::default()
            },
            limits: Limits {
                parallel: self.number("parallel")?,
                starts_per_minute: self.number("starts_per_minute")?,
                bytes_per_s: self.number("bytes_per_s")?,
            },
            schedule: Schedule {
                zone: self.maybe("zone"),
                starts_at: self.moment("starts_at"),
                ends_at: self.moment("ends_at"),
                download: self.windows("download"),
                install: self.windows("install"),
                ..Schedule::default()
            },
            retries: self.has("retry").then(Retries::default),
            ..RolloutPlan::default()
        })
    }

    fn canary(&self) -> Result<Option<Canary>, Refusal> {
        let Some(devices) = self.number("canary")? else {
            return Ok(None);
        };
        Ok(Some(Canary {
            devices: Some(devices),
            min_time: self.parsed("between")?,
            ..Canary::default()
        }))
    }

    fn waves(&self) -> Result<Vec<Wave>, Refusal> {
        let between: Option<Span> = self.parsed("between")?;
        let wave = |text| {
            let percent: Percent = parsed("waves", text)?;
            let is_last = percent == Percent::ALL;
            Ok(Wave {
                percent,
                min_time: between.filter(|_| !is_last),
                max_time: None,
            })
        };
        words(&self.text("waves")).map(wave).collect()
    }

    fn windows(&self, name: &str) -> Vec<String> {
        let text = self.text(name);
        let windows = text.split(';').map(|window| window.trim().to_owned());
        windows.filter(|window| !window.is_empty()).collect()
    }

    /// A browser writes `2026-12-01T22:00`.
    fn moment(&self, name: &str) -> Option<String> {
        self.maybe(name).map(|text| text.replacen('T', " ", 1))
    }

    fn maybe(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    fn parsed<T: FromStr<Err: Display>>(&self, name: &'static str) -> Result<Option<T>, Refusal> {
        let text = self.maybe(name);
        text.map(|text| parsed(name, &text)).transpose()
    }

    fn number<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, Refusal> {
        let Some(text) = self.maybe(name) else {
            return Ok(None);
        };
        let shown: String = text.chars().take(20).collect();
        let wrong = format!("{}: {shown:?} is no number: give digits only", label(name));
        text.parse()
            .map(Some)
            .map_err(|_| Refusal::field(name, wrong))
    }
}

fn parsed<T: FromStr<Err: Display>>(name: &'static str, text: &str) -> Result<T, Refusal> {
    let refused = |error| Refusal::field(name, format!("{}: {error}", label(name)));
    text.parse().map_err(refused)
}

/// The words above an input.
fn label(name: &str) -> &str {
    let found = inputs().find(|input| input.name == name);
    found.map_or(name, |input| input.label)
}

fn inputs() -> impl Iterator<Item = &'static Input> {
    SECTIONS.iter().flat_map(|section| section.inputs)
}

/// The words of a list that people wrote with blanks, commas or lines.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split([' ', ',', '\n', '\r', '\t']);
    words.filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Entries {
        let owned = pairs
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        Entries::read(&owned.collect::<Vec<_>>())
    }

    #[test]
    fn each_input_changes_what_is_asked_for() {
        let always = [("release", "7"), ("all", "1")];
        let plain = of(&always).request(None).expect("a request");
        assert_eq!(plain.plan, None, "nothing entered asks for no plan");
        for input in inputs() {
            let value = match (input.name, input.kind) {
                ("between" | "soak", _) => "1h",
                ("download" | "install", _) => "mon-fri 22:00-06:00; sat 08:00-09:00",
                ("waves", _) => "5 25% 100",
                ("zone", _) => "Europe/Berlin",
                ("via", _) => "1.0.4",
                (_, Kind::Moment) => "2026-12-01T22:00",
                _ => "7",
            };
            let mut pairs = always.to_vec();
            // Alone it says how long a step lasts, where there are none.
            if input.name == "between" {
                pairs.push(("canary", "1"));
            }
            let before = of(&pairs).request(None).expect("a request");
            pairs.push((input.name, value));
            let entries = of(&pairs);
            let request = entries.request(None).expect(input.name);
            assert_ne!(request, before, "{}", input.name);
            let again = Entries::read(entries.pairs()).request(None);
            assert_eq!(again.expect("the same"), request, "{}", input.name);
        }
    }

    #[test]
    fn targets_are_read_as_people_and_links_write_them() {
        let entries = of(&[
            ("group", "a"),
            ("to", "group:b"),
            ("devices", "x, y"),
            ("to", "z"),
        ]);
        assert_eq!(entries.to(), ["group:a", "group:b", "x", "y", "z"]);
        assert_eq!(of(&[("filter", "has tag.site")]).to(), ["all"]);
        assert!(of(&[("release", "1")]).to().is_empty());
    }

    #[test]
    fn what_is_no_number_is_refused_by_its_label() {
        let refused = of(&[("parallel", "many")])
            .request(None)
            .expect_err("no number");
        let said = "Devices at a time: \"many\" is no number: give digits only";
        assert_eq!(refused.detail(), said);
    }
}
