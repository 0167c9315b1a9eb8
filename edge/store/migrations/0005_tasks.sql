-- Jobs train on several lists of data in several stages, after their data was validated.
ALTER TABLE jobs ADD COLUMN training TEXT NOT NULL DEFAULT '[]';      -- JSON: DataSpec[], as it was when the job was made
ALTER TABLE jobs ADD COLUMN validation TEXT;                          -- JSON: DataSpec
ALTER TABLE jobs ADD COLUMN stages TEXT NOT NULL DEFAULT '[]';        -- JSON: Stage[]
ALTER TABLE jobs ADD COLUMN left_out TEXT NOT NULL DEFAULT '[]';      -- JSON: LeftOut, decided by validation
ALTER TABLE jobs ADD COLUMN examples TEXT NOT NULL DEFAULT '[]';      -- JSON: usable examples by list
ALTER TABLE jobs ADD COLUMN validation_task TEXT;                     -- the task whose report decides
ALTER TABLE jobs ADD COLUMN validated INTEGER NOT NULL DEFAULT 0;     -- 1: its data is decided
ALTER TABLE jobs ADD COLUMN schedule_id TEXT;
ALTER TABLE jobs ADD COLUMN estimated_finish INTEGER;                 -- by the last step's pace
UPDATE jobs SET validated = 1,
  training = json_array(json_object('files', json_array(json_object('file_id', training_file,
    'filename', COALESCE((SELECT filename FROM files WHERE id = training_file), training_file),
    'file', json_object('id', training_file, 'bytes', COALESCE((SELECT bytes FROM files WHERE id = training_file), 0),
      'sha256', COALESCE((SELECT sha256 FROM files WHERE id = training_file), '')))), 'balancing', json('false'))),
  validation = CASE WHEN validation_file IS NULL THEN NULL ELSE json_object('files', json_array(json_object('file_id', validation_file,
    'filename', COALESCE((SELECT filename FROM files WHERE id = validation_file), validation_file),
    'file', json_object('id', validation_file, 'bytes', COALESCE((SELECT bytes FROM files WHERE id = validation_file), 0),
      'sha256', COALESCE((SELECT sha256 FROM files WHERE id = validation_file), '')))), 'balancing', json('false')) END,
  stages = json_array(json_patch(json_object('train', mantis ->> '$.stage', 'n_epochs', hyperparameters -> '$.n_epochs', 'batch_size',
    hyperparameters -> '$.batch_size', 'learning_rate_multiplier', hyperparameters -> '$.learning_rate_multiplier', 'data', 0),
    json_object('lora', json(mantis -> '$.lora')))),
  examples = json_array(training_examples);

-- Files that unfinished work (a job or a task) reads; while it does they are not deleted.
CREATE TABLE work_files (
  work_id     TEXT NOT NULL,
  file_id     TEXT NOT NULL,
  PRIMARY KEY (work_id, file_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX work_files_by_file ON work_files (file_id);
INSERT INTO work_files SELECT id, training_file FROM jobs WHERE status IN ('validating_files', 'queued', 'running');
INSERT OR IGNORE INTO work_files SELECT id, validation_file FROM jobs
  WHERE status IN ('validating_files', 'queued', 'running') AND validation_file IS NOT NULL;

-- Shorter work for backends, leased as jobs are. A dataset validation is a task of kind 'validate'; its id is dsval_…
CREATE TABLE tasks (
  id                TEXT PRIMARY KEY,
  tenant            TEXT NOT NULL,
  seq               INTEGER NOT NULL UNIQUE,
  kind              TEXT NOT NULL,                -- validate, compare
  subject           TEXT,                         -- the job or schedule run it is for; null: a client asked for it alone
  base_model        TEXT NOT NULL,                -- what a backend must have
  request           TEXT NOT NULL,                -- JSON: what a client asked for, to show it again
  spec              TEXT NOT NULL,                -- JSON: TaskSpec
  input_digest      TEXT,                         -- equal inputs have equal results
  created_at        INTEGER NOT NULL,
  finished_at       INTEGER,
  status            TEXT NOT NULL,                -- queued, running, succeeded, failed, cancelled
  result_key        TEXT,                         -- object in the store: the result, JSON
  error             TEXT,
  lease_token       INTEGER NOT NULL DEFAULT 0,
  lease_backend     TEXT,
  lease_expires_at  INTEGER,
  fruitless_claims  INTEGER NOT NULL DEFAULT 0,
  not_before        INTEGER NOT NULL DEFAULT 0,
  revision          TEXT NOT NULL
) STRICT;
CREATE INDEX tasks_by_status ON tasks (status, seq);
CREATE INDEX tasks_by_subject ON tasks (subject);
CREATE INDEX tasks_by_tenant ON tasks (tenant, kind, seq);
CREATE INDEX tasks_by_input ON tasks (input_digest) WHERE input_digest IS NOT NULL;
