-- Who is told of events. done_event is the place in the history up to which all is done, so that a
-- server that ends in the middle of a delivery makes it again and none is left out. The lease says
-- which node delivers.
CREATE TABLE webhook (
    id BIGINT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    url TEXT NOT NULL,
    kinds TEXT NOT NULL,
    is_enabled BIGINT NOT NULL,
    reason TEXT,
    done_event BIGINT NOT NULL,
    failing_since BIGINT,
    attempts BIGINT NOT NULL,
    retry_at BIGINT NOT NULL,
    lease_owner TEXT NOT NULL,
    lease_until BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

-- Apart, so that no list of webhooks can show one, and so that a dump may leave this table out.
CREATE TABLE webhook_secret (
    webhook BIGINT NOT NULL PRIMARY KEY REFERENCES webhook (id) ON DELETE CASCADE,
    secret TEXT NOT NULL
);

-- The last tries, for people. The place in the history is in webhook.done_event alone.
CREATE TABLE webhook_delivery (
    webhook BIGINT NOT NULL REFERENCES webhook (id) ON DELETE CASCADE,
    id BIGINT NOT NULL,
    event BIGINT NOT NULL,
    kind TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    at BIGINT NOT NULL,
    took_ms BIGINT NOT NULL,
    status BIGINT,
    error TEXT,
    PRIMARY KEY (webhook, id)
);
