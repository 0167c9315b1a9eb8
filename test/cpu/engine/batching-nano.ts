/** The shipped model's own kind of prompts as engine requests, answered alone and in batches. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { EngineRequest } from '../../../gpu-backend/engine/live-request.ts';
import { ModelLoader } from '../../../gpu-backend/engine/load-model.ts';
import { loadFront, type ModelFront } from '../../../gpu-backend/engine/model-front.ts';
import type { OnnxRunner } from '../../../gpu-backend/engine/onnx-runner.ts';
import { storageFor } from '../../../gpu-backend/engine/precision.ts';
import { capacityFor } from '../../../gpu-backend/engine/scheduler/capacity.ts';
import { readNlvrBoxes, readNlvrExamples } from '../../../gpu-backend/io/nlvr.ts';
import type { KvFormat } from '../../../gpu-backend/models/decode.ts';
import { layoutConversation } from '../../../gpu-backend/text/layout.ts';
import { preprocessImage } from '../../../gpu-backend/vision/preprocess.ts';
import { PLAIN_REQUEST, startEngine } from '../../fixtures/engine.ts';
import { NANO_DIR } from './nano-service.ts';

const PICTURES = fileURLToPath(new URL('../../fixtures/pictures', import.meta.url));
/** NLVR's dev split, where it has been fetched. */
export const NLVR_DIR = fileURLToPath(new URL('../../../../shared/data/nlvr', import.meta.url));

const STATEMENTS = [
  'There is a box with a blue square.',
  'There are exactly two yellow items.',
  'There is a tower with a black block at the base.',
  'In every box there is at least one black item.',
  'There is only one circle.',
];

interface Question {
  readonly pngs: readonly Uint8Array[];
  readonly text: string;
}

/** Statements about three pictures each, and for every third set a picture to describe: answers of one token and of dozens. */
function withDescriptions(sets: readonly Question[]): Question[] {
  return sets.flatMap((set, i) => [
    set,
    ...(i % 3 === 0 ? [{ pngs: set.pngs, text: `describe image ${1 + (i % set.pngs.length)}` }] : []),
  ]);
}

/** Made of the pictures in test/fixtures. */
export function fixtureQuestions(count: number): Question[] {
  const files = readdirSync(PICTURES).filter((name) => name.endsWith('.png'));
  const pngs = files.sort().map((name) => readFileSync(join(PICTURES, name)));
  const sets = Array.from({ length: count }, (_, i) => ({
    pngs: [0, 1, 2].map((k) => pngs[(i * 5 + k * (1 + (i % 4))) % pngs.length]!),
    text: STATEMENTS[i % STATEMENTS.length]!,
  }));
  return withDescriptions(sets).slice(0, count);
}

/** Two questions about two dozen pictures each, among short ones. */
export function longAndShortQuestions(): Question[] {
  const short = fixtureQuestions(8);
  const pngs = short.flatMap((question) => question.pngs);
  const long = ['describe image 1', 'describe image 20'].map((text) => ({ pngs: pngs.slice(0, 24), text }));
  return [...short.slice(0, 3), long[0]!, ...short.slice(3), long[1]!];
}

/** From NLVR's dev split; `null` where it is not there. */
export async function nlvrQuestions(count: number): Promise<Question[] | null> {
  if (!existsSync(join(NLVR_DIR, 'dev.jsonl'))) return null;
  const [examples, boxes] = [await readNlvrExamples(NLVR_DIR, 'dev'), await readNlvrBoxes(NLVR_DIR, 'dev')];
  const sets = examples.slice(0, count).map(({ statement, boxes: orders }) => ({
    pngs: orders[0]!.map((box) => boxes.png(box)),
    text: statement.trim(),
  }));
  return withDescriptions(sets).slice(0, count);
}

export function openNano(precision: 'f32' | 'w8a8', kv: KvFormat): Promise<OnnxRunner> {
  const storage = storageFor(precision);
  const compile = { threads: 1, kv, ...(storage === undefined ? {} : { storage }) };
  return new ModelLoader().load(NANO_DIR, null, compile).then(({ runner }) => runner);
}

/** Called anew for each engine: what is submitted loses its pixels. */
async function requestsOf(questions: readonly Question[], front: ModelFront): Promise<EngineRequest[]> {
  const requests: EngineRequest[] = [];
  for (const [i, { pngs, text }] of questions.entries()) {
    const pictures = await Promise.all(pngs.map((png) => preprocessImage(png, front.recipe)));
    const layout = layoutConversation(
      [{ role: 'user', parts: [...pngs.keys()].map((image) => ({ type: 'image' as const, image })) }].map(
        (message) => ({
          ...message,
          role: 'user' as const,
          parts: [...message.parts, { type: 'text' as const, text }],
        }),
      ),
      {
        tokenizer: front.tokenizer,
        template: front.template,
        tokensPerImage: front.slots.mostTokens,
        imageTokenId: front.imageTokenId,
        addGenerationPrompt: true,
      },
    );
    requests.push({
      ...PLAIN_REQUEST,
      id: `q${i}`,
      tokenIds: layout.ids,
      images: layout.images.map(({ image, tokenStart, tokenCount }) => {
        const { pixels_CHW, width, height, digest } = pictures[image]!;
        return { start: tokenStart, tokens: tokenCount, key: digest, picture: { pixels_CHW, width, height } };
      }),
      maxNewTokens: 64,
      stopIds: front.stopIds,
    });
  }
  return requests;
}

/** Greedy answers of each question with the model for itself, nothing kept from one to the next. */
export async function answersAlone(runner: OnnxRunner, questions: readonly Question[]): Promise<number[][]> {
  const front = await loadFront('nano', NANO_DIR);
  const answers: number[][] = [];
  for (const request of await requestsOf(questions, front)) {
    const capacity = capacityFor({ maxRows: 1, kvTokens: 2048 });
    const { engine, tokens } = startEngine({ runner, capacity, speculate: false });
    engine.submit(request);
    while (engine.busy) await engine.step();
    answers.push(tokens(request.id));
  }
  return answers;
}

/** Greedy answers of all questions, one arriving at every second step, as a server with its usual settings gives them. */
export async function answersTogether(
  runner: OnnxRunner,
  questions: readonly Question[],
  {
    classBounds,
    ...options
  }: {
    readonly prefixCacheBytes?: number;
    readonly speculate?: boolean;
    readonly classBounds?: readonly number[];
  } = {},
): Promise<{ readonly answers: number[][]; readonly cachedTokens: number; readonly tokensPerRun: number }> {
  const front = await loadFront('nano', NANO_DIR);
  const requests = await requestsOf(questions, front);
  const usual = capacityFor({ maxRows: 16, kvTokens: 8192 });
  const capacity = { ...usual, classBounds: classBounds ?? usual.classBounds };
  const { engine, tokens } = startEngine({ runner, capacity, prefixCacheBytes: 32 << 20, ...options });
  for (let step = 0; step < 2 * requests.length || engine.busy; step++) {
    if (step % 2 === 0 && step < 2 * requests.length) engine.submit(requests[step / 2]!);
    await engine.step();
  }
  const { cachedTokens, generatedTokens, decodeRuns } = engine.counters;
  return { answers: requests.map(({ id }) => tokens(id)), cachedTokens, tokensPerRun: generatedTokens / decodeRuns };
}

/** Tokens at the same place of the same answer that are equal, over all places. */
export function equalShare(a: readonly (readonly number[])[], b: readonly (readonly number[])[]): number {
  let [equal, all] = [0, 0];
  for (const [i, one] of a.entries()) {
    const other = b[i]!;
    all += Math.max(one.length, other.length);
    for (const [at, token] of one.entries()) equal += Number(token === other[at]);
  }
  return equal / all;
}

/** How far batches and small numbers change the answers to some questions. */
export async function agreement(questions: readonly Question[]): Promise<{
  readonly questions: number;
  readonly tokens: number;
  /** In batches with reuse of prefixes. */
  readonly f32: { readonly reusedAsAlone: number };
  /**
   * What a prefix gives back was rounded to int8, while a prompt that is read in one run attends to its own keys and values as they
   * were: reuse changes a few tokens, batches by themselves none.
   */
  readonly int8: {
    readonly batchedAsAlone: number;
    readonly reusedAsAlone: number;
    readonly aloneAsF32: number;
    readonly reusedAsF32: number;
  };
  readonly cachedTokens: number;
  readonly tokensPerRun: number;
}> {
  const exact = await openNano('f32', 'f32');
  const exactAlone = await answersAlone(exact, questions);
  const exactTogether = await answersTogether(exact, questions);
  await exact.dispose();
  const small = await openNano('w8a8', 'int8');
  const alone = await answersAlone(small, questions);
  const batched = await answersTogether(small, questions, { prefixCacheBytes: 0 });
  const together = await answersTogether(small, questions);
  await small.dispose();
  return {
    questions: questions.length,
    tokens: exactAlone.flat().length,
    f32: { reusedAsAlone: equalShare(exactTogether.answers, exactAlone) },
    int8: {
      batchedAsAlone: equalShare(batched.answers, alone),
      reusedAsAlone: equalShare(together.answers, alone),
      aloneAsF32: equalShare(alone, exactAlone),
      reusedAsF32: equalShare(together.answers, exactAlone),
    },
    cachedTokens: together.cachedTokens,
    tokensPerRun: together.tokensPerRun,
  };
}
