//! Where words go: answers to stdout, everything else to stderr, questions only to a terminal.
//!
//! | stream | terminal | no terminal |
//! |---|---|---|
//! | stdin | questions are asked | never asked: exit 2 names the flag |
//! | stdout | colour | no colour, nothing cut |
//! | stderr | bars | a line at each change and every 10 s |
//!
//! `--no-input` and `CI` are as if stdin were no terminal. `NO_COLOR`, `CLICOLOR_FORCE` and
//! `TERM=dumb` are obeyed, `--color` is stronger than all three.

use std::io::{IsTerminal, Write};

use console::Style;
use serde::Serialize;
use serde_json::Value;

use crate::{
    args::{Global, Progress, When},
    failure::{Exit, Failure, Result},
};

/// How progress is shown, once the terminal is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    Bars,
    Lines,
    Nothing,
}

/// What is known of the terminal and what the user asked for.
#[derive(Clone, Debug)]
pub struct Output {
    pub json: bool,
    quiet: bool,
    may_ask: bool,
    pub progress: Show,
    colour_out: bool,
    colour_err: bool,
}

/// What a mark in front of a line says; never by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Good,
    Bad,
    Attention,
}

impl Mark {
    fn sign(self) -> &'static str {
        match self {
            Self::Good => "✔",
            Self::Bad => "✖",
            Self::Attention => "‼",
        }
    }

    fn style(self) -> Style {
        // Whether to colour at all is decided here and not by the console crate.
        let style = Style::new().force_styling(true);
        match self {
            Self::Good => style.green(),
            Self::Bad => style.red().bold(),
            Self::Attention => style.yellow().bold(),
        }
    }
}

impl Output {
    pub fn new(global: &Global) -> Self {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let dumb = env("TERM").is_some_and(|term| term == "dumb");
        let ci = env("CI").is_some_and(|ci| ci != "false" && ci != "0");
        let colour = |terminal: bool| match global.color {
            When::Always => true,
            When::Never => false,
            When::Auto if env("NO_COLOR").is_some() => false,
            When::Auto if env("CLICOLOR_FORCE").is_some_and(|force| force != "0") => true,
            When::Auto => terminal && !dumb,
        };
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let may_ask = std::io::stdin().is_terminal() && !global.no_input && !ci;
        let progress = match (global.progress, global.json || global.quiet) {
            (Progress::None, _) | (_, true) => Show::Nothing,
            (Progress::Bar, _) => Show::Bars,
            (Progress::Log, _) => Show::Lines,
            (Progress::Auto, _) if stderr.is_terminal() && !dumb => Show::Bars,
            (Progress::Auto, _) => Show::Lines,
        };
        Self {
            json: global.json,
            quiet: global.quiet,
            may_ask,
            progress,
            colour_out: colour(stdout.is_terminal()),
            colour_err: colour(stderr.is_terminal()),
        }
    }

    /// Prints an answer, for people. Says nothing under `--json`.
    pub fn answer(&self, text: &str) {
        if !self.json {
            to_stdout(text);
        }
    }

    /// Prints an answer with a mark in front.
    pub fn verdict(&self, mark: Mark, text: &str) {
        self.answer(&format!("{} {text}\n", self.sign(mark, self.colour_out)));
    }

    /// Prints an answer for programs: one line, one document. Says nothing without `--json`.
    pub fn document(&self, schema: &str, value: &impl Serialize) {
        if !self.json {
            return;
        }
        to_stdout(&format!("{}\n", document(schema, value)));
    }

    /// Prints a message.
    pub fn say(&self, text: &str) {
        if !self.quiet && !self.json {
            to_stderr(&format!("{text}\n"));
        }
    }

    /// Prints a message with a mark in front.
    pub fn note(&self, mark: Mark, text: &str) {
        self.say(&self.marked(mark, text));
    }

    /// A line with a mark in front, for stderr.
    pub fn marked(&self, mark: Mark, text: &str) -> String {
        format!("{} {text}", self.sign(mark, self.colour_err))
    }

    /// Prints what a person should know even under `--quiet` and `--json`.
    pub fn warn(&self, text: &str) {
        let word = match self.colour_err {
            true => Mark::Attention.style().apply_to("warning:").to_string(),
            false => "warning:".to_owned(),
        };
        to_stderr(&format!("{word} {text}\n"));
    }

    /// Prints a failure the way that was asked for.
    pub fn failure(&self, failure: &Failure) {
        if self.json {
            to_stderr(&format!("{}\n", failure_document(failure)));
            return;
        }
        if failure.message.is_empty() {
            return;
        }
        let word = match (failure.exit, self.colour_err) {
            (Exit::Interrupted, colour) => self.sign(Mark::Attention, colour),
            (_, true) => Mark::Bad.style().apply_to("error:").to_string(),
            (_, false) => "error:".to_owned(),
        };
        to_stderr(&format!("{word} {}\n", failure.message));
        if let Some(hint) = &failure.hint {
            to_stderr(&format!("hint: {hint}\n"));
        }
    }

    fn sign(&self, mark: Mark, colour: bool) -> String {
        match colour {
            true => mark.style().apply_to(mark.sign()).to_string(),
            false => mark.sign().to_owned(),
        }
    }

    /// Whether there is somebody to ask.
    pub fn may_ask(&self) -> bool {
        self.may_ask && !self.json
    }

    /// Asks for a password or token, which is not shown while it is typed.
    ///
    /// # Errors
    /// Like [`Output::ask`].
    pub async fn ask_secret(&self, question: &str, instead: &str) -> Result<String> {
        self.must_ask(instead)?;
        to_stderr(question);
        let read = tokio::task::spawn_blocking(|| console::Term::stderr().read_secure_line());
        let line = read
            .await
            .map_err(|error| Failure::error(error.to_string()))?;
        line.map_err(|error| Failure::error(format!("standard input: {error}")))
    }

    /// Refuses where nobody is there to ask.
    fn must_ask(&self, instead: &str) -> Result {
        if self.may_ask() {
            return Ok(());
        }
        let refusal = match self.json {
            true => "refusing to prompt: --json was given",
            false if std::io::stdin().is_terminal() => "refusing to prompt: input is disabled",
            false => "refusing to prompt: standard input is not a terminal",
        };
        Err(Failure::usage(refusal).hint(format!("add {instead}")))
    }

    /// Asks a question and gives the answer without the line end; none at the end of input.
    ///
    /// # Errors
    /// Exit 2 with `instead`, the flags that answer the question, where nobody is there.
    pub async fn ask(&self, question: &str, instead: &str) -> Result<Option<String>> {
        self.must_ask(instead)?;
        to_stderr(question);
        let line = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map(|_| line)
        });
        let line = line
            .await
            .map_err(|error| Failure::error(error.to_string()))?;
        let line = line.map_err(|error| Failure::error(format!("standard input: {error}")))?;
        if line.is_empty() {
            to_stderr("\n");
            return Ok(None);
        }
        Ok(Some(line.trim().to_owned()))
    }
}

/// A value with the name of its schema in front, as one line. The fields keep their order, which
/// a detour over `Value` would lose; a list becomes `items`.
pub fn document(schema: &str, value: &impl Serialize) -> String {
    let schema = Value::from(schema);
    // Our own types always serialize; an empty document is better than none.
    let text = serde_json::to_string(value).unwrap_or_default();
    match text.split_at_checked(1) {
        Some(("{", "}")) => format!("{{\"schema\":{schema}}}"),
        Some(("{", fields)) => format!("{{\"schema\":{schema},{fields}"),
        Some(("[", _)) => format!("{{\"schema\":{schema},\"items\":{text}}}"),
        _ => format!("{{\"schema\":{schema},\"value\":{text}}}"),
    }
}

/// `{"error":{…}}`, the whole of what a failed command prints under `--json`.
pub fn failure_document(failure: &Failure) -> Value {
    serde_json::json!({"error": {
        "code": failure.code,
        "message": failure.message,
        "hint": failure.hint,
        "exit": failure.exit as u8,
    }})
}

/// Writes to stdout. A reader that has gone away (`| head`) ends the program quietly.
pub fn to_stdout(text: &str) {
    let mut out = std::io::stdout().lock();
    if out
        .write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(0);
    }
}

/// Writes to stderr; there is nowhere to report that it does not work.
pub fn to_stderr(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_carry_their_schema_first() {
        let cases = [
            (
                serde_json::json!({"a": 1}),
                r#"{"schema":"fota.x/1","a":1}"#,
            ),
            (serde_json::json!({}), r#"{"schema":"fota.x/1"}"#),
            (
                serde_json::json!([1, 2]),
                r#"{"schema":"fota.x/1","items":[1,2]}"#,
            ),
            (
                serde_json::json!(null),
                r#"{"schema":"fota.x/1","value":null}"#,
            ),
        ];
        for (value, expected) in cases {
            assert_eq!(document("fota.x/1", &value), expected);
        }
    }

    #[test]
    fn a_failure_names_its_exit_code() {
        let failure = Failure::usage("x").hint("y");
        assert_eq!(failure_document(&failure)["error"]["exit"], 2);
    }
}
