/**
 * Fine-tuning jobs created under an Idempotency-Key by clients that send each several times at once and break some connections off: one job a key, the
 * same one in every answer. `npm run bench -- idempotency [--keys 2000]`. Ends with one line of JSON.
 */
import { type ClientRequest, request } from 'node:http';
import { parseArgs } from 'node:util';
import { FAULT_CARD, FaultBackend } from '../wire/edge/fault-backend.ts';
import { API_KEY, startInstallation } from '../wire/edge/installation.ts';

const { values } = parseArgs({ options: { keys: { type: 'string', default: '2000' } } });
const keys = Number(values.keys);
const CUT_SHARE = 0.2;
const AT_ONCE = 16;

const door = await startInstallation();
const backend = await FaultBackend.join(door);
const authorization = `Bearer ${API_KEY}`;

const line = JSON.stringify({
  messages: [
    { role: 'user', content: 'Say yes.' },
    { role: 'assistant', content: 'yes' },
  ],
});
const form = new FormData();
form.set('purpose', 'fine-tune');
form.set('file', new File([line], 'train.jsonl'));
const file = (await (
  await fetch(`${door.url}/v1/files`, { method: 'POST', headers: { authorization }, body: form })
).json()) as { id: string };

const job = (i: number) => ({ model: FAULT_CARD.id, training_file: file.id, seed: i, suffix: `k${i}` });

type Answer = { status: number; id: string | null; waitMs: number };

/** @param cutAfterMs breaks the connection off; null then comes back unless the answer was quicker */
function post(key: string, body: object, cutAfterMs: number | null): Promise<Answer | null> {
  return new Promise((resolve) => {
    const headers = { authorization, 'content-type': 'application/json', 'idempotency-key': key };
    const call: ClientRequest = request(`${door.url}/v1/fine_tuning/jobs`, { method: 'POST', headers });
    const timer = cutAfterMs === null ? undefined : setTimeout(() => call.destroy(), cutAfterMs);
    call.on('error', () => resolve(null));
    call.on('response', (response) => {
      let text = '';
      response.on('data', (chunk: Buffer) => (text += chunk.toString()));
      response.on('error', () => resolve(null));
      response.on('close', () => {
        clearTimeout(timer);
        if (!response.complete) return resolve(null);
        const { id = null } = JSON.parse(text) as { id?: string };
        resolve({ status: response.statusCode ?? 0, id, waitMs: Number(response.headers['retry-after-ms'] ?? 50) });
      });
    });
    call.end(JSON.stringify(body));
  });
}

const statuses = new Map<string, number>();
const note = (what: string) => statuses.set(what, (statuses.get(what) ?? 0) + 1);
let posts = 0;
let different = 0;
let unanswered = 0;

async function oneKey(i: number): Promise<void> {
  const times = 1 + (i % 5);
  const ids = new Set<string>();
  await Promise.all(
    Array.from({ length: times }, async () => {
      const cut = Math.random() < CUT_SHARE ? Math.random() * 30 : null;
      posts++;
      const answer = await post(`job-${i}`, job(i), cut);
      note(answer === null ? 'broken off' : String(answer.status));
      if (answer?.id != null) ids.add(answer.id);
    }),
  );
  // Who got no answer asks again, as it is told.
  for (let tries = 0; tries < 100; tries++) {
    const answer = await post(`job-${i}`, job(i), null);
    posts++;
    note(String(answer?.status));
    if (answer?.id != null) {
      ids.add(answer.id);
      break;
    }
    if (tries === 99) unanswered++;
    await new Promise((resolve) => setTimeout(resolve, answer?.waitMs ?? 50));
  }
  if (ids.size > 1) different++;
}

const startMs = Date.now();
let next = 0;
await Promise.all(
  Array.from({ length: AT_ONCE }, async () => {
    while (next < keys) await oneKey(next++);
  }),
);
const seconds = (Date.now() - startMs) / 1000;

let jobs = 0;
for (let after: string | null = ''; after !== null; ) {
  const page = (await door.call('GET', `/v1/fine_tuning/jobs?limit=100${after === '' ? '' : `&after=${after}`}`))
    .body as {
    data: { id: string }[];
    has_more: boolean;
    last_id: string | null;
  };
  jobs += page.data.length;
  after = page.has_more ? page.last_id : null;
}
let mismatches = 0;
const probes = Math.min(keys, 50);
for (let i = 0; i < probes; i++) if ((await post(`job-${i}`, job(-1 - i), null))?.status === 422) mismatches++;

await backend.close();
await door.close();

console.log(`${keys} keys, ${posts} posts in ${seconds.toFixed(1)} s: ${jobs} jobs`);
console.log(`answers: ${[...statuses].map(([what, count]) => `${what} ${count}`).join(', ')}`);
const ok = jobs === keys && different === 0 && unanswered === 0 && mismatches === probes;
console.log(
  JSON.stringify({ bench: 'idempotency', keys, posts, jobs, different, unanswered, mismatches, probes, seconds, ok }),
);
process.exitCode = ok ? 0 : 1;
