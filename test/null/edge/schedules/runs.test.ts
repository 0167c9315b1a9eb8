/** What becomes of a run: conditions, failures, gates, aliases, retention; every change in one transaction with what belongs to it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { comparisonEnd } from '../../../../edge/schedules/comparison.ts';
import { decideGate } from '../../../../edge/schedules/gate.ts';
import { startRun } from '../../../../edge/schedules/start.ts';
import { changeToReturnTo, getAlias, moveAlias } from '../../../../edge/store/aliases.ts';
import { getFile } from '../../../../edge/store/files.ts';
import { deleteModel } from '../../../../edge/store/models.ts';
import { insertManualRun, showRun } from '../../../../edge/store/scheduleRuns.ts';
import { changeSchedule, getSchedule } from '../../../../edge/store/schedules.ts';
import { findTask } from '../../../../edge/store/tasks.ts';
import type { CompareTask } from '../../../../shared/contract/backend.ts';
import { ApiError } from '../../../../shared/contract/errors.ts';
import type { CompareResult } from '../../../../shared/contract/taskResults.ts';
import { ACTOR, makeWorld, TENANT, type World } from './world.ts';

const MINUTE = 60_000;
const START = Date.parse('2026-11-26T12:00:20Z');
/** The nth slot of a schedule that is due every five minutes, a moment after it. */
const slot = (n: number) => START + n * 5 * MINUTE;
const GATE = { held_out_file: 'file-held-out', margin: 0.05 };

const statuses = (world: World, id: string) => world.runs(id).map(({ status }) => status);

/** Ends the job that the newest run waits for, and looks. */
async function train(world: World, atMs: number): Promise<string> {
  await world.tick(atMs);
  const model = world.endJob(world.jobs.at(-1) as string, 'succeeded', atMs);
  await world.tick(atMs + 1);
  return model;
}

/** Says how a comparison went. */
async function compare(
  world: World,
  runId: string,
  right: { current: number; candidate: number; only: [number, number] },
) {
  const [row] = world.sqlite.rows<{ task_id: string }>('SELECT task_id FROM schedule_runs WHERE id = ?', runId);
  const taskId = row?.task_id as string;
  const examples = 200;
  const difference = (right.candidate - right.current) / examples;
  const result: CompareResult = {
    examples,
    currentRight: right.current,
    candidateRight: right.candidate,
    onlyCurrent: right.only[0],
    onlyCandidate: right.only[1],
    difference,
    interval: [difference - 0.04, difference + 0.04],
    confidence: 0.95,
    pValue: 0.5,
  };
  await world.blobs.put(`tasks/${taskId}/1/result.json`, JSON.stringify(result));
  world.sqlite.rows(
    `UPDATE tasks SET status = 'succeeded', result_key = ? WHERE id = ?`,
    `tasks/${taskId}/1/result.json`,
    taskId,
  );
}

async function gated(world: World) {
  await world.write(5, 'held-out', 'file-held-out');
  return world.schedule({ alias: 'assistant', gate: JSON.stringify(GATE) }, START);
}

test('a condition on new examples counts from the last run that trained', async () => {
  const world = await makeWorld();
  const condition = JSON.stringify({ type: 'new_examples', at_least: 5 });
  const { id } = await world.schedule({ condition }, START);
  await train(world, slot(1));
  await world.write(13);
  await world.tick(slot(2));
  await world.write(15);
  await world.tick(slot(3));
  assert.deepEqual(
    world.runs(id).map(({ status, new_examples, examples, note }) => [status, new_examples, examples, note]),
    [
      ['succeeded', 10, 10, '10 new examples, at least 5 wanted'],
      ['skipped', 3, 13, '3 new examples, at least 5 wanted'],
      ['running', 5, 15, '5 new examples, at least 5 wanted'],
    ],
  );
});

test('a run that failed has not trained: its examples count again', async () => {
  const world = await makeWorld();
  const condition = JSON.stringify({ type: 'new_examples', at_least: 5 });
  const { id } = await world.schedule({ condition }, START);
  await world.tick(slot(1));
  world.endJob(world.jobs[0] as string, 'failed');
  await world.tick(slot(2));
  const [first, second] = world.runs(id);
  assert.equal(first?.status, 'failed');
  assert.equal(JSON.parse(first?.error ?? '{}').code, 'diverged');
  assert.deepEqual([second?.status, second?.new_examples], ['running', 10]);
});

test('a condition on changed data goes by their digest; who asks for a run gets it', async () => {
  const world = await makeWorld();
  const { id } = await world.schedule({ condition: JSON.stringify({ type: 'dataset_changed' }) }, START);
  await train(world, slot(1));
  await world.tick(slot(2));
  const schedule = await getSchedule(world.env.DB, TENANT, id);
  assert.ok(schedule !== null);
  assert.notEqual(await insertManualRun(world.env.DB, ACTOR, schedule, slot(2) + MINUTE), null);
  assert.equal(await insertManualRun(world.env.DB, ACTOR, schedule, slot(2) + MINUTE), null, 'never two at once');
  await train(world, slot(2) + MINUTE);
  await world.write(10, 'other');
  await world.tick(slot(3));
  assert.deepEqual(
    world.runs(id).map(({ cause, status }) => [cause, status]),
    [
      ['slot', 'succeeded'],
      ['slot', 'skipped'],
      ['manual', 'succeeded'],
      ['slot', 'running'],
    ],
  );
});

test('a start that fails for a reason that may pass is tried again, with pauses; any other ends the run by name', async () => {
  const world = await makeWorld();
  const { id } = await world.schedule({ cron: '0 13 * * *' }, START);
  const due = Date.parse('2026-11-26T13:00:00Z');
  let refusals = 0;
  const refusing: World['prepare'] = async (env, actor, request, options) => {
    if (refusals++ < 2) throw new ApiError('no_backend', 'Nobody serves it.');
    return world.prepare(env, actor, request, options);
  };
  await world.tick(due - 1);
  await world.tick(due);
  // The first start went well; take it back and begin again with a backend that is away.
  world.sqlite.rows(`UPDATE schedule_runs SET status = 'pending', job_id = NULL WHERE schedule_id = ?`, id);
  for (const afterMs of [0, 1_000, 3_000]) {
    const [run] = world.runs(id);
    assert.ok(run !== undefined);
    assert.ok(run.not_before <= due + afterMs, `not before ${run.not_before - due}`);
    await startRun(world.env, refusing, run, due + afterMs);
  }
  const [run] = world.runs(id);
  assert.deepEqual([run?.status, run?.tries, refusals], ['running', 2, 3]);

  const other = await world.schedule(
    { cron: '0 14 * * *', job: JSON.stringify({ model: 'm', training_file: 'file-gone' }) },
    START,
  );
  await world.tick(due + 60 * MINUTE);
  const [failed] = world.runs(other.id);
  assert.equal(failed?.status, 'failed');
  assert.equal(JSON.parse(failed?.error ?? '{}').code, 'file_not_found');
});

test('a run and its job are made together or not at all', async () => {
  const world = await makeWorld();
  await world.schedule({}, START);
  let seen = 0;
  world.sqlite.around = async (call, run) => {
    await null;
    // The edge dies in the middle of the batch that makes the job.
    if (call.sql.some((sql) => sql.includes('INSERT INTO jobs')) && seen++ === 0) throw new Error('D1_ERROR: gone');
    return run();
  };
  await world.tick(slot(1));
  assert.deepEqual(world.sqlite.rows('SELECT id FROM jobs'), []);
  await world.tick(slot(1) + 2_000);
  assert.equal(world.sqlite.rows('SELECT id FROM jobs').length, 1);
});

test('the first model of an alias stands against the base, the next one against its forerunner', async () => {
  const world = await makeWorld();
  const { id } = await gated(world);
  const first = await train(world, slot(1));
  const spec = (at: number) =>
    JSON.parse(world.sqlite.rows<{ spec: string }>('SELECT spec FROM tasks ORDER BY seq')[at]?.spec ?? '{}');
  assert.deepEqual([spec(0).current, spec(0).candidate, spec(0).confidence], ['mantis-nano', first, 0.95]);
  await compare(world, world.runs(id)[0]?.id as string, { current: 100, candidate: 120, only: [5, 25] });
  await world.tick(slot(1) + 10);
  assert.deepEqual(statuses(world, id), ['promoted']);
  assert.equal((await getAlias(world.env.DB, TENANT, 'assistant'))?.model, first);

  const second = await train(world, slot(2));
  assert.equal(spec(1).current, first);
  await compare(world, world.runs(id)[1]?.id as string, { current: 120, candidate: 100, only: [25, 5] });
  await world.tick(slot(2) + 10);
  const kept = world.runs(id)[1];
  assert.equal(kept?.status, 'kept');
  assert.match(
    kept?.note ?? '',
    /difference −0\.100.*Kept: lower bound −0\.140 < −0\.050, difference −0\.100 < \+0\.000/,
  );
  assert.equal(kept?.model, second);
  assert.equal((await getAlias(world.env.DB, TENANT, 'assistant'))?.model, first);
  const events = world.sqlite.rows<{ action: string }>(`SELECT action FROM audit_log WHERE action LIKE 'alias.%'`);
  assert.deepEqual(
    events.map(({ action }) => action),
    ['alias.created'],
  );
});

test('a gate says what so many examples cannot show, and leaves its files with the run', async () => {
  const world = await makeWorld();
  const { id } = await gated(world);
  await train(world, slot(1));
  const run = world.runs(id)[0] ?? assert.fail('a run');
  const task = (await findTask(world.env.DB, run.task_id ?? '')) ?? assert.fail('a comparison');
  const staged = { key: `blobs/${TENANT}/page`, bytes: 3, sha256: 'a'.repeat(64) };
  const result: CompareResult = {
    examples: 40,
    groups: 20,
    currentRight: 20,
    candidateRight: 30,
    onlyCurrent: 0,
    onlyCandidate: 10,
    difference: 0.25,
    interval: [0.1, 0.4],
    confidence: 0.95,
    pValue: 0.01,
    detectableDifference: 0.214,
    files: [{ filename: 'report.html', mime: 'text/html', staged }],
  };
  const finish = { token: 1, status: 'succeeded' as const, result, error: null };
  const end = comparisonEnd(world.env, task, finish);
  assert.throws(
    () => comparisonEnd(world.env, { ...task, tenant: 'another' }, finish),
    /expected an object of its tenant/,
  );
  await world.env.DB.batch(end.along('succeeded', 'TRUE'));
  await world.blobs.put('result.json', JSON.stringify(end.result));
  world.sqlite.rows(`UPDATE tasks SET status = 'succeeded', result_key = 'result.json' WHERE id = ?`, task.id);
  await world.tick(slot(1) + 10);
  const shown = showRun(world.runs(id)[0] ?? run);
  assert.equal(shown.status, 'promoted');
  assert.match(
    shown.note ?? '',
    /With 40 examples in 20 groups, a difference under 21\.4 points cannot be seen reliably \(80 % power\)/,
  );
  assert.deepEqual([shown.gate?.comparison.groups, shown.gate?.comparison.detectable_difference], [20, 0.214]);
  const file = await getFile(world.env.DB, TENANT, shown.result_files[0] ?? '');
  assert.deepEqual([shown.result_files.length, file?.filename, file?.purpose], [1, 'report.html', 'fine-tune-results']);
});

test('a gate over a few pictures says that lines about the same ones count as one', () => {
  const comparison = {
    current: 'a',
    candidate: 'b',
    examples: 8,
    groups: 2,
    current_right: 0,
    candidate_right: 8,
    only_current: 0,
    only_candidate: 8,
    difference: 1,
    interval: [-0.5, 1] as [number, number],
    confidence: 0.95,
    p_value: 0.5,
    detectable_difference: null,
  };
  const { promote, explanation } = decideGate({}, comparison);
  assert.equal(promote, false);
  assert.match(explanation, /8 examples in 2 groups are few observations.*give each line a `group` of its own/);
  assert.doesNotMatch(explanation, /chosen among its checkpoints/);
  assert.match(decideGate({}, comparison, true).explanation, /chosen among its checkpoints by these same examples/);
  assert.doesNotMatch(decideGate({}, { ...comparison, groups: 8 }).explanation, /few observations/);
});

test('a schedule that was given another held-out file since is judged by that one, else by what was validated with the job', async () => {
  const world = await makeWorld();
  const { id } = await gated(world);
  const asked = async (at: number, file: string) => {
    await world.tick(slot(at));
    const job = world.jobs.at(-1) as string;
    const validated = {
      file_id: 'file-held-out',
      file: { id: 'f', bytes: 1, sha256: 'b'.repeat(64) },
      filename: 'then',
    };
    const gate = { file: 'file-held-out', data: { files: [validated], balancing: false } };
    world.sqlite.rows('UPDATE jobs SET held_out = ? WHERE id = ?', JSON.stringify({ evaluation: null, gate }), job);
    world.sqlite.rows(
      'UPDATE schedules SET gate = ? WHERE id = ?',
      JSON.stringify({ ...GATE, held_out_file: file }),
      id,
    );
    world.endJob(job, 'succeeded', slot(at));
    await world.tick(slot(at) + 1);
    const task = await findTask(world.env.DB, world.runs(id).at(-1)?.task_id ?? '');
    const spec = JSON.parse(task?.spec ?? '{}') as CompareTask;
    return spec.heldOut.files[0]?.filename;
  };
  assert.equal(await asked(1, 'file-held-out'), 'then');
  await compare(world, world.runs(id)[0]?.id as string, { current: 100, candidate: 120, only: [5, 25] });
  await world.tick(slot(1) + 10);
  await world.write(5, 'other', 'file-other');
  assert.equal(await asked(2, 'file-other'), 'train.jsonl');
});

test('an alias that somebody changed during the comparison is compared with anew', async () => {
  const world = await makeWorld();
  const { id } = await gated(world);
  await train(world, slot(1));
  const runId = world.runs(id)[0]?.id as string;
  await compare(world, runId, { current: 100, candidate: 120, only: [5, 25] });
  const { statements } = moveAlias(
    world.env.DB,
    ACTOR,
    { name: 'assistant', kind: 'created', model: 'mantis-small', was: null, back: null, reason: null },
    slot(1) + 5,
  );
  await world.env.DB.batch(statements);
  await world.tick(slot(1) + 10);
  assert.deepEqual(statuses(world, id), ['gating']);
  assert.equal(world.runs(id)[0]?.compared_with, 'mantis-small');
  await compare(world, runId, { current: 100, candidate: 120, only: [5, 25] });
  await world.tick(slot(1) + 20);
  assert.deepEqual(statuses(world, id), ['promoted']);
  assert.equal((await getAlias(world.env.DB, TENANT, 'assistant'))?.version, 2);
});

test('a comparison that fails keeps the alias and says why', async () => {
  const world = await makeWorld();
  const { id } = await gated(world);
  await train(world, slot(1));
  world.sqlite.rows(
    `UPDATE tasks SET status = 'failed', error = '{"code":"empty_file","message":"none","param":null}'`,
  );
  await world.tick(slot(1) + 10);
  assert.equal(JSON.parse(world.runs(id)[0]?.error ?? '{}').code, 'empty_file');
  assert.equal(await getAlias(world.env.DB, TENANT, 'assistant'), null);
});

test('a result that is none fails the run, a time that cannot be read pauses the schedule: neither is looked at for ever', async () => {
  const world = await makeWorld();
  const { id } = await gated(world);
  await train(world, slot(1));
  await world.blobs.put('broken.json', '{"examples":');
  world.sqlite.rows(`UPDATE tasks SET status = 'succeeded', result_key = 'broken.json'`);
  await world.tick(slot(1) + 10);
  assert.equal(JSON.parse(world.runs(id)[0]?.error ?? '{}').code, 'comparison_failed');
  world.sqlite.rows(`UPDATE schedules SET cron = 'nonsense' WHERE id = ?`, id);
  await world.tick(slot(2));
  const row = await getSchedule(world.env.DB, TENANT, id);
  assert.deepEqual([row?.status, row?.next_at], ['paused', null]);
});

test('going back, and back again, and of two changes at once only one', async () => {
  const world = await makeWorld();
  const db = world.env.DB;
  const change = async (model: string, kind: 'created' | 'promoted' | 'rolled_back', back?: number | null) => {
    const was = await getAlias(db, TENANT, 'a');
    const move = {
      name: 'a',
      kind,
      model,
      was,
      back: back === undefined ? (was?.version ?? null) : back,
      reason: null,
    };
    return moveAlias(db, ACTOR, move, START).statements;
  };
  await db.batch(await change('m1', 'created'));
  await db.batch(await change('m2', 'promoted'));
  await db.batch(await change('m3', 'promoted'));
  const back = async () => {
    const alias = await getAlias(db, TENANT, 'a');
    const target = alias === null ? null : await changeToReturnTo(db, alias);
    if (target !== null) await db.batch(await change(target.model, 'rolled_back', target.back));
    return (await getAlias(db, TENANT, 'a'))?.model;
  };
  assert.equal(await back(), 'm2');
  assert.equal(await back(), 'm1');
  assert.equal(await back(), 'm1', 'there is nothing before the first');
  await db.batch(await change('m4', 'promoted'));
  assert.equal(await back(), 'm1', 'what was there before it');
  const [one, other] = [await change('m5', 'promoted'), await change('m6', 'promoted')];
  await db.batch(one);
  await db.batch(other);
  assert.equal((await getAlias(db, TENANT, 'a'))?.model, 'm5');
});

test('a model that an alias stands for is not deleted, nor promoted once it is', async () => {
  const world = await makeWorld();
  const { id } = await world.schedule({ alias: 'assistant' }, START);
  const model = await train(world, slot(1));
  assert.deepEqual(statuses(world, id), ['promoted']);
  const row = { id: model, job_id: world.jobs[0] as string };
  const refused = await deleteModel(world.env.DB, ACTOR, row);
  assert.deepEqual([refused.isDeleted, refused.alias], [false, 'assistant']);
  const second = await train(world, slot(2));
  assert.equal((await getAlias(world.env.DB, TENANT, 'assistant'))?.model, second);
  assert.equal((await deleteModel(world.env.DB, ACTOR, row)).isDeleted, true);
  const alias = await getAlias(world.env.DB, TENANT, 'assistant');
  const { statements } = moveAlias(
    world.env.DB,
    ACTOR,
    { name: 'assistant', kind: 'promoted', model, was: alias, back: 2, reason: null },
    slot(3),
  );
  await world.env.DB.batch(statements);
  assert.equal((await getAlias(world.env.DB, TENANT, 'assistant'))?.model, second);
});

test('the newest models are kept, besides those that an alias needs', async () => {
  const world = await makeWorld();
  const { id } = await world.schedule({ keep_models: 1, alias: 'assistant' }, START);
  const models: string[] = [];
  for (let n = 1; n <= 4; n++) models.push(await train(world, slot(n)));
  await world.tick(slot(4) + 10);
  const left = world.sqlite.rows<{ id: string }>('SELECT id FROM models ORDER BY created_at');
  assert.deepEqual(
    left.map((row) => row.id),
    models.slice(2),
    'the current one and the one to go back to',
  );
  assert.equal(world.runs(id).length, 4, 'records stay');
});

test('each run starts from the last promoted model where the schedule says so', async () => {
  const world = await makeWorld();
  await world.schedule({ alias: 'assistant', starts_from: 'alias' }, START);
  const first = await train(world, slot(1));
  await world.tick(slot(2));
  const jobs = world.sqlite.rows<{ model: string }>('SELECT model FROM jobs ORDER BY seq');
  assert.deepEqual(
    jobs.map(({ model }) => model),
    ['mantis-nano', first],
  );
});

test('a deleted schedule starts nothing, promotes nothing, and goes when its last run has ended', async () => {
  const world = await makeWorld();
  const row = await world.schedule({ alias: 'assistant', overlap: 'queue' }, START);
  await world.tick(slot(1));
  await world.tick(slot(2));
  assert.deepEqual(statuses(world, row.id), ['running', 'pending']);
  const now = await getSchedule(world.env.DB, TENANT, row.id);
  assert.ok(now !== null);
  await changeSchedule(
    world.env.DB,
    ACTOR,
    now,
    { action: 'deleted', status: 'deleted', timing: { nextAtMs: null } },
    slot(2) + 1,
  );
  assert.deepEqual(statuses(world, row.id), ['running', 'skipped']);
  await train(world, slot(3));
  assert.equal(await getAlias(world.env.DB, TENANT, 'assistant'), null);
  await world.tick(slot(4));
  assert.deepEqual(world.sqlite.rows('SELECT id FROM schedules'), []);
  assert.deepEqual(world.runs(row.id), []);
});

test('a disabled tenant’s schedules rest', async () => {
  const world = await makeWorld();
  const { id } = await world.schedule({}, START);
  world.sqlite.rows('UPDATE tenants SET disabled_at = 1 WHERE id = ?', TENANT);
  await world.tick(slot(1));
  assert.deepEqual(world.runs(id), []);
  world.sqlite.rows('UPDATE tenants SET disabled_at = NULL WHERE id = ?', TENANT);
  await world.tick(slot(1) + MINUTE);
  assert.deepEqual(statuses(world, id), ['running']);
});

test('ten days without anybody who looks lose nothing', async () => {
  const world = await makeWorld();
  const rows = await Promise.all(
    Array.from({ length: 40 }, (_, n) =>
      world.schedule({ cron: `${n + 2} * * * *`, misfire: n % 2 ? 'run_once' : 'run_all', overlap: 'queue' }, START),
    ),
  );
  const back = START + 10 * 24 * 60 * MINUTE;
  for (let n = 0; n < 60; n++) {
    await world.tick(back + n * 1_000);
    for (const id of world.jobs) world.endJob(id);
  }
  for (const [n, row] of rows.entries()) {
    const runs = world.runs(row.id);
    const counted = runs.reduce((sum, { missed }) => sum + 1 + missed, 0);
    assert.equal(counted, 240, `${n}: every slot is accounted for`);
    assert.equal(runs.filter(({ status }) => status === 'succeeded').length, n % 2 ? 1 : 24);
  }
});
