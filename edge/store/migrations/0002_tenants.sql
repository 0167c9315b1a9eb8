-- Tenants own things; keys act for them. What was there before belongs to the default tenant, whose id is the 32 zeros below (shared/contract/keys.ts).

CREATE TABLE tenants (
  id          TEXT PRIMARY KEY,           -- 32 hex digits; what backends keep caches apart by
  name        TEXT NOT NULL,
  limits      TEXT NOT NULL DEFAULT '{}', -- defaults of its keys; JSON
  created_at  INTEGER NOT NULL,
  disabled_at INTEGER,
  seq         INTEGER NOT NULL UNIQUE
) STRICT;
INSERT INTO tenants (id, name, created_at, seq) VALUES ('00000000000000000000000000000000', 'default', unixepoch() * 1000, 1);

CREATE TABLE keys_with_tenants (
  hash         TEXT PRIMARY KEY,          -- SHA-256 of the key, hex; the key itself is stored nowhere
  id           TEXT NOT NULL UNIQUE,
  tenant       TEXT NOT NULL REFERENCES tenants (id),
  name         TEXT NOT NULL,
  last4        TEXT NOT NULL,
  scopes       TEXT NOT NULL,             -- JSON array
  limits       TEXT NOT NULL DEFAULT '{}',
  created_at   INTEGER NOT NULL,
  expires_at   INTEGER,
  revoked_at   INTEGER,
  last_used_at INTEGER,                   -- coarse: written once an hour at most
  rotated_to   TEXT,                      -- id of its successor
  seq          INTEGER NOT NULL UNIQUE
) STRICT;
INSERT INTO keys_with_tenants (hash, id, tenant, name, last4, scopes, created_at, revoked_at, seq)
  SELECT hash, id, '00000000000000000000000000000000', name, '',
    '["inference","files","fine_tuning","batches","webhooks","usage","admin"]', created_at, revoked_at, rowid FROM api_keys;
DROP TABLE api_keys;
ALTER TABLE keys_with_tenants RENAME TO api_keys;

ALTER TABLE files ADD COLUMN tenant TEXT NOT NULL DEFAULT '00000000000000000000000000000000';
ALTER TABLE jobs ADD COLUMN tenant TEXT NOT NULL DEFAULT '00000000000000000000000000000000';
ALTER TABLE models ADD COLUMN tenant TEXT NOT NULL DEFAULT '00000000000000000000000000000000';
ALTER TABLE webhook_endpoints ADD COLUMN tenant TEXT NOT NULL DEFAULT '00000000000000000000000000000000';
CREATE INDEX files_by_tenant ON files (tenant, seq);
CREATE INDEX jobs_by_tenant ON jobs (tenant, seq);
CREATE INDEX models_by_tenant ON models (tenant, created_at);
CREATE INDEX webhook_endpoints_by_tenant ON webhook_endpoints (tenant, seq);

-- Who changed what. A row is written in the transaction of its change; the chain over the rows (previous, hash) is added in order right after.
-- Rolled back inserts give their number back, so a gap in seq is a row that was taken out.
CREATE TABLE audit_log (
  seq         INTEGER PRIMARY KEY AUTOINCREMENT,
  id          TEXT NOT NULL UNIQUE,
  at          INTEGER NOT NULL,
  tenant      TEXT NOT NULL,              -- whose thing was changed
  actor       TEXT NOT NULL,              -- key_…, backend or system
  action      TEXT NOT NULL,
  object      TEXT NOT NULL,              -- id of the thing
  data        TEXT NOT NULL,              -- JSON; no secrets
  request_id  TEXT,
  previous    TEXT,
  hash        TEXT
) STRICT;
CREATE INDEX audit_log_unsealed ON audit_log (seq) WHERE hash IS NULL;
