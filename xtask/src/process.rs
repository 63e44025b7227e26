//! Running other programs: every failure names the command, so that it can be repeated by hand.

use std::{
    env,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// The root of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask is a folder of it").to_owned()
}

/// The folder that cargo builds into.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// A command in the root of the repository, without what `cargo run` adds to the environment:
/// build scripts that watch those variables would run again at each change of the caller.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let added = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_CRATE_",
            "CARGO_BIN_",
        ];
        if text == "CARGO" || added.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

/// `cargo` with these arguments, split at spaces.
pub fn cargo(args: &str) -> Command {
    let mut command = command("cargo");
    command.args(args.split(' '));
    command
}

/// Runs it to its end; an error names it unless it exited with 0.
pub fn run(command: &mut Command) -> Result<()> {
    println!("$ {}", shown(command));
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("could not start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs it and gives what it printed on standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start `{}`", shown(command)))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` ended with {}:\n{errors}",
            shown(command),
            output.status
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program of this name is on the path.
pub fn has(program: &str) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&paths).any(|dir| dir.join(program).is_file())
}

/// Whether this runs in CI, where what cannot run counts as failed.
pub fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true")
}

/// A program in the background that is asked to end, then killed, when this value goes out of
/// scope.
pub struct Background {
    pub child: Child,
    /// Whom the signal goes to: the process, or with a minus its group.
    target: String,
}

impl Background {
    /// Starts it; Ctrl-C reaches it as well.
    pub fn start(command: &mut Command) -> Result<Self> {
        println!("$ {} &", shown(command));
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.with_context(|| format!("could not start `{}`", shown(command)))?;
        let target = child.id().to_string();
        Ok(Self { child, target })
    }

    /// Starts it at the head of a process group, so that what it starts ends with it.
    pub fn start_group(command: &mut Command) -> Result<Self> {
        let mut this = Self::start(command.process_group(0))?;
        this.target = format!("-{}", this.target);
        Ok(this)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        for (signal, tenths) in [("-INT", 100), ("-KILL", 20)] {
            let _ = Command::new("kill")
                .args([signal, "--", &self.target])
                .status();
            for _ in 0..tenths {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// The command as it would be typed, with paths inside the repository made relative.
fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned()),
    );
    let root = format!("{}/", root().display());
    words.join(" ").replace(&root, "")
}
