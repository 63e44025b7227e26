//! Where passphrases come from: a file, the environment, or a person at the terminal.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::{
    config, credentials,
    failure::{Failure, Result},
    keys,
    output::{self, Output},
};

/// Shortest passphrase that a new key is locked with. It is guessed at offline by whoever gets
/// the file.
const CHARS_MIN: usize = 8;

/// The passphrases of a run of the program.
pub struct Passphrases<'a> {
    out: &'a Output,
    file: Option<PathBuf>,
}

impl<'a> Passphrases<'a> {
    /// `file` is that of `--passphrase-file`.
    pub fn new(out: &'a Output, file: Option<&Path>) -> Self {
        Self {
            out,
            file: file.map(Path::to_owned),
        }
    }

    /// That of a key which is locked.
    pub async fn of(&self, what: &str) -> Result<Zeroizing<String>> {
        match self.given()? {
            Some(passphrase) => Ok(passphrase),
            None => self.typed(&format!("Passphrase of {what}: ")).await,
        }
    }

    /// One for a new key: typed twice, and not too short.
    pub async fn new_one(&self, what: &str) -> Result<Zeroizing<String>> {
        let passphrase = match self.given()? {
            Some(passphrase) => passphrase,
            None => {
                let first = self.typed(&format!("New passphrase for {what}: ")).await?;
                if first != self.typed("The same again: ").await? {
                    return Err(Failure::usage("the two passphrases differ"));
                }
                first
            }
        };
        let chars = passphrase.chars().count();
        match chars < CHARS_MIN {
            false => Ok(passphrase),
            true => Err(Failure::usage(format!(
                "the passphrase has {chars} characters; at least {CHARS_MIN} are needed"
            ))
            .hint(
                "take a few random words, or --no-passphrase for a key that needs no protection",
            )),
        }
    }

    fn given(&self) -> Result<Option<Zeroizing<String>>> {
        let Some(path) = &self.file else {
            return Ok(config::env("FOTA_KEY_PASSPHRASE").map(Zeroizing::new));
        };
        credentials::refuse_if_others_may_read(path)?;
        let bytes = Zeroizing::new(keys::read(path)?);
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| Failure::usage(format!("{} is not text", path.display())))?;
        // One line: editors add its end.
        let line = text.lines().next().unwrap_or_default();
        Ok(Some(Zeroizing::new(line.to_owned())))
    }

    async fn typed(&self, question: &str) -> Result<Zeroizing<String>> {
        if !self.out.may_ask() {
            return Err(Failure::usage(
                "refusing to prompt for a passphrase: nobody is there to ask",
            )
            .hint("add --passphrase-file FILE, or set FOTA_KEY_PASSPHRASE"));
        }
        output::to_stderr(question);
        let read = tokio::task::spawn_blocking(|| console::Term::stderr().read_secure_line());
        let line = read
            .await
            .map_err(|error| Failure::error(error.to_string()))?;
        line.map(Zeroizing::new)
            .map_err(|error| Failure::error(format!("standard input: {error}")))
    }
}
