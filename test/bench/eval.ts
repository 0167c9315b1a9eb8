/**
 * How fast nano is evaluated: NLVR dev through the runner, against the same questions asked one at a time, each waiting for the answer to the one before: of the
 * public API of a started installation, whose answers are compared as the runner's are or written by /chat/completions, and of the engine in this process. Arms alternate by round. The last line is JSON.
 *
 *     npm run bench -- eval [--data ../shared/data/nlvr] [--examples 989] [--one-at-a-time 240] [--rounds 3] [--threads N]
 *
 * Without the data, generated questions over the four skills take its place.
 */
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { EngineEvalModel } from '../../gpu-backend/engine/eval-model.ts';
import { openAiModel } from '../../gpu-backend/eval/models/openai.ts';
import { runEval } from '../../gpu-backend/eval/run/run.ts';
import type { EvalModel, EvalRecords, EvalTask } from '../../gpu-backend/eval/task.ts';
import { nlvrTask } from '../../gpu-backend/eval/tasks/nlvr.ts';
import { skillsTask } from '../../gpu-backend/eval/tasks/skills.ts';
import { sha256Hex } from '../../gpu-backend/io/digest.ts';
import { heldOutItems } from '../../gpu-backend/train/nano/heldout.ts';
import { boxSidePx } from '../../gpu-backend/train/nano/scene.ts';
import { startProduct, stopAndForget } from '../wire/e2e/product.ts';

const { values } = parseArgs({
  options: {
    data: { type: 'string', default: fileURLToPath(new URL('../../../shared/data/nlvr', import.meta.url)) },
    examples: { type: 'string', default: '989' },
    'one-at-a-time': { type: 'string', default: '240' },
    rounds: { type: 'string', default: '3' },
    threads: { type: 'string', default: String(availableParallelism()) },
  },
});
const [examples, single, rounds, threads] = [
  values.examples,
  values['one-at-a-time'],
  values.rounds,
  values.threads,
].map(Number) as [number, number, number, number];
const BAR = 8;
const dir = fileURLToPath(new URL('../../gpu-backend/models/nano', import.meta.url));

async function generated(options: { answerBy?: 'generation' } = {}): Promise<EvalTask> {
  const items = await Promise.all(
    heldOutItems(Math.ceil(examples / 4)).map(async (item) => ({
      ...item,
      images: await Promise.all(
        item.images.map(async (rgb) => {
          const raw = { width: boxSidePx, height: boxSidePx, channels: 3 as const };
          const png = await sharp(rgb, { raw }).png({ compressionLevel: 1 }).toBuffer();
          return { sha256: sha256Hex(png), bytes: async () => png };
        }),
      ),
    })),
  );
  return skillsTask(items, { perSkill: Math.ceil(examples / 4) }, options);
}

const hasData = existsSync(values.data);
const task = hasData ? nlvrTask() : await generated();
const records = await task.open({ paths: [values.data], limit: examples });

/** Some records as a set of their own: no round asks what another one has asked. */
function part(first: number, count: number): EvalRecords {
  return {
    length: count,
    digest: `${records.digest}, ${count} from ${first}`,
    get: (index) => records.get((first + index) % records.length),
    close: async () => {},
  };
}

/** Questions a second, from the first question to the last answer. */
async function rate(
  model: EvalModel,
  questions: EvalRecords,
  asked = task,
): Promise<{ perS: number; accuracy: number }> {
  const startMs = performance.now();
  const { items, counts } = await runEval({ task: asked, records: questions, model });
  const perS = (counts.done / (performance.now() - startMs)) * 1000;
  if (counts.errors > 0) throw new Error(`${counts.errors} of ${counts.done} questions have no answer`);
  return { perS, accuracy: items.reduce((sum, { score }) => sum + score, 0) / items.length };
}

/** A question before the clock runs: the model is loaded by it. */
async function warmed<T extends EvalModel>(model: T): Promise<T> {
  await runEval({ task, records: part(records.length - 1, 1), model });
  return model;
}

const askedEach = task.imageOrders?.(await records.get(0)).length ?? 1;
const singleRecords = Math.ceil(single / askedEach);
/** As a program would that knows of no options to compare: an answer of a word or two is written. */
const writing = hasData ? nlvrTask({ answerBy: 'generation' }) : await generated({ answerBy: 'generation' });
const product = await startProduct({ env: { MANTIS_LOG_LEVEL: 'warn' } });
const service = { model: 'mantis-nano', baseUrl: `${product.url}/v1`, apiKey: product.apiKey, atOnce: 1 };
const api = openAiModel({ ...service, choices: 'score' });
const chat = openAiModel(service);

const arms = {
  runner: [] as number[],
  api: [] as number[],
  chat: [] as number[],
  engine: [] as number[],
};
const accuracies: number[] = [];
let peakMiB = 0;
const watch = setInterval(() => (peakMiB = Math.max(peakMiB, process.memoryUsage().rss / 2 ** 20)), 50);

async function runner(): Promise<void> {
  // A new one each time: pictures are read and encoded again.
  const model = await warmed(await EngineEvalModel.open({ dir, threads }));
  const { perS, accuracy } = await rate(model, part(0, records.length));
  arms.runner.push(perS);
  accuracies.push(accuracy);
  await model.close();
}

async function engineLoop(round: number): Promise<void> {
  const model = await EngineEvalModel.open({ dir, threads: 1 });
  const oneByOne: EvalModel = { ...bound(model), atOnce: 1 };
  await warmed(oneByOne);
  arms.engine.push((await rate(oneByOne, part(round * singleRecords, singleRecords))).perS);
  await model.close();
}

function bound(model: EngineEvalModel): EvalModel {
  return {
    name: model.name,
    identity: model.identity,
    comparesChoices: true,
    atOnce: model.atOnce,
    answer: (prompt, signal) => model.answer(prompt, signal),
    close: () => model.close(),
  };
}

const median = (of: readonly number[]) => of.toSorted((a, b) => a - b)[Math.floor(of.length / 2)]!;
try {
  await warmed(api);
  for (let round = 0; round < rounds; round++) {
    const all = [
      runner,
      async () => arms.api.push((await rate(api, part(round * singleRecords, singleRecords))).perS),
      async () => arms.chat.push((await rate(chat, part(round * singleRecords, singleRecords), writing)).perS),
      () => engineLoop(round),
    ];
    for (const arm of round % 2 === 0 ? all : all.reverse()) await arm();
    const shown = Object.entries(arms).map(([name, of]) => `${name} ${of.at(-1)?.toFixed(1)}`);
    console.error(`round ${round}: ${shown.join(', ')} questions/s`);
  }
  const result = {
    bench: 'eval',
    data: hasData ? 'NLVR dev' : 'generated skills',
    examples: records.length,
    questions: records.length * askedEach,
    threads,
    accuracy: Number(median(accuracies).toFixed(4)),
    runnerPerS: Number(median(arms.runner).toFixed(1)),
    apiLoopPerS: Number(median(arms.api).toFixed(1)),
    chatLoopPerS: Number(median(arms.chat).toFixed(1)),
    engineLoopPerS: Number(median(arms.engine).toFixed(1)),
    // Of the rounds, each of which has all arms side by side.
    overApiLoop: Number(median(arms.runner.map((rate, i) => rate / arms.api[i]!)).toFixed(2)),
    overChatLoop: Number(median(arms.runner.map((rate, i) => rate / arms.chat[i]!)).toFixed(2)),
    overEngineLoop: Number(median(arms.runner.map((rate, i) => rate / arms.engine[i]!)).toFixed(2)),
    peakMiB: Math.round(peakMiB),
    bar: BAR,
  };
  console.log(JSON.stringify(result));
  if (result.overApiLoop < BAR) process.exitCode = 1;
} finally {
  clearInterval(watch);
  await records.close();
  await stopAndForget(product);
}
