-- Checkpoints that are, or are to be, evaluated by their answers to held-out questions.
CREATE TABLE checkpoint_evals (
  job_id       TEXT NOT NULL,
  step         INTEGER NOT NULL,
  checkpoint   TEXT NOT NULL,           -- ftckpt_…; receivers hear of it when it has been evaluated
  model        TEXT NOT NULL,
  created_at   INTEGER NOT NULL,
  evaluated_at INTEGER,                 -- null: still to be made
  accuracy     REAL,
  file_id      TEXT,                    -- a line a question; null: none
  PRIMARY KEY (job_id, step)
) STRICT, WITHOUT ROWID;

ALTER TABLE jobs ADD COLUMN held_out TEXT;                                     -- what checkpoints and a gate are asked, as it was when the job was made
ALTER TABLE schedule_runs ADD COLUMN result_files TEXT NOT NULL DEFAULT '[]';  -- files of its gate
