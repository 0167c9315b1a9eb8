/** What was used, from the end of a request to its row. */
import { LIMITS } from '../../shared/contract/limits.ts';
import { randomText } from '../../shared/wire/ids.ts';
import type { Env } from '../env.ts';
import type { RequestFacts } from '../metrics/facts.ts';
import { insertUsage, type UsageRow } from '../store/usage.ts';

/** A picture as it was sent, in reading order; equal ones stand there each. */
export type UsedImage = { digest: string; bytes: number; width: number; height: number; tokens: number };

/** What validation knows of a request for a model and what outlives the request's bytes. */
export type Metered = { model: string; images: readonly UsedImage[]; bytesIn: number };

/** Who asked for what, in which way. */
export type UsageContext = {
  requestId: string;
  tenant: string;
  keyId: string;
  route: string;
  /** 499: the client hung up. */
  status: number;
  /** Of which batch which line it was: one that is computed again after a crash counts once. */
  batch?: { id: string; line: number };
};

/** A picture of validation without its bytes. */
type Validated = {
  readonly model: { readonly id: string };
  readonly images: readonly { digest: string; bytes: Uint8Array; info: { width: number; height: number } }[];
  readonly imageTokens: readonly number[];
};

/** @param bytesIn of the request's body or the batch's line */
export function meteredOf({ model, images, imageTokens }: Validated, bytesIn: number): Metered {
  return {
    model: model.id,
    images: images.map(({ digest, bytes, info }, i) => ({
      digest,
      bytes: bytes.byteLength,
      width: info.width,
      height: info.height,
      tokens: imageTokens[i] ?? 0,
    })),
    bytesIn,
  };
}

let drawn = 0;

/** Rises with time within an isolate; two isolates draw apart. */
function usageId(nowMs: number): string {
  drawn = (drawn + 1) % 0x1000000;
  return `${nowMs.toString(36).padStart(9, '0')}${drawn.toString(36).padStart(5, '0')}${randomText(10)}`;
}

/** Null where no model was reached: nothing was used. An answer that was cut counts for what had been made of it. */
export function usageRow(metered: Metered, facts: RequestFacts, context: UsageContext, nowMs: number): UsageRow | null {
  if (facts.promptTokens === 0 && facts.completionTokens === 0) return null;
  return {
    id: context.batch === undefined ? usageId(nowMs) : `${context.batch.id}:${context.batch.line}`,
    request_id: context.requestId,
    at: nowMs,
    tenant: context.tenant,
    key_id: context.keyId,
    model: metered.model,
    route: context.route,
    status: context.status,
    prompt_tokens: facts.promptTokens,
    completion_tokens: facts.completionTokens,
    cached_tokens: facts.cachedTokens,
    image_tokens: metered.images.reduce((sum, { tokens }) => sum + tokens, 0),
    images: metered.images.map((image, i) => ({ ...image, cache: facts.imageSources[i] ?? 'none' })),
    bytes_in: metered.bytesIn,
    duration_ms: Math.max(0, nowMs - facts.startMs),
    batch: context.batch?.id ?? null,
  };
}

/** Keeps work going after the answer. */
type Background = { waitUntil(work: Promise<unknown>): void };

let waiting: UsageRow[] = [];
/** When the flush under way was begun or last wrote, Unix ms; null: there is none. One whose request was ended under it is not waited for. */
let flushingMs: number | null = null;
const FLUSH_LOST_MS = 60_000;

/**
 * Adds a row. Rows wait in the isolate for `flushMs` for others and are written in one statement; an isolate that is killed loses what it had not
 * written. While the database fails they wait on, up to `maxBuffered`.
 */
export function recordUsage(env: Env, ctx: Background, row: UsageRow | null): void {
  if (row === null) return;
  waiting.push(row);
  const nowMs = Date.now();
  if (flushingMs !== null && nowMs - flushingMs < FLUSH_LOST_MS) return;
  flushingMs = nowMs;
  ctx.waitUntil(flush(env));
}

const FLUSH_TRIES = 5;

async function flush(env: Env): Promise<void> {
  try {
    for (let failures = 0; failures < FLUSH_TRIES; ) {
      await new Promise((resolve) => setTimeout(resolve, LIMITS.usage.flushMs * 2 ** failures));
      const rows = waiting;
      waiting = [];
      try {
        await insertUsage(env.DB, rows);
        // What came meanwhile has nobody else to write it.
        if (waiting.length === 0) return;
        failures = 0;
        flushingMs = Date.now();
      } catch (error) {
        failures++;
        waiting = [...rows, ...waiting];
        const lost = waiting.length - LIMITS.usage.maxBuffered;
        if (lost > 0) waiting = waiting.slice(lost);
        console.error(
          JSON.stringify({
            level: 'error',
            event: 'usage',
            rows: rows.length,
            lost: Math.max(lost, 0),
            error: String(error),
          }),
        );
      }
    }
  } finally {
    flushingMs = null;
  }
}
