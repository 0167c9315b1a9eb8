/** Requests generated from the OpenAPI document against the real door and a real backend: no fault of ours, and refusals that help. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { runGenerated } from '../../fixtures/generated-run.ts';
import { API_KEY, type Installation, MODEL, startInstallation } from './installation.ts';

const COUNT = process.env.MANTIS_LONG_TESTS === '1' ? 20_000 : 500;

let door: Installation;
before(async () => {
  door = await startInstallation({ backend: true });
});
after(() => door?.close());

test(`${COUNT} generated requests`, async () => {
  const seed = 7;
  const { offences, ...report } = await runGenerated({
    url: door.url,
    apiKey: API_KEY,
    models: [MODEL],
    count: COUNT,
    seed,
    clients: 8,
  });
  console.log(`# ${JSON.stringify({ generated: { seed, ...report, offences: offences.length } })}`);
  for (const { why, request, status, answer } of offences.slice(0, 40)) {
    const body =
      request.body === null
        ? ''
        : 'json' in request.body
          ? request.body.json.slice(0, 300)
          : `form ${JSON.stringify(request.body.form.map(([name]) => name))}`;
    console.log(`${why}: ${request.method} ${request.path.slice(0, 120)} ${body}\n  ${status} ${answer.slice(0, 300)}`);
  }
  assert.equal(offences.length, 0);
  assert.ok(
    report.refusals > COUNT / 4 && report.reconnects <= COUNT / 100 && report.operationsTaken > 20,
    'requests are neither all right nor all wrong',
  );
  assert.equal((await door.call('GET', '/health/ready')).status, 200);
});
