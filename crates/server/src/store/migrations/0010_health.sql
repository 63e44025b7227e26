-- When the device was last seen to have restarted by panic or watchdog.
ALTER TABLE device ADD COLUMN crashed_at BIGINT;

-- What it measured last as rssi, in dBm.
ALTER TABLE device ADD COLUMN rssi BIGINT;

-- A hash of its id, so that the first devices in this order are a fair sample of all.
ALTER TABLE device ADD COLUMN spread BIGINT NOT NULL DEFAULT 0;
CREATE INDEX device_spread ON device (spread, id);
