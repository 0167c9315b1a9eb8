-- Schedules, their runs, and names for models. Times are Unix ms.

CREATE TABLE schedules (
  id               TEXT PRIMARY KEY,
  seq              INTEGER NOT NULL UNIQUE,
  tenant           TEXT NOT NULL,
  name             TEXT NOT NULL,
  status           TEXT NOT NULL,            -- active, paused, ended, deleted (until its last run has ended)
  created_at       INTEGER NOT NULL,
  updated_at       INTEGER NOT NULL,
  cron             TEXT,                     -- or at: one of them
  time_zone        TEXT NOT NULL,
  at               INTEGER,
  job              TEXT NOT NULL,            -- CreateJobRequest; JSON
  condition        TEXT,
  overlap          TEXT NOT NULL,
  misfire          TEXT NOT NULL,
  keep_models      INTEGER,
  alias            TEXT,
  starts_from      TEXT NOT NULL,
  gate             TEXT,
  metadata         TEXT,
  decided_until    INTEGER NOT NULL,         -- slots up to here have had their effect; never goes back
  next_at          INTEGER,                  -- the first slot after that; null: paused or ended
  trained_digest   TEXT,                     -- data of the last run that trained
  trained_examples INTEGER,
  trained_at       INTEGER,
  retention_due    INTEGER NOT NULL DEFAULT 0,
  revision         TEXT NOT NULL             -- drawn anew by each change
) STRICT;
CREATE INDEX schedules_by_tenant ON schedules (tenant, seq);
CREATE INDEX schedules_due ON schedules (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX schedules_retention ON schedules (seq) WHERE retention_due = 1;

CREATE TABLE schedule_runs (
  id            TEXT PRIMARY KEY,
  seq           INTEGER NOT NULL UNIQUE,
  schedule_id   TEXT NOT NULL,
  tenant        TEXT NOT NULL,
  cause         TEXT NOT NULL,               -- slot, manual
  slot_at       INTEGER NOT NULL,
  status        TEXT NOT NULL,
  created_at    INTEGER NOT NULL,
  started_at    INTEGER,
  finished_at   INTEGER,
  exclusive     INTEGER NOT NULL,            -- 1: never beside another of its schedule
  not_before    INTEGER NOT NULL,            -- a start that failed for a reason that may pass is tried again then
  tries         INTEGER NOT NULL DEFAULT 0,
  skip_reason   TEXT,
  note          TEXT,
  missed        INTEGER NOT NULL DEFAULT 0,
  missed_from   INTEGER,
  data_digest   TEXT,
  examples      INTEGER,
  new_examples  INTEGER,
  job_id        TEXT,
  model         TEXT,                        -- what it trained
  compared_with TEXT,                        -- the alias's model when the gate began; null: it had none
  alias_version INTEGER,                     -- and its version then
  task_id       TEXT,
  decision      TEXT,                        -- GateDecision; JSON
  error         TEXT,
  revision      TEXT NOT NULL                -- drawn anew by each change
) STRICT;
-- Exactly one effect per slot, whatever wakes the scheduler how often.
CREATE UNIQUE INDEX schedule_runs_slot ON schedule_runs (schedule_id, slot_at) WHERE cause = 'slot';
-- Never two at once, whoever starts them.
CREATE UNIQUE INDEX schedule_runs_active ON schedule_runs (schedule_id) WHERE exclusive = 1 AND status IN ('running', 'gating');
CREATE INDEX schedule_runs_by_schedule ON schedule_runs (schedule_id, seq);
CREATE INDEX schedule_runs_by_status ON schedule_runs (status, seq);
CREATE INDEX schedule_runs_by_job ON schedule_runs (job_id) WHERE job_id IS NOT NULL;

CREATE TABLE aliases (
  tenant      TEXT NOT NULL,
  name        TEXT NOT NULL,
  seq         INTEGER NOT NULL UNIQUE,
  model       TEXT NOT NULL,
  version     INTEGER NOT NULL,              -- of the newest change
  description TEXT,
  created_at  INTEGER NOT NULL,
  updated_at  INTEGER NOT NULL,
  PRIMARY KEY (tenant, name)
) STRICT;
CREATE INDEX aliases_by_model ON aliases (tenant, model);

CREATE TABLE alias_changes (
  id          TEXT PRIMARY KEY,
  seq         INTEGER NOT NULL UNIQUE,
  tenant      TEXT NOT NULL,
  name        TEXT NOT NULL,
  version     INTEGER NOT NULL,
  kind        TEXT NOT NULL,                 -- created, promoted, rolled_back
  model       TEXT NOT NULL,
  was         TEXT,
  back        INTEGER,                       -- version that a rollback from here returns to; null: none
  at          INTEGER NOT NULL,
  actor       TEXT NOT NULL,
  reason      TEXT,
  run_id      TEXT,
  comparison  TEXT
) STRICT;
CREATE UNIQUE INDEX alias_changes_version ON alias_changes (tenant, name, version);

-- How many examples a file holds, counted once: what conditions on new examples ask. By content, so equal files of one or several tenants count once.
CREATE TABLE file_examples (
  sha256      TEXT PRIMARY KEY,
  examples    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
