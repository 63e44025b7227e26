//! `fota bench delta`: patches of two images, ours and those of whatever peers are installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::{
    clock,
    output::{document, to_stdout},
    text::{self, Grouped},
};

/// Where `cargo xtask corpus` leaves its pairs.
const CORPUS: &str = "target/corpus";
/// How often the memory of a maker is looked at: its peak is what the system remembers of it.
const LOOK: Duration = Duration::from_millis(2);

/// Arguments of `fota bench delta`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The old image
    #[arg(required_unless_present = "corpus", requires = "new")]
    pub old: Option<PathBuf>,
    /// The new image
    pub new: Option<PathBuf>,
    /// All pairs NAME.old.bin and NAME.new.bin of a folder, as `cargo xtask corpus` fetches them
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = CORPUS, conflicts_with_all = ["old", "new"])]
    pub corpus: Option<PathBuf>,
}

struct Maker {
    name: &'static str,
    program: &'static str,
    /// OLD, NEW and PATCH stand for the files.
    words: &'static str,
}

const fn maker(name: &'static str, program: &'static str, words: &'static str) -> Maker {
    Maker {
        name,
        program,
        words,
    }
}

/// This program.
const OURS: &str = "fota";
const MAKERS: [Maker; 8] = [
    maker("fota", OURS, "delta encode OLD NEW PATCH --force"),
    maker(
        "fota, small profile",
        OURS,
        "delta encode OLD NEW PATCH --force --profile small",
    ),
    maker("fota, full image", OURS, "delta encode - NEW PATCH --force"),
    maker("bsdiff", "bsdiff", "OLD NEW PATCH"),
    maker("xdelta3 -9", "xdelta3", "-9 -e -f -s OLD NEW PATCH"),
    maker(
        "zstd --patch-from",
        "zstd",
        "--ultra -22 --long=27 -q -f --patch-from=OLD NEW -o PATCH",
    ),
    maker(
        "hdiffz, LZMA",
        "hdiffz",
        "-m-1 -SD -c-lzma-9-8m -f OLD NEW PATCH",
    ),
    maker(
        "detools, heatshrink",
        "detools",
        "create_patch -c heatshrink OLD NEW PATCH",
    ),
];
const BSDIFF: usize = 3;

#[derive(Serialize)]
struct Pair {
    pair: String,
    new_bytes: u64,
    makers: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    maker: &'static str,
    /// None if the maker is not installed.
    made: Option<Made>,
}

#[derive(Clone, Copy, Serialize)]
struct Made {
    patch_bytes: u64,
    time_ms: u64,
    /// The most memory that the maker had; none where the system does not tell.
    memory_bytes: Option<u64>,
}

/// Measures and prints.
pub fn run(args: &Args, json: bool) -> Result<()> {
    let images = match (&args.corpus, &args.old, &args.new) {
        (Some(dir), ..) => corpus(dir)?,
        (None, Some(old), Some(new)) => {
            let name = new.display().to_string();
            vec![(name, old.clone(), new.clone())]
        }
        _ => bail!("two images are needed, or --corpus"),
    };
    let dir = tempfile::tempdir().context("a folder for patches")?;
    let mut pairs = Vec::new();
    for (name, old, new) in images {
        let pair = measure(name, &old, &new, &dir.path().join("patch"))?;
        if !json {
            to_stdout(&for_people(&pair));
        }
        pairs.push(pair);
    }
    match json {
        true => to_stdout(&format!("{}\n", document("fota.bench-delta/1", &pairs))),
        false if pairs.len() > 1 => to_stdout(&means(&pairs)),
        false => {}
    }
    Ok(())
}

/// The pairs of a folder, by name.
fn corpus(dir: &Path) -> Result<Vec<(String, PathBuf, PathBuf)>> {
    let next = "run `cargo xtask corpus` in the source tree, which fetches it by package name";
    let files =
        fs::read_dir(dir).with_context(|| format!("no corpus in {}: {next}", dir.display()))?;
    let mut pairs = Vec::new();
    for file in files {
        let new = file?.path();
        let name = new.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(|name| name.strip_suffix(".new.bin")) else {
            continue;
        };
        let old = dir.join(format!("{name}.old.bin"));
        ensure!(
            old.is_file(),
            "{} has no {name}.old.bin: {next}",
            dir.display()
        );
        pairs.push((name.to_owned(), old, new.clone()));
    }
    ensure!(!pairs.is_empty(), "no pairs in {}: {next}", dir.display());
    pairs.sort();
    Ok(pairs)
}

fn measure(pair: String, old: &Path, new: &Path, patch: &Path) -> Result<Pair> {
    let size = |path: &Path| -> Result<u64> {
        let told = fs::metadata(path);
        let told = told.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(told.len())
    };
    size(old)?;
    let new_bytes = size(new)?;
    let mut makers = Vec::new();
    for maker in &MAKERS {
        let _ = fs::remove_file(patch);
        let ran = maker.run(old, new, patch)?;
        let made = ran.map(|(time, memory_bytes)| -> Result<Made> {
            Ok(Made {
                patch_bytes: size(patch)?,
                time_ms: super::millis(time),
                memory_bytes,
            })
        });
        makers.push(Row {
            maker: maker.name,
            made: made.transpose()?,
        });
    }
    Ok(Pair {
        pair,
        new_bytes,
        makers,
    })
}

impl Maker {
    /// How long it took and its most memory; none if it is not installed.
    fn run(&self, old: &Path, new: &Path, patch: &Path) -> Result<Option<(Duration, Option<u64>)>> {
        let mut command = match self.program {
            OURS => Command::new(std::env::current_exe().context("this program")?),
            program => Command::new(program),
        };
        for word in self.words.split(' ') {
            command.arg(match word {
                "OLD" => old.as_os_str().to_owned(),
                "NEW" => new.as_os_str().to_owned(),
                "PATCH" => patch.as_os_str().to_owned(),
                "--patch-from=OLD" => {
                    let mut word = std::ffi::OsString::from("--patch-from=");
                    word.push(old);
                    word
                }
                word => word.into(),
            });
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let start = clock::now();
        let mut child = match command.stderr(Stdio::null()).spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(self.program),
        };
        let mut memory = None;
        let status = loop {
            memory = peak(child.id()).or(memory);
            match child.try_wait()? {
                Some(status) => break status,
                None => thread::sleep(LOOK),
            }
        };
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(Some((start.elapsed(), memory)))
    }
}

/// The most memory that a process had, in bytes, as Linux tells while it runs.
fn peak(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

fn for_people(pair: &Pair) -> String {
    let ours = pair.bytes_of(0).unwrap_or(0);
    let cells: Vec<_> = pair
        .makers
        .iter()
        .map(|row| row.cells(ours, pair.new_bytes))
        .collect();
    let heading = ["", "PATCH", "OF IMAGE", "OURS TO IT", "TIME", "MEMORY"];
    format!(
        "{}: {} bytes\n{}\n",
        pair.pair,
        Grouped(pair.new_bytes),
        text::table(&heading, &cells)
    )
}

impl Row {
    fn cells(&self, ours: u64, image: u64) -> Vec<String> {
        let name = self.maker.to_owned();
        let Some(made) = self.made else {
            let none = String::new;
            return vec![
                name,
                "not installed".to_owned(),
                none(),
                none(),
                none(),
                none(),
            ];
        };
        let memory = made.memory_bytes.map_or("unknown".to_owned(), |bytes| {
            format!("{:.1} MB", bytes as f64 / 1e6)
        });
        vec![
            name,
            Grouped(made.patch_bytes).to_string(),
            format!(
                "{:.2} %",
                made.patch_bytes as f64 * 100.0 / image.max(1) as f64
            ),
            format!("{:.3}", ours as f64 / made.patch_bytes.max(1) as f64),
            format!("{:.2} s", made.time_ms as f64 / 1000.0),
            memory,
        ]
    }
}

impl Pair {
    fn bytes_of(&self, maker: usize) -> Option<u64> {
        Some(self.makers.get(maker)?.made?.patch_bytes)
    }
}

/// Geometric means over the pairs that both have made.
fn means(pairs: &[Pair]) -> String {
    let mut out = format!(
        "our size to a peer's, geometric mean of {} pairs\n",
        pairs.len()
    );
    for (index, maker) in MAKERS.iter().enumerate().skip(BSDIFF) {
        let ratios = pairs.iter().filter_map(|pair| {
            let (ours, theirs) = (pair.bytes_of(0)?, pair.bytes_of(index)?);
            Some((ours as f64 / theirs.max(1) as f64).ln())
        });
        let ratios: Vec<f64> = ratios.collect();
        let mean = match ratios.len() {
            0 => "not installed".to_owned(),
            count => format!("{:.3}", (ratios.iter().sum::<f64>() / count as f64).exp()),
        };
        out += &format!("  {:<20} {mean}\n", maker.name);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_corpus_names_the_command_that_fetches_it() {
        let dir = tempfile::tempdir().expect("a folder");
        for path in [dir.path().to_owned(), dir.path().join("nowhere")] {
            let error = corpus(&path).expect_err("there is none");
            assert!(
                format!("{error:#}").contains("cargo xtask corpus"),
                "{error:#}"
            );
        }
        fs::write(dir.path().join("a.new.bin"), b"new").expect("a file");
        let error = corpus(dir.path()).expect_err("half a pair");
        assert!(format!("{error:#}").contains("a.old.bin"), "{error:#}");
        fs::write(dir.path().join("a.old.bin"), b"old").expect("a file");
        assert_eq!(corpus(dir.path()).expect("a pair").len(), 1);
    }

    #[test]
    fn a_peer_that_is_not_there_is_not_installed() {
        let nobody = maker("nobody", "fota-no-such-program", "OLD NEW PATCH");
        let path = Path::new("x");
        assert!(nobody.run(path, path, path).expect("no failure").is_none());
    }
}
