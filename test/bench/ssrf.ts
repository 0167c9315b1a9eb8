/**
 * Whether any address leads the edge to a private one: every spelling of the list for pictures and webhooks, direct and redirected, the network binding
 * alone, names that change while they are used, and what a port scan would learn. Runs on a machine of its own (see `test/wire/edge/ssrf-machine.ts`).
 *
 *   npm run bench -- ssrf [--flips 1000] [--timed 200]
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: { flips: { type: 'string', default: '1000' }, timed: { type: 'string', default: '200' } },
});
const machine = join(import.meta.dirname, '..', 'wire', 'edge', 'ssrf-machine.ts');
const child = spawn('unshare', ['-rmn', process.execPath, '--import', import.meta.resolve('tsx'), machine], {
  stdio: ['ignore', 'pipe', 'ignore'],
  env: { ...process.env, SSRF_FLIPS: values.flips, SSRF_TIMED: values.timed, SSRF_REDIRECTS: '1000' },
});
child.on('error', (error) => {
  console.error(`needs unshare and ip, and leave to make namespaces: ${error.message}`);
  process.exitCode = 1;
});
let output = '';
for await (const chunk of child.stdout) output += chunk;

type Outcome = { asked: number; canaries: string[]; publicHits: number; passed?: string[]; accepted?: string[] };
const report = JSON.parse(output.trim().split('\n').at(-1) || '{}') as Record<string, Outcome>;
for (const [name, { asked, canaries, publicHits, accepted }] of Object.entries(report)) {
  const names = accepted === undefined ? '' : `, ${accepted.length} names accepted and judged when called`;
  console.log(
    `${name.padEnd(16)} ${asked} tries: ${canaries.length} private, ${publicHits} public connections${names}`,
  );
}
const connections = Object.values(report).reduce((sum, { canaries }) => sum + canaries.length, 0);
const tries = Object.values(report).reduce((sum, { asked }) => sum + asked, 0);
if (tries === 0 || connections > 0) process.exitCode = 1;
console.log(JSON.stringify({ benchmark: 'ssrf', tries, connections, ...report }));
