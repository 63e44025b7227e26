//! Words that must not land in any file.

use super::{File, Finding};

/// Written in two halves, so that this file does not find itself.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "finish it, or write an issue"),
    (concat!("FIX", "ME"), "finish it, or write an issue"),
    (concat!("todo", "!("), "finish it"),
    (concat!("unimple", "mented!("), "finish it"),
    (concat!("<<<<", "<<< "), "a merge conflict"),
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("/ho", "me/"), "a path of one machine"),
    (concat!("../sha", "red"), "the repository stands alone"),
    (
        concat!("crates", ".io"),
        "packages are fetched by name: no registry's host belongs here",
    ),
    (
        concat!("pypi", ".org"),
        "packages are fetched by name: no registry's host belongs here",
    ),
    (
        concat!("python", "hosted"),
        "packages are fetched by name: no registry's host belongs here",
    ),
    (
        concat!("npmjs", "."),
        "packages are fetched by name: no registry's host belongs here",
    ),
    (
        concat!("debian", ".org"),
        "packages are fetched by name: no registry's host belongs here",
    ),
    (concat!("PRIVATE", " KEY-----"), "a private key"),
];

/// The only pre-shared key that may be written down: the bytes 0 to 31, made up for test vectors.
const TEST_PSK: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

pub fn check(file: &File, found: &mut Vec<Finding>) {
    if file.path.ends_with("Cargo.lock") {
        return; // cargo writes it
    }
    for (index, line) in file.text.lines().enumerate() {
        for (word, why) in FORBIDDEN {
            if line.contains(word) {
                found.push(Finding::new(
                    &file.path,
                    index + 1,
                    format!("`{word}`: {why}"),
                ));
            }
        }
        if holds_secret(line) {
            found.push(Finding::new(
                &file.path,
                index + 1,
                "a key of 64 hex digits",
            ));
        }
    }
}

/// A line that speaks of a key and holds 64 hex digits that are not the test key.
fn holds_secret(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    if !["psk", "secret", "password"]
        .iter()
        .any(|word| lower.contains(word))
    {
        return false;
    }
    let runs = lower.split(|c: char| !c.is_ascii_hexdigit());
    runs.into_iter()
        .any(|run| run.len() == 64 && run != TEST_PSK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_and_the_test_key_is_not() {
        let key = "ab".repeat(32);
        assert!(holds_secret(&format!("FOTA_LEGACY_PSK={key}")));
        assert!(!holds_secret(&format!("FOTA_LEGACY_PSK={TEST_PSK}")));
        assert!(!holds_secret(&format!("sha256 {key}")));
    }
}
