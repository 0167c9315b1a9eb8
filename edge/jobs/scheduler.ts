import { DurableObject } from 'cloudflare:workers';
import { nowMs, platformMs } from '../clock.ts';
import { auditChain, type Env } from '../env.ts';
import { sweepFiles, wakeBatches } from '../files/sweep.ts';
import { sweepFeatures } from '../store/features.ts';
import { countRunning } from '../store/jobs.ts';
import { sweepWebhooks } from '../store/webhooks.ts';
import { advanceAll } from '../tasks/advance.ts';
import { wakeSenders } from '../webhooks/dispatch.ts';
import { sweepLeases } from './sweep.ts';

const MIN_GAP_MS = 100;
const BUSY_GAP_MS = 1_000;
/** Even with nothing to do the rows are looked at this often: a wake-up may have been lost. */
const IDLE_GAP_MS = 15_000;
/** Between two looks for files that are over, uploads that broke off and batches that lost their alarm. */
const FILES_GAP_MS = 10_000;
/** Between two looks through all stored features. */
const FEATURES_GAP_MS = 3_600_000;
/** Between two looks for events that were kept long enough, and how many are deleted at once. */
const WEBHOOKS_GAP_MS = 600_000;
const WEBHOOKS_PAGE = 500;

/**
 * The installation's clock: one alarm that gives back dead workers' jobs, wakes who sends due webhooks and deletes old features, then sets itself again. The alarm is stored, so it also
 * fires after a crash; what it does is in D1, so it may fire twice.
 */
export class Scheduler extends DurableObject<Env> {
  #filesDueAtMs = 0;
  #webhooksDueAtMs = 0;

  /** Makes sure that an alarm is set, and soon. */
  async ensure(): Promise<void> {
    const set = await this.ctx.storage.getAlarm();
    // One that lies further ahead than any was set by a clock that has been put back since.
    if (set === null || set > Date.now() + IDLE_GAP_MS) await this.ctx.storage.setAlarm(Date.now());
  }

  /** Something has become due. */
  async wake(): Promise<void> {
    await this.ctx.storage.setAlarm(Date.now());
  }

  override async alarm(): Promise<void> {
    let gapMs = BUSY_GAP_MS;
    try {
      // First, since somebody waits for it; and again for what the rest has made.
      await wakeSenders(this.env, nowMs());
      await sweepLeases(this.env, nowMs());
      const schedules = await advanceAll(this.env);
      await wakeSenders(this.env, nowMs());
      this.#chainAudit();
      await this.#sweepFiles(nowMs());
      await this.#sweepWebhooks(nowMs());
      await this.#sweepFeatures();
      gapMs = schedules.isBusy || (await countRunning(this.env.DB)) > 0 ? BUSY_GAP_MS : IDLE_GAP_MS;
      if (schedules.nextAtMs !== null) gapMs = Math.min(gapMs, Math.max(schedules.nextAtMs - nowMs(), MIN_GAP_MS));
    } catch (error) {
      // An alarm that throws is repeated six times and then gone for good.
      console.error(JSON.stringify({ level: 'error', event: 'scheduler', error: String(error) }));
    }
    await this.#armAfter(gapMs);
  }

  async #sweepFiles(atMs: number): Promise<void> {
    if (atMs < this.#filesDueAtMs) return;
    await wakeBatches(this.env);
    this.#filesDueAtMs = (await sweepFiles(this.env, atMs)) ? 0 : atMs + FILES_GAP_MS;
  }

  async #sweepWebhooks(atMs: number): Promise<void> {
    if (atMs < this.#webhooksDueAtMs) return;
    this.#webhooksDueAtMs = (await sweepWebhooks(this.env.DB, atMs, WEBHOOKS_PAGE)) ? 0 : atMs + WEBHOOKS_GAP_MS;
  }

  /** Beside the rest: neither waits for the other, and a log that cannot be chained now is chained the next time. */
  #chainAudit(): void {
    const chained = Promise.resolve(auditChain(this.env).seal()).catch((error: unknown) =>
      console.error(JSON.stringify({ level: 'error', event: 'audit_chain', error: String(error) })),
    );
    this.ctx.waitUntil(chained);
  }

  /** A page at a time, and all pages once in `FEATURES_GAP_MS`. */
  async #sweepFeatures(): Promise<void> {
    const sweep = (await this.ctx.storage.get<FeatureSweep>('featureSweep')) ?? { cursor: null, dueAtMs: 0 };
    if (nowMs() < sweep.dueAtMs) return;
    const cursor = await sweepFeatures(this.env.BLOBS, sweep.cursor, nowMs());
    const dueAtMs = cursor === null ? nowMs() + FEATURES_GAP_MS : 0;
    await this.ctx.storage.put<FeatureSweep>('featureSweep', { cursor, dueAtMs });
  }

  async #armAfter(gapMs: number): Promise<void> {
    // A wake-up that came meanwhile has set an earlier alarm.
    const set = await this.ctx.storage.getAlarm();
    const atMs = platformMs(nowMs() + gapMs);
    if (set === null || set > atMs) await this.ctx.storage.setAlarm(atMs);
  }
}

/** How far the look through stored features has come. */
type FeatureSweep = { cursor: string | null; dueAtMs: number };
