/**
 * What the bundled model has learned, against the bars set for it: NLVR dev in all six orders with both controls, and the generated
 * skills over the numbers of pictures it was trained on and over eight. The last line is JSON.
 *
 *     npm run bench -- learned [--model DIR] [--data ../shared/data/nlvr] [--per-skill 250] [--threads 2]
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: here('../../gpu-backend/models/nano') },
    data: { type: 'string', default: here('../../../shared/data/nlvr') },
    'per-skill': { type: 'string', default: '250' },
    threads: { type: 'string', default: '2' },
  },
});

interface Summary {
  readonly accuracy: number;
  readonly accuracyInterval95: readonly [number, number];
  readonly controls?: Readonly<Record<string, number>>;
  readonly byCategory?: Readonly<Record<string, { readonly accuracy: number }>>;
}

async function evaluate(...args: readonly string[]): Promise<Summary> {
  const command = [here('../../gpu-backend/cli/mantis.mjs'), 'eval', ...args, '--model', flags.model];
  const { stdout } = await promisify(execFile)(process.execPath, [...command, '--threads', flags.threads, '--json']);
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Summary;
}

interface Bar {
  readonly what: string;
  readonly value: number;
  readonly bar: string;
  readonly isMet: boolean;
}
const atLeast = (what: string, value: number, bar: number): Bar => ({
  what,
  value,
  bar: `>= ${bar}`,
  isMet: value >= bar,
});
const atMost = (what: string, value: number, bar: number): Bar => ({
  what,
  value,
  bar: `<= ${bar}`,
  isMet: value <= bar,
});

const bars: Bar[] = [];
if (existsSync(flags.data)) {
  const controls = ['--control', 'text-only', '--control', 'shuffled'];
  const nlvr = await evaluate('nlvr', '--data', flags.data, '--split', 'dev', ...controls);
  bars.push(
    atLeast('NLVR dev, six orders', nlvr.accuracy, 0.75),
    atMost('NLVR dev without pictures', nlvr.controls?.['text-only'] ?? Number.NaN, 0.58),
    atMost('NLVR dev with pictures of others', nlvr.controls?.shuffled ?? Number.NaN, 0.57),
  );
} else console.log(`NLVR is left out: there is no folder ${flags.data}`);
for (const [pictures, bar, extra] of [
  ['two to four pictures', 0.95, []],
  ['eight pictures', 0.85, ['--images', '8']],
] as const) {
  const { byCategory = {} } = await evaluate('skills', '--seed', '1', '--per-skill', flags['per-skill'], ...extra);
  for (const [skill, { accuracy }] of Object.entries(byCategory))
    bars.push(atLeast(`${skill}, ${pictures}`, accuracy, bar));
}
for (const { what, value, bar, isMet } of bars)
  console.log(`${what.padEnd(40)}${(100 * value).toFixed(1).padStart(6)} %  ${bar} ${isMet ? 'met' : 'MISSED'}`);
console.log(JSON.stringify({ bench: 'learned', model: flags.model, bars, met: bars.every(({ isMet }) => isMet) }));
