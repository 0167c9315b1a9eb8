import { DurableObject } from 'cloudflare:workers';
import type { BatchError } from '../../shared/contract/batches.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { nowMs, platformMs } from '../clock.ts';
import { type Env, scheduler } from '../env.ts';
import { objectParts } from '../files/read.ts';
import { resolveModel } from '../fleet/models.ts';
import { splitLines } from '../jobs/lines.ts';
import { type BatchRow, countBatch, findBatch, moveBatch } from '../store/batches.ts';
import { fileKey, findFile } from '../store/files.ts';
import { InputCheck } from './check.ts';
import { Ledger, type LedgerLine } from './ledger.ts';
import { Lines } from './lines.ts';
import { writeResults } from './results.ts';

const B = LIMITS.batches;
/** Lines written into the ledger at once while the input is read. */
const ADD_LINES = 500;
/** After a failure of ours, the object looks again. */
const FAILED_GAP_MS = 5_000;
/** Nobody serves the model yet. */
const NO_BACKEND_GAP_MS = 2_000;
/** An alarm may run for 15 minutes; a turn ends well before, and the next one takes over where it stood. */
const TURN_MS = 60_000;

/**
 * One batch at work. An object of its own for each, because the platform runs it once at a time (nobody else needs to be kept out, so there are no
 * leases), its alarm outlives crashes, and its ledger takes a line in a tenth of a millisecond without a network hop. What people see is in D1: a change
 * of status is one transaction with its files and webhooks. Killed at any point, the next alarm finds the status in D1 and the lines in the ledger and
 * goes on; a line that was under way is computed again, but settled once.
 */
export class BatchRunner extends DurableObject<Env> {
  readonly #ledger = new Ledger(this.ctx.storage);
  /** Ends what is under way; null between turns. */
  #stop: AbortController | null = null;

  /** There is something to do. @param id the batch; the object is found by this name */
  async wake(id: string): Promise<void> {
    await this.ctx.storage.put('id', id);
    if (this.#stop === null) await this.ctx.storage.setAlarm(platformMs(nowMs()));
  }

  /** The batch was cancelled: lines under way are given up. */
  async cancel(id: string): Promise<void> {
    this.#stop?.abort();
    await this.wake(id);
  }

  override async alarm(): Promise<void> {
    if (this.#stop !== null) return;
    this.#stop = new AbortController();
    let gapMs: number | null = FAILED_GAP_MS;
    try {
      gapMs = await this.#turn(this.#stop);
    } catch (error) {
      // An alarm that throws is repeated six times and then gone for good.
      console.error(JSON.stringify({ level: 'error', event: 'batch', error: String(error) }));
    } finally {
      this.#stop = null;
    }
    // A batch that has ended leaves nothing here; the object itself goes when nobody calls it.
    if (gapMs === null) await this.ctx.storage.deleteAll();
    else await this.ctx.storage.setAlarm(platformMs(nowMs() + gapMs));
  }

  /** One step on. @returns when to look again, ms from now; null where the batch has ended */
  async #turn(stop: AbortController): Promise<number | null> {
    const id = await this.ctx.storage.get<string>('id');
    const batch = id === undefined ? null : await findBatch(this.env.DB, id);
    if (batch === null) return null;
    switch (batch.status) {
      case 'validating':
        return await this.#validate(batch);
      case 'in_progress':
        return await this.#execute(batch, stop);
      case 'finalizing':
      case 'cancelling':
        await writeResults(this.env, batch, this.#ledger);
        await scheduler(this.env).wake();
        return 0;
      default:
        return null;
    }
  }

  async #validate(batch: BatchRow): Promise<number> {
    const checked = (await this.ctx.storage.get<Checked>('checked')) ?? (await this.#check(batch));
    return checked === null ? 0 : await this.#begin(batch, checked);
  }

  /** Reads the whole input into the ledger. @returns null where something is wrong with it, which the batch then says */
  async #check(batch: BatchRow): Promise<Checked | null> {
    const { DB: db, BLOBS: blobs } = this.env;
    this.#ledger.clear();
    const file = await findFile(db, batch.input_file_id);
    if (file === null || (await blobs.head(fileKey(file))) === null)
      return this.#fail(batch, [
        { code: 'file_not_found', message: 'The input file was deleted.', param: 'input_file_id', line: null },
      ]);
    const input = new InputCheck(batch.endpoint);
    let lines: Omit<LedgerLine, 'attempts'>[] = [];
    for await (const line of splitLines(
      objectParts(blobs, fileKey(file), { offset: 0, length: file.bytes }),
      B.maxLineBytes,
    )) {
      const custom_id = input.take(line);
      if (input.isHopeless) break;
      if (custom_id === null || input.errors.length > 0) continue;
      lines.push({ number: line.number, at: line.at, bytes: line.bytes?.byteLength ?? 0, custom_id });
      if (lines.length < ADD_LINES) continue;
      this.#ledger.add(lines);
      lines = [];
    }
    this.#ledger.add(lines);
    input.finish();
    if (input.errors.length > 0) return this.#fail(batch, input.errors);
    if (input.model === null) throw new Error(`batch ${batch.id}: lines without a model passed the check`);
    const checked = { model: input.model, total: input.requests };
    await this.ctx.storage.put<Checked>('checked', checked);
    return checked;
  }

  async #begin(batch: BatchRow, { model, total }: Checked): Promise<number> {
    const { id, tenant } = batch;
    let resolved = model;
    try {
      resolved = (await resolveModel(this.env, tenant, model)).id;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.code === 'model_not_found') {
        await this.#fail(batch, [{ code: error.code, message: error.message, param: 'body.model', line: 1 }]);
        return 0;
      }
      // Nobody serves it now; that may change until the window closes.
      if (nowMs() < batch.expires_at) return NO_BACKEND_GAP_MS;
    }
    await moveBatch(this.env.DB, id, ['validating'], 'in_progress', nowMs(), {
      change: { model: resolved, total },
      tenant,
    });
    return 0;
  }

  async #fail({ id, tenant, status }: BatchRow, errors: readonly BatchError[]): Promise<null> {
    const change = { errors: JSON.stringify(errors) };
    await moveBatch(this.env.DB, id, [status], 'failed', nowMs(), { change, tenant });
    await scheduler(this.env).wake();
    return null;
  }

  async #execute(batch: BatchRow, stop: AbortController): Promise<number> {
    const { DB: db } = this.env;
    const now = nowMs;
    const file = await findFile(db, batch.input_file_id);
    if (file === null || now() >= batch.expires_at) {
      await moveBatch(db, batch.id, ['in_progress'], 'finalizing', now(), { tenant: batch.tenant });
      return 0;
    }
    const counts = this.#ledger.counts();
    let shownAtMs = now();
    const lines = new Lines(this.env, batch, fileKey(file), this.#ledger, {
      stop,
      untilMs: Math.min(now() + TURN_MS, batch.expires_at),
      waitUntil: (work) => this.ctx.waitUntil(work),
      onSettled: (as) => {
        counts[as === 'output' ? 'completed' : 'failed']++;
        if (now() - shownAtMs < B.countEveryMs) return;
        shownAtMs = now();
        this.ctx.waitUntil(countBatch(db, batch.id, { ...counts }).catch(() => {}));
      },
    });
    const isDone = await lines.run();
    await countBatch(db, batch.id, counts);
    if (isDone || now() >= batch.expires_at)
      await moveBatch(db, batch.id, ['in_progress'], 'finalizing', now(), { tenant: batch.tenant });
    return 0;
  }
}

/** What the input asks for, once it is known to be good. */
type Checked = { model: string; total: number };
