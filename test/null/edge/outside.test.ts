import assert from 'node:assert/strict';
import test from 'node:test';
import { METRIC_COLUMNS, metricsCsv, metricsRow } from '../../../edge/jobs/results.ts';
import { recordCheckpointFile, releaseFiles, uploadedFiles } from '../../../edge/store/checkpoints.ts';
import { dueOutside, strikeOutside } from '../../../edge/store/outside.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { openD1 } from '../../fixtures/d1.ts';

const memory = await openD1();
// What is used of it is what it has.
const db = memory as unknown as Parameters<typeof metricsCsv>[0];

async function insertJob(id: string, token: number): Promise<void> {
  await db
    .prepare(
      `INSERT INTO jobs (id, seq, tenant, created_at, status, model, base_model, seed, hyperparameters, mantis, training_file, training_examples, lease_token, revision)
       VALUES (?1, ?2, 't', 0, 'running', 'm', 'm', 1, '{}', '{}', 'f', 1, ?2, 'r')`,
    )
    .bind(id, token)
    .run();
}

const file = (name: string, location?: string) => ({
  jobId: 'ftjob-1',
  step: 4,
  name,
  bytes: 3,
  sha256: 'aa',
  ...(location === undefined ? {} : { location }),
});

test('files that no checkpoint owns become loose where they are: at the edge, or in the backend’s own store', async () => {
  memory.reset();
  await insertJob('ftjob-1', 7);
  const mine = 's3://models/mantis/jobs/ftjob-1/4/7/a';
  const changes = await Promise.all(
    [
      { ...file('a', mine), token: 7 },
      { ...file('b'), token: 7 },
      { ...file('a', 's3://models/mantis/jobs/ftjob-1/4/6/a'), token: 6 },
    ].map(async (one) => (await recordCheckpointFile(db, one).run()).meta.changes),
  );
  assert.deepEqual(changes, [1, 1, 0], 'an older lease announces nothing');
  assert.deepEqual(await uploadedFiles(db, 'ftjob-1', 4, 7), [
    { name: 'a', bytes: 3, sha256: 'aa', location: mine },
    { name: 'b', bytes: 3, sha256: 'aa' },
  ]);
  await db.batch(releaseFiles(db, { jobId: 'ftjob-1', throughStep: null }, '1 = 1', 1_000));
  const loose = await db.prepare('SELECT key FROM loose_objects').all();
  assert.deepEqual(loose.results, [{ key: 'jobs/ftjob-1/checkpoints/4/7/b' }]);
  const due = 1_000 + LIMITS.files.looseMs;
  assert.deepEqual(await dueOutside(db, 's3://models/mantis', due - 1), []);
  assert.deepEqual(await dueOutside(db, 's3://models/other', due), []);
  assert.deepEqual(await dueOutside(db, 's3://models/man', due), [], 'a name that begins alike is another store');
  assert.deepEqual(await dueOutside(db, 's3://models/mantis', due), [mine]);
  await strikeOutside(db, [mine]);
  assert.deepEqual(await dueOutside(db, 's3://models/mantis', due), []);
});

test('the metrics file has a row a step, OpenAI’s columns first, over any number of events', async () => {
  memory.reset();
  await insertJob('ftjob-2', 1);
  assert.equal(await metricsCsv(db, 'ftjob-2'), null);
  const insert = db.prepare(
    `INSERT INTO job_events (id, job_id, key, created_at, level, message, type, data) VALUES (?1, 'ftjob-2', ?1, 0, 'info', '', ?2, ?3)`,
  );
  const steps = 2_100;
  await db.batch([
    insert.bind('said', 'message', '{}'),
    ...Array.from({ length: steps }, (_, i) =>
      insert.bind(`step-${i + 1}`, 'metrics', JSON.stringify({ step: i + 1, train_loss: 0.5 })),
    ),
  ]);
  const rows = (await metricsCsv(db, 'ftjob-2'))?.trimEnd().split('\n') ?? [];
  assert.equal(rows.length, steps + 1);
  assert.deepEqual(rows[0]?.split(',').slice(0, 5), [
    'step',
    'train_loss',
    'train_mean_token_accuracy',
    'valid_loss',
    'valid_mean_token_accuracy',
  ]);
  assert.ok(rows.at(-1)?.startsWith(`${steps},0.5,,`));
});

test('a row says what its event says, and nothing that could break it', () => {
  const all = {
    step: 3,
    stage: 1,
    train: 'lora',
    epoch: 2,
    train_loss: 0.25,
    train_mean_token_accuracy: 0.5,
    full_valid_loss: 0.75,
    full_valid_mean_token_accuracy: 0.125,
    grad_norm: 2,
    learning_rate: 1e-4,
    tokens: 100,
    supervised_tokens: 40,
    tokens_per_second: 1234.5,
    padding_share: 0,
    total_steps: 9,
  };
  assert.equal(metricsRow(all), '3,0.25,0.5,0.75,0.125,1,lora,2,0.0001,2,100,40,1234.5,0,,,,,,,\n');
  assert.equal(metricsRow({ train: 'a,b\n', step: '7' }), `${','.repeat(METRIC_COLUMNS.length - 1)}\n`);
});
