/**
 * What following a schema costs a token: the sampler with a constraint against the same sampler without, on the same logits, beside
 * the time of a decoding step. For the shipped model, and for a made-up vocabulary of 49,152 tokens. "first": no other request has
 * had the schema before; "again": its places are known. "firstMedian" is over answers, which a busy machine disturbs less than the
 * mean. Beside it what drawing a token costs at 49,152 tokens without a constraint. The last line is JSON.
 *
 *     npm run bench -- mask-cost [--schemas 60] [--tokens 120]
 */
import { parseArgs } from 'node:util';
import { type Constraint, ConstraintCompiler } from '../../gpu-backend/engine/grammar/constraint.ts';
import { buildTokenTrie } from '../../gpu-backend/engine/grammar/token-trie.ts';
import type { Writer } from '../../gpu-backend/engine/grammar/vocabulary.ts';
import { uniform } from '../../gpu-backend/engine/random.ts';
import { RequestSampler } from '../../gpu-backend/engine/request-sampler.ts';
import { choose, type SamplingParams } from '../../gpu-backend/engine/sampler.ts';
import { loadTokenizer, type Tokenizer } from '../../gpu-backend/text/tokenizer.ts';
import { ask, NANO_DIR, serveNano } from '../cpu/engine/nano-service.ts';
import { randomSchema } from '../fixtures/random-schemas.ts';

const { values } = parseArgs({
  options: { schemas: { type: 'string', default: '60' }, tokens: { type: 'string', default: '120' } },
});
const schemas = Number(values.schemas);
const tokens = Number(values.tokens);

/** A vocabulary of the size of SmolLM2's: bytes, and words of common letters with and without a space, digits, pieces of JSON. */
function largeVocabulary(size: number): Writer {
  const written = new Map<string, Uint8Array>();
  const add = (bytes: Uint8Array) => written.set(bytes.join(), bytes);
  const utf8 = new TextEncoder();
  for (let byte = 0; byte < 256; byte++) add(Uint8Array.of(byte));
  for (const piece of [
    '{"',
    '":',
    '": ',
    '",',
    '", "',
    '"}',
    '"]',
    '],',
    '},',
    '}}',
    '[]',
    '{}',
    '":"',
    '":{',
    '\n  ',
    '\n    ',
  ])
    add(utf8.encode(piece));
  for (let n = 0; n < 1100; n++) add(utf8.encode(`${n}`));
  const letters = 'etaoinshrdlucmfwypvbgkjqxz';
  for (let n = 0; written.size < size; n++) {
    const length = 1 + Math.floor(9 * uniform(n, 0));
    let word = uniform(n, 1) < 0.55 ? ' ' : '';
    for (let i = 0; i < length; i++) word += letters[Math.floor(26 * uniform(n, 2 + i) * uniform(n, 32 + i))];
    if (uniform(n, 90) < 0.02) word += ['"', '",', '.', ':', "'s"][Math.floor(5 * uniform(n, 91))];
    add(utf8.encode(word));
  }
  const all = [...written.values()];
  const tokenizer: Pick<Tokenizer, 'vocabSize' | 'bytesOf' | 'stripsLeadingSpace'> = {
    vocabSize: size,
    bytesOf: (id) => all[id] ?? null,
    stripsLeadingSpace: false,
  };
  return { tokenizer: tokenizer as Tokenizer, stopIds: [size] };
}

interface Cost {
  /** Microseconds a token, means; and the median of answers. */
  first: number;
  firstMedian: number;
  again: number;
  without: number;
  /** Mean, milliseconds. */
  compile: number;
}

function measure(writer: Writer): Cost {
  const { vocabSize } = writer.tokenizer;
  const V = vocabSize + 1;
  const rows = Array.from({ length: 64 }, (_, row) =>
    Float32Array.from({ length: V }, (_, id) => 8 * uniform(row, id)),
  );
  const compiler = new ConstraintCompiler();
  // Once for the machine: code is warm in a server, which compiles schemas on another thread than it draws tokens.
  const others = Array.from({ length: 80 }, (_, n) => compiled(500 + n));
  for (let round = 0; round < 4; round++) for (const [n, other] of others.entries()) fill(other, n);
  const firsts: number[] = [];
  const sums = { first: 0, again: 0, without: 0, tokens: 0, compile: 0 };
  function compiled(seed: number): Constraint {
    return compiler.compile({ type: 'json_schema', schema: randomSchema(seed) }, writer, 'schema');
  }
  function fill(constraint: Constraint | null, seed: number): { ms: number; count: number } {
    // Greedy: what is left beside the constraint is the cheapest there is.
    const sampling = { temperature: 0, topP: 1, topK: 0, seed };
    const start = performance.now();
    const sampler = new RequestSampler({
      tokenIds: new Int32Array(1),
      maxNewTokens: 2 * tokens,
      stopIds: [vocabSize],
      topLogprobs: -1,
      sampling: constraint === null ? sampling : { ...sampling, constraint },
    });
    let count = 0;
    while (count < tokens && !sampler.finished) {
      const { id } = sampler.next(rows[count % rows.length]!);
      count++;
      if (constraint !== null && id === vocabSize) break;
    }
    return { ms: performance.now() - start, count };
  }
  const start = performance.now();
  const constraints = Array.from({ length: schemas }, (_, seed) => compiled(seed));
  sums.compile = performance.now() - start;
  for (const [seed, constraint] of constraints.entries()) {
    const first = fill(constraint, seed);
    const again = fill(constraint, seed);
    sums.first += first.ms;
    firsts.push((1000 * first.ms) / first.count);
    sums.again += again.ms;
    sums.tokens += first.count;
    sums.without += (fill(null, seed).ms * first.count) / tokens;
  }
  const us = (ms: number) => Math.round((10_000 * ms) / sums.tokens) / 10;
  return {
    first: us(sums.first),
    firstMedian: Math.round(10 * median(firsts)) / 10,
    again: us(sums.again),
    without: us(sums.without),
    compile: Math.round((100 * sums.compile) / schemas) / 100,
  };
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!;
}

/** Median microseconds of one draw from this many flat logits, the dearest there are. */
function drawUs(V: number, sampling: Omit<SamplingParams, 'seed'>): number {
  const row = Float32Array.from({ length: V }, (_, id) => 8 * uniform(1, id));
  const times: number[] = [];
  for (let counter = 0; counter < 400; counter++) {
    const start = performance.now();
    choose(row, { ...sampling, seed: 7 }, counter);
    times.push(1000 * (performance.now() - start));
  }
  return Math.round(median(times.slice(100)));
}

/** Mean milliseconds of a decoding step of the shipped model with this many rows. */
async function stepMs(rows: number): Promise<number> {
  const nano = await serveNano();
  const counters = async () => (await nano.service.stats()).models[0]!.counters;
  const run = () =>
    Promise.all(
      Array.from({ length: rows }, (_, i) =>
        nano.tell(ask(`What is ${i}?`, { temperature: 2, maxTokens: 150, seed: i })),
      ),
    );
  await run();
  const before = { ...(await counters()) };
  await run();
  const after = await counters();
  await nano.close();
  return (after.decodeMs - before.decodeMs) / (after.decodeRuns - before.decodeRuns);
}

const round = (value: number) => Math.round(1000 * value) / 1000;
const tokenizer = loadTokenizer(NANO_DIR);
const [one, eight] = [await stepMs(1), await stepMs(8)];
const nano = measure({ tokenizer, stopIds: [tokenizer.vocabSize] });
const large = largeVocabulary(49_152);
const start = performance.now();
buildTokenTrie(49_152, (id) => large.tokenizer.bytesOf(id));
const trieMs = performance.now() - start;
const wide = measure(large);
const share = ({ first, firstMedian, again, without }: Cost, rows: number, step: number) => ({
  firstMedian: round((rows * (firstMedian - without)) / 1000 / step),
  first: round((rows * (first - without)) / 1000 / step),
  again: round((rows * (again - without)) / 1000 / step),
});
console.log(
  JSON.stringify({
    bench: 'mask-cost',
    schemas,
    nano: {
      vocabulary: tokenizer.vocabSize,
      microsecondsPerToken: nano,
      stepMs: { rows1: round(one), rows8: round(eight) },
      shareOfStep: { rows1: share(nano, 1, one), rows8: share(nano, 8, eight) },
    },
    large: {
      vocabulary: 49_152,
      microsecondsPerToken: wide,
      trieMs: round(trieMs),
      microsecondsPerDraw: {
        greedy: drawUs(49_152, { temperature: 0, topP: 1, topK: 0 }),
        temperature1: drawUs(49_152, { temperature: 1, topP: 1, topK: 0 }),
        topK50: drawUs(49_152, { temperature: 1, topP: 1, topK: 50 }),
        topP90: drawUs(49_152, { temperature: 1, topP: 0.9, topK: 0 }),
      },
    },
  }),
);
