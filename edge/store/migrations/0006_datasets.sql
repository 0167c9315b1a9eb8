-- Datasets: named lists of files, with what is taken of each. What jobs are made from is copied into the job, so a dataset may grow at any time.
CREATE TABLE datasets (
  id          TEXT PRIMARY KEY,
  seq         INTEGER NOT NULL UNIQUE,
  tenant      TEXT NOT NULL,
  name        TEXT NOT NULL,
  created_at  INTEGER NOT NULL,
  updated_at  INTEGER NOT NULL,
  version     INTEGER NOT NULL,           -- rises with every change of the digest
  digest      TEXT NOT NULL,              -- of the files' bytes and the mixture
  subsets     TEXT NOT NULL,              -- JSON array
  balancing   INTEGER NOT NULL,
  bytes       INTEGER NOT NULL,
  examples    INTEGER,                    -- counted by the last validation of this version
  metadata    TEXT,
  revision    TEXT NOT NULL               -- drawn anew by each change: writers compare and swap on it
) STRICT;
CREATE INDEX datasets_by_tenant ON datasets (tenant, seq);

-- Which files a dataset names: these are not deleted.
CREATE TABLE dataset_files (
  file_id     TEXT NOT NULL,
  dataset_id  TEXT NOT NULL REFERENCES datasets (id),
  PRIMARY KEY (file_id, dataset_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX dataset_files_by_dataset ON dataset_files (dataset_id);

-- Pictures that training data names (uploads, addresses on the web), as they were when first read: who trains reads what was validated. `scope` is the
-- digest of the files that name them; an object may also be that of a file, and goes with the last row that names it.
CREATE TABLE pinned_images (
  tenant      TEXT NOT NULL,
  scope       TEXT NOT NULL,
  digest      TEXT NOT NULL,              -- SHA-256 of the reference, hex
  reference   TEXT NOT NULL,              -- https URL, file-… or sha256:…
  object_key  TEXT NOT NULL,
  bytes       INTEGER NOT NULL,
  sha256      TEXT NOT NULL,
  pinned_at   INTEGER NOT NULL,
  PRIMARY KEY (tenant, scope, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX pinned_images_by_object ON pinned_images (object_key);
CREATE INDEX pinned_images_by_content ON pinned_images (tenant, sha256);
CREATE INDEX pinned_images_by_age ON pinned_images (pinned_at);

-- Jobs and tasks that have read pictures of a scope: while one has not ended, they stay.
CREATE TABLE pin_readers (
  tenant      TEXT NOT NULL,
  scope       TEXT NOT NULL,
  work_id     TEXT NOT NULL,
  PRIMARY KEY (tenant, scope, work_id)
) STRICT, WITHOUT ROWID;

-- How far a validation is; JSON.
ALTER TABLE tasks ADD COLUMN progress TEXT;
