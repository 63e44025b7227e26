//! `cargo xtask dev`: a server with its data in `target/dev`, and three simulated devices.

use std::{thread, time::Duration};

use anyhow::{Result, bail};

use crate::process::{Background, cargo, command, run, target};

/// Runs both until one of them ends or Ctrl-C is pressed, which ends all three.
pub fn main() -> Result<()> {
    run(&mut cargo("build --locked"))?;
    let fota = target().join("debug/fota");
    let mut serve = command(&fota);
    serve
        .args(["serve", "--legacy-open", "--data"])
        .arg(target().join("dev"));
    let mut server = Background::start(&mut serve)?;
    thread::sleep(Duration::from_secs(1));
    let mut sim = command(&fota);
    let mut devices = Background::start(sim.args(["sim", "--devices", "3"]))?;
    loop {
        for (name, child) in [("the server", &mut server), ("the devices", &mut devices)] {
            if let Some(status) = child.child.try_wait()? {
                bail!("{name} ended with {status}");
            }
        }
        thread::sleep(Duration::from_millis(200));
    }
}
