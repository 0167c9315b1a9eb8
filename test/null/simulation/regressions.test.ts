/** What the simulation has found, each in small. */
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import { type JobState, transition } from '../../../edge/jobs/state.ts';
import { noteUpload, recordCheckpointFile } from '../../../edge/store/checkpoints.ts';
import { keepResult, noteResult } from '../../../edge/store/tasks.ts';
import { type MemoryD1, openD1 } from '../../fixtures/d1.ts';

describe('found by simulation', () => {
  let db: MemoryD1;
  before(async () => {
    db = await openD1();
  });
  const loose = () => db.rows<{ key: string }>('SELECT key FROM loose_objects').map(({ key }) => key);

  it('a job that is given back without a pause has no time to wait for, whatever the clock says', () => {
    const state: JobState = {
      status: 'running',
      isValidated: true,
      leaseToken: 1,
      leaseBackend: 'a',
      leaseExpiresAtMs: 1_000,
      fruitlessClaims: 1,
      notBeforeMs: 0,
      error: null,
    };
    const aheadMs = 600_000;
    const swept = transition(state, { type: 'sweep' }, aheadMs);
    assert.equal(swept.kind === 'change' && swept.next.notBeforeMs, 0);
    const tired = transition({ ...state, fruitlessClaims: 3 }, { type: 'sweep' }, aheadMs);
    assert.ok(tired.kind === 'change' && tired.next.notBeforeMs > aheadMs, 'a pause is a pause');
  });

  it('an upload that comes once more and breaks off does not mark the file for deletion', async () => {
    db.reset();
    const file = { jobId: 'ftjob-1', step: 2, token: 1, name: 'a.bin' };
    db.rows(`INSERT INTO jobs (id, seq, created_at, status, model, base_model, seed, hyperparameters, mantis, training_file, training_examples, lease_token, revision)
      VALUES ('ftjob-1', 1, 0, 'running', 'm', 'm', 0, '{}', '{}', 'f', 1, 1, 'r')`);
    await noteUpload(db, file, 'k', 0).run();
    assert.deepEqual(loose(), ['k'], 'the first one is noted');
    await db.batch([
      recordCheckpointFile(db, { ...file, bytes: 1, sha256: 'x' }),
      db.prepare(`DELETE FROM loose_objects WHERE key = 'k'`),
    ]);
    await noteUpload(db, file, 'k', 0).run();
    assert.deepEqual(loose(), [], 'one that is recorded is not noted again');
  });

  it('a task’s result is noted until the task has it, and not again', async () => {
    db.reset();
    db.rows(`INSERT INTO tasks (id, tenant, seq, kind, base_model, request, spec, created_at, status, revision)
      VALUES ('t', 'x', 1, 'validate', 'm', '{}', '{}', 0, 'running', 'r')`);
    await noteResult(db, 't', 'k').run();
    assert.deepEqual(loose(), ['k']);
    await keepResult(db, 'k', 'FALSE').run();
    assert.deepEqual(loose(), ['k'], 'a change that did not happen keeps nothing');
    await db.batch([
      db.prepare(`UPDATE tasks SET status = 'succeeded', result_key = 'k' WHERE id = 't'`),
      keepResult(db, 'k', 'TRUE'),
    ]);
    assert.deepEqual(loose(), []);
    await noteResult(db, 't', 'k').run();
    assert.deepEqual(loose(), []);
  });
});
