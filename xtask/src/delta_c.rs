//! The decoder in C, `docs/c/fota_delta.c`, written from `docs/delta-format.md` alone: it makes the
//! images of the golden vectors, and those of real pairs where the corpus is there already.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use fota_delta::{Options, Profile};

use crate::process::{command, output, root, run, target};

const VECTORS: [&str; 3] = ["xtensa", "riscv", "full"];
/// One of each instruction set.
const PAIRS: [&str; 2] = ["esplinker8266-1.3.9-1.4.2", "pyb-prime-7.22-7.27"];

/// Compiles it with sanitizers, and lets it decode.
pub fn run_all() -> Result<()> {
    let dir = target().join("delta-c");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let program = dir.join("check_delta");
    let mut gcc = command("gcc");
    gcc.args("-std=c99 -O1 -g -Wall -Wextra -Wshadow -Werror".split(' '));
    gcc.args(["-fsanitize=address,undefined", "-fno-sanitize-recover"]);
    run(gcc.args(["docs/c/check_delta.c", "-o"]).arg(&program))?;
    for name in VECTORS {
        let [old, new, patch] = golden(name)?;
        check(&program, &dir, &old, &new, &patch).with_context(|| name.to_owned())?;
        damaged(&program, &dir, &old, &new, &patch).with_context(|| name.to_owned())?;
    }
    let mut pairs = 0;
    for name in PAIRS {
        let Some([old, new]) = pair(name) else {
            continue;
        };
        for profile in [Profile::Default, Profile::Small] {
            let patch = fota_delta::encode(Some(&old), &new, &Options { profile })?;
            check(&program, &dir, &old, &new, &patch).with_context(|| name.to_owned())?;
        }
        pairs += 1;
    }
    println!(
        "c-verifier: fota_delta.c made the images of {} golden vectors and {pairs} real pairs",
        VECTORS.len()
    );
    Ok(())
}

fn check(program: &Path, dir: &Path, old: &[u8], new: &[u8], patch: &[u8]) -> Result<()> {
    let [old_file, new_file, patch_file] = files(dir, old, new, patch)?;
    let mut check = command(program);
    output(check.arg(old_file).arg(patch_file).arg(new_file)).map(drop)
}

/// A flipped bit anywhere is refused, and read or written out of bounds is nothing.
fn damaged(program: &Path, dir: &Path, old: &[u8], new: &[u8], patch: &[u8]) -> Result<()> {
    let step = (patch.len() / 40).max(1);
    for at in (0..patch.len()).step_by(step) {
        let mut damaged = patch.to_vec();
        damaged[at] ^= 1 << (at % 8);
        let [old_file, new_file, patch_file] = files(dir, old, new, &damaged)?;
        let mut check = command(program);
        let done = check.arg(old_file).arg(patch_file).arg(new_file).output()?;
        // The digest of the old image is the caller's to compare.
        let is_unread = done.status.code() == Some(0) && at < fota_delta::HEADER_BYTES_MAX;
        ensure!(
            done.status.code() == Some(1) || is_unread,
            "bit {} of byte {at} flipped: {}\n{}",
            at % 8,
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(())
}

fn files(dir: &Path, old: &[u8], new: &[u8], patch: &[u8]) -> Result<[PathBuf; 3]> {
    let files = ["old.bin", "new.bin", "x.patch"].map(|name| dir.join(name));
    for (file, bytes) in files.iter().zip([old, new, patch]) {
        fs::write(file, bytes).with_context(|| file.display().to_string())?;
    }
    Ok(files)
}

/// Old image, new image and patch of a golden vector.
fn golden(name: &str) -> Result<[Vec<u8>; 3]> {
    let file = root().join(format!("crates/delta/tests/golden/{name}.txt"));
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let part = |what: &str| -> Result<Vec<u8>> {
        let lines = text.lines().skip_while(|line| !line.starts_with(what));
        let hex: String = lines
            .skip(1)
            .take_while(|line| !line.contains(' '))
            .collect();
        let digits = (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16));
        Ok(digits.collect::<Result<_, _>>()?)
    };
    Ok([part("old ")?, part("new ")?, part("patch ")?])
}

/// A pair of the corpus, if it was fetched: this step downloads nothing.
fn pair(name: &str) -> Option<[Vec<u8>; 2]> {
    let read = |age: &str| fs::read(target().join(format!("corpus/{name}.{age}.bin"))).ok();
    Some([read("old")?, read("new")?])
}
