import { objectStream } from '../eventStream.ts';
import { type BatchRow, getBatch, showBatch } from '../store/batches.ts';

const ENDED: ReadonlySet<BatchRow['status']> = new Set(['completed', 'failed', 'expired', 'cancelled']);

/** A batch as server-sent events (`event: batch`). */
export function streamBatch(db: D1Database, batch: BatchRow): Response {
  return objectStream('batch', batch, {
    show: showBatch,
    hasEnded: ({ status }) => ENDED.has(status),
    again: () => getBatch(db, batch.tenant, batch.id),
  });
}
