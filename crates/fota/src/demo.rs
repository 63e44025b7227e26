//! `fota demo`: server, dashboard and a simulated fleet that live through an update, told as a
//! story. Everything it says was seen through the manager API.

mod fleet;
mod story;
mod watch;
mod world;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use tokio::signal;

use crate::output::to_stdout;
use story::Story;
use world::World;

/// Fewer devices cannot play all parts of the story.
const DEVICES_MIN: u32 = 8;
/// More devices add nothing to the story and do not fit its time.
const DEVICES_MAX: u32 = 60;
/// Longest wait for any one thing. A dozen patches applied by a build without optimisation, on a
/// machine with much else to do, take most of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much faster the devices live with `--fast`.
const FAST: f64 = 6.0;

/// Arguments of `fota demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tell the story in under 15 seconds
    #[arg(long)]
    pub fast: bool,
    /// End after the story; exit 0 only if every step was observed
    #[arg(long)]
    pub exit: bool,
    /// Where the server listens, on this machine only; port 0 takes any free one
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Simulated devices
    #[arg(long, value_name = "N", default_value_t = 12,
        value_parser = clap::value_parser!(u32).range(i64::from(DEVICES_MIN)..=i64::from(DEVICES_MAX)))]
    pub devices: u32,
}

/// How fast things happen and how long they are waited for.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// How much faster than real the devices live.
    speed: f64,
    /// Longest wait for any one thing.
    patience: Duration,
}

/// Runs the story, then serves until Ctrl-C or, with `--exit`, ends.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let pace = Pace {
        speed: if args.fast { FAST } else { 1.0 },
        patience: PATIENCE,
    };
    let mut world = World::start(args.listen, args.devices, pace).await?;
    let end = tokio::select! {
        end = tell(&mut world, &args, pace) => end,
        interrupted = interruption() => interrupted.and_then(|()| match args.exit {
            true => bail!("interrupted before the story was over"),
            false => Ok(()),
        }),
    };
    world.end().await;
    end
}

async fn tell(world: &mut World, args: &Args, pace: Pace) -> anyhow::Result<()> {
    Story::new(world, pace).tell().await?;
    if args.exit {
        return Ok(());
    }
    to_stdout(&world.invitation());
    std::future::pending().await
}

/// Ctrl-C, or what a service manager sends.
async fn interruption() -> anyhow::Result<()> {
    let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate())
        .context("cannot wait for SIGTERM")?;
    tokio::select! {
        ctrl_c = signal::ctrl_c() => ctrl_c.context("cannot wait for Ctrl-C"),
        _ = terminate.recv() => Ok(()),
    }
}
