-- Answers of requests with an Idempotency-Key, and of creations that a client may send again by itself.
CREATE TABLE kept_answers (
  tenant       TEXT NOT NULL,
  key          TEXT NOT NULL,             -- 'key ' and the client's, or 'body ' and the fingerprint of a creation without one
  token        TEXT NOT NULL,             -- of the request that has the row; drawn anew by each
  fingerprint  TEXT,                      -- null while the body is being read
  started_at   INTEGER NOT NULL,
  status       INTEGER,                   -- null while the request runs
  headers      TEXT,                      -- JSON
  body         TEXT,
  expires_at   INTEGER NOT NULL,
  UNIQUE (tenant, key)
) STRICT;
CREATE INDEX kept_answers_by_expiry ON kept_answers (expires_at);
CREATE INDEX kept_answers_by_tenant ON kept_answers (tenant, expires_at);

-- What was used: one row a request that reached a model, one a picture in it. Rows are added and never changed. Ids rise with time, so that rows are added
-- at the end; a batch of rows that is written again after a failure counts once.
CREATE TABLE usage_requests (
  id                TEXT PRIMARY KEY,
  request_id        TEXT NOT NULL,        -- which a client may have chosen
  at                INTEGER NOT NULL,     -- when it ended
  tenant            TEXT NOT NULL,
  key_id            TEXT NOT NULL,
  model             TEXT NOT NULL,
  route             TEXT NOT NULL,
  status            INTEGER NOT NULL,     -- 499: the client hung up
  prompt_tokens     INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  cached_tokens     INTEGER NOT NULL,
  image_tokens      INTEGER NOT NULL,
  images            INTEGER NOT NULL,
  bytes_in          INTEGER NOT NULL,
  duration_ms       INTEGER NOT NULL,
  batch             TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_requests_by_tenant ON usage_requests (tenant, at);

CREATE TABLE usage_images (
  usage_id    TEXT NOT NULL,
  position    INTEGER NOT NULL,           -- in reading order
  digest      TEXT NOT NULL,
  bytes       INTEGER NOT NULL,
  width       INTEGER NOT NULL,
  height      INTEGER NOT NULL,
  tokens      INTEGER NOT NULL,
  cache       TEXT NOT NULL,              -- where its features came from; 'none': they were computed
  PRIMARY KEY (usage_id, position)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER usage_requests_stay BEFORE UPDATE ON usage_requests BEGIN SELECT RAISE(ABORT, 'usage is only added'); END;
CREATE TRIGGER usage_images_stay BEFORE UPDATE ON usage_images BEGIN SELECT RAISE(ABORT, 'usage is only added'); END;
