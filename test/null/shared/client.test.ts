import assert from 'node:assert/strict';
import { it } from 'node:test';
import { MantisClient } from '../../../shared/client/client.ts';
import { EXAMPLES } from '../../../shared/openapi/examples.ts';
import { OPERATIONS } from '../../../shared/openapi/operations.ts';

/** What scrapers, probes, browsers and readers of the document ask for, without a client. */
const NOT_FOR_CLIENTS: ReadonlySet<string> = new Set([
  'metrics',
  'openapi',
  'healthLive',
  'healthReady',
  'openEvalReport',
]);

it('our client reaches every operation of the document', async () => {
  const called = new Set<string>();
  const fetch = (async (input: URL | string, init?: RequestInit) => {
    called.add(`${(init?.method ?? 'GET').toLowerCase()} ${new URL(String(input)).pathname}`);
    return new Response('{"data": []}', { headers: { 'content-type': 'application/json' } });
  }) as typeof globalThis.fetch;
  const client = new MantisClient({ baseUrl: 'http://nowhere', apiKey: 'mk_x', maxRetries: 0, fetch });
  const example = <T>(name: string): T => EXAMPLES[name] as T;
  const id = 'the_id';
  const file = new Blob(['x']);
  await Promise.all([
    client.chat.create(example('ChatRequest')),
    client.chat.inputTokens(example('ChatRequest')),
    client.score(example('ScoreRequest')),
    client.limits(),
    client.health(),
    client.version(),
    client.models.list(),
    client.models.retrieve(id),
    client.models.delete(id),
    client.files.create(file, 'x.txt', 'user_data'),
    client.files.list(),
    client.files.retrieve(id),
    client.files.content(id),
    client.files.delete(id),
    client.uploads.create(example('CreateUploadRequest')),
    client.uploads.retrieve(id),
    client.uploads.addPart(id, file),
    client.uploads.complete(id, example('CompleteUploadRequest')),
    client.uploads.cancel(id),
    client.batches.create(example('CreateBatchRequest')),
    client.batches.list(),
    client.batches.retrieve(id),
    client.batches.cancel(id),
    client.datasets.create(example('CreateDatasetRequest')),
    client.datasets.list(),
    client.datasets.retrieve(id),
    client.datasets.update(id, example('UpdateDatasetRequest')),
    client.datasets.append(id, example('Subset')),
    client.datasets.delete(id),
    client.datasetValidations.create(example('CreateDatasetValidationRequest')),
    client.datasetValidations.list(),
    client.datasetValidations.retrieve(id),
    client.datasetValidations.cancel(id),
    client.jobs.create(example('CreateJobRequest')),
    client.jobs.list(),
    client.jobs.retrieve(id),
    client.jobs.cancel(id),
    client.jobs.pause(id),
    client.jobs.resume(id),
    client.jobs.events(id),
    client.jobs.checkpoints(id),
    client.usage.retrieve({ startTime: 0 }),
    client.usage.records(),
    client.webhookEndpoints.create('https://example.com'),
    client.webhookEndpoints.list(),
    client.webhookEndpoints.retrieve(id),
    client.webhookEndpoints.delete(id),
    client.webhookEndpoints.update(id, example('UpdateWebhookEndpointRequest')),
    client.webhookEndpoints.rotateSecret(id),
    client.webhookEndpoints.test(id),
    client.webhookEndpoints.redeliver(id, example('RedeliverWebhooksRequest')),
    client.webhookDeliveries.list(),
    client.webhookDeliveries.retrieve(id),
    client.webhookDeliveries.redeliver(id),
    client.webhookEvents.list(),
    client.webhookEvents.retrieve(id),
    client.schedules.create(example('CreateScheduleRequest')),
    client.schedules.list(),
    client.schedules.retrieve(id),
    client.schedules.update(id, example('UpdateScheduleRequest')),
    client.schedules.delete(id),
    client.schedules.run(id),
    client.schedules.pause(id),
    client.schedules.resume(id),
    client.schedules.next(id),
    client.schedules.runs(id),
    client.schedules.retrieveRun(id, id),
    client.aliases.create(example('CreateAliasRequest')),
    client.aliases.list(),
    client.aliases.retrieve(id),
    client.aliases.describe(id, null),
    client.aliases.delete(id),
    client.aliases.promote(id, 'ft:x'),
    client.aliases.rollback(id),
    client.aliases.history(id),
    client.evals.create(example('CreateEvalRequest')),
    client.evals.list(),
    client.evals.retrieve(id),
    client.evals.update(id, example('UpdateEvalRequest')),
    client.evals.delete(id),
    client.evals.runs.create(id, example('CreateEvalRunRequest')),
    client.evals.runs.list(id),
    client.evals.runs.retrieve(id, id),
    client.evals.runs.cancel(id, id),
    client.evals.runs.delete(id, id),
    client.evals.runs.items(id, id),
    client.evals.runs.item(id, id, id),
    client.evals.runs.report(id, id),
    client.admin.tenants.create(example('CreateTenantRequest')),
    client.admin.tenants.list(),
    client.admin.tenants.retrieve(id),
    client.admin.tenants.update(id, example('UpdateTenantRequest')),
    client.admin.keys.create(example('CreateKeyRequest')),
    client.admin.keys.list(),
    client.admin.keys.retrieve(id),
    client.admin.keys.update(id, example('UpdateKeyRequest')),
    client.admin.keys.rotate(id),
    client.admin.keys.revoke(id),
    client.admin.audit.list(),
    client.admin.audit.verify(),
  ]);
  const described = OPERATIONS.filter(({ id: name }) => !NOT_FOR_CLIENTS.has(name)).map(
    ({ method, path }) => `${method} ${path.replaceAll(/\{\w+\}/g, id)}`,
  );
  assert.deepEqual([...called].sort(), described.sort());
});
