import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { splitLines } from '../../../edge/jobs/lines.ts';
import { type JobAct, type JobState, TERMINAL, transition } from '../../../edge/jobs/state.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';

const fresh: JobState = {
  status: 'queued',
  leaseToken: 0,
  leaseBackend: null,
  leaseExpiresAtMs: null,
  fruitlessClaims: 0,
  notBeforeMs: 0,
  error: null,
};

/** Applies acts in order, ignoring those that change nothing. */
function after(acts: (JobAct & { at?: number })[], from: JobState = fresh): JobState {
  return acts.reduce((state, { at = 0, ...act }) => {
    const outcome = transition(state, act as JobAct, at);
    return outcome.kind === 'change' ? outcome.next : state;
  }, from);
}

const claim = { type: 'claim', backendId: 'b' } as const;
const finish = (token: number, status: 'succeeded' | 'failed' | 'cancelled' | 'released') =>
  ({ type: 'finish', token, status, error: null }) as const;

describe('job state', () => {
  it('goes from queued over running to succeeded', () => {
    const running = after([{ ...claim, at: 1000 }]);
    assert.deepEqual(running, {
      ...fresh,
      status: 'running',
      leaseToken: 1,
      leaseBackend: 'b',
      leaseExpiresAtMs: 1000 + LIMITS.jobs.leaseMs,
      fruitlessClaims: 1,
    });
    assert.equal(after([finish(1, 'succeeded')], running).status, 'succeeded');
  });

  it('refuses a second claim and a stale writer', () => {
    const running = after([claim]);
    assert.equal(transition(running, claim, 0).kind, 'refused');
    const again = after(
      [
        { type: 'sweep', at: LIMITS.jobs.leaseMs },
        { ...claim, at: LIMITS.jobs.leaseMs },
      ],
      running,
    );
    assert.equal(again.leaseToken, 2);
    for (const act of [
      { type: 'heartbeat', token: 1 },
      { type: 'checkpoint', token: 1 },
      finish(1, 'succeeded'),
    ] as const) {
      assert.equal(transition(again, act, 0).kind, 'stale', act.type);
    }
  });

  it('keeps a live lease and takes back an expired one', () => {
    const running = after([claim]);
    assert.equal(transition(running, { type: 'sweep' }, LIMITS.jobs.leaseMs - 1).kind, 'same');
    assert.equal(after([{ type: 'sweep', at: LIMITS.jobs.leaseMs }], running).status, 'queued');
    const beaten = after([{ type: 'heartbeat', token: 1, at: 5000 }], running);
    assert.equal(transition(beaten, { type: 'sweep' }, LIMITS.jobs.leaseMs).kind, 'same');
  });

  it('gives up after fruitless tries, pausing longer before each, and starts counting anew at a checkpoint', () => {
    let state = fresh;
    const pauses: number[] = [];
    while (state.status === 'queued') {
      state = after(
        [
          { ...claim, at: state.notBeforeMs },
          { ...finish(state.leaseToken + 1, 'released'), at: 0 },
        ],
        state,
      );
      if (state.status === 'queued') pauses.push(state.notBeforeMs);
    }
    assert.deepEqual(pauses, [0, 1000, 2000, 4000]);
    assert.equal(state.status, 'failed');
    assert.equal(state.error?.code, 'worker_lost');
    assert.equal(after([claim, { type: 'checkpoint', token: 1 }]).fruitlessClaims, 0);
  });

  it('cancels at once, tells the worker, and takes its late report', () => {
    const cancelled = after([claim, { type: 'cancel' }]);
    assert.equal(cancelled.status, 'cancelled');
    assert.equal(transition(cancelled, { type: 'heartbeat', token: 1 }, 0).kind, 'same');
    assert.equal(transition(cancelled, finish(1, 'succeeded'), 0).kind, 'same');
    assert.equal(transition(after([claim, finish(1, 'succeeded')]), { type: 'cancel' }, 0).kind, 'refused');
  });

  it('takes the same report twice', () => {
    assert.equal(transition(after([claim, finish(1, 'failed')]), finish(1, 'failed'), 0).kind, 'same');
    assert.equal(transition(after([claim, finish(1, 'released')]), finish(1, 'released'), 0).kind, 'same');
  });

  it('never leaves an end, never lowers a token, whatever happens in whatever order', () => {
    const act = fc.oneof(
      fc.constant(claim),
      fc.constant({ type: 'sweep' } as const),
      fc.constant({ type: 'cancel' } as const),
      fc.record({ type: fc.constantFrom('heartbeat', 'checkpoint'), token: fc.nat(4) }),
      fc.record({
        type: fc.constant('finish'),
        token: fc.nat(4),
        status: fc.constantFrom('succeeded', 'failed', 'cancelled', 'released'),
        error: fc.constant(null),
      }),
    ) as fc.Arbitrary<JobAct>;
    fc.assert(
      fc.property(fc.array(fc.tuple(act, fc.nat(20_000)), { maxLength: 60 }), (acts) => {
        let state = fresh;
        let nowMs = 0;
        for (const [next, waitMs] of acts) {
          nowMs += waitMs;
          const outcome = transition(state, next, nowMs);
          if (outcome.kind !== 'change') continue;
          assert.ok(!TERMINAL.has(state.status), `${state.status} left by ${next.type}`);
          assert.ok(outcome.next.leaseToken >= state.leaseToken);
          assert.equal(outcome.next.status === 'running', outcome.next.leaseExpiresAtMs !== null);
          state = outcome.next;
        }
      }),
      { numRuns: 2000, seed: 7 },
    );
  });
});

describe('lines of a dataset', () => {
  const read = async (text: string, chunk: number, maxLineBytes = 100) => {
    const bytes = new TextEncoder().encode(text);
    const stream = new ReadableStream<Uint8Array>({
      start(controller) {
        for (let at = 0; at < bytes.byteLength; at += chunk) controller.enqueue(bytes.slice(at, at + chunk));
        controller.close();
      },
    });
    const lines: [number, string | null][] = [];
    for await (const line of splitLines(stream, maxLineBytes))
      lines.push([line.number, line.bytes === null ? null : new TextDecoder().decode(line.bytes)]);
    return lines;
  };

  it('are the same whatever the chunks', async () => {
    for (const chunk of [1, 2, 3, 5, 100]) {
      assert.deepEqual(
        await read('a\r\nbü\n\nlast', chunk),
        [
          [1, 'a'],
          [2, 'bü'],
          [3, ''],
          [4, 'last'],
        ],
        `chunks of ${chunk}`,
      );
      assert.deepEqual(await read('a\n', chunk), [[1, 'a']]);
    }
  });

  it('that are too long are told, not kept', async () => {
    for (const chunk of [1, 4, 100]) {
      assert.deepEqual(await read(`ok\n${'x'.repeat(11)}\nok`, chunk, 10), [
        [1, 'ok'],
        [2, null],
        [3, 'ok'],
      ]);
    }
  });
});
