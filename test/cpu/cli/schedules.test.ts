/** What `mantis schedules create` refuses before anything is uploaded. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import test from 'node:test';
import { fileURLToPath } from 'node:url';

const BIN = fileURLToPath(new URL('../../../gpu-backend/cli/mantis.mjs', import.meta.url));

async function create(...args: string[]): Promise<{ code: number | null; err: string }> {
  const child = spawn(process.execPath, [BIN, 'schedules', 'create', 'nightly', 'file-1', ...args], {
    // Nobody listens there: a request would say so.
    env: { PATH: process.env.PATH, MANTIS_BASE_URL: 'http://127.0.0.1:9', MANTIS_API_KEY: 'k' },
  });
  let err = '';
  child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, err };
}

test('flags that contradict each other, or say something about what is not there', { timeout: 60_000 }, async () => {
  const cases: [string[], RegExp][] = [
    [[], /--cron or --at/],
    [['--cron', '@daily', '--at', '2030-01-01'], /--cron or --at/],
    [['--cron', '@daily', '--new-examples', '5', '--if-changed'], /not both/],
    [['--cron', '@daily', '--gate', 'file-2'], /--gate needs --alias/],
    [['--cron', '@daily', '--margin', '0.1', '--max-examples', '5'], /--margin, --max-examples: expected --gate/],
  ];
  for (const [args, said] of cases) {
    const { code, err } = await create(...args);
    assert.equal(code, 2, `${args.join(' ')}: ${err}`);
    assert.match(err, said);
  }
});
