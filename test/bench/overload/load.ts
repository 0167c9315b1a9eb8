/**
 * Open-loop load in a process of its own: requests are due at random times (Poisson) whatever became of the others, timed from when they were due.
 * Clients retry as told, as the official ones do. A message with a `Task` is answered with its `Outcome`.
 */
import { Agent, request as httpRequest } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { OVERLOAD_CARD } from './card.ts';

export type Task = {
  url: string;
  apiKey: string;
  /** Requests a second. */
  rate: number;
  seconds: number;
  /** Further tries of a client that is told to come back. */
  retries: number;
  /** Every so many-th is streamed. */
  streamEvery: number;
};
export type Sample = { dueMs: number; ms: number; status: number; tries: number; retryAfter: boolean };
export type Outcome = { samples: Sample[] };

const agent = new Agent({ keepAlive: true, maxSockets: 4_096 });
const ERROR_EVENT = '"error":{';

process.on('message', (task: Task) => {
  void run(task).then((outcome) => process.send?.(outcome));
});
process.on('disconnect', () => process.exit());

async function run(task: Task): Promise<Outcome> {
  const samples: Sample[] = [];
  const running: Promise<void>[] = [];
  const startMs = performance.now();
  let dueMs = startMs;
  for (let i = 0; ; i++) {
    dueMs += (-Math.log(1 - Math.random()) / task.rate) * 1_000;
    if (dueMs > startMs + task.seconds * 1_000) break;
    const waitMs = dueMs - performance.now();
    if (waitMs > 1) await sleep(waitMs);
    running.push(one(i, dueMs));
  }
  await Promise.all(running);
  return { samples };

  async function one(number: number, due: number): Promise<void> {
    for (let tries = 1; ; tries++) {
      const { status, retryAfterMs } = await ask(task, number % task.streamEvery === 0);
      const again = (status === 503 || status === 502 || status === 429 || status === 0) && tries <= task.retries;
      if (!again) {
        samples.push({
          dueMs: due - startMs,
          ms: performance.now() - due,
          status,
          tries,
          retryAfter: retryAfterMs !== null,
        });
        return;
      }
      await sleep(retryAfterMs ?? 500 * 2 ** (tries - 1));
    }
  }
}

/** Status; 0 where the answer broke or ended with an error event. */
function ask(task: Task, stream: boolean): Promise<{ status: number; retryAfterMs: number | null }> {
  const body = JSON.stringify({
    model: OVERLOAD_CARD.id,
    messages: [{ role: 'user', content: 'How many are there?' }],
    max_tokens: 5,
    stream,
  });
  return new Promise((resolve) => {
    const broken = () => resolve({ status: 0, retryAfterMs: null });
    const request = httpRequest(`${task.url}/v1/chat/completions`, {
      agent,
      method: 'POST',
      headers: {
        authorization: `Bearer ${task.apiKey}`,
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(body),
      },
    });
    request.on('error', broken);
    request.on('response', (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (piece: string) => (text += piece));
      response.on('error', broken);
      response.on('end', () => {
        const after = response.headers['retry-after-ms'];
        const status = response.statusCode ?? 0;
        const isWhole =
          status !== 200 || (!text.includes(ERROR_EVENT) && (!stream || text.endsWith('data: [DONE]\n\n')));
        resolve({ status: isWhole ? status : 0, retryAfterMs: after === undefined ? null : Number(after) });
      });
    });
    request.end(body);
  });
}
