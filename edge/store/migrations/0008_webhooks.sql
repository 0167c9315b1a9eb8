-- Events are kept whether somebody wants them or not, so that they can be streamed, and sent to endpoints that were made later.
CREATE TABLE webhook_events (
  seq         INTEGER PRIMARY KEY AUTOINCREMENT,
  id          TEXT NOT NULL UNIQUE,
  tenant      TEXT NOT NULL,
  type        TEXT NOT NULL,
  object_id   TEXT NOT NULL,
  sequence    INTEGER NOT NULL,           -- position among the events of its object, from 1 without gaps
  body        TEXT NOT NULL,              -- what is sent, byte for byte
  created_at  INTEGER NOT NULL,
  UNIQUE (tenant, object_id, sequence)
) STRICT;
CREATE INDEX webhook_events_by_tenant ON webhook_events (tenant, seq);
CREATE INDEX webhook_events_by_age ON webhook_events (created_at);

-- The last sequence of each object: events are deleted after a while, the count goes on.
CREATE TABLE webhook_sequences (
  tenant      TEXT NOT NULL,
  object_id   TEXT NOT NULL,
  last        INTEGER NOT NULL,
  PRIMARY KEY (tenant, object_id)
) STRICT, WITHOUT ROWID;

INSERT INTO webhook_events (id, tenant, type, object_id, sequence, body, created_at)
  SELECT event_id, tenant, type, object_id, sequence, json_set(body, '$.data.sequence', sequence), created_at FROM (
    SELECT event_id, tenant, type, object_id, body, created_at,
      ROW_NUMBER() OVER (PARTITION BY tenant, object_id ORDER BY created_at, event_id) AS sequence
    FROM (SELECT d.event_id, MAX(e.tenant) AS tenant, MAX(d.type) AS type, MAX(json_extract(d.body, '$.data.id')) AS object_id,
        MAX(d.body) AS body, MAX(d.created_at) AS created_at
      FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id GROUP BY d.event_id))
  ORDER BY created_at, sequence;
INSERT INTO webhook_sequences SELECT tenant, object_id, MAX(sequence) FROM webhook_events GROUP BY tenant, object_id;

-- The outbox: one row an event and endpoint, written in the transaction of the change it tells of.
CREATE TABLE deliveries_of_events (
  seq           INTEGER PRIMARY KEY AUTOINCREMENT,
  event_id      TEXT NOT NULL,
  endpoint_id   TEXT NOT NULL,
  tenant        TEXT NOT NULL,
  type          TEXT NOT NULL,
  status        TEXT NOT NULL DEFAULT 'pending', -- pending, delivered, failed (a dead letter), cancelled
  attempts      INTEGER NOT NULL DEFAULT 0,      -- that ended, since it was last begun anew
  next_at       INTEGER,                         -- while it is claimed, when the claim runs out; null: nothing more to do
  claimed_until INTEGER,                         -- names the claim
  created_at    INTEGER NOT NULL,
  ended_at      INTEGER,
  last_status   INTEGER,
  last_error    TEXT,
  UNIQUE (event_id, endpoint_id)
) STRICT;
INSERT INTO deliveries_of_events (event_id, endpoint_id, tenant, type, status, attempts, next_at, created_at, ended_at, last_status, last_error)
  SELECT d.event_id, d.endpoint_id, e.tenant, d.type,
    CASE WHEN d.delivered_at IS NOT NULL THEN 'delivered' WHEN d.next_at IS NOT NULL THEN 'pending'
      WHEN e.disabled_at IS NOT NULL THEN 'cancelled' ELSE 'failed' END,
    d.attempts, d.next_at, d.created_at,
    CASE WHEN d.next_at IS NULL THEN COALESCE(d.delivered_at, d.created_at) END, d.last_status, d.last_error
  FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id ORDER BY d.rowid;
DROP TABLE webhook_deliveries;
ALTER TABLE deliveries_of_events RENAME TO webhook_deliveries;
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, next_at) WHERE next_at IS NOT NULL;
CREATE INDEX webhook_deliveries_by_endpoint ON webhook_deliveries (endpoint_id, seq);
CREATE INDEX webhook_deliveries_by_tenant ON webhook_deliveries (tenant, seq);

-- What each attempt came to.
CREATE TABLE webhook_attempts (
  seq         INTEGER PRIMARY KEY AUTOINCREMENT,
  event_id    TEXT NOT NULL,
  endpoint_id TEXT NOT NULL,
  at          INTEGER NOT NULL,
  duration_ms INTEGER NOT NULL,
  status      INTEGER,                    -- of HTTP; null: no answer
  error       TEXT,
  response    TEXT                        -- its first bytes
) STRICT;
CREATE INDEX webhook_attempts_by_delivery ON webhook_attempts (event_id, endpoint_id, seq);
CREATE INDEX webhook_attempts_by_age ON webhook_attempts (at);

ALTER TABLE webhook_endpoints ADD COLUMN description TEXT;
ALTER TABLE webhook_endpoints ADD COLUMN disabled_reason TEXT;        -- requested, gone or failing
ALTER TABLE webhook_endpoints ADD COLUMN failing_since INTEGER;       -- first failure with no success after it
ALTER TABLE webhook_endpoints ADD COLUMN old_secrets TEXT NOT NULL DEFAULT '[]'; -- JSON: [{secret, until}], sign beside the new one until then
UPDATE webhook_endpoints SET disabled_reason = 'gone' WHERE disabled_at IS NOT NULL;
-- Who wanted all seven types there were wants all.
UPDATE webhook_endpoints SET events = '["*"]' WHERE json_array_length(events) >= 7;
