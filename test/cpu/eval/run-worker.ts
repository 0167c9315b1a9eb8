/** One start of a run, in a process that a test may kill: `node script.mjs OUT CACHE KILL_AFTER`. Answers depend on the prompt alone. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { buildReport, reportJson } from '../../../gpu-backend/eval/report/build.ts';
import { recordsOf } from '../../../gpu-backend/eval/report/items.ts';
import { AnswerCache } from '../../../gpu-backend/eval/run/answer-cache.ts';
import { runEval } from '../../../gpu-backend/eval/run/run.ts';
import { writeDurably } from '../../../gpu-backend/eval/run/run-folder.ts';
import type { EvalModel } from '../../../gpu-backend/eval/task.ts';
import { records, task } from './run-task.ts';

const [out = '', cacheDir = '', killAfter = '0'] = process.argv.slice(2);
let left = Number(killAfter);

const model: EvalModel = {
  name: 'digest',
  identity: 'digest 1',
  comparesChoices: true,
  atOnce: 8,
  async answer(prompt) {
    const digest = createHash('sha256').update(JSON.stringify([prompt.parts, prompt.images.map((i) => i.sha256)]));
    const byte = digest.digest()[0] ?? 0;
    // Answers come in another order than questions were asked, and another one in every start; they take so long that some reach the disk before a kill.
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 100));
    if (--left === 0) process.kill(process.pid, 'SIGKILL');
    const logprobs = (prompt.choices ?? []).map((_, i) => -((byte * (i + 3)) % 17) / 7);
    const best = logprobs.indexOf(Math.max(...logprobs));
    return { text: prompt.choices?.[best] ?? '', finishReason: 'choice', logprobs };
  },
  close: async () => {},
};

const cache = cacheDir === '' ? undefined : await AnswerCache.open(cacheDir);
const result = await runEval({
  task,
  records,
  model,
  asked: { orders: 'all', rotate: false, controls: ['text-only', 'shuffled'] },
  out,
  ...(cache === undefined ? {} : { cache }),
});
const report = await buildReport({ ...result, model, title: task.title, records: recordsOf(records, records.length) });
await writeDurably(join(out, 'report.json'), reportJson(report));
await cache?.close();
console.log(JSON.stringify(result.counts));
