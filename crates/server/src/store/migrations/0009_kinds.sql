-- One short row for each device that was ever seen, so that a look at the whole fleet reads few bytes
-- and a sighting writes few. The kind is what the device shares with many others, and 0 until it is
-- worked out (the server does that when it starts). There is no index over last_seen, because a
-- sighting would have to write it too.
CREATE TABLE sighting (
    device TEXT NOT NULL PRIMARY KEY,
    kind BIGINT NOT NULL,
    last_seen BIGINT NOT NULL
);
INSERT INTO sighting (device, kind, last_seen) SELECT id, 0, last_seen FROM device;
CREATE INDEX sighting_kind ON sighting (kind, device);
ALTER TABLE device DROP COLUMN last_seen;

-- What a kind of device is, as JSON, under its SHA-256, and how many devices are of it. Only kinds
-- that a device has are kept.
CREATE TABLE kind (
    id BIGINT NOT NULL PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    facts TEXT NOT NULL,
    devices BIGINT NOT NULL,
    version TEXT,
    chip BIGINT
);

CREATE INDEX block_release ON block (release, device);
CREATE INDEX attempt_state ON attempt (state, device);
CREATE INDEX attempt_ended ON attempt (updated_at) WHERE is_live = 0;
