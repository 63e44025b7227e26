//! All tests, with a PostgreSQL for those that talk to a database: a server of its own in a
//! temporary folder, on a free port of the loopback address, gone afterwards.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    ci::Skipped,
    process::{cargo, command, in_ci, output, run},
};

/// All tests of the workspace, those of the store on SQLite and on PostgreSQL.
pub fn test() -> Result<()> {
    let mut test = cargo("test --workspace --locked --no-fail-fast");
    match Postgres::start() {
        Ok(server) => run(test.env("FOTA_TEST_POSTGRES", server.url())),
        Err(error) if error.is::<Skipped>() && !in_ci() => {
            println!("on SQLite only: {error}");
            run(&mut test)
        }
        Err(error) => Err(error),
    }
}

/// A running PostgreSQL; it stops and its files go when this value goes out of scope.
pub struct Postgres {
    bin: PathBuf,
    dir: PathBuf,
    port: u16,
}

impl Postgres {
    /// Makes a cluster and starts it.
    pub fn start() -> Result<Self> {
        let bin = bin()?;
        let dir = std::env::temp_dir().join(format!("fota-postgres-{}", std::process::id()));
        let port = free_port()?;
        fs::create_dir_all(&dir)?;
        if is_root()? {
            // PostgreSQL refuses to run as root; its package made a user for it.
            run(command("chown").arg("postgres").arg(&dir))?;
        }
        let server = Self { bin, dir, port };
        let data = server.data();
        run(server
            .as_user("initdb")?
            .arg("-D")
            .arg(&data)
            .args(["-U", "fota", "-A", "trust"])
            .args(["--no-sync", "-E", "UTF8", "--locale=C"])
            .stdout(std::process::Stdio::null()))?;
        // Nothing here outlives the run, so nothing needs to reach the disk.
        let options = format!(
            "-p {port} -c listen_addresses=127.0.0.1 -k {} -c fsync=off -c max_connections=200",
            server.dir.display()
        );
        run(server
            .as_user("pg_ctl")?
            .arg("-D")
            .arg(&data)
            .args(["-w", "-s", "-o", &options])
            .arg("-l")
            .arg(server.dir.join("log"))
            .arg("start"))?;
        Ok(server)
    }

    /// Where its maintenance database is; the user may make databases of its own.
    pub fn url(&self) -> String {
        format!("postgres://fota@127.0.0.1:{}/postgres", self.port)
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn as_user(&self, program: &str) -> Result<Command> {
        let program = self.bin.join(program);
        let mut command = if is_root()? {
            let mut command = command("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            command(program)
        };
        command.current_dir(&self.dir);
        Ok(command)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Ok(mut stop) = self.as_user("pg_ctl") {
            let _ = run(stop
                .arg("-D")
                .arg(self.data())
                .args(["-m", "immediate", "-s", "stop"]));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Debian keeps each major version's programs apart and off the path.
fn bin() -> Result<PathBuf> {
    let versions = fs::read_dir(Path::new("/usr/lib/postgresql"))
        .into_iter()
        .flatten()
        .flatten();
    let mut bins: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    bins.retain(|bin| bin.join("initdb").is_file());
    bins.sort();
    bins.pop()
        .ok_or_else(|| Skipped("there is no PostgreSQL here: install postgresql".into()).into())
}

fn is_root() -> Result<bool> {
    Ok(output(command("id").arg("-u"))?.trim() == "0")
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.port())
}
