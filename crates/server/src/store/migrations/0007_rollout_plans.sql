-- The plan as the operator gave it, and where the rollout stands in it.
ALTER TABLE rollout ADD COLUMN plan TEXT NOT NULL DEFAULT '{}';
ALTER TABLE rollout ADD COLUMN wave BIGINT NOT NULL DEFAULT 0;
ALTER TABLE rollout ADD COLUMN wave_since BIGINT NOT NULL DEFAULT 0;
ALTER TABLE rollout ADD COLUMN wave_devices BIGINT;
ALTER TABLE rollout ADD COLUMN created_by TEXT NOT NULL DEFAULT '';
ALTER TABLE rollout ADD COLUMN approved_by TEXT;
ALTER TABLE rollout ADD COLUMN forgiven BIGINT NOT NULL DEFAULT 0;

ALTER TABLE attempt ADD COLUMN wave BIGINT NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN tries BIGINT NOT NULL DEFAULT 1;
ALTER TABLE attempt ADD COLUMN retry_at BIGINT;
ALTER TABLE attempt ADD COLUMN is_stalled BIGINT NOT NULL DEFAULT 0;
CREATE INDEX attempt_rollout_live ON attempt (rollout) WHERE is_live = 1 AND is_stalled = 0;
CREATE INDEX attempt_rollout_started ON attempt (rollout, created_at);
CREATE INDEX attempt_live_since ON attempt (updated_at) WHERE is_live = 1;

-- The rollout that ordered it because it breached a gate.
ALTER TABLE rollback_order ADD COLUMN rollout BIGINT;
CREATE INDEX rollback_rollout ON rollback_order (rollout);

-- Moments that are moved on by offers: when a budget is free again, until when a wave has devices
-- that wait. Apart from the rollout, because they change without changing the plan.
CREATE TABLE moment (
    name TEXT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL
);

-- What the device says of itself, as JSON objects.
ALTER TABLE device ADD COLUMN attributes TEXT NOT NULL DEFAULT '{}';
ALTER TABLE device ADD COLUMN metrics TEXT NOT NULL DEFAULT '{}';
ALTER TABLE device ADD COLUMN waits TEXT;

-- What operators say of a device.
CREATE TABLE device_tag (
    device TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (device, name)
);

-- A group may be a filter too, and have a budget.
ALTER TABLE device_group ADD COLUMN filter TEXT;
ALTER TABLE device_group ADD COLUMN bytes_per_s BIGINT;
