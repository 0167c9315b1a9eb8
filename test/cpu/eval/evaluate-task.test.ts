/** A run of an evaluation in a backend that is killed at random points: what the edge has is not asked again, and the report is that of a run in one go. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import pino from 'pino';
import type { ModelService } from '../../../gpu-backend/engine/service.ts';
import type { EdgeClient } from '../../../gpu-backend/server/edge-client.ts';
import { evaluateHandler } from '../../../gpu-backend/server/tasks/evaluate.ts';
import type { GenerateRequest } from '../../../shared/contract/backend.ts';
import { ApiError } from '../../../shared/contract/errors.ts';
import { type EvalItemReport, EvalItemsRequest, type EvaluateTask } from '../../../shared/contract/evalTask.ts';

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
  total: number | null = null;
  twice = 0;

  async get(path: string): Promise<unknown> {
    const after = /after=(-?\d+)/.exec(path)?.[1];
    const sorted = [...this.items.values()].sort((a, b) => a.line - b.line);
    if (after === undefined) return { done: sorted.map(({ line }) => [line, line]) };
    return JSON.parse(JSON.stringify({ items: sorted.filter(({ line }) => line > Number(after)).slice(0, 7) }));
  }
  async post(_: string, body: unknown): Promise<null> {
    const { items, total } = EvalItemsRequest.parse(JSON.parse(JSON.stringify(body)));
    this.total = total ?? this.total;
    for (const one of items) {
      if (this.items.has(one.line)) this.twice++;
      else this.items.set(one.line, one);
    }
    return null;
  }
  async download(_: string, file: string): Promise<void> {
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, text);
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
    assert.equal(blobs.length, 1);
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

async function attempt(edge: Edge, killAfter: number | null, asked: string[]): Promise<unknown> {
  const stop = new AbortController();
  let left = killAfter ?? Number.POSITIVE_INFINITY;
  const service = modelService((request) => {
    assert.equal(request.model, 'ft:nano');
    assert.equal(request.priority, 'batch');
    asked.push(request.requestId);
    if (--left === 0) stop.abort(new Error('killed'));
  });
  const workDir = await mkdtemp(join(folder, 'work-'));
  return await evaluateHandler(service)(
    { id: 'evalrun_1', tenant: 'a'.repeat(32), spec, leaseToken: 1 },
    {
      edge: edge as unknown as EdgeClient,
      workDir,
      threads: 1,
      log: pino({ level: 'silent' }),
      signal: stop.signal,
      turn: new AbortController().signal,
      wasCancelled: () => false,
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
