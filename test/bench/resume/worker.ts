/**
 * A real fine-tune as a process of its own, over a tiny model with random weights. It goes on from the newest whole checkpoint in its folder, writes a line a step
 * to its log, and can be killed anywhere.
 *
 *     node worker.mjs '{"job": "…/job.json", "out": "…"}'
 */
import { appendFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { newestCheckpoint } from '../../../gpu-backend/train/checkpoint.ts';
import { runFineTune } from '../../../gpu-backend/train/finetune.ts';
import type { FineTuneSpec } from '../../../gpu-backend/train/finetune-spec.ts';

const { job, out } = JSON.parse(process.argv[2] ?? '{}') as { job: string; out: string };
const spec = JSON.parse(readFileSync(job, 'utf8')) as FineTuneSpec;
const stop = new AbortController();
process.on('SIGTERM', () => stop.abort());
const note = (line: object): void => appendFileSync(`${out}.log`, `${JSON.stringify(line)}\n`);

const found = await newestCheckpoint(out, (path, { message }) => note({ damaged: path, message }));
const result = await runFineTune(
  { ...spec, outDir: out, workDir: join(`${out}-work`), ...(found === undefined ? {} : { resumeDir: found.path }) },
  {
    signal: stop.signal,
    onMetrics: ({ step, train, train_loss, learning_rate, grad_norm }) =>
      note({ step, train, train_loss, learning_rate, grad_norm }),
  },
);
note({ ended: result.outcome });
process.exit(result.outcome === 'succeeded' ? 0 : result.outcome === 'stopped' ? 3 : 1);
