/**
 * `npm run bench -- generated [--requests 20000] [--seed 1] [--clients 8]`: requests generated from the OpenAPI document against the real door and a real
 * backend. Exit code 1 where one of them is answered with a fault of ours, or a refusal does not help. The last line is JSON.
 */
import { parseArgs } from 'node:util';
import { runGenerated } from '../fixtures/generated-run.ts';
import { API_KEY, MODEL, startInstallation } from '../wire/edge/installation.ts';

const { values } = parseArgs({
  options: {
    requests: { type: 'string', default: '20000' },
    seed: { type: 'string', default: '1' },
    clients: { type: 'string', default: '8' },
  },
});

// The door's log would be most of the output.
const log = console.log;
console.log = () => {};
const door = await startInstallation({ backend: true });
try {
  const startedAt = performance.now();
  const { offences, ...report } = await runGenerated({
    url: door.url,
    apiKey: API_KEY,
    models: [MODEL],
    count: Number(values.requests),
    seed: Number(values.seed),
    clients: Number(values.clients),
  });
  const seconds = (performance.now() - startedAt) / 1000;
  const byReason: Record<string, number> = {};
  for (const { why, request, status, answer } of offences) {
    byReason[why] = (byReason[why] ?? 0) + 1;
    if ((byReason[why] ?? 0) > 10) continue;
    const body = request.body !== null && 'json' in request.body ? request.body.json.slice(0, 400) : '';
    log(`${why}: ${request.method} ${request.path.slice(0, 120)} ${body}\n  ${status} ${answer.slice(0, 400)}`);
  }
  log(
    JSON.stringify({
      bench: 'generated',
      seed: Number(values.seed),
      seconds: Math.round(seconds),
      ...report,
      offences: byReason,
    }),
  );
  if (offences.length > 0) process.exitCode = 1;
} finally {
  await door.close();
}
