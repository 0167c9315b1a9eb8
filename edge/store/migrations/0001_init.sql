-- Truth is a row here. Times are Unix milliseconds. JSON is text.

CREATE TABLE api_keys (
  hash        TEXT PRIMARY KEY,           -- SHA-256 of the key, hex; the key itself is stored nowhere
  id          TEXT NOT NULL UNIQUE,
  name        TEXT NOT NULL,
  created_at  INTEGER NOT NULL,
  revoked_at  INTEGER
) STRICT;

CREATE TABLE files (
  id          TEXT PRIMARY KEY,
  purpose     TEXT NOT NULL,
  filename    TEXT NOT NULL,
  mime        TEXT NOT NULL,
  bytes       INTEGER NOT NULL,
  sha256      TEXT NOT NULL,
  created_at  INTEGER NOT NULL,
  seq         INTEGER NOT NULL UNIQUE     -- order of lists; rises with creation
) STRICT;

CREATE TABLE jobs (
  id                TEXT PRIMARY KEY,
  seq               INTEGER NOT NULL UNIQUE,
  created_at        INTEGER NOT NULL,
  finished_at       INTEGER,
  status            TEXT NOT NULL,
  model             TEXT NOT NULL,        -- as the client named it
  base_model        TEXT NOT NULL,        -- what a backend must have
  suffix            TEXT,
  seed              INTEGER NOT NULL,
  hyperparameters   TEXT NOT NULL,
  mantis            TEXT NOT NULL,
  metadata          TEXT,
  training_file     TEXT NOT NULL,
  validation_file   TEXT,
  training_examples INTEGER NOT NULL,
  trained_tokens    INTEGER,
  fine_tuned_model  TEXT,
  result_files      TEXT NOT NULL DEFAULT '[]',
  error             TEXT,
  lease_token       INTEGER NOT NULL DEFAULT 0,  -- fencing: rises with every grant
  lease_backend     TEXT,
  lease_expires_at  INTEGER,
  fruitless_claims  INTEGER NOT NULL DEFAULT 0,  -- grants since the last new checkpoint
  not_before        INTEGER NOT NULL DEFAULT 0,  -- a queued job waits until then
  revision          TEXT NOT NULL                -- drawn anew by each change: writers compare and swap on it
) STRICT;
CREATE INDEX jobs_by_status ON jobs (status, seq);

CREATE TABLE job_events (
  seq         INTEGER PRIMARY KEY AUTOINCREMENT,
  id          TEXT NOT NULL UNIQUE,
  job_id      TEXT NOT NULL REFERENCES jobs (id),
  key         TEXT NOT NULL,              -- dedupe
  created_at  INTEGER NOT NULL,
  level       TEXT NOT NULL,
  message     TEXT NOT NULL,
  type        TEXT NOT NULL,
  data        TEXT,
  UNIQUE (job_id, key)
) STRICT;
CREATE INDEX job_events_by_job ON job_events (job_id, seq);

-- Uploaded files of checkpoints; visible only once a checkpoint row names them.
CREATE TABLE checkpoint_files (
  job_id      TEXT NOT NULL,
  step        INTEGER NOT NULL,
  token       INTEGER NOT NULL,
  name        TEXT NOT NULL,
  bytes       INTEGER NOT NULL,
  sha256      TEXT NOT NULL,
  PRIMARY KEY (job_id, step, token, name)
) STRICT;

CREATE TABLE checkpoints (
  id          TEXT PRIMARY KEY,
  job_id      TEXT NOT NULL REFERENCES jobs (id),
  step        INTEGER NOT NULL,
  token       INTEGER NOT NULL,           -- part of the blobs' path, so that a late writer cannot overwrite them
  created_at  INTEGER NOT NULL,
  metrics     TEXT NOT NULL,
  files       TEXT NOT NULL,
  model       TEXT NOT NULL,              -- ft:…:ckpt-step-n
  UNIQUE (job_id, step)
) STRICT;

-- Tuned models: names that point to a checkpoint's files.
CREATE TABLE models (
  id          TEXT PRIMARY KEY,
  base        TEXT NOT NULL,
  kind        TEXT NOT NULL,
  job_id      TEXT NOT NULL,
  step        INTEGER NOT NULL,
  created_at  INTEGER NOT NULL,
  listed      INTEGER NOT NULL            -- 1: in GET /v1/models; checkpoints are 0
) STRICT;

CREATE TABLE webhook_endpoints (
  id          TEXT PRIMARY KEY,
  url         TEXT NOT NULL,
  events      TEXT NOT NULL,
  secret      TEXT NOT NULL,              -- needed to sign, so it cannot be hashed
  created_at  INTEGER NOT NULL,
  disabled_at INTEGER,
  seq         INTEGER NOT NULL UNIQUE
) STRICT;

-- The outbox: one row an event and endpoint, written in the transaction of the change it tells of.
CREATE TABLE webhook_deliveries (
  event_id      TEXT NOT NULL,
  endpoint_id   TEXT NOT NULL,
  type          TEXT NOT NULL,
  body          TEXT NOT NULL,
  created_at    INTEGER NOT NULL,
  attempts      INTEGER NOT NULL DEFAULT 0,
  next_at       INTEGER,                  -- null: nothing more to do
  claimed_until INTEGER,
  delivered_at  INTEGER,
  last_status   INTEGER,
  last_error    TEXT,
  PRIMARY KEY (event_id, endpoint_id)
) STRICT;
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_at) WHERE next_at IS NOT NULL;
