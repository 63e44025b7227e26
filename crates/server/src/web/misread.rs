//! A filter that is none, with the place where it is wrong.

use askama::Template;

use crate::domain::filter::Filter;

/// What comes before that place, what is there, and what follows.
#[derive(Clone, Debug, Template)]
#[template(
    ext = "html",
    source = r##"<div class="banner bad" role="alert" data-testid="misread"><svg aria-hidden="true"><use href="#i-cross"/></svg><span><code>{{ before }}<mark>{{ at }}</mark>{{ after }}</code><br>{{ why }}</span></div>"##
)]
pub struct Misread {
    before: String,
    at: String,
    after: String,
    why: String,
}

impl Misread {
    /// None where the text is a filter, or empty.
    pub fn of(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let error = text.parse::<Filter>().err()?;
        let place = error.position.saturating_sub(1);
        let here = text.chars().skip(place);
        let at: String = here.take_while(|c| !c.is_whitespace()).collect();
        Some(Self {
            before: text.chars().take(place).collect(),
            after: text.chars().skip(place + at.chars().count()).collect(),
            at: if at.is_empty() { "…".into() } else { at },
            why: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_where_a_filter_is_wrong_is_marked() {
        let shown = |text| Misread::of(text).map(|found| (found.before, found.at, found.after));
        let pieces = |before: &str, at: &str, after: &str| {
            Some((before.to_owned(), at.to_owned(), after.to_owned()))
        };
        assert_eq!(shown("chip == esp32"), None);
        assert_eq!(
            shown("chip == esp32 and vesion < 2"),
            pieces("chip == esp32 and ", "vesion", " < 2")
        );
        assert_eq!(shown("chip =="), pieces("chip ==", "…", ""));
    }
}
