//! `fota backup` and `fota restore`.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

use fota_server::backup::{self, BackupError, Summary};

use crate::{
    args::{BackupArgs, RestoreArgs},
    context::Context,
    failure::{Failure, Result},
    output::{Mark, Output},
    text::{self, Grouped},
};

/// Writes it beside its name, looks whether it is whole, and only then gives it the name.
pub async fn back_up(context: &Context, args: &BackupArgs) -> Result {
    let path = &args.file;
    if path.exists() && !args.force {
        let message = format!("{} exists", path.display());
        return Err(Failure::refused("file_exists", message).hint("add --force to write over it"));
    }
    let of = |error: io::Error| Failure::error(format!("{}: {error}", path.display()));
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Only its owner may read what `tempfile` makes.
    let mut beside = tempfile::Builder::new();
    let beside = beside.prefix(".fota-backup-").tempfile_in(folder);
    let mut beside = beside.map_err(of)?;
    let mut bytes = context.client()?.backup().await?;
    while let Some(piece) = bytes.chunk().await? {
        beside.write_all(&piece).map_err(of)?;
    }
    beside.as_file().sync_all().map_err(of)?;
    let summary = backup::check(beside.path()).map_err(failure)?;
    match args.force {
        true => beside.persist(path),
        false => beside.persist_noclobber(path),
    }
    .map_err(|error| of(error.error))?;
    File::open(folder)
        .and_then(|it| it.sync_all())
        .map_err(of)?;
    let line = format!("{}: {}", path.display(), contents(&summary));
    context.out.verdict(Mark::Good, &line);
    let advice = "it holds the keys and tokens of the server: keep it as you keep them";
    context.out.note(Mark::Attention, advice);
    context.out.document("fota.backup/1", &summary);
    Ok(())
}

pub async fn restore(out: &Output, args: &RestoreArgs) -> Result {
    let done = backup::restore(&args.file, &args.data, args.db.as_deref());
    let summary = done.await.map_err(failure)?;
    let line = format!("{}: {}", args.data.display(), contents(&summary));
    out.verdict(Mark::Good, &line);
    let data = text::quoted(&args.data.display().to_string());
    let db = if args.db.is_some() { " --db …" } else { "" };
    out.say(&format!(
        "start it with `fota serve --data {data}{db}`; the old server must not run any more"
    ));
    out.document("fota.restore/1", &summary);
    Ok(())
}

fn contents(summary: &Summary) -> String {
    format!(
        "{} bytes; {} rows, {} artifacts and {} key files of {}",
        Grouped(summary.bytes),
        Grouped(summary.rows),
        Grouped(summary.blobs),
        summary.keys,
        text::time(summary.about.made_at),
    )
}

fn failure(error: BackupError) -> Failure {
    let message = error.to_string();
    match error {
        BackupError::Unknown { .. } => Failure::refused("backup_unknown", message),
        BackupError::Damaged { .. } => Failure::refused("backup_damaged", message),
        BackupError::NotEmpty { .. } => Failure::refused("not_empty", message),
        _ => Failure::error(message),
    }
}
