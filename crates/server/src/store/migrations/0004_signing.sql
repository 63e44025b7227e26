-- What the release keys have said of a release, all NULL where it is not signed.
ALTER TABLE release ADD COLUMN signed_sha256 TEXT;
ALTER TABLE release ADD COLUMN artifact_sha256 TEXT;
ALTER TABLE release ADD COLUMN sequence BIGINT;
ALTER TABLE release ADD COLUMN epoch BIGINT;
ALTER TABLE release ADD COLUMN expires BIGINT;
ALTER TABLE release ADD COLUMN support_until BIGINT;
ALTER TABLE release ADD COLUMN advisory TEXT;
ALTER TABLE release ADD COLUMN self_test_deadline_s BIGINT;
ALTER TABLE release ADD COLUMN signed_by TEXT;
ALTER TABLE release ADD COLUMN trusted BIGINT;
CREATE UNIQUE INDEX release_sequence ON release (project, chip, sequence);

-- What a device trusts, as it says itself.
ALTER TABLE device ADD COLUMN root_version BIGINT;
ALTER TABLE device ADD COLUMN epoch BIGINT;
ALTER TABLE device ADD COLUMN log_size BIGINT;
ALTER TABLE device ADD COLUMN log_root TEXT;

-- Roots are blobs. This is their order.
CREATE TABLE root (
    version BIGINT NOT NULL PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE,
    added_at BIGINT NOT NULL
);

CREATE TABLE product (
    name TEXT NOT NULL PRIMARY KEY,
    allows_unsigned BIGINT NOT NULL
);

-- Append-only: the entries of the Merkle tree in their order, from 0.
CREATE TABLE release_log (
    entry BIGINT NOT NULL PRIMARY KEY,
    sha256 TEXT NOT NULL,
    release BIGINT REFERENCES release (id),
    added_at BIGINT NOT NULL
);
INSERT INTO release_log (entry, sha256, release, added_at)
SELECT ROW_NUMBER() OVER (ORDER BY id) - 1, sha256, id, uploaded_at FROM release;
