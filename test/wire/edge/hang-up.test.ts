/** Clients that hang up, at every moment of an answer: the backend's place is free at once, each time. */
import assert from 'node:assert/strict';
import { after, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FAULT_CARD, FaultBackend } from './fault-backend.ts';
import { beginPost } from './hang-up.ts';
import { API_KEY, type Installation, startInstallation } from './installation.ts';

/** The bar is 250 ms; whole answers are looked after every 75 ms, and this machine may be busy. */
const MAX_FREE_MS = 1_000;

let door: Installation;
let backend: FaultBackend;

before(async () => {
  door = await startInstallation();
  backend = await FaultBackend.join(door);
  backend.behaviour = 'endless';
});
after(async () => {
  await backend.close();
  await door.close();
});

for (const [name, rounds, body, headers] of [
  ['streams', 40, { stream: true }, {}],
  ['whole answers', 20, {}, {}],
  ['streams that are kept', 20, { stream: true }, { 'idempotency-key': 'k' }],
  ['streams to bodies of unknown length', 20, { stream: true }, { 'transfer-encoding': 'chunked' }],
] as const) {
  it(`${name}: ${rounds} of ${rounds} hang-ups free the backend`, { timeout: 60_000 }, async () => {
    const times: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const key = 'idempotency-key' in headers ? { 'idempotency-key': `k${round}` } : headers;
      const answer = await beginPost(
        `${door.url}/v1/chat/completions`,
        { authorization: `Bearer ${API_KEY}`, ...key },
        { model: FAULT_CARD.id, messages: [{ role: 'user', content: 'x' }], ...body },
      );
      assert.equal(answer.status, 200, answer.first);
      await sleep((round % 10) * 3);
      const before = backend.aborted;
      const startMs = Date.now();
      answer.close();
      while (backend.aborted === before && Date.now() - startMs < MAX_FREE_MS) await sleep(2);
      assert.equal(backend.aborted, before + 1, `round ${round}: not noticed within ${MAX_FREE_MS} ms`);
      times.push(Date.now() - startMs);
    }
    times.sort((a, b) => a - b);
    console.log(`# ${name}: free after ${times[Math.floor(rounds / 2)]} ms in the median, ${times.at(-1)} ms at most`);
  });
}
