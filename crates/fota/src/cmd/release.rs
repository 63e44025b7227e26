//! `fota release …`

use std::path::{Path, PathBuf};

use fota_proto::manager::Release;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::{
    args::ReleaseCommand,
    cmd::{bundle, release_delta, upload},
    context::Context,
    failure::{Failure, Result},
    output::Mark,
    text::{self, Grouped},
};

pub async fn run(context: &Context, command: ReleaseCommand) -> Result {
    match command {
        ReleaseCommand::List => list(context).await,
        ReleaseCommand::Delta { command } => release_delta::run(context, command).await,
        ReleaseCommand::Show { release, folder } => {
            let path = Path::new(&release);
            if bundle::is_named(path) {
                return bundle::show(&context.out, path, &folder);
            }
            show(context, &context.release(&release).await?);
            Ok(())
        }
        ReleaseCommand::Upload(args) => upload::run(context, &args).await,
        ReleaseCommand::Sign(args) => bundle::sign(context, &args).await,
        ReleaseCommand::Verify { file, root, folder } => {
            bundle::verify(&context.out, &file, root, &folder)
        }
        ReleaseCommand::Yank { release, reason } => yank(context, &release, &reason).await,
        ReleaseCommand::Download {
            release,
            output,
            force,
        } => download(context, &release, output, force).await,
    }
}

async fn list(context: &Context) -> Result {
    let releases = context.client()?.releases().await?;
    let rows: Vec<Vec<String>> = releases.iter().map(row).collect();
    let heading = [
        "ID", "VERSION", "PROJECT", "CHIP", "BYTES", "SHA256", "ON", "UPLOADED", "NOTES",
    ];
    context.out.answer(&text::table(&heading, &rows));
    context.out.document("fota.releases/1", &releases);
    Ok(())
}

fn row(release: &Release) -> Vec<String> {
    let mut notes = text::plain(&release.notes);
    if release.yanked {
        notes = format!("[yanked] {notes}");
    }
    if release.lab {
        notes = format!("[lab] {notes}");
    }
    vec![
        release.id.to_string(),
        text::plain(&release.version),
        text::plain(&release.project),
        release.chip.clone().unwrap_or_else(|| "-".to_owned()),
        Grouped(release.bytes).to_string(),
        format!("{}…", release.sha256.short()),
        release.running_on.to_string(),
        text::time(release.uploaded_at),
        notes,
    ]
}

/// Prints a release as an answer.
pub fn show(context: &Context, release: &Release) {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let state = match (release.yanked, release.lab) {
        (true, _) => "yanked: never offered again",
        (false, true) => "laboratory file: no chip would boot it",
        (false, false) => "offered",
    };
    let chunks = release.bytes.div_ceil(text::CHUNK_BYTES);
    context.out.answer(&text::facts(&[
        (
            "release",
            format!("{} (number {})", text::plain(&release.version), release.id),
        ),
        ("project", text::plain(&release.project)),
        ("chip", or_dash(release.chip.clone())),
        ("size", format!("{} bytes", Grouped(release.bytes))),
        ("chunks", format!("{chunks} of 16 KiB")),
        ("sha256", release.sha256.to_string()),
        (
            "elf sha256",
            or_dash(release.elf_sha256.map(|elf| elf.to_string())),
        ),
        (
            "idf",
            or_dash(release.idf_version.as_deref().map(text::plain)),
        ),
        (
            "uploaded",
            format!("{} UTC", text::time(release.uploaded_at)),
        ),
        ("running on", text::count(release.running_on, "device")),
        (
            "spared",
            format!(
                "{} bytes by patches",
                text::signed_bytes(release.spared_bytes)
            ),
        ),
        ("state", state.to_owned()),
        ("signed", signed(release)),
        (
            "notes",
            or_dash(Some(text::plain(&release.notes)).filter(|notes| !notes.is_empty())),
        ),
    ]));
    context.out.document("fota.release/1", release);
}

fn signed(release: &Release) -> String {
    let Some(signed) = &release.signed else {
        return "no".to_owned();
    };
    let keys = signed.signed_by.join(", ");
    let (sequence, epoch) = (signed.sequence, signed.epoch);
    let expires = signed.expires.map(|seconds| {
        let ms = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
        format!(", until {} UTC", text::time(ms))
    });
    let expires = expires.unwrap_or_default();
    match signed.trusted {
        true => format!("by {keys}; sequence {sequence}, epoch {epoch}{expires}"),
        false => format!("by {keys}, which count no more under the newest root"),
    }
}

async fn yank(context: &Context, name: &str, reason: &str) -> Result {
    let release = context.release(name).await?;
    let on = text::count(release.running_on, "device");
    let question = format!("Withdraw {} ({on} run it)?", release.version);
    if !context.confirm(&question, "--yes").await? {
        return Err(Failure::error("nothing was changed"));
    }
    let release = context.client()?.yank(release.id, reason).await?;
    let line = format!(
        "release {} is withdrawn: it is never offered again",
        release.version
    );
    context.out.verdict(Mark::Good, &line);
    context.out.document("fota.release/1", &release);
    Ok(())
}

async fn download(context: &Context, name: &str, output: Option<PathBuf>, force: bool) -> Result {
    let release = context.release(name).await?;
    let path = output.unwrap_or_else(|| default_name(&release));
    if path.exists() && !force {
        let message = format!("{} exists", path.display());
        return Err(
            Failure::refused("exists", message).hint("add --force, or name another -o FILE")
        );
    }
    let beside = path.with_extension("part");
    let got = fetch(context, &release, &beside).await;
    let renamed = match got {
        Ok(()) => tokio::fs::rename(&beside, &path)
            .await
            .map_err(|error| io(&path, &error)),
        Err(failure) => Err(failure),
    };
    if let Err(failure) = renamed {
        let _ = tokio::fs::remove_file(&beside).await;
        return Err(failure);
    }
    let shown = path.display().to_string();
    let bytes = Grouped(release.bytes);
    let sha256 = release.sha256.short();
    context.out.verdict(
        Mark::Good,
        &format!("{shown}: {bytes} bytes, sha256 {sha256}…, as uploaded"),
    );
    context.out.document(
        "fota.download/1",
        &json!({"file": shown, "sha256": release.sha256}),
    );
    Ok(())
}

/// Both parts of the name come from inside an image: nothing of them may leave this folder.
fn default_name(release: &Release) -> PathBuf {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.+".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = format!("{}-{}", release.project, release.version)
        .chars()
        .map(safe)
        .collect();
    PathBuf::from(format!("{}.bin", name.trim_start_matches('.')))
}

async fn fetch(context: &Context, release: &Release, path: &Path) -> Result {
    let mut download = context.client()?.release_image(release.id).await?;
    let mut file = tokio::fs::File::create(path)
        .await
        .map_err(|error| io(path, &error))?;
    let mut hash = Sha256::new();
    while let Some(bytes) = download.chunk().await? {
        hash.update(&bytes);
        file.write_all(&bytes)
            .await
            .map_err(|error| io(path, &error))?;
    }
    file.sync_all().await.map_err(|error| io(path, &error))?;
    match hash.finalize()[..] == release.sha256.0 {
        true => Ok(()),
        false => Err(
            Failure::error("the bytes that came are not those of the release")
                .hint("try again; if it happens again, the server's storage is damaged"),
        ),
    }
}

fn io(path: &Path, error: &std::io::Error) -> Failure {
    Failure::error(format!("{}: {error}", path.display()))
}
