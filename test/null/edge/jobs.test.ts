import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { splitLines } from '../../../edge/jobs/lines.ts';
import { type JobAct, type JobState, LEASED, TERMINAL, transition } from '../../../edge/jobs/state.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';

const fresh: JobState = {
  status: 'queued',
  isValidated: true,
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
const finish = (token: number, status: 'succeeded' | 'failed' | 'cancelled' | 'released' | 'paused') =>
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

  it('waits for its data to be decided', () => {
    const created: JobState = { ...fresh, status: 'validating_files', isValidated: false };
    assert.equal(transition(created, claim, 0).kind, 'refused');
    const ok = { type: 'validated', error: null } as const;
    assert.equal(after([ok], created).status, 'queued');
    const error = { code: 'invalid_training_file', message: 'bad', param: 'training_file' };
    assert.deepEqual(after([{ type: 'validated', error }], created).error, error);
    const paused = after([{ type: 'pause' }], created);
    assert.equal(after([{ type: 'resume' }], paused).status, 'validating_files');
    assert.deepEqual(after([ok], paused), { ...fresh, status: 'paused' }, 'validated while paused: stays paused');
    assert.equal(after([ok, { type: 'resume' }], paused).status, 'queued');
    assert.equal(transition(after([ok], created), ok, 0).kind, 'same', 'told twice');
    assert.equal(transition(after([{ type: 'cancel' }], created), ok, 0).kind, 'same', 'told too late');
  });

  it('pauses a running job through its worker, which may die on the way', () => {
    const pausing = after([claim, { type: 'pause' }]);
    assert.equal(pausing.status, 'pausing');
    assert.equal(transition(pausing, { type: 'checkpoint', token: 1 }, 0).kind, 'change', 'its last checkpoint counts');
    for (const status of ['paused', 'released'] as const)
      assert.equal(after([finish(1, status)], pausing).status, 'paused', status);
    assert.equal(after([finish(1, 'succeeded')], pausing).status, 'succeeded', 'it was done before it heard');
    const dead = after([{ type: 'sweep', at: LIMITS.jobs.leaseMs }], pausing);
    assert.equal(dead.status, 'paused');
    assert.equal(dead.leaseExpiresAtMs, null);
    assert.equal(transition(dead, { type: 'checkpoint', token: 1 }, 0).kind, 'stale');
    assert.equal(after([{ type: 'resume' }], dead).status, 'queued');
    const changedMind = after([{ type: 'resume' }], pausing);
    assert.equal(changedMind.status, 'running');
    assert.equal(after([finish(1, 'paused')], changedMind).status, 'queued', 'the worker had been told already');
    assert.equal(after([{ type: 'pause' }, { type: 'pause' }]).status, 'paused');
    assert.equal(transition(after([{ type: 'cancel' }]), { type: 'pause' }, 0).kind, 'refused');
  });

  it('fails with the reason of its last worker where that gave one', () => {
    let state = fresh;
    const full = { code: 'storage_full', message: 'no space', param: null };
    while (state.status === 'queued')
      state = after(
        [
          { ...claim, at: state.notBeforeMs },
          { type: 'finish', token: state.leaseToken + 1, status: 'released', error: full },
        ],
        state,
      );
    assert.equal(state.error?.code, 'storage_full');
  });

  it('never leaves an end, never lowers a token, whatever happens in whatever order', () => {
    const act = fc.oneof(
      fc.constant(claim),
      fc.constant({ type: 'sweep' } as const),
      fc.constant({ type: 'cancel' } as const),
      fc.constant({ type: 'pause' } as const),
      fc.constant({ type: 'resume' } as const),
      fc.constant({ type: 'validated', error: null } as const),
      fc.record({ type: fc.constantFrom('heartbeat', 'checkpoint'), token: fc.nat(4) }),
      fc.record({
        type: fc.constant('finish'),
        token: fc.nat(4),
        status: fc.constantFrom('succeeded', 'failed', 'cancelled', 'released', 'paused'),
        error: fc.constant(null),
      }),
    ) as fc.Arbitrary<JobAct>;
    fc.assert(
      fc.property(fc.array(fc.tuple(act, fc.nat(20_000)), { maxLength: 60 }), (acts) => {
        let state: JobState = { ...fresh, status: 'validating_files', isValidated: false };
        let nowMs = 0;
        for (const [next, waitMs] of acts) {
          nowMs += waitMs;
          const outcome = transition(state, next, nowMs);
          if (outcome.kind !== 'change') continue;
          assert.ok(!TERMINAL.has(state.status), `${state.status} left by ${next.type}`);
          assert.ok(outcome.next.leaseToken >= state.leaseToken);
          assert.equal(LEASED.has(outcome.next.status), outcome.next.leaseExpiresAtMs !== null);
          assert.ok(outcome.next.isValidated || !LEASED.has(outcome.next.status), 'trained on unread data');
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
