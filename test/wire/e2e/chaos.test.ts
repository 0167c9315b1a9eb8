/** Bar 5 in small; `npm run bench -- chaos` is the whole of it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runChaos } from '../../bench/chaos/run.ts';

test('backends that come, go and are killed cost no request its answer or a clean error', {
  timeout: 120_000,
}, async () => {
  const report = await runChaos({ seconds: 15, killEveryS: 3, clients: 5, maxBackends: 2, seed: 7 });
  assert.deepEqual(report.violations, []);
  assert.equal(report.orphans, 0);
  assert.equal(report.exitCode, 0);
  assert.ok(report.answers > 5, JSON.stringify(report));
  assert.ok(report.kills > 0);
});
