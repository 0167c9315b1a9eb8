/**
 * What each format of weights and of keys and values costs in accuracy, through the engine that serves: NLVR prompts (three
 * pictures and a statement), the share of greedy answers that are those of f32, and how far the logits of their tokens move. Prompts
 * are read in chunks, so that all but the first of them sees its pictures through the stored keys and values.
 *
 *     npm run bench -- precision [--model DIR] [--data ../shared/data/nlvr] [--split dev] [--limit N] [--save]
 *
 * `--save` writes the result where `--precision auto` reads it (gpu-backend/engine/precision-accuracy.json), and beside the results
 * of the other benchmarks. The last line is JSON.
 */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Engine, type EngineEvent } from '../../gpu-backend/engine/engine.ts';
import { FeatureCache } from '../../gpu-backend/engine/feature-cache.ts';
import type { EngineRequest } from '../../gpu-backend/engine/live-request.ts';
import { ModelLoader } from '../../gpu-backend/engine/load-model.ts';
import { loadFront } from '../../gpu-backend/engine/model-front.ts';
import { storageFor, WEIGHT_FORMATS, type WeightFormat } from '../../gpu-backend/engine/precision.ts';
import type { AccuracyRecord, FormatAccuracy } from '../../gpu-backend/engine/precision-accuracy.ts';
import type { ForwardBatch, ForwardResult, ModelRunner } from '../../gpu-backend/engine/runner.ts';
import { capacityFor } from '../../gpu-backend/engine/scheduler/capacity.ts';
import { readNlvrBoxes, readNlvrExamples } from '../../gpu-backend/io/nlvr.ts';
import type { KvFormat } from '../../gpu-backend/models/decode.ts';
import type { Picture } from '../../gpu-backend/models/family.ts';
import { RUNTIME_VERSION } from '../../gpu-backend/runtime/session.ts';
import { layoutConversation } from '../../gpu-backend/text/layout.ts';
import { preprocessImage } from '../../gpu-backend/vision/preprocess.ts';

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: here('../../gpu-backend/models/nano') },
    data: { type: 'string', default: here('../../../shared/data/nlvr') },
    split: { type: 'string', default: 'dev' },
    limit: { type: 'string' },
    save: { type: 'boolean', default: false },
  },
});

const MAX_ANSWER_TOKENS = 8;
const CHUNK_TOKENS = 32;
const MAX_PROMPT_TOKENS = 1024;

/** Greedy tokens of one answer, and the logits that each was chosen by. */
interface Answer {
  readonly tokens: number[];
  readonly logits: Float32Array[];
}

/** A runner whose last logits can be looked at. */
class Watched implements ModelRunner {
  last: Float32Array = new Float32Array(0);

  constructor(private readonly runner: ModelRunner) {}

  get kv(): ModelRunner['kv'] {
    return this.runner.kv;
  }

  encode(pictures: readonly Picture[], adapter: string | null): Promise<Float32Array[]> {
    return this.runner.encode(pictures, adapter);
  }

  async forward(batch: ForwardBatch): Promise<ForwardResult> {
    const result = await this.runner.forward(batch);
    this.last = result.logits_RV.slice();
    return result;
  }

  dispose(): Promise<void> {
    return this.runner.dispose();
  }
}

async function readRequests(): Promise<EngineRequest[]> {
  const { tokenizer, template, imageTokenId, slots, stopIds, recipe } = await loadFront('model', flags.model);
  const [boxes, examples] = await Promise.all([
    readNlvrBoxes(flags.data, flags.split),
    readNlvrExamples(flags.data, flags.split),
  ]);
  const pictures = new Map<number, Picture>();
  const requests: EngineRequest[] = [];
  for (const [index, example] of examples.slice(0, Number(flags.limit ?? examples.length)).entries()) {
    const order = example.boxes[0] ?? [];
    for (const box of order) if (!pictures.has(box)) pictures.set(box, await preprocessImage(boxes.png(box), recipe));
    const parts = [
      ...order.map((_, image) => ({ type: 'image' as const, image })),
      { type: 'text' as const, text: example.statement.trim() },
    ];
    const layout = layoutConversation([{ role: 'user', parts }], {
      tokenizer,
      template,
      tokensPerImage: () => slots.fixed ?? [],
      imageTokenId,
      addGenerationPrompt: true,
    });
    requests.push({
      id: String(index),
      cacheScope: 'bench',
      adapter: null,
      priority: 'interactive',
      tokenIds: Int32Array.from(layout.ids),
      images: layout.images.map(({ tokenStart, tokenCount, image }) => {
        const box = order[image] ?? 0;
        return { start: tokenStart, tokens: tokenCount, key: String(box), picture: pictures.get(box) ?? null };
      }),
      maxNewTokens: MAX_ANSWER_TOKENS,
      readFrom: null,
      sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
      stopIds,
      topLogprobs: -1,
      deadlineAtMs: null,
    });
  }
  return requests;
}

/** One row at a time, so that the last logits are those of the token that is told. */
async function answers(requests: readonly EngineRequest[], weights: WeightFormat, kv: KvFormat): Promise<Answer[]> {
  const storage = storageFor(weights);
  const compile = { threads: 1, kv, ...(storage === undefined ? {} : { storage }) };
  const runner = new Watched((await new ModelLoader().load(flags.model, null, compile)).runner);
  const byId = new Map(requests.map(({ id }): [string, Answer] => [id, { tokens: [], logits: [] }]));
  const engine = new Engine({
    runner,
    capacity: {
      ...capacityFor({ maxRows: 1, kvTokens: MAX_PROMPT_TOKENS }),
      idleChunkTokens: CHUNK_TOKENS,
      busyChunkTokens: CHUNK_TOKENS,
    },
    cache: new FeatureCache(2 ** 28),
    prefixCacheBytes: 0,
    speculate: false,
    nowMs: () => 0,
    emit: (events: readonly EngineEvent[]) => {
      for (const event of events) {
        if (event.type === 'failed') throw new Error(event.message);
        if (event.type !== 'token') continue;
        byId.get(event.id)?.tokens.push(event.token.id);
        byId.get(event.id)?.logits.push(runner.last);
      }
    },
  });
  for (const request of requests) {
    engine.submit(request);
    while (engine.busy) await engine.step();
  }
  await runner.dispose();
  return [...byId.values()];
}

/** Kullback-Leibler divergence of softmax(b) from softmax(a), nats. */
function divergence(a: Float32Array, b: Float32Array): number {
  const logSumExp = (xs: Float32Array): number => {
    const max = xs.reduce((m, x) => Math.max(m, x), Number.NEGATIVE_INFINITY);
    return max + Math.log(xs.reduce((sum, x) => sum + Math.exp(x - max), 0));
  };
  const [la, lb] = [logSumExp(a), logSumExp(b)];
  return a.reduce((sum, x, i) => sum + Math.exp(x - la) * (x - la - ((b[i] ?? 0) - lb)), 0);
}

function compare(base: readonly Answer[], own: readonly Answer[]): Omit<FormatAccuracy, 'weights' | 'kv'> {
  let equal = 0;
  const divergences: number[] = [];
  for (const [i, answer] of base.entries()) {
    const other = own[i] ?? { tokens: [], logits: [] };
    if (answer.tokens.join() === other.tokens.join()) equal++;
    // Up to the first token that differs both have read the same.
    for (const [t, token] of answer.tokens.entries()) {
      const logits = other.logits[t];
      if (logits === undefined) break;
      divergences.push(divergence(answer.logits[t] ?? logits, logits));
      if (other.tokens[t] !== token) break;
    }
  }
  const mean = divergences.reduce((a, b) => a + b, 0) / divergences.length;
  return {
    agreement: equal / base.length,
    meanKl: Number(mean.toPrecision(3)),
    maxKl: Number(Math.max(...divergences).toPrecision(3)),
  };
}

if (!existsSync(join(flags.data, `${flags.split}.jsonl`))) {
  process.stdout.write(`skipped: there is no ${flags.split}.jsonl in ${flags.data}\n`);
} else {
  const requests = await readRequests();
  const base = await answers(requests, 'f32', 'f32');
  const rows: FormatAccuracy[] = [];
  for (const weights of WEIGHT_FORMATS)
    for (const kv of ['f32', 'int8'] as const) {
      if (weights === 'f32' && kv === 'f32') continue;
      const row = { weights, kv, ...compare(base, await answers(requests, weights, kv)) };
      rows.push(row);
      process.stdout.write(
        `${weights.padEnd(9)} kv ${kv.padEnd(4)}  equal answers ${(100 * row.agreement).toFixed(2)} %, KL mean ${row.meanKl} max ${row.maxKl} nats\n`,
      );
    }
  const record: AccuracyRecord = {
    bench: 'precision',
    model: 'mantis-nano',
    task: `NLVR ${flags.split}`,
    prompts: requests.length,
    runtimeVersion: RUNTIME_VERSION,
    rows,
  };
  if (flags.save)
    for (const path of ['../../gpu-backend/engine/precision-accuracy.json', 'results/precision.json'])
      writeFileSync(here(path), `${JSON.stringify(record, null, 2)}\n`);
  process.stdout.write(`${JSON.stringify(record)}\n`);
}
