-- Runs that ended while nobody worked on them have no report of the answers they have until a backend is asked for one.
ALTER TABLE eval_runs ADD COLUMN report_tries INTEGER NOT NULL DEFAULT 0;   -- backends that were asked
CREATE INDEX eval_runs_without_report ON eval_runs (seq) WHERE report_json_key IS NULL;
