-- Checkpoint files that a backend keeps in a store of its own.
ALTER TABLE checkpoint_files ADD COLUMN location TEXT;  -- s3://bucket/key; null: an object of ours, under the key of its path

-- Files in such stores that no checkpoint owns (any more). Backends delete them and say so.
CREATE TABLE outside_objects (
  location    TEXT PRIMARY KEY,
  due_at      INTEGER NOT NULL          -- deleted from then on
) STRICT;
CREATE INDEX outside_objects_due ON outside_objects (due_at);
