-- Evaluations of several tenants take turns: whose was served last waits longest.
ALTER TABLE tasks ADD COLUMN claimed_at INTEGER NOT NULL DEFAULT 0;   -- of the newest grant, Unix ms; 0 before the first
CREATE INDEX tasks_by_turn ON tasks (tenant, kind, claimed_at);
