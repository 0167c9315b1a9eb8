-- What is asked and how it is judged.
CREATE TABLE evals (
  id                TEXT PRIMARY KEY,
  tenant            TEXT NOT NULL,
  seq               INTEGER NOT NULL UNIQUE,
  name              TEXT NOT NULL,
  metadata          TEXT,                         -- JSON
  source            TEXT NOT NULL,                -- JSON: data_source_config as it was asked for
  criteria          TEXT NOT NULL,                -- JSON: Grader[]
  created_at        INTEGER NOT NULL,
  updated_at        INTEGER NOT NULL
) STRICT;
CREATE INDEX evals_by_tenant ON evals (tenant, seq);

-- Doing it with one model. How far it is, is its task's state; both have one id.
CREATE TABLE eval_runs (
  id                TEXT PRIMARY KEY,
  tenant            TEXT NOT NULL,
  seq               INTEGER NOT NULL UNIQUE,
  eval_id           TEXT NOT NULL,
  key_id            TEXT NOT NULL,                -- who is billed
  name              TEXT NOT NULL,
  metadata          TEXT,
  model             TEXT NOT NULL,                -- of the answers, as it was asked for; '' where they were given
  data_source       TEXT NOT NULL,                -- JSON, without the lines of file_content
  content_key       TEXT,                         -- object with those lines, JSON Lines
  created_at        INTEGER NOT NULL,
  total             INTEGER NOT NULL DEFAULT 0,   -- lines of the data, once they are counted
  sums              TEXT NOT NULL,                -- JSON: EvalSums over all items that are in eval_items
  report_json_key   TEXT,
  report_html_key   TEXT,
  revision          TEXT NOT NULL
) STRICT;
CREATE INDEX eval_runs_by_eval ON eval_runs (eval_id, seq);
CREATE INDEX eval_runs_by_tenant ON eval_runs (tenant, seq);

-- What came of each line: written once, whoever sends it again.
CREATE TABLE eval_items (
  run_id            TEXT NOT NULL,
  line              INTEGER NOT NULL,             -- from 0
  id                TEXT NOT NULL UNIQUE,
  status            TEXT NOT NULL,                -- pass, fail, error
  created_at        INTEGER NOT NULL,
  body              TEXT NOT NULL,                -- JSON: datasource_item, results, sample
  PRIMARY KEY (run_id, line)
) STRICT, WITHOUT ROWID;
CREATE INDEX eval_items_by_status ON eval_items (run_id, status, line);
