import { DurableObject } from 'cloudflare:workers';
import { nowMs, platformMs } from '../clock.ts';
import { egressOf } from '../egress/fetch.ts';
import type { Env } from '../env.ts';
import { flush } from '../metrics/collector.ts';
import { logSettings } from '../middleware/log.ts';
import { Lane } from './lane.ts';

/** An alarm may run for 15 minutes; a turn ends well before, and the next one takes over. */
const TURN_MS = 300_000;
/** After a failure of ours, the object looks again. */
const FAILED_GAP_MS = 5_000;

/**
 * Sends to one endpoint. An object of its own for each: the platform waits for the answers of only six connections at once for whoever has begun them, so
 * in one place that sent to all, a few endpoints that hang would keep everybody else waiting. What is to be sent is in D1; the alarm only says when to look,
 * and an object that has lost its alarm is woken by the scheduler.
 */
export class WebhookSender extends DurableObject<Env> {
  #id: string | null = null;
  #lane: Lane | null = null;
  /** Somebody came while the lane was at work, perhaps after it had looked for the last time. */
  #isPoked = false;
  /** The platform lets no second object of this name live, so what another one had claimed it will not finish. */
  #takesOver = true;

  /** Something is due. @param id the endpoint; the object is found by this name */
  async wake(id: string): Promise<void> {
    if (this.#lane !== null) {
      this.#lane.poke();
      this.#isPoked = true;
      return;
    }
    if (this.#id === null) await this.ctx.storage.put('id', id);
    this.#id = id;
    await this.#armAt(nowMs());
  }

  override async alarm(): Promise<void> {
    const id = this.#id ?? (await this.ctx.storage.get<string>('id'));
    if (id === undefined || this.#lane !== null) return;
    this.#id = id;
    let nextAtMs: number | null = nowMs() + FAILED_GAP_MS;
    const { env } = this;
    const log = (entry: Readonly<Record<string, unknown>>) => {
      if (logSettings({ LOG_LEVEL: String(entry.level) }).least >= logSettings(env).least)
        console.log(JSON.stringify(entry));
    };
    const context = { db: env.DB, egress: egressOf(env), nowMs, log, takesOver: this.#takesOver };
    const lane = new Lane(context, id);
    this.#lane = lane;
    this.#isPoked = false;
    try {
      nextAtMs = await lane.run(nowMs() + TURN_MS);
      this.#takesOver = false;
      // No request of a client runs here that would tell them.
      await flush(this.env);
    } catch (error) {
      // An alarm that throws is repeated six times and then gone for good.
      this.#takesOver = true;
      console.error(JSON.stringify({ level: 'error', event: 'deliver', endpoint: id, error: String(error) }));
    } finally {
      this.#lane = null;
    }
    if (this.#isPoked) nextAtMs = nowMs();
    if (nextAtMs !== null) await this.#armAt(nextAtMs);
  }

  async #armAt(atMs: number): Promise<void> {
    const set = await this.ctx.storage.getAlarm();
    const alarmMs = platformMs(atMs);
    if (set === null || set > alarmMs) await this.ctx.storage.setAlarm(alarmMs);
  }
}
