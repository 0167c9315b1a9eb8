/** The end of a batch: its results become files, and its last state is written with them. */
import type { BatchResult, BatchStatus } from '../../shared/contract/batches.ts';
import { errorMessage } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { newId } from '../../shared/wire/ids.ts';
import { nowMs as clockMs } from '../clock.ts';
import type { Env } from '../env.ts';
import { fileOf } from '../files/adopt.ts';
import { Stage } from '../files/stage.ts';
import { auditEntry } from '../store/audit.ts';
import { type BatchRow, moveBatch } from '../store/batches.ts';
import { auditFile, filePrefix, insertFile, type NewFile } from '../store/files.ts';
import type { Ledger } from './ledger.ts';

/** Written to the store at once. */
const WRITE_CHARS = 262_144;
const OPEN_LINES = 500;

/**
 * Writes output and error file and ends the batch. Lines that were not executed stand in the error file with the reason. The files come to be in the
 * transaction that ends the batch, so they are there once, however often this is begun; what a broken attempt has written is swept.
 */
export async function writeResults(env: Env, batch: BatchRow, ledger: Ledger): Promise<void> {
  const counts = ledger.counts();
  const isWhole = counts.completed + counts.failed === counts.total;
  const to: BatchStatus =
    batch.status === 'cancelling' ? 'cancelled' : isWhole && counts.total > 0 ? 'completed' : 'expired';
  const nowMs = clockMs();
  const output = await write(env, batch, 'output', ledger.results('output'), nowMs);
  const errors = await write(env, batch, 'error', both(ledger.results('error'), unexecuted(ledger, to)), nowMs);
  const files = [output, errors].filter((file) => file !== null);
  const actor = { tenant: batch.tenant, keyId: 'system', requestId: null };
  await moveBatch(env.DB, batch.id, [batch.status], to, nowMs, {
    tenant: batch.tenant,
    change: {
      total: counts.total,
      completed: counts.completed,
      failed: counts.failed,
      output_file_id: output?.id ?? null,
      error_file_id: errors?.id ?? null,
    },
    along: (guard) => [
      ...files.flatMap((file) => [...insertFile(env.DB, file, guard), auditFile(env.DB, actor, file, guard)]),
      auditEntry(env.DB, actor, { action: `batch.${to}`, object: batch.id, data: counts }, guard),
    ],
  });
}

/** @returns the file that the text becomes once its row is written; null where there is no text */
async function write(
  env: Env,
  batch: BatchRow,
  name: 'output' | 'error',
  text: Iterable<string>,
  nowMs: number,
): Promise<NewFile | null> {
  const store = { db: env.DB, blobs: env.BLOBS };
  // What the product writes may be larger than what it takes.
  const stage = new Stage(store, {
    prefix: filePrefix(batch.tenant),
    maxBytes: LIMITS.uploads.maxBytes,
    param: `${name}_file_id`,
  });
  const encoder = new TextEncoder();
  try {
    let held = '';
    for (const piece of text) {
      held += piece;
      if (held.length < WRITE_CHARS) continue;
      await stage.write(encoder.encode(held));
      held = '';
    }
    if (held !== '') await stage.write(encoder.encode(held));
    if (stage.bytes === 0) {
      await stage.discard();
      return null;
    }
    const staged = await stage.finish();
    return fileOf(
      batch.tenant,
      staged,
      {
        purpose: 'batch_output',
        filename: `${batch.id}_${name}.jsonl`,
        mime: 'application/jsonl',
        expiresAfterS: batch.expires_after_s,
      },
      nowMs,
    );
  } catch (error) {
    await stage.discard();
    throw error;
  }
}

/** Lines that nobody got to, as OpenAI lists them. */
function* unexecuted(ledger: Ledger, status: BatchStatus): Generator<string, void, undefined> {
  const error =
    status === 'cancelled'
      ? { code: 'batch_cancelled', message: 'This request was not executed: the batch was cancelled.' }
      : {
          code: 'batch_expired',
          message: errorMessage('This request', {
            expected: 'its turn within the completion window',
            received: 'none',
            remedy: 'Send it again in another batch.',
          }),
        };
  let last = 0;
  for (;;) {
    const lines = ledger.open(last, OPEN_LINES);
    for (const { number, custom_id } of lines) {
      const result: BatchResult = { id: newId('batch_req_'), custom_id, response: null, error };
      yield `${JSON.stringify(result)}\n`;
      last = number;
    }
    if (lines.length < OPEN_LINES) return;
  }
}

function* both(first: Iterable<string>, second: Iterable<string>): Generator<string, void, undefined> {
  yield* first;
  yield* second;
}
