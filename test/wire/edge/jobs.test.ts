/** The life of jobs and webhooks against the real Worker and its database; this file plays the worker, through the inner protocol only. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI, { toFile } from 'openai';
import { MantisClient } from '../../../shared/client/client.ts';
import { ClientError } from '../../../shared/client/http.ts';
import type { ClaimResponse, ModelManifest } from '../../../shared/contract/backend.ts';
import type { FineTuningJob, JobCheckpoint } from '../../../shared/contract/jobs.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { signatureHeaders, UNSIGNED_PAYLOAD } from '../../../shared/wire/signature.ts';
import { png } from '../../null/edge/pictures.ts';
import { FAULT_CARD, FaultBackend } from './fault-backend.ts';
import { API_KEY, type Installation, SECRET, startInstallation, until } from './installation.ts';
import { claimTask, playValidation, validateResult } from './play-validation.ts';
import { type Receiver, startReceiver } from './receiver.ts';

let door: Installation;
let backend: FaultBackend;
let receiver: Receiver;
let trainingFile: string;
let secret: string;

const dataUrl = `data:image/png;base64,${Buffer.from(png(8, 8)).toString('base64')}`;
const picture = (url = dataUrl) => ({ type: 'image_url', image_url: { url } });
const line = (content: unknown, answer: unknown = 'yes') =>
  JSON.stringify({
    messages: [
      { role: 'user', content },
      { role: 'assistant', content: answer },
    ],
  });

async function upload(lines: string[]): Promise<string> {
  const file = await toFile(Buffer.from(lines.join('\n')), 'train.jsonl');
  return (await door.openai.files.create({ file, purpose: 'fine-tune' })).id;
}

const post = (more: object = {}) =>
  door.openai.fineTuning.jobs.create({ model: FAULT_CARD.id, training_file: trainingFile, ...more });
/** A job whose two examples have been found good. */
async function create(more: object = {}) {
  const job = await post(more);
  await playValidation(door, backend.id, validateResult(2));
  return job;
}
const retrieve = async (id: string) => (await door.openai.fineTuning.jobs.retrieve(id)) as unknown as FineTuningJob;

async function claim(sharing?: { baseModel: string; stages: string[] }): Promise<ClaimResponse | null> {
  const { status, body } = await door.signed('POST', '/internal/jobs/claim', { backendId: backend.id, sharing });
  return status === 204 ? null : (body as ClaimResponse);
}

const act = (job: string, verb: string, body: object) => door.signed('POST', `/internal/jobs/${job}/${verb}`, body);
const finish = (job: string, token: number, status: string, finalStep: number | null = null) =>
  act(job, 'finish', {
    token,
    status,
    trainedTokens: 77,
    error: status === 'failed' ? { code: 'diverged', message: 'NaN', param: null } : null,
    finalStep,
  });

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

async function putBlob(
  job: string,
  step: number,
  name: string,
  bytes: Uint8Array,
  token: number,
  digest: string | null = null,
): Promise<number> {
  const target = `/internal/jobs/${job}/checkpoints/${step}/${name}`;
  const headers = await signatureHeaders({
    secret: SECRET,
    method: 'PUT',
    target,
    body: digest === null ? UNSIGNED_PAYLOAD : bytes,
    nowS: Date.now() / 1000,
  });
  const response = await fetch(door.url + target, {
    method: 'PUT',
    headers: { ...headers, 'x-mantis-lease': String(token) },
    body: Buffer.from(digest === null ? bytes : digest),
  });
  await response.body?.cancel();
  return response.status;
}

async function checkpoint(
  job: string,
  step: number,
  token: number,
  bytes = new Uint8Array([step, 2, 3]),
  more: object = {},
): Promise<number> {
  const uploaded = await putBlob(job, step, 'adapter.safetensors', bytes, token);
  if (uploaded !== 200) return uploaded;
  const files = [{ name: 'adapter.safetensors', bytes: bytes.byteLength, sha256: sha256(bytes) }];
  const metrics = { step, train_loss: 1 / step };
  return (await act(job, 'checkpoints', { token, step, kind: 'lora', metrics, files, ...more })).status;
}

async function refused(promise: Promise<unknown>) {
  const error = await promise.then(
    () => assert.fail('expected a refusal'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof OpenAI.APIError, String(error));
  return error;
}

/** Deliveries about one job; those of earlier tests may still come in between. */
const about = (job: string) => receiver.received.filter(({ body }) => body.includes(`"id":"${job}"`));

before(async () => {
  receiver = await startReceiver();
  door = await startInstallation({ egressAllow: receiver.host });
  backend = await FaultBackend.join(door);
  trainingFile = await upload([line([{ type: 'text', text: 'Is it red?' }, picture()]), line('no picture')]);
  const { body } = await door.call('POST', '/v1/webhook_endpoints', { url: `http://${receiver.host}/hook` });
  secret = (body as { secret: string }).secret;
});
after(async () => {
  await backend.close();
  await door.close();
  await receiver.close();
});

describe('the data of a job', () => {
  it('must exist', async () => {
    const error = await refused(post({ training_file: 'file-x' }));
    assert.deepEqual([error.status, error.code, error.param], [404, 'file_not_found', 'training_file']);
    const elsewhere = await door.openai.files.create({ file: new File(['{}\n'], 'x.jsonl'), purpose: 'evals' });
    const misfit = await refused(post({ training_file: elsewhere.id }));
    assert.deepEqual([misfit.code, misfit.param], ['invalid_value', 'training_file']);
    assert.match(
      misfit.message,
      /expected a file that was uploaded with the purpose "fine-tune", received file-\w+, which is for "evals"/,
    );
    const stages = [{ train: 'lora', training_file: 'file-y' }];
    const other = await refused(post({ method: { type: 'supervised', supervised: { mantis: { stages } } } }));
    assert.equal(other.param, 'method.supervised.mantis.stages[0].training_file');
    assert.match(other.message, /expected the id of an uploaded file or of a dataset/);
    const wandb = await refused(post({ integrations: [{ type: 'wandb' }] }));
    assert.match(wandb.message, /integrations\[0\]: expected nothing: an empty list, received an object/);
    assert.equal((await door.openai.fineTuning.jobs.list()).data.length, 0);
  });

  it('is validated by a task before the job is queued, and kept until the job has ended', async () => {
    const file = await upload([line('for this test alone')]);
    const job = await post({ training_file: file });
    assert.equal(await claim(), null, 'not before its data is decided');
    const task = await claimTask(door, backend.id);
    assert.ok(task?.spec.kind === 'validate');
    assert.equal(task.id, (await retrieve(job.id)).validation);
    assert.deepEqual(task.spec.stages[0], {
      train: 'lora',
      lora: { r: 16, alpha: 32 },
      n_epochs: 3,
      batch_size: null,
      learning_rate_multiplier: 1,
      data: 0,
    });
    assert.equal((await refused(door.openai.files.delete(file))).status, 409);
    const { report, ...rest } = validateResult(1);
    const leakage = { ...report.leakage, held_out_images: 1, held_out_examples: 0 };
    const result = { ...rest, report: { ...report, leakage } };
    const end = { token: task.lease.token, status: 'succeeded', result, error: null };
    assert.equal((await door.signed('POST', `/internal/tasks/${task.id}/finish`, { ...end, token: 99 })).status, 409);
    for (const _ of [1, 2])
      assert.equal((await door.signed('POST', `/internal/tasks/${task.id}/finish`, end)).status, 200);
    assert.equal((await retrieve(job.id)).status, 'queued');
    const said = (await door.openai.fineTuning.jobs.listEvents(job.id)).data;
    assert.deepEqual(
      said.slice(0, 2).map(({ level, message }) => [level, message]),
      [
        ['info', 'Files validated, moving job to queued state.'],
        [
          'warn',
          'Files validated: 1 example. 1 held-out picture is in the training data too: what is measured on it says little.',
        ],
      ],
    );
    assert.equal((await door.openai.fineTuning.jobs.cancel(job.id)).status, 'cancelled');
    assert.equal((await door.openai.files.delete(file)).deleted, true);
  });

  it('that is bad ends the job with the first problem, the share and where the report is', async () => {
    const job = await post({ training_file: await upload([line('one'), 'not json']) });
    const problem = {
      severity: 'error' as const,
      code: 'invalid_json',
      message: 'expected one JSON object a line',
      data: 0,
      subset: null,
      line: 2,
      message_index: null,
      part_index: null,
      param: null,
    };
    await playValidation(door, backend.id, validateResult(1, [problem]));
    const failed = await retrieve(job.id);
    assert.deepEqual(
      [failed.status, failed.error?.code, failed.error?.param],
      ['failed', 'invalid_training_file', 'training_file'],
    );
    assert.match(
      failed.error?.message ?? '',
      /50.0 % of the lines are bad.*line 2, expected one JSON object a line\. dsval_/,
    );
  });

  it('that is good while a stage cannot run ends the job with what is wrong with the stage', async () => {
    const job = await post({ training_file: await upload([line('two')]) });
    const found = validateResult(1);
    const message = 'stages[0].part_rates: every part of the stage "lora" is frozen, so there is nothing to train.';
    const where = { data: 0, subset: null, line: null, message_index: null, part_index: null, param: null };
    const problem = { severity: 'error' as const, code: 'unsupported_parameter', message, ...where };
    found.report = { ...found.report, verdict: 'refused', problems: [problem] };
    await playValidation(door, backend.id, found);
    const { error, status } = await retrieve(job.id);
    assert.deepEqual(
      [status, error?.code, error?.param],
      ['failed', 'unsupported_parameter', 'method.supervised.mantis'],
    );
    assert.ok(error?.message.startsWith(message), error?.message);
  });

  it('that was found good before is not validated again', async () => {
    await create();
    assert.equal((await post()).status, 'queued');
    for (const { id } of (await door.openai.fineTuning.jobs.list()).data)
      await door.openai.fineTuning.jobs.cancel(id).catch(() => {});
  });
});

describe('a job', () => {
  it('is claimed, reports, and succeeds under its ft: name, with one verified webhook', async () => {
    const job = await create({ suffix: 'red', seed: 5, hyperparameters: { n_epochs: 2 } });
    assert.deepEqual([job.status, job.hyperparameters.batch_size], ['validating_files', 'auto']);
    const ready = await retrieve(job.id);
    assert.deepEqual(
      [ready.status, ready.hyperparameters],
      ['queued', { n_epochs: 2, batch_size: 1, learning_rate_multiplier: 1 }],
    );
    const claimed = await claim();
    assert.ok(claimed !== null);
    const { token } = claimed.lease;
    assert.deepEqual(
      [claimed.job.id, claimed.job.seed, claimed.job.suffix, claimed.job.trainingExamples, claimed.job.resume],
      [job.id, 5, 'red', [2], null],
    );
    assert.deepEqual(claimed.job.stages, [
      { train: 'lora', lora: { r: 16, alpha: 32 }, n_epochs: 2, batch_size: 1, learning_rate_multiplier: 1, data: 0 },
    ]);
    assert.deepEqual(
      claimed.job.training[0]?.files.map(({ file }) => file.id),
      [trainingFile],
    );
    assert.equal(await claim(), null);
    assert.equal((await retrieve(job.id)).status, 'running');

    const events = [1, 2, 2].map((step) => ({
      key: `step-${step}`,
      level: 'info',
      message: `Step ${step}`,
      type: 'metrics',
      data: { step, train_loss: 0.5 },
      createdAt: Date.now(),
    }));
    assert.equal((await act(job.id, 'events', { token, events })).status, 200);
    assert.equal((await act(job.id, 'events', { token, events })).status, 200);
    assert.equal(await checkpoint(job.id, 1, token), 200);
    assert.equal(await checkpoint(job.id, 2, token), 200);
    assert.equal((await finish(job.id, token, 'succeeded', 9)).status, 400);
    assert.equal((await finish(job.id, token, 'succeeded', 2)).status, 200);
    assert.equal((await finish(job.id, token, 'succeeded', 2)).status, 200);

    const done = await retrieve(job.id);
    const name = `ft:${FAULT_CARD.id}:local:red:${job.id.slice('ftjob-'.length)}`;
    assert.deepEqual([done.status, done.fine_tuned_model, done.trained_tokens], ['succeeded', name, 77]);
    const messages = (await door.openai.fineTuning.jobs.listEvents(job.id)).data.map(({ message }) => message);
    assert.equal(messages.filter((message) => message === 'Step 2').length, 1);
    assert.equal(messages[0], 'The job has successfully completed.');
    const checkpoints = (await door.openai.fineTuning.jobs.checkpoints.list(job.id)).data;
    assert.deepEqual(
      checkpoints.map(({ step_number, fine_tuned_model_checkpoint }) => [step_number, fine_tuned_model_checkpoint]),
      [
        [2, `${name}:ckpt-step-2`],
        [1, `${name}:ckpt-step-1`],
      ],
    );
    const csv = await (await door.openai.files.content(done.result_files[0]!)).text();
    const [header, first] = csv.trim().split('\n');
    assert.ok(
      header?.startsWith('step,train_loss,train_mean_token_accuracy,valid_loss,valid_mean_token_accuracy,stage'),
    );
    assert.match(first ?? '', /^1,0\.5,,,,*$/);

    // The tuned model and each checkpoint reach the backend with their files.
    backend.seen.length = 0;
    for (const model of [name, `${name}:ckpt-step-1`]) {
      const answer = await door.openai.chat.completions.create({ model, messages: [{ role: 'user', content: 'hi' }] });
      assert.equal(answer.model, model);
    }
    assert.deepEqual(
      backend.seen.map(({ request }) => request.adapter?.files[0]?.sha256),
      [2, 1].map((step) => sha256(new Uint8Array([step, 2, 3]))),
    );
    const manifest = (await door.signed('GET', `/internal/models/${encodeURIComponent(name)}`)).body as {
      files: { url: string }[];
    };
    assert.equal((await door.signed('GET', manifest.files[0]!.url)).status, 200);
    assert.ok((await door.openai.models.list()).data.some(({ id }) => id === name));
    assert.equal((await door.openai.models.retrieve(name)).id, name);

    // The first checkpoint, and the end; a second checkpoint within the minute is not told of.
    await until(() => about(job.id).length > 1, 15_000, 'the webhooks arrive');
    await sleep(1_500);
    assert.equal(about(job.id).length, 2);
    const hook = about(job.id).find(({ body }) => body.includes('succeeded')) as (typeof receiver.received)[0];
    const event = await door.openai.webhooks.unwrap(hook.body, hook.headers, secret);
    assert.deepEqual([event.type, event.data], ['fine_tuning.job.succeeded', { id: job.id, sequence: 2 }]);
    assert.equal(hook.headers['webhook-id'], event.id);
  });

  it('is taken from a silent worker and resumed by the next, from its newest checkpoint; the first is shut out', {
    timeout: 60_000,
  }, async () => {
    const job = await create();
    const first = await claim();
    assert.ok(first !== null);
    assert.equal(await checkpoint(job.id, 3, first.lease.token), 200);
    let second: ClaimResponse | null = null;
    const tryClaim = async () => {
      second = await claim();
      return second !== null;
    };
    const startMs = Date.now();
    await until(tryClaim, LIMITS.jobs.leaseMs + 10_000, 'the job is free again');
    console.log(`free again after ${Date.now() - startMs} ms (lease ${LIMITS.jobs.leaseMs} ms)`);
    const { lease, job: spec } = second as unknown as ClaimResponse;
    assert.ok(lease.token > first.lease.token);
    assert.equal(spec.resume?.step, 3);
    assert.deepEqual(spec.resume?.checkpoint.files, [
      { name: 'adapter.safetensors', bytes: 3, sha256: sha256(new Uint8Array([3, 2, 3])) },
    ]);

    const stale = first.lease.token;
    assert.equal((await act(job.id, 'heartbeat', { token: stale })).status, 409);
    assert.equal((await act(job.id, 'events', { token: stale, events: [] })).status, 409);
    assert.equal(await putBlob(job.id, 4, 'adapter.safetensors', new Uint8Array(3), stale), 409);
    assert.equal((await finish(job.id, stale, 'succeeded', 3)).status, 409);
    assert.equal((await retrieve(job.id)).status, 'running');
    const target = `/internal/jobs/${job.id}/checkpoints/3/adapter.safetensors`;
    assert.equal((await door.signed('GET', target)).status, 200);
    assert.equal((await finish(job.id, lease.token, 'failed')).status, 200);
    assert.equal((await retrieve(job.id)).error?.code, 'diverged');
  });

  it('given back by a draining worker is claimed again at once', async () => {
    const job = await create();
    const first = await claim();
    assert.ok(first !== null);
    assert.equal((await finish(job.id, first.lease.token, 'released')).status, 200);
    const second = await claim();
    assert.equal(second?.job.id, job.id);
    assert.equal((await finish(job.id, second.lease.token, 'failed')).status, 200);
  });

  it('is given to a process that trains only where it fits: the same base, such stages, no try that died', async () => {
    const job = await create();
    const { id } = FAULT_CARD;
    assert.equal(await claim({ baseModel: 'another', stages: ['projector', 'lora', 'full'] }), null);
    assert.equal(await claim({ baseModel: id, stages: ['projector'] }), null);
    const shared = await claim({ baseModel: id, stages: ['projector', 'lora'] });
    assert.deepEqual([shared?.job.id, shared?.job.tries], [job.id, 1]);
    assert.equal((await finish(job.id, shared?.lease.token ?? 0, 'released')).status, 200);
    assert.equal(await claim({ baseModel: id, stages: ['projector', 'lora'] }), null, 'it may be what ended the try');
    const alone = await claim();
    assert.deepEqual([alone?.job.id, alone?.job.tries], [job.id, 2]);
    assert.equal((await finish(job.id, alone?.lease.token ?? 0, 'failed')).status, 200);
  });

  it('that is cancelled tells its worker, refuses its writes, and is cancelled once', async () => {
    const job = await create();
    const claimed = await claim();
    assert.ok(claimed !== null);
    const { token } = claimed.lease;
    assert.equal((await door.openai.fineTuning.jobs.cancel(job.id)).status, 'cancelled');
    assert.equal((await door.openai.fineTuning.jobs.cancel(job.id)).status, 'cancelled');
    assert.deepEqual(((await act(job.id, 'heartbeat', { token })).body as { cancel: boolean }).cancel, true);
    assert.equal(await checkpoint(job.id, 1, token), 409);
    assert.equal((await finish(job.id, token, 'cancelled')).status, 200);
    await until(() => about(job.id).length > 0, 15_000, 'the webhook arrives');
    await sleep(1_200);
    assert.equal(about(job.id).length, 1);
    assert.match(about(job.id)[0]!.body, /fine_tuning.job.cancelled/);
  });

  it('is paused through its worker, goes on from its checkpoint, and is paused at once where nobody has it', async () => {
    const job = await create();
    const first = await claim();
    assert.ok(first !== null);
    const { token } = first.lease;
    const pausing = (await door.call('POST', `/v1/fine_tuning/jobs/${job.id}/pause`)).body as FineTuningJob;
    assert.equal(pausing.status, 'pausing');
    assert.equal(((await act(job.id, 'heartbeat', { token })).body as { pause: boolean }).pause, true);
    assert.equal(await checkpoint(job.id, 2, token), 200);
    assert.equal((await finish(job.id, token, 'paused')).status, 200);
    assert.equal((await retrieve(job.id)).status, 'paused');
    assert.equal(await claim(), null);
    await door.openai.fineTuning.jobs.resume(job.id);
    await door.openai.fineTuning.jobs.pause(job.id);
    assert.equal((await retrieve(job.id)).status, 'paused');
    await door.openai.fineTuning.jobs.resume(job.id);
    const second = await claim();
    assert.deepEqual([second?.job.id, second?.job.resume?.step], [job.id, 2]);
    await finish(job.id, second?.lease.token ?? 0, 'failed');
    assert.equal((await refused(door.openai.fineTuning.jobs.pause(job.id))).status, 409);
  });

  it('keeps as many checkpoints as it says, and the one its model is made of', async () => {
    const job = await create({
      method: { type: 'supervised', supervised: { mantis: { checkpoints_kept: 2 } } },
    });
    const claimed = await claim();
    assert.ok(claimed !== null);
    const { token } = claimed.lease;
    for (const step of [1, 2, 3, 4]) assert.equal(await checkpoint(job.id, step, token), 200);
    const steps = async () =>
      (await door.openai.fineTuning.jobs.checkpoints.list(job.id)).data.map(({ step_number }) => step_number);
    assert.deepEqual(await steps(), [4, 3]);
    assert.equal((await finish(job.id, token, 'succeeded', 4)).status, 200);
    const { fine_tuned_model: name } = await retrieve(job.id);
    const gone = await refused(
      door.openai.chat.completions.create({
        model: `${name}:ckpt-step-1`,
        messages: [{ role: 'user', content: 'hi' }],
      }),
    );
    assert.equal(gone.code, 'model_not_found');
  });

  it('says what checkpoints answer right, keeps the best of them, and makes it the model where that is asked for', async () => {
    const evaluation = { held_out_file: trainingFile, keep_best: true, early_stop: { patience: 3 } };
    const supervised = { mantis: { checkpoints_kept: 1, evaluation } };
    const job = await create({ method: { type: 'supervised', supervised } });
    const gone = await refused(
      post({ method: { type: 'supervised', supervised: { mantis: { evaluation: { held_out_file: 'file-none' } } } } }),
    );
    assert.deepEqual([gone.code, gone.param], ['file_not_found', 'method.supervised.mantis.evaluation.held_out_file']);
    const claimed = await claim();
    assert.ok(claimed !== null);
    const { token } = claimed.lease;
    assert.deepEqual(claimed.job.evaluation?.how, {
      maxExamples: LIMITS.jobs.maxEvaluationExamples,
      options: null,
      imageOrders: 1,
      textOnly: false,
      confidence: 0.95,
    });
    assert.deepEqual(
      [claimed.job.evaluation?.base, claimed.job.evaluation?.every, claimed.job.evaluation?.earlyStop],
      [FAULT_CARD.id, 'checkpoint', { patience: 3, minDelta: 0 }],
    );
    const metrics = (eval_accuracy: number) => ({
      eval_accuracy,
      eval_interval: [eval_accuracy - 0.1, eval_accuracy + 0.1],
      eval_confidence: 0.95,
      eval_examples: 40,
      eval_groups: 20,
      eval_base_accuracy: 0.5,
      eval_difference: eval_accuracy - 0.5,
      eval_difference_interval: [0, 0.4],
      eval_p_value: 0.04,
      eval_detectable_difference: 0.2,
      eval_text_only_accuracy: 0.5,
    });
    const evaluated = (step: number, body: object) =>
      act(job.id, `checkpoints/${step}/evaluation`, { token, totalSteps: 4, outcomes: null, ...body });
    const { body: staged } = await door.signed('PUT', `/internal/jobs/${job.id}/staged`, { right: true });
    const outcomes = { filename: 'answers.jsonl', mime: 'application/jsonl', staged };
    const stranger = { ...outcomes, staged: { ...(staged as object), key: 'blobs/somebody/x' } };
    const told = () => about(job.id).filter(({ body }) => body.includes('fine_tuning.job.checkpoint'));
    const list = async () =>
      (await door.openai.fineTuning.jobs.checkpoints.list(job.id)).data as unknown as JobCheckpoint[];
    for (const [step, accuracy] of [
      [1, 0.6],
      [2, 0.9],
      [3, 0.9],
      [4, 0.7],
    ] as const) {
      assert.equal((await evaluated(step, { metrics: metrics(accuracy) })).status, 404, 'nobody waits for it');
      assert.equal(await checkpoint(job.id, step, token, undefined, { evaluates: true }), 200);
      if (step === 1) assert.equal(told().length, 0, 'not before its accuracy is known');
      if (step === 2)
        assert.notEqual((await evaluated(2, { metrics: metrics(accuracy), outcomes: stranger })).status, 200);
      const told2 = step === 2 ? { outcomes } : {};
      assert.equal((await evaluated(step, { metrics: metrics(accuracy), ...told2 })).status, 200);
      const events = [
        { key: `step-${step}`, level: 'info', message: '', type: 'metrics', data: { step }, createdAt: 0 },
      ];
      assert.equal((await act(job.id, 'events', { token, events })).status, 200);
    }
    assert.equal((await evaluated(4, { metrics: null })).status, 200);
    const kept = await list();
    assert.deepEqual(
      kept.map(({ step_number, metrics: m }) => [step_number, m.train_loss, m.eval_accuracy, m.eval_groups]),
      [
        [4, 1 / 4, 0.7, 20],
        [2, 1 / 2, 0.9, 20],
      ],
      'the newest and the first of the best',
    );
    const file = kept[1]?.evaluation_file ?? assert.fail('its answers are a file');
    assert.equal(await (await door.openai.files.content(file)).text(), '{"right":true}');
    assert.equal((await finish(job.id, token, 'succeeded', 4)).status, 200);
    const done = await retrieve(job.id);
    const { body: manifest } = await door.signed(
      'GET',
      `/internal/models/${encodeURIComponent(done.fine_tuned_model ?? '')}`,
    );
    assert.equal((manifest as ModelManifest).files[0]?.sha256, sha256(new Uint8Array([2, 2, 3])), 'the best one');
    const events = (await door.openai.fineTuning.jobs.listEvents(job.id, { limit: 100 })).data;
    const messages = events.map(({ message }) => message).join('\n');
    assert.match(messages, /checkpoint of step 2 has the highest accuracy on the held-out examples, 90.0 %/);
    assert.match(
      messages,
      /Chosen as the best of 4 by these same examples, its accuracy is likely to be lower on new ones/,
    );
    assert.equal(
      events[0]?.message,
      'The job has successfully completed.',
      'the last of them: who stops there has read the rest',
    );
    assert.deepEqual(
      (await list()).map(({ step_number, metrics: m }) => [step_number, m.eval_best_of]),
      [
        [4, undefined],
        [2, 4],
      ],
    );
    assert.match(
      messages,
      /Step 1: 60.0 % of 40 held-out examples in 20 groups right \(50.0 % … 70.0 %\), \+10.0 points/,
    );
    const csv = await (await door.openai.files.content(done.result_files[0] ?? '')).text();
    const [head = '', ...rows] = csv.trim().split('\n');
    const column = (name: string) => rows.map((row) => row.split(',')[head.split(',').indexOf(name)]);
    assert.deepEqual(column('eval_accuracy'), ['0.6', '0.9', '0.9', '0.7']);
    assert.deepEqual(column('eval_accuracy_low')[0], '0.5');
  });

  it('takes no checkpoint whose bytes are not the announced ones', async () => {
    const job = await create();
    const claimed = await claim();
    assert.ok(claimed !== null);
    const { token } = claimed.lease;
    assert.equal(await putBlob(job.id, 1, 'a', new Uint8Array([1, 2, 3]), token, 'xyz'), 400);
    const files = [{ name: 'a', bytes: 3, sha256: sha256(new Uint8Array([1, 2, 3])) }];
    assert.equal(
      (await act(job.id, 'checkpoints', { token, step: 1, kind: 'lora', metrics: { step: 1 }, files })).status,
      400,
    );
    assert.equal(await putBlob(job.id, 1, '.hidden', new Uint8Array([1]), token), 400);
    assert.equal((await door.openai.fineTuning.jobs.checkpoints.list(job.id)).data.length, 0);
    await finish(job.id, token, 'failed');
  });

  it('claimed by many at once goes to one', async () => {
    const job = await create();
    const claims = await Promise.all(Array.from({ length: 8 }, claim));
    const winners = claims.filter((claimed) => claimed !== null);
    assert.deepEqual(
      winners.map((claimed) => claimed.job.id),
      [job.id],
    );
    await finish(job.id, winners[0]!.lease.token, 'failed');
  });

  it('can be followed as a stream, and taken up from the middle', async () => {
    const job = await create();
    const claimed = await claim();
    assert.ok(claimed !== null);
    const follow = async (headers: Record<string, string>) => {
      const { body } = await door.call('GET', `/v1/fine_tuning/jobs/${job.id}/events`, undefined, {
        accept: 'text/event-stream',
        ...headers,
      });
      return [...String(body).matchAll(/^id: (\d+)$/gm)].map(([, id]) => Number(id));
    };
    const whole = follow({});
    await sleep(700);
    await finish(job.id, claimed.lease.token, 'failed');
    const ids = await whole;
    assert.equal(ids.length, 5);
    assert.deepEqual(await follow({ 'last-event-id': String(ids[1]) }), ids.slice(2));

    const client = new MantisClient({ baseUrl: door.url, apiKey: API_KEY });
    const updates = [];
    for await (const update of client.jobs.follow(job.id)) updates.push(update);
    assert.equal(updates.length, ids.length + 1);
    assert.deepEqual(updates.at(-1), { type: 'end', status: 'failed', fineTunedModel: null });
    assert.equal((await client.jobs.retrieve(job.id)).error?.code, 'diverged');
    const details = await client.jobs
      .create({ model: FAULT_CARD.id, training_file: 'x', seed: -1 })
      .catch((error: unknown) => error);
    assert.ok(details instanceof ClientError && details.status === 400 && details.param === 'seed', String(details));
  });

  it('pages through lists', async () => {
    const all: string[] = [];
    for await (const job of door.openai.fineTuning.jobs.list({ limit: 2 })) all.push(job.id);
    assert.ok(all.length > 5);
    assert.equal(new Set(all).size, all.length);
    assert.deepEqual(
      all,
      (await door.openai.fineTuning.jobs.list({ limit: 100 })).data.map(({ id }) => id),
    );
    const error = await refused(door.openai.fineTuning.jobs.list({ limit: 101 }));
    assert.deepEqual([error.status, error.param], [400, 'limit']);
  });
});

describe('webhooks', () => {
  /** Creates a job and ends it, so that an event is due. */
  async function endJob(): Promise<string> {
    const job = await post();
    await door.openai.fineTuning.jobs.cancel(job.id);
    return job.id;
  }

  /** Waits until nothing has come for a while. */
  async function quiet(): Promise<void> {
    let seen = -1;
    while (seen !== receiver.received.length) {
      seen = receiver.received.length;
      await sleep(1_500);
    }
  }

  it('are tried again with the same id after a failure and a redirect', { timeout: 60_000 }, async () => {
    await quiet();
    receiver.answers.push(302);
    const job = await endJob();
    await until(() => about(job).length === 2, 25_000, 'the second attempt');
    const [first, second] = about(job) as [(typeof receiver.received)[0], (typeof receiver.received)[0]];
    assert.equal(second.path, '/hook');
    assert.equal(first.headers['webhook-id'], second.headers['webhook-id']);
    const gapMs = second.atMs - first.atMs;
    console.log(`second attempt after ${gapMs} ms`);
    assert.ok(gapMs >= 4_400 && gapMs < 20_000, `${gapMs} ms`);
    await door.openai.webhooks.unwrap(second.body, second.headers, secret);
  });

  it('refuse private and odd targets', async () => {
    for (const url of [
      'http://127.0.0.1:1/',
      'https://127.0.0.1/',
      'https://localhost/',
      'http://example.com/',
      'https://u:p@example.com/',
      'nonsense',
      '',
    ]) {
      const { status, body } = await door.call('POST', '/v1/webhook_endpoints', { url });
      assert.deepEqual([status, (body as { error: { param: string } }).error.param], [400, 'url'], url);
    }
    const { status, body } = await door.call('POST', '/v1/webhook_endpoints', {
      url: 'https://example.com/',
      events: ['nope'],
    });
    assert.deepEqual([status, (body as { error: { param: string } }).error.param], [400, 'events[0]']);
  });

  it('show their secret once, filter by event, and stop after 410 and after deletion', async () => {
    const only = (
      await door.call('POST', '/v1/webhook_endpoints', {
        url: `http://${receiver.host}/only`,
        events: ['fine_tuning.job.succeeded'],
      })
    ).body as { id: string };
    const gone = (await door.call('POST', '/v1/webhook_endpoints', { url: `http://${receiver.host}/gone` })).body as {
      id: string;
    };
    const listed = (await door.call('GET', '/v1/webhook_endpoints')).body as {
      data: { id: string; secret?: string }[];
    };
    assert.deepEqual(
      listed.data.slice(0, 2).map(({ id, secret: shown }) => [id, shown]),
      [
        [gone.id, undefined],
        [only.id, undefined],
      ],
    );
    await quiet();
    receiver.answers.push(410, 410);
    const job = await endJob();
    await until(() => about(job).length === 2, 15_000, 'both endpoints are called');
    await sleep(500);
    const after = (await door.call('GET', '/v1/webhook_endpoints')).body as { data: { id: string; status: string }[] };
    assert.equal(after.data.find(({ id }) => id === gone.id)?.status, 'disabled');
    for (const { id } of after.data)
      assert.equal((await door.call('DELETE', `/v1/webhook_endpoints/${id}`)).status, 200);
    assert.equal((await door.call('DELETE', `/v1/webhook_endpoints/${gone.id}`)).status, 404);
    const last = await endJob();
    await sleep(1_500);
    assert.equal(about(last).length, 0);
  });
});
