/** From an object that lies in the store to a file that somebody owns. */
import type { FilePurpose } from '../../shared/contract/files.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { newId } from '../../shared/wire/ids.ts';
import { nowMs as clockMs } from '../clock.ts';
import type { Actor } from '../store/audit.ts';
import { auditFile, type FileRow, filePrefix, insertFile, type NewFile } from '../store/files.ts';
import { deleteLoose } from '../store/loose.ts';
import { type ObjectStore, Stage, type Staged } from './stage.ts';

export type FileFacts = {
  purpose: FilePurpose;
  filename: string;
  mime: string;
  /** From now on; null: stays. */
  expiresAfterS: number | null;
};

/** The row that a staged object would become. */
export function fileOf(tenant: string, staged: Staged, facts: FileFacts, nowMs: number): NewFile {
  return {
    id: newId('file-'),
    tenant,
    purpose: facts.purpose,
    filename: facts.filename.slice(0, LIMITS.files.maxNameChars),
    mime: facts.mime,
    bytes: staged.bytes,
    sha256: staged.sha256,
    created_at: nowMs,
    object_key: staged.key,
    expires_at: facts.expiresAfterS === null ? null : nowMs + facts.expiresAfterS * 1000,
  };
}

/**
 * Makes the file, if `guard` (SQL) holds, in one transaction with what comes `along`. Bytes that the tenant already has are not kept twice.
 * @throws where it is not known whether the file was made: the object is loose if it was not, so nothing is to be deleted here
 */
export async function adopt(
  store: ObjectStore,
  actor: Actor,
  staged: Staged,
  facts: FileFacts,
  options: { along?: (file: NewFile) => D1PreparedStatement[]; guard?: string } = {},
): Promise<FileRow> {
  const file = fileOf(actor.tenant, staged, facts, clockMs());
  const [made] = await store.db.batch<FileRow>([
    ...insertFile(store.db, file, options.guard),
    auditFile(store.db, actor, file, options.guard),
    ...(options.along?.(file) ?? []),
  ]);
  const row = made?.results[0];
  if (row === undefined) throw new Error(`file ${file.id} was not written`);
  if (row.object_key !== staged.key) await deleteLoose(store, [staged.key]).catch(() => {});
  return row;
}

/** Writes a file whose bytes are at hand. */
export async function writeFile(
  store: ObjectStore,
  actor: Actor,
  file: FileFacts & { bytes: Uint8Array },
): Promise<FileRow> {
  const prefix = filePrefix(actor.tenant);
  const stage = new Stage(store, { prefix, maxBytes: LIMITS.files.maxBytes, param: 'file' });
  let staged: Staged;
  try {
    await stage.write(file.bytes);
    staged = await stage.finish();
  } catch (error) {
    await stage.discard();
    throw error;
  }
  return adopt(store, actor, staged, file);
}
