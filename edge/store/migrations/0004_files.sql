-- Files know where their bytes are: several ids may share one object (equal bytes of one tenant), which goes with the last of them.
ALTER TABLE files ADD COLUMN object_key TEXT;
UPDATE files SET object_key = 'files/' || id;
ALTER TABLE files ADD COLUMN expires_at INTEGER;
CREATE INDEX files_by_content ON files (sha256, tenant);
CREATE INDEX files_by_object ON files (object_key);
CREATE INDEX files_by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL;

-- Objects in the store that no row owns (yet, or any more). Written before the object, struck off in the transaction that makes an owner.
CREATE TABLE loose_objects (
  key         TEXT PRIMARY KEY,
  upload_id   TEXT,                       -- of an unfinished multipart upload
  due_at      INTEGER NOT NULL            -- deleted from then on
) STRICT;
CREATE INDEX loose_objects_due ON loose_objects (due_at);

CREATE TABLE uploads (
  id              TEXT PRIMARY KEY,
  seq             INTEGER NOT NULL UNIQUE,
  tenant          TEXT NOT NULL,
  filename        TEXT NOT NULL,
  purpose         TEXT NOT NULL,
  mime            TEXT NOT NULL,
  bytes           INTEGER NOT NULL,       -- announced
  expires_after_s INTEGER,                -- of the file
  status          TEXT NOT NULL,
  created_at      INTEGER NOT NULL,
  expires_at      INTEGER NOT NULL,
  claim           TEXT,                   -- of whoever is putting the parts together
  claimed_until   INTEGER,
  file_id         TEXT
) STRICT;
CREATE INDEX uploads_pending ON uploads (expires_at) WHERE status = 'pending';

CREATE TABLE upload_parts (
  id          TEXT PRIMARY KEY,
  upload_id   TEXT NOT NULL REFERENCES uploads (id),
  object_key  TEXT NOT NULL,
  bytes       INTEGER NOT NULL,
  created_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX upload_parts_by_upload ON upload_parts (upload_id);

CREATE TABLE batches (
  id              TEXT PRIMARY KEY,
  seq             INTEGER NOT NULL UNIQUE,
  tenant          TEXT NOT NULL,
  key_id          TEXT NOT NULL,          -- who is charged
  status          TEXT NOT NULL,
  endpoint        TEXT NOT NULL,
  input_file_id   TEXT NOT NULL,
  model           TEXT,
  metadata        TEXT,
  expires_after_s INTEGER,                -- of the files it writes
  errors          TEXT,
  output_file_id  TEXT,
  error_file_id   TEXT,
  total           INTEGER NOT NULL DEFAULT 0,
  completed       INTEGER NOT NULL DEFAULT 0,
  failed          INTEGER NOT NULL DEFAULT 0,
  created_at      INTEGER NOT NULL,
  in_progress_at  INTEGER,
  expires_at      INTEGER NOT NULL,
  finalizing_at   INTEGER,
  completed_at    INTEGER,
  failed_at       INTEGER,
  expired_at      INTEGER,
  cancelling_at   INTEGER,
  cancelled_at    INTEGER,
  revision        TEXT NOT NULL           -- drawn anew by each change of the status
) STRICT;
CREATE INDEX batches_by_tenant ON batches (tenant, seq);
CREATE INDEX batches_running ON batches (seq) WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling');
CREATE INDEX batches_by_input ON batches (input_file_id);
