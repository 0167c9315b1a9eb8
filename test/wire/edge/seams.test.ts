/** What tests may turn in a running edge, and that nobody can in a build that is not for tests. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { bundleWorker } from '../../../deploy/bundle.ts';
import { FAULT_CARD, FaultBackend } from './fault-backend.ts';
import { type Installation, startInstallation } from './installation.ts';

const HOUR_MS = 3_600_000;

describe('test seams', () => {
  it('are in no production build: neither routes nor words', async () => {
    const [production, tests] = await Promise.all([bundleWorker(), bundleWorker({ testSeams: true })]);
    const words = ['/internal/test', 'MANTIS_TEST_SEAMS', 'a fault that a test has set', 'd1.before', 'advance_ms'];
    for (const word of words) assert.equal(production.includes(word), false, `production has ${JSON.stringify(word)}`);
    for (const word of words.filter((word) => word !== 'MANTIS_TEST_SEAMS'))
      assert.equal(tests.includes(word), true, `a build for tests lacks ${JSON.stringify(word)}`);
  });

  describe('in a build for tests', () => {
    let door: Installation;
    let backend: FaultBackend;
    let fileId: string;
    before(async () => {
      door = await startInstallation({ testSeams: true });
      backend = await FaultBackend.join(door);
      const form = new FormData();
      form.set('purpose', 'fine-tune');
      form.set(
        'file',
        new File(['{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}'], 't.jsonl'),
      );
      const { authorization } = { authorization: `Bearer ${door.openai.apiKey}` };
      const made = await fetch(`${door.url}/v1/files`, { method: 'POST', headers: { authorization }, body: form });
      fileId = ((await made.json()) as { id: string }).id;
    });
    after(async () => {
      await backend?.close();
      await door?.close();
    });

    const create = (key: string) =>
      door.call(
        'POST',
        '/v1/fine_tuning/jobs',
        { model: FAULT_CARD.id, training_file: fileId },
        { 'idempotency-key': key },
      );
    const clock = async (change: object) =>
      (await door.signed('POST', '/internal/test/clock', change)).body as { now_ms: number; scale: number };

    it('take a backend’s signature, and no key', async () => {
      assert.equal((await door.call('POST', '/internal/test/clock', {})).status, 401);
      assert.equal((await door.signed('POST', '/internal/test/clock', { sideways: true })).status, 400);
    });

    it('set, advance and scale the clock, for requests and objects alike', async () => {
      const { now_ms } = await clock({ advance_ms: 5 * HOUR_MS });
      assert.ok(Math.abs(now_ms - Date.now() - 5 * HOUR_MS) < 5_000);
      const job = (await create('clock')).body as { id: string; created_at: number };
      assert.ok(Math.abs(1000 * job.created_at - now_ms) < 10_000);
      // A task that a backend took and never spoke of again comes back when its lease is over: the scheduler, an object, sees the same time.
      const claim = async () => {
        const { status, body } = await door.signed('POST', '/internal/tasks/claim', { backendId: backend.id });
        return status === 200 ? (body as { id: string; lease: { token: number } }) : null;
      };
      const first = await claim();
      assert.equal(first?.lease.token, 1);
      assert.equal(await claim(), null);
      await clock({ advance_ms: 60_000 });
      let again: Awaited<ReturnType<typeof claim>> = null;
      for (let tries = 0; tries < 100 && again === null; tries++) {
        again = await claim();
        if (again === null) await sleep(50);
      }
      assert.deepEqual([again?.id, again?.lease.token], [first?.id, 2]);
      const before = (await clock({})).now_ms;
      await clock({ scale: 1_000 });
      await sleep(200);
      const { now_ms: later } = await clock({ scale: 1 });
      assert.ok(later - before > 150_000, `${later - before} virtual ms in 200 ms at 1,000 times the speed`);
      const { now_ms: reset } = await clock({ reset: true });
      assert.ok(Math.abs(reset - Date.now()) < 5_000);
    });

    it('break the stores where they are told to, before a commit and behind it', async () => {
      const faults = async (list: object[]) =>
        (await door.signed('POST', '/internal/test/faults', { faults: list })).body as { hits: number[] };
      const jobs = async () =>
        ((await door.call('GET', '/v1/fine_tuning/jobs?limit=100')).body as { data: object[] }).data.length;
      const had = await jobs();

      await faults([{ point: 'd1.before', match: 'INSERT INTO jobs', action: 'error' }]);
      assert.equal((await create('before')).status, 500);
      assert.equal(await jobs(), had, 'nothing was written');
      assert.deepEqual((await faults([])).hits, [1]);
      assert.equal((await create('before')).status, 200);
      assert.equal(await jobs(), had + 1);

      // The answer of the database is lost: the job is there, the client knows nothing, asks again, and it is the same job.
      await faults([{ point: 'd1.after', match: 'INSERT INTO jobs', action: 'error' }]);
      assert.equal((await create('behind')).status, 500);
      assert.equal(await jobs(), had + 2, 'it was written');
      assert.equal((await create('behind')).status, 200);
      assert.equal(await jobs(), had + 2, 'one key, one job');
      await faults([]);
    });

    it('draw chance from a seed', async () => {
      assert.equal((await door.signed('POST', '/internal/test/seed', { seed: 7 })).status, 200);
    });
  });

  it('are not there in a build of the product', async () => {
    const door = await startInstallation();
    try {
      for (const what of ['clock', 'faults', 'seed']) {
        const { status } = await door.signed('POST', `/internal/test/${what}`, {});
        assert.equal(status, 404, what);
      }
    } finally {
      await door.close();
    }
  });
});
