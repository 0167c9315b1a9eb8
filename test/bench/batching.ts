/**
 * Whether batching changes answers: ragged mixed batches over a small model with random f32 weights, each request compared with
 * its solo answer, token by token; then questions to the shipped model in f32 and in int8. The last line is JSON.
 *
 *     node --import tsx test/bench/batching.ts [--batches 1000] [--first 0] [--pool 400] [--questions 600]
 */
import { parseArgs } from 'node:util';
import { checkBatch, noCounts, openSmallRunner, SoloAnswers } from '../cpu/engine/batching-load.ts';
import { agreement, fixtureQuestions, nlvrQuestions } from '../cpu/engine/batching-nano.ts';

const { values } = parseArgs({
  options: {
    batches: { type: 'string', default: '1000' },
    first: { type: 'string', default: '0' },
    pool: { type: 'string', default: '400' },
    questions: { type: 'string', default: '600' },
  },
});
const [batches, first, pool] = [Number(values.batches), Number(values.first), Number(values.pool)];

const runner = await openSmallRunner();
const solo = new SoloAnswers(runner);
const counts = noCounts();
const failures: string[] = [];
const start = performance.now();
for (let seed = first; seed < first + batches; seed++) {
  try {
    await checkBatch(runner, solo, seed, pool, counts);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    failures.push(message);
    console.error(message);
  }
  if ((seed - first + 1) % 100 === 0) console.error(`${seed - first + 1} batches, ${failures.length} failed`);
}
const seconds = Math.round((performance.now() - start) / 100) / 10;
await runner.dispose();
const asked = Number(values.questions);
const nano = asked === 0 ? null : await agreement((await nlvrQuestions(asked)) ?? fixtureQuestions(asked));
console.log(
  JSON.stringify({
    benchmark: 'batching',
    binding: process.env.MANTIS_BINDING ?? 'auto',
    ...counts,
    failed: failures.length,
    seconds,
    nano,
  }),
);
process.exitCode = failures.length === 0 ? 0 : 1;
