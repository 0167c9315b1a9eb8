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

-- Pictures that training data names, as they were when first read: who trains later reads what was validated. Of a tenant and the bytes of the file that
-- names them; they go with the last file of these bytes.
CREATE TABLE pinned_images (
  tenant      TEXT NOT NULL,
  file_sha256 TEXT NOT NULL,
  reference   TEXT NOT NULL,              -- https URL, file-… or sha256:…; long ones by their digest
  object_key  TEXT NOT NULL,
  bytes       INTEGER NOT NULL,
  sha256      TEXT NOT NULL,
  created_at  INTEGER NOT NULL,
  PRIMARY KEY (tenant, file_sha256, reference)
) STRICT, WITHOUT ROWID;
CREATE INDEX pinned_images_by_object ON pinned_images (object_key);
