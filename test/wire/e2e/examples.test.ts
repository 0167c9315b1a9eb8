/** The examples run as a stranger runs them, against a started product, and print what the README says they print. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { freePort } from '../../fixtures/free-port.ts';
import { type Product, startProduct, stopAndForget } from './product.ts';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '../../..');
const EXAMPLE_TIMEOUT_MS = 240_000;

let product: Product;
let webhookPort: number;

before(async () => {
  webhookPort = await freePort();
  // The README shows what exact weights answer; a machine that finds rounded ones faster may choose those.
  const env = { MANTIS_PRECISION: 'f32', MANTIS_KV: 'f32' };
  product = await startProduct({ egressAllow: `127.0.0.1:${webhookPort}`, env });
});
after(() => stopAndForget(product));

/** Fenced blocks of the README that follow `<!-- output of: command -->`, by command. */
function shownOutputs(): ReadonlyMap<string, string> {
  const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');
  const blocks = readme.matchAll(/<!-- output of: (.+?) -->\s*```\w*\n([\s\S]*?)```/g);
  return new Map([...blocks].map(([, command = '', output = '']) => [command, output]));
}

const outputs = shownOutputs();
assert.ok(outputs.size >= 3, 'the README shows the output of its examples');

for (const [command, shown] of outputs) {
  test(command, async () => {
    const { stdout } = await promisify(execFile)('bash', ['-euc', command], {
      cwd: ROOT,
      timeout: EXAMPLE_TIMEOUT_MS,
      env: {
        ...process.env,
        OPENAI_BASE_URL: `${product.url}/v1`,
        OPENAI_API_KEY: product.apiKey,
        MANTIS_BASE_URL: product.url,
        MANTIS_API_KEY: product.apiKey,
        WEBHOOK_PORT: String(webhookPort),
        NO_COLOR: '1',
      },
    });
    assert.equal(stdout, shown);
  });
}
