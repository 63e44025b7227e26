//! Lists in pages.

use fota_proto::manager::Page;
use serde::Deserialize;

use super::problem::Refusal;

/// Rows of a page where the request names no number.
const LIMIT_DEFAULT: u32 = 100;
/// Most rows of a page.
pub const LIMIT_MAX: u32 = 1000;

/// The parameters of every list.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// `next` of the page before.
    pub after: Option<String>,
    /// Rows, 1 to 1,000; 100 if absent.
    pub limit: Option<u32>,
}

/// The number of rows that a request may have.
pub fn limit(asked: Option<u32>) -> Result<i64, Refusal> {
    let limit = asked.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let detail = format!("limit is {limit}: give 1 to {LIMIT_MAX}");
        return Err(Refusal::field("limit", detail));
    }
    Ok(i64::from(limit))
}

/// A number to go on after.
pub fn after(asked: Option<&str>) -> Result<Option<i64>, Refusal> {
    let Some(text) = asked else {
        return Ok(None);
    };
    match text.parse::<i64>() {
        Ok(number) if number >= 0 => Ok(Some(number)),
        _ => {
            let shown: String = text.chars().take(40).collect();
            let detail = format!("after is {shown:?}: give the `next` of the page before");
            Err(Refusal::field("after", detail))
        }
    }
}

/// A page of at most `limit` rows, with the way to the next one where it is full.
pub fn page<T>(items: Vec<T>, limit: i64, key: impl FnOnce(&T) -> String) -> Page<T> {
    let is_full = items.len() as i64 >= limit;
    let next = items.last().filter(|_| is_full).map(key);
    Page { items, next }
}
