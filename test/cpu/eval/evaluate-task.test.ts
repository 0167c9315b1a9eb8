/** A run of an evaluation in a backend that is killed at random points: what the edge has is not asked again, and the report is that of a run in one go. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, describe, test } from 'node:test';
import pino from 'pino';
import type { ModelService } from '../../../gpu-backend/engine/service.ts';
import type { EdgeClient } from '../../../gpu-backend/server/edge-client.ts';
import { TaskFailure, TaskRunner, TurnOver } from '../../../gpu-backend/server/task-runner.ts';
import { layOut, Refusal } from '../../../gpu-backend/server/tasks/benchmark/layout.ts';
import { scoringTask } from '../../../gpu-backend/server/tasks/benchmark/task.ts';
import { evaluateHandler } from '../../../gpu-backend/server/tasks/evaluate.ts';
import type { GenerateRequest } from '../../../shared/contract/backend.ts';
import { ApiError } from '../../../shared/contract/errors.ts';
import type { BenchmarkRunSource } from '../../../shared/contract/evalBenchmarks.ts';
import { type EvalItemReport, EvalItemsRequest, type EvaluateTask } from '../../../shared/contract/evalTask.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';

const ITEMS = 60;
const PICTURE = `data:image/png;base64,${(await readFile(new URL('../../fixtures/pictures/yellow-circle.png', import.meta.url))).toString('base64')}`;
const folder = await mkdtemp(join(tmpdir(), 'mantis-evaluate-'));
after(() => rm(folder, { recursive: true, force: true }));

const lines = Array.from({ length: ITEMS }, (_, i) => ({
  item: { question: `question ${i}`, images: [PICTURE], answer: `${i % 3}` },
}));
const text = lines.map((line) => `${JSON.stringify(line)}\n`).join('');
const bytes = Buffer.from(text);
const spec: EvaluateTask = {
  kind: 'evaluate',
  baseModel: 'nano',
  bases: ['nano'],
  evalId: 'eval_1',
  evalName: 'killed',
  runName: '',
  model: 'assistant',
  source: {
    type: 'lines',
    lines: {
      file: { id: 'evalrun_1', bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') },
      schema: { type: 'object' },
      hasSample: false,
    },
    prompt: {
      type: 'template',
      template: [
        { role: 'user', content: [{ type: 'mantis.images', image_urls: '{{item.images}}' }, '{{item.question}}'] },
      ],
    },
    sampling: {},
  },
  criteria: [
    { type: 'string_check', name: 'c', input: '{{sample.output_text}}', reference: '{{item.answer}}', operation: 'eq' },
  ],
  models: { assistant: 'ft:nano' },
};

/** The edge, as far as the handler knows it: lines are taken once. */
class Edge {
  readonly items = new Map<number, EvalItemReport>();
  readonly staged: string[] = [];
  readonly reports: unknown[] = [];
  constructor(readonly content: string | Readonly<Record<string, string | Buffer>> = text) {}
  total: number | null = null;
  twice = 0;

  async get(path: string): Promise<unknown> {
    const after = /after=(-?\d+)/.exec(path)?.[1];
    const sorted = [...this.items.values()].sort((a, b) => a.line - b.line);
    if (after === undefined) return { done: sorted.map(({ line }) => [line, line]) };
    return JSON.parse(JSON.stringify({ items: sorted.filter(({ line }) => line > Number(after)).slice(0, 7) }));
  }
  async post(path: string, body: unknown): Promise<null> {
    if (path.endsWith('/report')) {
      this.reports.push(body);
      return null;
    }
    const { items, total } = EvalItemsRequest.parse(JSON.parse(JSON.stringify(body)));
    this.total = total ?? this.total;
    for (const one of items) {
      if (this.items.has(one.line)) this.twice++;
      else this.items.set(one.line, one);
    }
    return null;
  }
  async download(path: string, file: string): Promise<void> {
    await mkdir(dirname(file), { recursive: true });
    const id = /files\/([^/]+)\//.exec(path)?.[1] ?? '';
    await writeFile(file, typeof this.content === 'string' ? this.content : (this.content[id] ?? ''));
  }
  async putFile(_: string, file: string): Promise<unknown> {
    const kept = join(folder, `staged-${this.staged.length}-${Math.random()}`);
    await copyFile(file, kept);
    this.staged.push(await readFile(kept, 'utf8'));
    return { key: `k${this.staged.length}`, bytes: 1, sha256: 'x' };
  }
}

/** Answers by the question alone; sometimes it is full. @param onAsk called for each question that reaches it */
function modelService(onAsk: (request: GenerateRequest) => void): ModelService {
  let calls = 0;
  const generate: ModelService['generate'] = async function* (request, blobs, signal) {
    if (++calls % 11 === 0) throw new ApiError('overloaded', 'full', { retryAfterMs: 1 });
    onAsk(request);
    await new Promise((resolve) => setTimeout(resolve, 1));
    signal.throwIfAborted();
    assert.ok(blobs.length <= 1);
    const question = request.messages[0]?.parts.find((part) => part.type === 'text');
    const number = Number(/\d+/.exec(question?.type === 'text' ? question.text : '')?.[0]);
    yield { type: 'started', promptTokens: 3, imageTokens: [1] };
    yield { type: 'delta', index: 0, text: `${number % 4}` };
    yield {
      type: 'finished',
      index: 0,
      finishReason: 'stop',
      usage: { promptTokens: 3, completionTokens: 1, imageTokens: 1, cachedTokens: 0 },
    };
  };
  return { generate } as unknown as ModelService;
}

type Change = {
  readonly spec?: EvaluateTask;
  readonly handler?: ReturnType<typeof evaluateHandler>;
  readonly turn?: AbortSignal;
  readonly wasCancelled?: boolean;
  readonly reportOnly?: 'cancelled' | 'failed';
};

async function attempt(edge: Edge, killAfter: number | null, asked: string[], change: Change = {}): Promise<unknown> {
  const stop = new AbortController();
  let left = killAfter ?? Number.POSITIVE_INFINITY;
  const service = modelService((request) => {
    assert.equal(request.model, 'ft:nano');
    assert.equal(request.priority, 'batch');
    asked.push(request.requestId);
    if (--left === 0) stop.abort(new Error('killed'));
  });
  const workDir = await mkdtemp(join(folder, 'work-'));
  return await (change.handler ?? evaluateHandler(service))(
    {
      id: 'evalrun_1',
      tenant: 'a'.repeat(32),
      spec: change.spec ?? spec,
      leaseToken: 1,
      ...(change.reportOnly === undefined ? {} : { reportOnly: change.reportOnly }),
    },
    {
      edge: edge as unknown as EdgeClient,
      workDir,
      threads: 1,
      log: pino({ level: 'silent' }),
      signal: stop.signal,
      turn: change.turn ?? new AbortController().signal,
      wasCancelled: async () => change.wasCancelled === true,
      baseDirOf: () => null,
      backendId: 'b',
    },
  );
}

test('killed at random points, it goes on to the identical report', async () => {
  const whole = new Edge();
  const asked: string[] = [];
  await attempt(whole, null, asked);
  assert.equal(whole.total, ITEMS);
  assert.equal(new Set(asked).size, ITEMS);
  const broken = new Edge();
  const askedAgain: string[] = [];
  for (let kills = 0; kills < 3; kills++) {
    const before = new Set(broken.items.keys());
    const now: string[] = [];
    await assert.rejects(attempt(broken, 20 + 2 * kills, now), /killed|aborted/);
    for (const id of now) assert.ok(!before.has(Number(id.split('-')[1])), `${id} was at the edge and is asked again`);
    askedAgain.push(...now);
  }
  assert.ok(broken.items.size > 0, 'some of what was judged before a kill is at the edge');
  await attempt(broken, null, askedAgain);
  assert.equal(broken.twice, 0);
  assert.ok(askedAgain.length < ITEMS + 3 * 16 + 1, 'what was under way at a kill is asked again, and nothing else');
  assert.deepEqual(JSON.parse(broken.staged[0] ?? ''), JSON.parse(whole.staged[0] ?? ''));
  assert.equal(broken.staged[0], whole.staged[0], 'the report, byte for byte');
  assert.match(broken.staged[1] ?? '', /^<!doctype html>/i);
  const report = JSON.parse(whole.staged[0] ?? '') as { headline: { mean: number }; counts: { items: number } };
  // Of 12 numbers in a row, those below 3 have equal remainders.
  assert.equal(report.counts.items, ITEMS);
  assert.equal(report.headline.mean, lines.filter((_, i) => i % 3 === i % 4).length / ITEMS);
});

test('gives its place to others with what it has, and goes on from there', async () => {
  const edge = new Edge();
  const turn = new AbortController();
  const asked: string[] = [];
  const count = asked.push.bind(asked);
  asked.push = (id) => {
    if (asked.length === 10) turn.abort();
    return count(id);
  };
  await assert.rejects(attempt(edge, null, asked, { turn: turn.signal }), TurnOver);
  assert.ok(edge.items.size >= 10 && edge.items.size < ITEMS, `${edge.items.size}`);
  assert.equal(edge.items.size, new Set(asked).size, 'what was under way is brought to its end');
  assert.equal(edge.staged.length, 0);
  const rest: string[] = [];
  await attempt(edge, null, rest);
  assert.deepEqual([edge.items.size, rest.length, edge.staged.length], [ITEMS, ITEMS - new Set(asked).size, 2]);
});

test('canceled, it has a report of what was judged; without a verdict at all, it has failed', async () => {
  const edge = new Edge();
  await attempt(edge, 30, []).catch(() => {});
  const judged = edge.items.size;
  assert.ok(judged > 0);
  await assert.rejects(attempt(edge, 5, [], { wasCancelled: true }), /killed|aborted/);
  assert.equal(edge.reports.length, 1);
  const report = JSON.parse(edge.staged[0] ?? '') as { title: string; counts: { items: number } };
  assert.match(report.title, /^killed \(canceled\)$/);
  assert.ok(report.counts.items >= judged && report.counts.items < ITEMS);
  // Where whoever worked on it could not: another one writes it, and asks nothing.
  const asked: string[] = [];
  const known = edge.items.size;
  assert.equal(await attempt(edge, null, asked, { reportOnly: 'failed' }), null);
  assert.deepEqual([asked.length, edge.items.size, edge.reports.length], [0, known, 2]);
  const owed = JSON.parse(edge.staged[2] ?? '') as typeof report;
  assert.deepEqual([owed.title, owed.counts.items], ['killed (failed)', known]);

  const without = new Edge(
    `${JSON.stringify({ item: { question: 'question 1', images: ['data:image/png;base64,x'] } })}\n`.repeat(2),
  );
  const reference = '{{item.question}}';
  const criteria = spec.criteria.map((criterion) => ({ ...criterion, reference }) as typeof criterion);
  await assert.rejects(attempt(without, null, [], { spec: { ...spec, criteria } }), (error: unknown) => {
    assert.ok(error instanceof TaskFailure && error.code === 'eval_no_answers', String(error));
    assert.match(
      error.message,
      /^None of the 2 questions has a verdict\. The first: picture 1 of the question: expected data:image/,
    );
    assert.ok(error.result !== null, 'with its report');
    return true;
  });
});

test('what is wrong with lines is told before anything is asked: several of them, and what none of them has', async () => {
  const told = async (content: string, change: Partial<EvaluateTask> = {}): Promise<string> => {
    const asked: string[] = [];
    const failure = await attempt(new Edge(content), null, asked, { spec: { ...spec, ...change } }).catch(
      (error: unknown) => error,
    );
    assert.ok(failure instanceof TaskFailure, `${failure}`);
    assert.deepEqual(asked, []);
    return `${failure.param} | ${failure.message}`;
  };
  const good = JSON.stringify(lines[0]);
  assert.equal(
    await told([good, '{"item": 3}', good, '[1', ...Array(12).fill('{}')].join('\n')).then((text) =>
      text.replace(/Line (?:[6-9]|1\d): .*?\.(?= )/g, '·').replace(/JSON \(.*?\)/, 'JSON (…)'),
    ),
    'data_source | Line 2: item: expected an object, received 3. Line 4: expected one JSON object, received text that is not JSON (…). Line 5: item: expected an object, received nothing. · · · · · · · 4 more lines are wrong.',
  );
  const [criterion] = spec.criteria;
  const misspelt = { ...criterion, reference: '{{item.anwser}}' } as NonNullable<typeof criterion>;
  assert.equal(
    await told(`${good}\n${good}\n`, { criteria: [misspelt] }),
    'testing_criteria[0].reference | testing_criteria[0].reference: {{item.anwser}}: none of the 2 lines has an `item` with such a field.',
  );
  assert.match(await told(`[${good}]`), /The data: expected JSON Lines, .* received a JSON array\.$/);
  assert.match(await told('PAR1xxxxPAR1'), /received Parquet\.$/);
  assert.match(await told('\u0000'), /Line 1: expected one JSON object/);
  const key = {
    type: 'mantis.benchmark' as const,
    name: 'm',
    benchmark: 'mmmu' as const,
    input: '{{sample.output_text}}',
    options: '{{item.options}}',
    answers: '{{item.answer}}',
  };
  const choice = (answer: string) =>
    JSON.stringify({ item: { ...lines[0]?.item, options: ['true', 'false'], answer } });
  assert.match(
    await told(`${choice('A')}\n${choice('true')}\n`, { criteria: [key] }),
    /^data_source \| Line 2: testing_criteria\[0\]\.answers: expected answers that mmmu scores as right \(letters .*received \["true"\], which it gives 0 themselves\.$/,
  );
});

describe('a benchmark', () => {
  const png = Buffer.from(PICTURE.slice(PICTURE.indexOf(',') + 1), 'base64');
  const row = (id: string, picture: string) => ({
    id,
    images: [picture, picture],
    question_type: 'multi-choice',
    question: 'Which? question 1',
    options: ['(A) Image 1', '(B) Image 2'],
    answer: 'A',
    data_source: 'own',
    category: 'shapes',
  });
  const asking = (
    files: Record<string, string>,
    options: Partial<BenchmarkRunSource>,
    benchmark = 'mantis-eval',
  ): EvaluateTask => ({
    ...spec,
    criteria: [],
    source: {
      type: 'benchmark',
      benchmark,
      files: Object.entries(files).map(([id, filename]) => ({ id, filename, bytes: 1, sha256: 'x' })),
      options: { type: 'mantis.benchmark', model: 'assistant', ...options },
    },
  });

  test('is read from folders by a process of its own; a broken picture is its question\u2019s fault alone', async () => {
    const edge = new Edge({
      f1: JSON.stringify([row('q1', 'a.png')]),
      f2: JSON.stringify([row('q2', PICTURE), row('q3', 'broken.png')]),
      f3: png,
      f4: Buffer.from(png).fill(0, 60, png.length - 20),
    });
    const files = { f1: 'Art/test.json', f2: 'Math/test.json', f3: 'a.png', f4: 'broken.png' };
    await attempt(edge, null, [], {
      spec: asking(files, { controls: ['blank'], rotate_options: true, split: 'test', mode: 'merge' }),
    });
    const all = [...edge.items.values()].sort((a, b) => a.line - b.line);
    assert.deepEqual(
      all.map(({ datasourceItem: item, status, isCounted = true }) => [
        item.record,
        item.control,
        status === 'error',
        isCounted,
      ]),
      ['q1', 'q2', 'q3'].flatMap((id) => [
        [id, 'none', id === 'q3', true],
        [id, 'none', id === 'q3', false],
        [id, 'blank', id === 'q3', false],
      ]),
    );
    assert.equal(edge.total, 3);
    const [usage] = all[0]?.usage ?? [];
    assert.deepEqual(
      usage?.images?.map(({ width, height }) => [width, height]),
      [[210, 100]],
      'two of 100 x 100 as one, with a divider',
    );
    const { spec: done } = JSON.parse(edge.staged[0] ?? '') as { spec: { protocol: { split: string } } };
    assert.equal(done.protocol.split, 'test');
  });

  test('refuses what it cannot be asked before it asks anything, and names the field', async () => {
    const told = async (
      files: Record<string, string>,
      content: Record<string, string>,
      options: Partial<BenchmarkRunSource>,
      benchmark?: string,
    ) => {
      const into = await mkdtemp(join(folder, 'laid-'));
      for (const [id, path] of Object.entries(files)) {
        await mkdir(dirname(join(into, 'files', path)), { recursive: true });
        await writeFile(join(into, 'files', path), content[id] ?? '');
      }
      const task = scoringTask(benchmark ?? 'mantis-eval', options);
      const failure = await layOut(
        task,
        { type: 'mantis.benchmark', model: 'm', ...options },
        join(into, 'files'),
        join(into, 'laid'),
      ).catch((error: unknown) => error);
      assert.ok(failure instanceof Refusal, String(failure));
      return `${failure.param}: ${failure.message}`;
    };
    const one = { f1: JSON.stringify([row('q1', PICTURE)]) };
    assert.match(await told({ f1: 'test.json' }, one, { controls: ['shuffled'] }), /^data_source\.controls: /);
    const hidden = { f1: JSON.stringify([row('q1', PICTURE), { ...row('q2', PICTURE), images: 3 }]) };
    assert.match(
      await told({ f1: 'a/test.json' }, hidden, {}),
      /^data_source\.file_ids: a\/test\.json, row 2, column `images`: /,
    );
    assert.doesNotMatch(await told({ f1: 'test.json' }, { f1: '[]' }, {}), /\/laid-|\/tmp/);
  });

  test('makes the questions of `skills` itself', async () => {
    const edge = new Edge({});
    const run = asking(
      {},
      { skills: { per_skill: 2, images: 2 }, sample: { records: 4 }, answer_by: 'generation' },
      'skills',
    );
    const service = {
      async *generate() {
        yield {
          type: 'finished',
          index: 0,
          finishReason: 'stop',
          usage: { promptTokens: 1, completionTokens: 0, imageTokens: 0, cachedTokens: 0 },
        };
      },
    } as unknown as ModelService;
    const seen: string[] = [];
    await attempt(edge, null, [], { spec: run, handler: evaluateHandler(service, (status) => seen.push(status)) });
    assert.deepEqual([edge.total, seen.length], [4, 4]);
    assert.deepEqual(
      [...edge.items.values()].sort((a, b) => a.line - b.line).map(({ datasourceItem: { category } }) => category),
      ['coreference', 'comparison', 'reasoning', 'temporal'],
    );
  });
});

test('a backend works on a few runs side by side, and where others wait one gives its place', async (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] });
  const waiting = ['run1', 'run2', 'run3'];
  const begun: string[] = [];
  const ends: Record<string, { status: string }[]> = {};
  const turns = new Map<string, AbortSignal>();
  let wantsPlaces = false;
  const edge = {
    async post(path: string, body: { status: string }): Promise<unknown> {
      const [, , , id = '', what] = path.split('/');
      if (id === 'claim') {
        const next = waiting.shift();
        return next === undefined
          ? null
          : { id: next, tenant: 't', spec, lease: { token: 1, expiresAt: Date.now() + 60_000 } };
      }
      if (what === 'heartbeat') return { cancel: false, othersWait: wantsPlaces, expiresAt: Date.now() + 60_000 };
      ends[id] = [...(ends[id] ?? []), { status: body.status }];
      return {};
    },
  };
  const runner = new TaskRunner({
    edge: edge as unknown as EdgeClient,
    backendId: 'b',
    log: pino({ level: 'silent' }),
    dataDir: await mkdtemp(join(folder, 'runner-')),
    threads: 1,
    baseDirOf: () => null,
    atOnce: 2,
    observe: () => {},
    handlers: {
      evaluate: async ({ id }, { turn, signal }) => {
        begun.push(id);
        turns.set(id, turn);
        await new Promise((resolve) => {
          turn.addEventListener('abort', resolve);
          signal.addEventListener('abort', resolve);
        });
        throw turn.aborted ? new TurnOver() : signal.reason;
      },
    },
  });
  const settled = async (isSo: () => boolean) => {
    for (let i = 0; i < 4_000 && !isSo(); i++) await new Promise((resolve) => setTimeout(resolve, 5));
    assert.ok(isSo(), JSON.stringify({ begun, ends }));
  };
  runner.start();
  await settled(() => begun.length === 2);
  t.mock.timers.tick(LIMITS.jobs.heartbeatEveryMs);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual([begun.toSorted(), ends], [['run1', 'run2'], {}], 'nobody waits: both go on');
  wantsPlaces = true;
  t.mock.timers.tick(LIMITS.jobs.heartbeatEveryMs);
  await settled(() => begun.length === 3);
  wantsPlaces = false;
  assert.deepEqual(Object.entries(ends), [['run1', [{ status: 'paused' }]]], 'one gives its place at a time');
  assert.deepEqual([...turns].map(([id, { aborted }]) => [id, aborted]).sort(), [
    ['run1', true],
    ['run2', false],
    ['run3', false],
  ]);
  await runner.drain();
  assert.deepEqual([ends.run2, ends.run3], [[{ status: 'released' }], [{ status: 'released' }]]);
});
