import assert from 'node:assert/strict';
import test from 'node:test';
import { Turns } from '../../../gpu-backend/train/turns.ts';

/** A clock that computing moves. */
function clock(): { now: () => number; compute: (ms: number) => void } {
  let at = 0;
  return {
    now: () => at,
    compute: (ms) => {
      at += ms;
    },
  };
}

test('jobs get the same time, whatever a micro-batch of theirs takes', async () => {
  const { now, compute } = clock();
  const turns = new Turns({ now });
  const used = [0, 0, 0];
  let isOver = false;
  const job = async (i: number, ms: number): Promise<void> => {
    const turn = turns.join();
    while (!isOver) {
      await turn.take();
      compute(ms);
      used[i] = (used[i] ?? 0) + ms;
      if (now() > 3_000) isOver = true;
      // What comes between two micro-batches takes no turn.
      await Promise.resolve();
    }
    turn.end();
  };
  await Promise.all([job(0, 10), job(1, 35), job(2, 3)]);
  for (const ms of used) assert.ok(Math.abs(ms - 1_000) <= 60, used.join(' '));
});

test('one that comes later takes its share from then on, not what it missed', async () => {
  const { now, compute } = clock();
  const turns = new Turns({ now });
  const order: string[] = [];
  const first = turns.join();
  for (let i = 0; i < 50; i++) {
    await first.take();
    compute(10);
  }
  const second = turns.join();
  const run = async (name: string, turn: typeof first): Promise<void> => {
    for (let i = 0; i < 10; i++) {
      await turn.take();
      compute(10);
      order.push(name);
    }
    turn.end();
  };
  await Promise.all([run('first', first), run('second', second)]);
  const half = order.slice(0, 10);
  assert.ok(half.filter((name) => name === 'first').length >= 4, order.join(' '));
});

test('while others want the machine, a micro-batch waits its time and no longer', { timeout: 30_000 }, async () => {
  let isBusy = true;
  const turn = new Turns({ isBusy: () => isBusy, yieldMs: 60 }).join();
  const begin = performance.now();
  await turn.take();
  const waited = performance.now() - begin;
  assert.ok(waited >= 55, `${waited} ms, though others wanted it`);
  const patient = new Turns({ isBusy: () => isBusy, yieldMs: 60_000 }).join();
  setTimeout(() => {
    isBusy = false;
  }, 15);
  // Long before its time is over: the test has less.
  await patient.take();
  assert.equal(isBusy, false);
});

test('a job that ends while it waits is not waited for', async () => {
  const turns = new Turns();
  const [a, b] = [turns.join(), turns.join()];
  const pending = a.take();
  a.end();
  await pending;
  await b.take();
  b.end();
});
