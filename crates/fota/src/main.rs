//! The `fota` program: server, manager and simulated fleet in one binary.
//!
//! Thin glue: it reads the command line and the settings, calls the server, the client or the
//! simulator, and turns what they say into words and an exit code. It decides nothing about
//! devices or rollouts; the server does.
//!
//! Main path: [`args::Cli`] → [`run`] → one file per verb in [`cmd`]. Answers go to stdout,
//! everything else to stderr ([`output`]); what went wrong is a [`failure::Failure`].

mod args;
mod bench;
mod clock;
mod cmd;
mod config;
mod context;
mod credentials;
mod demo;
mod failure;
mod firmware;
mod follow;
mod interrupt;
mod keys;
mod menu;
mod output;
mod signing;
mod sim;
mod text;
mod tls;

use std::{future::Future, io::IsTerminal, process::ExitCode};

use clap::{Parser, error::ErrorKind};

use args::{Cli, Command, Global, MenuArgs};
use config::Config;
use context::Context;
use failure::{Failure, Result};
use interrupt::Interrupts;
use output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return wrong_arguments(&error),
    };
    let mut global = cli.global.clone();
    global.json |= config::env("FOTA_JSON").is_some_and(|json| json != "0" && json != "false");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            output::to_stderr(&format!("error: {error}\n"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(&global, cli.command));
    // A question may still wait for a line of stdin on another thread: do not wait for it.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            Output::new(&global).failure(&failure);
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// Help and version go to stdout with 0; anything else is exit 2, as JSON where that was asked for.
fn wrong_arguments(error: &clap::Error) -> ExitCode {
    let asked_for_json = std::env::args().any(|arg| arg == "--json");
    let shown = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    if shown || !asked_for_json {
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    }
    let text = error.render().to_string();
    let message = text.trim().trim_start_matches("error: ");
    let failure = Failure::usage(message);
    output::to_stderr(&format!("{}\n", output::failure_document(&failure)));
    ExitCode::from(failure.exit as u8)
}

/// Runs a command. Without one, a person at a terminal gets the menu.
async fn run(global: &Global, command: Option<Command>) -> Result {
    let Some(command) = command.or_else(|| at_terminal(global)) else {
        return Err(Failure::usage("no command was given").hint("`fota --help` lists them"));
    };
    match command {
        Command::Serve(args) => return cmd::serve::run(global, args).await,
        Command::Demo(args) => return Ok(demo::run(args).await?),
        Command::Sim(sim::Args {
            command: Some(sim::Command::Fleet(args)),
            ..
        }) => {
            let world = async { Ok(sim::world::run(args).await?) };
            return until_interrupted(world, failure::interrupted).await;
        }
        Command::Sim(sim::Args {
            command: Some(sim::Command::Powercut(args)),
            ..
        }) => return Ok(sim::powercut::run(&args, global.json)?),
        Command::Bench(args) => return Ok(bench::run(args, global.json).await?),
        Command::Image(command) => return cmd::image::run(&Output::new(global), command),
        Command::Delta(command) => return cmd::delta::run(&Output::new(global), command),
        Command::Completions { shell } => return cmd::completions::run(shell),
        Command::Restore(args) => return cmd::backup::restore(&Output::new(global), &args).await,
        _ => {}
    }
    let config = Config::read(global)?;
    match command {
        Command::Sim(args) => Ok(sim::run(args, &config.server.value, config.ca_pem()?).await?),
        Command::Menu(args) => menu::run(Context::new(global, config), args).await,
        command => {
            let context = Context::new(global, config);
            let interrupted = || context.interrupted();
            until_interrupted(client_command(&context, command), interrupted).await
        }
    }
}

fn at_terminal(global: &Global) -> Option<Command> {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let may_ask = Output::new(global).may_ask();
    (terminal && may_ask).then(|| Command::Menu(MenuArgs::default()))
}

/// Runs `work`; Ctrl-C ends it with 130, and drops it, so that what it held is cleared away.
async fn until_interrupted(
    work: impl Future<Output = Result>,
    interrupted: impl FnOnce() -> Failure,
) -> Result {
    let mut interrupts = Interrupts::listen()?;
    tokio::select! {
        result = work => result,
        () = interrupts.next() => Err(interrupted()),
    }
}

async fn client_command(context: &Context, command: Command) -> Result {
    match command {
        Command::Upload(args) => cmd::upload::run(context, &args).await,
        Command::Update(args) => cmd::update::run(context, &args).await,
        Command::Status(args) => cmd::device::list(context, &args).await,
        Command::Verify(args) => cmd::verify::run(context, &args).await,
        Command::Rollback(args) => cmd::rollback::run(context, &args).await,
        Command::Release(command) => cmd::release::run(context, command).await,
        Command::Product(command) => cmd::product::run(context, command).await,
        Command::Log(command) => cmd::log::run(context, command).await,
        Command::Key(command) => cmd::key::run(context, command).await,
        Command::Device(command) => cmd::device::run(context, command).await,
        Command::Group(command) => cmd::group::run(context, command).await,
        Command::Rollout(command) => cmd::rollout::run(context, command).await,
        Command::Event(command) => cmd::event::run(context, command).await,
        Command::Serial(args) => cmd::serial::run(context, args).await,
        Command::Doctor => cmd::doctor::run(context).await,
        Command::Config(command) => cmd::config::run(context, &command),
        Command::Login(args) => cmd::login::login(context, &args).await,
        Command::Logout => cmd::login::logout(context).await,
        Command::Whoami => cmd::login::whoami(context).await,
        Command::User(command) => cmd::user::run(context, command).await,
        Command::Token(command) => cmd::token::run(context, command).await,
        Command::Webhook(command) => cmd::webhook::run(context, command).await,
        Command::Audit(command) => cmd::audit::run(context, command).await,
        Command::Backup(args) => cmd::backup::back_up(context, &args).await,
        Command::Serve(_)
        | Command::Demo(_)
        | Command::Bench(_)
        | Command::Image(_)
        | Command::Restore(_)
        | Command::Delta(_)
        | Command::Completions { .. }
        | Command::Sim(_)
        | Command::Menu(_) => unreachable!("run() has taken these"),
    }
}
