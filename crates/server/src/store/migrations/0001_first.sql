CREATE TABLE generation (value BIGINT NOT NULL);
INSERT INTO generation (value) VALUES (1);

CREATE TABLE release (
    id BIGINT NOT NULL PRIMARY KEY,
    version TEXT NOT NULL,
    project TEXT NOT NULL,
    chip BIGINT,
    bytes BIGINT NOT NULL,
    sha256 TEXT NOT NULL UNIQUE,
    head TEXT NOT NULL,
    elf_sha256 TEXT UNIQUE,
    idf_version TEXT,
    secure_version BIGINT NOT NULL,
    chip_revision_min BIGINT NOT NULL,
    chip_revision_max BIGINT,
    notes TEXT NOT NULL,
    lab BIGINT NOT NULL,
    yanked BIGINT NOT NULL,
    seed_chunk_bytes BIGINT,
    uploaded_at BIGINT NOT NULL
);
CREATE INDEX release_version ON release (version);

CREATE TABLE device (
    id TEXT NOT NULL PRIMARY KEY,
    protocol TEXT NOT NULL,
    chip BIGINT,
    chip_revision BIGINT,
    project TEXT,
    version TEXT,
    elf_sha256 TEXT,
    confirmed BIGINT,
    slot BIGINT,
    slots TEXT NOT NULL,
    rollback_slot BIGINT,
    reset TEXT,
    warning TEXT,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL
);
CREATE INDEX device_elf ON device (elf_sha256);

CREATE TABLE device_group (
    name TEXT NOT NULL PRIMARY KEY,
    created_at BIGINT NOT NULL
);
CREATE TABLE group_member (
    group_name TEXT NOT NULL REFERENCES device_group (name) ON DELETE CASCADE,
    device TEXT NOT NULL,
    PRIMARY KEY (group_name, device)
);
CREATE INDEX group_member_device ON group_member (device);

CREATE TABLE rollout (
    id BIGINT NOT NULL PRIMARY KEY,
    release BIGINT NOT NULL REFERENCES release (id),
    targets TEXT NOT NULL,
    state TEXT NOT NULL,
    held BIGINT NOT NULL,
    reason TEXT,
    failures_max BIGINT,
    rollback_on_failure BIGINT NOT NULL,
    trial_deadline_s BIGINT NOT NULL,
    allow_product_change BIGINT NOT NULL,
    idempotency_key TEXT UNIQUE,
    created_at BIGINT NOT NULL
);
CREATE INDEX rollout_state ON rollout (state);

-- One device in one rollout. A retry sets is_current to 0, and the device's next check-in makes a new
-- row: a row that has ended is never changed again.
CREATE TABLE attempt (
    id BIGINT NOT NULL PRIMARY KEY,
    rollout BIGINT NOT NULL REFERENCES rollout (id),
    device TEXT NOT NULL,
    release BIGINT NOT NULL REFERENCES release (id),
    is_current BIGINT NOT NULL,
    is_live BIGINT NOT NULL,
    from_version TEXT,
    from_elf TEXT,
    state TEXT NOT NULL,
    detail TEXT,
    bytes_done BIGINT NOT NULL,
    bytes_total BIGINT NOT NULL,
    bytes_sent BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    installs BIGINT NOT NULL,
    is_back BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX attempt_current ON attempt (rollout, device) WHERE is_current = 1;
CREATE INDEX attempt_device ON attempt (device, id);
CREATE INDEX attempt_live ON attempt (device) WHERE is_live = 1;

-- Stands until the device is seen on another image, or refuses.
CREATE TABLE rollback_order (
    id BIGINT NOT NULL PRIMARY KEY,
    device TEXT NOT NULL,
    leave_elf TEXT,
    leave_version TEXT,
    release BIGINT REFERENCES release (id),
    reason TEXT NOT NULL,
    state TEXT NOT NULL,
    code TEXT,
    requested_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE UNIQUE INDEX rollback_standing ON rollback_order (device) WHERE state = 'standing';
CREATE INDEX rollback_device ON rollback_order (device, id);

-- Releases that are never offered to a device again.
CREATE TABLE block (
    device TEXT NOT NULL,
    release BIGINT NOT NULL REFERENCES release (id),
    reason TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (device, release)
);

CREATE TABLE event (
    id BIGINT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    device TEXT,
    rollout BIGINT,
    release BIGINT,
    actor TEXT NOT NULL,
    text TEXT NOT NULL,
    state TEXT
);
CREATE INDEX event_device ON event (device, id);
CREATE INDEX event_rollout ON event (rollout, id);

-- What a device that speaks only the seed's API last said, as JSON of compat/.
CREATE TABLE seed_device (
    device TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL
);
