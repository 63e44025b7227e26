//! Why a command did not do what was asked, and the exit code that says so to scripts.

use fota_client::{Error, Problem};

/// Exit codes, as the README lists them. Never renumbered: scripts depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Anything that has no code of its own.
    Error = 1,
    /// Wrong arguments, or a question that nobody is there to answer.
    Usage = 2,
    /// The update did not succeed: failed, paused or rolled back.
    NotSuccessful = 3,
    /// No token, a wrong one, or one that may not.
    Login = 4,
    /// Waited long enough; the work goes on.
    TimedOut = 5,
    /// No such thing.
    NotFound = 6,
    /// Refused: an image that would not boot, nothing to go back to, a conflict.
    Refused = 7,
    /// No server there.
    Unreachable = 8,
    /// Ctrl-C; the work goes on.
    Interrupted = 130,
}

/// A command's failure: what goes to stderr, and the exit code.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub exit: Exit,
    /// Stable code for programs.
    pub code: String,
    /// What is wrong; empty where everything has been said already.
    pub message: String,
    /// The next step.
    pub hint: Option<String>,
}

/// What every command gives.
pub type Result<T = ()> = std::result::Result<T, Failure>;

/// Ctrl-C, with nothing that goes on.
pub fn interrupted() -> Failure {
    Failure::new(Exit::Interrupted, "interrupted", "interrupted")
}

impl Failure {
    pub fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: code.to_owned(),
            message: message.into(),
            hint: None,
        }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    pub fn error(message: impl Into<String>) -> Self {
        Self::new(Exit::Error, "error", message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, "not_found", message)
    }

    pub fn refused(code: &str, message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, code, message)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Unreachable { .. } => Self::new(Exit::Unreachable, "unreachable", message)
                .hint("start a server with `fota serve`, or name one with --server URL"),
            Error::Protocol { .. } => Self::new(Exit::Error, "protocol", message)
                .hint("check --server: is this the address of a fota server of this version?"),
            Error::Problem(problem) => from_problem(&problem),
        }
    }
}

fn from_problem(problem: &Problem) -> Failure {
    let failure = Failure::new(exit_of(problem), &problem.code, problem.detail.as_str());
    match (problem.status, problem.code.as_str()) {
        (401, "login_wrong") | (403, "password_wrong" | "role_needed") => failure,
        (401, _) => failure.hint(
            "run `fota login`, or set FOTA_TOKEN; the first token is in the server's data \
             folder, file operator-token",
        ),
        (403, _) => failure.hint("you may not do that; ask whoever runs the server"),
        _ => failure,
    }
}

fn exit_of(problem: &Problem) -> Exit {
    match (problem.status, problem.code.as_str()) {
        (401 | 403, _) | (429, "login_too_early" | "login_busy") => Exit::Login,
        (404, _) => Exit::NotFound,
        (409 | 412 | 413 | 422 | 423, _) => Exit::Refused,
        (_, "image_invalid" | "version_mismatch" | "wrong_chip" | "no_rollback_target") => {
            Exit::Refused
        }
        (400, _) => Exit::Usage,
        _ => Exit::Error,
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Failure>() {
            Ok(failure) => failure,
            Err(error) => match error.downcast::<Error>() {
                Ok(error) => error.into(),
                Err(error) => Self::error(format!("{error:#}")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: u16, code: &str) -> Failure {
        Error::Problem(Box::new(Problem {
            kind: format!("about:blank#{code}"),
            title: String::new(),
            status,
            detail: "what is wrong".into(),
            code: code.into(),
            field: None,
        }))
        .into()
    }

    #[test]
    fn every_kind_of_refusal_has_its_exit_code() {
        let cases = [
            (401, "unauthorized", Exit::Login),
            (403, "forbidden", Exit::Login),
            (404, "not_found", Exit::NotFound),
            (409, "conflict", Exit::Refused),
            (400, "image_invalid", Exit::Refused),
            (400, "field_invalid", Exit::Usage),
            (500, "internal", Exit::Error),
        ];
        for (status, code, exit) in cases {
            assert_eq!(problem(status, code).exit, exit, "{status} {code}");
        }
        assert!(problem(401, "unauthorized").hint.is_some());
        assert_eq!(problem(404, "not_found").message, "what is wrong");
    }

    #[test]
    fn a_failure_keeps_its_exit_code_through_anyhow() {
        let failure = Failure::refused("x", "no");
        let back: Failure = anyhow::Error::new(failure).into();
        assert_eq!(back.exit, Exit::Refused);
        assert_eq!(Failure::from(anyhow::anyhow!("x")).exit, Exit::Error);
    }
}
