//! Making one.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use sha2::Digest;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{ABOUT, About, BLOCK, BackupError, FORMAT, KEY_FILES, PART_BYTES, header, tail};
use crate::{
    AppState,
    domain::hex,
    store::{Rows, Store, Tx},
};

/// Pieces on their way to whoever reads: an artifact may be one of them.
const PIECES_MAX: usize = 2;

/// A backup as it is made. An error ends it, so that what came before is no backup; where the reader
/// is gone, the making ends too. `turn` is given back at the end.
pub(crate) fn make(
    state: AppState,
    turn: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Bytes, BackupError>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    tokio::spawn(async move {
        let mut writer = Writer {
            sender,
            hash: sha2::Sha256::new(),
        };
        if let Err(error) = write(&state, &mut writer).await {
            tracing::warn!(%error, "a backup breaks off");
            drop(writer.sender.send(Err(error)).await);
        }
        drop(turn);
    });
    stream::unfold(receiver, |mut receiver| async {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    })
}

async fn write(state: &AppState, writer: &mut Writer) -> Result<(), BackupError> {
    let about = About {
        format: FORMAT,
        server: env!("CARGO_PKG_VERSION").to_owned(),
        schema: Store::schema(),
        made_at: state.now_ms(),
    };
    let about = serde_json::to_vec(&about).unwrap_or_default();
    writer.entry(ABOUT, about).await?;
    for name in KEY_FILES {
        let path = state.config.data.join(name);
        match tokio::fs::read(&path).await {
            Ok(bytes) => writer.entry(&format!("keys/{name}"), bytes).await?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(BackupError::File { path, error }),
        }
    }
    // What is kept in memory for a while belongs to it too.
    crate::fleet::flush(state).await?;
    let mut tx = state.store.read().await?;
    for table in Store::tables(Store::schema()) {
        rows(writer, &mut tx, table).await?;
    }
    drop(tx);
    for sha256 in state.blobs.list().await? {
        // One that was removed since is not named by a row any more.
        if let Some(bytes) = state.blobs.read(sha256).await? {
            writer.entry(&format!("blobs/{sha256}"), bytes).await?;
        }
    }
    writer.end().await
}

async fn rows(writer: &mut Writer, tx: &mut Tx, table: &'static str) -> Result<(), BackupError> {
    let mut rows = tx.dump(table);
    let (mut heading, mut part, mut number) = (Vec::new(), Vec::new(), 1);
    while let Some(row) = rows.next().await {
        let Rows { columns, rows } = row?;
        if !columns.is_empty() {
            heading = line(&columns);
        }
        if part.is_empty() {
            part.extend(&heading);
        }
        rows.iter().for_each(|row| part.extend(line(row)));
        if part.len() > PART_BYTES {
            let name = format!("rows/{table}/{number}.jsonl");
            writer.entry(&name, std::mem::take(&mut part)).await?;
            number += 1;
        }
    }
    if part.is_empty() {
        return Ok(());
    }
    let name = format!("rows/{table}/{number}.jsonl");
    writer.entry(&name, part).await
}

fn line(of: &impl serde::Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(of).unwrap_or_default();
    line.push(b'\n');
    line
}

struct Writer {
    sender: mpsc::Sender<Result<Bytes, BackupError>>,
    hash: sha2::Sha256,
}

impl Writer {
    async fn entry(&mut self, name: &str, bytes: impl Into<Bytes>) -> Result<(), BackupError> {
        let bytes = bytes.into();
        let header = header(name, bytes.len() as u64);
        let filling = bytes.len().next_multiple_of(BLOCK) - bytes.len();
        self.send(Bytes::copy_from_slice(header.as_bytes())).await?;
        self.send(bytes).await?;
        self.send(Bytes::from(vec![0; filling])).await
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), BackupError> {
        self.hash.update(&bytes);
        let sent = self.sender.send(Ok(bytes)).await;
        sent.map_err(|_| BackupError::Left)
    }

    async fn end(&mut self) -> Result<(), BackupError> {
        let sha256 = hex::encode(&self.hash.clone().finalize());
        let sent = self.sender.send(Ok(tail(sha256).into())).await;
        sent.map_err(|_| BackupError::Left)
    }
}
