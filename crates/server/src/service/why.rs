//! Why a device gets, or does not get, an order now: every rule that the decision goes by.

use fota_proto::{
    AttemptState,
    checkin::Waits,
    manager::{Presence, RuleVerdict, Why, WhyRollout, WhyRule},
};

use super::facts::facts;
use crate::{
    AppState,
    api::problem::Refusal,
    domain::{
        attempt::explain,
        model::{Attempt, Device, Plan, Release, Rollout},
        plan::bucket,
        presence::presence,
        rules::{AGAIN, Asked, FIRST, Rule, Verdict, wave_for},
        step::{Facts, is_followed, join_groups, rollouts_for},
    },
};

/// The whole chain of rules for a device, as it was last seen.
pub async fn why(state: &AppState, id: &str) -> Result<Why, Refusal> {
    let mut tx = state.store.read().await?;
    let plan = state.fleet.plan(&mut tx).await?;
    let mut facts = facts(state, &mut tx, &plan, id, None).await?;
    let Some(mut device) = facts.device.clone() else {
        return Err(Refusal::not_found(format!("device {id:?}")).of("id"));
    };
    device.last_seen = state.fleet.last_seen(id, device.last_seen);
    join_groups(&mut facts, &plan, &device);
    let now = state.now_ms();
    let rules = device_rules(state, &facts, &device, now);
    let rollouts = rollouts_for(&plan, &facts, &device);
    let rollouts: Vec<WhyRollout> = rollouts
        .into_iter()
        .filter_map(|rollout| why_rollout(&plan, &facts, &device, rollout, now))
        .collect();
    let (answer, until) = answer(&facts, &rules, &rollouts);
    Ok(Why {
        device: id.to_owned(),
        answer,
        until,
        rules,
        rollouts,
    })
}

fn rule(name: &str, verdict: RuleVerdict, sentence: impl Into<String>) -> WhyRule {
    WhyRule {
        rule: name.to_owned(),
        verdict,
        sentence: sentence.into(),
        until: None,
    }
}

/// What holds whatever the rollout.
fn device_rules(state: &AppState, facts: &Facts, device: &Device, now: i64) -> Vec<WhyRule> {
    use RuleVerdict::{Hold, Pass};
    let seen = presence(device.last_seen, now, state.config.poll_s);
    let ago = (now - device.last_seen).max(0) / 1000;
    let mut rules = vec![match seen {
        Presence::Online => rule("seen", Pass, format!("it checked in {ago} s ago")),
        Presence::Late | Presence::Offline => rule(
            "seen",
            Hold,
            format!("it last checked in {ago} s ago: nothing happens until it does again"),
        ),
    }];
    rules.push(match &facts.rollback {
        Some(order) => rule(
            "rollback",
            Hold,
            format!("it is ordered back: {}", order.reason),
        ),
        None => rule("rollback", Pass, "no rollback order stands"),
    });
    rules.push(match device.confirmed {
        Some(false) => rule("trial", Hold, "it has a new image on trial"),
        _ => rule("trial", Pass, "what it runs is confirmed"),
    });
    rules.push(match device.waits.and_then(waits_for) {
        Some(what) => rule(
            "device",
            Hold,
            format!("the device itself waits for {what}"),
        ),
        None => rule("device", Pass, "the device waits for nothing itself"),
    });
    rules
}

fn waits_for(waits: Waits) -> Option<&'static str> {
    Some(match waits {
        Waits::Nothing => return None,
        Waits::Battery => "its battery",
        Waits::Signal => "a better signal",
        Waits::Busy => "an idle moment",
        Waits::Consent => "its user to say yes",
        Waits::Postponed => "later, as its user said",
        Waits::Window => "the install window",
    })
}

fn why_rollout(
    plan: &Plan,
    facts: &Facts,
    device: &Device,
    rollout: &Rollout,
    now: i64,
) -> Option<WhyRollout> {
    let release = plan.releases.get(&rollout.release)?;
    let attempt = facts
        .attempts
        .iter()
        .find(|attempt| attempt.rollout == rollout.id);
    let asked = Asked {
        plan,
        facts,
        device,
        rollout,
        release,
        attempt,
        now,
    };
    Some(WhyRollout {
        rollout: rollout.id,
        version: release.version.clone(),
        bucket: bucket(rollout.id, &device.id),
        wave: wave_for(&asked).ok().map(|wave| wave + 1),
        rules: chain(&asked, release),
    })
}

/// The rules that count for the device where it stands in the rollout.
fn chain(asked: &Asked, release: &Release) -> Vec<WhyRule> {
    let shown = |rules: &[Rule]| rules.iter().map(|rule| shown(rule, asked)).collect();
    match asked.attempt {
        Some(attempt) if !attempt.state.is_end() => {
            let mut rules = vec![under_way(attempt, release)];
            rules.extend::<Vec<WhyRule>>(shown(AGAIN));
            rules
        }
        Some(attempt) if !is_followed(asked.rollout, attempt) => vec![ended(attempt)],
        _ => shown(FIRST),
    }
}

fn under_way(attempt: &Attempt, release: &Release) -> WhyRule {
    let (state, version) = (attempt.state, &release.version);
    rule(
        "attempt",
        RuleVerdict::Pass,
        format!("it is on its way to {version}: {state}"),
    )
}

fn ended(attempt: &Attempt) -> WhyRule {
    let said = explain(attempt.state, attempt.detail.as_deref());
    match attempt.state {
        AttemptState::Succeeded => rule("attempt", RuleVerdict::Skip, "it has the release"),
        state => {
            let sentence = said.unwrap_or_else(|| state.to_string());
            rule("attempt", RuleVerdict::Skip, format!("{state}: {sentence}"))
        }
    }
}

fn shown((name, ask): &Rule, asked: &Asked) -> WhyRule {
    match ask(asked) {
        Verdict::Pass(sentence) => rule(name, RuleVerdict::Pass, sentence),
        Verdict::Hold(hold) => WhyRule {
            until: hold.until,
            ..rule(name, RuleVerdict::Hold, hold.sentence)
        },
        Verdict::Leave(sentence) => rule(name, RuleVerdict::Skip, sentence),
        Verdict::End(end) => {
            let detail = Some(end.detail.as_str()).filter(|detail| !detail.is_empty());
            let sentence = explain(end.state, detail).unwrap_or_else(|| end.state.to_string());
            rule(name, RuleVerdict::Skip, sentence)
        }
    }
}

/// What holds the device now, and when that may change.
fn answer(facts: &Facts, rules: &[WhyRule], rollouts: &[WhyRollout]) -> (String, Option<i64>) {
    let holds = |rule: &&WhyRule| rule.verdict != RuleVerdict::Pass;
    if let Some(held) = rules.iter().find(holds) {
        return (held.sentence.clone(), held.until);
    }
    if facts.attempts.is_empty() && rollouts.is_empty() {
        return ("no rollout names it: it has nothing to do".to_owned(), None);
    }
    for rollout in rollouts {
        let Some(held) = rollout.rules.iter().find(holds) else {
            let (id, version) = (rollout.rollout, &rollout.version);
            return (
                format!("r-{id} brings it {version}: nothing holds it"),
                None,
            );
        };
        let text = format!("r-{}: {}", rollout.rollout, held.sentence);
        // The first rollout that has something to say decides.
        if held.verdict == RuleVerdict::Hold || held.rule == "attempt" {
            return (text, held.until);
        }
    }
    let last = rollouts.last().and_then(|rollout| {
        let held = rollout.rules.iter().find(holds)?;
        Some(format!("r-{}: {}", rollout.rollout, held.sentence))
    });
    (
        last.unwrap_or_else(|| "nothing is left to do".to_owned()),
        None,
    )
}
