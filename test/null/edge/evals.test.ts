/** What came of a run's items: written once, whoever sends it again, and only by who holds the lease. */
import assert from 'node:assert/strict';
import { before, beforeEach, test } from 'node:test';
import { checkReportLink } from '../../../edge/evals/reportLink.ts';
import { addItems, doneLines, errorSums, listItems, takeOver } from '../../../edge/store/evalItems.ts';
import { deleteRun, type EvalSums, endedRuns, findRun, insertRun } from '../../../edge/store/evalRuns.ts';
import { insertEval } from '../../../edge/store/evals.ts';
import { leaseOwedReport, owedReports } from '../../../edge/store/owedReports.ts';
import { applyToTask, findTask, insertTask, queuedTasks } from '../../../edge/store/tasks.ts';
import type { EvalItemReport, EvaluateTask } from '../../../shared/contract/evalTask.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { linkCode } from '../../../shared/wire/signature.ts';
import { openD1 } from '../../fixtures/d1.ts';

const TENANT = 'a'.repeat(32);
const actor = { tenant: TENANT, keyId: 'key_x', requestId: null };
const RUN = 'evalrun_1';
const NOW = 1_000_000;

let db: Awaited<ReturnType<typeof openD1>>;
const d1 = () => db as unknown as Parameters<typeof insertEval>[0];
before(async () => {
  db = await openD1();
});
beforeEach(async () => {
  db.reset();
  await insertEval(d1(), actor, {
    id: 'eval_1',
    name: 'e',
    metadata: null,
    source: '{"type":"custom","item_schema":{}}',
    criteria: '[]',
    created_at: NOW,
  });
  const spec: EvaluateTask = {
    kind: 'evaluate',
    baseModel: 'nano',
    bases: ['nano'],
    evalId: 'eval_1',
    evalName: 'e',
    runName: '',
    model: 'nano',
    source: {
      type: 'lines',
      lines: { file: { id: RUN, bytes: 1, sha256: 'x' }, schema: {}, hasSample: false },
      prompt: null,
      sampling: {},
    },
    criteria: [],
    models: {},
  };
  const sums: EvalSums = {
    passed: 0,
    failed: 0,
    errored: 0,
    criteria: [{ name: 'c', passed: 0, failed: 0 }],
    models: {},
  };
  const run = {
    id: RUN,
    eval_id: 'eval_1',
    name: '',
    metadata: null,
    model: 'nano',
    data_source: '{"type":"jsonl"}',
    content_key: 'content',
    created_at: NOW,
    total: 0,
    sums: JSON.stringify(sums),
  };
  await d1().batch([
    ...insertTask(d1(), { id: RUN, tenant: TENANT, subject: null, spec, fileIds: [], request: { eval_id: 'eval_1' } }),
    ...insertRun(d1(), actor, run, 'TRUE'),
  ]);
});

const claim = () => applyToTask(d1(), RUN, { type: 'claim', backendId: 'b' }, NOW);
const report = (line: number, status: 'pass' | 'fail' | 'error' = 'pass'): EvalItemReport => ({
  line,
  status,
  datasourceItem: { line },
  results:
    status === 'error'
      ? [{ name: 'c', type: 'string_check', passed: false, score: 0, error: 'no' }]
      : [{ name: 'c', type: 'string_check', passed: status === 'pass', score: 1 }],
  sample: {
    input: [],
    output: [],
    finish_reason: 'stop',
    model: 'nano',
    usage: null,
    error: null,
    temperature: 0,
    max_completion_tokens: null,
    top_p: null,
    seed: null,
  },
  usage: [{ model: 'nano', promptTokens: 10, completionTokens: 2, cachedTokens: 1, imageTokens: 0 }],
});

test('a line counts once, whoever sends it again', async () => {
  await claim();
  await addItems(d1(), RUN, 1, [report(0), report(1, 'fail')], 5, NOW);
  const again = await addItems(d1(), RUN, 1, [report(1), report(3, 'error'), report(3, 'error')], null, NOW);
  assert.deepEqual(
    again?.added.map(({ line }) => line),
    [3],
  );
  const run = await findRun(d1(), RUN);
  const sums = JSON.parse(run!.sums) as EvalSums;
  assert.deepEqual([sums.passed, sums.failed, sums.errored, run!.total], [1, 1, 1, 5]);
  assert.deepEqual(sums.criteria, [{ name: 'c', passed: 1, failed: 1 }]);
  assert.deepEqual(sums.models, { nano: { calls: 3, prompt: 30, completion: 6, cached: 3 } });
  assert.deepEqual(await doneLines(d1(), RUN), [
    [0, 1],
    [3, 3],
  ]);
  const page = await listItems(
    d1(),
    { id: RUN, eval_id: 'eval_1' },
    { limit: 2, after: null, order: 'asc', status: null },
  );
  assert.deepEqual([page.data.map(({ datasource_item_id: line }) => line), page.has_more], [[0, 1], true]);
  const rest = await listItems(
    d1(),
    { id: RUN, eval_id: 'eval_1' },
    { limit: 2, after: page.last_id, order: 'asc', status: null },
  );
  assert.deepEqual(
    rest.data.map(({ datasource_item_id: line }) => line),
    [3],
  );
});

test('who has lost the lease writes nothing', async () => {
  await claim();
  await addItems(d1(), RUN, 1, [report(0)], 2, NOW);
  await applyToTask(d1(), RUN, { type: 'sweep' }, NOW + LIMITS.jobs.leaseMs + 1);
  assert.equal(await addItems(d1(), RUN, 1, [report(1)], null, NOW), null);
  await applyToTask(d1(), RUN, { type: 'claim', backendId: 'c' }, NOW + LIMITS.jobs.leaseMs + 10_000);
  assert.equal(await addItems(d1(), RUN, 1, [report(1)], null, NOW), null, 'an older token');
  assert.notEqual(await addItems(d1(), RUN, 2, [report(1)], null, NOW), null);
  assert.equal(await addItems(d1(), 'evalrun_none', 2, [report(1)], null, NOW), null);
});

test('two writers at once both count', async () => {
  await claim();
  await Promise.all([0, 1, 2, 3].map((line) => addItems(d1(), RUN, 1, [report(line)], null, NOW)));
  assert.equal((JSON.parse((await findRun(d1(), RUN))!.sums) as EvalSums).passed, 4);
});

test('its end is told once, and goes after its time with all that came of it', async () => {
  await claim();
  await addItems(d1(), RUN, 1, [report(0)], 1, NOW);
  await applyToTask(d1(), RUN, { type: 'cancel' }, NOW);
  await applyToTask(d1(), RUN, { type: 'cancel' }, NOW);
  const { results } = await d1()
    .prepare("SELECT type, json_extract(body, '$.data.eval_id') AS eval FROM webhook_events")
    .all();
  assert.deepEqual(results, [{ type: 'eval.run.canceled', eval: 'eval_1' }]);
  assert.deepEqual(await endedRuns(d1(), NOW - 1, 10), []);
  assert.equal((await endedRuns(d1(), NOW, 10)).length, 1);
  await d1().batch(deleteRun(d1(), { ...actor, tenant: 'b'.repeat(32) }, { id: RUN }, NOW));
  assert.notEqual(await findRun(d1(), RUN), null, 'another tenant deletes nothing');
  assert.deepEqual(await doneLines(d1(), RUN), [[0, 0]]);
  await d1().batch(deleteRun(d1(), actor, { id: RUN }, NOW));
  assert.equal(await findRun(d1(), RUN), null);
  const loose = await d1().prepare('SELECT key FROM loose_objects').all();
  assert.deepEqual(loose.results, [{ key: 'content' }]);
});

test('what is asked beside the questions counts in a criterion of its own, and who gets on is not fruitless', async () => {
  await claim();
  await applyToTask(d1(), RUN, { type: 'finish', token: 1, status: 'paused', error: null }, NOW);
  await applyToTask(d1(), RUN, { type: 'claim', backendId: 'b' }, NOW);
  const beside: EvalItemReport = {
    ...report(1),
    isCounted: false,
    results: [{ name: 'c, text-only', type: 'mantis.benchmark', passed: true, score: 1 }],
  };
  await addItems(d1(), RUN, 2, [report(0, 'fail'), beside, { ...beside, line: 2 }], 1, NOW);
  const run = await findRun(d1(), RUN);
  const { passed, failed, criteria } = JSON.parse(run!.sums) as EvalSums;
  assert.deepEqual([passed, failed, run!.total], [0, 1, 1]);
  assert.deepEqual(criteria, [
    { name: 'c', passed: 0, failed: 1 },
    { name: 'c, text-only', passed: 2, failed: 0 },
  ]);
  assert.equal((await findTask(d1(), RUN))?.fruitless_claims, 0);
});

test('a retried run begins with the answers of the earlier one, and without what its errors had counted', async () => {
  await claim();
  const half = { ...report(1, 'error'), results: [...report(1).results, ...report(1, 'error').results] };
  await addItems(d1(), RUN, 1, [report(0), half], 2, NOW);
  const errors = await errorSums(d1(), RUN);
  assert.deepEqual([errors.items, errors.criteria.get('c')], [1, { passed: 1, failed: 0 }]);
  await takeOver(d1(), 'evalrun_2', RUN, 'TRUE').run();
  assert.deepEqual(await doneLines(d1(), 'evalrun_2'), [[0, 0]]);
});

test('tenants take turns, and so do the runs of one', async () => {
  const other = 'b'.repeat(32);
  const add = async (id: string, tenant: string) => {
    const row = (await findTask(d1(), RUN))!;
    const spec = JSON.parse(row.spec) as EvaluateTask;
    await d1().batch(
      insertTask(d1(), { id, tenant, subject: null, spec, fileIds: [], request: { eval_id: 'eval_1' } }),
    );
  };
  for (const id of ['a2', 'a3']) await add(id, TENANT);
  for (const id of ['b1', 'b2']) await add(id, other);
  let nowMs = Date.now() + 1_000;
  const next = async () => {
    const [first] = await queuedTasks(d1(), ['nano'], nowMs, 8, ['evaluate']);
    const applied = await applyToTask(d1(), first!.id, { type: 'claim', backendId: 'b' }, nowMs++);
    return { id: first!.id, token: applied!.task!.lease_token };
  };
  const back = ({ id, token }: { id: string; token: number }) =>
    applyToTask(d1(), id, { type: 'finish', token, status: 'paused', error: null }, nowMs);
  // Side by side: whoever has fewer running is next.
  const pair = [await next(), await next(), await next()];
  assert.deepEqual(
    pair.map(({ id }) => id),
    [RUN, 'b1', 'a2'],
  );
  for (const one of pair) await back(one);
  // One at a time: the tenant that was served longest ago, and of it the run that was.
  const order: string[] = [];
  for (let i = 0; i < 6; i++) {
    const one = await next();
    order.push(one.id);
    await back(one);
  }
  assert.deepEqual(order, ['b2', 'a3', 'b1', RUN, 'b2', 'a2']);
});

test('a run that ended while nobody worked on it is owed a report of the answers it has', async () => {
  const { owedReportAfterMs: after, owedReportLeaseMs: lease, maxReportTries } = LIMITS.evals;
  const owed = (atMs: number, models = ['nano']) => owedReports(d1(), models, atMs, 8);
  await claim();
  await addItems(d1(), RUN, 1, [report(0), report(1, 'fail')], 5, NOW);
  assert.deepEqual(await owed(NOW + 60_000), [], 'it runs');
  await applyToTask(d1(), RUN, { type: 'finish', token: 1, status: 'paused', error: null }, NOW);
  await applyToTask(d1(), RUN, { type: 'cancel' }, NOW);
  assert.deepEqual(await owed(NOW + after - 1), [], 'whoever worked on it may be writing it');
  assert.deepEqual(await owed(NOW + after, ['another']), []);
  let atMs = NOW + after;
  for (let token = 2; token < 2 + maxReportTries; token++) {
    const [row, ...more] = await owed(atMs);
    assert.ok(row !== undefined && more.length === 0, `${token}`);
    const [one, other] = await Promise.all(['b', 'c'].map((backend) => leaseOwedReport(d1(), row, backend, atMs)));
    assert.ok((one === null) !== (other === null), 'one has it');
    const leased = await findTask(d1(), RUN);
    assert.deepEqual([leased!.status, leased!.lease_token, leased!.finished_at], ['cancelled', token, NOW]);
    assert.deepEqual(await owed(atMs + lease - 1), [], 'somebody writes it');
    atMs += lease;
  }
  assert.deepEqual(await owed(atMs), [], 'it was tried often enough');
});

test('nothing is owed of a run without answers, or with a report', async () => {
  await applyToTask(d1(), RUN, { type: 'cancel' }, NOW);
  assert.deepEqual(await owedReports(d1(), ['nano'], NOW + 3_600_000, 8), []);
  await d1().exec(`UPDATE tasks SET status = 'running', lease_token = 1 WHERE id = '${RUN}'`);
  await addItems(d1(), RUN, 1, [report(0)], 5, NOW);
  await applyToTask(d1(), RUN, { type: 'cancel' }, NOW);
  assert.equal((await owedReports(d1(), ['nano'], NOW + 3_600_000, 8)).length, 1);
  await d1().exec(`UPDATE eval_runs SET report_json_key = 'k' WHERE id = '${RUN}'`);
  assert.deepEqual(await owedReports(d1(), ['nano'], NOW + 3_600_000, 8), []);
});

test('evaluations have a lane of their own', async () => {
  assert.equal((await queuedTasks(d1(), ['nano'], NOW + 60_000_000, 8, ['validate', 'compare'])).length, 0);
  assert.equal((await queuedTasks(d1(), ['nano'], Date.now() + 60_000, 8, ['evaluate'])).length, 1);
});

test('a link to a report proves its run and its time, by any of the secrets, and nothing else', async () => {
  const soon = String(Math.floor(Date.now() / 1000) + 60);
  const code = await linkCode('old', ['eval report', 'evalrun_1', soon]);
  const check = async (secret: string, token: string, run = 'evalrun_1') =>
    await checkReportLink({ BACKEND_SECRET: secret }, token, run);
  assert.equal(await check('old', `${soon}.${code}`), 'good');
  assert.equal(await check('new,old', `${soon}.${code}`), 'good');
  const past = String(Number(soon) - 3_600);
  assert.equal(await check('old', `${past}.${await linkCode('old', ['eval report', 'evalrun_1', past])}`), 'expired');
  for (const [secret, token, run] of [
    ['new', `${soon}.${code}`, 'evalrun_1'],
    ['old', `${soon}.${code}`, 'evalrun_2'],
    ['old', `${past}.${code}`, 'evalrun_1'],
    ['old', `${soon}.`, 'evalrun_1'],
    ['old', soon, 'evalrun_1'],
    ['old', `${soon}.${code}`, 'evalrun_1\nx'],
    ['', `${soon}.${code}`, 'evalrun_1'],
    ['old', `${soon}.${await linkCode('old', ['other link', 'evalrun_1', soon])}`, 'evalrun_1'],
  ] as const)
    assert.equal(await check(secret, token, run), 'false', `${secret} ${token} ${run}`);
  await assert.rejects(linkCode('old', ['a\nb']), RangeError);
});
