/** The measurement of the door, in small: that it measures what it says, and that nothing is lost on the way. Times are for `npm run bench -- edge-hop`. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { it } from 'node:test';
import { promisify } from 'node:util';

it('requests through the door arrive whole, streams come to their end, the bundle is within its bar', async (t) => {
  const bench = join(import.meta.dirname, '..', '..', 'bench', 'edge-hop.ts');
  const small = [
    '--warm-up',
    '0.5',
    '--rounds',
    '1',
    '--seconds',
    '1',
    '--rate',
    '25',
    '--parts',
    'latency,streams,bundle',
  ];
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', bench, ...small]).catch(
    // Bars that are missed on a busy machine are no failure here.
    (error: { stdout: string }) => error,
  );
  const line = stdout.trimEnd().split('\n').at(-1) ?? '';
  const result = JSON.parse(line) as {
    failures: number;
    checkedFrames: { checked: number; pictures: number; bad: string[] };
    latency: { edge: { p50Ms: number } };
    streams: { streams: number; lagP50Ms: number };
    bundle: { gzipBytes: number };
  };
  t.diagnostic(line);
  assert.deepEqual([result.failures, result.checkedFrames.bad], [0, []]);
  assert.ok(result.checkedFrames.checked >= 25 && result.checkedFrames.pictures === 2 * result.checkedFrames.checked);
  assert.ok(result.latency.edge.p50Ms > 0 && result.streams.streams === 64);
  assert.ok(result.bundle.gzipBytes <= 1_000_000);
});
