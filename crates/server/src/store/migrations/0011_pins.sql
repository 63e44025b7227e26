-- What an operator has pinned a device to: one release, or, where that is null, none at all.
CREATE TABLE device_pin (
    device TEXT NOT NULL PRIMARY KEY,
    release BIGINT,
    reason TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- The half hours in which a device checked in: the number of the newest, counted from 1970, and 48
-- bits, of which the lowest is that half hour and the next one the half hour before.
ALTER TABLE sighting ADD COLUMN heard_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sighting ADD COLUMN heard BIGINT NOT NULL DEFAULT 0;
