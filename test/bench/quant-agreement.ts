/**
 * How far int8 and int4 weights change a model's answers: NLVR prompts (three pictures and a statement), the greedy answer in f32,
 * and along it the greedy choice and the logits of the imported model. Every model runs in a process of its own. The last line
 * is JSON.
 *
 *     node --import tsx test/bench/quant-agreement.ts [--model DIR] [--data ../shared/data/nlvr] [--split dev]
 *         [--limit N] [--block 32] [--kinds f16,int8,int4,int4-all]
 *
 * `int4` is what `mantis import --precision int4` chooses: decoder int4, the rest int8; `int4-all` is int4 in every part.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { loadFront } from '../../gpu-backend/engine/model-front.ts';
import { readNlvrBoxes, readNlvrExamples } from '../../gpu-backend/io/nlvr.ts';
import type { VlmConfig } from '../../gpu-backend/models/config.ts';
import { decodeGraph } from '../../gpu-backend/models/decode.ts';
import { emptyPast } from '../../gpu-backend/models/empty-past.ts';
import { familyOf, type Picture } from '../../gpu-backend/models/family.ts';
import { importCheckpoint } from '../../gpu-backend/models/import.ts';
import { loadCheckpoint, readConfig } from '../../gpu-backend/models/load.ts';
import { GRAPH_NAMES, readManifest, WEIGHTS_NAME } from '../../gpu-backend/models/manifest.ts';
import { chooseStorage, PRECISIONS, type Storage } from '../../gpu-backend/models/storage.ts';
import { weightFeeds } from '../../gpu-backend/models/verify-case.ts';
import { floats } from '../../gpu-backend/models/verify-decode.ts';
import { causalBias, type ModelGraph, visionGraph } from '../../gpu-backend/models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../../gpu-backend/runtime/session.ts';
import { layoutConversation } from '../../gpu-backend/text/layout.ts';
import { preprocessImage } from '../../gpu-backend/vision/preprocess.ts';

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: fileURLToPath(new URL('../../gpu-backend/models/nano', import.meta.url)) },
    data: { type: 'string', default: fileURLToPath(new URL('../../../shared/data/nlvr', import.meta.url)) },
    split: { type: 'string', default: 'dev' },
    limit: { type: 'string' },
    block: { type: 'string', default: '32' },
    kinds: { type: 'string', default: 'f16,int8,int4,int4-all' },
    /** Used between the processes of one run. */
    child: { type: 'string' },
    answers: { type: 'string' },
  },
});

/** Share of equal greedy answers that the project promises. */
const BARS: Readonly<Record<string, number>> = { f16: 0.999, int8: 0.99, int4: 0.96, 'int4-all': 0.96 };
const MAX_ANSWER_TOKENS = 8;
const ROWS_PER_RUN = 8;

interface Prompt {
  readonly ids: readonly number[];
  readonly slots: readonly { readonly start: number; readonly box: number }[];
}

/** What one process says of its model: greedy answers, and the logits at each of their tokens. */
interface Answers {
  readonly answers: readonly (readonly number[])[];
  readonly logits: readonly (readonly (readonly number[])[])[];
  readonly peakRssBytes: number;
  readonly msPerPrompt: number;
}

/** The serving graphs over whole prompts without a cache: one masked position stands for the empty past. */
class Model {
  private constructor(
    private readonly config: VlmConfig,
    private readonly vision: { readonly session: Session; readonly weights: Record<string, Tensor> },
    private readonly decode: { readonly session: Session; readonly weights: Record<string, Tensor> },
  ) {}

  static async open(dir: string): Promise<Model> {
    const config = readConfig(dir);
    if (readManifest(dir) !== null) {
      const open = async (name: string) => ({
        session: await Session.open(join(dir, name), { foldConstants: true }),
        weights: {},
      });
      return new Model(config, await open(GRAPH_NAMES.vision), await open(GRAPH_NAMES.decode));
    }
    const { weights } = loadCheckpoint(dir);
    const create = async (model: ModelGraph) => ({
      session: await Session.create(model.graph),
      weights: weightFeeds(model.weights, weights),
    });
    return new Model(config, await create(visionGraph(config)), await create(decodeGraph(config, { images: true })));
  }

  async encode(picture: Picture): Promise<Float32Array> {
    const feeds = familyOf(this.config).pictureFeeds(this.config, [picture]);
    return floats(await this.vision.session.run({ ...this.vision.weights, ...feeds }), 'image_features');
  }

  /** Logits [vocab] at the last `counts[i]` positions of each sequence. */
  async logits(
    sequences: readonly Prompt[],
    counts: readonly number[],
    features: ReadonlyMap<number, Float32Array>,
  ): Promise<number[][][]> {
    const { hidden, vocab } = this.config.text;
    const [B, S] = [sequences.length, Math.max(...sequences.map(({ ids }) => ids.length))];
    const ids = new Int32Array(B * S);
    const [rows, imageRows]: [number[], number[]] = [[], []];
    const rowFeatures: Float32Array[] = [];
    for (const [b, sequence] of sequences.entries()) {
      ids.set(sequence.ids, b * S);
      const end = b * S + sequence.ids.length;
      for (let i = end - (counts[b] ?? 1); i < end; i++) rows.push(i);
      for (const { start, box } of sequence.slots) {
        const own = features.get(box) ?? new Float32Array(0);
        rowFeatures.push(own);
        for (let i = 0; i < own.length / hidden; i++) imageRows.push(b * S + start + i);
      }
    }
    const joined = new Float32Array(imageRows.length * hidden);
    let at = 0;
    for (const own of rowFeatures) {
      joined.set(own, at);
      at += own.length;
    }
    const feeds: Record<string, Tensor> = {
      ids: ints(ids, [B, S]),
      positions: ints(
        Int32Array.from({ length: B * S }, (_, i) => i % S),
        [B, S],
      ),
      causal_bias: f32(causalBias(S), [S, S]),
      ...emptyPast(this.config, B),
      rows: ints(rows, [rows.length]),
      image_features: f32(joined, [imageRows.length, hidden]),
      image_rows: ints(imageRows, [imageRows.length]),
    };
    const results = await this.decode.session.run({ ...this.decode.weights, ...feeds }, ['logits']);
    const all = floats(results, 'logits');
    let row = 0;
    return counts.map((count) => Array.from({ length: count }, () => [...all.subarray(row * vocab, ++row * vocab)]));
  }
}

const argmax = (xs: readonly number[]): number => xs.reduce((best, x, i) => (x > (xs[best] ?? 0) ? i : best), 0);

async function readPrompts(
  limit: number,
): Promise<{ prompts: Prompt[]; stopIds: readonly number[]; picture: (box: number) => Promise<Picture> }> {
  const front = await loadFront('model', flags.model);
  const [boxes, examples] = await Promise.all([
    readNlvrBoxes(flags.data, flags.split),
    readNlvrExamples(flags.data, flags.split),
  ]);
  const { tokenizer, template, imageTokenId, slots, stopIds, recipe } = front;
  const prompts = examples.slice(0, limit).map((example): Prompt => {
    const order = example.boxes[0] ?? [];
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
    return {
      ids: [...layout.ids],
      slots: layout.images.map(({ tokenStart, image }) => ({ start: tokenStart, box: order[image] ?? 0 })),
    };
  });
  return { prompts, stopIds, picture: (box) => preprocessImage(boxes.png(box), recipe) };
}

/** One model's process: its own greedy answers, or its choices along given ones. */
async function answer(dir: string, given: Answers['answers'] | undefined): Promise<Answers> {
  const { prompts, stopIds, picture } = await readPrompts(Number(flags.limit ?? Number.POSITIVE_INFINITY));
  const model = await Model.open(dir);
  const features = new Map<number, Float32Array>();
  const answers: number[][] = prompts.map(() => []);
  const logits: number[][][] = prompts.map(() => []);
  const startedAt = performance.now();
  // Similar lengths together, so that little is padding.
  const order = [...prompts.keys()].sort((a, b) => (prompts[a]?.ids.length ?? 0) - (prompts[b]?.ids.length ?? 0));
  for (let first = 0; first < order.length; first += ROWS_PER_RUN) {
    const some = order.slice(first, first + ROWS_PER_RUN);
    for (const index of some)
      for (const { box } of prompts[index]?.slots ?? [])
        if (!features.has(box)) features.set(box, await model.encode(await picture(box)));
    const sequence = (index: number, tail: readonly number[]): Prompt => {
      const { ids = [], slots = [] } = prompts[index] ?? {};
      return { ids: [...ids, ...tail], slots };
    };
    if (given !== undefined) {
      const tails = some.map((index) => (given[index] ?? []).slice(0, -1));
      const rows = await model.logits(
        some.map((index, i) => sequence(index, tails[i] ?? [])),
        tails.map((tail) => tail.length + 1),
        features,
      );
      for (const [i, index] of some.entries()) {
        logits[index] = rows[i] ?? [];
        answers[index] = (rows[i] ?? []).map(argmax);
      }
      continue;
    }
    let open = some;
    while (open.length > 0) {
      const rows = await model.logits(
        open.map((index) => sequence(index, answers[index] ?? [])),
        open.map(() => 1),
        features,
      );
      for (const [i, index] of open.entries()) {
        const row = rows[i]?.[0] ?? [];
        logits[index]?.push(row);
        answers[index]?.push(argmax(row));
      }
      open = open.filter((index) => {
        const own = answers[index] ?? [];
        return own.length < MAX_ANSWER_TOKENS && !stopIds.includes(own.at(-1) ?? -1);
      });
    }
  }
  const msPerPrompt = (performance.now() - startedAt) / prompts.length;
  return { answers, logits, peakRssBytes: process.resourceUsage().maxRSS * 1024, msPerPrompt };
}

async function runChild(dir: string, scratch: string, answersPath?: string): Promise<Answers> {
  const out = join(scratch, `${dir.split('/').at(-1)}.json`);
  const args = ['--import', 'tsx', import.meta.filename, '--child', dir, '--model', flags.model, '--data', flags.data];
  args.push('--split', flags.split, ...(flags.limit === undefined ? [] : ['--limit', flags.limit]));
  if (answersPath !== undefined) args.push('--answers', answersPath);
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const pieces: Buffer[] = [];
  child.stdout.on('data', (piece: Buffer) => pieces.push(piece));
  const code = await new Promise((resolve) => child.on('close', resolve));
  if (code !== 0) throw new Error(`the process of ${dir} ended with ${code}`);
  writeFileSync(out, Buffer.concat(pieces));
  return JSON.parse(readFileSync(out, 'utf8')) as Answers;
}

/** Kullback-Leibler divergence of softmax(b) from softmax(a), nats. */
function divergence(a: readonly number[], b: readonly number[]): number {
  const logSumExp = (xs: readonly number[]): number => {
    const max = xs.reduce((m, x) => Math.max(m, x), Number.NEGATIVE_INFINITY);
    return max + Math.log(xs.reduce((sum, x) => sum + Math.exp(x - max), 0));
  };
  const [la, lb] = [logSumExp(a), logSumExp(b)];
  return a.reduce((sum, x, i) => sum + Math.exp(x - la) * (x - la - ((b[i] ?? 0) - lb)), 0);
}

function storageOf(kind: string, blockSize: number): Storage {
  const precision = PRECISIONS.find((known) => known === kind.replace(/-all$/, ''));
  if (precision === undefined)
    throw new Error(`--kinds: expected ${PRECISIONS.join(', ')} or one with -all, got ${kind}`);
  const every = { vision: precision, projector: precision, decoder: precision, head: precision };
  return chooseStorage({ precision, blockSize, ...(kind.endsWith('-all') ? every : {}) });
}

async function main(): Promise<void> {
  if (flags.child !== undefined) {
    const given =
      flags.answers === undefined ? undefined : (JSON.parse(readFileSync(flags.answers, 'utf8')) as Answers['answers']);
    process.stdout.write(JSON.stringify(await answer(flags.child, given)));
    return;
  }
  if (!existsSync(join(flags.data, `${flags.split}.jsonl`))) {
    process.stdout.write(`skipped: there is no ${flags.split}.jsonl in ${flags.data}\n`);
    return;
  }
  const scratch = mkdtempSync(join(tmpdir(), 'mantis-quant-'));
  try {
    const base = await runChild(flags.model, scratch);
    const answersPath = join(scratch, 'answers.json');
    writeFileSync(answersPath, JSON.stringify(base.answers));
    const report = (kind: string, fileBytes: number, own: Answers, line: string): void => {
      process.stdout.write(
        `${kind.padEnd(8)} file ${(fileBytes / 1e6).toFixed(2)} MB, peak RSS ${(own.peakRssBytes / 1e6).toFixed(0)} MB, ${own.msPerPrompt.toFixed(1)} ms a prompt${line}\n`,
      );
    };
    report('f32', statSync(join(flags.model, WEIGHTS_NAME)).size, base, `, ${base.answers.length} prompts`);
    const rows = [];
    for (const kind of flags.kinds.split(',')) {
      const out = join(scratch, kind);
      const storage = storageOf(kind, Number(flags.block));
      await importCheckpoint({ from: flags.model, out, storage });
      const own = await runChild(out, scratch, answersPath);
      const equal = own.answers.filter((answer, i) => answer.join() === base.answers[i]?.join()).length;
      const kl = own.logits.flatMap((tokens, i) => tokens.map((row, t) => divergence(base.logits[i]?.[t] ?? [], row)));
      const share = equal / own.answers.length;
      const meanKl = kl.reduce((a, b) => a + b, 0) / kl.length;
      const maxKl = kl.reduce((a, b) => Math.max(a, b), 0);
      const fileBytes = statSync(join(out, WEIGHTS_NAME)).size;
      const bar = BARS[kind];
      const verdict = bar === undefined ? '' : ` (bar ${100 * bar} %: ${share >= bar ? 'met' : 'MISSED'})`;
      report(
        kind,
        fileBytes,
        own,
        `, equal answers ${(100 * share).toFixed(2)} %${verdict}, KL mean ${meanKl.toExponential(2)} max ${maxKl.toExponential(2)} nats`,
      );
      rows.push({
        kind,
        block: storage.blockSize,
        share,
        bar,
        meanKl,
        maxKl,
        fileBytes,
        peakRssBytes: own.peakRssBytes,
      });
    }
    process.stdout.write(`${JSON.stringify({ bench: 'quant-agreement', prompts: base.answers.length, rows })}\n`);
    if (rows.some(({ share, bar }) => bar !== undefined && share < bar)) process.exitCode = 1;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

await main();
