//! Documents that must agree with the code: the list of codes, links, and the tests that the
//! README names.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result};
use fota_proto::FailureCode;

use super::{File, Finding};
use crate::process::root;

const CODES: &str = "docs/codes.md";
const TABLE_START: &str = "<!-- codes: written by `cargo xtask tidy --fix` -->\n";
const TABLE_END: &str = "<!-- end of codes -->\n";
/// The heading in README.md above the table of promises and their tests.
const PROMISES: &str = "## What is promised";

pub fn check(files: &[File], found: &mut Vec<Finding>) {
    check_codes(files, found);
    for file in files.iter().filter(|file| file.is("md")) {
        check_links(file, files, found);
    }
    check_promises(files, found);
}

/// Writes the table of codes from the code.
pub fn write_codes() -> Result<()> {
    let path = root().join(CODES);
    let text = fs::read_to_string(&path)?;
    let new = with_table(&text).context("docs/codes.md has no place for the table")?;
    Ok(fs::write(path, new)?)
}

fn check_codes(files: &[File], found: &mut Vec<Finding>) {
    let text = files
        .iter()
        .find(|file| file.path == Path::new(CODES))
        .map(|file| &file.text);
    if text.is_none_or(|text| with_table(text).as_ref() != Some(text)) {
        let what = "differs from fota_proto::FailureCode: run `cargo xtask tidy --fix`";
        found.push(Finding::new(Path::new(CODES), 1, what));
    }
}

fn with_table(text: &str) -> Option<String> {
    let (before, rest) = text.split_once(TABLE_START)?;
    let (_, after) = rest.split_once(TABLE_END)?;
    let mut table =
        String::from("| number | code | what happened | what to do |\n|--:|---|---|---|\n");
    for code in FailureCode::ALL {
        let (number, name) = (code.number(), code.name());
        table += &format!(
            "| {number} | `{name}` | {} | {} |\n",
            code.sentence(),
            code.remedy()
        );
    }
    Some(format!("{before}{TABLE_START}{table}{TABLE_END}{after}"))
}

fn check_links(file: &File, files: &[File], found: &mut Vec<Finding>) {
    for (index, line) in file.text.lines().enumerate() {
        for link in links(line) {
            if let Err(what) = resolve(file, link, files) {
                found.push(Finding::new(&file.path, index + 1, what));
            }
        }
    }
}

/// The targets of `[text](target)` that are not addresses.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line
        .split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0));
    targets.filter(|target| !target.contains("://") && !target.contains(' '))
}

fn resolve(from: &File, link: &str, files: &[File]) -> Result<(), String> {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let base = from.path.parent().unwrap_or(Path::new(""));
    let path = if path.is_empty() {
        from.path.clone()
    } else {
        plain(&base.join(path))
    };
    if !root().join(&path).exists() {
        return Err(format!("the link {link} leads nowhere"));
    }
    let Some(file) = files
        .iter()
        .find(|file| file.path == path && !anchor.is_empty())
    else {
        return Ok(());
    };
    let anchors: BTreeSet<String> = file.text.lines().filter_map(anchor_of).collect();
    if anchors.contains(anchor) {
        Ok(())
    } else {
        Err(format!("{link}: there is no such heading"))
    }
}

/// The path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// What forges make of a heading: lower case, spaces as dashes, no other punctuation.
fn anchor_of(line: &str) -> Option<String> {
    let heading = line.strip_prefix('#')?.trim_start_matches('#').trim();
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    Some(
        kept.map(|c| {
            if c == ' ' {
                '-'
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect(),
    )
}

/// Each test that the README gives for a promise exists.
fn check_promises(files: &[File], found: &mut Vec<Finding>) {
    let readme = Path::new("README.md");
    let Some(file) = files.iter().find(|file| file.path == readme) else {
        return found.push(Finding::new(readme, 1, "is missing"));
    };
    let rust = files.iter().filter(|file| file.is("rs"));
    let source: String = rust.map(|file| file.text.as_str()).collect();
    let mut promises = 0;
    let lines = file
        .text
        .lines()
        .enumerate()
        .skip_while(|(_, line)| *line != PROMISES)
        .skip(1);
    for (index, line) in lines.take_while(|(_, line)| !line.starts_with("## ")) {
        let Some(tests) = line
            .strip_prefix('|')
            .and_then(|row| row.trim_end_matches('|').rsplit('|').next())
        else {
            continue;
        };
        for test in tests.split('`').skip(1).step_by(2) {
            promises += 1;
            let name = test.rsplit("::").next().unwrap_or(test);
            if !source.contains(&format!("fn {name}(")) {
                let what = format!("there is no test `{test}`");
                found.push(Finding::new(readme, index + 1, what));
            }
        }
    }
    if promises == 0 {
        found.push(Finding::new(
            readme,
            1,
            format!("no tests under `{PROMISES}`"),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_headings_are_read_as_a_forge_does() {
        let line = "see [a](docs/a.md#b-c), [b](https://example.com) and [c](#d)";
        assert_eq!(links(line).collect::<Vec<_>>(), ["docs/a.md#b-c", "#d"]);
        let heading = "## The seed's API: what differs";
        assert_eq!(
            anchor_of(heading).as_deref(),
            Some("the-seeds-api-what-differs")
        );
    }
}
