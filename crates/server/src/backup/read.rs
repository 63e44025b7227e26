//! Reading one: first as a whole, then entry by entry.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use fota_proto::Sha256;
use serde_json::Value as Json;
use sha2::Digest;

use super::{
    ABOUT, About, BackupError, ENTRY_BYTES_MAX, FORMAT, KEY_FILES, Summary, TAIL_BYTES, tail,
};
use crate::{
    blobs::digest,
    domain::hex,
    store::{Rows, Store},
};

/// Read at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// An entry that may be believed.
pub(super) enum Entry {
    Key(&'static str, Vec<u8>),
    Rows(&'static str, Rows),
    Blob(Sha256, Vec<u8>),
}

/// Whether a file is a whole backup, and what it holds.
pub fn check(path: &Path) -> Result<Summary, BackupError> {
    must_be_whole(path)?;
    let (mut rows, mut blobs, mut keys) = (0, 0, 0);
    let (about, bytes) = visit(path, |_, entry| {
        match entry {
            Entry::Key(..) => keys += 1,
            Entry::Rows(_, part) => rows += part.rows.len() as u64,
            Entry::Blob(..) => blobs += 1,
        }
        Ok(())
    })?;
    Ok(Summary {
        about,
        rows,
        blobs,
        keys,
        bytes,
    })
}

/// Gives each entry to `take`; what the file says of itself comes with it.
pub(super) fn visit(
    path: &Path,
    mut take: impl FnMut(&About, Entry) -> Result<(), BackupError>,
) -> Result<(About, u64), BackupError> {
    let file = File::open(path).map_err(|error| file_error(path, error))?;
    let bytes = file.metadata().map_err(|error| file_error(path, error))?;
    let bytes = bytes.len();
    let entries = BufReader::new(file).take(bytes.saturating_sub(TAIL_BYTES));
    let mut archive = tar::Archive::new(entries);
    let found = archive.entries().map_err(|error| damaged(path, error))?;
    let mut about: Option<About> = None;
    for entry in found {
        let mut entry = entry.map_err(|error| damaged(path, error))?;
        let name = entry.path_bytes().into_owned();
        let name = String::from_utf8(name).map_err(|error| damaged(path, error))?;
        if entry.size() > ENTRY_BYTES_MAX {
            let reason = format!("{name:.80} has {} bytes", entry.size());
            return Err(damaged(path, reason));
        }
        let mut bytes = Vec::new();
        let read = entry.read_to_end(&mut bytes);
        read.map_err(|error| damaged(path, error))?;
        match &about {
            None => about = Some(told(path, &name, &bytes)?),
            Some(about) => take(
                about,
                parse(about, &name, bytes).map_err(|it| damaged(path, it))?,
            )?,
        }
    }
    let about = about.ok_or_else(|| unknown(path, "there is nothing in it"))?;
    Ok((about, bytes))
}

/// Every byte counts: what is in front of the tail by its digest, the tail by being the one that
/// belongs to that digest.
fn must_be_whole(path: &Path) -> Result<(), BackupError> {
    let of = |error| file_error(path, error);
    let mut file = File::open(path).map_err(of)?;
    let bytes = file.metadata().map_err(of)?.len();
    if !is_ours(&mut file).map_err(of)? {
        return Err(unknown(path, "it does not begin as one"));
    }
    let Some(before) = bytes.checked_sub(TAIL_BYTES) else {
        return Err(damaged(path, format!("it ends after {bytes} bytes")));
    };
    let mut hash = sha2::Sha256::new();
    let mut left = before;
    let mut piece = vec![0; PIECE_BYTES];
    while left > 0 {
        let wanted = usize::try_from(left)
            .unwrap_or(PIECE_BYTES)
            .min(PIECE_BYTES);
        file.read_exact(&mut piece[..wanted]).map_err(of)?;
        hash.update(&piece[..wanted]);
        left -= wanted as u64;
    }
    let mut found = Vec::new();
    file.read_to_end(&mut found).map_err(of)?;
    if found != tail(hex::encode(&hash.finalize())) {
        let reason = "its bytes have another SHA-256 than its end says, or its end is missing";
        return Err(damaged(path, reason));
    }
    Ok(())
}

/// Tells a wrong file from a damaged one.
fn is_ours(file: &mut File) -> io::Result<bool> {
    let mut head = Vec::new();
    file.take(ABOUT.len() as u64).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(head == ABOUT.as_bytes())
}

/// The first entry.
fn told(path: &Path, name: &str, bytes: &[u8]) -> Result<About, BackupError> {
    if name != ABOUT {
        return Err(unknown(path, "it does not begin as one"));
    }
    let about = serde_json::from_slice::<About>(bytes);
    let about = about.map_err(|error| unknown(path, error))?;
    let newest = Store::schema();
    if about.format != FORMAT || about.schema > newest || about.schema < 1 {
        let reason = format!(
            "it is of fota {} (format {}, schema {}), this is {} (format {FORMAT}, schemas 1 to \
             {newest}): restore it with the newer program",
            about.server,
            about.format,
            about.schema,
            env!("CARGO_PKG_VERSION"),
        );
        return Err(unknown(path, reason));
    }
    Ok(about)
}

fn parse(about: &About, name: &str, bytes: Vec<u8>) -> Result<Entry, String> {
    let odd = || format!("it holds {name:?}");
    let (kind, rest) = name.split_once('/').ok_or_else(odd)?;
    match kind {
        "keys" => {
            let known = KEY_FILES.into_iter().find(|known| *known == rest);
            Ok(Entry::Key(known.ok_or_else(odd)?, bytes))
        }
        "rows" => {
            let (table, _) = rest.split_once('/').ok_or_else(odd)?;
            let known = Store::tables(about.schema);
            let known = known.into_iter().find(|known| *known == table);
            let rows = rows(&bytes).ok_or_else(|| format!("{name} holds no rows"))?;
            Ok(Entry::Rows(known.ok_or_else(odd)?, rows))
        }
        "blobs" => {
            let sha256 = rest.parse().map_err(|_| odd())?;
            match digest(&bytes) == sha256 {
                true => Ok(Entry::Blob(sha256, bytes)),
                false => Err(format!("{name} holds other bytes")),
            }
        }
        _ => Err(odd()),
    }
}

fn rows(bytes: &[u8]) -> Option<Rows> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let columns: Vec<String> = serde_json::from_slice(lines.next()?).ok()?;
    let mut rows = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let row: Vec<Json> = serde_json::from_slice(line).ok()?;
        let is_flat = row
            .iter()
            .all(|cell| cell.is_null() || cell.is_string() || cell.as_i64().is_some());
        if row.len() != columns.len() || !is_flat {
            return None;
        }
        rows.push(row);
    }
    // They become part of a statement.
    let is_word = |name: &String| {
        let mut bytes = name.bytes();
        !name.is_empty()
            && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    columns
        .iter()
        .all(is_word)
        .then_some(Rows { columns, rows })
}

fn file_error(path: &Path, error: io::Error) -> BackupError {
    let path = path.to_owned();
    BackupError::File { path, error }
}

fn unknown(path: &Path, reason: impl ToString) -> BackupError {
    BackupError::Unknown {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn damaged(path: &Path, reason: impl ToString) -> BackupError {
    BackupError::Damaged {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_flat_and_their_columns_plain_words() {
        let good = b"[\"id\",\"name\"]\n[1,\"x\"]\n[2,null]\n";
        assert_eq!(rows(good).map(|rows| rows.rows.len()), Some(2));
        for bad in [
            "",
            "[1]\n",
            "[\"id) VALUES (1); DROP TABLE audit; --\"]\n[1]\n",
            "[\"id\"]\n[1,2]\n",
            "[\"id\"]\n[[1]]\n",
            "[\"id\"]\n[1.5]\n",
            "[\"id\"]\n[1",
        ] {
            assert_eq!(rows(bad.as_bytes()), None, "{bad}");
        }
    }
}
