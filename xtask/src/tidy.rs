//! House rules that no other tool checks: sizes, words that must not land, documents that must
//! agree with the code. It reads every file that git tracks or would track, in about a second,
//! and runs as a test too.

mod docs;
mod source;
mod text;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::process::{command, output, root};

/// One thing that is not as it should be.
pub struct Finding {
    file: PathBuf,
    line: usize,
    what: String,
}

impl Finding {
    fn new(file: &Path, line: usize, what: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// A text file of the repository.
pub struct File {
    /// From the root.
    path: PathBuf,
    text: String,
}

impl File {
    fn is(&self, extension: &str) -> bool {
        self.path
            .extension()
            .is_some_and(|found| found == extension)
    }
}

/// `tidy [--fix]`.
pub fn main(args: &[String]) -> Result<()> {
    match args {
        [] => check(),
        [fix] if fix == "--fix" => docs::write_codes(),
        _ => bail!("wanted nothing or --fix"),
    }
}

/// Fails with a line for each finding.
pub fn check() -> Result<()> {
    let files = files()?;
    let mut found = Vec::new();
    for file in &files {
        text::check(file, &mut found);
        if file.is("rs") {
            source::check(file, &mut found);
        }
    }
    docs::check(&files, &mut found);
    found.iter().for_each(|finding| println!("{finding}"));
    if !found.is_empty() {
        bail!("{} findings", found.len());
    }
    println!("tidy: {} files, nothing found", files.len());
    Ok(())
}

/// What git tracks or would track, where it is text.
fn files() -> Result<Vec<File>> {
    let mut git = command("git");
    let list = output(git.args(["ls-files", "--cached", "--others", "--exclude-standard"]))?;
    let read = |name: &str| {
        let text = fs::read_to_string(root().join(name)).ok()?;
        Some(File {
            path: PathBuf::from(name),
            text,
        })
    };
    Ok(list.lines().filter_map(read).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_repository_is_tidy() {
        if let Err(error) = super::check() {
            panic!("{error:#}; see above, or run `cargo xtask tidy`");
        }
    }
}
