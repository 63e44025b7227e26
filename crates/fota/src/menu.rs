//! `fota menu`: the seed's interactive manager. Same options, same numbers; each one does what it
//! says, with the code of the command that it prints afterwards. Below them `r` leads to what the
//! seed did not have, rollouts in waves ([`rollouts`]).
//!
//! Ctrl-C in a step returns to the menu; at the menu it ends the program, as the end of input and
//! `0` do. All of them leave with exit code 0.

mod rollouts;

use std::{
    collections::VecDeque,
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    args::{
        MenuArgs, RollbackArgs, RolloutCommand, RolloutOptions, UpdateArgs, UploadArgs, VerifyArgs,
    },
    cmd::{rollback, rollout, update, upload, verify},
    config::Origin,
    context::Context,
    failure::{Exit, Failure, Result},
    firmware::{self, Firmware},
    interrupt::Interrupts,
    output::to_stdout,
    text::{self, quoted},
};

/// The seed's options, byte for byte.
const OPTIONS: [&str; 7] = [
    "1. Upload firmware (quick)",
    "2. Perform complete update with verification",
    "3. Trigger update (manual)",
    "4. Monitor update status",
    "5. Rollback firmware",
    "6. Verify current firmware version",
    "0. Exit",
];
/// What the seed did not have, below its options.
const MORE: &str = "r. Rollouts: waves, plans, why";
const PROMPT: &str = "Select option (0-6): ";
/// How long option 4 watches where no time is given; the seed's.
const MONITOR_S: &str = "300";
/// How long a complete update may take.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a rollback or a check may take; the seed waited 60 s for a check.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(300);
const VERIFY_TIMEOUT: Duration = Duration::from_secs(60);
/// Wrong answers to one question before the menu comes back.
const TRIES_MAX: u32 = 5;

/// Why a step ended without being done.
enum Stop {
    /// The end of input.
    End,
    /// Ctrl-C at a question.
    Interrupted,
    /// It did not work.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

pub async fn run(context: Context, args: MenuArgs) -> Result {
    let answers = match &args.script {
        Some(path) => Answers::script(path)?,
        None if context.out.may_ask() => Answers::keyboard(),
        None => {
            return Err(Failure::usage("the menu needs a terminal to ask questions on").hint(
                "use the commands: fota upload, update, rollout start, rollout watch, rollback, \
                 verify; or `fota menu --script FILE`",
            ));
        }
    };
    let mut menu = Menu {
        context: context.for_menu(),
        answers,
        interrupts: Interrupts::listen()?,
    };
    menu.run().await;
    Ok(())
}

struct Menu {
    context: Context,
    answers: Answers,
    interrupts: Interrupts,
}

impl Menu {
    async fn run(&mut self) {
        loop {
            self.show();
            let Ok(option) = self.line(PROMPT).await else {
                break;
            };
            match self.option(option.trim()).await {
                Ok(true) => {}
                Ok(false) | Err(Stop::End) => break,
                Err(Stop::Interrupted) => to_stdout("\nback to the menu\n"),
                Err(Stop::Failed(failure)) => self.context.out.failure(&failure),
            }
        }
        to_stdout("Goodbye.\n");
    }

    fn show(&self) {
        let rule = "=".repeat(60);
        let server = &self.context.config.server.value;
        to_stdout(&format!(
            "\n{rule}\nFOTA UPDATE MANAGER  {server}\n{rule}\n"
        ));
        to_stdout(&format!("{}\n\n{MORE}\n\n", OPTIONS.join("\n")));
    }

    /// Runs an option; false ends the menu.
    async fn option(&mut self, option: &str) -> std::result::Result<bool, Stop> {
        match option {
            "1" => self.upload().await?,
            "2" => self.update().await?,
            "3" => self.trigger().await?,
            "4" => self.monitor().await?,
            "5" => self.roll_back().await?,
            "6" => self.verify().await?,
            "r" | "R" => self.rollouts().await?,
            "0" => return Ok(false),
            _ => to_stdout("Invalid option: enter a number from 0 to 6, or r.\n"),
        }
        Ok(true)
    }

    async fn upload(&mut self) -> std::result::Result<(), Stop> {
        let args = self.firmware().await?;
        let command = upload_command(&args);
        let done = act(
            &self.context,
            &mut self.interrupts,
            upload::run(&self.context, &args),
        )
        .await;
        self.after(done, &command);
        Ok(())
    }

    async fn update(&mut self) -> std::result::Result<(), Stop> {
        let image = self.firmware().await?;
        let to = self
            .ask("Targets (all, group:NAME, device ids)", Some("all"))
            .await?;
        to_stdout("Verify: yes\nAuto-rollback: yes\n");
        if self.line("Proceed with update? (yes/no): ").await?.trim() != "yes" {
            to_stdout("Update cancelled.\n");
            return Ok(());
        }
        let args = UpdateArgs {
            what: image.file.as_ref().map(|file| file.display().to_string()),
            to: targets(&to),
            options: RolloutOptions {
                rollback_on_failure: true,
                ..RolloutOptions::default()
            },
            version: image.version,
            allow_version_mismatch: false,
            notes: image.notes,
            timeout: UPDATE_TIMEOUT,
        };
        let rule = "#".repeat(60);
        let version = args.version.as_deref().unwrap_or("unknown");
        to_stdout(&format!(
            "\n{rule}\n# FOTA UPDATE PROCESS - VERSION {version}\n{rule}\n"
        ));
        let command = update_command(&args);
        let done = act(
            &self.context,
            &mut self.interrupts,
            update::run(&self.context, &args),
        )
        .await;
        match &done {
            Ok(()) => to_stdout("\nUPDATE SUCCESSFUL\n"),
            Err(failure) if failure.exit == Exit::NotSuccessful => {
                to_stdout("\nUPDATE VERIFICATION FAILED\n");
            }
            Err(_) => {}
        }
        self.after(done, &command);
        Ok(())
    }

    async fn trigger(&mut self) -> std::result::Result<(), Stop> {
        let newest = self.newest_release().await?;
        let release = self.ask("Release", newest.as_deref()).await?;
        let device = self
            .ask_or_empty("Device ID (or press Enter for all): ")
            .await?;
        let to = targets(if device.is_empty() { "all" } else { &device });
        let command = format!(
            "rollout start {} --to {} --yes",
            quoted(&release),
            words(&to)
        );
        let options = RolloutOptions::default();
        let start = rollout::run(
            &self.context,
            RolloutCommand::Start {
                release,
                to,
                options,
            },
        );
        let done = act(&self.context, &mut self.interrupts, start).await;
        self.after(done, &command);
        Ok(())
    }

    async fn monitor(&mut self) -> std::result::Result<(), Stop> {
        let timeout = self.seconds("Timeout in seconds", MONITOR_S).await?;
        let seconds = timeout.as_secs();
        let watch = async {
            let id = rollout::newest(&self.context).await?;
            rollout::watch(&self.context, id, timeout).await
        };
        let done = act(&self.context, &mut self.interrupts, watch).await;
        self.after(done, &format!("rollout watch --timeout {seconds}s"));
        Ok(())
    }

    async fn roll_back(&mut self) -> std::result::Result<(), Stop> {
        let device = self
            .ask_or_empty("Device ID (or press Enter for all updated): ")
            .await?;
        let reason = self.ask("Reason", Some(rollback::REASON_DEFAULT)).await?;
        let (to, release) = match device.is_empty() {
            true => (
                vec!["all".to_owned()],
                Some(self.newest_rolled_out().await?),
            ),
            false => (targets(&device), None),
        };
        if let Some(release) = &release {
            let question = format!("Roll back every device that runs {release}? (yes/no): ");
            if self.line(&question).await?.trim() != "yes" {
                to_stdout("Rollback cancelled.\n");
                return Ok(());
            }
        }
        let args = RollbackArgs {
            to,
            reason: Some(reason),
            release,
            no_wait: false,
            timeout: ROLLBACK_TIMEOUT,
            confirm: None,
        };
        let command = rollback_command(&args);
        let done = act(
            &self.context,
            &mut self.interrupts,
            rollback::run(&self.context, &args),
        )
        .await;
        self.after(done, &command);
        Ok(())
    }

    async fn verify(&mut self) -> std::result::Result<(), Stop> {
        let only = self.only_device().await?;
        let device = self.ask("Device ID", only.as_deref()).await?;
        let newest = self.newest_release().await?;
        let expect = self.ask("Expected version", newest.as_deref()).await?;
        let command = format!("verify {} --expect {}", quoted(&device), quoted(&expect));
        let args = VerifyArgs {
            device,
            expect,
            timeout: VERIFY_TIMEOUT,
            accept_claim: false,
        };
        let done = act(
            &self.context,
            &mut self.interrupts,
            verify::run(&self.context, &args),
        )
        .await;
        self.after(done, &command);
        Ok(())
    }

    /// The questions about a firmware file; the file is checked before the others are asked.
    async fn firmware(&mut self) -> std::result::Result<UploadArgs, Stop> {
        let found = firmware::find(&self.context.config, None).ok();
        let found = found.map(|path| path.display().to_string());
        let file = PathBuf::from(self.ask("Firmware file", found.as_deref()).await?);
        let inside = Firmware::load(&file)?.version();
        let version = self.ask("Firmware version", inside.as_deref()).await?;
        let notes = self.ask_or_empty("Description (optional): ").await?;
        Ok(UploadArgs {
            file: Some(file),
            version: Some(version),
            allow_version_mismatch: false,
            notes: Some(notes).filter(|notes| !notes.is_empty()),
        })
    }

    async fn newest_release(&self) -> Result<Option<String>> {
        let releases = self.context.client()?.releases().await?;
        let newest = releases
            .iter()
            .filter(|it| !it.yanked)
            .max_by_key(|it| it.id);
        Ok(newest.map(|release| text::plain(&release.version)))
    }

    /// The release of the newest rollout: "all updated" are the devices that run it.
    async fn newest_rolled_out(&self) -> Result<String> {
        let id = rollout::newest(&self.context).await?;
        let detail = self.context.client()?.rollout(id).await?;
        Ok(detail.rollout.version)
    }

    async fn only_device(&self) -> Result<Option<String>> {
        let devices = self.context.client()?.devices(&Default::default()).await?;
        match devices.as_slice() {
            [one] => Ok(Some(one.id.clone())),
            _ => Ok(None),
        }
    }

    /// Says what went wrong, and the command that does the same.
    fn after(&self, done: Result, command: &str) {
        if let Err(failure) = done {
            self.context.out.failure(&failure);
        }
        self.context.set_reattach(None);
        let server = &self.context.config.server;
        // What the environment or a file says holds for the command too; a flag does not.
        let server = match server.origin {
            Origin::Flag(_) => format!("--server {} ", quoted(&server.value)),
            _ => String::new(),
        };
        to_stdout(&format!("\nEquivalent command: fota {server}{command}\n"));
    }

    async fn seconds(
        &mut self,
        question: &str,
        default: &str,
    ) -> std::result::Result<Duration, Stop> {
        for _ in 0..TRIES_MAX {
            let answer = self.ask(question, Some(default)).await?;
            match text::parse_duration(&answer) {
                Ok(duration) if !duration.is_zero() => return Ok(duration),
                _ => to_stdout("Enter a number of seconds, for example 300.\n"),
            }
        }
        Err(Stop::Failed(Failure::usage(
            "no number of seconds was entered",
        )))
    }

    /// Asks until there is an answer; Enter takes the default.
    async fn ask(
        &mut self,
        question: &str,
        default: Option<&str>,
    ) -> std::result::Result<String, Stop> {
        let prompt = match default {
            Some(default) => format!("{question} [{default}]: "),
            None => format!("{question}: "),
        };
        for _ in 0..TRIES_MAX {
            let answer = self.ask_or_empty(&prompt).await?;
            match (answer.is_empty(), default) {
                (false, _) => return Ok(answer),
                (true, Some(default)) => return Ok(default.to_owned()),
                (true, None) => to_stdout("An answer is needed here.\n"),
            }
        }
        Err(Stop::Failed(Failure::usage(format!(
            "{question}: nothing was entered"
        ))))
    }

    async fn ask_or_empty(&mut self, prompt: &str) -> std::result::Result<String, Stop> {
        Ok(self.line(prompt).await?.trim().to_owned())
    }

    async fn line(&mut self, prompt: &str) -> std::result::Result<String, Stop> {
        to_stdout(prompt);
        tokio::select! {
            line = self.answers.next() => line.ok_or_else(|| {
                to_stdout("\n");
                Stop::End
            }),
            () = self.interrupts.next() => {
                to_stdout("\n");
                Err(Stop::Interrupted)
            }
        }
    }
}

/// Runs a step until it ends or Ctrl-C is pressed.
async fn act(
    context: &Context,
    interrupts: &mut Interrupts,
    step: impl Future<Output = Result>,
) -> Result {
    tokio::select! {
        done = step => done,
        () = interrupts.next() => Err(context.interrupted()),
    }
}

fn targets(text: &str) -> Vec<String> {
    let words = text
        .split([',', ' '])
        .map(str::trim)
        .filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

fn words(all: &[String]) -> String {
    let quoted: Vec<String> = all.iter().map(|word| quoted(word)).collect();
    quoted.join(" ")
}

fn file_words(file: Option<&Path>) -> String {
    file.map(|file| format!(" {}", quoted(&file.display().to_string())))
        .unwrap_or_default()
}

fn option(name: &str, value: Option<&str>) -> String {
    value
        .map(|value| format!(" --{name} {}", quoted(value)))
        .unwrap_or_default()
}

fn upload_command(args: &UploadArgs) -> String {
    let file = file_words(args.file.as_deref());
    let version = option("version", args.version.as_deref());
    format!(
        "upload{file}{version}{}",
        option("notes", args.notes.as_deref())
    )
}

fn update_command(args: &UpdateArgs) -> String {
    let file = file_words(args.what.as_deref().map(Path::new));
    let version = option("version", args.version.as_deref());
    let notes = option("notes", args.notes.as_deref());
    let to = words(&args.to);
    format!("update{file}{version}{notes} --rollback-on-failure --yes --to {to}")
}

fn rollback_command(args: &RollbackArgs) -> String {
    let consent = match args.to.iter().any(|target| target == "all") {
        true => "--confirm all",
        false => "--yes",
    };
    let release = option("release", args.release.as_deref());
    let reason = option("reason", args.reason.as_deref());
    format!("rollback {}{release}{reason} {consent}", words(&args.to))
}

/// Where the answers come from.
enum Answers {
    Keyboard(mpsc::Receiver<String>),
    Script(VecDeque<String>),
}

impl Answers {
    /// Lines of stdin. They are read on a thread, because a read cannot be given up: Ctrl-C at a
    /// question leaves the line that is being typed for the next one.
    fn keyboard() -> Self {
        let (sender, receiver) = mpsc::channel(1);
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(|line| line.ok()) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self::Keyboard(receiver)
    }

    fn script(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::error(format!("{}: {error}", path.display())))?;
        Ok(Self::Script(text.lines().map(str::to_owned).collect()))
    }

    async fn next(&mut self) -> Option<String> {
        match self {
            Self::Keyboard(lines) => lines.recv().await,
            Self::Script(lines) => {
                let line = lines.pop_front()?;
                // A transcript of a script reads as if it had been typed.
                to_stdout(&format!("{line}\n"));
                Some(line)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser;

    #[test]
    fn the_menu_fits_eighty_columns() {
        for line in OPTIONS.iter().chain([&PROMPT]) {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn every_command_that_the_menu_prints_can_be_run() {
        let upload = UploadArgs {
            file: Some("my app.bin".into()),
            version: Some("1.0.6".into()),
            allow_version_mismatch: false,
            notes: Some("it's new".into()),
        };
        let rollback = RollbackArgs {
            to: vec!["all".into()],
            reason: Some("Manual rollback".into()),
            release: Some("1.0.6".into()),
            no_wait: false,
            timeout: ROLLBACK_TIMEOUT,
            confirm: None,
        };
        for command in [upload_command(&upload), rollback_command(&rollback)] {
            let words = shell_words(&command);
            let parsed = Cli::try_parse_from(std::iter::once("fota".to_owned()).chain(words));
            assert!(parsed.is_ok(), "{command}");
        }
    }

    /// Enough of a shell for what [`quoted`] writes.
    fn shell_words(command: &str) -> Vec<String> {
        let (mut words, mut word, mut inside) = (Vec::new(), String::new(), false);
        let mut chars = command.chars();
        while let Some(c) = chars.next() {
            match c {
                '\'' => inside = !inside,
                '\\' if !inside => word.extend(chars.next()),
                ' ' if !inside => words.push(std::mem::take(&mut word)),
                c => word.push(c),
            }
        }
        words.push(word);
        words
    }
}
