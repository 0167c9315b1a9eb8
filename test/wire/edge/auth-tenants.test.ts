/** Three tenants with one thing of each kind: nobody finds, changes, lists or names what is another's, and is told exactly what is told of nothing. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import type { ClaimResponse } from '../../../shared/contract/backend.ts';
import type { ErrorEnvelope } from '../../../shared/contract/errors.ts';
import type { List } from '../../../shared/contract/files.ts';
import type { Tenant } from '../../../shared/contract/keys.ts';
import { signatureHeaders, UNSIGNED_PAYLOAD } from '../../../shared/wire/signature.ts';
import { png } from '../../null/edge/pictures.ts';
import { FAULT_CARD, FaultBackend } from './fault-backend.ts';
import { type Installation, SECRET, startInstallation, until } from './installation.ts';
import { playValidation, validateResult } from './play-validation.ts';
import { startReceiver } from './receiver.ts';

type Things = {
  key: string;
  tenant: string;
  file: string;
  image: string;
  upload: string;
  batch: string;
  job: string;
  model: string;
  webhook: string;
  schedule: string;
  alias: string;
};

let door: Installation;
let backend: FaultBackend;
let receiver: Awaited<ReturnType<typeof startReceiver>>;
const tenants: Things[] = [];

async function call(key: string, method: string, path: string, body?: object | FormData) {
  const json = body !== undefined && !(body instanceof FormData);
  const response = await fetch(door.url + path, {
    method,
    headers: { authorization: `Bearer ${key}`, ...(json ? { 'content-type': 'application/json' } : {}) },
    ...(body === undefined ? {} : { body: json ? JSON.stringify(body) : (body as FormData) }),
  });
  return { status: response.status, text: await response.text() };
}

async function made(key: string, path: string, body: object | FormData): Promise<string> {
  const { status, text } = await call(key, 'POST', path, body);
  assert.equal(status, 200, `${path}: ${text}`);
  return (JSON.parse(text) as { id: string }).id;
}

function form(purpose: string, bytes: Uint8Array | string, name: string): FormData {
  const data = new FormData();
  data.set('purpose', purpose);
  data.set('file', new File([bytes as Uint8Array<ArrayBuffer>], name));
  return data;
}

/** A tenant with a key and everything that a key can make. */
async function settle(name: string): Promise<Things> {
  const { id: tenant } = (await door.call('POST', '/v1/admin/tenants', { name })).body as Tenant;
  const { secret: key } = (await door.call('POST', '/v1/admin/keys', { name, tenant })).body as { secret: string };
  const line = {
    messages: [
      { role: 'user', content: `of ${name}` },
      { role: 'assistant', content: 'yes' },
    ],
  };
  const file = await made(key, '/v1/files', form('fine-tune', JSON.stringify(line), 'train.jsonl'));
  const image = await made(key, '/v1/files', form('vision', png(8, 8), `${name}.png`));
  const request = {
    custom_id: '1',
    method: 'POST',
    url: '/v1/chat/completions',
    body: { model: FAULT_CARD.id, messages: line.messages.slice(0, 1) },
  };
  const input = await made(key, '/v1/files', form('batch', JSON.stringify(request), 'batch.jsonl'));
  const batch = await made(key, '/v1/batches', {
    input_file_id: input,
    endpoint: '/v1/chat/completions',
    completion_window: '24h',
  });
  const upload = await made(key, '/v1/uploads', {
    purpose: 'user_data',
    filename: 'a.bin',
    bytes: 10,
    mime_type: 'application/octet-stream',
  });
  const webhook = await made(key, '/v1/webhook_endpoints', { url: `http://${receiver.host}/${name}` });
  const job = await made(key, '/v1/fine_tuning/jobs', { model: FAULT_CARD.id, training_file: file });
  const model = await train(job);
  const schedule = await made(key, '/v1/schedules', {
    name: `of ${name}`,
    cron: '30 2 * * *',
    job: { model: FAULT_CARD.id, training_file: file },
  });
  const alias = await made(key, '/v1/aliases', { name: `alias-of-${name}`, model });
  return { key, tenant, file, image, upload, batch, job, model, webhook, schedule, alias };
}

/** Plays the worker of a job to its end. @returns the tuned model's name */
async function train(job: string): Promise<string> {
  await playValidation(door, backend.id, validateResult(1));
  const claimed = (await door.signed('POST', '/internal/jobs/claim', { backendId: backend.id })).body as ClaimResponse;
  assert.equal(claimed.job.id, job);
  const { token } = claimed.lease;
  const bytes = new Uint8Array([1, 2, 3]);
  const target = `/internal/jobs/${job}/checkpoints/1/adapter.safetensors`;
  const headers = await signatureHeaders({
    secret: SECRET,
    method: 'PUT',
    target,
    body: UNSIGNED_PAYLOAD,
    nowS: Date.now() / 1000,
  });
  const put = await fetch(door.url + target, {
    method: 'PUT',
    headers: { ...headers, 'x-mantis-lease': String(token) },
    body: bytes,
  });
  assert.equal(put.status, 200);
  const files = [{ name: 'adapter.safetensors', bytes: 3, sha256: createHash('sha256').update(bytes).digest('hex') }];
  const post = (verb: string, body: object) => door.signed('POST', `/internal/jobs/${job}/${verb}`, body);
  assert.equal(
    (await post('checkpoints', { token, step: 1, kind: 'lora', metrics: { step: 1, train_loss: 1 }, files })).status,
    200,
  );
  const end = { token, status: 'succeeded', trainedTokens: 1, error: null, finalStep: 1 };
  assert.equal((await post('finish', end)).status, 200);
  const { body } = await door.signed(
    'GET',
    `/internal/models/${encodeURIComponent(`ft:${FAULT_CARD.id}:local::${job.slice(6)}`)}`,
  );
  return (body as { id: string }).id;
}

before(async () => {
  receiver = await startReceiver();
  door = await startInstallation({ egressAllow: receiver.host });
  backend = await FaultBackend.join(door);
  for (const name of ['red', 'green', 'blue']) tenants.push(await settle(name));
});
after(async () => {
  // After a start that failed too: what is left open keeps this process from ending.
  await backend?.close();
  await door?.close();
  await receiver?.close();
});

/** Every verb on a thing, by its id. */
const VERBS: [kind: keyof Things, none: string, method: string, path: (id: string) => string, body?: object][] = [
  ['file', 'file-none', 'GET', (id) => `/v1/files/${id}`],
  ['file', 'file-none', 'HEAD', (id) => `/v1/files/${id}`],
  ['file', 'file-none', 'GET', (id) => `/v1/files/${id}/content`],
  ['file', 'file-none', 'DELETE', (id) => `/v1/files/${id}`],
  ['image', 'file-none', 'DELETE', (id) => `/v1/files/${id}`],
  ['upload', 'upload_none', 'GET', (id) => `/v1/uploads/${id}`],
  ['upload', 'upload_none', 'POST', (id) => `/v1/uploads/${id}/cancel`],
  ['upload', 'upload_none', 'POST', (id) => `/v1/uploads/${id}/complete`, { part_ids: ['part_none'] }],
  ['batch', 'batch_none', 'GET', (id) => `/v1/batches/${id}`],
  ['batch', 'batch_none', 'POST', (id) => `/v1/batches/${id}/cancel`],
  ['job', 'ftjob-none', 'GET', (id) => `/v1/fine_tuning/jobs/${id}`],
  ['job', 'ftjob-none', 'GET', (id) => `/v1/fine_tuning/jobs/${id}/events`],
  ['job', 'ftjob-none', 'GET', (id) => `/v1/fine_tuning/jobs/${id}/checkpoints`],
  ['job', 'ftjob-none', 'POST', (id) => `/v1/fine_tuning/jobs/${id}/cancel`],
  ['model', 'ft:faulty:local::none', 'GET', (id) => `/v1/models/${id}`],
  ['model', 'ft:faulty:local::none', 'DELETE', (id) => `/v1/models/${id}`],
  ['schedule', 'sched_none', 'GET', (id) => `/v1/schedules/${id}`],
  ['schedule', 'sched_none', 'POST', (id) => `/v1/schedules/${id}`, { name: 'mine' }],
  ['schedule', 'sched_none', 'DELETE', (id) => `/v1/schedules/${id}`],
  ['schedule', 'sched_none', 'GET', (id) => `/v1/schedules/${id}/next`],
  ['schedule', 'sched_none', 'GET', (id) => `/v1/schedules/${id}/runs`],
  ['schedule', 'sched_none', 'GET', (id) => `/v1/schedules/${id}/runs/schedrun_none`],
  ['schedule', 'sched_none', 'POST', (id) => `/v1/schedules/${id}/run`],
  ['schedule', 'sched_none', 'POST', (id) => `/v1/schedules/${id}/pause`],
  ['schedule', 'sched_none', 'POST', (id) => `/v1/schedules/${id}/resume`],
  ['alias', 'alias-none', 'GET', (id) => `/v1/aliases/${id}`],
  ['alias', 'alias-none', 'POST', (id) => `/v1/aliases/${id}`, { description: 'mine' }],
  ['alias', 'alias-none', 'DELETE', (id) => `/v1/aliases/${id}`],
  ['alias', 'alias-none', 'GET', (id) => `/v1/aliases/${id}/history`],
  ['alias', 'alias-none', 'POST', (id) => `/v1/aliases/${id}/promote`, { model: FAULT_CARD.id }],
  ['alias', 'alias-none', 'POST', (id) => `/v1/aliases/${id}/rollback`, {}],
  ['webhook', 'whe_none', 'GET', (id) => `/v1/webhook_endpoints/${id}`],
  ['webhook', 'whe_none', 'DELETE', (id) => `/v1/webhook_endpoints/${id}`],
  ['webhook', 'whe_none', 'POST', (id) => `/v1/webhook_endpoints/${id}`, { status: 'disabled' }],
  ['webhook', 'whe_none', 'POST', (id) => `/v1/webhook_endpoints/${id}/rotate_secret`, {}],
  ['webhook', 'whe_none', 'POST', (id) => `/v1/webhook_endpoints/${id}/test`],
  ['webhook', 'whe_none', 'POST', (id) => `/v1/webhook_endpoints/${id}/redeliver`, { since: 0 }],
];

/** Things named inside a request. */
const NAMED: [kind: keyof Things, none: string, path: string, body: (id: string) => object][] = [
  [
    'file',
    'file-none',
    '/v1/schedules',
    (id) => ({ name: 'x', cron: '@daily', job: { model: FAULT_CARD.id, training_file: id } }),
  ],
  ['model', 'ft:faulty:local::none', '/v1/aliases', (id) => ({ name: 'of-nobody', model: id })],
  ['alias', 'alias-none', '/v1/chat/completions', (id) => ({ model: id, messages: [{ role: 'user', content: 'hi' }] })],
  ['file', 'file-none', '/v1/fine_tuning/jobs', (id) => ({ model: FAULT_CARD.id, training_file: id })],
  [
    'file',
    'file-none',
    '/v1/batches',
    (id) => ({ input_file_id: id, endpoint: '/v1/chat/completions', completion_window: '24h' }),
  ],
  [
    'image',
    'file-none',
    '/v1/chat/completions',
    (id) => ({
      model: FAULT_CARD.id,
      messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: id } }] }],
    }),
  ],
  [
    'image',
    'file-none',
    '/v1/chat/completions/input_tokens',
    (id) => ({
      model: FAULT_CARD.id,
      messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: id } }] }],
    }),
  ],
  [
    'model',
    'ft:faulty:local::none',
    '/v1/chat/completions',
    (id) => ({ model: id, messages: [{ role: 'user', content: 'hi' }] }),
  ],
  [
    'model',
    'ft:faulty:local::none',
    '/v1/score',
    (id) => ({ model: id, messages: [{ role: 'user', content: 'hi' }], options: ['a', 'b'] }),
  ],
];

describe('three tenants', () => {
  const pairs = () =>
    tenants.flatMap((asker) => tenants.filter((owner) => owner !== asker).map((owner) => ({ asker, owner })));
  /** Without the id that was asked for, and what counts up or is drawn anew. */
  const words = (text: string, id: string) => text.replaceAll(id, '<id>').replaceAll(/req_\w+/g, 'req_');

  it('get the answer to another’s id that an id of nothing gets', async () => {
    let tried = 0;
    // Over and over: an attempt must not leave something behind that the next one finds.
    const rounds = process.env.MANTIS_LONG_TESTS === '1' ? 7 : 1;
    for (const { asker, owner } of Array.from({ length: rounds }, pairs).flat()) {
      for (const [kind, none, method, path, body] of VERBS) {
        const id = owner[kind];
        const foreign = await call(asker.key, method, path(id), body);
        const nothing = await call(asker.key, method, path(none), body);
        assert.equal(foreign.status, 404, `${method} ${path(id)}: ${foreign.text}`);
        assert.equal(words(foreign.text, id), words(nothing.text, none), `${method} ${path(id)}`);
        tried++;
      }
      for (const [kind, none, path, body] of NAMED) {
        const id = owner[kind];
        const foreign = await call(asker.key, 'POST', path, body(id));
        const nothing = await call(asker.key, 'POST', path, body(none));
        assert.ok(foreign.status >= 400 && foreign.status < 500, `${path}: ${foreign.status} ${foreign.text}`);
        assert.equal(foreign.status, nothing.status);
        assert.equal(words(foreign.text, id), words(nothing.text, none), path);
        tried++;
      }
    }
    console.log(JSON.stringify({ pairs: tried, leaks: 0 }));
  });

  it('list their own, and another’s id as a cursor is the end of the list', async () => {
    const lists: [path: string, kind: keyof Things][] = [
      ['/v1/files', 'file'],
      ['/v1/batches', 'batch'],
      ['/v1/fine_tuning/jobs', 'job'],
      ['/v1/webhook_endpoints', 'webhook'],
      ['/v1/schedules', 'schedule'],
      ['/v1/aliases', 'alias'],
      ['/v1/models', 'model'],
    ];
    for (const { asker, owner } of pairs()) {
      for (const [path, kind] of lists) {
        const { status, text } = await call(asker.key, 'GET', path);
        assert.equal(status, 200);
        assert.ok(text.includes(asker[kind]), `${path} has one's own`);
        for (const value of Object.values(owner)) assert.ok(!text.includes(value), `${path} shows ${value}`);
        if (kind === 'model') continue;
        for (const order of kind === 'file' ? ['', '&order=asc'] : ['']) {
          const after = await call(asker.key, 'GET', `${path}?after=${owner[kind]}${order}`);
          const none = await call(asker.key, 'GET', `${path}?after=nothing${order}`);
          assert.equal(after.text.replaceAll(owner[kind], 'nothing'), none.text, path);
          if (after.status === 200) assert.deepEqual((JSON.parse(after.text) as List<unknown>).data, []);
        }
      }
      const checkpoints = (await call(owner.key, 'GET', `/v1/fine_tuning/jobs/${owner.job}/checkpoints`)).text;
      const { id } = (JSON.parse(checkpoints) as List<{ id: string }>).data[0]!;
      const mine = await call(asker.key, 'GET', `/v1/fine_tuning/jobs/${asker.job}/checkpoints?after=${id}`);
      assert.deepEqual((JSON.parse(mine.text) as List<unknown>).data, []);
    }
  });

  it('have everything still, and heard of their own jobs only', async () => {
    for (const { key, file, job, model, webhook, batch, upload } of tenants) {
      for (const path of [
        `/v1/files/${file}`,
        `/v1/fine_tuning/jobs/${job}`,
        `/v1/models/${model}`,
        `/v1/webhook_endpoints/${webhook}`,
        `/v1/batches/${batch}`,
        `/v1/uploads/${upload}`,
      ])
        assert.equal((await call(key, 'GET', path)).status, 200, path);
      const { status, text } = await call(key, 'POST', '/v1/chat/completions', {
        model,
        messages: [{ role: 'user', content: 'hi' }],
      });
      assert.equal(status, 200, text);
    }
    const hooks = () => receiver.received.filter(({ body }) => body.includes('fine_tuning.job.succeeded'));
    await until(() => hooks().length >= 3, 10_000, 'every tenant was told of its job');
    assert.equal(hooks().length, 3);
  });

  it('fill no field that is the installation’s to fill', async () => {
    const { key } = tenants[0]!;
    for (const field of [
      'tenant',
      'id',
      'seq',
      'created_at',
      'status',
      'lease_token',
      'fine_tuned_model',
      'disabled_at',
      'secret',
      'scopes',
    ]) {
      for (const [path, body] of [
        ['/v1/fine_tuning/jobs', { model: FAULT_CARD.id, training_file: tenants[0]!.file }],
        ['/v1/webhook_endpoints', { url: `http://${receiver.host}/x` }],
      ] as const) {
        const { status, text } = await call(key, 'POST', path, { ...body, [field]: tenants[1]!.tenant });
        assert.equal(status, 400, `${path} with ${field}: ${text}`);
        assert.equal((JSON.parse(text) as ErrorEnvelope).error.code, 'unknown_parameter');
      }
    }
  });
});
