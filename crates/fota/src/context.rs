//! What every command is given: the settings in force, the connection, and a voice.

use std::sync::{Mutex, OnceLock, PoisonError};

use fota_client::Client;
use fota_proto::manager::Release;

use crate::{
    args::Global,
    config::Config,
    credentials,
    failure::{self, Exit, Failure, Result},
    output::Output,
};

/// The steps of a complete update, as the menu names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Read,
    Upload,
    Trigger,
    Monitor,
    Verify,
}

impl Step {
    fn heading(self) -> &'static str {
        match self {
            Self::Read => "STEP 1: Reading firmware...",
            Self::Upload => "STEP 2: Uploading firmware...",
            Self::Trigger => "STEP 3: Triggering update...",
            Self::Monitor => "STEP 4: Monitoring update...",
            Self::Verify => "STEP 5: Verifying update...",
        }
    }
}

/// Whether a command announces its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// A command of its own.
    Plain,
    /// Called from the menu.
    Menu,
}

pub struct Context {
    pub out: Output,
    pub config: Config,
    pub voice: Voice,
    yes: bool,
    client: OnceLock<Client>,
    reattach: Mutex<Option<String>>,
}

impl Context {
    pub fn new(global: &Global, config: Config) -> Self {
        Self {
            out: Output::new(global),
            config,
            voice: Voice::Plain,
            yes: global.yes,
            client: OnceLock::new(),
            reattach: Mutex::new(None),
        }
    }

    /// The same, for commands that the menu runs: it has asked already.
    pub fn for_menu(mut self) -> Self {
        self.voice = Voice::Menu;
        self.yes = true;
        self
    }

    /// The connection to the server, made at the first call.
    pub fn client(&self) -> Result<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let token = credentials::find(&self.config)?.map(|token| token.value);
        let ca = self.config.ca_pem()?;
        let client = Client::trusting(&self.config.server.value, token, ca.as_deref())
            .map_err(|error| Failure::usage(error.to_string()).hint("check --server"))?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Asks unless `--yes`; false is a no.
    pub async fn confirm(&self, question: &str, instead: &str) -> Result<bool> {
        if self.yes {
            return Ok(true);
        }
        let question = format!("  {question} [y/N] ");
        let answer = self.out.ask(&question, instead).await?;
        let answer = answer.unwrap_or_default().to_lowercase();
        Ok(matches!(answer.as_str(), "y" | "yes"))
    }

    /// Announces a step where the voice does so.
    pub fn step(&self, step: Step) {
        if self.voice == Voice::Menu {
            self.out
                .answer(&format!("\n{}\n{}\n", step.heading(), "-".repeat(60)));
        }
    }

    /// What an interrupted user can run to look on; none once it is over.
    pub fn set_reattach(&self, command: Option<String>) {
        *self.reattach.lock().unwrap_or_else(PoisonError::into_inner) = command;
    }

    /// The failure that an interrupt is.
    pub fn interrupted(&self) -> Failure {
        let reattach = self
            .reattach
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match reattach {
            Some(command) => Failure::new(
                Exit::Interrupted,
                "interrupted",
                "interrupted; the work goes on at the server",
            )
            .hint(format!("look on with `{command}`")),
            None => failure::interrupted(),
        }
    }

    /// The release with this version or number.
    pub async fn release(&self, name: &str) -> Result<Release> {
        let releases = self.client()?.releases().await?;
        let usable = |release: &&Release| release.version == name && !release.yanked;
        let found: Vec<&Release> = releases.iter().filter(usable).collect();
        match found.as_slice() {
            [one] => return Ok((*one).clone()),
            [] => {}
            many => return Err(ambiguous(name, many)),
        }
        let id = name.parse::<i64>().ok();
        let by_id = releases.iter().find(|release| Some(release.id) == id);
        let yanked = || releases.iter().find(|release| release.version == name);
        by_id.or_else(yanked).cloned().ok_or_else(|| {
            Failure::not_found(format!("there is no release {name}"))
                .hint("`fota release list` shows them; `fota upload FILE` adds one")
        })
    }
}

fn ambiguous(name: &str, many: &[&Release]) -> Failure {
    let each = |release: &&Release| {
        let chip = release.chip.as_deref().unwrap_or("any chip");
        format!("{} ({} for {chip})", release.id, release.project)
    };
    let numbers: Vec<String> = many.iter().map(each).collect();
    Failure::refused(
        "ambiguous",
        format!("{} releases are called {name}", many.len()),
    )
    .hint(format!("name one by its number: {}", numbers.join(", ")))
}
