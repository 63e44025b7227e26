use fota_proto::{Sha256, limits::HEAD_BYTES};

use super::{
    StoreError, Tx,
    db::{Row, values},
};
use crate::domain::{
    hex,
    model::{Release, Signed},
};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, version, project, chip, bytes, sha256, head, elf_sha256, idf_version, \
             secure_version, chip_revision_min, chip_revision_max, notes, lab, yanked, \
             seed_chunk_bytes, uploaded_at, signed_sha256, artifact_sha256, sequence, epoch, expires, \
             support_until, advisory, self_test_deadline_s, signed_by, trusted FROM release ",
            $rest
        )
    };
}

fn release(row: &mut Row) -> Result<Release, StoreError> {
    Ok(Release {
        id: row.int()?,
        version: row.text()?,
        project: row.text()?,
        chip: row.number_maybe()?,
        bytes: row.number()?,
        sha256: row.parsed()?,
        head: head(&row.text()?)?,
        elf: row.parsed_maybe()?,
        idf_version: row.text_maybe()?,
        secure_version: row.number()?,
        chip_revision_min: row.number()?,
        chip_revision_max: row.number_maybe()?,
        notes: row.text()?,
        lab: row.flag()?,
        yanked: row.flag()?,
        seed_chunk_bytes: row.number_maybe()?,
        uploaded_at: row.int()?,
        signed: signed(row)?,
    })
}

/// The columns of a signed release; all are NULL where it is not signed.
fn signed(row: &mut Row) -> Result<Option<Signed>, StoreError> {
    let (digest, artifact) = (row.parsed_maybe()?, row.parsed_maybe()?);
    let (sequence, epoch) = (row.number_maybe()?, row.number_maybe()?);
    let (expires, support_until) = (row.number_maybe()?, row.number_maybe()?);
    let (advisory, self_test_deadline_s) = (row.text_maybe()?, row.number_maybe()?);
    let (signed_by, trusted) = (row.text_maybe()?, row.int_maybe()?);
    let Some(digest) = digest else {
        return Ok(None);
    };
    let missing = |what| StoreError::stored(what, &"NULL");
    Ok(Some(Signed {
        digest,
        artifact: artifact.ok_or(missing("an artifact"))?,
        sequence: sequence.ok_or(missing("a sequence"))?,
        epoch: epoch.ok_or(missing("an epoch"))?,
        expires,
        support_until,
        advisory,
        self_test_deadline_s,
        signed_by: key_ids(signed_by.as_deref().unwrap_or("")),
        trusted: trusted == Some(1),
    }))
}

/// Key ids are stored as one text with a space between them.
fn key_ids(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The head is stored as the front of a digest's hex form, so one parser serves both.
fn head(digits: &str) -> Result<[u8; HEAD_BYTES], StoreError> {
    let padded: Result<Sha256, _> = format!("{digits:0<64}").parse();
    let digest = padded.map_err(|_| StoreError::stored("hex digits", &digits))?;
    let mut head = [0; HEAD_BYTES];
    head.copy_from_slice(&digest.0[..HEAD_BYTES]);
    Ok(head)
}

impl Tx {
    /// Stores a release under the next id, which it gets.
    pub async fn insert_release(&mut self, new: &Release) -> Result<Release, StoreError> {
        let id = self
            .one("SELECT COALESCE(MAX(id), 0) + 1 FROM release", [], |row| {
                row.int()
            })
            .await?
            .unwrap_or(1);
        self.run(
            "INSERT INTO release (id, version, project, chip, bytes, sha256, head, elf_sha256, \
             idf_version, secure_version, chip_revision_min, chip_revision_max, notes, lab, yanked, \
             seed_chunk_bytes, uploaded_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, \
             $12, $13, $14, $15, $16, $17)",
            values![
                id,
                &new.version,
                &new.project,
                new.chip,
                new.bytes,
                new.sha256,
                hex::encode(&new.head),
                new.elf,
                new.idf_version.clone(),
                new.secure_version,
                new.chip_revision_min,
                new.chip_revision_max,
                &new.notes,
                new.lab,
                new.yanked,
                new.seed_chunk_bytes,
                new.uploaded_at,
            ],
        )
        .await?;
        if let Some(signed) = &new.signed {
            self.sign_release(id, signed).await?;
        }
        Ok(Release { id, ..new.clone() })
    }

    /// Stores what the release keys have said of a release.
    pub async fn sign_release(&mut self, id: i64, signed: &Signed) -> Result<(), StoreError> {
        self.run(
            "UPDATE release SET signed_sha256 = $1, artifact_sha256 = $2, sequence = $3, \
             epoch = $4, expires = $5, support_until = $6, advisory = $7, \
             self_test_deadline_s = $8, signed_by = $9, trusted = $10 WHERE id = $11",
            values![
                signed.digest,
                signed.artifact,
                signed.sequence,
                signed.epoch,
                signed.expires,
                signed.support_until,
                signed.advisory.clone(),
                signed.self_test_deadline_s,
                signed.signed_by.join(" "),
                signed.trusted,
                id,
            ],
        )
        .await
        .map(drop)
    }

    /// The release of this product and chip that has the sequence.
    pub async fn release_by_sequence(
        &mut self,
        project: &str,
        chip: Option<u16>,
        sequence: u32,
    ) -> Result<Option<Release>, StoreError> {
        let sql = select!("WHERE project = $1 AND chip = $2 AND sequence = $3");
        self.one(sql, values![project, chip, sequence], release)
            .await
    }

    /// All releases, oldest first.
    pub async fn releases(&mut self) -> Result<Vec<Release>, StoreError> {
        self.all(select!("ORDER BY id"), [], release).await
    }

    /// A page of releases, newest first, below `before`.
    pub async fn releases_page(
        &mut self,
        before: i64,
        limit: i64,
    ) -> Result<Vec<Release>, StoreError> {
        let sql = select!("WHERE id < $1 ORDER BY id DESC LIMIT $2");
        self.all(sql, values![before, limit], release).await
    }

    pub async fn release(&mut self, id: i64) -> Result<Option<Release>, StoreError> {
        self.one(select!("WHERE id = $1"), values![id], release)
            .await
    }

    pub async fn release_by_sha(&mut self, sha: Sha256) -> Result<Option<Release>, StoreError> {
        self.one(select!("WHERE sha256 = $1"), values![sha], release)
            .await
    }

    pub async fn release_by_elf(&mut self, elf: Sha256) -> Result<Option<Release>, StoreError> {
        self.one(select!("WHERE elf_sha256 = $1"), values![elf], release)
            .await
    }

    /// Releases with this version text, newest first.
    pub async fn releases_by_version(&mut self, version: &str) -> Result<Vec<Release>, StoreError> {
        let sql = select!("WHERE version = $1 ORDER BY id DESC");
        self.all(sql, values![version], release).await
    }

    pub async fn yank_release(&mut self, id: i64) -> Result<(), StoreError> {
        self.run("UPDATE release SET yanked = 1 WHERE id = $1", values![id])
            .await
            .map(drop)
    }

    /// Devices that run each release.
    pub async fn running_on(&mut self) -> Result<Vec<(i64, u64)>, StoreError> {
        self.all(
            "SELECT release.id, COUNT(*) FROM release \
             JOIN device ON device.elf_sha256 = release.elf_sha256 GROUP BY release.id",
            [],
            |row| Ok((row.int()?, row.number()?)),
        )
        .await
    }
}
