/** The fleet through the real Worker: backends that are silent, come late, drain, or know a picture already. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { png } from '../../null/edge/pictures.ts';
import { FaultBackend } from './fault-backend.ts';
import { type Installation, startInstallation, until } from './installation.ts';

const ask = (text: string, more: object = {}) => ({
  model: 'faulty',
  messages: [{ role: 'user' as const, content: text }],
  ...more,
});
const withPicture = (side: number) => ({
  model: 'faulty',
  messages: [
    {
      role: 'user' as const,
      content: [
        {
          type: 'image_url' as const,
          image_url: { url: `data:image/png;base64,${Buffer.from(png(side, 8)).toString('base64')}` },
        },
      ],
    },
  ],
});

let door: Installation;
const joined: FaultBackend[] = [];
const join = async (id: string) => {
  const backend = await FaultBackend.join(door, id);
  joined.push(backend);
  return backend;
};
const leave = async (backend: FaultBackend) => {
  await backend.report('heartbeat', 'draining');
  await backend.close();
};

describe('fleet', () => {
  before(async () => {
    door = await startInstallation({ vars: { HEDGE_MS: '1000' } });
  });
  after(async () => {
    for (const backend of joined) await backend.close();
    await door.close();
  });

  it('asks a second backend where the first is silent, takes its answer and lets the first go', async () => {
    const [a, b] = [await join('a'), await join('b')];
    a.behaviour = 'silent';
    b.behaviour = 'silent';
    const startMs = Date.now();
    const asked = door.openai.chat.completions.create(ask('hedge'));
    // Whoever is asked first stays silent, however long it takes until it is asked.
    while (a.seen.length + b.seen.length === 0) await sleep(1);
    for (const backend of [a, b]) backend.behaviour = 'answer';
    const completion = await asked;
    assert.equal(completion.choices[0]?.message.content, 'Hello');
    assert.ok(Date.now() - startMs >= 1_000);
    await until(() => a.aborted + b.aborted === 1, 15_000, 'the silent one is let go');
    assert.equal(a.seen.length + b.seen.length, 2);
    await leave(a);
    await leave(b);
  });

  it('sends the same picture to the same backend', async () => {
    const backends = [await join('c'), await join('d'), await join('e')];
    await sleep(600);
    for (const side of [8, 9, 10, 11])
      for (let i = 0; i < 3; i++) await door.openai.chat.completions.create(withPicture(side));
    const sides = backends.map(({ seen }) => new Set(seen.map(({ blobs }) => blobs[0]?.[19])));
    assert.equal(
      sides.reduce((sum, { size }) => sum + size, 0),
      4,
      'each picture went to one backend',
    );
    for (const backend of backends) await leave(backend);
  });

  it('holds a request for a backend that has just gone and comes back', async () => {
    const first = await join('f');
    await door.openai.chat.completions.create(ask('before'));
    await first.close();
    const waiting = door.openai.chat.completions.create(ask('meanwhile'));
    await sleep(500);
    const second = await join('g');
    assert.equal((await waiting).choices[0]?.message.content, 'Hello');
    assert.equal(second.seen.length, 1);
    await leave(second);
  });

  it('sends a draining backend nothing more', async () => {
    const [leaving, staying] = [await join('h'), await join('i')];
    await leaving.report('heartbeat', 'draining');
    const before = leaving.seen.length;
    for (let i = 0; i < 8; i++) await door.openai.chat.completions.create(ask(`draining ${i}`));
    assert.equal(leaving.seen.length, before);
    assert.equal(staying.seen.length, 8);
    await leave(leaving);
    await leave(staying);
  });

  it('gives a backend the time that the client has, less what was spent here', async () => {
    const backend = await join('j');
    await door.openai.chat.completions.create(ask('in a hurry'), { timeout: 60_000 });
    const deadlineMs = backend.seen[0]?.request.deadlineMs ?? 0;
    assert.ok(deadlineMs > 30_000 && deadlineMs <= 60_000, `${deadlineMs}`);
    assert.equal(backend.seen[0]?.request.priority, 'interactive');
    await leave(backend);
  });
});
