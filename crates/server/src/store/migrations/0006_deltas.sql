-- A patch for a release: out of the image of from_release, or out of nothing where that is NULL. What
-- it is made of never changes, so it is made once. A lease says who is at it: when it is over, that
-- server is gone, and another takes it up.
CREATE TABLE delta (
    id BIGINT NOT NULL PRIMARY KEY,
    release BIGINT NOT NULL REFERENCES release (id),
    from_release BIGINT REFERENCES release (id),
    profile TEXT NOT NULL,
    state TEXT NOT NULL,
    sha256 TEXT,
    bytes BIGINT,
    made_in_ms BIGINT,
    detail TEXT,
    queued_at BIGINT NOT NULL,
    leased_until BIGINT,
    tries BIGINT NOT NULL
);
CREATE UNIQUE INDEX delta_once ON delta (release, profile, from_release) WHERE from_release IS NOT NULL;
CREATE UNIQUE INDEX delta_full_once ON delta (release, profile) WHERE from_release IS NULL;
CREATE INDEX delta_open ON delta (id) WHERE state IN ('queued', 'making');

-- The largest patches that the device can apply, NULL where it takes whole images only.
ALTER TABLE device ADD COLUMN patches TEXT;

-- The patch that an attempt was offered.
ALTER TABLE attempt ADD COLUMN patch_sha256 TEXT;
ALTER TABLE attempt ADD COLUMN patch_bytes BIGINT;
ALTER TABLE attempt ADD COLUMN patch_given_up BIGINT NOT NULL DEFAULT 0;
CREATE INDEX attempt_patched ON attempt (release) WHERE patch_sha256 IS NOT NULL;
