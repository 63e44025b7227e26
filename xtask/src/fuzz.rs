//! Fuzzing with libFuzzer on the stable compiler: the coverage flags that `cargo fuzz` passes are
//! stable ones, and `libfuzzer-sys` brings the engine as source. So a fixed number of runs is part
//! of CI without a nightly compiler; `cargo fuzz run TARGET` works on the same folder as well.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::process::{cargo, command, output, root, run, target};

const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks --cfg fuzzing";

/// Runs of each target in CI; they end earlier where the time is up.
const RUNS_MAX: u64 = 200_000;
const SECONDS_MAX: u64 = 20;
/// Largest input that libFuzzer makes.
const INPUT_BYTES_MAX: usize = 16 * 1024;

/// A fixed number of runs of each target.
pub fn smoke() -> Result<()> {
    fuzz(&targets()?, RUNS_MAX, SECONDS_MAX)
}

/// `fuzz [TARGET] [--runs N] [--seconds N]`.
pub fn main(args: &[String]) -> Result<()> {
    let (mut wanted, mut runs, mut seconds) = (targets()?, RUNS_MAX, SECONDS_MAX);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--runs" => runs = number(args.next())?,
            "--seconds" => seconds = number(args.next())?,
            name if wanted.iter().any(|target| target == name) => wanted = vec![name.to_owned()],
            other => bail!(
                "{other}: no such target; there are {}",
                targets()?.join(", ")
            ),
        }
    }
    fuzz(&wanted, runs, seconds)
}

fn number(arg: Option<&String>) -> Result<u64> {
    arg.context("a number is missing")?
        .parse()
        .context("not a number")
}

/// The names of the files in `fuzz/fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let dir = root().join("fuzz/fuzz_targets");
    let files = fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
    let stem = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
    let mut names: Vec<_> = files
        .flatten()
        .filter_map(|file| stem(file.path()))
        .collect();
    names.sort();
    ensure!(!names.is_empty(), "{} holds no target", dir.display());
    Ok(names)
}

fn fuzz(names: &[String], runs: u64, seconds: u64) -> Result<()> {
    let (dir, host) = (target().join("fuzz"), host()?);
    let (corpus, crashes) = (dir.join("corpus"), dir.join("crashes/"));
    let mut dry = cargo("test --locked --manifest-path fuzz/Cargo.toml");
    run(dry
        .env("CARGO_TARGET_DIR", &dir)
        .env("FOTA_FUZZ_SEEDS", &corpus))?;
    // With --target, the flags reach the targets but not build scripts and macros.
    let mut build = cargo("build --release --locked --manifest-path fuzz/Cargo.toml");
    build.args(["--bins", "--target", &host]);
    run(build.env("CARGO_TARGET_DIR", &dir).env("RUSTFLAGS", FLAGS))?;
    fs::create_dir_all(&crashes)?;
    for name in names {
        let mut fuzz = command(dir.join(&host).join("release").join(name));
        fuzz.arg(corpus.join(name))
            .arg(format!("-artifact_prefix={}", crashes.display()))
            .arg(format!("-runs={runs}"))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={INPUT_BYTES_MAX}"))
            .args(["-seed=1", "-timeout=5"]);
        one(name, &mut fuzz, &dir.join(format!("{name}.log")))?;
    }
    println!("fuzz: {} targets, none found anything", names.len());
    Ok(())
}

/// Runs a target; what it prints goes to a file, because it is a line for each new input.
fn one(name: &str, fuzz: &mut Command, log: &Path) -> Result<()> {
    fuzz.stderr(fs::File::create(log)?);
    let done = run(fuzz);
    let text = String::from_utf8_lossy(&fs::read(log)?).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    if let Err(error) = done {
        let end = lines[lines.len().saturating_sub(60)..].join("\n");
        return Err(error.context(end));
    }
    let summary = lines.iter().rfind(|line| line.starts_with("Done "));
    println!(
        "{name}: {}",
        summary.context("libFuzzer said no word of an end")?
    );
    Ok(())
}

fn host() -> Result<String> {
    let version = output(command("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}
