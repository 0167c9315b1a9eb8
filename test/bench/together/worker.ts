/** Some jobs over one base in this process, turn by turn. Prints their time, what the process took at most, and digests of what they ended with. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkpointName } from '../../../gpu-backend/train/checkpoint.ts';
import { digestCheckpoint } from '../../../gpu-backend/train/checkpoint-digest.ts';
import { runFineTune } from '../../../gpu-backend/train/finetune.ts';
import type { FineTuneSpec } from '../../../gpu-backend/train/finetune-spec.ts';
import { Turns } from '../../../gpu-backend/train/turns.ts';

const { specs, dir } = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8')) as {
  specs: readonly FineTuneSpec[];
  dir: string;
};
const turns = new Turns();
const begin = performance.now();
const results = await Promise.all(
  specs.map(async (spec, i) => {
    const turn = turns.join();
    const outDir = join(dir, `out-${i}`);
    const result = await runFineTune({ ...spec, outDir, workDir: join(dir, `work-${i}`) }, { pace: () => turn.take() });
    turn.end();
    if (result.outcome !== 'succeeded') throw new Error(JSON.stringify(result));
    return { dir: join(outDir, checkpointName(result.finalStep)), tokens: result.trainedTokens };
  }),
);
const ms = performance.now() - begin;
const peakBytes = process.resourceUsage().maxRSS * 1024;
const digests = [];
for (const result of results) digests.push((await digestCheckpoint(result.dir)).weights);
console.log(JSON.stringify({ ms, peakBytes, digests, tokens: results.reduce((sum, { tokens }) => sum + tokens, 0) }));
process.exit(0);
