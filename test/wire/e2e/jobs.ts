import assert from 'node:assert/strict';
import type OpenAI from 'openai';
import { z } from 'zod';

type Job = OpenAI.FineTuning.FineTuningJob;

const FINAL = new Set(['succeeded', 'failed', 'cancelled']);

/** Polls a job until it has ended; throws with its last events when that takes too long. */
export async function waitForEnd(client: OpenAI, id: string, timeoutMs: number): Promise<Job> {
  return waitFor(client, id, timeoutMs, (job) => FINAL.has(job.status));
}

/** Polls a job until `isThere`, or until it has ended otherwise. */
export async function waitFor(
  client: OpenAI,
  id: string,
  timeoutMs: number,
  isThere: (job: Job) => boolean | Promise<boolean>,
): Promise<Job> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const job = await client.fineTuning.jobs.retrieve(id);
    if ((await isThere(job)) || FINAL.has(job.status)) return job;
    if (Date.now() > deadline) {
      const events = await client.fineTuning.jobs.listEvents(id);
      const said = events.data.map((event) => `${event.level} ${event.message}`).join('\n');
      assert.fail(`job ${id} is still ${job.status} after ${timeoutMs} ms; its newest events:\n${said}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

const Endpoint = z.object({ id: z.string(), secret: z.string().startsWith('whsec_'), url: z.string() });

/** `POST /v1/webhook_endpoints`; the official client has no method for it. */
export async function createEndpoint(
  client: OpenAI,
  url: string,
  events: readonly string[],
): Promise<z.infer<typeof Endpoint>> {
  return Endpoint.parse(await client.post('/webhook_endpoints', { body: { url, events } }));
}
