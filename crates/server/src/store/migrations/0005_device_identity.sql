-- What a device proves itself with. A row is never removed: who comes with a revoked credential is
-- to be told so, and a key that was revoked does not come back.
CREATE TABLE device_credential (
    id BIGINT NOT NULL PRIMARY KEY,
    device TEXT NOT NULL,
    kind TEXT NOT NULL,
    public_key TEXT,
    state TEXT NOT NULL,
    source TEXT NOT NULL,
    enrolment_key TEXT,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT,
    last_used BIGINT
);
CREATE INDEX device_credential_device ON device_credential (device, id);

-- Apart, so that no list of credentials can show one, and so that a dump may leave this table out.
CREATE TABLE device_secret (
    credential BIGINT NOT NULL PRIMARY KEY REFERENCES device_credential (id),
    secret TEXT NOT NULL
);

CREATE TABLE enrolment_key (
    id BIGINT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    key_id TEXT NOT NULL UNIQUE,
    devices_max BIGINT NOT NULL,
    devices BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    group_name TEXT,
    id_prefix TEXT,
    is_revoked BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE enrolment_secret (
    enrolment_key BIGINT NOT NULL PRIMARY KEY REFERENCES enrolment_key (id),
    secret TEXT NOT NULL
);

-- Devices that may enrol another key, once.
CREATE TABLE re_enrolment (
    device TEXT NOT NULL PRIMARY KEY,
    expires_at BIGINT NOT NULL
);

-- Changes with every change of a credential, so that a node knows when what it remembers is old.
CREATE TABLE credential_generation (value BIGINT NOT NULL);
INSERT INTO credential_generation (value) VALUES (1);
