//! `cargo xtask bench-delta`: patches of real firmware, ours and those of others, made on the same
//! machine in the same run.
//!
//! It is a chore and no command of `fota`, because the others come from Debian and PyPI: nobody
//! who runs a server should need them. Sizes do not depend on the machine, so CI holds them to
//! their targets; times are printed only.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{
    corpus, hotfix,
    process::{cargo, command, output, root, run, target},
    tools,
};

/// A maker of patches.
struct Maker {
    name: &'static str,
    /// Words of the command; OLD, NEW and PATCH stand for the files.
    command: &'static [&'static str],
}

/// Ours come first.
const MAKERS: [Maker; 8] = [
    maker(
        "fota",
        &["FOTA", "delta", "encode", "OLD", "NEW", "PATCH", "--force"],
    ),
    maker(
        "fota small",
        &[
            "FOTA",
            "delta",
            "encode",
            "OLD",
            "NEW",
            "PATCH",
            "--force",
            "--profile",
            "small",
        ],
    ),
    maker(
        "fota esp",
        &[
            "FOTA", "delta", "encode", "OLD", "NEW", "PATCH", "--force", "--format", "esp",
        ],
    ),
    maker("bsdiff", &["bsdiff", "OLD", "NEW", "PATCH"]),
    maker(
        "detools",
        &[
            "PYTHON",
            "-m",
            "detools",
            "create_patch",
            "-c",
            "heatshrink",
            "OLD",
            "NEW",
            "PATCH",
        ],
    ),
    maker("hdiffpatch", &["hdiffpatch", "OLD", "NEW", "PATCH"]),
    maker(
        "xdelta3",
        &["xdelta3", "-9", "-e", "-f", "-s", "OLD", "NEW", "PATCH"],
    ),
    maker(
        "zstd",
        &[
            "zstd",
            "--ultra",
            "-22",
            "--long=27",
            "-q",
            "-f",
            "--patch-from=OLD",
            "NEW",
            "-o",
            "PATCH",
        ],
    ),
];

const fn maker(name: &'static str, command: &'static [&'static str]) -> Maker {
    Maker { name, command }
}

const OURS: usize = 0;
const ESP: usize = 2;
const BSDIFF: usize = 3;
const DETOOLS: usize = 4;
const HDIFFPATCH: usize = 5;

/// Pairs of releases that follow each other, of ESP32 and ESP8266.
const CONSECUTIVE: [&str; 6] = [
    "modi-3.1.5-3.1.6",
    "modi-3.1.5-rebuild",
    "ivh-esp32cam",
    "ivh-esp32-s3",
    "esplinker8266-1.2.1-1.3.9",
    "esplinker8266-1.3.9-1.4.2",
];

/// The largest geometric mean, of the consecutive pairs, of our size to a peer's.
const RATIO_TARGETS: [(usize, f64); 3] = [(BSDIFF, 0.13), (DETOOLS, 0.09), (HDIFFPATCH, 0.15)];
/// The same of the other pairs: another compiler or another program, so most of it is new.
const FAR_TARGET: f64 = 0.67;

/// The most memory that our encoder may have, for any pair.
const MEMORY_KB_MAX: u64 = 64 * 1024;

/// What a maker made of a pair.
#[derive(Clone, Copy)]
struct Made {
    bytes: u64,
    seconds: f64,
    memory_kb: u64,
}

struct Row {
    pair: String,
    new_bytes: u64,
    made: Vec<Made>,
}

/// Measures, prints, and holds the sizes to their targets.
pub fn run_all() -> Result<()> {
    let corpus = corpus::fetch()?;
    for program in ["bsdiff", "xdelta3", "zstd"] {
        tools::need(program, program)?;
    }
    let python = tools::patch_peers()?;
    run(&mut cargo("build --release --locked -p fota"))?;
    let dir = target().join("bench-delta");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let mut rows = Vec::new();
    for pair in corpus::pair_names()? {
        rows.push(measure(&pair, &corpus, &dir, &python)?);
    }
    print_rows(&rows);
    print_means(&rows);
    check_esp(&rows, &corpus, &dir, &python)?;
    round_trips(&rows, &corpus, &dir)?;
    print_encoder(&rows)?;
    check_targets(&rows)?;
    hotfix::run_all()
}

/// Every pair comes back: forward in both profiles, backward in one of them by turns.
fn round_trips(rows: &[Row], corpus: &Path, dir: &Path) -> Result<()> {
    for (row, profile) in rows.iter().zip(["default", "small"].iter().cycle()) {
        let [old, new] = ["old", "new"].map(|age| corpus.join(format!("{}.{age}.bin", row.pair)));
        for maker in ["fota", "fota-small"] {
            let patch = dir.join(format!("{}.{maker}.patch", row.pair));
            comes_back(&old, &patch, &new)?;
        }
        let back = dir.join("back.patch");
        let mut encode = command(target().join("release/fota"));
        encode.args(["delta", "encode", "--force", "--profile", profile]);
        output(encode.args([&new, &old, &back]))?;
        comes_back(&new, &back, &old)?;
    }
    let count = rows.len();
    println!("\nround trips: {count} pairs, forward in both profiles, and backward");
    Ok(())
}

fn comes_back(from: &Path, patch: &Path, to: &Path) -> Result<()> {
    let made = patch.with_extension("made");
    let mut decode = command(target().join("release/fota"));
    decode.args(["delta", "decode", "--force"]);
    output(decode.args([from, patch, &made]))?;
    ensure!(
        fs::read(&made)? == fs::read(to)?,
        "{}: {} did not come back",
        patch.display(),
        to.display()
    );
    Ok(())
}

/// Our encoder on the largest pair of consecutive releases. Memory does not depend on the machine's
/// load; seconds do, so they are printed only.
fn print_encoder(rows: &[Row]) -> Result<()> {
    let consecutive = rows
        .iter()
        .filter(|row| CONSECUTIVE.contains(&row.pair.as_str()));
    let row = consecutive.max_by_key(|row| row.new_bytes);
    let row = row.context("no consecutive pair")?;
    let (ours, bsdiff, hdiffpatch) = (row.made[OURS], row.made[BSDIFF], row.made[HDIFFPATCH]);
    let to = |peer: Made| ours.seconds / peer.seconds;
    println!(
        "\nour encoder on {}, {} bytes: {:.2} s, {} MB; {:.1} x bsdiff's time, {:.1} x HDiffPatch's; \
         at this pace {:.2} s for 1.8 MB, the target is 1",
        row.pair,
        row.new_bytes,
        ours.seconds,
        ours.memory_kb / 1024,
        to(bsdiff),
        to(hdiffpatch),
        ours.seconds * 1.8e6 / row.new_bytes as f64
    );
    for row in rows {
        let memory_kb = row.made[OURS].memory_kb;
        ensure!(
            memory_kb <= MEMORY_KB_MAX,
            "{}: {memory_kb} KB of memory, at most {MEMORY_KB_MAX}",
            row.pair
        );
    }
    Ok(())
}

fn measure(pair: &str, corpus: &Path, dir: &Path, python: &Path) -> Result<Row> {
    let [old, new] = ["old", "new"].map(|age| corpus.join(format!("{pair}.{age}.bin")));
    let mut made = Vec::new();
    for maker in &MAKERS {
        let patch = dir.join(format!("{pair}.{}.patch", maker.name.replace(' ', "-")));
        // esp_delta_ota knows the old image by the digest at its end; some have none.
        if maker.name == MAKERS[ESP].name && !ends_with_digest(&old)? {
            made.push(Made {
                bytes: 0,
                seconds: 0.0,
                memory_kb: 0,
            });
            continue;
        }
        let words = maker.command.iter().map(|word| {
            let fota = target().join("release/fota");
            let path = |path: &Path| path.display().to_string();
            word.replace("FOTA", &path(&fota))
                .replace("PYTHON", &path(python))
                .replace("OLD", &path(&old))
                .replace("NEW", &path(&new))
                .replace("PATCH", &path(&patch))
        });
        let _ = fs::remove_file(&patch);
        let mut measure = command(python);
        measure.arg(root().join("xtask/measure.py")).args(words);
        let told = output(&mut measure).with_context(|| format!("{} of {pair}", maker.name))?;
        let (seconds, memory) = told.trim().split_once(' ').context("two numbers")?;
        made.push(Made {
            bytes: fs::metadata(&patch)?.len(),
            seconds: seconds.parse()?,
            memory_kb: memory.parse()?,
        });
    }
    Ok(Row {
        pair: pair.to_owned(),
        new_bytes: fs::metadata(&new)?.len(),
        made,
    })
}

fn ends_with_digest(image: &Path) -> Result<bool> {
    use sha2::Digest;
    let image = fs::read(image)?;
    let (body, digest) = image.split_last_chunk::<32>().context("a short image")?;
    Ok(sha2::Sha256::digest(body).as_slice() == digest)
}

fn print_rows(rows: &[Row]) {
    println!("\nbytes of a patch");
    let names: Vec<&str> = MAKERS.iter().map(|maker| maker.name).collect();
    println!("| pair | image | {} |", names.join(" | "));
    println!("|---|--:|{}", "--:|".repeat(MAKERS.len()));
    for row in rows {
        let sizes: Vec<String> = row.made.iter().map(|it| it.bytes.to_string()).collect();
        println!(
            "| {} | {} | {} |",
            row.pair,
            row.new_bytes,
            sizes.join(" | ")
        );
    }
    println!("\nseconds / MB of memory to make it");
    for row in rows {
        let cell = |it: &Made| format!("{:.2} / {}", it.seconds, it.memory_kb / 1024);
        let cells: Vec<String> = row.made.iter().map(cell).collect();
        println!("| {} | {} |", row.pair, cells.join(" | "));
    }
}

fn print_means(rows: &[Row]) {
    println!("\ngeometric mean of our size to a peer's: consecutive / far");
    for (index, maker) in MAKERS.iter().enumerate().skip(BSDIFF) {
        let (near, far) = (mean(rows, index, true), mean(rows, index, false));
        println!("{:<12} {near:.3} / {far:.3}", maker.name);
    }
}

/// Of the consecutive pairs, or of the others.
fn mean(rows: &[Row], peer: usize, consecutive: bool) -> f64 {
    let wanted = rows
        .iter()
        .filter(|row| CONSECUTIVE.contains(&row.pair.as_str()) == consecutive)
        .filter(|row| consecutive || is_far(row));
    let ratios: Vec<f64> = wanted
        .map(|row| row.made[OURS].bytes as f64 / row.made[peer].bytes as f64)
        .collect();
    let sum: f64 = ratios.iter().map(|ratio| ratio.ln()).sum();
    (sum / ratios.len() as f64).exp()
}

/// The Cortex-M pair of consecutive releases is neither.
fn is_far(row: &Row) -> bool {
    row.pair != "pyb-prime-7.27-7.28"
}

/// detools applies what we made for esp_delta_ota, after its 64 bytes of header.
fn check_esp(rows: &[Row], corpus: &Path, dir: &Path, python: &Path) -> Result<()> {
    let mut checked = 0;
    for row in rows.iter().filter(|row| row.made[ESP].bytes > 0) {
        let patch = fs::read(dir.join(format!("{}.fota-esp.patch", row.pair)))?;
        ensure!(
            patch[..4] == 0xFCCD_DE10_u32.to_le_bytes(),
            "{}: not the magic of esp_delta_ota",
            row.pair
        );
        let bare = dir.join("bare.patch");
        fs::write(&bare, &patch[64..])?;
        let made = dir.join("made.bin");
        let mut detools = command(python);
        detools.args(["-m", "detools", "apply_patch"]);
        detools.arg(corpus.join(format!("{}.old.bin", row.pair)));
        output(detools.arg(&bare).arg(&made))?;
        let new = fs::read(corpus.join(format!("{}.new.bin", row.pair)))?;
        ensure!(
            fs::read(&made)? == new,
            "{}: detools made another image",
            row.pair
        );
        let (ours, theirs) = (row.made[ESP].bytes, row.made[DETOOLS].bytes);
        ensure!(
            ours <= theirs + theirs / 50 + 64,
            "{}: {ours} bytes for esp_delta_ota, detools makes {theirs}",
            row.pair
        );
        checked += 1;
    }
    ensure!(checked > 0, "no pair has a digest that esp_delta_ota needs");
    println!("\nesp_delta_ota: detools applied {checked} of our patches");
    Ok(())
}

fn check_targets(rows: &[Row]) -> Result<()> {
    for row in rows {
        let ours = row.made[OURS].bytes;
        for (peer, maker) in row.made.iter().zip(&MAKERS).skip(BSDIFF) {
            ensure!(
                ours <= peer.bytes,
                "{}: {ours} bytes, {} has {}",
                row.pair,
                maker.name,
                peer.bytes
            );
        }
    }
    for (peer, target) in RATIO_TARGETS {
        let (ratio, name) = (mean(rows, peer, true), MAKERS[peer].name);
        ensure!(
            ratio <= target,
            "{ratio:.3} of {name}; the target is {target}"
        );
    }
    let far = mean(rows, BSDIFF, false);
    ensure!(
        far <= FAR_TARGET,
        "far pairs: {far:.3} of bsdiff, not {FAR_TARGET}"
    );
    println!("targets: all met");
    Ok(())
}
