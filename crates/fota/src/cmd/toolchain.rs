//! What two images say about how they were built: another compiler or library changes code all
//! over, which is the most common reason for a large patch.

use std::collections::BTreeSet;

use fota_image::app::check_bytes;

/// A text in an image that names a tool is not longer.
const MARK_BYTES_MAX: usize = 80;
/// Names shown of each kind; a program has dozens of libraries.
const SHOWN_MAX: usize = 6;

/// Where a compiler or a library leaves its name, and what ends it.
const MARKS: [(&str, &str, char); 5] = [
    // Paths of panics in Rust's own library name the commit of the compiler.
    ("rustc", "/rustc/", '/'),
    ("gcc", "GCC: (", '\0'),
    ("crosstool", "crosstool-NG ", ')'),
    ("clang", "clang version ", '\0'),
    // And those in libraries name them with their version.
    ("library", "/registry/src/", '\\'),
];

/// What the images say differently, as "what, old, new"; empty where nothing is.
pub fn differences(old: &[u8], new: &[u8]) -> Vec<(&'static str, String, String)> {
    let mut all = described(old, new);
    for (what, before, end) in MARKS {
        let (old, new) = (marks(old, before, end), marks(new, before, end));
        let gone: Vec<String> = old.difference(&new).cloned().collect();
        let come: Vec<String> = new.difference(&old).cloned().collect();
        if !gone.is_empty() || !come.is_empty() {
            all.push((what, shown(&gone), shown(&come)));
        }
    }
    all
}

fn described(old: &[u8], new: &[u8]) -> Vec<(&'static str, String, String)> {
    let desc = |bytes: &[u8]| check_bytes(bytes).ok().and_then(|image| image.desc);
    let (Some(old), Some(new)) = (desc(old), desc(new)) else {
        return Vec::new();
    };
    let pairs = [
        ("esp-idf", old.idf_ver.as_str(), new.idf_ver.as_str()),
        (
            "project",
            old.project_name.as_str(),
            new.project_name.as_str(),
        ),
    ];
    let differs = pairs.into_iter().filter(|(_, old, new)| old != new);
    differs
        .map(|(what, old, new)| (what, old.to_owned(), new.to_owned()))
        .collect()
}

fn shown(names: &[String]) -> String {
    let mut words: Vec<&str> = names.iter().take(SHOWN_MAX).map(String::as_str).collect();
    let more = format!("{} more", names.len().saturating_sub(SHOWN_MAX));
    if names.len() > SHOWN_MAX {
        words.push(&more);
    }
    match words.is_empty() {
        true => "-".to_owned(),
        false => words.join(", "),
    }
}

/// The texts that follow `before` in the image.
fn marks(image: &[u8], before: &str, end: char) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = image;
    while let Some(at) = find(rest, before.as_bytes()) {
        rest = &rest[at + before.len()..];
        let text: String = rest
            .iter()
            .take(MARK_BYTES_MAX)
            .map(|byte| char::from(*byte))
            .take_while(|c| c.is_ascii() && !c.is_ascii_control() && *c != end)
            .collect();
        // `/registry/src/HOST-HASH/name-1.2.3/src/lib.rs`
        let text = match before.ends_with("src/") {
            true => text.split('/').nth(1).unwrap_or_default().to_owned(),
            false => text,
        };
        if !text.is_empty() {
            found.insert(text);
        }
    }
    found
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = wanted[0];
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == first) {
        if bytes[from + at..].starts_with(wanted) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_compiler_and_another_library_are_named() {
        let old = b"\0\x01/rustc/aaaa/library/core/src/a.rs\0~/.cargo/registry/src/\
            host-1949cf8c6b5b557f/heapless-0.8.0/src/vec.rs\0 GCC: (crosstool) 13\0";
        let new =
            b"\0/rustc/bbbb/library/core/src/a.rs\0/rustc/bbbb/library/x\0~/.cargo/registry/src/\
            host-1949cf8c6b5b557f/heapless-0.9.1/src/vec.rs\0 GCC: (crosstool) 13\0";
        let text = |text: &str| text.to_owned();
        let expected = [
            ("rustc", text("aaaa"), text("bbbb")),
            ("library", text("heapless-0.8.0"), text("heapless-0.9.1")),
        ];
        assert_eq!(differences(old, new), expected);
        assert_eq!(differences(old, old), []);
    }
}
