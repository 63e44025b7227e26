//! Rules for Rust source: sizes, no `unwrap` outside tests, no allocator in the device crates.
//!
//! A full parser is not needed: with comments, strings and character literals blanked out, braces
//! match, and that is enough to know where a function or a test module ends.

use std::ops::Range;

use super::{File, Finding};

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 800;
/// In a comment above a function, or in the first lines of a file: it is a table, so it is long.
const TABLE: &str = concat!("tidy", ": table");

pub fn check(file: &File, found: &mut Vec<Finding>) {
    let code = blanked(&file.text);
    let tests = test_parts(file, &code);
    check_sizes(file, &code, found);
    for (word, why) in [(
        ".unwrap()",
        "only tests may: say why it holds, or return the error",
    )] {
        for at in find_all(&code, word) {
            if !tests.iter().any(|part| part.contains(&at)) {
                found.push(Finding::new(
                    &file.path,
                    line_of(&code, at),
                    format!("`{word}`: {why}"),
                ));
            }
        }
    }
    let device = ["crates/proto/src", "crates/device/src"];
    if device.iter().any(|dir| file.path.starts_with(dir)) && !file.path.ends_with("manager.rs") {
        for at in find_all(&code, "extern crate ") {
            if !tests.iter().any(|part| part.contains(&at)) {
                let what = "the device side has no std and no allocator";
                found.push(Finding::new(&file.path, line_of(&code, at), what));
            }
        }
    }
}

fn check_sizes(file: &File, code: &str, found: &mut Vec<Finding>) {
    let lines: Vec<&str> = file.text.lines().collect();
    let is_table = lines.iter().take(30).any(|line| line.contains(TABLE));
    if lines.len() > FILE_LINES_MAX && !is_table {
        let what = format!("{} lines; a file has at most {FILE_LINES_MAX}", lines.len());
        found.push(Finding::new(&file.path, 1, what));
    }
    for (name, body) in functions(code) {
        let (first, last) = (line_of(code, body.start), line_of(code, body.end));
        let count = last - first + 1;
        let above = &lines[first.saturating_sub(8)..first];
        if count > FUNCTION_LINES_MAX && !above.iter().any(|line| line.contains(TABLE)) {
            let what = format!("`{name}` has {count} lines; at most {FUNCTION_LINES_MAX}");
            found.push(Finding::new(&file.path, first, what));
        }
    }
}

/// Where only tests are: a whole file below `tests`, or what `#[cfg(test)]` and `#[test]` mark.
fn test_parts(file: &File, code: &str) -> Vec<Range<usize>> {
    let name = file.path.file_stem().unwrap_or_default();
    let below_tests = file
        .path
        .components()
        .any(|part| part.as_os_str() == "tests");
    if below_tests || name == "tests" || file.path.starts_with("fuzz") {
        return std::iter::once(0..code.len()).collect();
    }
    let marked = find_all(code, "#[cfg(test)]").chain(find_all(code, "#[test]"));
    marked
        .map(|at| at..block_end(code, at).unwrap_or(code.len()))
        .collect()
}

/// The functions with a body: name, and from `fn` to the closing brace.
fn functions(code: &str) -> Vec<(&str, Range<usize>)> {
    let mut all = Vec::new();
    for at in find_all(code, "fn ") {
        let is_word = code[..at].chars().next_back().is_none_or(|c| !is_name(c));
        let rest = code[at + 3..].trim_start();
        let name = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
        if let (true, false, Some(end)) = (is_word, name.is_empty(), block_end(code, at)) {
            all.push((name, at..end));
        }
    }
    all
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where the block that starts after `at` ends; none where a `;` comes first.
fn block_end(code: &str, at: usize) -> Option<usize> {
    let (mut braces, mut brackets) = (0, 0);
    for (offset, byte) in code[at..].bytes().enumerate() {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets -= 1,
            b';' if braces == 0 && brackets == 0 => return None,
            b'{' => braces += 1,
            b'}' if braces == 1 => return Some(at + offset),
            b'}' => braces -= 1,
            _ => {}
        }
    }
    None
}

fn find_all<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at)
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].bytes().filter(|byte| *byte == b'\n').count() + 1
}

/// The same text with comments, strings and character literals as spaces; lines stay.
pub fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = at + token_bytes(&text[at..], at == 0 || !is_name(bytes[at - 1] as char));
        let is_blank = end > at + 1 || !bytes[at].is_ascii();
        let end = (end.max(at + 1)..)
            .find(|i| text.is_char_boundary(*i))
            .expect("the end is one");
        if is_blank {
            let part = code[at..end].iter_mut();
            part.filter(|byte| **byte != b'\n')
                .for_each(|byte| *byte = b' ');
        }
        at = end;
    }
    String::from_utf8(code).expect("only whole characters were replaced")
}

/// Length of the comment or literal that starts here; 0 for anything else.
fn token_bytes(text: &str, at_word_start: bool) -> usize {
    let up_to = |end: &str, from: usize| text[from..].find(end).map_or(text.len(), |i| from + i);
    let raw = text
        .trim_start_matches('b')
        .strip_prefix('r')
        .filter(|_| at_word_start);
    if let Some(raw) = raw {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = text.len() - raw.len() + hashes + 1;
            return (up_to(&close, open) + close.len()).min(text.len());
        }
    }
    if text.starts_with("//") {
        up_to("\n", 0)
    } else if text.starts_with("/*") {
        (up_to("*/", 2) + 2).min(text.len())
    } else if text.starts_with('"') {
        string_bytes(text)
    } else if text.starts_with('\'') {
        character_bytes(text)
    } else {
        0
    }
}

fn string_bytes(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            b'"' if !escaped => return at + 1,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// `'x'`, `'\n'`, `'\u{1f}'`; 0 for a lifetime.
fn character_bytes(text: &str) -> usize {
    let mut inside = text[1..].chars();
    match (inside.next(), inside.next()) {
        (Some('\\'), Some(escape)) => {
            let from = 2 + escape.len_utf8();
            text[from..].find('\'').map_or(0, |i| from + i + 1)
        }
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let file = File {
            path: PathBuf::from(path),
            text: text.to_owned(),
        };
        let mut found = Vec::new();
        check(&file, &mut found);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_code_is_left() {
        let text = "a(\"}\\\"\", '{', '\\'', b\"x\", r#\"\"}\"#) // }\n/* { */ fn f<'a>() {}";
        let code = blanked(text);
        assert_eq!(code.len(), text.len());
        assert_eq!(code.matches('{').count(), 1, "{code}");
        assert_eq!(code.matches('}').count(), 1, "{code}");
        assert!(code.contains("fn f<'a>() {}"), "{code}");
    }

    #[test]
    fn a_long_function_is_found_and_a_table_is_not() {
        let body = "    call();\n".repeat(FUNCTION_LINES_MAX);
        let long = format!("fn short() {{}}\nfn long() {{\n{body}}}\n");
        assert_eq!(
            findings("a.rs", &long),
            ["a.rs:2: `long` has 72 lines; at most 70"]
        );
        let table = long.replace("fn long", &format!("// {TABLE}\nfn long"));
        assert!(findings("a.rs", &table).is_empty());
    }

    #[test]
    fn unwrap_is_found_outside_tests_only() {
        let text = "fn a() { b.unwrap() }\n#[cfg(test)]\nmod t { fn c() { d.unwrap() } }\n";
        assert_eq!(findings("a.rs", text).len(), 1);
        assert!(findings("tests/a.rs", text).is_empty());
        assert!(findings("a.rs", "// b.unwrap()\n").is_empty());
    }
}
