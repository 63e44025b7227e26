//! A small language that says which devices: `project == sensor and version < 1.2 and not group ==
//! lab`. The grammar is in `docs/filter.md`.
//!
//! A device may have no value for a field, or several (its groups). A comparison holds where it
//! holds for one of the values, so it does not hold where there is none; `!=` is `not ==`.

use std::{cmp::Ordering, fmt, str::FromStr};

mod parse;

/// Longest filter, bytes: more is a list of devices, and that is a group.
pub const FILTER_BYTES_MAX: usize = 1024;
/// Comparisons in one filter.
pub const TERMS_MAX: usize = 64;
/// Parentheses and `not` inside each other.
pub const DEPTH_MAX: usize = 16;

/// A filter that was read; prints as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    text: String,
    root: Expression,
}

/// What a filter asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Every device.
    All,
    /// All of these, at least one.
    And(Vec<Expression>),
    /// One of these, at least one.
    Or(Vec<Expression>),
    /// Not this.
    Not(Box<Expression>),
    /// There is a value.
    Has(Field),
    /// A value of the field compares so.
    Compare(Field, Test),
}

/// What a value is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// Equal to one of these.
    In(Vec<String>),
    /// As the pattern says: `*` for any bytes, `?` for one character.
    Like(String),
    /// In the order of versions (see [`version_order`]), this way.
    Order(Comparison, String),
}

/// Which way two values are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// Something that a device may have a value for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// Its id.
    Id,
    /// Version of the running image.
    Version,
    /// Project name of the running image, which names its product.
    Project,
    /// Chip name, such as `esp32s3`.
    Chip,
    /// Groups it is in.
    Group,
    /// `native` or `seed`.
    Protocol,
    /// A tag that an operator set.
    Tag(String),
    /// An attribute that the device tells.
    Attribute(String),
}

/// Fields without a name of their own, as written.
const FIELDS: [(&str, Field); 6] = [
    ("id", Field::Id),
    ("version", Field::Version),
    ("project", Field::Project),
    ("chip", Field::Chip),
    ("group", Field::Group),
    ("protocol", Field::Protocol),
];

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(name) => write!(f, "tag.{name}"),
            Self::Attribute(name) => write!(f, "attr.{name}"),
            plain => {
                let named = FIELDS.iter().find(|(_, field)| field == plain);
                f.write_str(named.map_or("?", |(name, _)| name))
            }
        }
    }
}

/// What a filter looks at.
pub trait Traits {
    /// Whether `holds` holds for one of the values of the field.
    fn any(&self, field: &Field, holds: &mut dyn FnMut(&str) -> bool) -> bool;
}

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter, character {position}: {problem}")]
pub struct FilterError {
    /// Where, counted in characters from 1; one behind the end where something is missing.
    pub position: usize,
    /// What is wrong and what would be right.
    pub problem: Problem,
}

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Something else belongs here.
    #[error("found {found}, expected {expected}")]
    Expected {
        /// What belongs here.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// There is no such field.
    #[error(
        "{0:?} is no field: one of id, version, project, chip, group, protocol, tag.NAME, attr.NAME"
    )]
    Field(String),
    /// A text in quotes that does not end.
    #[error("the text that begins here has no closing quote")]
    Quote,
    /// A character that nothing begins with.
    #[error("{0:?} means nothing here: put a text with such characters in double quotes")]
    Character(char),
    /// Too much.
    #[error("{what} {found}, at most {max} are taken: make a group, or shorten it")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much is taken.
        max: usize,
    },
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let root = parse::expression(text)?;
        let text = text.trim().to_owned();
        Ok(Self { text, root })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Filter {
    /// What it asks, for a store that asks its database the same.
    pub fn expression(&self) -> &Expression {
        &self.root
    }

    /// Whether a device is meant, where that does not depend on a field that is unknown.
    pub fn decided(&self, device: &impl Traits, unknown: &impl Fn(&Field) -> bool) -> Option<bool> {
        self.root.decided(device, unknown)
    }

    /// Whether it asks for the field at all.
    pub fn mentions(&self, field: &Field) -> bool {
        self.root.mentions(field)
    }

    /// The ids outside which it never holds, where it names some.
    pub fn only_ids(&self) -> Option<&[String]> {
        self.root.only_ids()
    }

    /// Whether a device is meant.
    pub fn matches(&self, device: &impl Traits) -> bool {
        self.root.matches(device)
    }
}

impl Expression {
    fn matches(&self, device: &impl Traits) -> bool {
        match self {
            Self::All => true,
            Self::And(all) => all.iter().all(|part| part.matches(device)),
            Self::Or(any) => any.iter().any(|part| part.matches(device)),
            Self::Not(inner) => !inner.matches(device),
            Self::Has(field) => device.any(field, &mut |_| true),
            Self::Compare(field, test) => device.any(field, &mut |value| test.holds(value)),
        }
    }

    fn decided(&self, device: &impl Traits, unknown: &impl Fn(&Field) -> bool) -> Option<bool> {
        // One part that is `ends` settles it; otherwise every part must be known.
        let settle = |parts: &[Self], ends: bool| {
            let mut rest = Some(!ends);
            for part in parts {
                match part.decided(device, unknown) {
                    Some(found) if found == ends => return Some(ends),
                    Some(_) => {}
                    None => rest = None,
                }
            }
            rest
        };
        match self {
            Self::And(all) => settle(all, false),
            Self::Or(any) => settle(any, true),
            Self::Not(inner) => inner.decided(device, unknown).map(|holds| !holds),
            Self::Has(field) | Self::Compare(field, _) if unknown(field) => None,
            Self::All | Self::Has(_) | Self::Compare(..) => Some(self.matches(device)),
        }
    }

    fn mentions(&self, wanted: &Field) -> bool {
        match self {
            Self::All => false,
            Self::And(parts) | Self::Or(parts) => parts.iter().any(|part| part.mentions(wanted)),
            Self::Not(inner) => inner.mentions(wanted),
            Self::Has(field) | Self::Compare(field, _) => field == wanted,
        }
    }

    fn only_ids(&self) -> Option<&[String]> {
        match self {
            Self::Compare(Field::Id, Test::In(ids)) => Some(ids),
            Self::And(all) => all.iter().find_map(Self::only_ids),
            _ => None,
        }
    }
}

impl Test {
    /// Whether it holds for a value.
    pub fn holds(&self, value: &str) -> bool {
        match self {
            Self::In(values) => values.iter().any(|wanted| wanted == value),
            Self::Like(pattern) => is_like(value, pattern),
            Self::Order(comparison, than) => {
                let order = version_order(value, than);
                match comparison {
                    Comparison::Less => order == Ordering::Less,
                    Comparison::LessOrEqual => order != Ordering::Greater,
                    Comparison::Greater => order == Ordering::Greater,
                    Comparison::GreaterOrEqual => order != Ordering::Less,
                }
            }
        }
    }
}

/// `*` stands for any characters, `?` for one. Linear in the value for each `*`.
fn is_like(value: &str, pattern: &str) -> bool {
    let (mut value, mut pattern) = (value.chars(), pattern.chars());
    // Where to go on after the last `*` if what follows it does not fit.
    let mut retry = None;
    loop {
        let here = value.clone();
        match (pattern.next(), value.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                retry = Some((here.clone(), pattern.clone()));
                value = here;
                continue;
            }
            (Some('?'), Some(_)) => continue,
            (Some(wanted), Some(found)) if wanted == found => continue,
            _ => {}
        }
        let Some((from, after_star)) = &mut retry else {
            return false;
        };
        if from.next().is_none() {
            return false;
        }
        (value, pattern) = (from.clone(), after_star.clone());
    }
}

/// The order of version texts: runs of digits as numbers, a text with a `-` behind equal numbers
/// before the same without it (`1.2.0-rc1 < 1.2.0 < 1.10.0`). A leading `v` does not count, nor
/// what follows a `+` (<https://semver.org>, sections 10 and 11, for texts that keep to it).
pub fn version_order(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (Parts(significant(left)), Parts(significant(right)));
    loop {
        let (left, right) = (Part::or_end(left.next()), Part::or_end(right.next()));
        match left.cmp(&right) {
            Ordering::Equal if left == Part::End => return Ordering::Equal,
            Ordering::Equal => {}
            order => return order,
        }
    }
}

fn significant(version: &str) -> &str {
    let version = version.split('+').next().unwrap_or_default();
    let bare = version.strip_prefix(['v', 'V']).unwrap_or(version);
    let is_version = bare.starts_with(|first: char| first.is_ascii_digit());
    if is_version { bare } else { version }
}

/// Runs of digits and of anything else.
struct Parts<'a>(&'a str);

/// In this order: `1.2-rc`, `1.2`, `1.20`, `1.2.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part<'a> {
    /// A text that begins with `-`.
    Before(&'a str),
    End,
    /// Length and digits without leading zeros: the longer is the larger.
    Number(usize, &'a str),
    Text(&'a str),
}

impl<'a> Part<'a> {
    fn or_end(part: Option<Self>) -> Self {
        part.unwrap_or(Self::End)
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let first = self.0.chars().next()?;
        let is_number = first.is_ascii_digit();
        let end = self
            .0
            .find(|next: char| next.is_ascii_digit() != is_number)
            .unwrap_or(self.0.len());
        let (part, rest) = self.0.split_at(end);
        self.0 = rest;
        let digits = part.trim_start_matches('0');
        Some(match is_number {
            true => Part::Number(digits.len(), digits),
            false if part.starts_with('-') => Part::Before(part),
            false => Part::Text(part),
        })
    }
}

#[cfg(test)]
mod tests;
