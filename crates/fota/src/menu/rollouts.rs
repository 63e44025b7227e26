//! The menu's page of rollouts: waves and plans, which the seed did not have.

use super::{Menu, Stop, act, targets, to_stdout};
use crate::{
    args::{DeviceCommand, RolloutCommand, RolloutPlanArgs, rollouts::RolloutReason},
    cmd::{device, rollout},
    text::quoted,
};

const OPTIONS: [&str; 6] = [
    "1. Show a rollout: its wave, its health, what it waits for",
    "2. Start a rollout in waves",
    "3. Go on to the next wave",
    "4. Approve a rollout that somebody else started",
    "5. Why does a device get nothing now?",
    "0. Back",
];
const PROMPT: &str = "Select option (0-5): ";

impl Menu {
    pub(super) async fn rollouts(&mut self) -> std::result::Result<(), Stop> {
        let list = rollout::run(&self.context, RolloutCommand::List);
        let done = act(&self.context, &mut self.interrupts, list).await;
        self.after(done, "rollout list");
        to_stdout(&format!("\n{}\n\n", OPTIONS.join("\n")));
        match self.line(PROMPT).await?.trim() {
            "1" => self.show_rollout().await,
            "2" => self.plan_rollout().await,
            "3" => {
                let args = self.which("Rollout that goes on").await?;
                let command = format!("rollout promote r-{}", args.rollout.0);
                self.do_rollout(RolloutCommand::Promote(args), &command)
                    .await
            }
            "4" => {
                let args = self.which("Rollout to approve").await?;
                let command = format!("rollout approve r-{}", args.rollout.0);
                self.do_rollout(RolloutCommand::Approve(args), &command)
                    .await
            }
            "5" => self.why().await,
            "0" => Ok(()),
            _ => {
                to_stdout("Invalid option: enter a number from 0 to 5.\n");
                Ok(())
            }
        }
    }

    async fn do_rollout(
        &mut self,
        command: RolloutCommand,
        typed: &str,
    ) -> std::result::Result<(), Stop> {
        let run = rollout::run(&self.context, command);
        let done = act(&self.context, &mut self.interrupts, run).await;
        self.after(done, typed);
        Ok(())
    }

    async fn show_rollout(&mut self) -> std::result::Result<(), Stop> {
        let rollout = self.which("Rollout").await?.rollout;
        let command = format!("rollout show r-{}", rollout.0);
        self.do_rollout(RolloutCommand::Show { rollout }, &command)
            .await
    }

    async fn why(&mut self) -> std::result::Result<(), Stop> {
        let only = self.only_device().await?;
        let device = self.ask("Device ID", only.as_deref()).await?;
        let command = format!("device why {}", quoted(&device));
        let run = device::run(&self.context, DeviceCommand::Why { device });
        let done = act(&self.context, &mut self.interrupts, run).await;
        self.after(done, &command);
        Ok(())
    }

    /// Asks for a rollout; Enter takes the newest.
    async fn which(&mut self, question: &str) -> std::result::Result<RolloutReason, Stop> {
        let newest = rollout::newest(&self.context).await?;
        let answer = self.ask(question, Some(&format!("r-{newest}"))).await?;
        let rollout = answer.parse().map_err(crate::failure::Failure::usage)?;
        let reason = String::new();
        Ok(RolloutReason { rollout, reason })
    }

    /// Writes a plan into a file that can be kept, says it as a sentence, and starts it.
    async fn plan_rollout(&mut self) -> std::result::Result<(), Stop> {
        let question = "Plan file (or press Enter to answer questions): ";
        let mut file = self.ask_or_empty(question).await?;
        if file.is_empty() {
            let plan = self.asked_plan().await?;
            file = self.ask("Save the plan as", Some("plan.toml")).await?;
            let unwritten = |error| crate::failure::Failure::error(format!("{file}: {error}"));
            std::fs::write(&file, plan).map_err(unwritten)?;
        }
        let args = |dry_run| RolloutPlanArgs {
            file: Some(file.clone().into()),
            dry_run,
            example: false,
        };
        let command = format!("rollout plan -f {}", quoted(&file));
        let try_it = rollout::run(&self.context, RolloutCommand::Plan(args(true)));
        let tried = act(&self.context, &mut self.interrupts, try_it).await;
        if tried.is_err() {
            self.after(tried, &format!("{command} --dry-run"));
            return Ok(());
        }
        if self.line("Start it so? (yes/no): ").await?.trim() != "yes" {
            to_stdout("Nothing was started.\n");
            return Ok(());
        }
        let command = format!("{command} --yes");
        self.do_rollout(RolloutCommand::Plan(args(false)), &command)
            .await
    }

    /// The plan that a few questions describe; more is in `fota rollout plan --example`.
    async fn asked_plan(&mut self) -> std::result::Result<String, Stop> {
        let newest = self.newest_release().await?;
        let release = self.ask("Release", newest.as_deref()).await?;
        let to = self
            .ask("Targets (all, group:NAME, device ids)", Some("all"))
            .await?;
        let waves = self
            .ask("Waves in percent of the devices", Some("5 25 100"))
            .await?;
        let soak = self.ask("A device is healthy after", Some("30m")).await?;
        let failures = self.ask("Stop when so many failed", Some("1")).await?;
        let back = self
            .ask("Then send the updated ones back? (yes/no)", Some("yes"))
            .await?;
        let text = |word: &str| toml::Value::from(word).to_string();
        let to: Vec<String> = targets(&to).iter().map(|word| text(word)).collect();
        let mut plan = format!(
            "release = {}\nto = [{}]\nfailures_max = {failures}\nrollback_on_failure = {}\n",
            text(&release),
            to.join(", "),
            back.trim() == "yes",
        );
        for percent in targets(&waves) {
            let percent = percent.trim_end_matches('%');
            plan.push_str(&format!("\n[[waves]]\npercent = {percent}\n"));
        }
        plan.push_str(&format!("\n[gates]\nsoak = {}\n", text(&soak)));
        Ok(plan)
    }
}
