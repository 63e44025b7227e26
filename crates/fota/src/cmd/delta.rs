//! `fota delta encode|decode|explain` and `fota image diff`: patches, offline.

use std::{
    convert::Infallible,
    io::Write,
    path::{Path, PathBuf},
};

use fota_delta::{
    DecodeError, DefaultDecoder, EncodeError, Event, Explanation, Images, Options, PatchHeader,
    Profile,
};
use fota_proto::Sha256;
use serde_json::json;
use sha2::Digest;

use crate::{
    args::{DeltaCommand, DeltaEncodeArgs, DeltaFormat, DeltaProfile},
    cmd::toolchain,
    failure::{Failure, Result},
    output::{Mark, Output},
    text::{self, Grouped},
};

/// How the command line says that there is no old image.
const NONE: &str = "-";

pub fn run(out: &Output, command: DeltaCommand) -> Result {
    match command {
        DeltaCommand::Encode(args) => encode(out, &args),
        DeltaCommand::Decode {
            old,
            patch,
            new,
            force,
        } => decode(out, &old, &patch, (&new, force)),
        DeltaCommand::Explain { old, patch } => explain(out, &old, &patch),
    }
}

fn encode(out: &Output, args: &DeltaEncodeArgs) -> Result {
    let (old, new) = (read_old(&args.old)?, read(&args.new)?);
    let patch = match (args.format, old.as_deref()) {
        (DeltaFormat::Fota, old) => {
            let profile = match args.profile {
                DeltaProfile::Default => Profile::Default,
                DeltaProfile::Small => Profile::Small,
            };
            fota_delta::encode(old, &new, &Options { profile })
        }
        (DeltaFormat::Esp, Some(old)) => fota_delta::encode_esp(old, &new),
        (DeltaFormat::Esp, None) => {
            return Err(Failure::usage(
                "esp_delta_ota has no patches without an old image",
            ));
        }
    };
    let patch = patch.map_err(refused_images)?;
    write((&args.patch, args.force), &patch)?;
    let (bytes, of) = (patch.len(), new.len());
    let path = args.patch.display();
    let part = share(bytes as f64, of as f64);
    let words = format!(
        "{path}: {} B for {} B of image, {part} of it",
        Grouped(bytes as u64),
        Grouped(of as u64)
    );
    out.verdict(Mark::Good, &words);
    out.document(
        "fota.delta/1",
        &json!({"patch": path.to_string(), "patch_bytes": bytes, "new_bytes": of}),
    );
    Ok(())
}

fn decode(out: &Output, old: &Path, patch: &Path, to: (&Path, bool)) -> Result {
    let (old_path, patch_path) = (old, patch);
    let (old, patch) = (read_old(old)?.unwrap_or_default(), read(patch)?);
    check_old((old_path, &old), (patch_path, &patch))?;
    let new = apply(&old, &patch).map_err(|error| refused_patch(patch_path, &error))?;
    write(to, &new)?;
    let sha256 = Sha256(sha2::Sha256::digest(&new).into());
    let path = to.0.display();
    let bytes = Grouped(new.len() as u64);
    let words = format!(
        "{path}: {bytes} B · sha256 {}… as the patch says",
        sha256.short()
    );
    out.verdict(Mark::Good, &words);
    out.document(
        "fota.delta/1",
        &json!({"new": path.to_string(), "new_bytes": new.len(), "sha256": sha256}),
    );
    Ok(())
}

/// Whether the old image is the one that the patch names: without it, the decoder would find out
/// only at the end, and could not say why.
fn check_old(old: (&Path, &[u8]), patch: (&Path, &[u8])) -> Result {
    let shown = patch.0.display();
    let wrong = |message: String| Failure::refused("patch_invalid", format!("{shown}: {message}"));
    let (header, _) = PatchHeader::parse(patch.1).map_err(|error| wrong(error.to_string()))?;
    let Some(wanted) = header.old else {
        return Ok(());
    };
    let have = Sha256(sha2::Sha256::digest(old.1).into());
    if (have.0, old.1.len()) == (wanted.sha256, wanted.bytes as usize) {
        return Ok(());
    }
    let message = format!(
        "it needs an old image of {} bytes with sha256 {}; {} has {} bytes and {}",
        Grouped(wanted.bytes.into()),
        Sha256(wanted.sha256),
        old.0.display(),
        Grouped(old.1.len() as u64),
        have
    );
    Err(wrong(message).hint("name the image that the patch was made from"))
}

struct Memory<'a> {
    old: &'a [u8],
    new: Vec<u8>,
}

impl Images for Memory<'_> {
    type Error = Infallible;

    fn read_old(&mut self, offset: u32, to: &mut [u8]) -> std::result::Result<(), Infallible> {
        to.copy_from_slice(&self.old[offset as usize..][..to.len()]);
        Ok(())
    }

    fn read_new(&mut self, offset: u32, to: &mut [u8]) -> std::result::Result<(), Infallible> {
        to.copy_from_slice(&self.new[offset as usize..][..to.len()]);
        Ok(())
    }
}

fn apply(old: &[u8], mut patch: &[u8]) -> std::result::Result<Vec<u8>, DecodeError<Infallible>> {
    let mut images = Memory {
        old,
        new: Vec::new(),
    };
    let mut decoder = Box::new(DefaultDecoder::new());
    loop {
        match decoder.push(&mut patch, &mut images)? {
            Event::Chunk { bytes, .. } => images.new.extend_from_slice(bytes),
            Event::Done => return Ok(images.new),
            Event::NeedInput => return Err(DecodeError::Damaged("it is cut short")),
        }
    }
}

fn explain(out: &Output, old: &Path, patch: &Path) -> Result {
    let (old_path, patch_path) = (old, patch);
    let (old, patch) = (read_old(old)?.unwrap_or_default(), read(patch)?);
    check_old((old_path, &old), (patch_path, &patch))?;
    let told = fota_delta::explain(&old, &patch);
    let told = told.map_err(|error| refused_patch(patch_path, &error))?;
    out.answer(&told_in_words(&told));
    out.document("fota.delta.explanation/1", &told_in_json(&told));
    Ok(())
}

/// What differs between two images: their sizes, and what a patch would be spent on.
pub fn diff(out: &Output, old: &Path, new: &Path) -> Result {
    let (old, new) = (read(old)?, read(new)?);
    let difference = Difference::of(&old, &new, &Options::default())?;
    difference.show(out, &[], "fota.image.diff/1");
    Ok(())
}

/// Two images and the patch between them.
pub struct Difference<'a> {
    old: &'a [u8],
    new: &'a [u8],
    pub patch: Vec<u8>,
    told: Explanation,
}

impl<'a> Difference<'a> {
    pub fn of(old: &'a [u8], new: &'a [u8], options: &Options) -> Result<Self> {
        let patch = fota_delta::encode(Some(old), new, options).map_err(refused_images)?;
        let told = fota_delta::explain(old, &patch);
        let told = told.map_err(|error| Failure::error(error.to_string()))?;
        Ok(Self {
            old,
            new,
            patch,
            told,
        })
    }

    /// Prints it behind some facts of the caller's own.
    pub fn show(&self, out: &Output, before: &[(&str, String)], document: &str) {
        let bytes = |bytes: usize| format!("{} bytes", Grouped(bytes as u64));
        let part = |part: usize| share(part as f64, self.new.len() as f64);
        let pairs = self.old.iter().zip(self.new);
        let same = pairs.filter(|(old, new)| old == new).count();
        let patch = self.patch.len();
        let mut facts = before.to_vec();
        facts.extend([
            ("old", bytes(self.old.len())),
            ("new", bytes(self.new.len())),
            ("same in place", format!("{}, {}", bytes(same), part(same))),
            ("patch", format!("{}, {}", bytes(patch), part(patch))),
        ]);
        let built = toolchain::differences(self.old, self.new);
        for (what, old, new) in &built {
            facts.push((what, text::plain(&format!("{old} → {new}"))));
        }
        let facts = text::facts(&facts);
        out.answer(&format!("{facts}\n{}", told_in_words(&self.told)));
        if !built.is_empty() {
            out.answer(
                "The two were not built alike, which alone changes code all over: the same \
                 toolchain and libraries make patches several times smaller.\n",
            );
        }
        let mut told = told_in_json(&self.told);
        told["old_bytes"] = self.old.len().into();
        told["same_in_place_bytes"] = same.into();
        let built = built.iter();
        told["built"] = built
            .map(|(what, old, new)| json!({"what": what, "old": old, "new": new}))
            .collect();
        out.document(document, &told);
    }
}

fn told_in_words(told: &Explanation) -> String {
    let all = told.header_bytes as f64 + f64::from(told.header.payload_bytes);
    let row = |what: &str, made: u64, bytes: f64| {
        let made = match made {
            0 => String::new(),
            made => Grouped(made).to_string(),
        };
        let bytes_shown = Grouped(bytes.round() as u64).to_string();
        vec![what.to_owned(), made, bytes_shown, share(bytes, all)]
    };
    let mut rows = vec![row("header", 0, told.header_bytes as f64)];
    for part in &told.parts {
        rows.push(row(part.what, part.new_bytes, part.patch_bytes));
    }
    let by_part = text::table(&["what", "makes bytes", "costs bytes", "share"], &rows);
    let mut rows = Vec::new();
    for segment in &told.segments {
        let name = match segment.address {
            Some(address) => format!("segment at {address:#010x}"),
            None => "headers, layout and operations".to_owned(),
        };
        rows.push(row(&name, segment.bytes, segment.patch_bytes));
    }
    let by_segment = text::table(&["where", "bytes", "costs bytes", "share"], &rows);
    format!("{by_part}\n{by_segment}\n{}\n", advice(told, all))
}

/// The sentence that a person wants: what to change so that the next patch is smaller.
fn advice(told: &Explanation, all: f64) -> &'static str {
    let cost = |wanted: &str| -> f64 {
        let parts = told.parts.iter().filter(|it| it.what.starts_with(wanted));
        parts.map(|it| it.patch_bytes).sum()
    };
    let (new, moved) = (cost("new bytes"), cost("what moved"));
    if all < 4096.0 {
        "a small patch: there is little to gain."
    } else if new > all * 0.6 {
        "most of it is code or data that was not there before: another compiler, other settings or \
         libraries, or inlining across the program (in Rust: fat LTO). The same toolchain and \
         settings for each release make patches several times smaller."
    } else if moved > all * 0.25 {
        "much of it says what moved where: functions or data are in another order. Link in a \
         stable order (no parallel or random one) and keep the sections' names."
    } else {
        "it is spread over real changes in many places."
    }
}

fn told_in_json(told: &Explanation) -> serde_json::Value {
    let parts: Vec<_> = told
        .parts
        .iter()
        .map(
            |it| json!({"what": it.what, "new_bytes": it.new_bytes, "patch_bytes": it.patch_bytes}),
        )
        .collect();
    let segments: Vec<_> = told
        .segments
        .iter()
        .map(|it| json!({"address": it.address, "bytes": it.bytes, "patch_bytes": it.patch_bytes}))
        .collect();
    json!({
        "header_bytes": told.header_bytes,
        "payload_bytes": told.header.payload_bytes,
        "new_bytes": told.header.new_bytes,
        "blocks": told.blocks,
        "parts": parts,
        "segments": segments,
    })
}

fn share(part: f64, of: f64) -> String {
    match of > 0.0 {
        true => format!("{:.1} %", part * 100.0 / of),
        false => "-".to_owned(),
    }
}

fn refused_images(error: EncodeError) -> Failure {
    Failure::refused("image_invalid", error.to_string())
}

fn refused_patch<E: std::fmt::Debug>(path: &Path, error: &DecodeError<E>) -> Failure {
    let what = match error {
        DecodeError::Header(error) => error.to_string(),
        DecodeError::Damaged(what) => format!("the patch is damaged: {what}"),
        DecodeError::Digest => "the result is not what the patch names: it is damaged".to_owned(),
        DecodeError::LeftOver(bytes) => format!("the patch is damaged: {bytes} bytes are left"),
        other => format!("{other:?}"),
    };
    Failure::refused("patch_invalid", format!("{}: {what}", path.display()))
        .hint("get the patch again, or make it anew with `fota delta encode`")
}

fn read_old(path: &Path) -> Result<Option<Vec<u8>>> {
    match path == Path::new(NONE) {
        true => Ok(None),
        false => read(path).map(Some),
    }
}

/// No file here is larger than an image may be, with some room for a header.
fn read(path: &Path) -> Result<Vec<u8>> {
    const FILE_BYTES_MAX: u64 = fota_delta::IMAGE_BYTES_MAX as u64 + 4096;
    let unreadable = |error: std::io::Error| {
        let message = format!("{}: {error}", path.display());
        match error.kind() {
            std::io::ErrorKind::NotFound => Failure::not_found(message),
            _ => Failure::error(message),
        }
    };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > FILE_BYTES_MAX {
        let (have, most) = (Grouped(bytes), Grouped(FILE_BYTES_MAX));
        let message = format!(
            "{} has {have} bytes; at most {most} are read",
            path.display()
        );
        return Err(Failure::refused("image_invalid", message));
    }
    std::fs::read(path).map_err(unreadable)
}

/// Writes a file whole or not at all, and over another only when told so.
fn write((path, force): (&Path, bool), bytes: &[u8]) -> Result {
    let shown = path.display();
    if path.exists() && !force {
        let message = format!("{shown} is there already");
        return Err(Failure::refused("exists", message).hint("add --force to write over it"));
    }
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let failed = |error: std::io::Error| Failure::error(format!("{shown}: {error}"));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
