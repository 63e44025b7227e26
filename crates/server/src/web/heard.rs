//! The last day of a device as a bar: the half hours in which it checked in.

use askama::Template;

use super::pieces::Part;
use crate::domain::presence::HALF_HOURS;

const HALF_HOUR_MS: i64 = 30 * 60 * 1000;

/// The bar, with the same in words for those who do not see it.
#[derive(Clone, Debug, Template)]
#[template(
    ext = "html",
    source = r#"<svg class="heard" role="img" aria-label="{{ told }}" preserveAspectRatio="none"><title>{{ told }}</title>
{%- for part in parts %}<rect class="part-{{ part.tone }}" x="{{ part.start }}%" width="{{ part.width }}%" height="100%"/>{% endfor -%}
</svg>"#
)]
pub struct Heard {
    pub told: String,
    parts: Vec<Part>,
}

impl Heard {
    /// `text` as the API has it: 48 half hours, oldest first. Before it was first seen, a device
    /// can have missed nothing.
    pub fn new(text: &str, first_seen: i64, now: i64) -> Self {
        let age = now.saturating_sub(first_seen).max(0) / HALF_HOUR_MS + 1;
        let known =
            usize::try_from(age).map_or(HALF_HOURS as usize, |age| age.min(HALF_HOURS as usize));
        let unknown = HALF_HOURS as usize - known;
        let half_hours: Vec<bool> = text.bytes().map(|byte| byte == b'1').collect();
        let heard = half_hours.iter().skip(unknown).filter(|was| **was).count();
        // Neighbours that are alike are one rectangle: a device that is always there costs one.
        let mut parts: Vec<Part> = Vec::new();
        for (index, was) in half_hours.iter().enumerate().skip(unknown) {
            let (tone, width) = (
                if *was { "ok" } else { "idle" },
                100.0 / f64::from(HALF_HOURS),
            );
            match parts.last_mut() {
                Some(last) if last.tone == tone => last.width += width,
                _ => parts.push(Part {
                    tone,
                    start: index as f64 * width,
                    width,
                }),
            }
        }
        Self {
            told: format!("heard in {heard} of the last {known} half hours"),
            parts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_says_how_often_a_device_was_heard() {
        let day = 48 * HALF_HOUR_MS;
        let text = format!("{}00{}", "1".repeat(40), "1".repeat(6));
        let old = Heard::new(&text, 0, day * 3);
        assert_eq!(old.told, "heard in 46 of the last 48 half hours");
        assert_eq!(old.parts.len(), 3);
        let end = old.parts.last().map(|part| part.start + part.width);
        assert!(
            end.is_some_and(|end| (end - 100.0).abs() < 0.001),
            "{end:?}"
        );
        let young = Heard::new(&text, day * 3 - 2 * HALF_HOUR_MS, day * 3);
        assert_eq!(young.told, "heard in 3 of the last 3 half hours");
        assert_eq!(Heard::new("", 0, day).parts.len(), 0);
    }
}
