//! Small pieces of which the screens are made. Each is a template of its own, so that a badge looks
//! the same wherever it is, and is escaped there once.

use askama::Template;

use super::time::{ago, iso};
use crate::domain::window::Zone;

/// A state as an icon, a word and a tone: never by colour alone.
#[derive(Clone, Debug, Template)]
#[template(
    ext = "html",
    source = r##"<span class="badge tone-{{ tone }}"><svg aria-hidden="true"><use href="#i-{{ icon }}"/></svg>{{ word }}</span>"##
)]
pub struct Badge {
    pub icon: &'static str,
    pub word: String,
    pub tone: &'static str,
}

impl Badge {
    pub fn new(icon: &'static str, word: impl Into<String>, tone: &'static str) -> Self {
        Self {
            icon,
            word: word.into(),
            tone,
        }
    }
}

/// A time: its age in the text, the moment itself on hover and for programs.
#[derive(Clone, Debug, Template)]
#[template(
    ext = "html",
    source = r#"<time datetime="{{ iso }}" title="{{ iso }}" data-at="{{ at_ms }}">{{ ago }}</time>"#
)]
pub struct When {
    pub at_ms: i64,
    pub iso: String,
    pub ago: String,
}

impl When {
    pub fn new(at_ms: i64, now_ms: i64) -> Self {
        Self {
            at_ms,
            iso: iso(at_ms),
            ago: ago(at_ms, now_ms),
        }
    }
}

/// A moment on the clock of the fleet's zone, and on the browser's, which the script knows.
#[derive(Clone, Debug, Template)]
#[template(
    ext = "html",
    source = r#"<b data-testid="clock-fleet">{{ fleet }}</b> (<time datetime="{{ iso }}" data-local="{{ at_ms }}" data-testid="clock-here">{{ iso }}</time> here)"#
)]
pub struct Clock {
    pub at_ms: i64,
    pub iso: String,
    pub fleet: String,
}

impl Clock {
    pub fn new(at_ms: i64, zone: &Zone) -> Self {
        Self {
            at_ms,
            iso: iso(at_ms),
            fleet: format!("{} {zone}", zone.clock(at_ms)),
        }
    }
}

/// The same thing in a terminal, to copy.
#[derive(Clone, Debug, Template)]
#[template(
    ext = "html",
    source = r##"<div class="cli"><code>{{ text }}</code><button type="button" data-copy hidden aria-label="Copy the command {{ text }}"><svg aria-hidden="true"><use href="#i-copy"/></svg></button></div>"##
)]
pub struct Cli {
    pub text: String,
}

impl Cli {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }
}

/// A text as one word of a shell.
pub fn shell(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-/@=,+".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A stretch of a bar, in percent.
#[derive(Clone, Debug)]
pub struct Part {
    pub tone: &'static str,
    pub start: f64,
    pub width: f64,
}

/// Counts side by side.
#[derive(Clone, Debug)]
pub struct Counted {
    pub tone: &'static str,
    pub count: u64,
    pub word: &'static str,
}

/// The devices of a rollout as one bar, with the same in words below it.
#[derive(Clone, Debug, Template)]
#[template(
    ext = "html",
    source = r#"<svg class="bar" role="progressbar" aria-label="{{ label }}" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{{ percent }}" preserveAspectRatio="none">
{%- for part in parts %}<rect class="part-{{ part.tone }}" x="{{ part.start }}%" width="{{ part.width }}%" height="100%"/>{% endfor -%}
</svg><ul class="counts">{% for one in counts %}<li class="tone-{{ one.tone }}"><svg aria-hidden="true" viewBox="0 0 8 8"><rect class="part-{{ one.tone }}" width="8" height="8" rx="2"/></svg><b>{{ one.count }}</b> {{ one.word }}</li>{% else %}<li>no devices yet</li>{% endfor %}</ul>"#
)]
pub struct Strip {
    pub label: String,
    pub percent: u8,
    pub parts: Vec<Part>,
    pub counts: Vec<Counted>,
}

impl Strip {
    /// A bar of these counts; `open` of them have not ended.
    pub fn new(label: String, counts: Vec<Counted>, open: u64) -> Self {
        let counts: Vec<_> = counts.into_iter().filter(|one| one.count > 0).collect();
        let total: u64 = counts.iter().map(|one| one.count).sum();
        let percent = |count: u64| count as f64 * 100.0 / total.max(1) as f64;
        let mut start = 0.0;
        let mut parts = Vec::new();
        for one in &counts {
            let (tone, width) = (one.tone, percent(one.count));
            parts.push(Part { tone, start, width });
            start += width;
        }
        Self {
            label,
            percent: percent(total - open.min(total)) as u8,
            parts,
            counts,
        }
    }
}

/// `1,065,968`.
pub fn grouped(number: u64) -> String {
    fota_image::Grouped(number).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_to_copy_survives_the_shell() {
        assert_eq!(shell("group:hall"), "group:hall");
        assert_eq!(shell("1.0.6 panics"), "'1.0.6 panics'");
        assert_eq!(shell("it's; rm -rf /"), r"'it'\''s; rm -rf /'");
        assert_eq!(shell(""), "''");
    }

    #[test]
    fn a_bar_is_whole_and_says_how_much_has_ended() {
        let counted = |tone, count| Counted {
            tone,
            count,
            word: "x",
        };
        let strip = Strip::new("a".into(), vec![counted("ok", 3), counted("wait", 1)], 1);
        let end = strip.parts.last().map(|part| part.start + part.width);
        assert_eq!((strip.percent, end), (75, Some(100.0)));
        let nothing = Strip::new("a".into(), vec![counted("ok", 0)], 0);
        assert_eq!((nothing.percent, nothing.parts.len()), (0, 0));
    }
}
