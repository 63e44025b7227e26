//! An empty server filled from a backup.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tokio::sync::mpsc;

use super::{
    BackupError, KEY_FILES, Summary, check,
    read::{Entry, visit},
};
use crate::{AppState, blobs::Blobs, private_file, start, store::Store};

/// In a data directory that is being filled: a server does not start there.
pub const UNFINISHED_FILE: &str = "restore-unfinished";
/// Entries that are read ahead.
const ENTRIES_MAX: usize = 2;

/// Fills `data`, and the database at `postgres` where one is named, from the backup in `file`. Both
/// must be empty; where anything is wrong, they are afterwards.
pub async fn restore(
    file: &Path,
    data: &Path,
    postgres: Option<&str>,
) -> Result<Summary, BackupError> {
    let path = file.to_owned();
    let summary = blocking(move || check(&path)).await?;
    must_be_empty(data)?;
    let of = |error| file_error(data, error);
    let lock = start::lock(data).map_err(|error| of(io::Error::other(error.to_string())))?;
    let unfinished = data.join(UNFINISHED_FILE);
    private_file::write(&unfinished, b"").map_err(of)?;
    let filled = fill(file, data, postgres, &summary).await;
    if filled.is_err() {
        clear(data).map_err(of)?;
        filled?;
    }
    fs::remove_file(&unfinished).map_err(of)?;
    drop(lock);
    Ok(summary)
}

fn must_be_empty(data: &Path) -> Result<(), BackupError> {
    let found = match fs::read_dir(data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(file_error(data, error)),
        Ok(mut entries) => entries.find_map(|entry| {
            let name = entry.ok()?.file_name();
            (name != start::LOCK_FILE).then_some(name)
        }),
    };
    match found {
        None => Ok(()),
        Some(name) => Err(BackupError::NotEmpty {
            place: data.display().to_string(),
            found: name.to_string_lossy().into_owned(),
        }),
    }
}

async fn fill(
    file: &Path,
    data: &Path,
    postgres: Option<&str>,
    summary: &Summary,
) -> Result<(), BackupError> {
    let blobs = AppState::blobs_folder(data);
    let blobs = Blobs::open_folder(&blobs).map_err(|error| file_error(&blobs, error))?;
    let schema = summary.about.schema;
    let sqlite = data.join(start::SQLITE_FILE);
    let store = Store::open_to_load(&sqlite, postgres, schema).await?;
    let mut tx = store.write().await?;
    if let Some(table) = tx.first_filled(schema).await? {
        return Err(BackupError::NotEmpty {
            place: "the database".to_owned(),
            found: format!("table {table}"),
        });
    }
    tx.empty_seeded().await?;
    let mut entries = read_ahead(file);
    while let Some(entry) = entries.recv().await {
        match entry? {
            Entry::Key(name, bytes) => {
                let path = data.join(name);
                let written = private_file::write(&path, &bytes);
                written.map_err(|error| file_error(&path, error))?;
            }
            Entry::Rows(table, rows) => tx.load_rows(table, &rows).await?,
            Entry::Blob(sha256, bytes) => blobs.put(sha256, bytes.into()).await?,
        }
    }
    tx.commit().await?;
    Ok(store.finish().await?)
}

/// The entries, read on a thread that may wait for a disk.
fn read_ahead(file: &Path) -> mpsc::Receiver<Result<Entry, BackupError>> {
    let (sender, receiver) = mpsc::channel(ENTRIES_MAX);
    let path = file.to_owned();
    tokio::task::spawn_blocking(move || {
        let sent = |_: &_, entry| {
            let sent = sender.blocking_send(Ok(entry));
            sent.map_err(|_| BackupError::Left)
        };
        if let Err(error) = visit(&path, sent) {
            drop(sender.blocking_send(Err(error)));
        }
    });
    receiver
}

/// Takes away what was written: the directory was empty before.
fn clear(data: &Path) -> io::Result<()> {
    fs::remove_dir_all(AppState::blobs_folder(data))?;
    let database = start::SQLITE_FILE;
    let beside = ["", "-wal", "-shm"].map(|end| format!("{database}{end}"));
    let keys = KEY_FILES.into_iter().map(str::to_owned);
    let unfinished = [UNFINISHED_FILE.to_owned()];
    for name in keys.chain(beside).chain(unfinished) {
        match fs::remove_file(data.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(BackupError::Left))
}

fn file_error(path: &Path, error: io::Error) -> BackupError {
    let path: PathBuf = path.to_owned();
    BackupError::File { path, error }
}
