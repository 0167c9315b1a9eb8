import { createHash } from 'node:crypto';
import { readFile, rm, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type CheckpointManifest,
  type CheckpointRequest,
  type EvaluationRequest,
  StagedObject,
  type StoredFile,
  type TrainerEvent,
} from '../../shared/contract/backend.ts';
import type { CheckpointMetrics } from '../../shared/contract/jobs.ts';
import type { TrainStage } from '../../shared/contract/models.ts';
import { sha256File } from '../io/digest.ts';
import { S3ObjectError } from '../io/s3-store.ts';
import type { Evaluated } from './checkpoint-evaluator.ts';
import { DigestMismatch, type EdgeClient, EdgeError } from './edge-client.ts';
import { OutsideFiles } from './outside-files.ts';

/** The edge no longer takes our writes: somebody else has the job, or it was ended. Everything must stop. */
export class LeaseLost extends Error {
  override readonly name = 'LeaseLost';
}

/** A file of a checkpoint is not what was saved, or is gone, however often it is fetched. */
export class BrokenCheckpoint extends Error {
  override readonly name = 'BrokenCheckpoint';
}

/** A cut transfer looks like a damaged file; so often it is fetched before it is taken for one. */
const MAX_FETCHES = 3;
const EVENTS_PER_POST = 100;
const FLUSH_EVERY_MS = 1_000;
/** The edge may be restarting; its own start takes a few seconds. */
const MAX_ATTEMPTS = 12;

/** What a trainer tells the edge and takes from it, under one lease. Calls are repeated while the edge is away. */
export class JobLink {
  readonly #edge: EdgeClient;
  readonly #jobId: string;
  readonly #token: number;
  readonly #outside: OutsideFiles;
  #queued: TrainerEvent[] = [];
  #flushing: Promise<void> = Promise.resolve();
  #lastFlushAt = 0;
  #isLost = false;

  /** @param outside where checkpoints go that are not sent to the edge; default: none */
  constructor(edge: EdgeClient, jobId: string, token: number, outside = new OutsideFiles(null)) {
    this.#outside = outside;
    this.#edge = edge;
    this.#jobId = jobId;
    this.#token = token;
  }

  /** Somebody else has the lease: nothing more is written from here. */
  lose(): void {
    this.#isLost = true;
  }

  /** Notes an event; it is sent with others about once a second. `key` makes repeats after a resume harmless. */
  event(event: Omit<TrainerEvent, 'createdAt'>): void {
    this.#queued.push({ ...event, createdAt: Date.now() });
  }

  /**
   * Sends what is noted about once a second, beside the training: a slow edge must not slow it. A lost lease shows at the next
   * `flush`.
   */
  flushSoon(): void {
    if (this.#queued.length === 0 || performance.now() - this.#lastFlushAt < FLUSH_EVERY_MS) return;
    this.#lastFlushAt = performance.now();
    this.#send().catch(() => {});
  }

  /** Sends everything that is noted, in order. @throws LeaseLost */
  async flush(): Promise<void> {
    await this.#send();
  }

  #send(): Promise<void> {
    // One after another: events keep their order. After a failure every later send fails with it.
    this.#flushing = this.#flushing.then(async () => {
      while (this.#queued.length > 0) {
        const events = this.#queued.slice(0, EVENTS_PER_POST);
        await this.#again(() =>
          this.#edge.post(`/internal/jobs/${this.#jobId}/events`, { token: this.#token, events }),
        );
        this.#queued = this.#queued.slice(events.length);
      }
    });
    return this.#flushing;
  }

  /**
   * Uploads the files of a checkpoint, then its manifest, which makes it visible as a whole.
   * @param about.evaluates an evaluation of it will follow
   * @returns the name that it is served under
   * @throws LeaseLost
   */
  async checkpoint(
    step: number,
    { kind, metrics, evaluates }: { kind: TrainStage; metrics: CheckpointMetrics; evaluates: boolean },
    dir: string,
    names: readonly string[],
  ): Promise<string> {
    const files: CheckpointManifest['files'] = [];
    for (const name of names) {
      const location = this.#outside.locationOf(this.#jobId, step, this.#token, basename(name));
      if (location !== null) {
        files.push(await this.#putOutside(step, join(dir, name), name, location));
        continue;
      }
      const bytes = await readFile(join(dir, name));
      const path = `/internal/jobs/${this.#jobId}/checkpoints/${step}/${encodeURIComponent(basename(name))}`;
      await this.#again(() => this.#edge.upload(path, bytes, this.#token));
      files.push({ name, bytes: bytes.byteLength, sha256: createHash('sha256').update(bytes).digest('hex') });
    }
    const body: CheckpointRequest = { token: this.#token, step, kind, metrics, files, evaluates };
    const answer = await this.#again(() => this.#edge.post(`/internal/jobs/${this.#jobId}/checkpoints`, body));
    const { model } = (answer ?? {}) as { model?: unknown };
    return typeof model === 'string' ? model : '';
  }

  /**
   * Says what an evaluation of a checkpoint found, with a file of all answers; null: it could not be made and will not be.
   * @throws LeaseLost
   */
  async evaluation(step: number, totalSteps: number, found: Evaluated | null, workDir: string): Promise<void> {
    const job = `/internal/jobs/${this.#jobId}`;
    const filename = `${this.#jobId}_step_${step}_answers.jsonl`;
    let outcomes: EvaluationRequest['outcomes'] = null;
    if (found !== null) {
      const path = join(workDir, filename);
      await writeFile(path, found.outcomes);
      const staged = await this.#again(() => this.#edge.putFile(`${job}/staged`, path));
      outcomes = { filename, mime: 'application/jsonl', staged: StagedObject.parse(staged) };
      await rm(path, { force: true });
    }
    const body: EvaluationRequest = { token: this.#token, totalSteps, metrics: found?.metrics ?? null, outcomes };
    await this.#again(() => this.#edge.post(`${job}/checkpoints/${step}/evaluation`, body));
  }

  /** Announced first: what lies in the store is always known to the edge, which says when it may go. */
  async #putOutside(
    step: number,
    path: string,
    name: string,
    location: string,
  ): Promise<CheckpointManifest['files'][number]> {
    const file = { name: basename(name), bytes: (await stat(path)).size, sha256: await sha256File(path), location };
    const announcement = { token: this.#token, step, ...file };
    await this.#again(() => this.#edge.post(`/internal/jobs/${this.#jobId}/checkpoints/${step}/files`, announcement));
    await this.#again(() => this.#outside.put(location, path, file));
    return { ...file, name };
  }

  /** Brings a stored file here. */
  async fetchFile({ id, bytes, sha256 }: StoredFile, path: string): Promise<void> {
    await this.#again(() =>
      this.#edge.download(`/internal/files/${encodeURIComponent(id)}/content`, path, { bytes, sha256 }),
    );
  }

  /** Bytes of a picture that the data only names, as its validation saw them. */
  async readImage(reference: string): Promise<Uint8Array> {
    const path = `/internal/jobs/${this.#jobId}/images?reference=${encodeURIComponent(reference)}`;
    return await this.#again(() => this.#edge.getBytes(path));
  }

  /**
   * Brings a checkpoint of this job here, every file checked against the manifest.
   * @throws BrokenCheckpoint
   */
  async fetchCheckpoint({ step, files }: CheckpointManifest, dir: string): Promise<void> {
    for (const file of files) {
      const path = `/internal/jobs/${this.#jobId}/checkpoints/${step}/${encodeURIComponent(file.name)}`;
      await this.#again(() => this.#fetchWhole(path, join(dir, file.name), file));
    }
  }

  async #fetchWhole(path: string, to: string, file: CheckpointManifest['files'][number]): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        if (file.location === undefined) await this.#edge.download(path, to, file);
        else await this.#outside.get(file.location, to, file);
        return;
      } catch (error) {
        if (error instanceof S3ObjectError && attempt === MAX_FETCHES) throw new BrokenCheckpoint(error.message);
        if (error instanceof S3ObjectError) continue;
        const isGone = error instanceof EdgeError && error.status === 404 && error.code !== 'job_not_found';
        if (!isGone && !(error instanceof DigestMismatch)) throw error;
        if (isGone || attempt === MAX_FETCHES) throw new BrokenCheckpoint(error.message);
      }
    }
  }

  /** Repeats while the edge is away or fails; what it refuses is final. */
  async #again<T>(call: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      if (this.#isLost) throw new LeaseLost('the lease is gone');
      try {
        return await call();
      } catch (error) {
        if (error instanceof BrokenCheckpoint) throw error;
        if (error instanceof EdgeError && error.status >= 400 && error.status < 500) {
          if (error.code === 'stale_lease' || error.code === 'job_not_found' || error.code === 'invalid_state')
            throw new LeaseLost(error.message);
          throw error;
        }
        if (attempt === MAX_ATTEMPTS) throw error;
        await sleep(Math.min(100 * 2 ** attempt, 2_000));
      }
    }
  }
}
